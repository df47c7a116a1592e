//! Directory blocks: entries, the linear form of small directories, and the choice of form.
//!
//! ```text
//! entry   inode u32 | rec_len u16 | name_len u8 | type u8 | name, padded to 4
//! tail    0 u32     | 12 u16      | 0 u8        | 0xDE u8 | checksum u32        (last 12 bytes)
//! ```
//!
//! A directory of one block is linear; every larger one is indexed, see `htree`. The one
//! exception is an empty `lost+found`: four linear blocks, as mke2fs makes it, so that e2fsck
//! can hang up lost files without allocating.
//!
//! Not here: which names a directory has.

use crate::bytes::{BLOCK_BYTES, Block, put_u16, put_u32, round4};
use crate::crc::Checksum;
use crate::htree::{self, Index};
use crate::inode::FileType;
use crate::name_hash::NameHasher;

/// Bytes of the checksum tail.
const TAIL_BYTES: usize = 12;

/// Bytes of a block that entries may use.
pub(crate) const ENTRIES_BYTES: usize = BLOCK_BYTES - TAIL_BYTES;

/// The type byte that marks a tail.
const TAIL_TYPE: u8 = 0xde;

/// Blocks of an empty `lost+found`: 16 KiB.
const EMPTY_BLOCKS: u32 = 4;

/// Bytes of the entries `.` and `..`.
const DOTS_BYTES: usize = 24;

/// One name of a directory; `.` and `..` are not among them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    /// 1 to 255 bytes.
    pub(crate) name: &'a [u8],
    pub(crate) number: u32,
    pub(crate) file_type: FileType,
}

impl Entry<'_> {
    pub(crate) fn record_bytes(&self) -> usize {
        record_bytes(self.name.len())
    }
}

/// Bytes an entry needs at least.
pub(crate) const fn record_bytes(name_bytes: usize) -> usize {
    round4(8 + name_bytes)
}

/// How full the leaves of an indexed directory are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeafFill {
    /// 80 %: what e2fsck's own rehash leaves, so that the first new names split no leaf.
    FourFifths,
    /// Every byte, for images that are only read.
    Full,
}

impl LeafFill {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::FourFifths => ENTRIES_BYTES * 4 / 5,
            Self::Full => ENTRIES_BYTES,
        }
    }
}

/// What to do with a directory that holds no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenEmpty {
    /// One block, like any other.
    OneBlock,
    /// Room for what e2fsck finds, as `lost+found` has.
    Preallocated,
}

/// Why a directory cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DirectoryProblem {
    /// Two levels of index do not reach all leaves.
    TooLarge,
    /// The name at this position, and too many more, hash to the value readers disagree about.
    ReservedHash(usize),
}

/// The form of one directory.
#[derive(Debug)]
pub(crate) enum Layout {
    Linear,
    Preallocated,
    Indexed(Index),
}

impl Layout {
    pub(crate) fn new(
        entries: &[Entry<'_>],
        hasher: &NameHasher,
        fill: LeafFill,
        when_empty: WhenEmpty,
    ) -> Result<Self, DirectoryProblem> {
        if entries.is_empty() && when_empty == WhenEmpty::Preallocated {
            return Ok(Self::Preallocated);
        }
        let bytes: usize = entries.iter().map(Entry::record_bytes).sum();
        if DOTS_BYTES + bytes <= ENTRIES_BYTES {
            return Ok(Self::Linear);
        }
        Index::new(entries, hasher, fill).map(Self::Indexed)
    }

    pub(crate) fn blocks(&self) -> u32 {
        match self {
            Self::Linear => 1,
            Self::Preallocated => EMPTY_BLOCKS,
            Self::Indexed(index) => index.blocks(),
        }
    }
}

/// The inode numbers a directory's own entries name, and the start of its checksums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) number: u32,
    pub(crate) parent: u32,
    /// That of the directory's own inode.
    pub(crate) checksum: Checksum,
}

/// Makes the blocks of a directory in logical order.
///
/// `entries` are those the layout was made of, sorted by name. Errors are the sink's.
pub(crate) fn emit<E>(
    place: &Place,
    layout: &Layout,
    entries: &[Entry<'_>],
    sink: &mut impl FnMut(&Block) -> Result<(), E>,
) -> Result<(), E> {
    match layout {
        Layout::Linear => {
            let mut leaf = Leaf::with_dots(place);
            for entry in entries {
                leaf.push(entry);
            }
            sink(leaf.finish(place.checksum))
        }
        Layout::Preallocated => {
            sink(Leaf::with_dots(place).finish(place.checksum))?;
            for _ in 1..EMPTY_BLOCKS {
                sink(Leaf::new().finish(place.checksum))?;
            }
            Ok(())
        }
        Layout::Indexed(index) => htree::emit(place, index, entries, sink),
    }
}

/// A block of entries that is being filled.
pub(crate) struct Leaf {
    block: Box<Block>,
    used: usize,
    last: usize,
}

impl Leaf {
    pub(crate) fn new() -> Self {
        Self {
            block: Box::new([0; BLOCK_BYTES]),
            used: 0,
            last: 0,
        }
    }

    fn with_dots(place: &Place) -> Self {
        let mut leaf = Self::new();
        for (name, number) in [(&b"."[..], place.number), (b"..", place.parent)] {
            leaf.push(&Entry {
                name,
                number,
                file_type: FileType::Directory,
            });
        }
        leaf
    }

    /// Adds an entry; the layout has seen to it that it fits.
    pub(crate) fn push(&mut self, entry: &Entry<'_>) {
        put_entry(&mut self.block[..], self.used, entry, entry.record_bytes());
        self.last = self.used;
        self.used += entry.record_bytes();
    }

    /// Stretches the last entry to the tail, and writes the tail.
    pub(crate) fn finish(&mut self, checksum: Checksum) -> &Block {
        put_u16(
            &mut self.block[..],
            self.last + 4,
            length_field(ENTRIES_BYTES - self.last),
        );
        let sum = checksum.feed(&self.block[..ENTRIES_BYTES]).value();
        let tail = &mut self.block[ENTRIES_BYTES..];
        put_u16(tail, 4, length_field(TAIL_BYTES));
        tail[7] = TAIL_TYPE;
        put_u32(tail, 8, sum);
        &self.block
    }
}

/// Stores one entry at `offset`, `record_bytes` long.
pub(crate) fn put_entry(block: &mut [u8], offset: usize, entry: &Entry<'_>, record_bytes: usize) {
    put_u32(block, offset, entry.number);
    put_u16(block, offset + 4, length_field(record_bytes));
    block[offset + 6] = u8::try_from(entry.name.len()).unwrap_or(u8::MAX);
    block[offset + 7] = entry.file_type.entry_code();
    block[offset + 8..offset + 8 + entry.name.len()].copy_from_slice(entry.name);
}

/// A length inside a block, which is always below 2¹⁶.
fn length_field(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(layout: &Layout, entries: &[Entry<'_>]) -> Vec<Block> {
        let place = Place {
            number: 11,
            parent: 2,
            checksum: Checksum::of_inode(1, 11, 0),
        };
        let mut blocks = Vec::new();
        let sunk: Result<(), std::convert::Infallible> =
            emit(&place, layout, entries, &mut |block| {
                blocks.push(*block);
                Ok(())
            });
        assert!(sunk.is_ok(), "the sink never fails");
        blocks
    }

    #[test]
    fn the_last_entry_reaches_the_tail() {
        let entries = [Entry {
            name: b"hello",
            number: 12,
            file_type: FileType::Regular,
        }];

        let block = blocks(&Layout::Linear, &entries)[0];

        assert_eq!(block[..12], [11, 0, 0, 0, 12, 0, 1, 2, b'.', 0, 0, 0]);
        assert_eq!(block[12..24], [2, 0, 0, 0, 12, 0, 2, 2, b'.', b'.', 0, 0]);
        // 4084 − 24 = 4060 = 0x0fdc.
        assert_eq!(block[24..37], *b"\x0c\0\0\0\xdc\x0f\x05\x01hello");
        assert_eq!(block[4084..4092], [0, 0, 0, 0, 12, 0, 0, 0xde]);
    }

    #[test]
    fn an_empty_lost_and_found_has_four_blocks() {
        let blocks = blocks(&Layout::Preallocated, &[]);

        assert_eq!(blocks.len(), 4);
        assert_eq!(blocks[0][12..20], [2, 0, 0, 0, 0xe8, 0x0f, 2, 2]);
        assert_eq!(blocks[1][..8], [0, 0, 0, 0, 0xf4, 0x0f, 0, 0]);
        assert_eq!(blocks[3][..], blocks[1][..]);
    }

    #[test]
    fn one_byte_too_many_makes_an_index() {
        // Entries of 12 bytes each: (4084 − 24) / 12 = 338 fit.
        let names: Vec<String> = (0..339).map(|n| format!("{n:04}")).collect();
        let entries: Vec<Entry<'_>> = names
            .iter()
            .map(|name| Entry {
                name: name.as_bytes(),
                number: 12,
                file_type: FileType::Regular,
            })
            .collect();
        let hasher = NameHasher::new(&[1; 16]);
        let blocks = |count: usize, fill| {
            Layout::new(&entries[..count], &hasher, fill, WhenEmpty::OneBlock)
                .map(|layout| layout.blocks())
        };

        assert_eq!(blocks(338, LeafFill::FourFifths), Ok(1));
        assert_eq!(blocks(339, LeafFill::FourFifths), Ok(3));
        assert_eq!(blocks(339, LeafFill::Full), Ok(2));
    }
}
