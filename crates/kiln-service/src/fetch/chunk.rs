//! One chunk of a root filesystem, from wherever it is to its place.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use kiln_api::operation::LayerState;
use kiln_bootable::{UnpackError, unpack};
use kiln_cache::{Ingest, IngestError, PartialName};
use kiln_domain::Digest;
use kiln_domain::oci::bootable::Chunk;
use kiln_registry::{BlobBody, ImageSource};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::error::FetchError;
use super::feed::{KeepingReader, chunk_channel};
use super::layer::{Asking, Disk, Hasher, is_digest_mismatch, kept_failure};
use super::{Fetcher, place};
use crate::board::Running;

/// Bytes read at a time of the rest of a chunk that cannot be unpacked; the cancel flag is looked
/// at as often.
const REST_BUFFER_BYTES: usize = 256 << 10;

/// Everything needed to bring one chunk to its place.
pub(super) struct Job<'a> {
    pub(super) fetcher: &'a Fetcher,
    pub(super) source: &'a ImageSource,
    pub(super) chunk: &'a Chunk,
    pub(super) index: usize,
    pub(super) rootfs: Arc<File>,
    pub(super) running: &'a Arc<Running>,
    /// Shared by the chunks of one image.
    pub(super) disk: &'a Arc<Disk>,
}

/// What the unpacking thread needs; it outlives the waiting for it.
struct Unpacking {
    chunk: Chunk,
    index: usize,
    rootfs: Arc<File>,
    running: Arc<Running>,
    disk: Arc<Disk>,
    /// The operation has not ended before this has: what it had half made goes with it.
    _at_work: TaskTrackerToken,
}

impl Job<'_> {
    /// Brings it there the shortest way.
    pub(super) async fn place(self) -> Result<(), FetchError> {
        // Others who want the same chunk from there wait, and find it.
        let key = (place(self.source), self.chunk.descriptor.digest);
        let _turn = self.fetcher.locks.lock(key).await;
        self.running.layer(self.index, LayerState::Fetching);
        if self.source.is_remote() {
            self.fetch().await?;
        } else {
            self.take().await?;
        }
        self.running.layer(self.index, LayerState::Done);
        Ok(())
    }

    /// Takes it from a source on this host.
    async fn take(&self) -> Result<(), FetchError> {
        let descriptor = &self.chunk.descriptor;
        let body = self.source.blob(descriptor, 0).await?;
        let BlobBody::File(range) = body else {
            let name = descriptor.digest.to_string();
            return Err(FetchError::MissingFile { name });
        };
        let unpacking = self.unpacking();
        self.fetcher.pool.run(move || unpacking.read(range)).await?
    }

    /// Fetches it from whoever has it. One that gives other bytes under its digest is not asked
    /// again; what an earlier download left and is wrong costs one fetch.
    async fn fetch(&self) -> Result<(), FetchError> {
        let mut asking = Asking::Rest;
        let mut may_ask_again = true;
        loop {
            let ingest = self.begin(asking).await?;
            let kept_bytes = ingest.kept_bytes();
            let error = match self.fetch_once(ingest, asking).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let digest = self.chunk.descriptor.digest;
            asking = match asking {
                Asking::Rest if kept_bytes > 0 && is_about_what_was_left(&error) => {
                    tracing::warn!(%digest, kept_bytes, "what was left of a chunk is damaged");
                    Asking::All
                }
                _ if may_ask_again && is_digest_mismatch(&error) => {
                    tracing::warn!(%digest, %error, "wrong bytes came: fetching them once more");
                    may_ask_again = self.source.has_others(&digest);
                    Asking::Anew
                }
                _ => return Err(error),
            };
            self.clear().await?;
            self.running.layer(self.index, LayerState::Fetching);
        }
    }

    /// Takes back what was written of it.
    async fn clear(&self) -> Result<(), FetchError> {
        let (rootfs, chunk) = (self.rootfs.clone(), self.chunk.clone());
        let at_work = self.running.at_work();
        let clear = move || {
            let _at_work = at_work;
            kiln_bootable::clear(&rootfs, &chunk)
        };
        let cleared = self.fetcher.pool.run(clear).await?;
        cleared.map_err(|source| FetchError::Chunk {
            digest: self.chunk.descriptor.digest,
            source: UnpackError::Output { source },
        })
    }

    async fn fetch_once(&self, ingest: Ingest, asking: Asking) -> Result<(), FetchError> {
        let descriptor = &self.chunk.descriptor;
        let pool = &self.fetcher.pool;
        let unpacking = self.unpacking();
        let kept_bytes = ingest.kept_bytes();
        if kept_bytes > 0 && kept_bytes == descriptor.size_bytes {
            self.running.layer(self.index, LayerState::Decoding);
            return pool
                .run(move || unpacking.keep(io::empty(), ingest))
                .await?;
        }
        let body = match asking {
            Asking::Rest | Asking::All => self.source.blob(descriptor, kept_bytes).await?,
            Asking::Anew => self.source.blob_anew(descriptor).await?,
        };
        let BlobBody::Stream(mut stream) = body else {
            let name = descriptor.digest.to_string();
            return Err(FetchError::MissingFile { name });
        };
        let (sender, reader) = chunk_channel();
        let placed = pool.run(move || unpacking.keep(reader, ingest));
        let download = async move {
            while let Some(bytes) = stream.next().await? {
                // Who unpacks and has gone away says itself why.
                if sender.send(bytes).await.is_err() {
                    return Ok(());
                }
            }
            sender.send(Bytes::new()).await.ok();
            Ok::<_, FetchError>(())
        };
        let (downloaded, placed) = tokio::join!(download, placed);
        // A broken download breaks the unpacking too; the download is the cause.
        downloaded?;
        placed?
    }

    /// Begins to take in the blob: with what an earlier download from there left of it, or with
    /// nothing.
    async fn begin(&self, asking: Asking) -> Result<Ingest, FetchError> {
        let cache = self.fetcher.cache.clone();
        let descriptor = &self.chunk.descriptor;
        let (digest, size_bytes) = (descriptor.digest, descriptor.size_bytes);
        let name = PartialName::of_blob_from(&place(self.source), &digest);
        let at_work = self.running.at_work();
        let begin = move || {
            let _at_work = at_work;
            match asking {
                Asking::Rest | Asking::All => cache.resume_as(&name, &digest, size_bytes),
                // What is fetched anew begins at the first byte, whatever somebody else left.
                Asking::Anew => cache.ingest(&digest, size_bytes),
            }
        };
        Ok(self.fetcher.looks.run(begin).await??)
    }

    fn unpacking(&self) -> Unpacking {
        Unpacking {
            chunk: self.chunk.clone(),
            index: self.index,
            rootfs: self.rootfs.clone(),
            running: self.running.clone(),
            disk: self.disk.clone(),
            _at_work: self.running.at_work(),
        }
    }
}

impl Unpacking {
    /// Unpacks what needs no keeping. It blocks.
    fn read(self, input: impl Read) -> Result<(), FetchError> {
        let mut input = HashingReader::new(input);
        let unpacked = self.unpack(&mut input, 0);
        // Wrong bytes break a stream in a thousand ways; the digest is what is wrong then.
        if unpacked.is_ok()
            || (is_about_content(&unpacked) && read_rest(&mut input, &self.running).is_ok())
        {
            let expected = self.chunk.descriptor.digest;
            let found = input.finish();
            if found != expected {
                let mismatch = IngestError::DigestMismatch { expected, found };
                return Err(FetchError::Blob(mismatch));
            }
        }
        unpacked
    }

    /// Keeps what comes, and unpacks it in the same pass. It blocks.
    ///
    /// What came stays for the next time, unless it is wrong, or the disk is full: then the space is
    /// needed, whichever chunk found that out.
    fn keep(self, input: impl Read, ingest: Ingest) -> Result<(), FetchError> {
        let descriptor = &self.chunk.descriptor;
        let kept_bytes = ingest.kept_bytes();
        let mut reader = KeepingReader {
            inner: input,
            ingest,
            failure: None,
        };
        let mut unpacked = self.unpack(&mut reader, kept_bytes);
        if let Some(failure) = reader.failure.take() {
            unpacked = Err(kept_failure(descriptor.digest, failure));
        }
        match &unpacked {
            Ok(()) => reader.ingest.keep()?,
            Err(error) if self.disk.is_full_after(error) => reader.ingest.abandon()?,
            // It takes the rest to know what is wrong, but for what an earlier download left: that
            // is the first suspect.
            Err(error) if kept_bytes > 0 && is_about_what_was_left(error) => {
                reader.ingest.abandon()?;
            }
            Err(_) if is_about_content(&unpacked) => {
                if read_rest(&mut reader, &self.running).is_ok() {
                    reader.ingest.keep()?;
                }
            }
            Err(_) => {}
        }
        unpacked
    }

    /// Unpacks. Bytes behind the first `had_bytes` count as fetched.
    fn unpack(&self, input: &mut dyn Read, had_bytes: u64) -> Result<(), FetchError> {
        let read = Cell::new(0);
        let mut input = Counting { input, read: &read };
        let told = Cell::new(0);
        let tell = |_: u64| {
            let before = told.replace(read.get());
            let fetched = read.get().saturating_sub(had_bytes.max(before));
            self.running
                .layer_bytes(self.index, read.get() - before, fetched);
        };
        let cancelled = self.running.work().flag();
        let unpacked = unpack(&mut input, &self.chunk, &self.rootfs, &tell, cancelled);
        tell(0);
        let digest = self.chunk.descriptor.digest;
        unpacked.map_err(|source| FetchError::Chunk { digest, source })
    }
}

/// Says whether what an earlier download left may be what is wrong.
fn is_about_what_was_left(error: &FetchError) -> bool {
    match error {
        FetchError::Left { .. } => true,
        FetchError::Chunk { source, .. } => is_broken(source),
        error => is_digest_mismatch(error),
    }
}

fn is_about_content(unpacked: &Result<(), FetchError>) -> bool {
    matches!(unpacked, Err(FetchError::Chunk { source, .. }) if is_broken(source))
}

fn is_broken(error: &UnpackError) -> bool {
    match error {
        UnpackError::Broken { .. }
        | UnpackError::TooLong { .. }
        | UnpackError::TooShort { .. }
        | UnpackError::DigestMismatch { .. } => true,
        UnpackError::Cancelled | UnpackError::Input { .. } | UnpackError::Output { .. } => false,
    }
}

/// Counts what is read.
pub(super) struct Counting<'a> {
    pub(super) input: &'a mut dyn Read,
    pub(super) read: &'a Cell<u64>,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

/// Hashes what is read.
pub(super) struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R> HashingReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Hasher::default(),
        }
    }

    pub(super) fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// Reads to the end for the digest, unless the work is given up. It blocks.
pub(super) fn read_rest(reader: &mut dyn Read, running: &Running) -> io::Result<()> {
    let mut buffer = vec![0; REST_BUFFER_BYTES];
    loop {
        if running.work().is_cancelled() {
            return Err(io::Error::other("the operation was cancelled"));
        }
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
