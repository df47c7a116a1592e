//! A disk of somebody else's, from its source to the root filesystem it is to be.
//!
//! ```text
//! blob ─unpack─▶ an ext4 filesystem ─▶ the root filesystem
//!            └─▶ qcow2, partitions ─▶ a file without a name ─root_of─▶ the root filesystem
//! ```
//! It is one blob, unpacked as it comes; nothing of it is kept, so what breaks off begins anew. Who
//! gives wrong bytes is not asked again where somebody else has it. What has to be read at several
//! places waits in a file of the cache's disk until its digest is known to be right.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use kiln_api::operation::LayerState;
use kiln_bootable::{DiskError, Medium, RootError, Taken, find_root, unpack_disk};
use kiln_cache::IngestError;
use kiln_domain::Digest;
use kiln_domain::oci::Descriptor;
use kiln_registry::{BlobBody, ImageSource};

use super::Fetcher;
use super::chunk::{Counting, HashingReader, read_rest};
use super::error::FetchError;
use super::feed::chunk_channel;
use super::layer::is_digest_mismatch;
use crate::board::Running;
use crate::pulls::{ProbeError, probe_head};
use crate::space::{NoRoom, Space, Storing};
use crate::spare::Spare;

/// Why a disk is not what is looked for.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// Its beginning says what it is, and that is no root filesystem.
    #[error("the disk in the artifact cannot be a root filesystem")]
    Probe(#[source] ProbeError),
    /// It could not be unpacked.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What it is stored as, or its partitions, cannot be used.
    #[error("the root filesystem cannot be taken out of the disk")]
    Root(#[from] RootError),
    /// What it stores of the root filesystem does not fit beside the images. Nothing was written.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

/// Where the root filesystem of a disk goes, and what makes way for it.
#[derive(Clone, Debug)]
pub(crate) struct RootPlace {
    /// An empty file.
    pub(crate) rootfs: Arc<File>,
    /// Where it lies, for messages.
    pub(crate) directory: PathBuf,
    pub(crate) spare: Spare,
}

/// The files that a disk is unpacked into.
#[derive(Clone)]
struct Places {
    /// The root filesystem.
    root: RootPlace,
    /// What has the root filesystem in it.
    scratch: Arc<File>,
}

/// What the unpacking thread needs.
struct Unpacking {
    blob: Descriptor,
    index: usize,
    places: Places,
    running: Arc<Running>,
    _at_work: tokio_util::task::task_tracker::TaskTrackerToken,
}

impl Fetcher {
    /// Fetches a disk into an empty file that lies in a directory. Returns what the root filesystem
    /// was taken out of, where the disk is more than that.
    pub(super) async fn whole_disk(
        &self,
        source: &ImageSource,
        blob: &Descriptor,
        index: usize,
        (rootfs, directory): (Arc<File>, PathBuf),
        running: &Arc<Running>,
    ) -> Result<Option<Taken>, FetchError> {
        running.layer(index, LayerState::Fetching);
        let places = Places {
            root: RootPlace {
                rootfs,
                directory,
                spare: Spare::new(self.cache.clone()),
            },
            scratch: Arc::new(self.scratch().await?),
        };
        let mut body = source.blob(blob, 0).await?;
        let mut may_ask_again = source.is_remote();
        loop {
            let unpacked = self.disk_once(body, blob, index, places.clone(), running);
            match unpacked.await {
                Err(error) if may_ask_again && is_digest_mismatch(&error) => {
                    let digest = blob.digest;
                    tracing::warn!(%digest, %error, "wrong bytes came: fetching them once more");
                    may_ask_again = source.has_others(&digest);
                    self.empty(places.clone(), digest, running).await?;
                    running.layer(index, LayerState::Fetching);
                    body = source.blob_anew(blob).await?;
                }
                unpacked => return unpacked,
            }
        }
    }

    /// Takes back what was written of a disk.
    async fn empty(
        &self,
        places: Places,
        digest: Digest,
        running: &Running,
    ) -> Result<(), FetchError> {
        let at_work = running.at_work();
        let empty = move || {
            let _at_work = at_work;
            places.root.rootfs.set_len(0)?;
            places.scratch.set_len(0)
        };
        let emptied = self.pool.run(empty).await?;
        emptied.map_err(|source| FetchError::Foreign {
            digest,
            source: DiskError::Output { source }.into(),
        })
    }

    async fn disk_once(
        &self,
        body: BlobBody,
        blob: &Descriptor,
        index: usize,
        places: Places,
        running: &Arc<Running>,
    ) -> Result<Option<Taken>, FetchError> {
        let unpacking = Unpacking {
            blob: blob.clone(),
            index,
            places,
            running: running.clone(),
            _at_work: running.at_work(),
        };
        let taken = match body {
            BlobBody::File(range) => self.pool.run(move || unpacking.unpack(range)).await??,
            BlobBody::Stream(mut stream) => {
                let (sender, reader) = chunk_channel();
                let unpacked = self.pool.run(move || unpacking.unpack(reader));
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
                let (downloaded, unpacked) = tokio::join!(download, unpacked);
                // A broken download breaks the unpacking too; the download is the cause.
                downloaded?;
                unpacked??
            }
        };
        running.layer(index, LayerState::Done);
        Ok(taken)
    }
}

impl Unpacking {
    /// Unpacks the blob, checks its digest, and takes the root filesystem out of what it is. It
    /// blocks.
    fn unpack(self, input: impl Read) -> Result<Option<Taken>, FetchError> {
        let digest = self.blob.digest;
        let mut hashing = HashingReader::new(input);
        let read = Cell::new(0);
        let told = Cell::new(0);
        let tell = |_: u64| {
            let count = read.get() - told.replace(read.get());
            self.running.layer_bytes(self.index, count, count);
        };
        let mut input = Counting {
            input: &mut hashing,
            read: &read,
        };
        let cancelled = self.running.work().flag();
        let is_wrapped = Cell::new(false);
        let judge = |head: &[u8]| match probe_head(head) {
            Ok(_) => Ok(&*self.places.root.rootfs),
            Err(error) if error.is_wrapping() => {
                is_wrapped.set(true);
                Ok(&*self.places.scratch)
            }
            Err(error) => Err(error),
        };
        let unpacked = unpack_disk(&mut input, judge, &tell, cancelled);
        tell(0);
        let foreign = |source| FetchError::Foreign { digest, source };
        match unpacked {
            // What is refused by its beginning is not fetched to its end.
            Ok(Err(probe)) => return Err(foreign(ForeignError::Probe(probe))),
            Err(
                error @ (DiskError::Cancelled
                | DiskError::Input { .. }
                | DiskError::Output { .. }
                | DiskError::TooLong),
            ) => {
                return Err(foreign(error.into()));
            }
            Ok(Ok(_)) | Err(DiskError::Broken { .. } | DiskError::Packed { .. }) => {}
        }
        let rest = read_rest(&mut hashing, &self.running);
        rest.map_err(|source| FetchError::Ingest { digest, source })?;
        let found = hashing.finish();
        if found != digest {
            let expected = digest;
            let mismatch = IngestError::DigestMismatch { expected, found };
            return Err(FetchError::Blob(mismatch));
        }
        match unpacked {
            Err(error) => Err(foreign(error.into())),
            Ok(_) if is_wrapped.get() => {
                let taken = root_of(&*self.places.scratch, &self.places.root, cancelled);
                let taken = taken.map_err(foreign)?;
                tracing::info!(%digest, ?taken, "the root filesystem was taken out of a disk");
                Ok(Some(taken))
            }
            Ok(_) => Ok(None),
        }
    }
}

/// Takes the root filesystem out of a disk, when what the disk stores of it fits. It blocks.
pub(crate) fn root_of(
    disk: &dyn Medium,
    place: &RootPlace,
    cancelled: &AtomicBool,
) -> Result<Taken, ForeignError> {
    let judge = |head: &[u8]| probe_head(head).map(drop);
    let mut found = find_root(disk, judge)?.map_err(ForeignError::Probe)?;
    let stored_bytes = found.data_bytes(cancelled)?;
    let measure = || Space::of_file(&*place.rootfs, &place.directory);
    place.spare.room_for(|| match measure() {
        Some(space) if space.storing != Storing::Unknown => space.check(stored_bytes),
        _ => Ok(()),
    })?;
    Ok(found.take(&place.rootfs, cancelled)?)
}
