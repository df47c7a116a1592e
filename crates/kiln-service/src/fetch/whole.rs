//! Whole files from the network: blobs that are no layers, and files by their URL, each into a file
//! without a name.
//!
//! ```text
//! network ─chunks─▶ channel ─▶ thread: hash, write ─▶ digest as asked for ─▶ open file
//! ```
//! The cache has no part in this: a blob in it may be another user's, and whoever names its digest
//! in a manifest of their own would get its bytes. What the files are is not here.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use kiln_api::operation::{LayerProgress, LayerState};
use kiln_cache::IngestError;
use kiln_domain::Digest;
use kiln_domain::oci::Descriptor;
use kiln_registry::{BlobBody, Download, FetchError as SourceError, ImageSource, RemoteBlob};
use tokio::sync::mpsc;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Fetcher;
use super::error::FetchError;
use super::feed::chunk_channel;
use super::layer::{Hasher, is_digest_mismatch};
use crate::board::Running;

/// Bytes moved at a time; the cancel flag is looked at as often.
const BUFFER_BYTES: usize = 256 << 10;

/// What the writing thread needs of a file; it outlives the waiting for it.
struct Keeping {
    digest: Digest,
    index: usize,
    running: Arc<Running>,
    /// Whether the bytes stay: what is only looked at is not fetched.
    is_kept: bool,
    /// The operation has not ended before this has: what it had half made goes with it.
    _at_work: TaskTrackerToken,
}

/// What is downloaded.
pub(super) enum Coming {
    Blob(Box<RemoteBlob>),
    File(Box<Download>),
}

impl Coming {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        match self {
            Self::Blob(stream) => stream.next().await,
            Self::File(download) => download.next().await,
        }
    }
}

impl Fetcher {
    /// Fetches a whole blob into `target`, and checks its digest. Wrong bytes from the network are
    /// fetched from whoever else has them, and at last once more, past the caches on the way.
    pub(super) async fn whole_blob(
        &self,
        source: &ImageSource,
        blob: &Descriptor,
        index: usize,
        target: File,
        running: &Arc<Running>,
    ) -> Result<File, FetchError> {
        running.layer(index, LayerState::Fetching);
        let file = self.whole(source, blob, index, target, running).await?;
        running.layer(index, LayerState::Done);
        Ok(file)
    }

    /// Does it, and leaves to the caller to say that the blob is done.
    pub(super) async fn whole(
        &self,
        source: &ImageSource,
        blob: &Descriptor,
        index: usize,
        target: File,
        running: &Arc<Running>,
    ) -> Result<File, FetchError> {
        let mut target = target;
        let mut body = Box::pin(source.blob(blob, 0)).await?;
        let mut may_ask_again = source.is_remote();
        loop {
            let spare = second_handle(&target, blob.digest)?;
            let keeping = Keeping::new(blob.digest, index, running);
            match self.body_into_file(body, keeping, target).await {
                Err(error) if may_ask_again && is_digest_mismatch(&error) => {
                    running.layer(index, LayerState::Fetching);
                    may_ask_again = source.has_others(&blob.digest);
                    body = Box::pin(source.blob_anew(blob)).await?;
                    target = spare;
                }
                fetched => return fetched,
            }
        }
    }

    async fn body_into_file(
        &self,
        body: BlobBody,
        keeping: Keeping,
        target: File,
    ) -> Result<File, FetchError> {
        match body {
            BlobBody::File(range) => {
                let keep = move || keeping.into_file(range, target);
                self.pool.run(keep).await?
            }
            BlobBody::Stream(stream) => {
                let mut coming = Coming::Blob(stream);
                self.download_into_file(&mut coming, keeping, target).await
            }
        }
    }

    async fn download_into_file(
        &self,
        coming: &mut Coming,
        keeping: Keeping,
        target: File,
    ) -> Result<File, FetchError> {
        let (sender, reader) = chunk_channel();
        let kept = self.pool.run(move || keeping.into_file(reader, target));
        let fed = feed(sender, coming);
        let (fed, kept) = tokio::join!(fed, kept);
        // A broken download breaks the writing too; the download is the cause.
        fed?;
        kept?
    }

    /// Reads a blob of this host and compares its digest; nothing is kept.
    pub(super) async fn check_blob(
        &self,
        source: &ImageSource,
        blob: &Descriptor,
        index: usize,
        running: &Arc<Running>,
    ) -> Result<(), FetchError> {
        let BlobBody::File(range) = Box::pin(source.blob(blob, 0)).await? else {
            return Ok(());
        };
        running.layer(index, LayerState::Fetching);
        let looking = Keeping {
            is_kept: false,
            ..Keeping::new(blob.digest, index, running)
        };
        self.pool.run(move || looking.check(range)).await??;
        running.layer(index, LayerState::Done);
        Ok(())
    }

    /// Fetches the file at `url`, of at most `limit_bytes`, into `target`, and checks its digest.
    /// Wrong bytes are fetched once more, past the caches on the way.
    pub(crate) async fn whole_url(
        &self,
        url: &str,
        digest: Digest,
        limit_bytes: u64,
        target: File,
        running: &Arc<Running>,
    ) -> Result<File, FetchError> {
        let second = second_handle(&target, digest)?;
        let download = Download::open(url, limit_bytes, self.remotes.config()).await?;
        let listed = LayerProgress {
            digest: digest.to_string(),
            state: LayerState::Fetching,
            bytes_done: 0,
            bytes_total: download.size_bytes().unwrap_or_default(),
        };
        running.layers(vec![listed]);
        let mut coming = Coming::File(Box::new(download));
        let keeping = Keeping::new(digest, 0, running);
        let file = match self.download_into_file(&mut coming, keeping, target).await {
            Err(error) if is_digest_mismatch(&error) => {
                running.layer(0, LayerState::Fetching);
                if let Coming::File(download) = &mut coming {
                    download.begin_anew().await?;
                }
                let keeping = Keeping::new(digest, 0, running);
                self.download_into_file(&mut coming, keeping, second)
                    .await?
            }
            fetched => fetched?,
        };
        running.layer(0, LayerState::Done);
        Ok(file)
    }
}

/// Opens a file that is written to again when what came was wrong.
fn second_handle(target: &File, digest: Digest) -> Result<File, FetchError> {
    let handle = target.try_clone();
    handle.map_err(|source| FetchError::Ingest { digest, source })
}

impl Keeping {
    fn new(digest: Digest, index: usize, running: &Arc<Running>) -> Self {
        Self {
            digest,
            index,
            running: running.clone(),
            is_kept: true,
            _at_work: running.at_work(),
        }
    }

    /// Writes a file and checks its digest. It blocks.
    fn into_file(self, body: impl Read, mut target: File) -> Result<File, FetchError> {
        let digest = self.digest;
        let emptied = target.set_len(0).and_then(|()| target.rewind());
        emptied.map_err(|source| FetchError::Ingest { digest, source })?;
        self.hash(body, |bytes| target.write_all(bytes))?;
        Ok(target)
    }

    /// Reads bytes to their end and checks their digest. It blocks.
    fn check(self, body: impl Read) -> Result<(), FetchError> {
        self.hash(body, |_| Ok(()))
    }

    fn hash(
        &self,
        body: impl Read,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), FetchError> {
        let mut hasher = Hasher::default();
        self.pour(body, |bytes| {
            hasher.update(bytes);
            write(bytes)
        })?;
        let found = hasher.finish();
        if found == self.digest {
            return Ok(());
        }
        Err(FetchError::Blob(IngestError::DigestMismatch {
            expected: self.digest,
            found,
        }))
    }

    fn pour(
        &self,
        mut body: impl Read,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), FetchError> {
        let digest = self.digest;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if self.running.work().is_cancelled() {
                let source = io::Error::other("the operation was cancelled");
                return Err(FetchError::Ingest { digest, source });
            }
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(FetchError::Ingest { digest, source }),
            };
            write(&buffer[..count]).map_err(|source| FetchError::Ingest { digest, source })?;
            let count = count as u64;
            let fetched = if self.is_kept { count } else { 0 };
            self.running.layer_bytes(self.index, count, fetched);
        }
    }
}

/// Sends a download's chunks to whoever writes them, and an empty one behind the last.
pub(super) async fn feed(
    sender: mpsc::Sender<Bytes>,
    coming: &mut Coming,
) -> Result<(), FetchError> {
    while let Some(chunk) = coming.next().await? {
        // A writer that has gone away says itself why.
        if sender.send(chunk).await.is_err() {
            return Ok(());
        }
    }
    sender.send(Bytes::new()).await.ok();
    Ok(())
}
