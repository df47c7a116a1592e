//! Writes archives, the same bytes for the same entries.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::{
    ALIGNMENT, CpioError, CpioLimits, CpioNode, HEADER_BYTES, KIND_DIRECTORY, MAGIC, PATH_MAX,
    PERMISSIONS_MASK, TRAILER, path_fault, to_path,
};

/// An archive in the making.
///
/// Entries come out sorted by path, numbered from one, of owner and group 0 and of time 0, in
/// whatever order they were added; so equal entries make equal bytes.
#[derive(Clone, Debug, Default)]
pub struct CpioWriter<'a> {
    entries: BTreeMap<Vec<u8>, Entry<'a>>,
    limits: CpioLimits,
    size_bytes: u64,
}

#[derive(Clone, Debug)]
struct Entry<'a> {
    permissions: u32,
    node: CpioNode<'a>,
}

impl<'a> CpioWriter<'a> {
    /// Begins an empty archive.
    pub fn new(limits: CpioLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Adds a directory, which anybody may list and its owner may write.
    pub fn directory(&mut self, path: impl AsRef<Path>) -> Result<(), CpioError> {
        self.add(path, 0o755, CpioNode::Directory)
    }

    /// Adds a regular file.
    pub fn file(
        &mut self,
        path: impl AsRef<Path>,
        permissions: u32,
        content: impl Into<Cow<'a, [u8]>>,
    ) -> Result<(), CpioError> {
        self.add(path, permissions, CpioNode::File(content.into()))
    }

    /// Adds anything. Its parent directory must have been added, because the kernel creates none.
    pub fn add(
        &mut self,
        path: impl AsRef<Path>,
        permissions: u32,
        node: CpioNode<'a>,
    ) -> Result<(), CpioError> {
        let path = path.as_ref().as_os_str().as_bytes();
        self.check(path, &node)
            .map_or(Ok(()), |what| Err(refused(path, what)))?;
        let too_much = CpioError::TooMuch {
            limits: self.limits,
        };
        let content_bytes = node.content().len();
        if u32::try_from(content_bytes).is_err() {
            return Err(too_much);
        }
        let size_bytes = self.size_bytes + entry_bytes(path.len(), content_bytes);
        let with_trailer = size_bytes + entry_bytes(TRAILER.len(), 0);
        let count = u32::try_from(self.entries.len() + 1);
        let is_few = count.is_ok_and(|count| count <= self.limits.entries);
        if with_trailer > self.limits.bytes || !is_few {
            return Err(too_much);
        }
        self.size_bytes = size_bytes;
        let permissions = permissions & PERMISSIONS_MASK;
        self.entries
            .insert(path.to_vec(), Entry { permissions, node });
        Ok(())
    }

    /// Returns the archive, whose length is a multiple of four.
    pub fn to_bytes(&self) -> Vec<u8> {
        let capacity = self.size_bytes + entry_bytes(TRAILER.len(), 0);
        let mut out = Vec::with_capacity(usize::try_from(capacity).unwrap_or(0));
        let mut inode = 0_u32;
        for (path, entry) in &self.entries {
            inode += 1;
            write_entry(&mut out, path, inode, entry.permissions, Some(&entry.node));
        }
        write_entry(&mut out, TRAILER, 0, 0, None);
        out
    }

    fn check(&self, path: &[u8], node: &CpioNode<'_>) -> Option<&'static str> {
        if let Some(fault) = path_fault(path) {
            return Some(fault);
        }
        if self.entries.contains_key(path) {
            return Some("it is there already");
        }
        if let CpioNode::Link(target) = node
            && (target.is_empty() || target.contains(&0) || target.len() >= PATH_MAX)
        {
            return Some("its target cannot be that of a link");
        }
        let parent = path.iter().rposition(|byte| *byte == b'/');
        let has_parent = parent.is_none_or(|end| {
            self.entries
                .get(&path[..end])
                .is_some_and(|entry| entry.node == CpioNode::Directory)
        });
        (!has_parent).then_some("its parent is no directory of the archive")
    }
}

/// Fills up to a multiple of four bytes, behind which the kernel finds the next archive.
pub fn padded(mut archive: Vec<u8>) -> Vec<u8> {
    archive.resize(archive.len().next_multiple_of(ALIGNMENT), 0);
    archive
}

/// Appends an entry, or the trailer, which is of no kind.
fn write_entry(
    out: &mut Vec<u8>,
    path: &[u8],
    inode: u32,
    permissions: u32,
    node: Option<&CpioNode<'_>>,
) {
    let kind = node.map_or(0, CpioNode::kind);
    let content = node.map_or(&[][..], CpioNode::content);
    let (major, minor) = node.map_or((0, 0), CpioNode::device);
    let links = if kind == KIND_DIRECTORY { 2 } else { 1 };
    // Both lengths were checked when the entry was added.
    let size_bytes = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let name_bytes = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
    out.extend_from_slice(MAGIC);
    let mode = kind | permissions;
    let fields = [
        inode, mode, 0, 0, links, 0, size_bytes, 0, 0, major, minor, name_bytes, 0,
    ];
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path);
    out.push(0);
    pad(out);
    out.extend_from_slice(content);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
}

/// Returns the length of an entry, in bytes. Every entry begins at a multiple of four.
fn entry_bytes(path_bytes: usize, content_bytes: usize) -> u64 {
    let head = (HEADER_BYTES + path_bytes + 1).next_multiple_of(ALIGNMENT);
    head as u64 + (content_bytes as u64).next_multiple_of(ALIGNMENT as u64)
}

fn refused(path: &[u8], what: &'static str) -> CpioError {
    CpioError::Refused {
        path: to_path(path),
        what,
    }
}
