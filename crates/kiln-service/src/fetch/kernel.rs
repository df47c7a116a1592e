//! Kernels from registries: the files of an artifact, or the layers of an image that has one in
//! its root filesystem.
//!
//! Where in that root filesystem it lies is not here.

use std::fs::File;
use std::sync::Arc;

use kiln_api::operation::{LayerProgress, LayerState, Stage};
use kiln_domain::oci::{Descriptor, KernelLayers, KernelLayersError};
use kiln_layers::Pack;
use kiln_registry::{ImageSource, find_manifest};

use super::error::FetchError;
use super::{FetchRequest, Fetcher};
use crate::board::Running;
use crate::seams::FetchTree as _;

/// Longest kernel, initrd or package that is fetched, in bytes: twice the longest kernel that is
/// taken into the catalogue, and as long as its longest initrd.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 30;

/// A kernel that was fetched.
pub(crate) enum FetchedKernel {
    /// The files of an artifact.
    Files {
        /// The kernel, or a Debian package of one.
        kernel: File,
        /// Its initial ramdisk.
        initrd: Option<File>,
    },
    /// The decoded layers of an image, bottom first.
    Image(Vec<Pack>),
}

/// Why a kernel could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelFetchError {
    /// Fetching failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
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
    /// Fetches the kernel that a source holds.
    pub(crate) async fn kernel(
        &self,
        request: &FetchRequest,
        running: &Arc<Running>,
    ) -> Result<FetchedKernel, KernelFetchError> {
        let source = self.open(request).await?;
        let found = find_manifest(&source, request.platform).await;
        let manifest = found.map_err(FetchError::from)?.manifest;
        let Some(layers) = KernelLayers::of(&manifest)? else {
            if !manifest.is_image() {
                let reference = request.source.to_string();
                return Err(KernelFetchError::NoKernel { reference });
            }
            let resolved = self.resolve(request, running).await?;
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
        self.kernel_files(&source, &layers, running).await
    }

    async fn kernel_files(
        &self,
        source: &ImageSource,
        layers: &KernelLayers<'_>,
        running: &Arc<Running>,
    ) -> Result<FetchedKernel, KernelFetchError> {
        let kernel = self.whole_blob(source, layers.kernel, 0, running).await?;
        let initrd = match layers.initrd {
            Some(blob) => Some(self.whole_blob(source, blob, 1, running).await?),
            None => None,
        };
        Ok(FetchedKernel::Files { kernel, initrd })
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
