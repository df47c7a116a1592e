//! What a tree consists of, entry by entry, and how two trees differ.
//!
//! A [`Manifest`] comes from a folder ([`Manifest::of_folder`]: what `umoci unpack` made, or a
//! mounted image), from an ext4 image ([`Manifest::of_image`]), or from the entries of layers
//! ([`model::apply`], the reference model).

mod difference;
mod folder;
mod image;
pub mod model;

use std::collections::{BTreeMap, BTreeSet};

pub use difference::{Allowance, Difference, differences};

use crate::images::entry::Moment;

/// A tree: what stands at each path. The root's path is empty; no path starts with a slash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// What stands at each path, in the order of bytes.
    pub nodes: BTreeMap<Vec<u8>, Node>,
    /// Directories no layer has an entry of: their time is nobody's claim.
    pub implied: BTreeSet<Vec<u8>>,
}

/// What stands at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change.
    pub mtime: Moment,
    /// Extended attributes by full name, as the kernel hands them to programs.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Every path of the same file, itself among them; of a directory, only its own.
    pub names: BTreeSet<Vec<u8>>,
    /// How many names the file says it has; of a directory, 1.
    pub links: u64,
}

/// What kind of file a node is, with what only that kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Length in bytes.
        size_bytes: u64,
        /// SHA-256 of its bytes, in hexadecimal.
        sha256: String,
    },
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A character device with its major and minor number.
    CharacterDevice(u32, u32),
    /// A block device with its major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}
