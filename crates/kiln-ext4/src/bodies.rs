//! File bodies: from the packs into the image, in ranges as long as possible.
//!
//! Bodies lie in the image in the order they have in their packs, so a range goes on until a
//! masked file, a superblock copy or the next layer interrupts it. A range is moved by
//! `copy_file_range`, which clones on file systems that can (XFS, btrfs: everything here is
//! aligned to blocks, which is all `FICLONERANGE` would ask for) and copies inside the kernel on
//! others; where the kernel refuses, and on ext4, where it would copy through the page cache, by
//! reads and writes that pass it by. Blocks of zeros are skipped.
//!
//! Not here: which bodies are live; the tree says so, and nothing else is ever read.

use std::fs::File;
use std::io;
use std::ops::Range;

use kiln_files::{Passing, kernel_copies_pay};
use kiln_tree::{BLOCK_SIZE, InodeKind, Tree};
use rustix::io::Errno;

use crate::geometry::{Cursor, Geometry};
use crate::output::{Output, at};
use crate::placement::Placement;
use crate::survey::{Object, Survey};
use crate::write::{CopyMethod, Source, WriteError};

/// Blocks moved by one call: 4 MiB, so that cancelling takes effect soon.
const CHUNK_BLOCKS: u64 = 1024;

/// Bytes of the buffer for copying without the kernel's help.
const BUFFER_BYTES: usize = 2 << 20;

/// Copies all live bodies; returns how, or nothing when there was nothing to copy.
pub(crate) fn write(
    survey: &Survey<'_>,
    geometry: &Geometry,
    placement: &Placement,
    sources: &[Source<'_>],
    output: &mut Output<'_>,
) -> Result<Option<CopyMethod>, WriteError> {
    let mut mover = Mover::new(output.file());
    let mut run: Option<Run> = None;
    for id in survey.tree.bodies() {
        let inode = survey.tree.inode(id);
        let InodeKind::Regular(body) = inode.kind else {
            continue;
        };
        let mut cursor = Cursor::at(geometry, placement.start(Object::InTree(id)));
        for segment in body.segments() {
            let mut pack_block = segment.pack_block;
            let mut left = segment.blocks;
            while left > 0 {
                let piece = cursor.take(left);
                let next = Run {
                    layer: inode.layer,
                    pack_block,
                    image_block: piece.start,
                    blocks: piece.end - piece.start,
                };
                pack_block += next.blocks;
                left -= next.blocks;
                match &mut run {
                    Some(run) if run.is_followed_by(&next) => run.blocks += next.blocks,
                    _ => {
                        if let Some(complete) = run.replace(next) {
                            mover.copy_run(&complete, sources, output)?;
                        }
                    }
                }
            }
        }
    }
    if let Some(complete) = run {
        mover.copy_run(&complete, sources, output)?;
    }
    Ok(mover.method)
}

/// Counts the blocks of live bodies that are zero in their packs.
pub(crate) fn zero_blocks(tree: &Tree, sources: &[Source<'_>]) -> u64 {
    let mut zero = 0;
    for id in tree.bodies() {
        let inode = tree.inode(id);
        let (InodeKind::Regular(body), Some(source)) = (inode.kind, sources.get(inode.layer))
        else {
            continue;
        };
        for segment in body.segments() {
            let (start, end) = (segment.pack_block, segment.pack_block + segment.blocks);
            let first = source.zero_runs.partition_point(|run| run.end <= start);
            let runs = source.zero_runs[first..].iter();
            zero += runs
                .take_while(|run| run.start < end)
                .map(|run| run.end.min(end) - run.start.max(start))
                .sum::<u64>();
        }
    }
    zero
}

/// Blocks that lie side by side in a pack and in the image.
struct Run {
    layer: usize,
    pack_block: u64,
    image_block: u64,
    blocks: u64,
}

impl Run {
    fn is_followed_by(&self, next: &Self) -> bool {
        self.layer == next.layer
            && self.pack_block + self.blocks == next.pack_block
            && self.image_block + self.blocks == next.image_block
    }
}

/// Moves ranges by the best way that works.
struct Mover {
    /// Whether the kernel is asked to copy: until it has refused, where it can gain something.
    asks_kernel: bool,
    /// The way that worked last.
    method: Option<CopyMethod>,
    buffer: Vec<u8>,
}

impl Mover {
    /// Decides for what is copied into `target`.
    fn new(target: &File) -> Self {
        Self {
            asks_kernel: kernel_copies_pay(target),
            method: None,
            buffer: Vec::new(),
        }
    }

    /// Copies a run without its blocks of zeros.
    fn copy_run(
        &mut self,
        run: &Run,
        sources: &[Source<'_>],
        output: &mut Output<'_>,
    ) -> Result<(), WriteError> {
        let source = sources.get(run.layer).ok_or(WriteError::Sources {
            layers: run.layer + 1,
            given: sources.len(),
        })?;
        let end = run.pack_block + run.blocks;
        let first = source
            .zero_runs
            .partition_point(|zeros| zeros.end <= run.pack_block);
        let mut block = run.pack_block;
        for zeros in &source.zero_runs[first..] {
            if zeros.start >= end {
                break;
            }
            self.copy_blocks(run, block..zeros.start.max(block), source, output)?;
            let skipped = zeros.end.min(end).max(block);
            output.advance((skipped - zeros.start.clamp(block, skipped)) * BLOCK_SIZE);
            block = skipped;
        }
        self.copy_blocks(run, block..end, source, output)
    }

    /// Copies blocks of the pack, a chunk at a time.
    fn copy_blocks(
        &mut self,
        run: &Run,
        blocks: Range<u64>,
        source: &Source<'_>,
        output: &mut Output<'_>,
    ) -> Result<(), WriteError> {
        let short = |block| WriteError::SourceTooShort {
            layer: run.layer,
            block,
        };
        let mut block = blocks.start;
        while block < blocks.end {
            output.check_cancelled()?;
            let count = (blocks.end - block).min(CHUNK_BLOCKS);
            let place = usize::try_from(block)
                .ok()
                .zip(usize::try_from(block + count).ok());
            let sums = place
                .and_then(|(start, end)| source.sums.get(start..end))
                .ok_or_else(|| short(block))?;
            let image_block = run.image_block + (block - run.pack_block);
            let range = ByteRange {
                from: block * BLOCK_SIZE,
                to: image_block * BLOCK_SIZE,
                bytes: count * BLOCK_SIZE,
            };
            self.copy(source.file, output.file(), range)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => short(block),
                    _ => at("copy file bodies to")(error),
                })?;
            output.copied(image_block, sums);
            output.advance(range.bytes);
            block += count;
        }
        Ok(())
    }

    fn copy(&mut self, from: &File, to: &File, range: ByteRange) -> io::Result<()> {
        let mut range = range;
        while range.bytes > 0 && self.asks_kernel {
            let (mut source, mut target) = (range.from, range.to);
            let bytes = usize::try_from(range.bytes).unwrap_or(usize::MAX);
            let copied =
                rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), bytes);
            match copied {
                // The source ends, or the kernel cannot tell: reading decides.
                Ok(0) => break,
                Ok(copied) => {
                    self.method = Some(CopyMethod::CopyFileRange);
                    range.advance(copied as u64);
                }
                Err(Errno::INTR) => {}
                Err(
                    Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS,
                ) => self.asks_kernel = false,
                Err(error) => return Err(error.into()),
            }
        }
        if range.bytes > 0 {
            self.method = Some(CopyMethod::ReadWrite);
            self.read_and_write(from, to, range)?;
        }
        Ok(())
    }

    fn read_and_write(&mut self, from: &File, to: &File, range: ByteRange) -> io::Result<()> {
        self.buffer.resize(BUFFER_BYTES, 0);
        let (from, to) = (Passing::new(from), Passing::new(to));
        let mut range = range;
        while range.bytes > 0 {
            let bytes = BUFFER_BYTES.min(usize::try_from(range.bytes).unwrap_or(BUFFER_BYTES));
            from.read_exact_at(&mut self.buffer[..bytes], range.from)?;
            to.write_all_at(&self.buffer[..bytes], range.to)?;
            range.advance(bytes as u64);
        }
        Ok(())
    }
}

/// What is still to be copied.
#[derive(Clone, Copy)]
struct ByteRange {
    from: u64,
    to: u64,
    bytes: u64,
}

impl ByteRange {
    fn advance(&mut self, copied: u64) {
        self.from += copied;
        self.to += copied;
        self.bytes -= copied;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn both_ways_of_copying_give_the_same_bytes() {
        let from = tempfile::tempfile().expect("a temporary file");
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        from.write_all_at(&bytes, 0).expect("it can be written");
        let range = ByteRange {
            from: 4096,
            to: 8192,
            bytes: 2_900_000,
        };

        for asks_kernel in [true, false] {
            let to = tempfile::tempfile().expect("a temporary file");
            let mut mover = Mover {
                asks_kernel,
                method: None,
                buffer: Vec::new(),
            };
            mover.copy(&from, &to, range).expect("it can be copied");

            let mut copied = vec![0; 2_900_000];
            to.read_exact_at(&mut copied, 8192).expect("it is there");
            assert!(copied == bytes[4096..2_904_096], "{asks_kernel}");
        }
    }

    #[test]
    fn a_source_that_ends_early_is_an_error() {
        let from = tempfile::tempfile().expect("a temporary file");
        from.set_len(100).expect("it can be extended");
        let to = tempfile::tempfile().expect("a temporary file");
        let range = ByteRange {
            from: 0,
            to: 0,
            bytes: 4096,
        };

        let error = Mover::new(&to)
            .copy(&from, &to, range)
            .expect_err("it is short");

        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
