//! One file of a merged tree, whose bytes lie in a pack.
//!
//! No path of the tree is ever a path of the host: a file is found by its node.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use kiln_bootable::{Extent, Holds, Medium};
use kiln_tree::{BLOCK_SIZE, Body, Segment};

/// The bytes of one file; what no segment covers is zeros.
#[derive(Debug)]
pub(crate) struct TreeFile {
    pack: Arc<File>,
    segments: Vec<Segment>,
    length: u64,
    position: u64,
}

impl TreeFile {
    /// Prepares to read a body that lies in `pack`.
    pub(crate) fn new(pack: Arc<File>, body: Body<'_>) -> Self {
        Self {
            pack,
            segments: body.segments().collect(),
            length: body.size_bytes,
            position: 0,
        }
    }

    /// Returns how long the file is, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Tells where in the pack the byte at `position` lies, nothing for a zero between segments,
    /// and how many bytes are of that kind.
    fn place(&self, position: u64) -> (Option<u64>, u64) {
        let left = self.length.saturating_sub(position);
        let block = position / BLOCK_SIZE;
        let next = self
            .segments
            .partition_point(|segment| segment.file_block + segment.blocks <= block);
        let segment = self.segments.get(next).copied();
        let start = segment.map_or(u64::MAX, |segment| segment.file_block * BLOCK_SIZE);
        let (source, until) = match segment {
            Some(segment) if start <= position => {
                let end = start + segment.blocks * BLOCK_SIZE;
                let offset = segment.pack_block * BLOCK_SIZE + (position - start);
                (Some(offset), end)
            }
            _ => (None, start),
        };
        (source, left.min(until - position))
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let (source, length) = self.place(position);
        let length =
            usize::try_from(length).map_or(buffer.len(), |length| length.min(buffer.len()));
        let bytes = &mut buffer[..length];
        match source {
            _ if bytes.is_empty() => {}
            Some(offset) => self.pack.read_exact_at(bytes, offset)?,
            None => bytes.fill(0),
        }
        Ok(length)
    }
}

impl Read for TreeFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Medium for TreeFile {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_bytes(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let (mut rest, mut at) = (buffer, at);
        while !rest.is_empty() {
            let count = self.read_at(rest, at)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rest = rest.split_at_mut(count).1;
            at += count as u64;
        }
        Ok(())
    }

    fn extent(&self, from: u64) -> io::Result<Extent> {
        let (source, length) = self.place(from);
        let Some(offset) = source else {
            return Ok(Extent {
                end: from + length,
                holds: Holds::Hole,
            });
        };
        // Blocks of zeros are holes of the pack.
        let extent = Medium::extent(&*self.pack, offset)?;
        Ok(Extent {
            end: from + length.min(extent.end - offset),
            holds: extent.holds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a file whose blocks 1 and 4 are in blocks 2 and 0 of a pack, in small pieces.
    fn read(size_bytes: u64) -> Vec<u8> {
        let pack = tempfile::tempfile().unwrap();
        for (block, byte) in [(0, b'z'), (2, b'a')] {
            let bytes = vec![byte; 4096];
            pack.write_all_at(&bytes, block * BLOCK_SIZE).unwrap();
        }
        let segment = |file_block, pack_block| Segment {
            file_block,
            pack_block,
            blocks: 1,
        };
        let segments = [segment(1, 2), segment(4, 0)];
        let mut body = TreeFile::new(Arc::new(pack), Body::sparse(size_bytes, &segments));
        let (mut bytes, mut piece) = (Vec::new(), [1; 1000]);
        loop {
            match body.read(&mut piece).unwrap() {
                0 => return bytes,
                count => bytes.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// Reads such a file by its extents, holes as zeros.
    fn walk(size_bytes: u64) -> Vec<u8> {
        let pack = tempfile::tempfile().unwrap();
        for (block, byte) in [(0, b'z'), (2, b'a')] {
            let bytes = vec![byte; 4096];
            pack.write_all_at(&bytes, block * BLOCK_SIZE).unwrap();
        }
        let segment = |file_block, pack_block| Segment {
            file_block,
            pack_block,
            blocks: 1,
        };
        let segments = [segment(1, 2), segment(4, 0)];
        let file = TreeFile::new(Arc::new(pack), Body::sparse(size_bytes, &segments));
        let mut bytes = vec![0; usize::try_from(size_bytes).unwrap()];
        let mut at = 0;
        while at < size_bytes {
            let extent = file.extent(at).unwrap();
            assert!(extent.end > at && extent.end <= size_bytes, "{extent:?}");
            if extent.holds == Holds::Data {
                let place = usize::try_from(at).unwrap()..usize::try_from(extent.end).unwrap();
                file.read_bytes(&mut bytes[place], at).unwrap();
            }
            at = extent.end;
        }
        bytes
    }

    #[test]
    fn a_body_is_its_segments_and_zeros_between_and_behind_them() {
        let block = 4096;

        for size_bytes in [0, 1, BLOCK_SIZE + 7, 5 * BLOCK_SIZE, 6 * BLOCK_SIZE + 1] {
            let bytes = read(size_bytes);

            assert_eq!(bytes.len() as u64, size_bytes);
            for (at, byte) in bytes.iter().enumerate() {
                let want = match at / block {
                    1 => b'a',
                    4 => b'z',
                    _ => 0,
                };
                assert_eq!(*byte, want, "byte {at} of {size_bytes}");
            }
            assert_eq!(walk(size_bytes), bytes);
        }
    }
}
