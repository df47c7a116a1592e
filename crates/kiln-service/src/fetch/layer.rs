//! One layer, from wherever it is to an open pack.
//!
//! ```text
//! pack in the cache ──────────────────────────────▶ open it
//! blob in the cache ─────────── decode ───────────▶ keep the pack ─▶ open it
//! neither ── fetch ─▶ keep the blob and decode ───▶ keep both ─────▶ open it
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kiln_api::operation::LayerState;
use kiln_cache::{Blob, Cache, CacheError, CachedPack, IngestError, PendingPack, TooLong};
use kiln_domain::Digest;
use kiln_domain::oci::LayerCompression;
use kiln_layers::{Compression, Declared, DecodeError, Limits, Pack, PackError};
use kiln_registry::{BlobBody, ImageSource, Layer};
use kiln_tree::DiffId;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::error::FetchError;
use super::feed::{KeepingReader, chunk_channel};
use super::{Fetcher, place};
use crate::board::Running;
use crate::space::Flight;

/// Bytes read at a time when a blob's digest is checked again; the cancel flag is looked at as often.
const RECHECK_BUFFER_BYTES: usize = 1 << 20;

/// Bytes read at a time of the rest of a blob that cannot be decoded; the cancel flag is looked at
/// as often.
const REST_BUFFER_BYTES: usize = 256 << 10;

/// Everything needed to come to one layer's pack.
pub(super) struct Job<'a> {
    pub(super) fetcher: &'a Fetcher,
    pub(super) source: &'a ImageSource,
    pub(super) layer: &'a Layer,
    pub(super) index: usize,
    pub(super) running: &'a Arc<Running>,
}

/// What the cache has of a layer.
enum Found {
    Pack(Pack),
    Blob(File),
    Nothing,
}

/// What the decoding thread needs of a layer; it outlives the waiting for it.
#[derive(Debug)]
struct Decoding {
    cache: Cache,
    digest: Digest,
    size_bytes: u64,
    diff_id: Digest,
    declared: Declared,
    limits: Limits,
    index: usize,
    running: Arc<Running>,
    /// The operation has not ended before this has: what it had half made goes with it.
    _at_work: TaskTrackerToken,
    _flight: Flight,
}

impl Job<'_> {
    /// Comes to the layer's pack the shortest way.
    pub(super) async fn pack(self) -> Result<Pack, FetchError> {
        // By the diff id: two blobs of one place that unpack to one layer are decoded once.
        let place = place(self.source);
        let _turn = self.fetcher.locks.lock((place, self.layer.diff_id)).await;
        let pack = match self.look().await? {
            Found::Pack(pack) => {
                self.running.layer(self.index, LayerState::Cached);
                return Ok(pack);
            }
            Found::Blob(file) => {
                self.running.layer(self.index, LayerState::Decoding);
                self.decode_file(file).await?
            }
            Found::Nothing => {
                self.running.layer(self.index, LayerState::Fetching);
                self.fetch().await?
            }
        };
        self.running.layer(self.index, LayerState::Done);
        Ok(pack)
    }

    /// Looks what the cache has of the layer.
    async fn look(&self) -> Result<Found, FetchError> {
        let (cache, layer) = (self.fetcher.cache.clone(), self.layer.clone());
        let running = self.running.clone();
        let at_work = running.at_work();
        let look = move || {
            let _at_work = at_work;
            let cancelled = running.work().flag();
            let blob = believed_blob(&cache, &layer, cancelled)?;
            if let Some(pack) = cached_pack(&cache, &layer, cancelled)? {
                return Ok(Found::Pack(pack));
            }
            Ok(blob.map_or(Found::Nothing, |blob| Found::Blob(blob.file)))
        };
        self.fetcher.looks.run(look).await?
    }

    async fn decode_file(&self, mut file: File) -> Result<Pack, FetchError> {
        let decoding = self.decoding();
        let decoded = self
            .fetcher
            .pool
            .run(move || decoding.into_pack(&mut file, 0))
            .await?;
        if matches!(&decoded, Err(FetchError::Decode { .. })) {
            // The bytes were good once. If they are no longer, the next pull fetches them anew.
            let (cache, digest) = (self.fetcher.cache.clone(), self.layer.descriptor.digest);
            let running = self.running.clone();
            let at_work = running.at_work();
            let check = move || {
                let _at_work = at_work;
                drop_if_damaged(&cache, digest, running.work().flag())
            };
            self.fetcher.pool.run(check).await??;
        }
        decoded
    }

    /// Fetches the layer from whoever has it. One that gives other bytes under its digest is not
    /// asked again.
    async fn fetch(&self) -> Result<Pack, FetchError> {
        let digest = &self.layer.descriptor.digest;
        loop {
            match self.fetch_once().await {
                Err(error) if error.is_about_bytes() && self.source.distrust(digest) => {
                    tracing::warn!(%digest, %error, "fetching it elsewhere");
                }
                fetched => return fetched,
            }
        }
    }

    async fn fetch_once(&self) -> Result<Pack, FetchError> {
        let descriptor = &self.layer.descriptor;
        let body = self.source.blob(descriptor, 0).await?;
        let decoding = self.decoding();
        match body {
            BlobBody::File(range) => {
                self.fetcher
                    .pool
                    .run(move || decoding.keep_and_decode(range))
                    .await?
            }
            BlobBody::Stream(mut stream) => {
                let (sender, reader) = chunk_channel();
                let decoded = self
                    .fetcher
                    .pool
                    .run(move || decoding.keep_and_decode(reader));
                let download = async move {
                    while let Some(chunk) = stream.next().await? {
                        // A decoder that has gone away says itself why.
                        if sender.send(chunk).await.is_err() {
                            return Ok(());
                        }
                    }
                    sender.send(Bytes::new()).await.ok();
                    Ok::<_, FetchError>(())
                };
                let (downloaded, decoded) = tokio::join!(download, decoded);
                // A broken download breaks the decoder too; the download is the cause.
                downloaded?;
                decoded?
            }
        }
    }

    fn decoding(&self) -> Decoding {
        let declared = match self.layer.compression {
            LayerCompression::None => Declared::As(Compression::None),
            LayerCompression::Gzip => Declared::As(Compression::Gzip),
            LayerCompression::Zstd => Declared::As(Compression::Zstd),
        };
        Decoding {
            cache: self.fetcher.cache.clone(),
            digest: self.layer.descriptor.digest,
            size_bytes: self.layer.descriptor.size_bytes,
            diff_id: self.layer.diff_id,
            declared,
            limits: self.fetcher.limits,
            index: self.index,
            running: self.running.clone(),
            _at_work: self.running.at_work(),
            _flight: self.fetcher.in_flight.begin(self.layer.diff_id),
        }
    }
}

impl Decoding {
    /// Keeps a blob and decodes it in one pass. It blocks.
    fn keep_and_decode<R: Read + Send>(self, inner: R) -> Result<Pack, FetchError> {
        let ingest = self.cache.ingest(&self.digest, self.size_bytes)?;
        let mut reader = KeepingReader {
            inner,
            ingest,
            failure: None,
        };
        let digest = self.digest;
        let decoded = self.decode(&mut reader, 1);
        if let Some(source) = reader.failure {
            return Err(kept_failure(digest, source));
        }
        if let Err(FetchError::Decode { source, .. }) = &decoded {
            // Wrong bytes break a decoder in a thousand ways; the digest is what is wrong then.
            let is_about_content =
                !matches!(source, DecodeError::Cancelled | DecodeError::Output { .. });
            if is_about_content && self.read_rest(&mut reader).is_ok() {
                reader.ingest.commit()?;
            }
            return decoded.and_then(|pending| self.keep(pending));
        }
        let pending = decoded?;
        reader.ingest.commit()?;
        self.keep(pending)
    }

    /// Reads to the end of the blob for its digest, unless the work is given up. It blocks.
    fn read_rest(&self, reader: &mut dyn Read) -> io::Result<()> {
        let mut buffer = vec![0; REST_BUFFER_BYTES];
        loop {
            if self.running.work().is_cancelled() {
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

    /// Decodes a blob of the cache. It blocks.
    fn into_pack(self, input: &mut (dyn Read + Send), fetched: u64) -> Result<Pack, FetchError> {
        let pending = self.decode(input, fetched)?;
        self.keep(pending)
    }

    /// Decodes into a pack without a name. Of the bytes read, `fetched` times as many count as
    /// fetched.
    fn decode(
        &self,
        input: &mut (dyn Read + Send),
        fetched: u64,
    ) -> Result<PendingPack, FetchError> {
        let pending = self.cache.new_pack()?;
        let told = std::cell::Cell::new(0);
        let progress = |progress: kiln_layers::Progress| {
            let read = progress.read_bytes - told.replace(progress.read_bytes);
            self.running.layer_bytes(self.index, read, read * fetched);
        };
        let decoded = kiln_layers::decode(
            input,
            self.declared,
            Some(DiffId::from_bytes(*self.diff_id.as_bytes())),
            pending.file(),
            &self.limits,
            &progress,
            self.running.work().flag(),
        );
        let digest = self.digest;
        match decoded {
            Ok(decoded) => {
                let read = decoded.read_bytes - told.get();
                self.running.layer_bytes(self.index, read, read * fetched);
                Ok(pending)
            }
            Err(source) => Err(FetchError::Decode { digest, source }),
        }
    }

    fn keep(&self, pending: PendingPack) -> Result<Pack, FetchError> {
        let file = pending.keep_as(&self.diff_id)?;
        if self.digest != self.diff_id {
            self.cache.link(&self.digest, &self.diff_id)?;
        }
        Pack::open(file).map_err(|source| FetchError::Pack {
            digest: self.digest,
            source,
        })
    }
}

/// Tells whether what a manifest says of a layer is known to be true, as far as the cache can tell.
/// It blocks.
pub(super) fn is_known(cache: &Cache, layer: &Layer) -> Result<bool, CacheError> {
    let descriptor = &layer.descriptor;
    let blob = cache.blob(&descriptor.digest)?;
    let is_size_right = blob.is_none_or(|blob| blob.size_bytes == descriptor.size_bytes);
    Ok(is_size_right && is_linked(cache, layer)?)
}

/// Tells whether a blob is known to unpack to a layer; a plain tar does by its own digest.
pub(super) fn is_linked(cache: &Cache, layer: &Layer) -> Result<bool, CacheError> {
    let blob = &layer.descriptor.digest;
    Ok(*blob == layer.diff_id || cache.linked(blob)? == Some(layer.diff_id))
}

/// Opens the layer's blob, when the cache has it as the descriptor states it.
///
/// One of another length is damaged and is dropped, or it is whole and the descriptor lies: what
/// the cache holds makes a manifest neither better nor worse. It blocks.
fn believed_blob(
    cache: &Cache,
    layer: &Layer,
    cancelled: &AtomicBool,
) -> Result<Option<Blob>, FetchError> {
    let digest = layer.descriptor.digest;
    let expected_bytes = layer.descriptor.size_bytes;
    match cache.blob(&digest)? {
        Some(blob) if blob.size_bytes != expected_bytes => {
            match drop_if_damaged(cache, digest, cancelled)? {
                Condition::Damaged => Ok(None),
                Condition::Whole => Err(FetchError::Blob(IngestError::SizeMismatch {
                    digest,
                    expected_bytes,
                    found_bytes: blob.size_bytes,
                })),
            }
        }
        found => Ok(found),
    }
}

/// Whether a cached blob still is what its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Whole,
    Damaged,
}

/// Throws a cached blob away that no longer has its digest. One that is gone is as good as
/// damaged. It blocks.
fn drop_if_damaged(
    cache: &Cache,
    digest: Digest,
    cancelled: &AtomicBool,
) -> Result<Condition, FetchError> {
    let Some(mut blob) = cache.blob(&digest)? else {
        return Ok(Condition::Damaged);
    };
    let mut hash = Hasher::default();
    let mut buffer = vec![0; RECHECK_BUFFER_BYTES];
    loop {
        if cancelled.load(Ordering::Relaxed) {
            let source = DecodeError::Cancelled;
            return Err(FetchError::Decode { digest, source });
        }
        let read = blob.file.read(&mut buffer);
        match read.map_err(|source| FetchError::Ingest { digest, source })? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    if hash.finish() == digest {
        return Ok(Condition::Whole);
    }
    tracing::warn!(%digest, "a blob in the cache is damaged and is dropped");
    cache.discard_blob(&digest)?;
    Ok(Condition::Damaged)
}

/// Opens the layer's pack, when the cache has it. One that a crash has torn is thrown away: it can
/// be made again. It blocks.
fn cached_pack(
    cache: &Cache,
    layer: &Layer,
    cancelled: &AtomicBool,
) -> Result<Option<Pack>, FetchError> {
    let diff_id = layer.diff_id;
    // A manifest may claim that any blob unpacks to any layer: only what was seen counts.
    if !is_linked(cache, layer)? {
        return Ok(None);
    }
    let Some(cached) = cache.pack(&diff_id)? else {
        return Ok(None);
    };
    match open_pack(cached, cache, &diff_id, cancelled) {
        Ok(pack) => Ok(Some(pack)),
        Err(source @ PackError::Cancelled) => Err(FetchError::Pack {
            digest: diff_id,
            source,
        }),
        Err(error) => {
            tracing::warn!(%diff_id, %error, "a decoded layer is damaged and is dropped");
            cache.discard_pack(&diff_id)?;
            Ok(None)
        }
    }
}

/// Opens a pack of the cache and, when it is of an earlier boot, checks all of it once.
fn open_pack(
    cached: CachedPack,
    cache: &Cache,
    diff_id: &Digest,
    cancelled: &AtomicBool,
) -> Result<Pack, PackError> {
    let pack = match cached {
        CachedPack::Verified(file) => Pack::open(file)?,
        CachedPack::Unverified(file) => {
            let pack = Pack::open(file)?;
            pack.verify_bodies(cancelled)?;
            if let Err(error) = cache.trust_pack(diff_id) {
                // It is good all the same; the next pull checks it again.
                tracing::warn!(%diff_id, %error, "a checked pack could not be moved");
            }
            pack
        }
    };
    if pack.diff_id().as_bytes() == diff_id.as_bytes() {
        Ok(pack)
    } else {
        Err(PackError::Damaged { part: "diff id" })
    }
}

/// Says why a blob could not be kept: too long, or the disk.
fn kept_failure(digest: Digest, source: io::Error) -> FetchError {
    match source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<TooLong>())
    {
        Some(too_long) => FetchError::TooLong(too_long.clone()),
        None => FetchError::Ingest { digest, source },
    }
}

/// SHA-256 of a blob that is read again.
#[derive(Default)]
pub(super) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    pub(super) fn finish(self) -> Digest {
        use sha2::Digest as _;
        Digest::from_bytes(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests;
