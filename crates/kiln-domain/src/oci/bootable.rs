//! A built image as an artifact: its root filesystem in chunks, its kernel, initrd and modules.
//!
//! ```text
//! manifest ─▶ config   architecture, os, the OCI image's `config`, how it boots, where it came from
//!     └─────▶ layers   rootfs chunk, rootfs chunk, …   kernel   [initrd]   [modules]   [sums]
//!
//! rootfs    0        64 MiB      128 MiB     192 MiB              size_bytes
//!           │ chunk 0   │  nothing  │ chunk 1 │ nothing … nothing │
//!           └ each is one zstd stream that is read by itself; between them there are only zeros
//! ```
//! Sizes, offsets and roles are judged here, before a byte of a layer is fetched. Fetching, and
//! whether bytes match their digests, is not here. `docs/bootable-artifacts.md` is the format for
//! those who write one.

mod config;
mod layers;
mod manifest;

pub use config::{BootWords, BootableConfig, BootableRootfs, BootableSource, Compression};
pub use layers::{BootableLayers, Chunk};
pub use manifest::{BootableManifest, Part, UnreadableError, chunk_grid_bytes};

use super::json::JsonError;
use crate::platform::PlatformError;

/// The artifact's type.
pub const BOOTABLE_TYPE: &str = "application/vnd.kiln.bootable.v1";

/// The media type of its config, by which it is recognised.
pub const BOOTABLE_CONFIG: &str = "application/vnd.kiln.bootable.config.v1+json";

/// A chunk of a root filesystem. The name is shared with others who ship disks.
const CHUNK: &str = "application/vnd.diskimage.raw.zstd";
/// The kernel, as it is. The name is LF Edge's, so that readers of those find it.
const KERNEL: &str = "application/vnd.lfedge.eci.kernel.layer.v1+kernel";
/// The initial ramdisk, as it is. LF Edge's name too.
const INITRD: &str = "application/vnd.lfedge.eci.initrd.layer.v1+cpio";
/// The kernel's modules.
const MODULES: &str = "application/vnd.kiln.bootable.modules.v1.tar+zstd";
/// The checksums of the root filesystem's blocks.
const SUMS: &str = "application/vnd.kiln.bootable.sums.v1";

/// What a layer is.
const ROLE: &str = "kiln.bootable.role";
/// Where a chunk begins in the root filesystem, in bytes.
const OFFSET: &str = "kiln.bootable.offset";
/// How many bytes a chunk is, unpacked.
const SIZE: &str = "kiln.bootable.size";
/// What a chunk hashes to, unpacked.
const DIGEST: &str = "kiln.bootable.digest";
/// LF Edge's word for what a layer is.
const ECI_ROLE: &str = "org.lfedge.eci.role";

/// The format number that is written, and the only one that is read.
const FORMAT: u32 = 1;

/// Chunks begin and end where blocks of the root filesystem do.
const BLOCK_BYTES: u64 = 4096;

/// Longest chunk, unpacked, in bytes: what is fetched again after a break, and what a reader may
/// have to hold.
pub const MAX_CHUNK_BYTES: u64 = 512 << 20;

/// Longest root filesystem, in bytes: far more than a thousand chunks can fill, holes included.
const MAX_ROOTFS_BYTES: u64 = 16 << 40;

/// Most bytes of data for one byte of the chunks' blobs, as of layers: real ones stay below 100.
const MAX_RATIO: u64 = 1000;

/// Bytes of data from which on [`MAX_RATIO`] is judged. What is smaller does no harm, and the zeros
/// between the first and the last block of a chunk shrink more than that.
const RATIO_FROM_BYTES: u64 = 1 << 30;

/// Longest kernel, in bytes; what an image may have.
const MAX_KERNEL_BYTES: u64 = 512 << 20;

/// Longest initial ramdisk, and longest archive of modules, compressed, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Longest checksums of blocks, in bytes: those of about 50 GiB of scattered data and 250 GiB in one piece, and what a reader may hold
/// in memory. A root filesystem with more travels without.
pub const MAX_SUMS_BYTES: u64 = 256 << 20;

/// Why an artifact is no bootable image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootableError {
    /// The config is not JSON, holds a key twice, or lacks a member.
    #[error("the config of the bootable artifact is malformed")]
    Config(#[from] JsonError),
    /// A newer Kiln wrote it.
    #[error("the bootable artifact has format {found}; this build reads format {FORMAT}")]
    Format {
        /// The number.
        found: u32,
    },
    /// It runs on nothing that is known.
    #[error("the bootable artifact names no platform")]
    Platform(#[from] PlatformError),
    /// Its root filesystem is another than ext4.
    #[error("the root filesystem of the artifact is {found:?}; ext4 is read")]
    Filesystem {
        /// The word, cut to 80 characters.
        found: String,
    },
    /// A text of the config is too long or not printable.
    #[error("{noun} in the config of the artifact is too long or not printable")]
    Text {
        /// Which one.
        noun: &'static str,
    },
    /// The root filesystem cannot be that long.
    #[error(
        "a root filesystem of {size_bytes} bytes cannot be: blocks are of {BLOCK_BYTES}, and {MAX_ROOTFS_BYTES} is the most"
    )]
    RootfsSize {
        /// The length.
        size_bytes: u64,
    },
    /// A chunk cannot be where or as long as it says.
    #[error("layer {layer} of the artifact, a chunk of the root filesystem, {problem}")]
    Chunk {
        /// Which layer, counted from 0.
        layer: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Few blobs say that they unpack to a great deal.
    #[error(
        "the root filesystem of the artifact has {data_bytes} bytes of data in {packed_bytes} bytes of blobs; {MAX_RATIO} for one are taken"
    )]
    Ratio {
        /// What the chunks are unpacked.
        data_bytes: u64,
        /// Their blobs, each once.
        packed_bytes: u64,
    },
    /// A part is not there, or more than once.
    #[error("the artifact has {count} layers that are each its {role}")]
    Role {
        /// Which part.
        role: &'static str,
        /// How many layers say so.
        count: usize,
    },
    /// A part is announced longer than any of its kind.
    #[error("the artifact's {role} has {size_bytes} bytes, {limit_bytes} are taken")]
    TooLarge {
        /// Which part.
        role: &'static str,
        /// The length.
        size_bytes: u64,
        /// The most taken.
        limit_bytes: u64,
    },
}

#[cfg(test)]
mod tests;
