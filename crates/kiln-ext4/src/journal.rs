//! The journal: its size, and the one block of it that is written.
//!
//! The rest stays a hole, which reads as zeros: an empty log. The fields are big-endian.
//!
//! Not here: the inode that maps it.

use crate::bytes::{BLOCK_BYTES, Block, put_u32_big_endian};

const MAGIC: u32 = 0xc03b_3998;

/// A superblock of version 2 (`JBD2_SUPERBLOCK_V2`).
const BLOCK_TYPE: u32 = 4;

const MIB_BLOCKS: u64 = 256;

/// Blocks of the journal of an image: mke2fs's steps, but never more than 64 MiB, beyond which
/// a larger log only makes recovery longer.
pub(crate) const fn blocks(image_blocks: u64) -> u64 {
    match image_blocks / MIB_BLOCKS {
        0..8 => 0,
        8..128 => 4 * MIB_BLOCKS,
        128..1024 => 16 * MIB_BLOCKS,
        1024..2048 => 32 * MIB_BLOCKS,
        _ => 64 * MIB_BLOCKS,
    }
}

/// Block 0 of a clean, empty journal of `blocks` blocks.
pub(crate) fn superblock(blocks: u64, uuid: &[u8; 16]) -> Box<Block> {
    let mut block = Box::new([0; BLOCK_BYTES]);
    let length = u32::try_from(blocks).unwrap_or(u32::MAX);
    // Block size, length, first block of the log, first transaction, and one user.
    let fields = [
        (0x00, MAGIC),
        (0x04, BLOCK_TYPE),
        (0x0c, 4096),
        (0x10, length),
        (0x14, 1),
        (0x18, 1),
        (0x40, 1),
    ];
    for (offset, value) in fields {
        put_u32_big_endian(&mut block[..], offset, value);
    }
    block[0x30..0x40].copy_from_slice(uuid);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_mke2fs_up_to_64_mib() {
        let cases = [
            (7, 0),
            (8, 4),
            (127, 4),
            (128, 16),
            (1023, 16),
            (1024, 32),
            (2047, 32),
            (2048, 64),
            (1 << 20, 64),
        ];
        for (image, journal) in cases {
            assert_eq!(blocks(image * 256), journal * 256, "{image} MiB");
        }
    }

    #[test]
    fn the_superblock_is_the_one_mke2fs_writes() {
        let block = superblock(16_384, &[0x11; 16]);

        let mut want = [0; BLOCK_BYTES];
        want[..8].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 4]);
        want[0x0c..0x1c].copy_from_slice(&[0, 0, 0x10, 0, 0, 0, 0x40, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
        want[0x30..0x40].copy_from_slice(&[0x11; 16]);
        want[0x43] = 1;
        assert_eq!(*block, want);
    }
}
