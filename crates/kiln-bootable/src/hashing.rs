//! A writer that tells what went through it.

use std::io::{self, Write};

use kiln_domain::Digest;
use sha2::Digest as _;

/// Passes bytes on, and hashes and counts them.
pub(crate) struct Hashing<W> {
    inner: W,
    hasher: sha2::Sha256,
    count: u64,
}

impl<W: Write> Hashing<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: sha2::Sha256::new(),
            count: 0,
        }
    }

    /// Returns the digest and the number of bytes.
    pub(crate) fn finish(self) -> (Digest, u64) {
        let digest = Digest::from_bytes(self.hasher.finalize().into());
        (digest, self.count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        let written = bytes.get(..count).unwrap_or(bytes);
        self.hasher.update(written);
        self.count += written.len() as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
