//! The root filesystem of a disk of somebody else's: the disk itself, what a qcow2 file has in it,
//! or the one partition that is a root filesystem.
//!
//! Whether bytes are a root filesystem is for the caller to judge.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_files::Passing;

use crate::disk::{HEAD_BYTES, MAX_DISK_BYTES};
use crate::medium::{Extent, Holds, Medium};
use crate::partitions::{Partition, PartitionError, is_partitioned, partitions};
use crate::plan::BLOCK_BYTES;
use crate::qcow2::read::{MAGIC, Qcow2Disk, Qcow2Error};
use crate::unpack::HoleKeeping;

/// Bytes handled at a time; the cancel flag is looked at as often.
const PIECE_BYTES: u64 = 1 << 20;

/// How a disk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Its bytes as they are.
    Raw,
    /// QEMU's format.
    Qcow2,
}

/// What was taken out of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How the disk is stored.
    pub format: Format,
    /// The number of the partition that the root filesystem is; nothing where it is the disk.
    pub partition: Option<u32>,
    /// Length of the root filesystem, rounded up to whole blocks.
    pub size_bytes: u64,
}

/// Why the root filesystem could not be taken out of a disk. What was written of it is worthless.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Somebody asked to stop.
    #[error("taking the root filesystem out of the disk was cancelled")]
    Cancelled,
    /// The disk could not be read.
    #[error("cannot read the disk")]
    Input {
        /// What the system said.
        source: io::Error,
    },
    /// It is longer than any.
    #[error("the disk is longer than {MAX_DISK_BYTES} bytes")]
    TooLong,
    /// It is a qcow2 file that is not taken.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
    /// It has partitions, and none that is taken.
    #[error(transparent)]
    Partitions(#[from] PartitionError),
    /// The root filesystem could not be written.
    #[error("cannot write the root filesystem")]
    Output {
        /// What the system said.
        source: io::Error,
    },
}

/// The root filesystem in a disk, found and not yet taken.
pub struct FoundRoot<'m> {
    disk: Disk<'m>,
    format: Format,
    partition: Option<u32>,
    start: u64,
    end: u64,
}

impl fmt::Debug for FoundRoot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FoundRoot")
            .field("format", &self.format)
            .field("partition", &self.partition)
            .field("start", &self.start)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// Writes the root filesystem of a disk into the empty file `output`, holes left out: see [`find_root`].
pub fn take_root<E>(
    medium: &dyn Medium,
    output: &File,
    judge: impl Fn(&[u8]) -> Result<(), E>,
    cancelled: &AtomicBool,
) -> Result<Result<Taken, E>, RootError> {
    match find_root(medium, judge)? {
        Ok(found) => found.take(output, cancelled).map(Ok),
        Err(refused) => Ok(Err(refused)),
    }
}

/// Finds the root filesystem of a disk.
///
/// `judge` sees the beginning of what may be one; what it refuses a disk without partitions with is
/// the inner error.
pub fn find_root<E>(
    medium: &dyn Medium,
    judge: impl Fn(&[u8]) -> Result<(), E>,
) -> Result<Result<FoundRoot<'_>, E>, RootError> {
    let (mut disk, format) = Disk::open(medium)?;
    let size_bytes = disk.size_bytes();
    let head = disk.head(0, size_bytes)?;
    let (partition, start, end) = match judge(&head) {
        Ok(()) => (None, 0, size_bytes),
        Err(refused) if !is_partitioned(&head) => return Ok(Err(refused)),
        Err(_) => {
            let root = root_partition(&mut disk, &head, &judge)?;
            (Some(root.number), root.start, root.end)
        }
    };
    Ok(Ok(FoundRoot {
        disk,
        format,
        partition,
        start,
        end,
    }))
}

impl FoundRoot<'_> {
    /// Tells how many bytes of it the disk stores: what is none of its holes, and may be zeros.
    pub fn data_bytes(&mut self, cancelled: &AtomicBool) -> Result<u64, RootError> {
        let (mut at, mut bytes) = (self.start, 0);
        while at < self.end {
            if cancelled.load(Ordering::Relaxed) {
                return Err(RootError::Cancelled);
            }
            let extent = self.disk.extent(at)?;
            let until = extent.end.clamp(at + 1, self.end);
            if extent.holds == Holds::Data {
                bytes += until - at;
            }
            at = until;
        }
        Ok(bytes)
    }

    /// Writes it into the empty file `output`, holes left out.
    pub fn take(mut self, output: &File, cancelled: &AtomicBool) -> Result<Taken, RootError> {
        let size_bytes = copy(&mut self.disk, self.start, self.end, output, cancelled)?;
        Ok(Taken {
            format: self.format,
            partition: self.partition,
            size_bytes,
        })
    }
}

/// Finds the one partition that is a root filesystem.
fn root_partition<E>(
    disk: &mut Disk<'_>,
    head: &[u8],
    judge: &impl Fn(&[u8]) -> Result<(), E>,
) -> Result<Partition, RootError> {
    let all = partitions(head, disk.size_bytes())?;
    let mut roots = Vec::new();
    for partition in &all {
        if judge(&disk.head(partition.start, partition.end)?).is_ok() {
            roots.push(*partition);
        }
    }
    match roots.as_slice() {
        [root] => Ok(*root),
        [] => Err(PartitionError::NoRoot { count: all.len() }.into()),
        several => {
            let count = several.len();
            Err(PartitionError::Several { count }.into())
        }
    }
}

/// Copies what lies between `start` and `end` to the front of `output`.
fn copy(
    disk: &mut Disk<'_>,
    start: u64,
    end: u64,
    output: &File,
    cancelled: &AtomicBool,
) -> Result<u64, RootError> {
    let block = BLOCK_BYTES as u64;
    let size_bytes = (end - start).next_multiple_of(block);
    let writing = |source| RootError::Output { source };
    output.set_len(size_bytes).map_err(writing)?;
    let mut writer = HoleKeeping::new(Passing::new(output), 0);
    let mut buffer = Vec::new();
    let mut at = 0;
    while start + at < end {
        if cancelled.load(Ordering::Relaxed) {
            return Err(RootError::Cancelled);
        }
        let extent = disk.extent(start + at)?;
        let until = extent.end.clamp(start + at + 1, end) - start;
        if extent.holds == Holds::Hole {
            // Where data begins within a block, the block is read as a whole.
            let whole = until / block * block;
            if start + until == end || whole > at {
                at = if start + until == end { until } else { whole };
                continue;
            }
        }
        let until = until.next_multiple_of(block).min(at + PIECE_BYTES);
        buffer.resize(usize::try_from(until - at).unwrap_or_default(), 0);
        disk.read_up_to(&mut buffer, start + at, end)?;
        writer.write_at(&buffer, at).map_err(writing)?;
        at = until;
    }
    Ok(size_bytes)
}

/// A disk, whatever it is stored as.
enum Disk<'m> {
    Raw(&'m dyn Medium, u64),
    Qcow2(Box<Qcow2Disk<'m>>),
}

impl<'m> Disk<'m> {
    fn open(medium: &'m dyn Medium) -> Result<(Self, Format), RootError> {
        let reading = |source| RootError::Input { source };
        let size_bytes = medium.size_bytes().map_err(reading)?;
        let mut magic = [0; 4];
        if size_bytes >= magic.len() as u64 {
            medium.read_bytes(&mut magic, 0).map_err(reading)?;
        }
        if magic == MAGIC {
            let disk = Qcow2Disk::open(medium)?;
            return Ok((Self::Qcow2(Box::new(disk)), Format::Qcow2));
        }
        if size_bytes > MAX_DISK_BYTES {
            return Err(RootError::TooLong);
        }
        Ok((Self::Raw(medium, size_bytes), Format::Raw))
    }

    fn size_bytes(&self) -> u64 {
        match self {
            Self::Raw(_, size_bytes) => *size_bytes,
            Self::Qcow2(disk) => disk.size_bytes(),
        }
    }

    fn extent(&mut self, from: u64) -> Result<Extent, RootError> {
        match self {
            Self::Raw(medium, _) => {
                let extent = medium.extent(from);
                extent.map_err(|source| RootError::Input { source })
            }
            Self::Qcow2(disk) => Ok(disk.extent(from)?),
        }
    }

    /// Fills `buffer` with the bytes between `at` and `end`; behind that there are zeros.
    fn read_up_to(&mut self, buffer: &mut [u8], at: u64, end: u64) -> Result<(), RootError> {
        let there = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
        let (there, behind) = buffer.split_at_mut(there.min(buffer.len()));
        behind.fill(0);
        match self {
            Self::Raw(medium, _) => {
                let read = medium.read_bytes(there, at);
                read.map_err(|source| RootError::Input { source })
            }
            Self::Qcow2(disk) => Ok(disk.read(there, at)?),
        }
    }

    /// Reads the beginning of what lies between `start` and `end`.
    fn head(&mut self, start: u64, end: u64) -> Result<Vec<u8>, RootError> {
        let length = usize::try_from(end - start).unwrap_or(HEAD_BYTES);
        let mut head = vec![0; length.min(HEAD_BYTES)];
        self.read_up_to(&mut head, start, end)?;
        Ok(head)
    }
}

#[cfg(test)]
mod tests;
