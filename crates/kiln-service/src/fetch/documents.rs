//! Manifests and configs in the cache: they are blobs like others, kept under their digests, and
//! a config that is there is not fetched again.
//!
//! A manifest is always asked for: the tag may have moved, and the registry decides who may see
//! it.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use kiln_cache::Cache;
use kiln_domain::Digest;
use kiln_domain::oci::Descriptor;
use kiln_registry::{ConfigFuture, Configs, ImageSource, Resolved};

use super::error::FetchError;
use super::{Fetcher, place};
use crate::board::Running;

/// The documents of one operation's image.
#[derive(Debug)]
pub(super) struct Documents<'a> {
    pub(super) fetcher: &'a Fetcher,
    pub(super) running: &'a Running,
}

impl Configs for Documents<'_> {
    /// Many who want one config at once fetch it once.
    fn config<'a>(
        &'a self,
        source: &'a ImageSource,
        descriptor: &'a Descriptor,
    ) -> ConfigFuture<'a> {
        Box::pin(async move {
            let key = (place(source), descriptor.digest);
            let _turn = self.fetcher.locks.lock(key).await;
            if let Some(bytes) = self.cached(descriptor).await {
                return Ok(bytes);
            }
            let bytes = source.small_blob(descriptor).await?.bytes;
            if let Err(error) = self.keep(vec![(descriptor.digest, bytes.clone())]).await {
                // Keeping it is tried again with the manifest, and then it counts.
                tracing::debug!(%error, "a config could not be kept");
            }
            Ok(bytes)
        })
    }
}

impl Documents<'_> {
    /// Keeps the documents of an image.
    pub(super) async fn keep_all(&self, resolved: &Resolved) -> Result<(), FetchError> {
        self.keep(vec![
            (resolved.manifest_digest, resolved.manifest_bytes.clone()),
            (
                resolved.manifest.config.digest,
                resolved.config_bytes.clone(),
            ),
        ])
        .await
    }

    async fn keep(&self, documents: Vec<(Digest, Bytes)>) -> Result<(), FetchError> {
        let cache = self.fetcher.cache.clone();
        // The operation has not ended before this has: it may leave half a document until then.
        let at_work = self.running.at_work();
        let keep = move || {
            let _at_work = at_work;
            for (digest, bytes) in documents {
                if cache.blob(&digest)?.is_none() {
                    let mut ingest = cache.ingest(&digest, bytes.len() as u64)?;
                    ingest
                        .write_all(&bytes)
                        .map_err(|source| FetchError::Ingest { digest, source })?;
                    ingest.commit()?;
                }
            }
            Ok(())
        };
        self.fetcher.looks.run(keep).await?
    }

    /// Reads a document of the cache. One that cannot be read, or is no longer what its name
    /// says, is as good as none.
    async fn cached(&self, descriptor: &Descriptor) -> Option<Bytes> {
        let (cache, digest) = (self.fetcher.cache.clone(), descriptor.digest);
        let size_bytes = descriptor.size_bytes;
        let read = self
            .fetcher
            .looks
            .run(move || read(&cache, &digest, size_bytes));
        read.await.ok().flatten()
    }
}

fn read(cache: &Cache, digest: &Digest, size_bytes: u64) -> Option<Bytes> {
    let blob = cache.blob(digest).ok()??;
    if blob.size_bytes != size_bytes || size_bytes > super::MAX_INDEX_BYTES {
        return None;
    }
    let mut bytes = Vec::new();
    blob.file.take(size_bytes).read_to_end(&mut bytes).ok()?;
    if Digest::of(&bytes) == *digest {
        return Some(bytes.into());
    }
    tracing::warn!(%digest, "a document in the cache is damaged and is dropped");
    cache.discard_blob(digest).ok();
    None
}
