//! The bridge from an asynchronous download to a decoder that blocks, and the tee that keeps the
//! original bytes.

use std::io::{self, Read, Write as _};

use bytes::Bytes;
use kiln_cache::Ingest;
use tokio::sync::mpsc;

/// Chunks on their way from the network to the decoder: a few, so that neither waits for the
/// other's every step, and not many, so that a slow decoder slows the download.
const CHUNKS_IN_FLIGHT: usize = 4;

/// The decoder's end of a download.
///
/// The sender ends a whole download with an empty chunk; one that just goes away failed, and the
/// reader says so instead of pretending an end.
#[derive(Debug)]
pub(super) struct ChunkReader {
    chunks: mpsc::Receiver<Bytes>,
    current: Bytes,
    has_ended: bool,
}

/// Makes both ends of a download.
pub(super) fn chunk_channel() -> (mpsc::Sender<Bytes>, ChunkReader) {
    let (sender, chunks) = mpsc::channel(CHUNKS_IN_FLIGHT);
    (
        sender,
        ChunkReader {
            chunks,
            current: Bytes::new(),
            has_ended: false,
        },
    )
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() && !self.has_ended {
            match self.chunks.blocking_recv() {
                Some(chunk) if chunk.is_empty() => self.has_ended = true,
                Some(chunk) => self.current = chunk,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// Reads a blob, beginning with what an earlier download left of it, and keeps what it reads.
#[derive(Debug)]
pub(super) struct KeepingReader<R> {
    pub(super) inner: R,
    pub(super) ingest: Ingest,
    /// What keeping it failed with: the decoder would only say that reading failed.
    pub(super) failure: Option<KeepingError>,
}

/// Why what came is not kept.
#[derive(Debug)]
pub(super) enum KeepingError {
    /// What an earlier download left cannot be read back.
    Left(io::Error),
    /// What comes cannot be written.
    Write(io::Error),
}

impl<R: Read> Read for KeepingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.ingest.read_kept(buffer) {
            Ok(0) => {}
            Ok(count) => return Ok(count),
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(KeepingError::Left(error));
                return Err(kind.into());
            }
        }
        let count = self.inner.read(buffer)?;
        if let Err(error) = self.ingest.write_all(&buffer[..count]) {
            let kind = error.kind();
            self.failure = Some(KeepingError::Write(error));
            return Err(kind.into());
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_that_breaks_off_is_an_error_not_an_end() {
        let (sender, mut reader) = chunk_channel();
        sender.try_send(Bytes::from_static(b"half")).unwrap();
        drop(sender);

        let mut text = String::new();
        let read = reader.read_to_string(&mut text);

        assert_eq!(text, "half");
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[test]
    fn an_empty_chunk_ends_a_whole_download() {
        let (sender, mut reader) = chunk_channel();
        sender.try_send(Bytes::from_static(b"whole")).unwrap();
        sender.try_send(Bytes::new()).unwrap();
        drop(sender);

        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();

        assert_eq!(text, "whole");
    }
}
