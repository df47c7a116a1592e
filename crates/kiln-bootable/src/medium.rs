//! Bytes that are read at any place: a file, or one that lies in a decoded layer.

use std::fs::File;
use std::io;

use crate::plan::{next_data, next_hole};

/// A stretch of a disk that is all data, or all a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first byte behind it.
    pub end: u64,
    /// What is in it.
    pub holds: Holds,
}

/// What a stretch of a disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Bytes, which may be zeros too.
    Data,
    /// Nothing: it reads as zeros.
    Hole,
}

/// Bytes of a known number that are read at any place.
pub trait Medium {
    /// Returns how many there are.
    fn size_bytes(&self) -> io::Result<u64>;

    /// Fills `buffer` with the bytes from `at` on, which are all there.
    fn read_bytes(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;

    /// Tells what is at `from`, which is in front of the end, and how far that reaches.
    fn extent(&self, from: u64) -> io::Result<Extent>;
}

impl Medium for File {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_bytes(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, at)
    }

    fn extent(&self, from: u64) -> io::Result<Extent> {
        let size_bytes = self.size_bytes()?;
        Ok(match next_data(self, from, size_bytes)? {
            None => Extent {
                end: size_bytes,
                holds: Holds::Hole,
            },
            Some(data) if data > from => Extent {
                end: data,
                holds: Holds::Hole,
            },
            Some(_) => Extent {
                end: next_hole(self, from, size_bytes)?,
                holds: Holds::Data,
            },
        })
    }
}
