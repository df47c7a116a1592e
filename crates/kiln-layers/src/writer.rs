//! Writes file bodies into a pack, block by block.
//!
//! Bytes are gathered and written about 2 MiB at once. A block of zeros is never written: it
//! stays a hole of the file and is noted. Every block's CRC32C is computed on the way.
//!
//! What follows the bodies in the file is not here; see the pack.

use std::fs::File;
use std::io;
use std::ops::Range;

use kiln_files::Passing;
use kiln_tree::{BLOCK_SIZE, DiffId, Index};

use crate::error::DecodeError;
use crate::pack;

/// [`BLOCK_SIZE`] as a length in memory.
const BLOCK_BYTES: usize = 4096;
const _: () = assert!(BLOCK_BYTES as u64 == BLOCK_SIZE);

/// Bytes gathered before they are written.
const GATHERED_BYTES: usize = 2 << 20;

/// A block that is a hole.
pub(crate) const ZERO_BLOCK: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// The bodies of a pack in the making.
pub(crate) struct PackWriter<'f> {
    file: Passing<'f>,
    /// Bytes not yet written; they belong at `flushed_blocks`.
    gathered: Vec<u8>,
    flushed_blocks: u64,
    sums: Vec<u32>,
    zero_runs: Vec<Range<u64>>,
}

impl<'f> PackWriter<'f> {
    pub(crate) fn new(file: &'f File) -> Self {
        Self {
            file: Passing::new(file),
            gathered: Vec::with_capacity(GATHERED_BYTES),
            flushed_blocks: 0,
            sums: Vec::new(),
            zero_runs: Vec::new(),
        }
    }

    /// Returns the block that the next body starts at; the last one must have been ended.
    pub(crate) fn next_block(&self) -> u64 {
        self.flushed_blocks + (self.gathered.len() / BLOCK_BYTES) as u64
    }

    /// Appends bytes of a body.
    pub(crate) fn append(&mut self, mut bytes: &[u8]) -> Result<(), DecodeError> {
        while !bytes.is_empty() {
            let room = GATHERED_BYTES - self.gathered.len();
            let (fitting, rest) = bytes.split_at(room.min(bytes.len()));
            self.gathered.extend_from_slice(fitting);
            if self.gathered.len() == GATHERED_BYTES {
                self.flush()?;
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Fills the last block with zeros, so that the next body starts a new one.
    pub(crate) fn end_block(&mut self) -> Result<(), DecodeError> {
        let partial = self.gathered.len() % BLOCK_BYTES;
        match partial {
            0 => Ok(()),
            _ => self.append(&ZERO_BLOCK[partial..]),
        }
    }

    /// Writes all that follows the bodies, and returns the length of the file.
    pub(crate) fn finish(mut self, index: &Index, diff_id: DiffId) -> Result<u64, DecodeError> {
        self.flush()?;
        let trailer = pack::encode_trailer(index, &self.sums, &self.zero_runs, diff_id);
        let mut at = self.flushed_blocks * BLOCK_SIZE;
        for part in [index.as_bytes(), &trailer] {
            self.file
                .write_all_at(part, at)
                .map_err(|source| DecodeError::Output {
                    step: "write the index of",
                    source,
                })?;
            at += part.len() as u64;
        }
        Ok(at)
    }

    /// Writes what is gathered, which ends at a block boundary, in as few calls as there are runs
    /// of blocks that are not zero.
    fn flush(&mut self) -> Result<(), DecodeError> {
        let mut run_start = 0;
        for (number, block) in self.gathered.chunks_exact(BLOCK_BYTES).enumerate() {
            self.sums.push(crc32c::crc32c(block));
            if block == ZERO_BLOCK {
                let start = number * BLOCK_BYTES;
                self.write(run_start..start)?;
                run_start = start + BLOCK_BYTES;
                note_zero(&mut self.zero_runs, self.flushed_blocks + number as u64);
            }
        }
        self.write(run_start..self.gathered.len())?;
        self.flushed_blocks += (self.gathered.len() / BLOCK_BYTES) as u64;
        self.gathered.clear();
        Ok(())
    }

    fn write(&self, run: Range<usize>) -> Result<(), DecodeError> {
        if run.is_empty() {
            return Ok(());
        }
        let at = self.flushed_blocks * BLOCK_SIZE + run.start as u64;
        let written: io::Result<()> = self.file.write_all_at(&self.gathered[run], at);
        written.map_err(|source| DecodeError::Output {
            step: "write",
            source,
        })
    }
}

fn note_zero(runs: &mut Vec<Range<u64>>, block: u64) {
    match runs.last_mut() {
        Some(last) if last.end == block => last.end = block + 1,
        _ => runs.push(block..block + 1),
    }
}
