//! Bytes of a blob on their way: from the network as a stream, from a file as a reader.
//!
//! Not here: checking the digest, which the one who stores the bytes does.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use kiln_domain::Reference;
use kiln_domain::oci::Descriptor;
use reqwest::StatusCode;
use tokio::time::Instant;

use crate::client::Registry;
use crate::error::FetchError;
use crate::remote::RemoteBlob;
use crate::retry::Attempts;
use crate::scope::Scope;
use crate::transport::{Answer, Ask};

/// What is waited for, in messages.
const WHAT: &str = "a blob";

/// After so many bytes earlier failures are forgiven: the connection is bad, but it works.
const FORGIVING_BYTES: u64 = 1 << 20;

/// The bytes of a blob, wherever they come from.
#[derive(Debug)]
pub enum BlobBody {
    /// Read with blocking calls.
    File(FileRange),
    /// Awaited.
    Stream(Box<RemoteBlob>),
}

/// A part of a file, read without moving a shared position, so that several layers of one
/// archive can be read side by side.
///
/// Reading ends at the end of the part; a file that ends earlier is an error, not an end.
#[derive(Clone, Debug)]
pub struct FileRange {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl FileRange {
    pub(crate) fn new(file: Arc<File>, position: u64, size_bytes: u64) -> Self {
        Self {
            file,
            position,
            end: position.saturating_add(size_bytes),
        }
    }

    /// Returns how many bytes are left.
    pub fn remaining_bytes(&self) -> u64 {
        self.end - self.position
    }

    /// Passes over the next `count` bytes, or over all that are left.
    pub fn skip_bytes(&mut self, count: u64) {
        self.position = self.position.saturating_add(count).min(self.end);
    }
}

impl Read for FileRange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.remaining_bytes())
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..wanted], self.position)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        Ok(count)
    }
}

/// A blob that is being downloaded.
///
/// Dropping it closes the connection.
#[derive(Debug)]
pub struct BlobStream {
    registry: Registry,
    reference: Reference,
    blob: Descriptor,
    position: u64,
    live: Option<Live>,
    attempts: Attempts,
    /// Where the last failure was.
    failed_at: u64,
}

/// The connection in use and how fast it was lately.
#[derive(Debug)]
struct Live {
    answer: Answer,
    /// The rest of a chunk of which only the beginning had to be skipped.
    pending: Option<Bytes>,
    window_began: Instant,
    window_bytes: u64,
}

impl BlobStream {
    pub(crate) async fn open(
        registry: Registry,
        reference: Reference,
        blob: Descriptor,
        start: u64,
    ) -> Result<Self, FetchError> {
        let mut stream = Self {
            registry,
            reference,
            blob,
            position: start,
            live: None,
            attempts: Attempts::default(),
            failed_at: start,
        };
        if start > stream.blob.size_bytes {
            return Err(stream.size_mismatch(start));
        }
        stream.connect().await?;
        Ok(stream)
    }

    /// Returns the next bytes, never empty, or nothing after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            if self.live.is_none() && self.position == self.blob.size_bytes {
                return Ok(None);
            }
            self.connect().await?;
            match self.read().await {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(Some(bytes)) => return self.accept(bytes).map(Some),
                Ok(None) => {
                    self.live = None;
                    if self.position < self.blob.size_bytes {
                        return Err(self.size_mismatch(self.position));
                    }
                }
                Err(error) => self.fail(error).await?,
            }
        }
    }

    /// Returns the position of the next byte in the blob.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn accept(&mut self, bytes: Bytes) -> Result<Bytes, FetchError> {
        self.position = self.position.saturating_add(bytes.len() as u64);
        if self.position > self.blob.size_bytes {
            return Err(self.size_mismatch(self.position));
        }
        if self.position - self.failed_at >= FORGIVING_BYTES {
            self.attempts.forgive();
        }
        Ok(bytes)
    }

    /// Reads from the connection in use and watches its rate.
    async fn read(&mut self) -> Result<Option<Bytes>, FetchError> {
        let Some(live) = &mut self.live else {
            return Ok(None);
        };
        if let Some(pending) = live.pending.take() {
            return Ok(Some(pending));
        }
        let transport = self.registry.transport();
        let chunk = transport
            .next_chunk(&mut live.answer.response, WHAT)
            .await?;
        let slowest = transport.config().slowest;
        live.window_bytes += chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if live.window_began.elapsed() >= slowest.window {
            if live.window_bytes < slowest.bytes && chunk.is_some() {
                return Err(transport.timeout(WHAT, slowest.window));
            }
            live.window_began = Instant::now();
            live.window_bytes = 0;
        }
        Ok(chunk)
    }

    async fn fail(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.live = None;
        self.failed_at = self.position;
        let config = self.registry.config();
        self.attempts.wait_after(error, config).await
    }

    async fn connect(&mut self) -> Result<(), FetchError> {
        while self.live.is_none() && self.position < self.blob.size_bytes {
            match self.connect_once().await {
                Ok(live) => self.live = Some(live),
                Err(error) => self.fail(error).await?,
            }
        }
        Ok(())
    }

    async fn connect_once(&self) -> Result<Live, FetchError> {
        let ask = Ask {
            start: self.position,
            ..Ask::get(WHAT)
        };
        let repository = self.reference.repository();
        let path = format!("{repository}/blobs/{}", self.blob.digest);
        let answer = self
            .registry
            .ask(Scope::Pull(repository), &path, ask)
            .await?;
        let mut live = Live {
            answer,
            pending: None,
            window_began: Instant::now(),
            window_bytes: 0,
        };
        match live.answer.response.status() {
            StatusCode::NOT_FOUND => {
                drop(live);
                return Err(FetchError::BlobNotFound {
                    place: format!("{}/{repository}", self.reference.registry()),
                    digest: self.blob.digest,
                });
            }
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(self.size_mismatch(self.position)),
            StatusCode::PARTIAL_CONTENT if self.position > 0 => {
                self.check_range(&live.answer)?;
            }
            _ => {
                let registry = &self.registry;
                let scope = Scope::Pull(repository);
                live.answer = registry.expect(StatusCode::OK, live.answer, scope).await?;
                self.check_length(&live.answer, 0)?;
                self.skip(&mut live).await?;
            }
        }
        Ok(live)
    }

    /// Compares the announced length of a part that begins at `start`.
    fn check_length(&self, answer: &Answer, start: u64) -> Result<(), FetchError> {
        match answer.response.content_length() {
            Some(length) if start.saturating_add(length) != self.blob.size_bytes => {
                Err(self.size_mismatch(start.saturating_add(length)))
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that a partial answer begins where it was asked to.
    fn check_range(&self, answer: &Answer) -> Result<(), FetchError> {
        let range = answer.response.headers().get("content-range");
        let range = range.and_then(|value| value.to_str().ok());
        let first = range
            .and_then(|range| range.strip_prefix("bytes "))
            .and_then(|range| range.split('-').next())
            .and_then(|first| first.trim().parse::<u64>().ok());
        if first.is_some_and(|first| first != self.position) {
            return Err(FetchError::UnexpectedStatus {
                host: answer.host.clone(),
                status: StatusCode::PARTIAL_CONTENT.as_u16(),
                message: crate::text::ServerText::new(range.unwrap_or_default()),
            });
        }
        self.check_length(answer, self.position)
    }

    /// Reads over the bytes before the position, which a server that knows no ranges sends again.
    async fn skip(&self, live: &mut Live) -> Result<(), FetchError> {
        let mut before = self.position;
        while before > 0 {
            let transport = self.registry.transport();
            let chunk = transport
                .next_chunk(&mut live.answer.response, WHAT)
                .await?;
            let Some(mut chunk) = chunk else {
                return Err(self.size_mismatch(self.position - before));
            };
            match usize::try_from(before) {
                Ok(count) if count < chunk.len() => {
                    live.pending = Some(chunk.split_off(count));
                    before = 0;
                }
                _ => before -= chunk.len() as u64,
            }
        }
        Ok(())
    }

    fn size_mismatch(&self, found_bytes: u64) -> FetchError {
        FetchError::SizeMismatch {
            digest: self.blob.digest,
            expected_bytes: self.blob.size_bytes,
            found_bytes,
        }
    }
}

#[cfg(test)]
mod tests;
