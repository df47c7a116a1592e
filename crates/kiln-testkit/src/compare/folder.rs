//! The manifest of a folder on this host; needs root to see every file and attribute.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{lgetxattr, llistxattr, major, minor};
use sha2::{Digest, Sha256};

use super::{Kind, Manifest, Node};
use crate::fixtures::hex;
use crate::images::entry::Moment;

/// Largest list of names and largest value of an attribute that the kernel hands out, in bytes.
const MAX_XATTR_BYTES: usize = 64 << 10;

impl Manifest {
    /// Reads the tree below `folder`.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let mut walk = Walk::default();
        walk.visit(folder, &[])?;
        let Walk { mut nodes, names } = walk;
        for names in names.values() {
            for name in names {
                if let Some(node) = nodes.get_mut(name) {
                    node.names.clone_from(names);
                }
            }
        }
        Ok(Self {
            nodes,
            implied: BTreeSet::new(),
        })
    }
}

#[derive(Debug, Default)]
struct Walk {
    nodes: BTreeMap<Vec<u8>, Node>,
    /// Paths by device and inode number.
    names: BTreeMap<(u64, u64), BTreeSet<Vec<u8>>>,
}

impl Walk {
    fn visit(&mut self, path: &Path, name: &[u8]) -> Result<()> {
        let metadata = fs::symlink_metadata(path)
            .with_context(|| format!("cannot look at {}", path.display()))?;
        let node = node(path, &metadata).with_context(|| path.display().to_string())?;
        self.names
            .entry((metadata.dev(), metadata.ino()))
            .or_default()
            .insert(name.to_vec());
        let is_directory = node.kind == Kind::Directory;
        self.nodes.insert(name.to_vec(), node);
        if is_directory {
            let entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
            for entry in entries {
                let file_name = entry?.file_name();
                let mut below = name.to_vec();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(file_name.as_bytes());
                self.visit(&path.join(file_name), &below)?;
            }
        }
        Ok(())
    }
}

fn node(path: &Path, metadata: &Metadata) -> Result<Node> {
    let kind = kind(path, metadata)?;
    let links = if kind == Kind::Directory {
        1
    } else {
        metadata.nlink()
    };
    Ok(Node {
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: Moment {
            seconds: metadata.mtime(),
            nanoseconds: u32::try_from(metadata.mtime_nsec())?,
        },
        xattrs: xattrs(path)?,
        names: BTreeSet::new(),
        links,
    })
}

fn kind(path: &Path, metadata: &Metadata) -> Result<Kind> {
    let file_type = metadata.file_type();
    let device = metadata.rdev();
    Ok(if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_symlink() {
        Kind::Symlink(fs::read_link(path)?.into_os_string().into_vec())
    } else if file_type.is_file() {
        let (size_bytes, sha256) = content(path)?;
        Kind::File { size_bytes, sha256 }
    } else if file_type.is_char_device() {
        Kind::CharacterDevice(major(device), minor(device))
    } else if file_type.is_block_device() {
        Kind::BlockDevice(major(device), minor(device))
    } else if file_type.is_fifo() {
        Kind::Fifo
    } else if file_type.is_socket() {
        Kind::Socket
    } else {
        bail!("a file of no known type");
    })
}

fn content(path: &Path) -> Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size_bytes = 0;
    loop {
        let length = match file.read(&mut buffer) {
            Ok(0) => return Ok((size_bytes, hex(&hasher.finalize()))),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        hasher.update(buffer.get(..length).unwrap_or_default());
        size_bytes += length as u64;
    }
}

fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = vec![0; MAX_XATTR_BYTES];
    let length = llistxattr(path, &mut list).context("cannot list attributes")?;
    list.truncate(length);
    let mut found = BTreeMap::new();
    for name in list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; MAX_XATTR_BYTES];
        let length = lgetxattr(path, OsString::from_vec(name.to_vec()), &mut value)
            .with_context(|| format!("cannot read attribute {}", name.escape_ascii()))?;
        value.truncate(length);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}
