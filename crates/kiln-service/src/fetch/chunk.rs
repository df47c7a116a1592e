//! One chunk of a root filesystem, from wherever it is to its place.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use kiln_api::operation::LayerState;
use kiln_bootable::{UnpackError, unpack};
use kiln_cache::{Cache, Ingest, IngestError};
use kiln_domain::Digest;
use kiln_domain::oci::bootable::Chunk;
use kiln_registry::{BlobBody, ImageSource};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::error::FetchError;
use super::feed::{KeepingReader, chunk_channel};
use super::layer::{Condition, Disk, Hasher, drop_if_damaged, is_digest_mismatch, kept_failure};
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
    cache: Cache,
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
        let is_remote = self.source.is_remote();
        let unpacking = self.unpacking();
        let kept = if is_remote {
            self.fetcher.pool.run(move || unpacking.cached()).await??
        } else {
            None
        };
        if let Some(file) = kept {
            self.running.layer(self.index, LayerState::Decoding);
            let unpacking = self.unpacking();
            let place = move || unpacking.read(file, 0);
            self.fetcher.pool.run(place).await??;
        } else {
            self.running.layer(self.index, LayerState::Fetching);
            self.fetch().await?;
        }
        self.running.layer(self.index, LayerState::Done);
        Ok(())
    }

    /// Fetches it; wrong bytes that came over the network, now or in an earlier life, once more.
    async fn fetch(&self) -> Result<(), FetchError> {
        let error = match self.fetch_once(Asking::Rest).await {
            Err(error) if self.source.is_remote() && is_digest_mismatch(&error) => error,
            done => return done,
        };
        let digest = self.chunk.descriptor.digest;
        tracing::warn!(%digest, %error, "wrong bytes came: fetching them once more");
        let (rootfs, chunk) = (self.rootfs.clone(), self.chunk.clone());
        let clear = move || kiln_bootable::clear(&rootfs, &chunk);
        let cleared = self.fetcher.pool.run(clear).await?;
        cleared.map_err(|source| FetchError::Chunk {
            digest,
            source: UnpackError::Output { source },
        })?;
        self.running.layer(self.index, LayerState::Fetching);
        self.fetch_once(Asking::Anew).await
    }

    async fn fetch_once(&self, asking: Asking) -> Result<(), FetchError> {
        let descriptor = &self.chunk.descriptor;
        let pool = &self.fetcher.pool;
        let unpacking = self.unpacking();
        if !self.source.is_remote() {
            let body = self.source.blob(descriptor, 0).await?;
            let BlobBody::File(range) = body else {
                let name = descriptor.digest.to_string();
                return Err(FetchError::MissingFile { name });
            };
            return pool.run(move || unpacking.read(range, 1)).await?;
        }
        let ingest = self.begin(asking).await?;
        let body = match asking {
            Asking::Rest => self.source.blob(descriptor, ingest.kept_bytes()).await?,
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

    /// Begins to take in the blob: with what an earlier download left of it, or with nothing.
    async fn begin(&self, asking: Asking) -> Result<Ingest, FetchError> {
        let cache = self.fetcher.cache.clone();
        let descriptor = &self.chunk.descriptor;
        let (digest, size_bytes) = (descriptor.digest, descriptor.size_bytes);
        let at_work = self.running.at_work();
        let begin = move || {
            let _at_work = at_work;
            match asking {
                Asking::Rest => cache.resume(&digest, size_bytes),
                Asking::Anew => cache.ingest(&digest, size_bytes),
            }
        };
        Ok(self.fetcher.looks.run(begin).await??)
    }

    fn unpacking(&self) -> Unpacking {
        Unpacking {
            cache: self.fetcher.cache.clone(),
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
    /// Opens the chunk in the cache, when it has it whole. A damaged one goes: half of it in the
    /// root filesystem could not be taken back. It blocks.
    fn cached(self) -> Result<Option<File>, FetchError> {
        let descriptor = &self.chunk.descriptor;
        let Some(blob) = self.cache.blob(&descriptor.digest)? else {
            return Ok(None);
        };
        let cancelled = self.running.work().flag();
        match drop_if_damaged(&self.cache, descriptor.digest, cancelled)? {
            Condition::Damaged => Ok(None),
            Condition::Whole if blob.size_bytes == descriptor.size_bytes => Ok(Some(blob.file)),
            Condition::Whole => Err(FetchError::Blob(IngestError::SizeMismatch {
                digest: descriptor.digest,
                expected_bytes: descriptor.size_bytes,
                found_bytes: blob.size_bytes,
            })),
        }
    }

    /// Unpacks what needs no keeping. It blocks.
    fn read(self, input: impl Read, fetched: u64) -> Result<(), FetchError> {
        let mut input = HashingReader::new(input);
        let unpacked = self.unpack(&mut input, fetched);
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
    /// What came stays for the next time, unless the disk is full: then the space is needed,
    /// whichever chunk found that out.
    fn keep(self, input: impl Read, ingest: Ingest) -> Result<(), FetchError> {
        let descriptor = &self.chunk.descriptor;
        let mut reader = KeepingReader {
            inner: input,
            ingest,
            failure: None,
        };
        let mut unpacked = self.unpack(&mut reader, 1);
        if let Some(source) = reader.failure.take() {
            unpacked = Err(kept_failure(descriptor.digest, source));
        }
        if let Err(error) = &unpacked
            && self.disk.is_full_after(error)
        {
            reader.ingest.abandon()?;
            return unpacked;
        }
        if unpacked.is_ok()
            || (is_about_content(&unpacked) && read_rest(&mut reader, &self.running).is_ok())
        {
            reader.ingest.commit()?;
        }
        unpacked
    }

    fn unpack(&self, input: &mut dyn Read, fetched: u64) -> Result<(), FetchError> {
        let read = Cell::new(0);
        let mut input = Counting { input, read: &read };
        let told = Cell::new(0);
        let tell = |_: u64| {
            let count = read.get() - told.replace(read.get());
            self.running.layer_bytes(self.index, count, count * fetched);
        };
        let cancelled = self.running.work().flag();
        let unpacked = unpack(&mut input, &self.chunk, &self.rootfs, &tell, cancelled);
        tell(0);
        let digest = self.chunk.descriptor.digest;
        unpacked.map_err(|source| FetchError::Chunk { digest, source })
    }
}

/// What a source is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// What an earlier download has not left here.
    Rest,
    /// All of it, past what may hold it on the way.
    Anew,
}

fn is_about_content(unpacked: &Result<(), FetchError>) -> bool {
    let Err(FetchError::Chunk { source, .. }) = unpacked else {
        return false;
    };
    match source {
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
