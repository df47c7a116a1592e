//! Reads the legacy frame of LZ4, which the kernel's build uses for its payload.
//!
//! ```text
//! │ 0x184c2102 │ length │ block │ length │ block │ …      lengths are 32 bits, little endian
//! ```
//!
//! Every block unpacks to 8 MiB, the last to what is left. A frame may follow another. Source:
//! `lz4_Frame_format.md`, "Legacy frame", and `lib/decompress_unlz4.c` of the kernel.

use std::io::{self, Read};

/// The first bytes of a frame.
pub(crate) const MAGIC: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
/// Most that one block unpacks to, in bytes.
const BLOCK_BYTES: usize = 8 << 20;
/// Longest packed block, in bytes: what LZ4 makes of 8 MiB that cannot be packed.
const MAX_PACKED_BYTES: usize = BLOCK_BYTES + BLOCK_BYTES / 255 + 16;

/// A decoder of legacy frames. It holds one block packed and unpacked, about 16 MiB.
#[derive(Debug)]
pub(crate) struct LegacyDecoder<R> {
    input: R,
    packed: Vec<u8>,
    block: Vec<u8>,
    /// Length of the unpacked block, and how much of it was handed out.
    filled: usize,
    given: usize,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    BeforeMagic,
    Blocks,
    End,
}

impl<R: Read> LegacyDecoder<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            packed: Vec::new(),
            block: Vec::new(),
            filled: 0,
            given: 0,
            state: State::BeforeMagic,
        }
    }

    /// Unpacks the next block, or finds the end.
    fn fill(&mut self) -> io::Result<()> {
        let Some(word) = self.next_word()? else {
            if self.state == State::BeforeMagic {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.state = State::End;
            return Ok(());
        };
        if word == MAGIC {
            self.state = State::Blocks;
            return Ok(());
        }
        if self.state == State::BeforeMagic {
            return Err(invalid("no LZ4 legacy frame"));
        }
        let length = usize::try_from(u32::from_le_bytes(word)).unwrap_or(usize::MAX);
        if length == 0 || length > MAX_PACKED_BYTES {
            return Err(invalid("a block of impossible length"));
        }
        self.packed.resize(length, 0);
        self.input.read_exact(&mut self.packed)?;
        self.block.resize(BLOCK_BYTES, 0);
        self.filled = lz4_flex::block::decompress_into(&self.packed, &mut self.block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.given = 0;
        Ok(())
    }

    /// Reads four bytes; `None` at a clean end.
    fn next_word(&mut self) -> io::Result<Option<[u8; 4]>> {
        let mut word = Vec::with_capacity(4);
        self.input.by_ref().take(4).read_to_end(&mut word)?;
        if word.is_empty() {
            return Ok(None);
        }
        match word.first_chunk::<4>() {
            Some(word) => Ok(Some(*word)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<R: Read> Read for LegacyDecoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.filled && self.state != State::End {
            self.fill()?;
        }
        let left = &self.block[self.given..self.filled];
        let length = left.len().min(buffer.len());
        buffer[..length].copy_from_slice(&left[..length]);
        self.given += length;
        Ok(length)
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::lz4_legacy;

    fn decode(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        LegacyDecoder::new(packed).read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn several_blocks_and_frames_are_one_content() {
        let long: Vec<u8> = (0..BLOCK_BYTES + 1000)
            .map(|at| at.to_le_bytes()[1])
            .collect();

        let packed = [lz4_legacy(&long), lz4_legacy(b"more")].concat();

        assert_eq!(decode(&packed).unwrap(), [long, b"more".to_vec()].concat());
    }

    #[test]
    fn damage_is_an_error() {
        let packed = lz4_legacy(b"some content that is packed");
        let huge = [&MAGIC[..], &u32::MAX.to_le_bytes()].concat();
        let cases: &[(&str, &[u8])] = &[
            ("nothing", b""),
            ("no magic", b"abcdefgh"),
            ("cut in a block", &packed[..packed.len() - 1]),
            ("cut in a length", &packed[..6]),
            ("a huge block", &huge),
        ];
        for (what, bytes) in cases {
            assert!(decode(bytes).is_err(), "{what}");
        }
    }
}
