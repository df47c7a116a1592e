//! The image file while it is written: batches of metadata, sums, progress, cancellation.
//!
//! Neighbouring blocks are collected and go out in one `pwrite` of at most 1 MiB. A block of
//! zeros is never written: the file was extended first, so it reads as zeros already, and stays
//! a hole.
//!
//! Not here: file bodies; see `bodies`. No `fsync` either: the caller knows when that pays.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_tree::BLOCK_SIZE;

use crate::bytes::{BLOCK_BYTES, Block, is_zero};
use crate::sums::{Recorder, Sums};
use crate::write::WriteError;

/// Most bytes of one write.
const BATCH_BYTES: usize = 1 << 20;

/// Progress is reported when this much more is done: 1 MiB.
const REPORT_BYTES: u64 = 1 << 20;

/// An image file that is being filled.
pub(crate) struct Output<'a> {
    file: &'a File,
    progress: &'a dyn Fn(u64, u64),
    cancelled: &'a AtomicBool,
    batch: Vec<u8>,
    batch_start: u64,
    recorder: Recorder,
    written_bytes: u64,
    done_bytes: u64,
    reported_bytes: u64,
    total_bytes: u64,
}

impl<'a> Output<'a> {
    /// Takes an empty file and gives it its final length.
    pub(crate) fn new(
        file: &'a File,
        size_bytes: u64,
        total_bytes: u64,
        progress: &'a dyn Fn(u64, u64),
        cancelled: &'a AtomicBool,
    ) -> Result<Self, WriteError> {
        let found_bytes = file.metadata().map_err(at("examine"))?.len();
        if found_bytes != 0 {
            return Err(WriteError::OutputNotEmpty { found_bytes });
        }
        file.set_len(size_bytes).map_err(at("extend"))?;
        Ok(Self {
            file,
            progress,
            cancelled,
            batch: Vec::with_capacity(BATCH_BYTES),
            batch_start: 0,
            recorder: Recorder::default(),
            written_bytes: 0,
            done_bytes: 0,
            reported_bytes: 0,
            total_bytes,
        })
    }

    pub(crate) const fn file(&self) -> &'a File {
        self.file
    }

    /// Fails if somebody asked to stop.
    pub(crate) fn check_cancelled(&self) -> Result<(), WriteError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(WriteError::Cancelled);
        }
        Ok(())
    }

    /// Writes one block, soon.
    pub(crate) fn put(&mut self, number: u64, block: &Block) -> Result<(), WriteError> {
        if is_zero(block) {
            return Ok(());
        }
        let next = self.batch_start + (self.batch.len() / BLOCK_BYTES) as u64;
        if number != next || self.batch.len() >= BATCH_BYTES {
            self.flush()?;
            self.batch_start = number;
        }
        self.batch.extend_from_slice(block);
        self.recorder.record(number, &[crc32c::crc32c(block)]);
        Ok(())
    }

    /// Notes blocks of file bodies that were copied into the file.
    pub(crate) fn copied(&mut self, start: u64, sums: &[u32]) {
        self.recorder.record(start, sums);
        self.written_bytes += sums.len() as u64 * BLOCK_SIZE;
    }

    /// Notes that so much more is done, and reports it once enough has come together.
    pub(crate) fn advance(&mut self, bytes: u64) {
        self.done_bytes = (self.done_bytes + bytes).min(self.total_bytes);
        if self.done_bytes - self.reported_bytes >= REPORT_BYTES {
            self.reported_bytes = self.done_bytes;
            (self.progress)(self.done_bytes, self.total_bytes);
        }
    }

    /// Writes what is still collected.
    pub(crate) fn flush(&mut self) -> Result<(), WriteError> {
        self.check_cancelled()?;
        if self.batch.is_empty() {
            return Ok(());
        }
        self.file
            .write_all_at(&self.batch, self.batch_start * BLOCK_SIZE)
            .map_err(at("write metadata to"))?;
        self.written_bytes += self.batch.len() as u64;
        self.batch.clear();
        Ok(())
    }

    /// Ends the writing; returns the bytes written and the sums of their blocks.
    pub(crate) fn finish(mut self) -> Result<(u64, Sums), WriteError> {
        self.flush()?;
        (self.progress)(self.total_bytes, self.total_bytes);
        Ok((self.written_bytes, self.recorder.finish()))
    }
}

/// Names the step of a failed system call on the image.
pub(crate) fn at(step: &'static str) -> impl FnOnce(io::Error) -> WriteError {
    move |source| WriteError::Io { step, source }
}
