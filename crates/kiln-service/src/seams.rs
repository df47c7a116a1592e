//! The seams of a pull: the step that fetches and flattens, and the one that builds.
//!
//! They are the slow and remote parts, so tests replace them; store, cache and artifacts are
//! always the real ones.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use kiln_bootable::Taken;
use kiln_domain::oci::bootable::{BootWords, BootableLayers, BootableSource, Chunk};
use kiln_domain::oci::{ContainerConfig, Descriptor, ImageConfig};
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
pub enum Found {
    /// An image, whose root filesystem is built from its layers.
    Image(Box<Resolved>),
    /// An image that was built elsewhere.
    Bootable(Box<Bootable>),
}

/// An image that was built elsewhere, whose documents are checked.
#[derive(Clone, Debug)]
pub struct Bootable {
    /// `registry`, `oci`, `oci-archive` or `docker-archive`.
    pub source_kind: &'static str,
    /// The reference in full.
    pub source_reference: String,
    /// What it runs on.
    pub platform: Platform,
    /// Digest of the artifact's manifest.
    pub manifest_digest: Digest,
    /// Digest of its config.
    pub config_digest: Digest,
    /// How long its root filesystem is; not known of a disk that somebody else made.
    pub rootfs_size_bytes: Option<u64>,
    /// How the container was meant to run, where it says so.
    pub container: Option<ContainerConfig>,
    /// How it boots with the kernel that comes along, where it says so.
    pub boot: Option<BootWords>,
    /// What it was built from; nothing where no Kiln built it.
    pub original: Option<BootableSource>,
    /// Its layers, told apart.
    pub parts: BootableParts,
    /// The manifest, the config and the layers.
    pub blobs: Vec<SourceBlob>,
    /// The source they are fetched from, open.
    pub source: ImageSource,
}

/// The layers of an image that was built elsewhere.
#[derive(Clone, Debug)]
pub struct BootableParts {
    /// The root filesystem.
    pub disk: DiskParts,
    /// The kernel, where one comes along.
    pub kernel: Option<Descriptor>,
    /// Its initial ramdisk.
    pub initrd: Option<Descriptor>,
    /// Its modules, as tar in zstd.
    pub modules: Option<Descriptor>,
    /// The checksums of the root filesystem's blocks.
    pub sums: Option<Descriptor>,
}

/// The layers that are a root filesystem.
#[derive(Clone, Debug)]
pub enum DiskParts {
    /// Chunks of it, as Kiln writes them.
    Chunks(Vec<Chunk>),
    /// All of it, plain or compressed.
    Whole(Descriptor),
}

impl DiskParts {
    /// Returns the chunks; a whole disk has none.
    pub(crate) fn chunks(&self) -> &[Chunk] {
        match self {
            Self::Chunks(chunks) => chunks,
            Self::Whole(_) => &[],
        }
    }
}

impl From<BootableLayers> for BootableParts {
    fn from(layers: BootableLayers) -> Self {
        Self {
            disk: DiskParts::Chunks(layers.chunks),
            kernel: Some(layers.kernel),
            initrd: layers.initrd,
            modules: layers.modules,
            sums: layers.sums,
        }
    }
}

/// Where the parts of a bootable artifact go.
#[derive(Debug)]
pub struct BootableTarget {
    /// The root filesystem: as long as it will be, where that is known, and nothing but a hole. `None`
    /// where it is there already.
    pub rootfs: Option<Arc<File>>,
    /// Files without a name for those other parts that are wanted, by their digests.
    pub files: Vec<(Descriptor, File)>,
    /// Where the root filesystem lies, for messages.
    pub directory: PathBuf,
}

/// What came of a bootable artifact.
#[derive(Debug)]
pub struct BootableFiles {
    /// The files that were wanted, in the order asked for, positioned at their beginning.
    pub files: Vec<File>,
    /// What the root filesystem was taken out of, where the artifact has more than that.
    pub taken: Option<Taken>,
}

/// An image to be built, before any layer is touched.
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
    ) -> SeamFuture<'a, Result<Found, FetchError>>;

    /// Fetches a bootable artifact: every chunk to its place in the root filesystem, and the files
    /// that are wanted.
    fn bootable<'a>(
        &'a self,
        bootable: &'a Bootable,
        target: BootableTarget,
        running: &'a Arc<Running>,
    ) -> SeamFuture<'a, Result<BootableFiles, FetchError>>;

    /// Reads these blobs of an artifact that lies on this host, and fails where one is not what its
    /// digest says. Nothing is kept of them.
    fn check<'a>(
        &'a self,
        bootable: &'a Bootable,
        blobs: &'a [Descriptor],
        running: &'a Arc<Running>,
    ) -> SeamFuture<'a, Result<(), FetchError>>;

    /// Tells what [`FetchTree::bootable`] will write into the cache at least.
    fn bootable_needs<'a>(
        &'a self,
        bootable: &'a Bootable,
    ) -> SeamFuture<'a, Result<FetchNeeds, FetchError>>;

    /// Drops the chunks of an artifact from the cache: the image that was made of them has their
    /// bytes now.
    fn drop_chunks<'a>(&'a self, bootable: &'a Bootable) -> SeamFuture<'a, ()>;

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
