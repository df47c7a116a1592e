//! Extent trees: which blocks of the image hold which blocks of a file.
//!
//! ```text
//! header 12   magic F30A u16 | entries u16 | max u16 | depth u16 | generation u32
//! leaf   12   logical u32 | blocks u16 | physical high u16 | physical low u32
//! index  12   logical u32 | child low u32 | child high u16 | unused u16
//! ```
//!
//! The root lies in the inode (4 records); a tree block holds 340 records and a checksum in its
//! last four bytes. A leaf record covers at most 32,768 blocks.
//!
//! Not here: where tree blocks lie; the caller hands in their numbers.

use crate::bytes::{Block, high32, low16, low32, put_u16, put_u32};
use crate::crc::Checksum;

/// Records in the inode.
const ROOT_RECORDS: usize = 4;

/// Records of a tree block: (4096 − 12 − 4) / 12.
const BLOCK_RECORDS: usize = 340;

/// Blocks of an initialised extent; larger lengths mean "unwritten".
const EXTENT_BLOCKS_MAX: u64 = 32_768;

const MAGIC: u16 = 0xf30a;
const HEADER_BYTES: usize = 12;
const RECORD_BYTES: usize = 12;
const CHECKSUM_OFFSET: usize = HEADER_BYTES + BLOCK_RECORDS * RECORD_BYTES;

/// One leaf record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    logical: u64,
    physical: u64,
    blocks: u64,
}

/// The extents of one file, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extents {
    leaves: Vec<Extent>,
    mapped_blocks: u64,
}

impl Extents {
    /// Forgets everything but the memory it took.
    pub(crate) fn clear(&mut self) {
        self.leaves.clear();
        self.mapped_blocks = 0;
    }

    /// Adds a run of blocks behind all earlier ones, merged with the last where both sides go
    /// on, and split where an extent would grow too long.
    pub(crate) fn push(&mut self, logical: u64, physical: u64, blocks: u64) {
        let (mut logical, mut physical, mut left) = (logical, physical, blocks);
        self.mapped_blocks += blocks;
        if let Some(last) = self.leaves.last_mut() {
            let goes_on =
                last.logical + last.blocks == logical && last.physical + last.blocks == physical;
            if goes_on {
                let room = (EXTENT_BLOCKS_MAX - last.blocks).min(left);
                last.blocks += room;
                logical += room;
                physical += room;
                left -= room;
            }
        }
        while left > 0 {
            let blocks = left.min(EXTENT_BLOCKS_MAX);
            self.leaves.push(Extent {
                logical,
                physical,
                blocks,
            });
            logical += blocks;
            physical += blocks;
            left -= blocks;
        }
    }

    /// Blocks of the file that are mapped, tree blocks not counted.
    pub(crate) fn mapped_blocks(&self) -> u64 {
        self.mapped_blocks
    }

    /// Blocks the tree needs outside the inode.
    pub(crate) fn tree_blocks(&self) -> u64 {
        let mut total = 0;
        let mut records = self.leaves.len();
        while records > ROOT_RECORDS {
            records = records.div_ceil(BLOCK_RECORDS);
            total += records as u64;
        }
        total
    }

    /// The content of `i_block`, and the tree blocks: leaves in order, then each level above.
    ///
    /// `numbers` are the blocks they go to, [`Extents::tree_blocks`] of them; `checksum` is that
    /// of the inode.
    pub(crate) fn encode(&self, numbers: &[u64], checksum: Checksum) -> Encoded {
        let mut level: Vec<Record> = self.leaves.iter().map(Record::leaf).collect();
        let mut free = numbers.iter().copied();
        let mut blocks = Vec::with_capacity(numbers.len());
        let mut depth = 0;
        while level.len() > ROOT_RECORDS {
            let mut above = Vec::with_capacity(level.len().div_ceil(BLOCK_RECORDS));
            for (records, number) in level.chunks(BLOCK_RECORDS).zip(&mut free) {
                blocks.push((number, tree_block(records, depth, checksum)));
                above.push(Record::index(records[0].logical, number));
            }
            level = above;
            depth += 1;
        }
        let mut root = [0; 60];
        put_records(&mut root, &level, ROOT_RECORDS, depth);
        Encoded { root, blocks }
    }
}

/// An extent tree as bytes.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) root: [u8; 60],
    pub(crate) blocks: Vec<(u64, Box<Block>)>,
}

/// A leaf or index record, encoded.
struct Record {
    logical: u32,
    bytes: [u8; RECORD_BYTES],
}

impl Record {
    fn leaf(extent: &Extent) -> Self {
        let logical = low32(extent.logical);
        let mut bytes = [0; RECORD_BYTES];
        put_u32(&mut bytes, 0, logical);
        put_u16(&mut bytes, 4, low16(low32(extent.blocks)));
        put_u16(&mut bytes, 6, low16(high32(extent.physical)));
        put_u32(&mut bytes, 8, low32(extent.physical));
        Self { logical, bytes }
    }

    fn index(logical: u32, child: u64) -> Self {
        let mut bytes = [0; RECORD_BYTES];
        put_u32(&mut bytes, 0, logical);
        put_u32(&mut bytes, 4, low32(child));
        put_u16(&mut bytes, 8, low16(high32(child)));
        Self { logical, bytes }
    }
}

fn tree_block(records: &[Record], depth: u16, checksum: Checksum) -> Box<Block> {
    let mut block = Box::new([0; crate::bytes::BLOCK_BYTES]);
    put_records(&mut block[..], records, BLOCK_RECORDS, depth);
    let sum = checksum.feed(&block[..CHECKSUM_OFFSET]).value();
    put_u32(&mut block[..], CHECKSUM_OFFSET, sum);
    block
}

fn put_records(bytes: &mut [u8], records: &[Record], max: usize, depth: u16) {
    let count = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
    put_u16(bytes, 0, MAGIC);
    put_u16(bytes, 2, count(records.len()));
    put_u16(bytes, 4, count(max));
    put_u16(bytes, 6, depth);
    for (slot, record) in bytes[HEADER_BYTES..]
        .chunks_exact_mut(RECORD_BYTES)
        .zip(records)
    {
        slot.copy_from_slice(&record.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scattered(count: u64) -> Extents {
        let mut extents = Extents::default();
        for index in 0..count {
            extents.push(index * 2, 1000 + index * 3, 1);
        }
        extents
    }

    #[test]
    fn a_tree_grows_a_level_at_5_and_at_1361_extents() {
        // Extents, tree blocks, depth in the root.
        let cases = [
            (0, 0, 0),
            (1, 0, 0),
            (4, 0, 0),
            (5, 1, 1),
            (340, 1, 1),
            (341, 2, 1),
            (1360, 4, 1),
            (1361, 6, 2),
        ];
        for (count, blocks, depth) in cases {
            let extents = scattered(count);
            let numbers: Vec<u64> = (0..extents.tree_blocks()).map(|n| 9000 + n).collect();
            let encoded = extents.encode(&numbers, Checksum::from(1));

            assert_eq!(extents.tree_blocks(), blocks, "{count} extents");
            assert_eq!(encoded.blocks.len() as u64, blocks, "{count} extents");
            assert_eq!(encoded.root[6], depth, "{count} extents");
            assert_eq!(encoded.root[4], 4, "{count} extents");
        }
    }

    #[test]
    fn runs_merge_when_both_sides_go_on_and_split_at_128_mib() {
        let mut extents = Extents::default();
        extents.push(0, 100, 10);
        extents.push(10, 110, 32_768);
        extents.push(32_778, 50_000, 1);
        extents.push(40_000, 50_001, 1);

        let shape: Vec<_> = extents
            .leaves
            .iter()
            .map(|extent| (extent.logical, extent.physical, extent.blocks))
            .collect();

        assert_eq!(
            shape,
            [
                (0, 100, 32_768),
                (32_768, 32_868, 10),
                (32_778, 50_000, 1),
                (40_000, 50_001, 1)
            ]
        );
        assert_eq!(extents.mapped_blocks(), 32_780);
    }

    #[test]
    fn a_record_holds_48_bits_of_the_physical_block() {
        let mut extents = Extents::default();
        extents.push(7, 0x1234_5678_9abc, 32_768);

        let root = extents.encode(&[], Checksum::from(1)).root;

        assert_eq!(root[..12], [0x0a, 0xf3, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            root[12..24],
            [7, 0, 0, 0, 0x00, 0x80, 0x34, 0x12, 0xbc, 0x9a, 0x78, 0x56]
        );
    }
}
