//! Blocks and bytes of an archive: where headers and bodies start and end.
//!
//! What the bytes mean is not here.

use std::io::BufRead;

use super::{Archive, BLOCK, Block};
use crate::error::{DecodeError, Malformation};

impl<R: BufRead> Archive<'_, R> {
    /// Returns the next bytes of the current member's body; empty when it is over.
    ///
    /// The bytes must be given back to [`Archive::consume`].
    pub(crate) fn next_bytes(&mut self) -> Result<&[u8], DecodeError> {
        if self.body_left == 0 {
            return Ok(&[]);
        }
        // The borrow checker does not see that the bytes are returned only when there are some,
        // so the input is asked twice; the second time costs nothing.
        if fill(&mut self.input)?.is_empty() {
            return Err(self.malformed(Malformation::TruncatedBody));
        }
        let bytes = fill(&mut self.input)?;
        let wanted = usize::try_from(self.body_left).unwrap_or(usize::MAX);
        Ok(&bytes[..bytes.len().min(wanted)])
    }

    /// Says how many of the bytes of [`Archive::next_bytes`] were used.
    pub(crate) fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.position += count as u64;
        self.body_left -= count as u64;
    }

    /// Reads whatever follows the end marker, and returns the length of the input.
    pub(crate) fn drain(mut self) -> Result<u64, DecodeError> {
        loop {
            let count = fill(&mut self.input)?.len();
            if count == 0 {
                return Ok(self.position);
            }
            self.input.consume(count);
            self.position += count as u64;
        }
    }

    /// Reads one block; `None` when the input ends right in front of it.
    pub(super) fn next_block(
        &mut self,
        truncated: Malformation,
    ) -> Result<Option<Block>, DecodeError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = fill(&mut self.input)?;
            if bytes.is_empty() {
                break;
            }
            let count = bytes.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&bytes[..count]);
            self.input.consume(count);
            filled += count;
        }
        self.position += filled as u64;
        match filled {
            BLOCK => Ok(Some(block)),
            0 => Ok(None),
            _ => Err(self.malformed(truncated)),
        }
    }

    pub(super) fn skip_body(&mut self) -> Result<(), DecodeError> {
        self.skip_bytes()?;
        self.body_left = std::mem::take(&mut self.padding);
        self.skip_bytes()
    }

    fn skip_bytes(&mut self) -> Result<(), DecodeError> {
        loop {
            let count = self.next_bytes()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    /// Announces a body of `size` bytes behind the header just read.
    pub(super) fn start_body(&mut self, size: u64) {
        self.body_left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }
}

fn fill(input: &mut impl BufRead) -> Result<&[u8], DecodeError> {
    input
        .fill_buf()
        .map_err(|source| DecodeError::Input { source })
}
