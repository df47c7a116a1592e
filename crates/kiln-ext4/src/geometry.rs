//! Where the fixed structures of an image lie: groups, superblock copies, bitmaps and inode
//! tables, as a function of its size and of how many inodes it must hold.
//!
//! ```text
//! group   0                        1             2 ...            16                  17 ...
//!         SB GDT | block bitmaps   SB GDT | ...  (no copy)        block bitmaps of
//!         of 0..15 | inode bitmaps                                16..31 | inode bitmaps
//!         | inode tables                                          | inode tables
//! ```
//!
//! Sixteen groups make a flex group, whose bitmaps and tables lie together at the start of its
//! first member and step around the superblock copies of groups 1, 3ⁿ, 5ⁿ and 7ⁿ. Everything
//! else is free, and [`Cursor`] hands it out from the lowest block upward, so "used" is always
//! "reserved here, or below the cursor".
//!
//! Not here: what the free blocks are used for; see `placement`.

use std::ops::Range;

/// Blocks of a group: one bitmap block has as many bits. 128 MiB.
pub(crate) const GROUP_BLOCKS: u64 = 32_768;

/// Most inodes of a group, for the same reason.
const GROUP_INODES_MAX: u64 = 32_768;

/// Groups of a flex group, as a power of two (`s_log_groups_per_flex`). mke2fs's default.
pub(crate) const FLEX_LOG: u8 = 4;
const FLEX_GROUPS: u32 = 1 << FLEX_LOG;

/// Inode records of a block.
pub(crate) const BLOCK_INODES: u32 = 16;

/// Descriptors of a block.
const BLOCK_DESCRIPTORS: u32 = 64;

/// One inode per 16 KiB, as mke2fs: four blocks.
const BLOCKS_PER_INODE: u64 = 4;

/// A last group smaller than its own structures plus this many blocks is dropped, as mke2fs
/// does: it would be almost nothing but overhead.
const SHORT_GROUP_SLACK: u64 = 50;

/// Most blocks of an image: 16 TiB, the most an ext4 host can hold in one file, and far below
/// the 192 TiB at which descriptors no longer fit a group.
pub(crate) const BLOCKS_MAX: u64 = 1 << 32;

/// Where one group's own structures lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupTables {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
}

/// The fixed structures of an image of one size.
#[derive(Debug)]
pub(crate) struct Geometry {
    /// Blocks of the image; may be less than was asked when the last group was too short.
    pub(crate) blocks: u64,
    pub(crate) inodes_per_group: u32,
    /// Blocks of one group's inode table.
    pub(crate) table_blocks: u32,
    /// Blocks of the descriptor table, and of each copy.
    pub(crate) descriptor_blocks: u32,
    /// One entry per group.
    pub(crate) tables: Vec<GroupTables>,
    /// All of the above as ascending ranges that neither touch nor overlap.
    reserved: Vec<Range<u64>>,
}

/// The size does not work; the next one worth trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    pub(crate) try_blocks: u64,
}

impl Geometry {
    /// Lays out an image of at most `blocks` blocks with room for `inodes` inodes (numbers 1 to
    /// `inodes`), a quarter more, or one per 16 KiB, whichever is most.
    pub(crate) fn new(blocks: u64, inodes: u64) -> Result<Self, Misfit> {
        let mut blocks = blocks.min(BLOCKS_MAX);
        loop {
            let groups = blocks.div_ceil(GROUP_BLOCKS).max(1);
            if inodes > groups * GROUP_INODES_MAX {
                let full = inodes.div_ceil(GROUP_INODES_MAX) - 1;
                let tables = GROUP_INODES_MAX / u64::from(BLOCK_INODES);
                return Err(Misfit {
                    try_blocks: full * GROUP_BLOCKS + tables + SHORT_GROUP_SLACK,
                });
            }
            let shape = Shape::new(groups, blocks, inodes);
            let rest = blocks % GROUP_BLOCKS;
            let floor = shape.last_group_blocks();
            if (rest == 0 && blocks > 0) || rest >= floor {
                return shape.lay_out(blocks);
            }
            if groups == 1 {
                return Err(Misfit { try_blocks: floor });
            }
            blocks -= rest;
        }
    }

    pub(crate) fn groups(&self) -> u32 {
        u32::try_from(self.tables.len()).unwrap_or(u32::MAX)
    }

    /// Inodes of the whole image.
    pub(crate) fn inodes(&self) -> u64 {
        u64::from(self.inodes_per_group) * u64::from(self.groups())
    }

    /// The blocks of one group; the last may be short.
    pub(crate) fn group_range(&self, group: u32) -> Range<u64> {
        let start = u64::from(group) * GROUP_BLOCKS;
        start..(start + GROUP_BLOCKS).min(self.blocks)
    }

    /// Blocks of all fixed structures.
    pub(crate) fn reserved_blocks(&self) -> u64 {
        self.reserved
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }

    /// The parts of `window` that fixed structures take, ascending.
    pub(crate) fn reserved_in(&self, window: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self
            .reserved
            .partition_point(|range| range.end <= window.start);
        self.reserved[first..]
            .iter()
            .take_while({
                let end = window.end;
                move |range| range.start < end
            })
            .map(move |range| range.start.max(window.start)..range.end.min(window.end))
    }

    /// Fewest blocks with which one more group would be kept.
    pub(crate) fn blocks_with_next_group(&self) -> u64 {
        let groups = self.groups();
        let shape = Shape {
            groups: u64::from(groups) + 1,
            table_blocks: u64::from(self.table_blocks),
            descriptor_blocks: u64::from((groups + 1).div_ceil(BLOCK_DESCRIPTORS)),
        };
        u64::from(groups) * GROUP_BLOCKS + shape.last_group_blocks()
    }
}

/// Whether a group begins with a copy of the superblock and the descriptors: groups 0, 1 and
/// the powers of 3, 5 and 7 (`sparse_super`).
pub(crate) fn has_copy(group: u32) -> bool {
    fn is_power(mut group: u32, base: u32) -> bool {
        while group.is_multiple_of(base) {
            group /= base;
        }
        group == 1
    }
    group <= 1 || [3, 5, 7].into_iter().any(|base| is_power(group, base))
}

/// The counts everything else follows from.
struct Shape {
    groups: u64,
    table_blocks: u64,
    descriptor_blocks: u64,
}

impl Shape {
    fn new(groups: u64, blocks: u64, inodes: u64) -> Self {
        let wanted = (blocks / BLOCKS_PER_INODE)
            .max(inodes + inodes / 4)
            .min(groups * GROUP_INODES_MAX);
        Self {
            groups,
            table_blocks: wanted
                .div_ceil(groups)
                .div_ceil(u64::from(BLOCK_INODES))
                .max(1),
            descriptor_blocks: groups.div_ceil(u64::from(BLOCK_DESCRIPTORS)),
        }
    }

    fn last_group_blocks(&self) -> u64 {
        let copy = if has_copy(narrow(self.groups - 1)) {
            1 + self.descriptor_blocks
        } else {
            0
        };
        2 + self.table_blocks + copy + SHORT_GROUP_SLACK
    }

    fn lay_out(&self, blocks: u64) -> Result<Geometry, Misfit> {
        let groups = narrow(self.groups);
        let mut tables = Vec::with_capacity(usize::try_from(groups).unwrap_or(0));
        let mut reserved: Vec<Range<u64>> = (0..groups)
            .filter(|group| has_copy(*group))
            .map(|group| self.copy_range(group))
            .collect();

        for head in (0..groups).step_by(1 << FLEX_LOG) {
            let members = FLEX_GROUPS.min(groups - head);
            let mut next = u64::from(head) * GROUP_BLOCKS;
            let mut place = |count: u64| {
                let start = self.step_around_copies(next, count);
                next = start + count;
                reserved.push(start..next);
                start
            };
            let block_bitmaps: Vec<u64> = (0..members).map(|_| place(1)).collect();
            let inode_bitmaps: Vec<u64> = (0..members).map(|_| place(1)).collect();
            for (block_bitmap, inode_bitmap) in block_bitmaps.into_iter().zip(inode_bitmaps) {
                tables.push(GroupTables {
                    block_bitmap,
                    inode_bitmap,
                    inode_table: place(self.table_blocks),
                });
            }
            if next > blocks {
                return Err(Misfit { try_blocks: next });
            }
        }
        let table_blocks = narrow(self.table_blocks);
        Ok(Geometry {
            blocks,
            inodes_per_group: table_blocks * BLOCK_INODES,
            table_blocks,
            descriptor_blocks: narrow(self.descriptor_blocks),
            tables,
            reserved: merged(reserved),
        })
    }

    fn copy_range(&self, group: u32) -> Range<u64> {
        let start = u64::from(group) * GROUP_BLOCKS;
        start..start + 1 + self.descriptor_blocks
    }

    /// The first place at or after `start` where `count` blocks meet no superblock copy.
    fn step_around_copies(&self, start: u64, count: u64) -> u64 {
        let mut start = start;
        loop {
            let groups = narrow(start / GROUP_BLOCKS)..=narrow((start + count - 1) / GROUP_BLOCKS);
            let obstacle = groups
                .filter(|group| has_copy(*group))
                .map(|group| self.copy_range(group))
                .find(|copy| copy.start < start + count && start < copy.end);
            match obstacle {
                Some(copy) => start = copy.end,
                None => return start,
            }
        }
    }
}

/// Group and table counts, which `BLOCKS_MAX` keeps far below 2³².
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range),
        }
    }
    merged
}

/// Hands out free blocks from the lowest upward, stepping over the fixed structures.
///
/// It does not stop at the end of the image: the planner lets it run on, to learn how many
/// blocks are missing.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'g> {
    reserved: &'g [Range<u64>],
    next: u64,
}

impl<'g> Cursor<'g> {
    pub(crate) fn new(geometry: &'g Geometry) -> Self {
        Self::at(geometry, 0)
    }

    /// Goes on where another cursor stood.
    pub(crate) fn at(geometry: &'g Geometry, block: u64) -> Self {
        let passed = geometry
            .reserved
            .partition_point(|range| range.end <= block);
        let mut cursor = Self {
            reserved: &geometry.reserved[passed..],
            next: block,
        };
        cursor.skip_reserved();
        cursor
    }

    /// The block that is handed out next; everything free below it has been.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// Takes the next blocks that lie together: at least one, at most `at_most` (not zero).
    pub(crate) fn take(&mut self, at_most: u64) -> Range<u64> {
        let start = self.next;
        let wall = self.reserved.first().map_or(u64::MAX, |range| range.start);
        let end = (start + at_most).min(wall);
        self.next = end;
        self.skip_reserved();
        start..end
    }

    /// Takes `count` blocks, however many pieces that needs.
    pub(crate) fn take_all(&mut self, count: u64, mut piece: impl FnMut(Range<u64>)) {
        let mut left = count;
        while left > 0 {
            let range = self.take(left);
            left -= range.end - range.start;
            piece(range);
        }
    }

    fn skip_reserved(&mut self) {
        while let Some((range, rest)) = self.reserved.split_first() {
            if range.start > self.next {
                break;
            }
            self.next = self.next.max(range.end);
            self.reserved = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_lie_in_groups_0_1_and_the_powers_of_3_5_and_7() {
        let groups: Vec<u32> = (0..130).filter(|group| has_copy(*group)).collect();

        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }

    #[test]
    fn four_gibibytes_are_laid_out_as_mke2fs_does() {
        // What dumpe2fs says of `mke2fs -t ext4 -O ^resize_inode` on 4 GiB.
        let geometry = Geometry::new(1_048_576, 11).expect("4 GiB fit");

        assert_eq!(geometry.groups(), 32);
        assert_eq!(geometry.inodes_per_group, 8192);
        assert_eq!(geometry.reserved_blocks() + 16_384, 32_848);
        assert_eq!(
            geometry.tables[1],
            GroupTables {
                block_bitmap: 3,
                inode_bitmap: 19,
                inode_table: 546
            }
        );
        assert_eq!(Cursor::new(&geometry).position(), 8226);
    }

    #[test]
    fn a_last_group_of_little_but_overhead_is_dropped() {
        // Blocks asked, blocks laid out. The last group needs 2 bitmaps, its table, the copy
        // where it has one, and 50 blocks. One group has 8192 inodes: 512 blocks of table.
        let cases = [
            (GROUP_BLOCKS, GROUP_BLOCKS),
            (GROUP_BLOCKS + 1, GROUP_BLOCKS),
            (2 * GROUP_BLOCKS + 200, 2 * GROUP_BLOCKS),
            (2 * GROUP_BLOCKS + 10_000, 2 * GROUP_BLOCKS + 10_000),
        ];
        for (asked, want) in cases {
            let got = Geometry::new(asked, 11).map(|geometry| geometry.blocks);
            assert_eq!(got, Ok(want), "{asked} blocks");
        }
    }

    #[test]
    fn many_inodes_need_more_groups_or_larger_tables() {
        let misfit = Geometry::new(GROUP_BLOCKS, 40_000).expect_err("one group is too few");
        let geometry =
            Geometry::new(misfit.try_blocks.max(65_536), 40_000).expect("two are enough");

        assert!(misfit.try_blocks > GROUP_BLOCKS);
        assert_eq!(geometry.groups(), 2);
        assert_eq!(geometry.inodes(), 50_016);
    }

    #[test]
    fn a_size_below_the_overhead_of_one_group_is_refused_with_one_that_works() {
        let misfit = Geometry::new(3, 11).expect_err("three blocks");

        let blocks = |asked| Geometry::new(asked, 11).map(|geometry| geometry.blocks);
        assert_eq!(blocks(misfit.try_blocks), Ok(misfit.try_blocks));
        assert_eq!(blocks(misfit.try_blocks - 1), Err(misfit));
    }

    #[test]
    fn full_tables_step_around_the_copies_and_never_overlap() {
        // 40 groups of 32,768 inodes: each flex group's tables are longer than a group.
        let geometry = Geometry::new(40 * GROUP_BLOCKS, 40 * 32_768).expect("they fit");
        let mut taken = geometry.reserved.clone();
        taken.sort_unstable_by_key(|range| range.start);

        let copies: u64 = (0..40).filter(|group| has_copy(*group)).count() as u64;
        assert_eq!(geometry.reserved_blocks(), 40 * (2 + 2048) + copies * 2);
        assert!(taken.windows(2).all(|pair| pair[0].end < pair[1].start));
    }

    #[test]
    fn a_cursor_meets_every_free_block_once() {
        let geometry = Geometry::new(3 * GROUP_BLOCKS, 11).expect("it fits");
        let mut cursor = Cursor::new(&geometry);
        let mut taken = 0;
        while cursor.position() < geometry.blocks {
            let piece = cursor.take(1000.min(geometry.blocks - cursor.position()));
            assert_eq!(geometry.reserved_in(piece.clone()).count(), 0);
            taken += piece.end - piece.start;
        }

        assert_eq!(taken + geometry.reserved_blocks(), geometry.blocks);
        let again = Cursor::at(&geometry, GROUP_BLOCKS);
        assert_eq!(again.position(), GROUP_BLOCKS + 2);
    }
}
