//! One layer, from wherever it is to an open pack.
//!
//! ```text
//! pack in the cache ──────────────────────────────▶ open it
//! blob in the cache ─────────── decode ───────────▶ keep the pack ─▶ open it
//! neither ── fetch ─▶ keep the blob and decode ───▶ keep both ─────▶ open it
//! ```
//!
//! A fetch goes on from what an earlier one left in the cache: the decoder reads that first, and
//! then what comes. When it turns out to be wrong, all of it is fetched; when what came is wrong,
//! all of it is fetched once more, past the caches on the way.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kiln_api::operation::LayerState;
use kiln_cache::{Blob, Cache, CacheError, CachedPack, Ingest, IngestError, PendingPack, TooLong};
use kiln_domain::Digest;
use kiln_domain::oci::LayerCompression;
use kiln_layers::{Compression, Declared, DecodeError, Limits, Pack, PackError};
use kiln_registry::{BlobBody, ImageSource, Layer};
use kiln_tree::DiffId;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::error::FetchError;
use super::feed::{KeepingError, KeepingReader, chunk_channel};
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
    /// Shared by the layers of one image.
    pub(super) disk: &'a Arc<Disk>,
}

/// Whether the disk took all that was written of one image.
#[derive(Debug, Default)]
pub(super) struct Disk {
    is_full: AtomicBool,
}

impl Disk {
    /// Notes an error that says that it is full, and tells whether any did.
    pub(super) fn is_full_after(&self, error: &FetchError) -> bool {
        if error.is_no_space() {
            self.is_full.store(true, Ordering::Relaxed);
        }
        self.is_full.load(Ordering::Relaxed)
    }
}

/// How a blob is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// What lacks of it.
    Rest,
    /// Everything: what was left of it was wrong.
    All,
    /// Everything, past the caches on the way: what came was wrong.
    Anew,
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
    diff_id: Digest,
    declared: Declared,
    limits: Limits,
    index: usize,
    running: Arc<Running>,
    disk: Arc<Disk>,
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
            .run(move || decoding.into_pack(&mut file))
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
        let mut asking = Asking::Rest;
        let mut may_ask_again = self.source.is_remote();
        loop {
            let ingest = self.begin(asking).await?;
            let kept_bytes = ingest.kept_bytes();
            let error = match self.fetch_once(ingest, asking).await {
                Ok(pack) => return Ok(pack),
                Err(error) => error,
            };
            let digest = self.layer.descriptor.digest;
            asking = match asking {
                Asking::Rest if kept_bytes > 0 && is_about_what_was_left(&error) => {
                    tracing::warn!(%digest, kept_bytes, "what was left of a layer is damaged");
                    Asking::All
                }
                _ if may_ask_again && is_digest_mismatch(&error) => {
                    tracing::warn!(%digest, %error, "wrong bytes came: fetching them once more");
                    may_ask_again = self.source.has_others(&digest);
                    Asking::Anew
                }
                _ => return Err(error),
            };
            self.running.layer(self.index, LayerState::Fetching);
        }
    }

    /// Begins to take in the blob. What comes over the network is kept when it breaks off.
    async fn begin(&self, asking: Asking) -> Result<Ingest, FetchError> {
        let cache = self.fetcher.cache.clone();
        let (digest, size_bytes) = {
            let descriptor = &self.layer.descriptor;
            (descriptor.digest, descriptor.size_bytes)
        };
        // What is fetched anew begins at the first byte, whatever somebody else may have left.
        let may_resume = self.source.is_remote() && asking != Asking::Anew;
        let at_work = self.running.at_work();
        let begin = move || {
            let _at_work = at_work;
            if may_resume {
                cache.resume(&digest, size_bytes)
            } else {
                cache.ingest(&digest, size_bytes)
            }
        };
        Ok(self.fetcher.looks.run(begin).await??)
    }

    async fn fetch_once(&self, ingest: Ingest, asking: Asking) -> Result<Pack, FetchError> {
        let descriptor = &self.layer.descriptor;
        let body = match asking {
            Asking::Rest | Asking::All => self.source.blob(descriptor, ingest.kept_bytes()).await?,
            Asking::Anew => self.source.blob_anew(descriptor).await?,
        };
        let decoding = self.decoding();
        match body {
            BlobBody::File(range) => {
                self.fetcher
                    .pool
                    .run(move || decoding.keep_and_decode(range, ingest))
                    .await?
            }
            BlobBody::Stream(mut stream) => {
                let (sender, reader) = chunk_channel();
                let decoded = self
                    .fetcher
                    .pool
                    .run(move || decoding.keep_and_decode(reader, ingest));
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
            diff_id: self.layer.diff_id,
            declared,
            limits: self.fetcher.limits,
            index: self.index,
            running: self.running.clone(),
            disk: self.disk.clone(),
            _at_work: self.running.at_work(),
            _flight: self.fetcher.in_flight.begin(self.layer.diff_id),
        }
    }
}

impl Decoding {
    /// Keeps a blob and decodes it in one pass. It blocks.
    ///
    /// What came of it stays for the next time, unless it is wrong, or the disk is full: then the
    /// space is needed, whichever layer found that out.
    fn keep_and_decode<R: Read + Send>(self, inner: R, ingest: Ingest) -> Result<Pack, FetchError> {
        let kept_bytes = ingest.kept_bytes();
        let mut reader = KeepingReader {
            inner,
            ingest,
            failure: None,
        };
        let mut decoded = self.decode(&mut reader, kept_bytes);
        if let Some(failure) = reader.failure.take() {
            decoded = Err(kept_failure(self.digest, failure));
        }
        let pending = match decoded {
            Ok(pending) => pending,
            Err(error) => {
                if self.disk.is_full_after(&error) || matches!(error, FetchError::Left { .. }) {
                    reader.ingest.abandon()?;
                } else if is_about_content(&error) {
                    self.judge(reader, kept_bytes)?;
                }
                return Err(error);
            }
        };
        reader.ingest.commit()?;
        self.keep(pending)
    }

    /// Wrong bytes break a decoder in a thousand ways; the digest is what is wrong then. It takes
    /// the rest to know, but for what an earlier download left: that is the first suspect.
    fn judge<R: Read + Send>(
        &self,
        mut reader: KeepingReader<R>,
        kept_bytes: u64,
    ) -> Result<(), FetchError> {
        if kept_bytes > 0 {
            return Ok(reader.ingest.abandon()?);
        }
        if self.read_rest(&mut reader).is_ok() {
            reader.ingest.commit()?;
        }
        Ok(())
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
    fn into_pack(self, input: &mut (dyn Read + Send)) -> Result<Pack, FetchError> {
        let pending = self.decode(input, u64::MAX)?;
        self.keep(pending)
    }

    /// Decodes into a pack without a name. Bytes behind the first `had_bytes` count as fetched.
    fn decode(
        &self,
        input: &mut (dyn Read + Send),
        had_bytes: u64,
    ) -> Result<PendingPack, FetchError> {
        let pending = self.cache.new_pack()?;
        let told = std::cell::Cell::new(0_u64);
        let tell = |read_bytes: u64| {
            let before = told.replace(read_bytes);
            let fetched = read_bytes.saturating_sub(had_bytes.max(before));
            let read = read_bytes.saturating_sub(before);
            self.running.layer_bytes(self.index, read, fetched);
        };
        let progress = |progress: kiln_layers::Progress| tell(progress.read_bytes);
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
                tell(decoded.read_bytes);
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

/// Says whether other bytes might have been decoded.
fn is_about_content(error: &FetchError) -> bool {
    match error {
        FetchError::Decode { source, .. } => {
            let is_other = matches!(
                source,
                DecodeError::Cancelled | DecodeError::Input { .. } | DecodeError::Output { .. }
            );
            !is_other
        }
        error => is_digest_mismatch(error),
    }
}

/// Says whether what an earlier download left may be what is wrong.
fn is_about_what_was_left(error: &FetchError) -> bool {
    matches!(error, FetchError::Left { .. }) || is_about_content(error)
}

/// Says whether wrong bytes came.
pub(super) fn is_digest_mismatch(error: &FetchError) -> bool {
    matches!(error, FetchError::Blob(IngestError::DigestMismatch { .. }))
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
pub(super) enum Condition {
    Whole,
    Damaged,
}

/// Throws a cached blob away that no longer has its digest. One that is gone is as good as
/// damaged. It blocks.
pub(super) fn drop_if_damaged(
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
pub(super) fn kept_failure(digest: Digest, failure: KeepingError) -> FetchError {
    let source = match failure {
        KeepingError::Left(source) => return FetchError::Left { digest, source },
        KeepingError::Write(source) => source,
    };
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
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        use sha2::Digest as _;
        Digest::from_bytes(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests;
