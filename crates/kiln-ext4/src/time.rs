//! Times as inodes store them: 32 bits of seconds, then two more bits and the nanoseconds.
//!
//! ```text
//! seconds  u32   the low 32 bits of the seconds, taken as they are
//! extra    u32   nanoseconds << 2 | epoch, epoch = (seconds - (seconds as i32)) >> 32 & 3
//! ```
//!
//! Not here: which of an inode's four times is which; all four are the same in an image.

use crate::bytes::low32;

/// First second an inode can hold, in 1901.
const EARLIEST: i64 = -(1 << 31);

/// Last second an inode can hold, in 2446.
const LATEST: i64 = (1 << 34) - 1 - (1 << 31);

/// Both words of one inode time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskTime {
    pub(crate) seconds: u32,
    pub(crate) extra: u32,
}

impl DiskTime {
    /// Encodes a time; `seconds` is floored, so `nanoseconds` always counts forward.
    ///
    /// What lies outside 1901 to 2446 becomes the nearest whole second inside, as the kernel's
    /// `timestamp_truncate` does.
    pub(crate) fn new(seconds: i64, nanoseconds: u32) -> Self {
        let clamped = seconds.clamp(EARLIEST, LATEST);
        let nanoseconds = if clamped == seconds { nanoseconds } else { 0 };
        let low = low32(clamped.cast_unsigned());
        let epoch = (clamped - i64::from(low.cast_signed())) >> 32;
        Self {
            seconds: low,
            extra: (nanoseconds << 2) | low32(epoch.cast_unsigned() & 3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_encode_as_the_kernel_documents() {
        // The table of `Documentation/filesystems/ext4/inodes.rst`, section "Inode Timestamps".
        let cases: &[(i64, u32, u32, u32)] = &[
            (0, 0, 0, 0),
            (-1, 0, 0xffff_ffff, 0),
            (-1, 750_000_000, 0xffff_ffff, 750_000_000 << 2),
            (-0x8000_0000, 0, 0x8000_0000, 0),
            (0x7fff_ffff, 1, 0x7fff_ffff, 1 << 2),
            (0x8000_0000, 0, 0x8000_0000, 1),
            (0xffff_ffff, 0, 0xffff_ffff, 1),
            (0x1_0000_0000, 5, 0, (5 << 2) | 1),
            (0x1_7fff_ffff, 0, 0x7fff_ffff, 1),
            (0x1_8000_0000, 0, 0x8000_0000, 2),
            (0x2_7fff_ffff, 0, 0x7fff_ffff, 2),
            (0x2_8000_0000, 0, 0x8000_0000, 3),
            (
                0x3_7fff_ffff,
                999_999_999,
                0x7fff_ffff,
                (999_999_999 << 2) | 3,
            ),
            (0x3_8000_0000, 999_999_999, 0x7fff_ffff, 3),
            (i64::MAX, 1, 0x7fff_ffff, 3),
            (-0x8000_0001, 3, 0x8000_0000, 0),
            (i64::MIN, 1, 0x8000_0000, 0),
        ];
        for (time, nanoseconds, seconds, extra) in cases {
            let got = DiskTime::new(*time, *nanoseconds);
            let want = DiskTime {
                seconds: *seconds,
                extra: *extra,
            };
            assert_eq!(got, want, "{time} s + {nanoseconds} ns");
        }
    }
}
