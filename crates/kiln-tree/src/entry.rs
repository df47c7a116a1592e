//! One entry of a layer, as it is pushed into an index and as it is read back.
//!
//! How entries are laid out in bytes is not here; see the records.

use crate::record;

/// Bytes in a block. File bodies start on block boundaries, in packs and in images.
pub const BLOCK_SIZE: u64 = 4096;

/// One entry of a layer.
///
/// It borrows from the index it was read from, or from whoever builds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where it is: relative, no empty, `.` or `..` component, no NUL, at most 4,096 bytes and
    /// 255 bytes a component. The empty path is the root directory.
    pub path: &'a [u8],
    /// What it is.
    pub kind: Kind<'a>,
    /// Permission, set-id and sticky bits (`0o7777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Extended attributes, sorted by name.
    pub xattrs: Xattrs<'a>,
}

/// What an entry of a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory.
    Directory,
    /// A regular file.
    Regular(Body<'a>),
    /// A symbolic link.
    Symlink {
        /// What it says, untouched; 1 to 4,095 bytes without NUL.
        target: &'a [u8],
    },
    /// Another name of what is at `target` when this entry is applied.
    Hardlink {
        /// Normalised path.
        target: &'a [u8],
    },
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// Lower layers' entry at this path is hidden.
    Whiteout,
    /// Everything lower layers have in the directory at this path is hidden.
    Opaque,
}

/// Numbers of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// A point in time, in seconds and nanoseconds since 1970.
///
/// Invariant: `nanoseconds` is below 10⁹ and counts forward also before 1970, so −0.5 s is
/// `{ seconds: -1, nanoseconds: 500_000_000 }`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// The rest, below 10⁹.
    pub nanoseconds: u32,
}

/// Where the bytes of a regular file are in its layer's pack.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    /// Length of the file as a reader sees it, holes included.
    pub size_bytes: u64,
    /// Whether the archive stored the file as sparse: what no segment covers is a hole of the
    /// file. An ordinary file is mapped as a whole by one segment.
    pub sparse: bool,
    map: Map<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Map<'a> {
    Whole { pack_block: u64 },
    Listed(&'a [Segment]),
    Encoded(&'a [u8]),
}

/// Blocks of a file that lie side by side in the pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First block in the file.
    pub file_block: u64,
    /// First block in the pack.
    pub pack_block: u64,
    /// Number of blocks, at least one.
    pub blocks: u64,
}

impl<'a> Body<'a> {
    /// An ordinary file of `size_bytes` whose bytes start at `pack_block`; an empty one has no
    /// segment and `pack_block` is not kept.
    pub fn whole(size_bytes: u64, pack_block: u64) -> Self {
        Self {
            size_bytes,
            sparse: false,
            map: Map::Whole { pack_block },
        }
    }

    /// A sparse file of `size_bytes` that has data in `segments`, which ascend in file and pack
    /// and do not overlap.
    pub fn sparse(size_bytes: u64, segments: &'a [Segment]) -> Self {
        Self {
            size_bytes,
            sparse: true,
            map: Map::Listed(segments),
        }
    }

    pub(crate) fn encoded(size_bytes: u64, segments: &'a [u8]) -> Self {
        Self {
            size_bytes,
            sparse: true,
            map: Map::Encoded(segments),
        }
    }

    /// Lists where the data is, ascending in file and pack.
    pub fn segments(&self) -> Segments<'a> {
        Segments(match self.map {
            Map::Whole { pack_block } => {
                let whole = Segment {
                    file_block: 0,
                    pack_block,
                    blocks: self.size_bytes.div_ceil(BLOCK_SIZE),
                };
                Source::Whole((whole.blocks > 0).then_some(whole))
            }
            Map::Listed(segments) => Source::Listed(segments.iter()),
            Map::Encoded(bytes) => Source::Encoded(bytes),
        })
    }

    /// Counts the blocks of the pack that belong to this file.
    pub fn pack_blocks(&self) -> u64 {
        self.segments().map(|segment| segment.blocks).sum()
    }
}

impl PartialEq for Body<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.size_bytes == other.size_bytes
            && self.sparse == other.sparse
            && self.segments().eq(other.segments())
    }
}

impl Eq for Body<'_> {}

/// Iterator of [`Body::segments`].
#[derive(Clone, Debug)]
pub struct Segments<'a>(Source<'a>);

#[derive(Clone, Debug)]
enum Source<'a> {
    Whole(Option<Segment>),
    Listed(std::slice::Iter<'a, Segment>),
    Encoded(&'a [u8]),
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        match &mut self.0 {
            Source::Whole(whole) => whole.take(),
            Source::Listed(segments) => segments.next().copied(),
            Source::Encoded(bytes) => record::next_segment(bytes),
        }
    }
}

/// One extended attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// Full name with its namespace, such as `security.capability`; 1 to 255 bytes.
    pub name: &'a [u8],
    /// Any bytes.
    pub value: &'a [u8],
}

/// The extended attributes of an entry, sorted by name, no name twice.
#[derive(Clone, Copy, Debug)]
pub struct Xattrs<'a>(List<'a>);

#[derive(Clone, Copy, Debug)]
enum List<'a> {
    Listed(&'a [Xattr<'a>]),
    Encoded(&'a [u8]),
}

impl<'a> Xattrs<'a> {
    /// No attributes.
    pub const NONE: Self = Self(List::Listed(&[]));

    /// Takes attributes sorted by name; an index refuses others.
    pub fn sorted(xattrs: &'a [Xattr<'a>]) -> Self {
        Self(List::Listed(xattrs))
    }

    pub(crate) fn encoded(bytes: &'a [u8]) -> Self {
        Self(List::Encoded(bytes))
    }

    /// Returns the length of the encoded list, where this is one.
    pub(crate) fn encoded_len(self) -> Option<usize> {
        match self.0 {
            List::Listed(_) => None,
            List::Encoded(bytes) => Some(bytes.len()),
        }
    }

    /// Lists the attributes by name.
    pub fn iter(self) -> impl Iterator<Item = Xattr<'a>> {
        let (mut listed, mut encoded): (&[Xattr<'a>], &[u8]) = match self.0 {
            List::Listed(xattrs) => (xattrs, &[]),
            List::Encoded(bytes) => (&[], bytes),
        };
        std::iter::from_fn(move || {
            if let Some((first, rest)) = listed.split_first() {
                listed = rest;
                return Some(*first);
            }
            record::next_xattr(&mut encoded)
        })
    }

    /// Tells whether there is none.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }
}

impl PartialEq for Xattrs<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Xattrs<'_> {}
