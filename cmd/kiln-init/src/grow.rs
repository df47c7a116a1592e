//! Grows a mounted ext4 root to the size of its device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use kiln_boot::{Boot, RootMount};

use crate::console;
use crate::device;
use crate::kernel_calls;

/// Where the superblock starts, in bytes, and how much of it is looked at.
const SUPERBLOCK_START: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;

/// Incompatible feature "64bit": block counts have a second half.
const FEATURE_64BIT: u32 = 0x80;

/// What a superblock tells about the size of its filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    blocks: u64,
    block_bytes: u64,
}

/// Grows the root filesystem where it is ext4, read-write and smaller than its device.
pub(crate) fn root(boot: &Boot) {
    if boot.root.mount != RootMount::Rw || boot.root.filesystem != "ext4" {
        return;
    }
    match grow(&boot.root.device) {
        Ok(None) => {}
        Ok(Some((from, to))) => {
            console::say(format_args!(
                "the root filesystem grew from {from} to {to} bytes"
            ));
        }
        Err(error) => console::say(format_args!("cannot grow the root filesystem: {error}")),
    }
}

/// Returns the sizes before and after, in bytes, where there was room.
fn grow(device: &str) -> io::Result<Option<(u64, u64)>> {
    let mut superblock = [0; SUPERBLOCK_BYTES];
    File::open(device)?.read_exact_at(&mut superblock, SUPERBLOCK_START)?;
    let Some(extent) = extent(&superblock) else {
        return Err(io::Error::other("its superblock cannot be read"));
    };
    let Some(blocks) = device::size_bytes(device).map(|bytes| bytes / extent.block_bytes) else {
        return Err(io::Error::other("the size of its device is not known"));
    };
    if blocks <= extent.blocks {
        return Ok(None);
    }
    kernel_calls::resize_ext4(&File::open("/")?, blocks)?;
    let before = extent.blocks.saturating_mul(extent.block_bytes);
    Ok(Some((before, blocks.saturating_mul(extent.block_bytes))))
}

/// Reads a superblock. Source: the kernel's `Documentation/filesystems/ext4/super.rst`.
fn extent(superblock: &[u8]) -> Option<Extent> {
    let word = |at: usize| {
        let bytes = superblock.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let magic = superblock.get(0x38..0x3a)?;
    let log_block_bytes = word(0x18).filter(|log| *log <= 6)?;
    if magic != [0x53, 0xef] {
        return None;
    }
    let high = if word(0x60)? & FEATURE_64BIT == 0 {
        0
    } else {
        word(0x150)?
    };
    Some(Extent {
        blocks: u64::from(high) << 32 | u64::from(word(0x4)?),
        block_bytes: 1024 << log_block_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(fields: &[(usize, u32)]) -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        for (at, value) in fields {
            bytes[*at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn the_size_of_a_filesystem_is_read_from_its_superblock() {
        let magic = (0x38, 0xef53);
        let wide = (0x60, FEATURE_64BIT);
        let cases = [
            (
                vec![magic, (0x4, 262_144), (0x18, 2)],
                Some((262_144, 4096)),
            ),
            (vec![magic, (0x4, 5), (0x18, 0)], Some((5, 1024))),
            (
                vec![magic, (0x4, 5), (0x18, 2), (0x150, 1)],
                Some((5, 4096)),
            ),
            (
                vec![magic, wide, (0x4, 5), (0x18, 2), (0x150, 1)],
                Some((1 << 32 | 5, 4096)),
            ),
            (vec![magic, (0x4, 5), (0x18, 7)], None),
            (vec![(0x4, 5), (0x18, 2)], None),
        ];
        for (fields, want) in cases {
            let want = want.map(|(blocks, block_bytes)| Extent {
                blocks,
                block_bytes,
            });
            assert_eq!(extent(&superblock(&fields)), want, "{fields:x?}");
        }
        assert_eq!(extent(&[0; 16]), None);
    }
}
