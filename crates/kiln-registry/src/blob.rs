//! Bytes of a blob on their way: from the network as a stream, from a file as a reader.
//!
//! Not here: checking the digest, which the one who stores the bytes does.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use kiln_domain::Reference;
use kiln_domain::oci::Descriptor;
use reqwest::StatusCode;
use tokio::time::Instant;

use crate::client::Registry;
use crate::config::MinimumRate;
use crate::error::FetchError;
use crate::remote::RemoteBlob;
use crate::retry::Attempts;
use crate::scope::Scope;
use crate::transport::{Answer, Ask, Caches};

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
    parts: Parts,
    caches: Caches,
    length: Length,
}

/// Whether the server is asked for the rest of a blob alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts {
    Wanted,
    /// It gave another part, or says that there is none: it is asked for everything.
    Useless,
}

/// Whether the server was caught with another length than the descriptor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Unquestioned,
    WrongOnce,
}

/// The connection in use and how fast it was lately.
#[derive(Debug)]
struct Live {
    answer: Answer,
    /// How many bytes come again that were had before: the server knows no ranges.
    repeated_bytes: u64,
    /// How slow it may be; the window is no longer than patience lasts.
    slowest: MinimumRate,
    /// How long was waited for what came in the window. What the reader does in between is not
    /// the server's fault.
    window: Duration,
    window_bytes: u64,
}

impl BlobStream {
    pub(crate) async fn open(
        registry: Registry,
        reference: Reference,
        blob: Descriptor,
        start: u64,
    ) -> Result<Self, FetchError> {
        let mut stream = Self::new(registry, reference, blob, start);
        if start > stream.blob.size_bytes {
            return Err(stream.size_mismatch(start));
        }
        stream.connect().await?;
        Ok(stream)
    }

    pub(crate) async fn open_anew(
        registry: Registry,
        reference: Reference,
        blob: Descriptor,
    ) -> Result<Self, FetchError> {
        let mut stream = Self::new(registry, reference, blob, 0);
        stream.caches = Caches::PassedBy;
        stream.connect().await?;
        Ok(stream)
    }

    fn new(registry: Registry, reference: Reference, blob: Descriptor, start: u64) -> Self {
        Self {
            attempts: Attempts::sharing(registry.patience()),
            registry,
            reference,
            blob,
            position: start,
            live: None,
            failed_at: start,
            parts: Parts::Wanted,
            caches: Caches::Welcome,
            length: Length::Unquestioned,
        }
    }

    /// Returns the next bytes, never empty, or nothing after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        // Before now the reader was busy: that time is not lost to the server.
        self.attempts.progress();
        loop {
            if self.live.is_none() && self.position == self.blob.size_bytes {
                return Ok(None);
            }
            self.connect().await?;
            match self.read().await {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(Some(bytes)) => match self.accept(bytes) {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(error) => self.fail(error).await?,
                },
                Ok(None) if self.position == self.blob.size_bytes => self.live = None,
                Ok(None) => self.go_on_after_end().await?,
                Err(error) => self.fail(error).await?,
            }
        }
    }

    /// Returns the position of the next byte in the blob.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn accept(&mut self, bytes: Bytes) -> Result<Bytes, FetchError> {
        let position = self.position.saturating_add(bytes.len() as u64);
        if position > self.blob.size_bytes {
            return Err(self.size_mismatch(position));
        }
        self.position = position;
        self.attempts.progress();
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
        let transport = self.registry.transport();
        let asked_at = Instant::now();
        let reading = transport.next_chunk(&mut live.answer.response, WHAT);
        let mut chunk = self
            .attempts
            .within_patience(transport, WHAT, reading)
            .await?;
        live.window += asked_at.elapsed();
        live.window_bytes += chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let slowest = live.slowest;
        if live.window >= slowest.window {
            if live.window_bytes < slowest.bytes && chunk.is_some() {
                self.attempts.no_progress_for(live.window);
                return Err(transport.timeout(WHAT, slowest.window));
            }
            live.window = Duration::ZERO;
            live.window_bytes = 0;
        }
        if let Some(bytes) = chunk.as_mut().filter(|_| live.repeated_bytes > 0) {
            let length = bytes.len() as u64;
            let repeated = length.min(live.repeated_bytes);
            live.repeated_bytes -= repeated;
            bytes.advance(usize::try_from(repeated).unwrap_or(bytes.len()));
        }
        Ok(chunk)
    }

    async fn fail(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.live = None;
        self.failed_at = self.position;
        let config = self.registry.config();
        if matches!(error, FetchError::SizeMismatch { .. }) && self.length == Length::Unquestioned {
            // Somebody in between may have answered something else altogether, once.
            self.length = Length::WrongOnce;
            self.caches = Caches::PassedBy;
            return self.attempts.wait_anyway(error, config).await;
        }
        self.attempts.wait_after(error, config).await
    }

    /// Goes on after a body without an announced length that ended too early: nobody can tell a
    /// short blob from a broken connection.
    async fn go_on_after_end(&mut self) -> Result<(), FetchError> {
        self.live = None;
        self.failed_at = self.position;
        let error = self.size_mismatch(self.position);
        let config = self.registry.config();
        self.attempts.wait_anyway(error, config).await
    }

    async fn connect(&mut self) -> Result<(), FetchError> {
        while self.live.is_none() && self.position < self.blob.size_bytes {
            let registry = self.registry.clone();
            let mut attempts = self.attempts.clone();
            let connecting = self.connect_once();
            let connected = attempts.attempt(registry.transport(), WHAT, connecting);
            let connected = connected.await;
            self.attempts = attempts;
            match connected {
                Ok(live) => self.live = Some(live),
                Err(error) => self.fail(error).await?,
            }
        }
        Ok(())
    }

    async fn connect_once(&mut self) -> Result<Live, FetchError> {
        if self.position > 0 && self.parts == Parts::Wanted {
            let live = self.ask(self.position).await?;
            match live.answer.response.status() {
                StatusCode::PARTIAL_CONTENT if self.begins_at_position(&live.answer) => {
                    self.check_length(&live.answer, self.position)?;
                    return Ok(live);
                }
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                    let host = &live.answer.host;
                    tracing::debug!(host, digest = %self.blob.digest, "no rest of a blob: all of it");
                    self.parts = Parts::Useless;
                }
                _ => return self.whole(live).await,
            }
        }
        let live = self.ask(0).await?;
        self.whole(live).await
    }

    /// Takes an answer that must be the whole blob.
    async fn whole(&self, mut live: Live) -> Result<Live, FetchError> {
        let scope = Scope::Pull(self.reference.repository());
        let expecting = self.registry.expect(StatusCode::OK, live.answer, scope);
        live.answer = expecting.await?;
        self.check_length(&live.answer, 0)?;
        live.repeated_bytes = self.position;
        Ok(live)
    }

    /// Asks for the blob from byte `start` on.
    async fn ask(&self, start: u64) -> Result<Live, FetchError> {
        let ask = Ask {
            start,
            caches: self.caches,
            ..Ask::get(WHAT)
        };
        let repository = self.reference.repository();
        let path = format!("{repository}/blobs/{}", self.blob.digest);
        let answer = self
            .registry
            .ask(Scope::Pull(repository), &path, ask)
            .await?;
        if answer.response.status() == StatusCode::NOT_FOUND {
            return Err(FetchError::BlobNotFound {
                place: format!("{}/{repository}", self.reference.registry()),
                digest: self.blob.digest,
            });
        }
        let config = self.registry.config();
        let left = self.registry.patience().left(config);
        Ok(Live {
            answer,
            repeated_bytes: 0,
            slowest: config.slowest.within(left),
            window: Duration::ZERO,
            window_bytes: 0,
        })
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

    /// Tells whether a partial answer begins where it was asked to; one that does not say so is
    /// not believed (RFC 9110, 15.3.7).
    fn begins_at_position(&self, answer: &Answer) -> bool {
        answer.range_start() == Some(self.position)
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
