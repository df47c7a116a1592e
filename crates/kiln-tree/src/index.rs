//! The entries of one layer, in archive order, as one flat run of checked bytes.
//!
//! ```text
//!  0  8  "KILNINDX"
//!  8  4  format number
//! 12  4  CRC32C of everything behind this field
//! 16  8  length of the whole in bytes
//! 24  4  number of entries
//! 28  4  zero
//! 32  8  blocks of the pack that hold file bodies
//! 40     records
//! ```
//!
//! Integers are little-endian. Nothing is allocated for an entry when it is read. What a record
//! looks like is not here, nor is the file that the bytes are kept in.

use std::sync::Arc;

use crate::entry::Entry;
use crate::record::{self, Defect, Record};

/// The format number this code writes, and the only one it reads.
pub const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"KILNINDX";
const HEADER_BYTES: usize = 40;
/// The checksum covers what is behind its own field.
const CHECKED_FROM: usize = 16;

/// Longest encoding in bytes: places inside it are kept in 32 bits.
const MAX_BYTES: usize = 0xFFFF_0000;

/// The entries of one layer.
///
/// Invariant: every record has been checked, so reading one cannot fail. Cloning shares the
/// bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Index {
    bytes: Arc<Vec<u8>>,
    entries: u32,
    pack_blocks: u64,
}

/// Why bytes are not an index, or an entry cannot become part of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The bytes do not start as an index does.
    #[error("these bytes are not a layer index")]
    NotAnIndex,
    /// Another version of this code wrote it.
    #[error("the layer index has format {found}, this version reads {FORMAT}")]
    Format {
        /// The number found.
        found: u32,
    },
    /// The bytes changed or are not all there.
    #[error("the layer index is damaged")]
    Damaged,
    /// An entry is not one.
    #[error("entry {number} of the layer index cannot be used: {defect}")]
    Entry {
        /// Place in the index, from 0.
        number: u32,
        /// What is wrong with it.
        defect: Defect,
    },
    /// The encoding would pass 4 GiB.
    #[error("the layer index would be longer than {MAX_BYTES} bytes")]
    TooLong,
}

impl Index {
    /// Takes bytes that [`Index::as_bytes`] once gave, after checking all of them.
    pub fn decode(bytes: Vec<u8>) -> Result<Self, IndexError> {
        if bytes.first_chunk() != Some(&MAGIC) {
            return Err(IndexError::NotAnIndex);
        }
        let found = u32_at(&bytes, 8)?;
        if found != FORMAT {
            return Err(IndexError::Format { found });
        }
        let checked = bytes.get(CHECKED_FROM..).ok_or(IndexError::Damaged)?;
        let is_whole = u64_at(&bytes, 16)? == bytes.len() as u64;
        if !is_whole || u32_at(&bytes, 12)? != crc32c::crc32c(checked) {
            return Err(IndexError::Damaged);
        }
        if bytes.len() > MAX_BYTES {
            return Err(IndexError::TooLong);
        }
        let entries = u32_at(&bytes, 24)?;
        let pack_blocks = u64_at(&bytes, 32)?;
        if check_records(&bytes, entries)? != pack_blocks || u32_at(&bytes, 28)? != 0 {
            return Err(IndexError::Damaged);
        }
        Ok(Self {
            bytes: Arc::new(bytes),
            entries,
            pack_blocks,
        })
    }

    /// Returns the encoding, which [`Index::decode`] takes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Lists the entries in archive order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.records().map(|(_, record)| record.entry)
    }

    /// Counts the entries, whiteouts included.
    pub fn len(&self) -> usize {
        self.entries as usize
    }

    /// Tells whether the layer changes nothing.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Counts the blocks of the pack that hold file bodies.
    pub fn pack_blocks(&self) -> u64 {
        self.pack_blocks
    }

    /// Lists the records and where each starts.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u32, Record<'_>)> {
        let mut at = HEADER_BYTES;
        (0..self.entries).map(move |_| {
            let start = offset(at);
            let record = self.record(start);
            at += record.len;
            (start, record)
        })
    }

    /// Reads the record that starts at `at`, a place that [`Index::records`] gave.
    #[expect(
        clippy::expect_used,
        reason = "every record was read once when the index was made, and bytes do not change"
    )]
    pub(crate) fn record(&self, at: u32) -> Record<'_> {
        record::read(&self.bytes[at as usize..]).expect("records were checked")
    }

    /// Returns bytes that a record's texts lie in.
    pub(crate) fn text(&self, at: u32, len: usize) -> &[u8] {
        &self.bytes[at as usize..][..len]
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

/// Collects the entries of one layer, in archive order.
#[derive(Debug)]
pub struct IndexBuilder {
    bytes: Vec<u8>,
    entries: u32,
    pack_blocks: u64,
}

impl IndexBuilder {
    /// Starts an index without entries.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; HEADER_BYTES],
            entries: 0,
            pack_blocks: 0,
        }
    }

    /// Appends `entry`. Bodies lie in the pack in the order they are pushed in. An entry that is
    /// refused leaves no trace.
    pub fn push(&mut self, entry: &Entry<'_>) -> Result<(), IndexError> {
        let start = self.bytes.len();
        let pushed = self.append(entry);
        if pushed.is_err() {
            self.bytes.truncate(start);
        }
        pushed
    }

    /// Counts the entries so far.
    pub fn len(&self) -> usize {
        self.entries as usize
    }

    /// Tells whether nothing was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Returns how many bytes the index takes so far: all of them are in memory.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Ends the index.
    pub fn finish(mut self) -> Index {
        let whole = (self.bytes.len() as u64).to_le_bytes();
        self.bytes[..8].copy_from_slice(&MAGIC);
        self.bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&whole);
        self.bytes[24..28].copy_from_slice(&self.entries.to_le_bytes());
        self.bytes[32..40].copy_from_slice(&self.pack_blocks.to_le_bytes());
        let checksum = crc32c::crc32c(&self.bytes[CHECKED_FROM..]);
        self.bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        self.bytes.shrink_to_fit();
        Index {
            bytes: Arc::new(self.bytes),
            entries: self.entries,
            pack_blocks: self.pack_blocks,
        }
    }

    fn append(&mut self, entry: &Entry<'_>) -> Result<(), IndexError> {
        let refused = |defect| IndexError::Entry {
            number: self.entries,
            defect,
        };
        let pack_blocks = record::check(entry, self.pack_blocks).map_err(refused)?;
        record::write(entry, &mut self.bytes).map_err(refused)?;
        if self.bytes.len() > MAX_BYTES || self.entries == u32::MAX {
            return Err(IndexError::TooLong);
        }
        self.pack_blocks = pack_blocks;
        self.entries += 1;
        Ok(())
    }
}

impl Default for IndexBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// Checks every record and returns where the bodies end in the pack.
fn check_records(bytes: &[u8], entries: u32) -> Result<u64, IndexError> {
    let mut rest = bytes.get(HEADER_BYTES..).ok_or(IndexError::Damaged)?;
    let mut pack_block = 0;
    for number in 0..entries {
        let refused = |defect| IndexError::Entry { number, defect };
        let record = record::read(rest).ok_or_else(|| refused(Defect::Malformed))?;
        pack_block = record::check(&record.entry, pack_block).map_err(refused)?;
        rest = rest.get(record.len..).ok_or(IndexError::Damaged)?;
    }
    rest.is_empty()
        .then_some(pack_block)
        .ok_or(IndexError::Damaged)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, IndexError> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field
        .copied()
        .map(u32::from_le_bytes)
        .ok_or(IndexError::Damaged)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, IndexError> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field
        .copied()
        .map(u64::from_le_bytes)
        .ok_or(IndexError::Damaged)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "an index is never longer than MAX_BYTES"
)]
fn offset(at: usize) -> u32 {
    at as u32
}

#[cfg(test)]
mod tests;
