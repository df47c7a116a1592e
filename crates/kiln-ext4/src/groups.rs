//! Group descriptors and bitmaps.
//!
//! ```text
//! descriptor 64   block bitmap, inode bitmap, inode table u32 each | free blocks, free inodes,
//!                 directories, flags u16 each | at 18: checksums of both bitmaps, unused inodes,
//!                 own checksum u16 each | the high halves of all of these
//! ```
//!
//! Used inodes are 1 to n without a gap, and used blocks are what is reserved or lies below the
//! allocation cursor, so a bitmap is a handful of ranges.
//!
//! Not here: where bitmaps and tables lie; see `geometry`.

use std::ops::Range;

use crate::bytes::{BLOCK_BYTES, Block, high16, high32, low16, low32, put_u16, put_u32};
use crate::crc::Checksum;
use crate::geometry::{GROUP_BLOCKS, Geometry, has_copy};

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR_BYTES: usize = 64;

const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;

/// The inode table reads as zeros where nothing was written: the guest has nothing to do.
const INODE_ZEROED: u16 = 4;

/// What is in use, by group.
#[derive(Debug)]
pub(crate) struct Usage<'g> {
    geometry: &'g Geometry,
    /// Every free block below this one is taken.
    end: u64,
    /// Inodes 1 to this are taken.
    inodes: u32,
    /// Directories per group.
    directories: Vec<u32>,
}

impl<'g> Usage<'g> {
    pub(crate) fn new(
        geometry: &'g Geometry,
        end: u64,
        inodes: u32,
        directory_numbers: impl Iterator<Item = u32>,
    ) -> Self {
        let mut directories = vec![0; geometry.tables.len()];
        for number in directory_numbers {
            let group = (number - 1) / geometry.inodes_per_group;
            directories[group as usize] += 1;
        }
        Self {
            geometry,
            end,
            inodes,
            directories,
        }
    }

    pub(crate) fn free_blocks(&self) -> u64 {
        (0..self.geometry.groups())
            .map(|group| self.free_blocks_of(group))
            .sum()
    }

    pub(crate) fn free_inodes(&self) -> u32 {
        (0..self.geometry.groups())
            .map(|group| self.geometry.inodes_per_group - self.used_inodes_of(group))
            .sum()
    }

    /// The inode bitmap of a group, or nothing where no inode of it is used.
    pub(crate) fn inode_bitmap(&self, group: u32) -> Option<Box<Block>> {
        let used = self.used_inodes_of(group);
        if used == 0 {
            return None;
        }
        let mut bits = Box::new([0; BLOCK_BYTES]);
        set(&mut bits, 0..u64::from(used));
        set(
            &mut bits,
            u64::from(self.geometry.inodes_per_group)..GROUP_BLOCKS,
        );
        Some(bits)
    }

    /// The block bitmap of a group, or nothing where readers can work it out: in a group that
    /// holds at most a superblock copy. The last group always has one, for its padding.
    pub(crate) fn block_bitmap(&self, group: u32) -> Option<Box<Block>> {
        if self.has_implied_block_bitmap(group) {
            return None;
        }
        let range = self.geometry.group_range(group);
        let mut bits = Box::new([0; BLOCK_BYTES]);
        let mut mark = |used: Range<u64>| {
            if used.start < used.end {
                set(&mut bits, used.start - range.start..used.end - range.start);
            }
        };
        mark(range.start..self.end.clamp(range.start, range.end));
        self.geometry.reserved_in(range.clone()).for_each(&mut mark);
        mark(range.end..range.start + GROUP_BLOCKS);
        Some(bits)
    }

    /// The descriptor of a group, given its two bitmaps' checksums (0 where there is none).
    pub(crate) fn descriptor(
        &self,
        group: u32,
        sums: BitmapSums,
        seed: u32,
    ) -> [u8; DESCRIPTOR_BYTES] {
        let tables = &self.geometry.tables[group as usize];
        let used_inodes = self.used_inodes_of(group);
        let free_inodes = self.geometry.inodes_per_group - used_inodes;
        let free_blocks = low32(self.free_blocks_of(group));
        let directories = self.directories[group as usize];

        let mut flags = INODE_ZEROED;
        if used_inodes == 0 {
            flags |= INODE_UNINIT;
        }
        if self.has_implied_block_bitmap(group) {
            flags |= BLOCK_UNINIT;
        }
        let mut bytes = [0; DESCRIPTOR_BYTES];
        let places = [
            (0x00, 0x20, tables.block_bitmap),
            (0x04, 0x24, tables.inode_bitmap),
            (0x08, 0x28, tables.inode_table),
        ];
        for (low, high, block) in places {
            put_u32(&mut bytes, low, low32(block));
            put_u32(&mut bytes, high, high32(block));
        }
        // Used inodes lie at the start of the table, so every free one is untouched too.
        let counts = [
            (0x0c, 0x2c, free_blocks),
            (0x0e, 0x2e, free_inodes),
            (0x10, 0x30, directories),
            (0x18, 0x38, sums.blocks),
            (0x1a, 0x3a, sums.inodes),
            (0x1c, 0x32, free_inodes),
        ];
        for (low, high, value) in counts {
            put_u16(&mut bytes, low, low16(value));
            put_u16(&mut bytes, high, high16(value));
        }
        put_u16(&mut bytes, 0x12, flags);
        let sum = Checksum::from(seed)
            .feed(&group.to_le_bytes())
            .feed(&bytes)
            .value();
        put_u16(&mut bytes, 0x1e, low16(sum));
        bytes
    }

    /// The checksum of an inode bitmap covers the real bits only, not the padding.
    pub(crate) fn inode_bitmap_sum(&self, bitmap: &Block, seed: u32) -> u32 {
        let bytes = self.geometry.inodes_per_group as usize / 8;
        Checksum::from(seed).feed(&bitmap[..bytes]).value()
    }

    fn used_inodes_of(&self, group: u32) -> u32 {
        let first = u64::from(group) * u64::from(self.geometry.inodes_per_group);
        let used = u64::from(self.inodes).saturating_sub(first);
        low32(used.min(u64::from(self.geometry.inodes_per_group)))
    }

    fn free_blocks_of(&self, group: u32) -> u64 {
        let range = self.geometry.group_range(group);
        let open = range.start.max(self.end.min(range.end))..range.end;
        let reserved: u64 = self
            .geometry
            .reserved_in(open.clone())
            .map(|taken| taken.end - taken.start)
            .sum();
        open.end - open.start - reserved
    }

    fn has_implied_block_bitmap(&self, group: u32) -> bool {
        let range = self.geometry.group_range(group);
        let copy = if has_copy(group) {
            1 + u64::from(self.geometry.descriptor_blocks)
        } else {
            0
        };
        let used = range.end - range.start - self.free_blocks_of(group);
        group + 1 < self.geometry.groups() && self.end <= range.start && used == copy
    }
}

/// The checksums of a group's bitmaps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BitmapSums {
    pub(crate) blocks: u32,
    pub(crate) inodes: u32,
}

/// Sets a range of bits, whole bytes at a time where it can.
fn set(bits: &mut Block, range: Range<u64>) {
    let mut bit = range.start;
    while bit < range.end {
        let byte = usize::try_from(bit / 8).unwrap_or(BLOCK_BYTES);
        if bit.is_multiple_of(8) && bit + 8 <= range.end {
            bits[byte] = 0xff;
            bit += 8;
        } else {
            bits[byte] |= 1 << (bit % 8);
            bit += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ones(bits: &Block) -> u32 {
        bits.iter().map(|byte| byte.count_ones()).sum()
    }

    #[test]
    fn a_range_of_bits_is_set_and_no_other() {
        let mut bits = [0; BLOCK_BYTES];
        set(&mut bits, 3..21);
        set(&mut bits, 32_767..32_768);

        assert_eq!(bits[..3], [0b1111_1000, 0xff, 0b0001_1111]);
        assert_eq!(bits[4095], 0x80);
        assert_eq!(ones(&bits), 19);
    }

    #[test]
    fn bitmaps_agree_with_the_counters_and_pad_the_rest() {
        let geometry = Geometry::new(3 * GROUP_BLOCKS + 10_000, 11).expect("it fits");
        let usage = Usage::new(&geometry, 40_000, 11, [2, 11].into_iter());

        let mut free = 0;
        for group in 0..geometry.groups() {
            let range = geometry.group_range(group);
            if let Some(bits) = usage.block_bitmap(group) {
                let used = u64::from(ones(&bits));
                free += GROUP_BLOCKS - used;
                assert_eq!(usage.free_blocks_of(group), GROUP_BLOCKS - used, "{group}");
            } else {
                free += usage.free_blocks_of(group);
                assert!(range.start >= 40_000, "{group}");
            }
        }
        assert_eq!(free, usage.free_blocks());
        assert!(usage.block_bitmap(2).is_none());
        assert!(
            usage.block_bitmap(3).is_some(),
            "the last group has padding"
        );
        assert_eq!(
            ones(&usage.inode_bitmap(0).expect("group 0")),
            11 + 32_768 - geometry.inodes_per_group
        );
        assert!(usage.inode_bitmap(1).is_none());
    }

    #[test]
    fn a_descriptor_is_the_one_mke2fs_writes() {
        // Group 0 of the image that `superblock` is compared with: dumpe2fs says csum 0xf44f,
        // bitmaps 0x55bd47db and 0x98bc3d7f, 24537 free blocks, 8181 free inodes.
        let geometry = Geometry::new(1_048_576, 11).expect("it fits");
        let usage = Usage::new(&geometry, 8231, 11, [2, 11].into_iter());
        let seed = 0xa311_85fc;

        let blocks = usage.block_bitmap(0).expect("in use");
        let inodes = usage.inode_bitmap(0).expect("in use");
        let sums = BitmapSums {
            blocks: Checksum::from(seed).feed(&blocks[..]).value(),
            inodes: usage.inode_bitmap_sum(&inodes, seed),
        };
        let descriptor = usage.descriptor(0, sums, seed);

        assert_eq!(sums.blocks, 0x55bd_47db);
        assert_eq!(sums.inodes, 0x98bc_3d7f);
        assert_eq!(descriptor[0x1e..0x20], [0x4f, 0xf4]);
        let empty = usage.descriptor(1, BitmapSums::default(), seed);
        assert_eq!(empty[0x12], 7);
        assert_eq!(empty[0x1e..0x20], [0x62, 0x38]);
    }
}
