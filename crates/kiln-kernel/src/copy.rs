//! Copies one open file to another: clone, else copy in the kernel, else read and write.
//!
//! The source's file position is neither used nor changed, because a descriptor that came over
//! a socket shares it with whoever sent it. Holes are not looked for: kernels, initrds and
//! modules have none.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

/// Bytes moved between two looks at the cancel flag.
const CHUNK_BYTES: u64 = 4 << 20;
/// Buffer of the slowest way, in bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// Why a copy ended early.
#[derive(Debug)]
pub(crate) enum CopyError {
    NotRegular,
    Cancelled,
    Io(io::Error),
}

impl From<io::Error> for CopyError {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}

/// Copies all of `source` into the empty file `target`, and says how many bytes it is.
pub(crate) fn copy(source: &File, target: &File, cancelled: &AtomicBool) -> Result<u64, CopyError> {
    let metadata = source.metadata()?;
    if !metadata.is_file() {
        return Err(CopyError::NotRegular);
    }
    if cancelled.load(Ordering::Relaxed) {
        return Err(CopyError::Cancelled);
    }
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(target.metadata()?.len());
    }
    let size_bytes = metadata.len();
    let mut at = 0;
    let mut kernel_copies = true;
    while at < size_bytes {
        if cancelled.load(Ordering::Relaxed) {
            return Err(CopyError::Cancelled);
        }
        let length = (size_bytes - at).min(CHUNK_BYTES);
        if kernel_copies {
            match copy_in_kernel(source, target, at, length) {
                Ok(moved) if moved > 0 => {
                    at += moved as u64;
                    continue;
                }
                Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => {
                    return Err(CopyError::Io(errno.into()));
                }
                // Made-up files answer 0; copies across file systems, or in a sandbox, are
                // refused in many ways. Reading says whether there is a real error.
                Ok(_) | Err(_) => kernel_copies = false,
            }
        }
        at += copy_through_memory(source, target, at, length)?;
    }
    Ok(size_bytes)
}

fn copy_in_kernel(source: &File, target: &File, at: u64, length: u64) -> Result<usize, Errno> {
    let length = usize::try_from(length).unwrap_or(BUFFER_BYTES);
    rustix::io::retry_on_intr(|| {
        let (mut from, mut to) = (at, at);
        rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length)
    })
}

fn copy_through_memory(source: &File, target: &File, at: u64, length: u64) -> io::Result<u64> {
    let mut buffer = vec![0; usize::try_from(length).map_or(BUFFER_BYTES, |n| n.min(BUFFER_BYTES))];
    let read = source.read_at(&mut buffer, at)?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    target.write_all_at(&buffer[..read], at)?;
    Ok(read as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn both_ways_give_the_same() {
        let want: Vec<u8> = (0..CHUNK_BYTES + 12_345)
            .map(|at| (at % 251) as u8)
            .collect();
        let source = testing::file(&want);

        let quick = tempfile::tempfile().unwrap();
        let size = copy(&source, &quick, &AtomicBool::new(false)).unwrap();
        let slow = tempfile::tempfile().unwrap();
        let mut at = 0;
        while at < size {
            at += copy_through_memory(&source, &slow, at, size - at).unwrap();
        }

        assert_eq!(size, want.len() as u64);
        assert!(content(&quick) == want);
        assert!(content(&slow) == want);
    }

    #[test]
    fn devices_and_cancelled_copies_are_refused() {
        let (null, file) = (File::open("/dev/null").unwrap(), testing::file(b"x"));
        let target = tempfile::tempfile().unwrap();

        let device = copy(&null, &target, &AtomicBool::new(false)).unwrap_err();
        let cancelled = copy(&file, &target, &AtomicBool::new(true)).unwrap_err();

        assert!(matches!(device, CopyError::NotRegular), "{device:?}");
        assert!(matches!(cancelled, CopyError::Cancelled), "{cancelled:?}");
    }
}
