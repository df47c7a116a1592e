//! Blobs on their way through: from the cache where it may be used, else from the source, whole
//! and checked, into a file without a name.
//!
//! Nothing is kept: a copy of a hundred images leaves the disk as it was. At one time there is as
//! much of it on the disk as blobs are sent side by side.

use std::collections::HashSet;
use std::sync::Arc;

use kiln_api::operation::LayerState;
use kiln_cache::Cache;
use kiln_domain::Digest;
use kiln_domain::oci::Descriptor;
use kiln_registry::{BlobBody, Content, FetchError as SourceError, ImageSource};

use super::Fetcher;
use super::error::FetchError;
use crate::board::Running;
use crate::space::Space;

/// What may be taken from the cache, which holds what other users have pulled too.
#[derive(Clone, Debug)]
pub(crate) enum Shelf {
    /// Everything.
    Open,
    /// What the caller's own image was made of.
    Of(HashSet<Digest>),
    /// Nothing: the caller would get a stranger's blob for its digest.
    Closed,
}

impl Shelf {
    fn has(&self, digest: &Digest) -> bool {
        match self {
            Self::Open => true,
            Self::Of(digests) => digests.contains(digest),
            Self::Closed => false,
        }
    }
}

impl Fetcher {
    /// Finds the bytes of a blob; a source is asked for what is not in the cache.
    pub(crate) async fn outgoing(
        &self,
        source: Option<&ImageSource>,
        blob: &Descriptor,
        cached: &Shelf,
        index: usize,
        running: &Arc<Running>,
    ) -> Result<Content, FetchError> {
        if cached.has(&blob.digest)
            && let Some(content) = self.cached_content(blob).await?
        {
            return Ok(content);
        }
        let Some(source) = source else {
            return Err(FetchError::MissingFile {
                name: blob.digest.to_string(),
            });
        };
        if !matches!(source, ImageSource::Registry { .. }) {
            match source.blob(blob, 0).await {
                // A file of this host: it is read where it lies, and hashed on its way.
                Ok(BlobBody::File(range)) => return Ok(Content::range(range)),
                Ok(BlobBody::Stream(_)) => {}
                // The config of an archive of Docker's is a document there.
                Err(SourceError::BlobNotFound { .. }) => {
                    let document = source.small_blob(blob).await?;
                    return Ok(Content::bytes(document.bytes));
                }
                Err(error) => return Err(error.into()),
            }
        }
        running.layer(index, LayerState::Fetching);
        let (cache, size_bytes) = (self.cache.clone(), blob.size_bytes);
        let make = move || {
            if let Some(space) = Space::of_directory(cache.directory()) {
                space.check(size_bytes)?;
            }
            Ok::<_, FetchError>(cache.scratch()?)
        };
        let scratch = self.looks.run(make).await??;
        let file = self.whole(source, blob, index, scratch, running).await?;
        Ok(Content::file(Arc::new(file), blob.size_bytes))
    }

    /// Forgets a blob of the cache that is no longer what its name says.
    pub(crate) async fn discard(&self, digest: Digest) -> Result<(), FetchError> {
        let cache = self.cache.clone();
        self.looks
            .run(move || cache.discard_blob(&digest))
            .await??;
        Ok(())
    }

    /// Reads a document of the cache; one that is damaged is as good as none.
    pub(crate) async fn cached_document(
        &self,
        digest: Digest,
        limit_bytes: u64,
    ) -> Result<Option<bytes::Bytes>, FetchError> {
        let cache = self.cache.clone();
        let read = move || {
            use std::io::Read as _;
            let Some(blob) = cache.blob(&digest)? else {
                return Ok(None);
            };
            let mut bytes = Vec::new();
            let limited = blob.file.take(limit_bytes.saturating_add(1));
            let whole = { limited }.read_to_end(&mut bytes).is_ok();
            Ok((whole && Digest::of(&bytes) == digest).then(|| bytes.into()))
        };
        self.looks.run(read).await?
    }

    async fn cached_content(&self, blob: &Descriptor) -> Result<Option<Content>, FetchError> {
        let (cache, digest): (Cache, Digest) = (self.cache.clone(), blob.digest);
        let found = self.looks.run(move || cache.blob(&digest)).await??;
        let size_bytes = blob.size_bytes;
        let fits = found.filter(|found| found.size_bytes == size_bytes);
        Ok(fits.map(|found| Content::file(Arc::new(found.file), size_bytes)))
    }
}
