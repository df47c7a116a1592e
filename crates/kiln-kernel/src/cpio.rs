//! Archives in the format of an initial RAM file system: cpio "newc", and several of them in a
//! row.
//!
//! ```text
//! │ 110 bytes: "070701", 13 fields of 8 hexadecimal digits │ name, NUL │ 0–3 NUL │ content │ 0–3 NUL │
//!      inode mode uid gid links mtime size major minor rmajor rminor namesize check
//! ```
//!
//! The entry `TRAILER!!!` ends an archive. The kernel takes any number of archives in a row, plain
//! or compressed as a whole, with NULs in between, and sees one only where it begins at a multiple
//! of four bytes: what comes behind a compressed part of any other length is passed over.
//!
//! Source: `Documentation/driver-api/early-userspace/buffer-format.rst` and `init/initramfs.c` of
//! the kernel. What goes into an initrd is not here.

mod read;
mod write;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

pub use read::{read_cpio, read_initramfs};
pub use write::{CpioWriter, padded};

use crate::facts::Compression;

/// How an entry begins. `070702` would have checksums, and `070707` is the old format.
const MAGIC: &[u8] = b"070701";
/// Length of an entry's header, in bytes.
const HEADER_BYTES: usize = 110;
/// The name that ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!";
/// Where entries, contents and archives begin: at multiples of this.
const ALIGNMENT: usize = 4;
/// Longest name and longest link target, in bytes, its NUL included: the kernel passes over
/// entries whose name is longer than `PATH_MAX`.
const PATH_MAX: usize = 4096;

const KIND_MASK: u32 = 0o170_000;
const KIND_DIRECTORY: u32 = 0o040_000;
const KIND_FILE: u32 = 0o100_000;
const KIND_LINK: u32 = 0o120_000;
const KIND_CHARACTER: u32 = 0o020_000;
const KIND_BLOCK: u32 = 0o060_000;
/// Modes are the permissions and the three bits above them.
const PERMISSIONS_MASK: u32 = 0o7777;

/// What an archive may hold at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpioLimits {
    /// Number of entries.
    pub entries: u32,
    /// Length of the archive, unpacked, in bytes.
    pub bytes: u64,
}

impl Default for CpioLimits {
    /// Far above what distributions boot with: some thousand entries and 300 MiB.
    fn default() -> Self {
        Self {
            entries: 100_000,
            bytes: 1 << 30,
        }
    }
}

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpioEntry<'a> {
    /// Where it is, from the top: without a leading `/` or `./`. The top itself is empty.
    pub path: PathBuf,
    /// Permissions, set-id and sticky bits.
    pub permissions: u32,
    /// Number that entries of one file share, and nothing else.
    pub inode: u32,
    /// Names the file has. Of a file with several, programs give the last entry the content.
    pub links: u32,
    /// What it is.
    pub node: CpioNode<'a>,
}

/// What an entry of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpioNode<'a> {
    /// A directory.
    Directory,
    /// A regular file with this content.
    File(Cow<'a, [u8]>),
    /// A symbolic link to this target.
    Link(Cow<'a, [u8]>),
    /// A character device with these numbers.
    CharacterDevice {
        /// Which driver.
        major: u32,
        /// Which device of the driver.
        minor: u32,
    },
    /// A block device with these numbers.
    BlockDevice {
        /// Which driver.
        major: u32,
        /// Which device of the driver.
        minor: u32,
    },
}

/// Why an archive could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CpioError {
    /// A path cannot be that of an entry.
    #[error("{} cannot be put into an archive: {what}", path.display())]
    Refused {
        /// The path, as given.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is more than is accepted.
    #[error("there are more than {} entries or {} bytes in the archive", limits.entries, limits.bytes)]
    TooMuch {
        /// The most that is accepted.
        limits: CpioLimits,
    },
    /// The archive breaks a rule of the format.
    #[error("the archive is damaged at byte {offset}: {what}")]
    Malformed {
        /// Where its entry begins, in bytes from the start of what was unpacked.
        offset: usize,
        /// The rule that is broken.
        what: &'static str,
    },
    /// An archive begins where the kernel does not look for one.
    #[error(
        "an archive begins at byte {offset}, which is no multiple of four: the kernel passes over it"
    )]
    Misaligned {
        /// Where it begins, in bytes.
        offset: usize,
    },
    /// It has something that Kiln does not read.
    #[error("an initrd with {what} is not supported")]
    Unsupported {
        /// What it has.
        what: &'static str,
    },
    /// A compressed part cannot be unpacked.
    #[error("cannot unpack the {compression} part of the initrd")]
    Corrupt {
        /// How it is compressed.
        compression: Compression,
        /// What the decoder says.
        source: io::Error,
    },
}

impl CpioNode<'_> {
    fn kind(&self) -> u32 {
        match self {
            Self::Directory => KIND_DIRECTORY,
            Self::File(_) => KIND_FILE,
            Self::Link(_) => KIND_LINK,
            Self::CharacterDevice { .. } => KIND_CHARACTER,
            Self::BlockDevice { .. } => KIND_BLOCK,
        }
    }

    fn content(&self) -> &[u8] {
        match self {
            Self::File(content) | Self::Link(content) => content,
            _ => &[],
        }
    }

    fn device(&self) -> (u32, u32) {
        match self {
            Self::CharacterDevice { major, minor } | Self::BlockDevice { major, minor } => {
                (*major, *minor)
            }
            _ => (0, 0),
        }
    }
}

/// Says what is wrong with a path of names and single slashes between them, if anything is.
fn path_fault(path: &[u8]) -> Option<&'static str> {
    if path.is_empty() {
        Some("it is empty")
    } else if path == TRAILER {
        Some("that name ends an archive")
    } else if path.len() >= PATH_MAX {
        Some("it is longer than 4095 bytes")
    } else if path.contains(&0) {
        Some("it has a NUL in it")
    } else if path
        .split(|byte| *byte == b'/')
        .any(|name| matches!(name, b"" | b"." | b".."))
    {
        Some("it has an empty name, . or .. in it")
    } else {
        None
    }
}

fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests;
