//! Writes a merged file tree as an ext4 image: in user space, without root, and always the
//! same bytes for the same input.
mod acl;
mod bytes;
mod crc;
mod device;
mod directory;
mod extents;
mod geometry;
mod groups;
mod htree;
mod identity;
mod inode;
mod journal;
mod name_hash;
mod superblock;
mod time;
mod xattr;

pub use identity::{Identity, Profile, WRITER_VERSION};
