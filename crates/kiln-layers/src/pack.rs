//! A decoded layer in one file.
//!
//! ```text
//! bodies       from block 0 on, each at a block boundary, its last block filled with zeros;
//!              blocks of zeros are holes
//! index        the entries, as kiln-tree encodes them
//! sums         u32 for each block of bodies: its CRC32C
//! zero runs    u64 first block, u64 block behind the last, ascending
//! footer        0  8  "KILNPACK"
//!               8  4  format number
//!              12  4  CRC32C of the index
//!              16  4  CRC32C of the sums
//!              20  4  CRC32C of the zero runs
//!              24 32  diff id
//!              56  8  blocks of bodies
//!              64  8  bytes of the index
//!              72  8  bytes of the zero runs
//!              80  4  CRC32C of the footer up to here
//!              84  4  zero
//! ```
//!
//! Integers are little-endian. A pack is not synced when it is made: it is believed when its
//! footer and all it speaks for are in order, and the sums tell whether a body's block is.
//! Making one is not here.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use kiln_tree::{BLOCK_SIZE, DiffId, Index, IndexError};

/// The format number this code writes, and the only one it reads.
pub const PACK_FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"KILNPACK";
const FOOTER_BYTES: usize = 88;
/// The footer's own checksum covers what is in front of it.
const FOOTER_CHECKED: usize = 80;
const SUM_BYTES: u64 = 4;
const RUN_BYTES: usize = 16;

/// An opened pack.
///
/// Invariant: index, sums and zero runs are what was written, and agree with each other and with
/// the length of the file. The bodies have not been read.
#[derive(Debug)]
pub struct Pack {
    file: File,
    diff_id: DiffId,
    index: Index,
    sums: Vec<u32>,
    zero_runs: Vec<Range<u64>>,
}

/// Why a file cannot be used as a pack. All but [`PackError::Read`] mean that it must be made
/// again.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The file could not be read.
    #[error("cannot read the {part} of the pack")]
    Read {
        /// Which part.
        part: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not end as a pack does.
    #[error("the file is not a pack, or not a whole one")]
    NotAPack,
    /// Another version of this code wrote it.
    #[error("the pack has format {found}, this version reads {PACK_FORMAT}")]
    Format {
        /// The number found.
        found: u32,
    },
    /// A part is not what was written.
    #[error("the {part} of the pack is damaged")]
    Damaged {
        /// Which part.
        part: &'static str,
    },
    /// The index is not one.
    #[error("the index of the pack cannot be used")]
    Index {
        /// Why not.
        source: IndexError,
    },
}

struct Footer {
    diff_id: DiffId,
    blocks: u64,
    index_bytes: u64,
    run_bytes: u64,
    index_sum: u32,
    sums_sum: u32,
    runs_sum: u32,
}

impl Pack {
    /// Opens a pack after checking everything in it but the bodies.
    pub fn open(file: File) -> Result<Self, PackError> {
        let length = file
            .metadata()
            .map_err(|source| PackError::Read {
                part: "length",
                source,
            })?
            .len();
        let footer_at = length
            .checked_sub(FOOTER_BYTES as u64)
            .ok_or(PackError::NotAPack)?;
        let footer = Footer::decode(&read(&file, "footer", footer_at, FOOTER_BYTES as u64)?)?;
        let [index_at, sums_at, runs_at] = footer.places(footer_at).ok_or(PackError::NotAPack)?;
        let index = read(&file, "index", index_at, footer.index_bytes)?;
        let sums = read(&file, "sums", sums_at, runs_at - sums_at)?;
        let runs = read(&file, "zero runs", runs_at, footer.run_bytes)?;
        check("index", &index, footer.index_sum)?;
        check("sums", &sums, footer.sums_sum)?;
        check("zero runs", &runs, footer.runs_sum)?;
        let index = Index::decode(index).map_err(|source| PackError::Index { source })?;
        if index.pack_blocks() != footer.blocks {
            return Err(PackError::Damaged { part: "index" });
        }
        Ok(Self {
            file,
            diff_id: footer.diff_id,
            index,
            sums: decode_sums(&sums),
            zero_runs: decode_runs(&runs, footer.blocks)
                .ok_or(PackError::Damaged { part: "zero runs" })?,
        })
    }

    /// Returns the file, whose bodies are to be read with positions.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the layer's diff id.
    pub fn diff_id(&self) -> DiffId {
        self.diff_id
    }

    /// Returns the layer's entries; cloning them is cheap.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns the CRC32C of every block of bodies.
    pub fn sums(&self) -> &[u32] {
        &self.sums
    }

    /// Returns the runs of blocks that are zero, ascending; the file has holes there.
    pub fn zero_runs(&self) -> &[Range<u64>] {
        &self.zero_runs
    }
}

/// Lays out all that follows the index.
pub(crate) fn encode_trailer(
    index: &Index,
    sums: &[u32],
    zero_runs: &[Range<u64>],
    diff_id: DiffId,
) -> Vec<u8> {
    let index = index.as_bytes();
    let runs_at = size_of_val(sums);
    let footer_at = runs_at + zero_runs.len() * RUN_BYTES;
    let mut bytes = Vec::with_capacity(footer_at + FOOTER_BYTES);
    bytes.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
    for run in zero_runs {
        bytes.extend(run.start.to_le_bytes());
        bytes.extend(run.end.to_le_bytes());
    }
    let part_sums = [index, &bytes[..runs_at], &bytes[runs_at..]]
        .map(|part| crc32c::crc32c(part).to_le_bytes());
    bytes.extend(MAGIC);
    bytes.extend(PACK_FORMAT.to_le_bytes());
    bytes.extend(part_sums.as_flattened());
    bytes.extend(diff_id.as_bytes());
    bytes.extend((sums.len() as u64).to_le_bytes());
    bytes.extend((index.len() as u64).to_le_bytes());
    bytes.extend(((footer_at - runs_at) as u64).to_le_bytes());
    let own_sum = crc32c::crc32c(&bytes[footer_at..]);
    bytes.extend(own_sum.to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}

impl Footer {
    fn decode(bytes: &[u8]) -> Result<Self, PackError> {
        let damaged = || PackError::Damaged { part: "footer" };
        if bytes.first_chunk() != Some(&MAGIC) {
            return Err(PackError::NotAPack);
        }
        let u32_at = |at| field(bytes, at).map(u32::from_le_bytes).ok_or_else(damaged);
        let u64_at = |at| field(bytes, at).map(u64::from_le_bytes).ok_or_else(damaged);
        let found = u32_at(8)?;
        if found != PACK_FORMAT {
            return Err(PackError::Format { found });
        }
        let checked = bytes.get(..FOOTER_CHECKED).ok_or_else(damaged)?;
        if u32_at(80)? != crc32c::crc32c(checked) || u32_at(84)? != 0 {
            return Err(damaged());
        }
        Ok(Self {
            index_sum: u32_at(12)?,
            sums_sum: u32_at(16)?,
            runs_sum: u32_at(20)?,
            diff_id: DiffId::from_bytes(field(bytes, 24).ok_or_else(damaged)?),
            blocks: u64_at(56)?,
            index_bytes: u64_at(64)?,
            run_bytes: u64_at(72)?,
        })
    }

    /// Returns where index, sums and zero runs start, if together with the bodies they fill the
    /// file exactly.
    fn places(&self, footer_at: u64) -> Option<[u64; 3]> {
        let index_at = self.blocks.checked_mul(BLOCK_SIZE)?;
        let sums_at = index_at.checked_add(self.index_bytes)?;
        let runs_at = sums_at.checked_add(self.blocks.checked_mul(SUM_BYTES)?)?;
        let end = runs_at.checked_add(self.run_bytes)?;
        (end == footer_at).then_some([index_at, sums_at, runs_at])
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Reads a part whose place and length lie inside the file.
fn read(file: &File, part: &'static str, at: u64, len: u64) -> Result<Vec<u8>, PackError> {
    let len = usize::try_from(len).map_err(|_| PackError::NotAPack)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at)
        .map_err(|source| PackError::Read { part, source })?;
    Ok(bytes)
}

fn check(part: &'static str, bytes: &[u8], sum: u32) -> Result<(), PackError> {
    if crc32c::crc32c(bytes) == sum {
        Ok(())
    } else {
        Err(PackError::Damaged { part })
    }
}

fn decode_sums(bytes: &[u8]) -> Vec<u32> {
    let (sums, _) = bytes.as_chunks();
    sums.iter().map(|sum| u32::from_le_bytes(*sum)).collect()
}

/// Decodes runs that ascend, hold something, do not touch each other and stay inside the bodies.
fn decode_runs(bytes: &[u8], blocks: u64) -> Option<Vec<Range<u64>>> {
    let (runs, rest) = bytes.as_chunks::<RUN_BYTES>();
    let runs: Vec<Range<u64>> = runs
        .iter()
        .map(|run| {
            let (start, end) = run.split_at(RUN_BYTES / 2);
            Some(field(start, 0).map(u64::from_le_bytes)?..field(end, 0).map(u64::from_le_bytes)?)
        })
        .collect::<Option<_>>()?;
    let mut free_from = Some(0);
    for run in &runs {
        if run.start < free_from? || run.is_empty() || run.end > blocks {
            return None;
        }
        free_from = run.end.checked_add(1);
    }
    rest.is_empty().then_some(runs)
}
