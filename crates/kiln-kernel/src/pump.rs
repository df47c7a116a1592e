//! Moves bytes from a decoder into a sink, bounded and cancellable.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_domain::Digest;
use sha2::Digest as _;

use crate::error::KernelError;

/// Longest kernel once it is unpacked, in bytes.
pub(crate) const MAX_UNPACKED_BYTES: u64 = 1 << 30;

/// Bytes moved at a time; the cancel flag is looked at as often.
const BUFFER_BYTES: usize = 256 << 10;

/// Takes the bytes of a kernel in order.
pub(crate) trait Sink {
    fn take(&mut self, bytes: &[u8]) -> Result<(), KernelError>;
}

impl<A: Sink, B: Sink> Sink for (&mut A, &mut B) {
    fn take(&mut self, bytes: &[u8]) -> Result<(), KernelError> {
        self.0.take(bytes)?;
        self.1.take(bytes)
    }
}

/// Hashes what it takes.
#[derive(Debug, Default)]
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn finish(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}

impl Sink for Hasher {
    fn take(&mut self, bytes: &[u8]) -> Result<(), KernelError> {
        self.0.update(bytes);
        Ok(())
    }
}

/// Writes what it takes to the end of a file.
#[derive(Debug)]
pub(crate) struct FileSink<'a>(pub(crate) &'a File);

impl Sink for FileSink<'_> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), KernelError> {
        self.0.write_all(bytes).map_err(|source| KernelError::Io {
            step: "write",
            source,
        })
    }
}

/// Moves everything, and says how much it was. A read error becomes what `on_error` makes of it.
pub(crate) fn pump(
    mut reader: impl Read,
    sink: &mut impl Sink,
    cancelled: &AtomicBool,
    on_error: impl Fn(io::Error) -> KernelError,
) -> Result<u64, KernelError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut total = 0;
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(KernelError::Cancelled);
        }
        let read = match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(on_error(error)),
        };
        total += read as u64;
        if total > MAX_UNPACKED_BYTES {
            return Err(KernelError::TooLarge {
                what: "the unpacked kernel",
                limit_bytes: MAX_UNPACKED_BYTES,
            });
        }
        sink.take(&buffer[..read])?;
    }
}
