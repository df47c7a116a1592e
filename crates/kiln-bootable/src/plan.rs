//! Which stretches of a root filesystem become chunks.
//!
//! The file is cut into cells of equal length. A cell of zeros alone is not stored; of any other
//! the chunk goes from its first block with data to its last. Only the bytes decide, not where the
//! file system has its holes: a copy gives the same chunks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use kiln_domain::oci::bootable::{MAX_SUMS_BYTES, Part, chunk_grid_bytes};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::pack::{ImageFiles, PackError};

/// Blocks of a root filesystem, in bytes.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Bytes looked at in one piece.
const PIECE_BYTES: u64 = 1 << 20;

const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// Lists the parts of an artifact in the order of its layers: the chunks, then the other files.
///
/// The root filesystem has to be of whole blocks, which every image's is.
pub fn plan(files: &ImageFiles) -> Result<Vec<Part>, PackError> {
    let reading = |source| PackError::Read {
        what: "root filesystem",
        source,
    };
    let size_bytes = files.rootfs.metadata().map_err(reading)?.len();
    if size_bytes % BLOCK_BYTES as u64 != 0 {
        return Err(PackError::PartialBlock { size_bytes });
    }
    let grid_bytes = chunk_grid_bytes(size_bytes);
    let mut parts = Vec::new();
    let mut cell = 0;
    while let Some(data) = next_data(&files.rootfs, cell, size_bytes).map_err(reading)? {
        // Cells without data are stepped over at once.
        cell = data / grid_bytes * grid_bytes;
        let end = (cell + grid_bytes).min(size_bytes);
        if let Some((start, stop)) = data_of(&files.rootfs, cell, end).map_err(reading)? {
            parts.push(Part::Chunk {
                offset_bytes: start,
                size_bytes: stop - start,
            });
        }
        cell = end;
    }
    parts.push(Part::Kernel);
    let has_sums = match &files.sums {
        Some(sums) => {
            let what = "checksums";
            let found = sums.metadata();
            found
                .map_err(|source| PackError::Read { what, source })?
                .len()
                <= MAX_SUMS_BYTES
        }
        None => false,
    };
    let others = [
        (files.initrd.is_some(), Part::Initrd),
        (files.modules.is_some(), Part::Modules),
        (has_sums, Part::Sums),
    ];
    parts.extend(
        others
            .into_iter()
            .filter_map(|(has, part)| has.then_some(part)),
    );
    Ok(parts)
}

/// Tells whether a block is nothing but zeros.
pub(crate) fn is_zero(block: &[u8]) -> bool {
    ZEROS.get(..block.len()).is_some_and(|zeros| zeros == block)
}

/// Finds the first and the end of the last block with data of a cell.
fn data_of(file: &File, start: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    let mut pieces = Vec::new();
    let mut at = start;
    while let Some(data) = next_data(file, at, end)? {
        let hole = next_hole(file, data, end)?;
        let mut from = data / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        at = hole.next_multiple_of(BLOCK_BYTES as u64).min(end);
        while from < at {
            let to = (from + PIECE_BYTES).min(at);
            pieces.push((from, to));
            from = to;
        }
        if at >= end {
            break;
        }
    }
    let mut buffer = Vec::new();
    let mut blocks_of = |(from, to): (u64, u64)| -> io::Result<Vec<u64>> {
        buffer.resize(usize::try_from(to - from).unwrap_or_default(), 0);
        file.read_exact_at(&mut buffer, from)?;
        let blocks = buffer.chunks(BLOCK_BYTES).zip(0_u64..);
        let with_data = blocks.filter(|(block, _)| !is_zero(block));
        Ok(with_data
            .map(|(_, index)| from + index * BLOCK_BYTES as u64)
            .collect())
    };
    let mut first = None;
    for piece in &pieces {
        first = blocks_of(*piece)?.first().copied();
        if first.is_some() {
            break;
        }
    }
    let Some(first) = first else {
        return Ok(None);
    };
    for piece in pieces.iter().rev() {
        if let Some(last) = blocks_of(*piece)?.last() {
            return Ok(Some((first, last + BLOCK_BYTES as u64)));
        }
    }
    Ok(None)
}

/// Finds the next byte at or behind `from` that the file system holds; nothing when only a hole is
/// left in front of `end`.
pub(crate) fn next_data(file: &File, from: u64, end: u64) -> io::Result<Option<u64>> {
    if from >= end {
        return Ok(None);
    }
    match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(found) => Ok((found < end).then_some(found.max(from))),
        Err(Errno::NXIO) => Ok(None),
        // The file system does not know its holes: all is data.
        Err(Errno::INVAL) => Ok(Some(from)),
        Err(errno) => Err(errno.into()),
    }
}

/// Finds the end of the data at `from`.
pub(crate) fn next_hole(file: &File, from: u64, end: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Hole(from)) {
        Ok(found) => Ok(found.min(end)),
        Err(Errno::NXIO | Errno::INVAL) => Ok(end),
        Err(errno) => Err(errno.into()),
    }
}
