//! The plan of an image: everything about it is decided here, before a byte is written.
//!
//! Not here: I/O. A plan is a pure function of tree, profile, identity and size.

use std::ops::RangeInclusive;
use std::sync::atomic::AtomicBool;

use kiln_tree::{BLOCK_SIZE, CancelCheck, Cancelled, Limits, ShownPath, Tree};

use crate::bodies;
use crate::geometry::{BLOCK_INODES, BLOCKS_MAX, GROUP_BLOCKS, Geometry};
use crate::identity::{Identity, Profile, never_zero};
use crate::placement::Placement;
use crate::survey::Survey;
use crate::write::Source;

/// Smallest size chosen by [`Size::Default`]: 1 GiB.
const DEFAULT_BLOCKS_MIN: u64 = 1 << 18;

/// [`Size::Default`] is a multiple of 1 MiB.
const DEFAULT_BLOCKS_STEP: u64 = 256;

/// How large the image shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// A quarter more than the smallest image that holds the tree, at least 1 GiB, in whole MiB.
    Default,
    /// This many bytes, rounded down to whole blocks; and further to whole groups where the
    /// last group would be little but overhead, as mke2fs does. [`Plan::size_bytes`] has the
    /// result.
    Bytes(u64),
}

/// Returns how few and how many bytes an image can have: what one with nothing in it takes, and the
/// most that is written. What is in a tree may need more than the least, which [`Plan::new`] tells.
pub fn size_limits(profile: Profile) -> RangeInclusive<u64> {
    let calm = AtomicBool::new(false);
    let nothing = Tree::merge(Vec::new(), &Limits::default(), &calm);
    let least = nothing.ok().and_then(|tree| {
        let identity = Identity::derive(&[0; 32], 0);
        match Plan::new(&tree, profile, &identity, Size::Bytes(0), &calm) {
            Err(PlanError::TooSmall { minimum_bytes, .. }) => Some(minimum_bytes),
            _ => None,
        }
    });
    least.unwrap_or_default()..=BLOCKS_MAX * BLOCK_SIZE
}

/// Why a tree does not become an image.
///
/// What lies in a file system that Linux itself could not have made is refused here, so that
/// no image is ever written that e2fsck or a kernel would complain about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The size given is too small.
    #[error("the image needs {minimum_bytes} bytes, {asked_bytes} were given")]
    TooSmall {
        /// The size given.
        asked_bytes: u64,
        /// A size above it that works.
        minimum_bytes: u64,
    },
    /// The size given, or needed, is beyond what the writer makes.
    #[error("an image of {needed_bytes} bytes is larger than {maximum_bytes} bytes")]
    TooLarge {
        /// The size given or needed.
        needed_bytes: u64,
        /// The largest size.
        maximum_bytes: u64,
    },
    /// There are more files than inode numbers.
    #[error("{entries} entries are more than an image can number")]
    TooManyEntries {
        /// Names in the tree.
        entries: usize,
    },
    /// A file has more hard links than ext4 counts.
    #[error("{path} has {links} hard links, ext4 allows 65000")]
    TooManyLinks {
        /// First name of the file.
        path: ShownPath,
        /// All its names.
        links: u32,
    },
    /// The extended attributes of a file fit neither its inode nor one block beside it.
    #[error("the extended attributes of {path} are too large for ext4, beginning with {name}")]
    XattrsTooLarge {
        /// First name of the file.
        path: ShownPath,
        /// The first attribute without room.
        name: ShownPath,
    },
    /// An attribute that should hold an access control list does not.
    #[error("attribute {name} of {path} is not a valid access control list")]
    InvalidAcl {
        /// First name of the file.
        path: ShownPath,
        /// Which list.
        name: ShownPath,
    },
    /// So many names of a directory have the one hash that Linux and e2fsprogs treat
    /// differently that one block cannot hold them. No accident does that.
    #[error("{path} cannot be indexed: it and its neighbours hash to a reserved value")]
    NameHash {
        /// The first of them.
        path: ShownPath,
    },
    /// A directory has more names than two levels of index reach.
    #[error("directory {path} has {entries} entries, more than ext4 can index")]
    DirectoryTooLarge {
        /// The directory.
        path: ShownPath,
        /// How many names it has.
        entries: usize,
    },
    /// A file is longer than 16 TiB.
    #[error("{path} has {size_bytes} bytes, more than an ext4 file can have")]
    FileTooLarge {
        /// First name of the file.
        path: ShownPath,
        /// Its length.
        size_bytes: u64,
    },
    /// A device has a number that Linux does not have.
    #[error("device {path} has the number {major}:{minor}, which Linux cannot represent")]
    DeviceNumber {
        /// The device.
        path: ShownPath,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// The cancel flag was thrown.
    #[error("planning the image was cancelled")]
    Cancelled,
}

impl From<Cancelled> for PlanError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// What an image takes of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskBytes {
    /// Bytes of file bodies, which a file system that clones may share with their packs.
    pub bodies: u64,
    /// Bytes of everything else.
    pub others: u64,
}

/// An image that is decided down to the last block, but not written.
#[derive(Debug)]
pub struct Plan<'t> {
    pub(crate) identity: Identity,
    pub(crate) survey: Survey<'t>,
    pub(crate) geometry: Geometry,
    pub(crate) placement: Placement,
}

impl<'t> Plan<'t> {
    /// Lays the whole image out.
    ///
    /// The same tree, profile, identity and size give the same plan, and the same plan the same
    /// bytes. Takes time and memory in proportion to the number of entries, none of it for
    /// their contents. `cancelled` is looked at every 1,000 entries; only the layout of one
    /// directory is not interrupted.
    pub fn new(
        tree: &'t Tree,
        profile: Profile,
        identity: &Identity,
        size: Size,
        cancelled: &AtomicBool,
    ) -> Result<Self, PlanError> {
        let check = CancelCheck::new(cancelled);
        let identity = Identity {
            hash_seed: never_zero(identity.hash_seed),
            ..identity.clone()
        };
        let survey = Survey::new(tree, profile, &identity.hash_seed, &check)?;
        let sizing = Sizing {
            survey: &survey,
            profile,
            check: &check,
        };
        let (geometry, placement) = match size {
            Size::Default => sizing.default()?,
            Size::Bytes(bytes) => sizing.exactly(bytes)?,
        };
        Ok(Self {
            identity,
            survey,
            geometry,
            placement,
        })
    }

    /// Length of the image in bytes; the file will be exactly as long.
    pub fn size_bytes(&self) -> u64 {
        self.geometry.blocks * BLOCK_SIZE
    }

    /// Bytes of file bodies, each rounded up to whole blocks.
    pub fn content_bytes(&self) -> u64 {
        self.survey.body_blocks * BLOCK_SIZE
    }

    /// Most bytes of disk the image will take: everything written, were no block of a body zero.
    /// The rest of [`Plan::size_bytes`] is holes.
    pub fn disk_bytes_max(&self) -> u64 {
        let geometry = &self.geometry;
        let placement = &self.placement;
        let below: u64 = geometry
            .reserved_in(0..placement.end)
            .map(|range| range.end - range.start)
            .sum();
        let used = placement.end - below + geometry.reserved_blocks();
        // Of the journal one block is written, of the inode tables what is in use.
        let tables = u64::from(geometry.table_blocks) * u64::from(geometry.groups());
        let inodes = u64::from(self.survey.numbering.last.div_ceil(BLOCK_INODES));
        let holes = placement.journal_blocks.saturating_sub(1) + tables - inodes;
        (used - holes) * BLOCK_SIZE
    }

    /// Bytes of disk the image will take at least, where no file system shares or compresses them:
    /// what is zero in `sources`, which are those that [`Plan::write`] gets, stays a hole.
    pub fn disk_bytes(&self, sources: &[Source<'_>]) -> DiskBytes {
        let others = self.disk_bytes_max().saturating_sub(self.content_bytes());
        // Both bitmaps of a group are written only where it is in use.
        let bitmaps = 2 * u64::from(self.geometry.groups()) * BLOCK_SIZE;
        let zero = bodies::zero_blocks(self.survey.tree, sources);
        let bodies = self.survey.body_blocks.saturating_sub(zero);
        DiskBytes {
            bodies: bodies * BLOCK_SIZE,
            others: others.saturating_sub(bitmaps),
        }
    }

    /// Names in the image, the root included.
    pub fn entries(&self) -> usize {
        self.survey.tree.node_count() + usize::from(self.survey.numbering.makes_lost_and_found())
    }

    /// Extended attributes that are left out because ext4 has no place for their name space
    /// (such as `com.apple.…`): setting them on Linux fails as well.
    pub fn unsupported_xattrs(&self) -> u64 {
        self.survey.unsupported_attributes
    }
}

/// The search for a size.
struct Sizing<'s, 't> {
    survey: &'s Survey<'t>,
    profile: Profile,
    check: &'s CancelCheck<'s>,
}

/// Why an image is not laid out in a size.
enum Misfit {
    /// It does not fit; this many blocks are worth trying.
    Try(u64),
    Cancelled,
}

impl From<Cancelled> for Misfit {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl Sizing<'_, '_> {
    fn default(&self) -> Result<(Geometry, Placement), PlanError> {
        let content = self.survey.body_blocks + self.survey.other_blocks;
        let (smallest, _) = self.at_least(content)?;
        let roomy = smallest.blocks + smallest.blocks / 4;
        let blocks = roomy.clamp(DEFAULT_BLOCKS_MIN, BLOCKS_MAX);
        self.at_least(blocks.next_multiple_of(DEFAULT_BLOCKS_STEP))
    }

    fn exactly(&self, bytes: u64) -> Result<(Geometry, Placement), PlanError> {
        let blocks = bytes / BLOCK_SIZE;
        if blocks > BLOCKS_MAX {
            return Err(too_large(blocks));
        }
        match self.attempt(blocks) {
            Ok(fits) => Ok(fits),
            Err(Misfit::Cancelled) => Err(PlanError::Cancelled),
            Err(Misfit::Try(larger)) => {
                let (geometry, _) = self.at_least(larger)?;
                Err(PlanError::TooSmall {
                    asked_bytes: bytes,
                    minimum_bytes: geometry.blocks * BLOCK_SIZE,
                })
            }
        }
    }

    /// The first size from `blocks` up that works. Larger is not always enough: the journal
    /// grows in steps, and a last group may be too short to keep.
    fn at_least(&self, blocks: u64) -> Result<(Geometry, Placement), PlanError> {
        let mut blocks = blocks;
        loop {
            if blocks > BLOCKS_MAX {
                return Err(too_large(blocks));
            }
            match self.attempt(blocks) {
                Ok(fits) => return Ok(fits),
                Err(Misfit::Try(larger)) => blocks = larger,
                Err(Misfit::Cancelled) => return Err(PlanError::Cancelled),
            }
        }
    }

    /// Lays out one size.
    fn attempt(&self, blocks: u64) -> Result<(Geometry, Placement), Misfit> {
        let inodes = u64::from(self.survey.numbering.last);
        let geometry = Geometry::new(blocks, inodes)
            .map_err(|misfit| Misfit::Try(misfit.try_blocks.max(blocks + 1)))?;
        let placement = Placement::new(self.survey, &geometry, self.profile, self.check)?;
        if placement.end <= geometry.blocks {
            return Ok((geometry, placement));
        }
        let next_group = if geometry.blocks % GROUP_BLOCKS == 0 {
            geometry.blocks_with_next_group()
        } else {
            0
        };
        Err(Misfit::Try(placement.end.max(next_group).max(blocks + 1)))
    }
}

fn too_large(blocks: u64) -> PlanError {
    PlanError::TooLarge {
        needed_bytes: blocks.saturating_mul(BLOCK_SIZE),
        maximum_bytes: BLOCKS_MAX * BLOCK_SIZE,
    }
}

#[cfg(test)]
mod tests {
    use kiln_tree::{Body, Entry, IndexBuilder, Kind, Limits, Timestamp, Xattrs};

    use super::*;

    fn tree() -> Tree {
        let mut layer = IndexBuilder::new();
        let file = Entry {
            path: b"a",
            kind: Kind::Regular(Body::whole(0, 0)),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp {
                seconds: 0,
                nanoseconds: 0,
            },
            xattrs: Xattrs::NONE,
        };
        layer.push(&file).unwrap();
        let calm = AtomicBool::new(false);
        Tree::merge(vec![layer.finish()], &Limits::default(), &calm).unwrap()
    }

    /// Each pass alone looks at the flag: none of them may run through a million entries unasked.
    #[test]
    fn a_thrown_flag_stops_every_pass() {
        let tree = tree();
        let identity = Identity::derive(&[7; 32], 0);
        let calm = AtomicBool::new(false);
        let thrown = AtomicBool::new(true);
        let check = || CancelCheck::new(&thrown);
        let plan = |size, flag| Plan::new(&tree, Profile::RwV1, &identity, size, flag);

        let surveyed = Survey::new(&tree, Profile::RwV1, &identity.hash_seed, &check());
        assert_eq!(surveyed.err(), Some(PlanError::Cancelled));

        let good = plan(Size::Default, &calm).unwrap();
        let placed = Placement::new(&good.survey, &good.geometry, Profile::RwV1, &check());
        assert_eq!(placed.err(), Some(Cancelled));

        for size in [Size::Default, Size::Bytes(64 << 20)] {
            let stopped = plan(size, &thrown);
            assert_eq!(stopped.err(), Some(PlanError::Cancelled), "{size:?}");
        }
    }
}
