//! Writes a merged file tree as an ext4 image: in user space, without root, without a mount,
//! and always the same bytes for the same input.
//!
//! [`Plan::new`] decides everything about the image of a [`kiln_tree::Tree`], down to the last
//! block, and does no I/O. [`Plan::write`] writes it into a sparse file: metadata in few large
//! writes, file bodies by `copy_file_range`, holes for zeros. [`Written::sums`] has a checksum
//! for each block, which [`verify`] compares an image with later. [`set_uuid`] gives a copy of an
//! image an identity of its own.
//!
//! Not here: reading layers or packs, choosing where images live, syncing and publishing them.

mod acl;
mod bodies;
mod bytes;
mod contents;
mod crc;
mod device;
mod directory;
mod extents;
mod geometry;
mod groups;
mod htree;
mod identity;
mod inode;
mod inodes;
mod journal;
mod name_hash;
mod output;
mod placement;
mod plan;
mod sums;
mod superblock;
mod survey;
mod time;
mod uuid;
mod write;
mod xattr;

pub use identity::{Identity, Profile, WRITER_VERSION};
pub use plan::{DiskBytes, Plan, PlanError, Size, size_limits};
pub use sums::{Sums, SumsError, VerifyError, verify};
pub use uuid::{UuidError, set_uuid, uuid};
pub use write::{CopyMethod, Source, WriteError, Written};
