//! A kernel file as a bounded run of bytes, read without using its file position.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use crate::error::KernelError;

/// Longest kernel file, in bytes. The largest distribution kernels, with debug data, are an
/// order of magnitude smaller.
pub(crate) const MAX_KERNEL_BYTES: u64 = 512 << 20;

/// An open regular file whose length is known and acceptable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    file: &'a File,
    size_bytes: u64,
}

impl<'a> Source<'a> {
    pub(crate) fn open(file: &'a File) -> Result<Self, KernelError> {
        let metadata = file.metadata().map_err(|source| KernelError::Io {
            step: "examine",
            source,
        })?;
        if !metadata.is_file() {
            return Err(KernelError::NotRegular);
        }
        let size_bytes = metadata.len();
        if size_bytes > MAX_KERNEL_BYTES {
            return Err(KernelError::TooLarge {
                what: "the kernel",
                limit_bytes: MAX_KERNEL_BYTES,
            });
        }
        Ok(Self { file, size_bytes })
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Returns the first bytes, `length` of them or as many as there are.
    pub(crate) fn head(&self, length: u64) -> Result<Vec<u8>, KernelError> {
        let mut bytes = Vec::new();
        self.section(0, self.size_bytes.min(length))?
            .read_to_end(&mut bytes)
            .map_err(|source| KernelError::Io {
                step: "read",
                source,
            })?;
        Ok(bytes)
    }

    /// Returns a reader of a part that must lie within the file.
    pub(crate) fn section(&self, offset: u64, size_bytes: u64) -> Result<Section<'a>, KernelError> {
        let end = offset.checked_add(size_bytes);
        match end {
            Some(end) if end <= self.size_bytes => Ok(Section {
                file: self.file,
                at: offset,
                end,
            }),
            _ => Err(KernelError::Malformed {
                what: "a part of it lies behind its end",
            }),
        }
    }

    pub(crate) fn whole(&self) -> Section<'a> {
        Section {
            file: self.file,
            at: 0,
            end: self.size_bytes,
        }
    }
}

/// A reader of one part of a file.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Section<'_> {
    /// Returns the next bytes without passing over them, `length` of them or as many as there are.
    pub(crate) fn head(&self, length: u64) -> io::Result<Vec<u8>> {
        let head = Section {
            end: self.end.min(self.at.saturating_add(length)),
            ..*self
        };
        let mut bytes = Vec::new();
        Read::take(head, length).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Leaves out the last bytes.
    pub(crate) fn without_last(mut self, size_bytes: u64) -> Self {
        self.end = self.end.saturating_sub(size_bytes).max(self.at);
        self
    }
}

impl<'a> Section<'a> {
    /// Returns a reader of a range of a file whose length was checked already.
    pub(crate) fn of(file: &'a File, at: u64, end: u64) -> Self {
        Self { file, at, end }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.at);
        let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if length == 0 {
            return Ok(0);
        }
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        if read == 0 {
            // The file was cut after its length was looked at.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}
