//! A bounded ring of buffers that one thread fills and two read: the hasher and the parser see
//! the same bytes without a copy.
//!
//! A buffer goes home when its last reader drops it, also when that reader gives up, so the
//! filling thread never waits for one that is lost.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Bytes of a buffer: small enough for a core's second-level cache.
const BUFFER_BYTES: usize = 256 << 10;

/// Buffers of a ring; together they are what a fast thread may be ahead of a slow one.
const BUFFERS: usize = 12;

/// The free buffers of a ring.
pub(crate) struct Pool {
    home: Sender<Vec<u8>>,
    free: Receiver<Vec<u8>>,
}

/// Filled bytes, shared by their readers.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
    home: Sender<Vec<u8>>,
}

/// What a reader is sent. A channel that closes without [`Message::End`] says that the rest
/// could not be read.
pub(crate) enum Message {
    Bytes(Arc<Buffer>),
    End,
}

impl Pool {
    pub(crate) fn new() -> Self {
        let (home, free) = channel();
        for _ in 0..BUFFERS {
            // The receiver lives as long as this function, so sending cannot fail.
            drop(home.send(vec![0; BUFFER_BYTES]));
        }
        Self { home, free }
    }

    /// Waits for a free buffer.
    pub(crate) fn take(&self) -> Buffer {
        Buffer {
            // The pool holds a sender itself, so the channel is never closed.
            bytes: self.free.recv().unwrap_or_default(),
            filled: 0,
            home: self.home.clone(),
        }
    }
}

impl Buffer {
    /// Lets `fill` write from the front and say how much it wrote, and what else it has to
    /// say.
    pub(crate) fn fill<T>(&mut self, fill: impl FnOnce(&mut [u8]) -> (usize, T)) -> T {
        let (filled, outcome) = fill(&mut self.bytes);
        self.filled = filled;
        outcome
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Tells whether there was more room than bytes: the archive has ended.
    pub(crate) fn is_last(&self) -> bool {
        self.filled < self.bytes.len()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // When the pool is gone, so is the need for the buffer.
        drop(self.home.send(std::mem::take(&mut self.bytes)));
    }
}

/// The archive as one of the two readers sees it.
pub(crate) struct RingReader {
    messages: Receiver<Message>,
    current: Option<Arc<Buffer>>,
    consumed: usize,
    is_ended: bool,
}

impl RingReader {
    pub(crate) fn new(messages: Receiver<Message>) -> Self {
        Self {
            messages,
            current: None,
            consumed: 0,
            is_ended: false,
        }
    }

    fn is_drained(&self) -> bool {
        let current = self.current.as_ref();
        current.is_none_or(|buffer| self.consumed >= buffer.filled)
    }
}

impl BufRead for RingReader {
    /// Fails when the filling thread stopped before the end; why is for that thread to say.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.is_drained() && !self.is_ended {
            self.current = None;
            self.consumed = 0;
            match self.messages.recv() {
                Ok(Message::Bytes(buffer)) => self.current = Some(buffer),
                Ok(Message::End) => self.is_ended = true,
                Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        let current = self.current.as_ref();
        Ok(current.map_or(&[], |buffer| &buffer.as_bytes()[self.consumed..]))
    }

    fn consume(&mut self, count: usize) {
        self.consumed += count;
    }
}

impl Read for RingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}
