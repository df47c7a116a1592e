//! Images that were built elsewhere: found in a source, and fetched part by part.
//!
//! ```text
//! chunk in the cache ──────────── unpack ─▶ its place in the root filesystem
//! chunk from a registry ── keep ─┘
//! chunk of a local source ────────┘
//! kernel, initrd, modules, sums ──────────▶ a file without a name each
//! ```
//! Chunks from a registry are kept as blobs while it runs, so that a pull that broke off goes on at
//! the chunk; once the image is published they go. Whether the root filesystem as a whole is one is
//! not judged here.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use kiln_api::operation::{LayerProgress, LayerState};
use kiln_domain::oci::bootable::{BootableConfig, BootableError, BootableLayers};
use kiln_domain::oci::{Descriptor, DocumentError, PlatformNotFound};
use kiln_registry::{FetchError as SourceError, ImageSource, find_manifest};
use kiln_store::version_blobs::BlobRole;

use super::chunk;
use super::error::FetchError;
use super::{FetchRequest, Fetcher, source_kind};
use crate::board::Running;
use crate::seams::{Bootable, BootableTarget, SourceBlob};
use crate::space::{FetchNeeds, Space};

/// Parts of one artifact that are fetched at a time: enough to keep a network and the threads that
/// unpack busy, and few connections.
const PARTS_AT_A_TIME: usize = 6;

/// Tells whether a source was refused because what it has is no image but another artifact.
pub(super) fn is_artifact(error: &SourceError) -> bool {
    let SourceError::Document { source, .. } = error else {
        return false;
    };
    matches!(source, DocumentError::NotAnImage { .. })
}

impl Fetcher {
    /// Finds the bootable artifact in a source that turned out to have no image; `refused` is what
    /// other artifacts are refused with.
    pub(super) async fn find_bootable(
        &self,
        source: ImageSource,
        request: &FetchRequest,
        refused: SourceError,
    ) -> Result<Bootable, FetchError> {
        let found = find_manifest(&source, request.platform).await?;
        let manifest = found.manifest;
        if !manifest.is_bootable() {
            return Err(refused.into());
        }
        let described = source.small_blob(&manifest.config).await?;
        let config = BootableConfig::parse(&described.bytes)?;
        let layers = BootableLayers::of(&manifest, config.rootfs.size_bytes)?;
        let platform = config.platform().map_err(BootableError::from)?;
        if !request.platform.runs(platform) {
            return Err(SourceError::from(PlatformNotFound {
                wanted: request.platform,
                available: vec![platform.to_string()],
            })
            .into());
        }
        let documents = [
            (BlobRole::Manifest, found.digest, found.size_bytes),
            (
                BlobRole::Config,
                manifest.config.digest,
                manifest.config.size_bytes,
            ),
        ];
        let documents = documents.map(|(role, digest, size_bytes)| SourceBlob {
            digest,
            role,
            size_bytes,
            diff_id: None,
        });
        let chunks = layers.chunks.iter().map(|chunk| SourceBlob {
            digest: chunk.descriptor.digest,
            role: BlobRole::Layer,
            size_bytes: chunk.descriptor.size_bytes,
            diff_id: Some(chunk.digest),
        });
        let whole = |role, layer: &Descriptor| SourceBlob {
            digest: layer.digest,
            role,
            size_bytes: layer.size_bytes,
            diff_id: None,
        };
        let kernel = [whole(BlobRole::Kernel, &layers.kernel)];
        let initrd = layers.initrd.iter();
        let initrd = initrd.map(|layer| whole(BlobRole::Initrd, layer));
        Ok(Bootable {
            source_kind: source_kind(&request.source),
            source_reference: request.source.to_string(),
            platform,
            manifest_digest: found.digest,
            config_digest: manifest.config.digest,
            config,
            blobs: documents
                .into_iter()
                .chain(chunks)
                .chain(kernel)
                .chain(initrd)
                .collect(),
            layers,
            source,
        })
    }

    /// Fetches all parts side by side; see [`FetchTree::bootable`](crate::FetchTree::bootable).
    pub(super) async fn bootable_parts(
        &self,
        bootable: &Bootable,
        target: BootableTarget,
        running: &Arc<Running>,
    ) -> Result<Vec<File>, FetchError> {
        let chunks = &bootable.layers.chunks;
        let described = chunks.iter().map(|chunk| &chunk.descriptor);
        let described = described.chain(target.files.iter().map(|(layer, _)| layer));
        running.layers(described.map(waiting).collect());
        let source = &bootable.source;
        let jobs = chunks.iter().enumerate().map(|(index, chunk)| chunk::Job {
            fetcher: self,
            source,
            chunk,
            index,
            rootfs: target.rootfs.clone(),
            running,
        });
        let placed: Vec<_> = jobs.map(chunk::Job::place).collect();
        let mut whole = Vec::with_capacity(target.files.len());
        for ((layer, file), index) in target.files.into_iter().zip(chunks.len()..) {
            whole.push(async move {
                let file = self
                    .whole_blob(source, &layer, index, file, running)
                    .await?;
                Ok::<_, FetchError>((index, file))
            });
        }
        let fetched: Result<Vec<(usize, File)>, FetchError> = async {
            // The kernel comes first: what is small and may be refused is not waited for.
            let whole = stream::iter(whole).buffer_unordered(PARTS_AT_A_TIME);
            let files = whole.try_collect().await?;
            let placed = stream::iter(placed).buffer_unordered(PARTS_AT_A_TIME);
            placed.try_collect::<Vec<()>>().await?;
            Ok(files)
        }
        .await;
        if fetched.is_err() {
            // The other parts' threads would work on for nothing.
            running.abandon();
        }
        let mut files = fetched?;
        files.sort_by_key(|(index, _)| *index);
        let rewound = files.into_iter().map(|(_, mut file)| {
            file.seek(SeekFrom::Start(0))
                .map_err(|source| FetchError::PassedFile { source })?;
            Ok(file)
        });
        rewound.collect()
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
        let chunks = bootable.layers.chunks.clone();
        let look = move || {
            let mut needs = FetchNeeds {
                cache: Space::of_directory(cache.directory()),
                ..FetchNeeds::default()
            };
            let mut seen = std::collections::HashSet::new();
            for chunk in chunks {
                let descriptor = chunk.descriptor;
                if seen.insert(descriptor.digest) && cache.blob(&descriptor.digest)?.is_none() {
                    needs.blob_bytes = needs.blob_bytes.saturating_add(descriptor.size_bytes);
                }
            }
            Ok(needs)
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
        let chunks = bootable.layers.chunks.clone();
        let discard = move || {
            for chunk in chunks {
                // What stays takes room, and no more than that.
                if let Err(error) = cache.discard_blob(&chunk.descriptor.digest) {
                    tracing::warn!(%error, "a chunk could not be dropped from the cache");
                }
            }
        };
        if let Err(error) = self.looks.run(discard).await {
            tracing::warn!(%error, "chunks could not be dropped from the cache");
        }
    }
}

fn waiting(blob: &Descriptor) -> LayerProgress {
    LayerProgress {
        digest: blob.digest.to_string(),
        state: LayerState::Waiting,
        bytes_done: 0,
        bytes_total: blob.size_bytes,
    }
}
