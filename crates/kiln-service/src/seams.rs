//! The seams of a pull: the step that fetches and flattens, and the one that builds.
//!
//! They are the slow and remote parts, so tests replace them; store, cache and artifacts are
//! always the real ones.

use std::fmt;
use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;

use kiln_domain::oci::ImageConfig;
use kiln_domain::{Digest, Platform};
use kiln_layers::Pack;
use kiln_registry::{ImageSource, Layer};
use kiln_store::version_blobs::BlobRole;

use crate::board::Running;
use crate::build::{BuildError, BuildRequest, Built};
use crate::fetch::{FetchError, FetchRequest};
use crate::space::FetchNeeds;

/// A future that a seam returns.
pub type SeamFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a reference turned out to mean, before any layer is touched.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// `registry`, `oci`, `oci-archive` or `docker-archive`.
    pub source_kind: &'static str,
    /// The reference in full, as images are found by it.
    pub source_reference: String,
    /// The platform of the manifest.
    pub platform: Platform,
    /// Digest of the platform's manifest.
    pub manifest_digest: Digest,
    /// The image's config.
    pub config: ImageConfig,
    /// The manifest, the config, the index where there was one, and the layers, bottom first.
    pub blobs: Vec<SourceBlob>,
    /// The layers, bottom first.
    pub layers: Vec<Layer>,
    /// The source they are fetched from, open; a stand-in has none.
    pub source: Option<ImageSource>,
}

impl Resolved {
    /// Returns the config's `config` object as the image view shows it.
    pub(crate) fn container_config(&self) -> Option<serde_json::Value> {
        serde_json::to_value(&self.config.config).ok()
    }
}

/// One blob an image is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceBlob {
    /// Its digest.
    pub digest: Digest,
    /// What it is.
    pub role: BlobRole,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// For a layer: the digest of its uncompressed form.
    pub diff_id: Option<Digest>,
}

/// Fetches an image and decodes its layers.
pub trait FetchTree: fmt::Debug + Send + Sync {
    /// Finds out what a reference means; layers are not touched.
    fn resolve<'a>(
        &'a self,
        request: &'a FetchRequest,
        running: &'a Running,
    ) -> SeamFuture<'a, Result<Resolved, FetchError>>;

    /// Tells whether every layer's blob is known to unpack to what the config says: only then may
    /// something that was built from the same layers stand in for them.
    fn knows<'a>(&'a self, resolved: &'a Resolved) -> SeamFuture<'a, Result<bool, FetchError>>;

    /// Tells what [`FetchTree::layers`] will write at least, and where.
    fn needs<'a>(
        &'a self,
        resolved: &'a Resolved,
    ) -> SeamFuture<'a, Result<FetchNeeds, FetchError>>;

    /// Fetches what is missing, decodes what is not decoded, and opens every layer's pack,
    /// bottom first.
    fn layers<'a>(
        &'a self,
        request: &'a FetchRequest,
        resolved: &'a Resolved,
        running: &'a Arc<Running>,
    ) -> SeamFuture<'a, Result<Vec<Pack>, FetchError>>;
}

/// Builds a root filesystem from decoded layers. It blocks.
pub trait BuildRootfs: fmt::Debug + Send + Sync {
    /// Writes the root filesystem into `output`, an empty file, and its checksums into `sums`.
    fn build(
        &self,
        request: BuildRequest,
        output: &File,
        running: &Running,
    ) -> Result<Built, BuildError>;
}
