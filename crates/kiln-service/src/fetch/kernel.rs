//! Kernels from registries: the files of an artifact, or the layers of an image that has one in
//! its root filesystem.
//!
//! Where in that root filesystem it lies is not here.

use std::fs::File;
use std::sync::Arc;

use kiln_api::operation::{LayerProgress, LayerState, Stage};
use kiln_domain::oci::{Descriptor, KernelLayers, KernelLayersError};
use kiln_kernel::{Catalogue, CatalogueError};
use kiln_layers::Pack;
use kiln_registry::find_manifest;

use super::error::FetchError;
use super::{FetchRequest, Fetcher};
use crate::board::Running;
use crate::seams::FetchTree as _;

/// Longest kernel, initrd or package that is fetched, in bytes: twice the longest kernel that is
/// taken into the catalogue, and as long as its longest initrd.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 30;

/// A kernel that was fetched.
pub(crate) enum FetchedKernel {
    /// The files of an artifact: the kernel, or a Debian package of one, then the initial ramdisk
    /// where there is one.
    Files(Vec<File>),
    /// The decoded layers of an image, bottom first.
    Image(Vec<Pack>),
}

/// Why a kernel could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelFetchError {
    /// Fetching failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// There is no place for a file.
    #[error(transparent)]
    Scratch(#[from] CatalogueError),
    /// It cannot be told which layer is the kernel.
    #[error(transparent)]
    Layers(#[from] KernelLayersError),
    /// It is an artifact of another kind.
    #[error("{reference} is no image, and none of its layers is a kernel")]
    NoKernel {
        /// What was asked for.
        reference: String,
    },
    /// A file is longer than any of its kind.
    #[error("a layer of {size_bytes} bytes is to be a kernel's file; {MAX_FILE_BYTES} are taken")]
    TooLarge {
        /// Its length in bytes.
        size_bytes: u64,
    },
}

impl Fetcher {
    /// Fetches the kernel that a source holds; its files lie on the disk of `catalogue`, without
    /// names.
    pub(crate) async fn kernel(
        &self,
        request: &FetchRequest,
        catalogue: &Catalogue,
        running: &Arc<Running>,
    ) -> Result<FetchedKernel, KernelFetchError> {
        let source = self.open(request).await?;
        let found = Box::pin(find_manifest(&source, request.platform)).await;
        let manifest = found.map_err(FetchError::from)?.manifest;
        let Some(layers) = KernelLayers::of(&manifest)? else {
            if !manifest.is_image() {
                let reference = request.source.to_string();
                return Err(KernelFetchError::NoKernel { reference });
            }
            let resolved = self.resolve_image(&source, request, running).await?;
            let resolved = resolved.map_err(FetchError::from)?;
            running.enter(Stage::Fetch);
            let packs = self.layers(request, &resolved, running).await?;
            return Ok(FetchedKernel::Image(packs));
        };
        let wanted: Vec<&Descriptor> = [Some(layers.kernel), layers.initrd]
            .into_iter()
            .flatten()
            .collect();
        if let Some(large) = wanted.iter().find(|blob| blob.size_bytes > MAX_FILE_BYTES) {
            let size_bytes = large.size_bytes;
            return Err(KernelFetchError::TooLarge { size_bytes });
        }
        running.enter(Stage::Fetch);
        running.layers(wanted.iter().map(|blob| waiting(blob)).collect());
        let mut files = Vec::with_capacity(wanted.len());
        for (index, blob) in wanted.into_iter().enumerate() {
            let catalogue = catalogue.clone();
            let scratch = self.looks.run(move || catalogue.scratch()).await;
            let scratch = scratch.map_err(FetchError::from)??;
            let fetching = Box::pin(self.whole_blob(&source, blob, index, scratch, running));
            files.push(fetching.await?);
        }
        Ok(FetchedKernel::Files(files))
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
