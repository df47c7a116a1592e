//! Images that were built elsewhere: found in a source, and fetched part by part.
//!
//! ```text
//! what was kept of a chunk ────── unpack ─▶ its place in the root filesystem
//! the rest of it, from a registry ┘ and keep
//! chunk of a local source ────────┘
//! kernel, initrd, modules, sums ──────────▶ a file without a name each
//! ```
//! Chunks from a registry are kept as partial blobs, also when they are whole, so that a pull that broke
//! off goes on where it was; once the image is published they go. What one repository gave serves who
//! pulls from that repository alone: it has told them that they may have it. Whether the root filesystem as a whole is one is
//! not judged here.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use kiln_api::operation::{LayerProgress, LayerState};
use kiln_bootable::Taken;
use kiln_cache::PartialName;
use kiln_domain::Platform;
use kiln_domain::oci::bootable::{BootableConfig, BootableError, BootableLayers};
use kiln_domain::oci::{Descriptor, DiskLayers, DocumentError, PlatformNotFound, PlatformWords};
use kiln_registry::{FetchError as SourceError, FoundManifest, ImageSource, find_manifest};
use kiln_store::version_blobs::BlobRole;

use super::chunk;
use super::error::FetchError;
use super::{FetchRequest, Fetcher, MAX_FILE_BYTES, needs, place, source_kind};
use crate::board::Running;
use crate::needs::Needed;
use crate::seams::{Bootable, BootableFiles, BootableParts, BootableTarget, DiskParts, SourceBlob};
use crate::space::FetchNeeds;
use crate::spare::Spare;

/// Parts of one artifact that are fetched at a time: enough to keep a network and the threads that
/// unpack busy, and few connections.
const PARTS_AT_A_TIME: usize = 6;

/// Files with their places in the order asked for, and what the root filesystem was taken out of.
type Fetched = (Vec<(usize, File)>, Option<Taken>);

/// Tells whether a source was refused because what it has is no image but another artifact.
pub(super) fn is_artifact(error: &SourceError) -> bool {
    let SourceError::Document { source, .. } = error else {
        return false;
    };
    matches!(source, DocumentError::NotAnImage { .. })
}

impl Fetcher {
    /// Finds the image that was built elsewhere in a source that turned out to have no OCI image;
    /// `refused` is what other artifacts are refused with.
    pub(super) async fn find_bootable(
        &self,
        source: ImageSource,
        request: &FetchRequest,
        refused: SourceError,
    ) -> Result<Bootable, FetchError> {
        let found = find_manifest(&source, request.platform).await?;
        let bootable = if found.manifest.is_bootable() {
            own(source, request, &found).await?
        } else if let Some(layers) = DiskLayers::of(&found.manifest)? {
            let (disk, kernel) = (layers.disk.clone(), layers.kernel);
            let initrd = kernel.as_ref().and_then(|kernel| kernel.initrd.cloned());
            let parts = BootableParts {
                disk: DiskParts::Whole(disk),
                kernel: kernel.map(|kernel| kernel.kernel.clone()),
                initrd,
                modules: None,
                sums: None,
            };
            for part in [&parts.kernel, &parts.initrd].into_iter().flatten() {
                check_length(part)?;
            }
            foreign(source, request, &found, parts).await?
        } else {
            return Err(refused.into());
        };
        if !request.platform.runs(bootable.platform) {
            return Err(SourceError::from(PlatformNotFound {
                wanted: request.platform,
                available: vec![bootable.platform.to_string()],
            })
            .into());
        }
        Ok(bootable)
    }

    /// Fetches all parts side by side; see [`FetchTree::bootable`](crate::FetchTree::bootable).
    pub(super) async fn bootable_parts(
        &self,
        bootable: &Bootable,
        target: BootableTarget,
        running: &Arc<Running>,
    ) -> Result<BootableFiles, FetchError> {
        // Where there is no root filesystem to fill, no part of it is fetched.
        let (chunks, disk) = match (&target.rootfs, &bootable.parts.disk) {
            (None, _) => (&[][..], None),
            (Some(_), DiskParts::Chunks(chunks)) => (&chunks[..], None),
            (Some(_), DiskParts::Whole(disk)) => (&[][..], Some(disk)),
        };
        let described = chunks.iter().map(|chunk| &chunk.descriptor).chain(disk);
        let described = described.chain(target.files.iter().map(|(layer, _)| layer));
        running.layers(described.map(waiting).collect());
        let source = &bootable.source;
        // Before anybody looks what the cache has of them.
        let from = place(source);
        let kept = chunks
            .iter()
            .map(|chunk| PartialName::of_blob_from(&from, &chunk.descriptor.digest));
        running.hold(
            &self.needs,
            kept.map(|partial| Needed::Content(partial.digest())),
        );
        let disk_state = Arc::default();
        let jobs = target.rootfs.iter().flat_map(|rootfs| {
            let jobs = chunks.iter().enumerate();
            jobs.map(|(index, chunk)| chunk::Job {
                fetcher: self,
                source,
                chunk,
                index,
                rootfs: rootfs.clone(),
                running,
                disk: &disk_state,
            })
        });
        let placed: Vec<_> = jobs.map(chunk::Job::place).collect();
        let mut whole = Vec::with_capacity(target.files.len());
        let first = chunks.len() + usize::from(disk.is_some());
        for ((layer, file), index) in target.files.into_iter().zip(first..) {
            whole.push(async move {
                let file = self
                    .whole_blob(source, &layer, index, file, running)
                    .await?;
                Ok::<_, FetchError>((index, file))
            });
        }
        let directory = target.directory;
        let fetched: Result<Fetched, FetchError> = async {
            // The kernel comes first: what is small and may be refused is not waited for.
            let whole = stream::iter(whole).buffer_unordered(PARTS_AT_A_TIME);
            let files = whole.try_collect().await?;
            let placed = stream::iter(placed).buffer_unordered(PARTS_AT_A_TIME);
            placed.try_collect::<Vec<()>>().await?;
            let taken = match (disk, target.rootfs) {
                (Some(disk), Some(rootfs)) => {
                    let place = (rootfs, directory);
                    self.whole_disk(source, disk, 0, place, running).await?
                }
                _ => None,
            };
            Ok((files, taken))
        }
        .await;
        if fetched.is_err() {
            // The other parts' threads would work on for nothing.
            running.abandon();
        }
        let (mut files, taken) = fetched?;
        files.sort_by_key(|(index, _)| *index);
        let rewound = files.into_iter().map(|(_, mut file)| {
            file.seek(SeekFrom::Start(0))
                .map_err(|source| FetchError::PassedFile { source })?;
            Ok::<_, FetchError>(file)
        });
        Ok(BootableFiles {
            files: rewound.collect::<Result<_, _>>()?,
            taken,
        })
    }

    /// Reads these blobs of a source of this host and compares their digests; see
    /// [`FetchTree::check`](crate::FetchTree::check).
    pub(super) async fn check_blobs(
        &self,
        bootable: &Bootable,
        blobs: &[Descriptor],
        running: &Arc<Running>,
    ) -> Result<(), FetchError> {
        running.layers(blobs.iter().map(waiting).collect());
        let source = &bootable.source;
        let blobs = blobs.iter().enumerate();
        let checks: Vec<_> = blobs
            .map(|(index, blob)| self.check_blob(source, blob, index, running))
            .collect();
        let checked: Result<Vec<()>, FetchError> = stream::iter(checks)
            .buffer_unordered(PARTS_AT_A_TIME)
            .try_collect()
            .await;
        if checked.is_err() {
            // The other parts' threads would read on for nothing.
            running.abandon();
        }
        checked.map(drop)
    }

    /// Looks which chunks the cache lacks; those of a local source do not get there.
    pub(super) async fn needs_of_bootable(
        &self,
        bootable: &Bootable,
    ) -> Result<FetchNeeds, FetchError> {
        if !bootable.source.is_remote() {
            return Ok(FetchNeeds::default());
        }
        let cache = self.cache.clone();
        let chunks = bootable.parts.disk.chunks().to_vec();
        let place = place(&bootable.source);
        let look = move || {
            let spare = Spare::new(cache.clone());
            needs::of_chunks(&cache, &spare, &place, &chunks)
        };
        self.looks.run(look).await?
    }

    /// Makes a file without a name on the disk of the cache.
    pub(crate) async fn scratch(&self) -> Result<File, FetchError> {
        let cache = self.cache.clone();
        Ok(self.looks.run(move || cache.scratch()).await??)
    }

    /// Drops the chunks from the cache.
    pub(super) async fn discard_chunks(&self, bootable: &Bootable) {
        if !bootable.source.is_remote() {
            return;
        }
        let cache = self.cache.clone();
        let chunks = bootable.parts.disk.chunks().to_vec();
        let place = place(&bootable.source);
        let discard = move || {
            for chunk in chunks {
                let name = PartialName::of_blob_from(&place, &chunk.descriptor.digest);
                // What stays takes room, for a day, and no more than that.
                if let Err(error) = cache.discard_partial(&name) {
                    tracing::warn!(%error, "a chunk could not be dropped from the cache");
                }
            }
        };
        if let Err(error) = self.looks.run(discard).await {
            tracing::warn!(%error, "chunks could not be dropped from the cache");
        }
    }
}

/// Reads what a Kiln wrote.
async fn own(
    source: ImageSource,
    request: &FetchRequest,
    found: &FoundManifest,
) -> Result<Bootable, FetchError> {
    let described = source.small_blob(&found.manifest.config).await?;
    let config = BootableConfig::parse(&described.bytes)?;
    let rootfs_size_bytes = config.rootfs.size_bytes;
    let layers = BootableLayers::of(&found.manifest, rootfs_size_bytes)?;
    let platform = config.platform().map_err(BootableError::from)?;
    let parts = BootableParts::from(layers);
    Ok(Bootable {
        source_kind: source_kind(&request.source),
        source_reference: request.source.to_string(),
        platform,
        manifest_digest: found.digest,
        config_digest: found.manifest.config.digest,
        rootfs_size_bytes: Some(rootfs_size_bytes),
        container: config.config,
        boot: config.boot,
        original: Some(config.source.unwrap_or_default()),
        blobs: blobs(found, &parts),
        parts,
        source,
    })
}

/// Describes what somebody else wrote. Of its config only the platform is read: not all have one.
async fn foreign(
    source: ImageSource,
    request: &FetchRequest,
    found: &FoundManifest,
    parts: BootableParts,
) -> Result<Bootable, FetchError> {
    let described = source.small_blob(&found.manifest.config).await?;
    let words = serde_json::from_slice::<PlatformWords>(&described.bytes).ok();
    let stated = words.filter(|words| !words.architecture.is_empty());
    let platform = match stated {
        None => request.platform,
        Some(words) => {
            let variant = words.variant.as_deref();
            let platform = Platform::from_words(&words.os, &words.architecture, variant);
            platform.map_err(BootableError::from)?
        }
    };
    Ok(Bootable {
        source_kind: source_kind(&request.source),
        source_reference: request.source.to_string(),
        platform,
        manifest_digest: found.digest,
        config_digest: found.manifest.config.digest,
        rootfs_size_bytes: None,
        container: None,
        boot: None,
        original: None,
        blobs: blobs(found, &parts),
        parts,
        source,
    })
}

/// Refuses a kernel's file that is announced longer than any.
fn check_length(part: &Descriptor) -> Result<(), BootableError> {
    if part.size_bytes <= MAX_FILE_BYTES {
        return Ok(());
    }
    Err(BootableError::TooLarge {
        role: "kernel or initrd",
        size_bytes: part.size_bytes,
        limit_bytes: MAX_FILE_BYTES,
    })
}

/// Lists what an image was made of.
fn blobs(found: &FoundManifest, parts: &BootableParts) -> Vec<SourceBlob> {
    let blob = |role, digest, size_bytes, diff_id| SourceBlob {
        digest,
        role,
        size_bytes,
        diff_id,
    };
    let config = &found.manifest.config;
    let mut blobs = vec![
        blob(BlobRole::Manifest, found.digest, found.size_bytes, None),
        blob(BlobRole::Config, config.digest, config.size_bytes, None),
    ];
    match &parts.disk {
        DiskParts::Chunks(chunks) => blobs.extend(chunks.iter().map(|chunk| {
            let layer = &chunk.descriptor;
            blob(
                BlobRole::Layer,
                layer.digest,
                layer.size_bytes,
                Some(chunk.digest),
            )
        })),
        DiskParts::Whole(disk) => {
            blobs.push(blob(BlobRole::Layer, disk.digest, disk.size_bytes, None));
        }
    }
    let kernel = [
        (BlobRole::Kernel, &parts.kernel),
        (BlobRole::Initrd, &parts.initrd),
    ];
    for (role, part) in kernel {
        blobs.extend(
            part.iter()
                .map(|part| blob(role, part.digest, part.size_bytes, None)),
        );
    }
    blobs
}

fn waiting(blob: &Descriptor) -> LayerProgress {
    LayerProgress {
        digest: blob.digest.to_string(),
        state: LayerState::Waiting,
        bytes_done: 0,
        bytes_total: blob.size_bytes,
    }
}
