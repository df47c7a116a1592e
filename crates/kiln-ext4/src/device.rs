//! Device numbers as they lie in `i_block`: the old 8 + 8 bits in word 0, or the new 12 + 20
//! bits in word 1.
//!
//! Not here: what kind of device it is; that is in the mode.

use crate::bytes::put_u32;

/// Largest major number Linux knows (`MINORBITS` leaves twelve bits).
const MAJOR_MAX: u32 = 0xfff;

/// Largest minor number Linux knows.
const MINOR_MAX: u32 = 0xf_ffff;

/// The content of `i_block` for a device, or nothing when Linux has no such number.
pub(crate) fn encode(major: u32, minor: u32) -> Option<[u8; 60]> {
    if major > MAJOR_MAX || minor > MINOR_MAX {
        return None;
    }
    let mut block = [0; 60];
    if major < 256 && minor < 256 {
        put_u32(&mut block, 0, (major << 8) | minor);
    } else {
        let number = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
        put_u32(&mut block, 4, number);
    }
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::get_u32;

    #[test]
    fn numbers_encode_as_new_encode_dev_does() {
        // Major and minor number; the first two words of `i_block`.
        let cases = [
            (1, 3, Some((0x103, 0))),
            (255, 255, Some((0xffff, 0))),
            (256, 0, Some((0, 0x1_0000))),
            (8, 256, Some((0, 0x10_0800))),
            (0xfff, 0xf_ffff, Some((0, 0xffff_ffff))),
            (0x1000, 0, None),
            (0, 0x10_0000, None),
        ];
        for (major, minor, want) in cases {
            let got = encode(major, minor).map(|block| (get_u32(&block, 0), get_u32(&block, 4)));
            assert_eq!(got, want, "{major}:{minor}");
        }
    }
}
