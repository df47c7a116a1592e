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
use super::layer::{Condition, drop_if_damaged};
use super::passage::Passage;
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

/// Where the bytes of a blob were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In the cache, which others use too.
    Cache,
    /// With whoever was asked for it.
    Source,
}

/// The bytes of a blob.
pub(crate) struct Passing {
    pub(crate) content: Content,
    pub(crate) origin: Origin,
    /// The room that it takes while it passes through.
    pub(crate) passage: Option<Passage>,
}

impl Passing {
    /// Says that it takes no room.
    fn at(origin: Origin, content: Content) -> Self {
        Self {
            content,
            origin,
            passage: None,
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
    ) -> Result<Passing, FetchError> {
        if cached.has(&blob.digest)
            && let Some(content) = self.cached_content(blob).await?
        {
            return Ok(Passing::at(Origin::Cache, content));
        }
        let Some(source) = source else {
            return Err(FetchError::MissingFile {
                name: blob.digest.to_string(),
            });
        };
        if !matches!(source, ImageSource::Registry { .. }) {
            match source.blob(blob, 0).await {
                // A file of this host: it is read where it lies, and hashed on its way.
                Ok(BlobBody::File(range)) => {
                    return Ok(Passing::at(Origin::Source, Content::range(range)));
                }
                Ok(BlobBody::Stream(_)) => {}
                // The config of an archive of Docker's is a document there.
                Err(SourceError::BlobNotFound { .. }) => {
                    let document = source.small_blob(blob).await?;
                    let content = Content::bytes(document.bytes);
                    return Ok(Passing::at(Origin::Source, content));
                }
                Err(error) => return Err(error.into()),
            }
        }
        running.layer(index, LayerState::Fetching);
        let fits = |bytes| async move {
            let cache = self.cache.clone();
            let check = move || match Space::of_directory(cache.directory()) {
                Some(space) => space.check(bytes),
                None => Ok(()),
            };
            Ok::<_, FetchError>(self.looks.run(check).await??)
        };
        let passage = Some(self.passages.claim(blob.size_bytes, fits).await?);
        let cache = self.cache.clone();
        let scratch = self.looks.run(move || cache.scratch()).await??;
        let file = self.whole(source, blob, index, scratch, running).await?;
        Ok(Passing {
            content: Content::file(Arc::new(file), blob.size_bytes),
            origin: Origin::Source,
            passage,
        })
    }

    /// Reads a blob of the cache again, and forgets it when it is no longer what its name says.
    /// Says whether it is gone. Nobody else's word is enough for that: others use the blob too.
    pub(crate) async fn forget_damaged(
        &self,
        digest: Digest,
        running: &Arc<Running>,
    ) -> Result<bool, FetchError> {
        let (cache, running) = (self.cache.clone(), running.clone());
        let at_work = running.at_work();
        let check = move || {
            let _at_work = at_work;
            drop_if_damaged(&cache, digest, running.work().flag())
        };
        Ok(self.pool.run(check).await?? == Condition::Damaged)
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

#[cfg(test)]
mod tests;
