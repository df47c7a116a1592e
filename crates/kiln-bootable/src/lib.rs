//! Between the files of an image and the layers of a bootable artifact.
//!
//! ```text
//! rootfs.ext4 ─plan─▶ cells with data ─pack─▶ one zstd frame each ─unpack─▶ rootfs.ext4, holes kept
//! kernel, initrd.img, rootfs.sums ─pack─▶ as they are        modules.tar ─pack─▶ one zstd frame
//!                                            └─▶ Archive: all of it in one file
//! ```
//! What a layer is called and what a manifest may say is in `kiln_domain::oci::bootable`. Fetching,
//! sending and keeping blobs is not here. All of it blocks.

mod archive;
mod container_disk;
mod disk;
mod export;
mod hashing;
mod medium;
mod pack;
mod partitions;
mod plan;
mod qcow2;
mod root;
mod unpack;

pub use archive::{Archive, ArchiveError};
pub use container_disk::{
    DiskDocuments, DiskLayer, container_disk_bytes, container_disk_documents, pack_container_disk,
};
pub use disk::{DiskError, MAX_DISK_BYTES, unpack_disk};
pub use export::{ExportError, Exported, export, length};
pub use medium::{Extent, Holds, Medium};
pub use pack::{ImageFiles, PackError, compression, pack};
pub use partitions::PartitionError;
pub use plan::plan;
pub use qcow2::read::Qcow2Error;
pub use root::{Format, FoundRoot, RootError, Taken, find_root, take_root};
pub use unpack::{UnpackError, clear, inflate, unpack};
