//! Blobs that are fetched for one caller and get no name in the cache.

use kiln_cache::{Blob, Cache, IngestError, TooLong};
use kiln_domain::Reference;
use kiln_domain::oci::Descriptor;
use kiln_registry::{Remote, RemoteBlob};

use super::Fetcher;
use super::error::FetchError;
use super::feed::{ChunkReader, chunk_channel};
use super::whole::{Coming, feed};
use crate::space::Space;

impl Fetcher {
    /// Fetches a blob into the cache's directory, checks its length and digest, and returns it
    /// open for reading, without a name.
    ///
    /// Dropping the future ends the download, and what was written goes.
    pub(crate) async fn withheld_blob(
        &self,
        remote: &Remote,
        reference: &Reference,
        blob: Descriptor,
    ) -> Result<Blob, FetchError> {
        let stream = remote.blob(reference, &blob, 0).await?;
        match self.withhold(stream, &blob).await {
            // Once more: a proxy on the way may have had it wrong.
            Err(FetchError::Blob(IngestError::DigestMismatch { .. })) => {
                let stream = remote.blob_anew(reference, &blob).await?;
                self.withhold(stream, &blob).await
            }
            kept => kept,
        }
    }

    async fn withhold(&self, stream: RemoteBlob, blob: &Descriptor) -> Result<Blob, FetchError> {
        let (sender, reader) = chunk_channel();
        let (cache, blob) = (self.cache.clone(), blob.clone());
        let kept = self.withheld.run(move || keep(&cache, &blob, reader));
        let mut coming = Coming::Blob(Box::new(stream));
        let fed = feed(sender, &mut coming);
        let (fed, kept) = tokio::join!(fed, kept);
        // A broken download breaks the writing too; the download is the cause.
        fed?;
        kept?
    }
}

/// Writes a blob as it comes. It blocks.
fn keep(cache: &Cache, blob: &Descriptor, mut reader: ChunkReader) -> Result<Blob, FetchError> {
    if let Some(space) = Space::of_directory(cache.directory()) {
        space.check(blob.size_bytes)?;
    }
    let mut ingest = cache.ingest(&blob.digest, blob.size_bytes)?;
    if let Err(error) = std::io::copy(&mut reader, &mut ingest) {
        let too_long = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<TooLong>());
        return Err(match too_long {
            Some(too_long) => FetchError::TooLong(too_long.clone()),
            None => FetchError::Ingest {
                digest: blob.digest,
                source: error,
            },
        });
    }
    Ok(ingest.withhold()?)
}
