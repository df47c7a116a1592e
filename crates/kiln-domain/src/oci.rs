//! The documents of the OCI image specification: descriptors, manifests, indexes, configs.
//!
//! Not here: fetching them, and checking that bytes match a digest. Whoever fetches hands over
//! bytes already bounded and verified.
//!
//! ```text
//! index ──▶ manifest (one per platform) ──▶ config   architecture, diff ids, entrypoint
//!   └─────▶ index (nested)                └▶ layers   compressed tars, bottom first
//! ```

pub mod bootable;
mod config;
mod descriptor;
mod disk;
mod document;
mod json;
mod kernel;
mod media_type;
mod select;

pub use config::{ContainerConfig, ImageConfig, Rootfs};
pub use descriptor::{Descriptor, PlatformWords};
pub use disk::{DiskLayers, DiskLayersError};
pub use document::{Document, DocumentError, Index, Manifest, StatedMediaTypes};
pub use json::JsonError;
pub use kernel::{KernelLayers, KernelLayersError, KernelRole};
pub use media_type::{DocumentType, LayerCompression, LayerError, document_media_types};
pub use select::{PlatformNotFound, select_platform};

/// Longest layer a manifest may announce, compressed, in bytes: far above any that is pulled, and
/// so low that the sizes of all layers of an image can be added up.
pub const MAX_LAYER_BYTES: u64 = 1 << 40;

/// Most layers an image may have. Container runtimes stop near 128.
pub const MAX_LAYERS: usize = 1024;
