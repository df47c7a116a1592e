//! The header of an arm64 `Image`.
//!
//! ```text
//! 0       8             16           24      32                56        60      64
//! │ code  │ text_offset │ image_size │ flags │ reserved        │ "ARM\x64" │ PE  │
//! ```
//!
//! Source: `Documentation/arch/arm64/booting.rst` of the kernel.

use crate::banner::Banner;
use crate::error::KernelError;
use crate::pump::Sink;

/// Length of the header, in bytes.
const HEADER_BYTES: usize = 64;
/// Where its magic is, and what it is.
const MAGIC_AT: usize = 56;
const MAGIC: &[u8] = b"ARM\x64";
/// Where the flags are; the lowest bit says big endian.
const FLAGS_AT: usize = 24;

/// Says whether a file that begins like this is an arm64 `Image`.
pub(crate) fn is_image(head: &[u8]) -> bool {
    head.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) == Some(MAGIC)
}

/// Reads an arm64 `Image` that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Arm64Scan {
    head: Vec<u8>,
    banner: Banner,
}

impl Arm64Scan {
    /// Ends the scan, and returns the release, if the image tells.
    pub(crate) fn finish(self) -> Result<Option<String>, KernelError> {
        if self.head.len() < HEADER_BYTES || !is_image(&self.head) {
            return Err(KernelError::NotAKernel);
        }
        if self.head[FLAGS_AT] & 1 != 0 {
            return Err(KernelError::Unsupported {
                what: "big-endian code",
            });
        }
        Ok(self.banner.finish())
    }
}

impl Sink for Arm64Scan {
    fn take(&mut self, bytes: &[u8]) -> Result<(), KernelError> {
        let missing = HEADER_BYTES.saturating_sub(self.head.len());
        self.head
            .extend_from_slice(&bytes[..bytes.len().min(missing)]);
        self.banner.take(bytes);
        Ok(())
    }
}
