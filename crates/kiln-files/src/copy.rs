//! Copying one open file to another: clone, else copy in the kernel, else read and write.
//!
//! Holes stay holes. The source's file position is neither used nor relied upon, because a
//! descriptor that came over a socket shares it with whoever sent it. Hashing is not here.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::passing::{Passing, kernel_copies_pay};

/// Bytes moved between two looks at the cancel flag.
const CHUNK_BYTES: u64 = 4 << 20;
/// Buffer of the slowest way, in bytes: what pays for writes that go to the disk at once.
const BUFFER_BYTES: usize = 1 << 20;

/// What a copy did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Length of the copy, holes included, in bytes.
    pub size_bytes: u64,
    /// Bytes that were read and written; holes and shared blocks are not.
    pub moved_bytes: u64,
    /// How the bytes got there.
    pub method: CopyMethod,
}

/// How the bytes of a copy got there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMethod {
    /// The file system shares the blocks; nothing was moved.
    Cloned,
    /// The bytes were moved, holes left out.
    Moved,
}

/// Why a copy ended early.
#[derive(Debug)]
pub(crate) enum CopyError {
    NotRegular,
    Cancelled,
    Io(io::Error),
}

impl<E: Into<io::Error>> From<E> for CopyError {
    fn from(source: E) -> Self {
        Self::Io(source.into())
    }
}

/// Copies all of `source` into the empty file `target`.
///
/// The length is the source's when the copy begins; a source that is cut meanwhile is an
/// `UnexpectedEof` error.
pub(crate) fn copy(
    source: &File,
    target: &File,
    cancelled: &AtomicBool,
) -> Result<Copied, CopyError> {
    let metadata = source.metadata()?;
    if !metadata.is_file() {
        return Err(CopyError::NotRegular);
    }
    if cancelled.load(Ordering::Relaxed) {
        return Err(CopyError::Cancelled);
    }
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(Copied {
            size_bytes: target.metadata()?.len(),
            moved_bytes: 0,
            method: CopyMethod::Cloned,
        });
    }
    let size_bytes = metadata.len();
    target.set_len(size_bytes)?;
    let mut mover = Mover::new(source, target, cancelled);
    let (mut from, mut moved_bytes) = (0, 0);
    while let Some((start, end)) = next_extent(source, from, size_bytes)? {
        mover.move_range(start, end)?;
        moved_bytes += end - start;
        from = end;
    }
    Ok(Copied {
        size_bytes,
        moved_bytes,
        method: CopyMethod::Moved,
    })
}

/// Finds the next stretch of data at or behind `from`; `None` when only a hole is left.
fn next_extent(source: &File, from: u64, size_bytes: u64) -> io::Result<Option<(u64, u64)>> {
    if from >= size_bytes {
        return Ok(None);
    }
    let start = match rustix::fs::seek(source, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // The file system does not know its holes: all is data.
        Err(Errno::INVAL) => return Ok(Some((from, size_bytes))),
        Err(errno) => return Err(errno.into()),
    };
    let end = rustix::fs::seek(source, SeekFrom::Hole(start))?.min(size_bytes);
    // A source that grows or shrinks meanwhile may answer outside the range asked for.
    Ok((start >= from && start < end).then_some((start, end)))
}

/// Moves ranges, and remembers when the kernel would gain nothing by copying between these two
/// files, or turned out not to.
struct Mover<'a> {
    source: &'a File,
    target: &'a File,
    from: Passing<'a>,
    to: Passing<'a>,
    cancelled: &'a AtomicBool,
    kernel_copies: bool,
    buffer: Vec<u8>,
}

impl<'a> Mover<'a> {
    fn new(source: &'a File, target: &'a File, cancelled: &'a AtomicBool) -> Self {
        Self {
            source,
            target,
            from: Passing::new(source),
            to: Passing::new(target),
            cancelled,
            kernel_copies: kernel_copies_pay(target),
            buffer: Vec::new(),
        }
    }

    fn move_range(&mut self, start: u64, end: u64) -> Result<(), CopyError> {
        let mut at = start;
        while at < end {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(CopyError::Cancelled);
            }
            let length = (end - at).min(CHUNK_BYTES);
            at += self.move_some(at, length)?;
        }
        Ok(())
    }

    /// Moves between 1 and `length` bytes at `offset`, and says how many.
    fn move_some(&mut self, offset: u64, length: u64) -> io::Result<u64> {
        if self.kernel_copies {
            match self.copy_in_kernel(offset, length) {
                Ok(moved) if moved > 0 => return Ok(moved as u64),
                Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => return Err(errno.into()),
                // Made-up files answer 0; copies across file systems, or in a sandbox, are
                // refused in many ways. Reading says whether there is a real error.
                Ok(_) | Err(_) => {}
            }
            self.kernel_copies = false;
        }
        self.buffer.resize(BUFFER_BYTES, 0);
        let length = usize::try_from(length).map_or(BUFFER_BYTES, |len| len.min(BUFFER_BYTES));
        let bytes = &mut self.buffer[..length];
        self.from.read_exact_at(bytes, offset)?;
        self.to.write_all_at(bytes, offset)?;
        Ok(length as u64)
    }

    fn copy_in_kernel(&self, offset: u64, length: u64) -> Result<usize, Errno> {
        let length = usize::try_from(length).unwrap_or(BUFFER_BYTES);
        rustix::io::retry_on_intr(|| {
            let (mut from, mut to) = (offset, offset);
            let (source, target) = (self.source, self.target);
            rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    const GIB: u64 = 1 << 30;

    fn sparse_source() -> File {
        let source = tempfile::tempfile().unwrap();
        source.set_len(GIB).unwrap();
        source.write_all_at(b"first", 0).unwrap();
        source.write_all_at(&[7; 10_000], GIB / 2 + 3).unwrap();
        source
    }

    fn check_sparse_copy(target: &File) {
        let metadata = target.metadata().unwrap();
        assert_eq!(metadata.len(), GIB);
        assert!(
            metadata.blocks() * 512 < 1 << 20,
            "the holes were filled: {} blocks",
            metadata.blocks()
        );
        let mut found = [0; 5];
        target.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"first");
        let mut found = vec![0; 10_002];
        target.read_exact_at(&mut found, GIB / 2 + 2).unwrap();
        assert_eq!(found[0], 0);
        assert_eq!(found[1..10_001], [7; 10_000]);
        assert_eq!(found[10_001], 0);
    }

    #[test]
    fn holes_stay_holes() {
        let (source, target) = (sparse_source(), tempfile::tempfile().unwrap());

        let copied = copy(&source, &target, &AtomicBool::new(false)).unwrap();

        assert_eq!(copied.size_bytes, GIB);
        if copied.method == CopyMethod::Moved {
            // Whole blocks: the file system knows its holes no finer.
            assert!(
                (10_005..1 << 20).contains(&copied.moved_bytes),
                "{copied:?}"
            );
        }
        check_sparse_copy(&target);
    }

    #[test]
    fn the_slowest_way_gives_the_same() {
        let (source, target) = (sparse_source(), tempfile::tempfile().unwrap());
        let cancelled = AtomicBool::new(false);
        let mut mover = Mover::new(&source, &target, &cancelled);
        mover.kernel_copies = false;

        target.set_len(GIB).unwrap();
        let mut from = 0;
        while let Some((start, end)) = next_extent(&source, from, GIB).unwrap() {
            mover.move_range(start, end).unwrap();
            from = end;
        }

        check_sparse_copy(&target);
    }

    #[test]
    fn the_position_of_the_source_does_not_matter() {
        let (mut source, mut target) =
            (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        source.write_all_at(b"whole content", 0).unwrap();
        io::Seek::seek(&mut source, io::SeekFrom::Start(9)).unwrap();

        copy(&source, &target, &AtomicBool::new(false)).unwrap();

        let mut text = String::new();
        target.read_to_string(&mut text).unwrap();
        assert_eq!(text, "whole content");
    }

    #[test]
    fn a_cancelled_copy_stops() {
        let (source, target) = (sparse_source(), tempfile::tempfile().unwrap());

        let error = copy(&source, &target, &AtomicBool::new(true)).unwrap_err();

        assert!(matches!(error, CopyError::Cancelled), "{error:?}");
    }

    #[test]
    fn only_regular_files_are_copied() {
        let (source, target) = (
            File::open("/dev/null").unwrap(),
            tempfile::tempfile().unwrap(),
        );

        let error = copy(&source, &target, &AtomicBool::new(false)).unwrap_err();

        assert!(matches!(error, CopyError::NotRegular), "{error:?}");
    }
}
