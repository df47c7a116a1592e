//! What a tree needs of an image, whatever its size: inode numbers, directory blocks, attribute
//! blocks; and the place where a tree that no ext4 image can hold is refused.
//!
//! Not here: where anything lies; see `placement`.

use std::collections::BTreeMap;

use kiln_tree::{BLOCK_SIZE, CancelCheck, Inode, InodeId, InodeKind, NodeId, ShownPath, Tree};
use sha2::{Digest, Sha256};

use crate::device;
use crate::directory::{DirectoryProblem, Entry, Layout, LeafFill, WhenEmpty};
use crate::identity::Profile;
use crate::inode::{self, FileType};
use crate::name_hash::NameHasher;
use crate::plan::PlanError;
use crate::xattr::{AttributeProblem, Attributes, SHARERS_MAX};

/// Most names of one inode that is no directory (`EXT4_LINK_MAX`).
const LINKS_MAX: u32 = 65_000;

/// Logical blocks are numbered in 32 bits, and the last number is not used.
const FILE_BLOCKS_MAX: u64 = u32::MAX as u64;

/// Shortest link target that does not fit `i_block`, with its closing NUL.
pub(crate) const LONG_TARGET_BYTES: usize = 60;

/// Stands for "no attribute block".
const NO_BLOCK: u32 = u32::MAX;

const LOST_AND_FOUND: &[u8] = b"lost+found";

/// Something that has an inode in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    InTree(InodeId),
    /// The `lost+found` of an image that brings none.
    LostAndFound,
}

/// Which inode number everything has: the root 2, `/lost+found` 11 (whatever the image has
/// there), everything else from 12 on in tree order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbering {
    lost_and_found: Option<InodeId>,
    /// The largest number in use.
    pub(crate) last: u32,
}

impl Numbering {
    fn new(tree: &Tree) -> Result<Self, PlanError> {
        let lost_and_found = tree
            .children(tree.root())
            .find(|node| tree.name(*node) == LOST_AND_FOUND)
            .map(|node| tree.inode_of(node));
        let others = tree.inode_count() - 1 - usize::from(lost_and_found.is_some());
        let last = u32::try_from(others)
            .ok()
            .and_then(|others| others.checked_add(inode::LOST_AND_FOUND))
            .ok_or(PlanError::TooManyEntries {
                entries: tree.node_count(),
            })?;
        Ok(Self {
            lost_and_found,
            last,
        })
    }

    pub(crate) fn number(&self, inode: InodeId) -> u32 {
        // `new` has checked that the largest index fits.
        let index = u32::try_from(inode.index()).unwrap_or(u32::MAX);
        match self.lost_and_found {
            _ if index == 0 => inode::ROOT,
            Some(found) if found == inode => inode::LOST_AND_FOUND,
            Some(found) if found < inode => inode::LOST_AND_FOUND + index - 1,
            _ => inode::LOST_AND_FOUND + index,
        }
    }

    /// Everything that has an inode, by number.
    pub(crate) fn objects(&self, tree: &Tree) -> impl Iterator<Item = (u32, Object)> + use<> {
        let numbering = *self;
        let found = self.lost_and_found;
        let early = found.map_or(Object::LostAndFound, Object::InTree);
        let mut inodes = tree.inodes();
        let root = inodes.next().map(Object::InTree);
        root.map(|root| (inode::ROOT, root))
            .into_iter()
            .chain(std::iter::once((inode::LOST_AND_FOUND, early)))
            .chain(
                inodes
                    .filter(move |inode| found != Some(*inode))
                    .map(move |inode| (numbering.number(inode), Object::InTree(inode))),
            )
    }

    pub(crate) const fn makes_lost_and_found(&self) -> bool {
        self.lost_and_found.is_none()
    }
}

/// What the image must hold.
#[derive(Debug)]
pub(crate) struct Survey<'t> {
    pub(crate) tree: &'t Tree,
    pub(crate) numbering: Numbering,
    hasher: NameHasher,
    fill: LeafFill,
    /// By inode index; 0 for what is no directory.
    directory_blocks: Vec<u32>,
    /// By inode index: which attribute block.
    attribute_blocks: Vec<u32>,
    /// For each attribute block, how many inodes share it.
    pub(crate) sharers: Vec<u32>,
    /// Blocks of file bodies.
    pub(crate) body_blocks: u64,
    /// Blocks of directories, long link targets and attributes.
    pub(crate) other_blocks: u64,
    pub(crate) unsupported_attributes: u64,
}

impl<'t> Survey<'t> {
    pub(crate) fn new(
        tree: &'t Tree,
        profile: Profile,
        hash_seed: &[u8; 16],
        check: &CancelCheck<'_>,
    ) -> Result<Self, PlanError> {
        let mut survey = Self {
            tree,
            numbering: Numbering::new(tree)?,
            hasher: NameHasher::new(hash_seed),
            fill: match profile {
                Profile::RwV1 => LeafFill::FourFifths,
                Profile::RoV1 => LeafFill::Full,
            },
            directory_blocks: vec![0; tree.inode_count()],
            attribute_blocks: vec![NO_BLOCK; tree.inode_count()],
            sharers: Vec::new(),
            body_blocks: 0,
            other_blocks: 0,
            unsupported_attributes: 0,
        };
        if survey.numbering.makes_lost_and_found() {
            survey.other_blocks += u64::from(Layout::Preallocated.blocks());
        }
        let mut sharing = BTreeMap::new();
        for id in tree.inodes() {
            check.entry()?;
            let inode = tree.inode(id);
            survey.count_content(id, &inode)?;
            if !inode.xattrs.is_empty() {
                survey.count_attributes(id, &inode, &mut sharing)?;
            }
        }
        survey.other_blocks += survey.sharers.len() as u64;
        Ok(survey)
    }

    fn count_content(&mut self, id: InodeId, inode: &Inode<'_>) -> Result<(), PlanError> {
        let path = || self.shown(inode.first_node);
        match inode.kind {
            InodeKind::Directory { .. } => {
                let object = Object::InTree(id);
                let blocks = self.layout_of(object, &self.entries(object))?.blocks();
                self.directory_blocks[id.index()] = blocks;
                self.other_blocks += u64::from(blocks);
            }
            InodeKind::Regular(body) => {
                if body.size_bytes.div_ceil(BLOCK_SIZE) > FILE_BLOCKS_MAX {
                    return Err(PlanError::FileTooLarge {
                        path: path(),
                        size_bytes: body.size_bytes,
                    });
                }
                self.body_blocks += body.pack_blocks();
            }
            InodeKind::Symlink(target) => {
                self.other_blocks += u64::from(target.len() >= LONG_TARGET_BYTES);
            }
            InodeKind::CharDevice(numbers) | InodeKind::BlockDevice(numbers) => {
                if device::encode(numbers.major, numbers.minor).is_none() {
                    return Err(PlanError::DeviceNumber {
                        path: path(),
                        major: numbers.major,
                        minor: numbers.minor,
                    });
                }
            }
            InodeKind::Fifo | InodeKind::Socket => {}
        }
        if inode.links > LINKS_MAX {
            return Err(PlanError::TooManyLinks {
                path: self.shown(inode.first_node),
                links: inode.links,
            });
        }
        Ok(())
    }

    /// Finds an equal block that may still be shared, or starts one.
    fn count_attributes(
        &mut self,
        id: InodeId,
        inode: &Inode<'_>,
        sharing: &mut BTreeMap<[u8; 32], u32>,
    ) -> Result<(), PlanError> {
        let attributes =
            attributes_of(inode).map_err(|problem| self.attribute_error(inode, problem))?;
        self.unsupported_attributes += attributes.unsupported;
        let Some(block) = attributes.block else {
            return Ok(());
        };
        let next = u32::try_from(self.sharers.len()).unwrap_or(NO_BLOCK);
        let shared = sharing
            .entry(Sha256::digest(&block[..]).into())
            .or_insert(next);
        if *shared != next && self.sharers[*shared as usize] == SHARERS_MAX {
            *shared = next;
        }
        if *shared == next {
            self.sharers.push(0);
        }
        self.sharers[*shared as usize] += 1;
        self.attribute_blocks[id.index()] = *shared;
        Ok(())
    }

    fn attribute_error(&self, inode: &Inode<'_>, problem: AttributeProblem) -> PlanError {
        let path = self.shown(inode.first_node);
        let name_at = |position| {
            let xattr = inode.xattrs.iter().nth(position);
            ShownPath::new(xattr.map_or(&[], |xattr| xattr.name))
        };
        match problem {
            AttributeProblem::TooLarge(position) => PlanError::XattrsTooLarge {
                path,
                name: name_at(position),
            },
            AttributeProblem::InvalidAcl(position) => PlanError::InvalidAcl {
                path,
                name: name_at(position),
            },
        }
    }

    /// Blocks of a directory; 0 for anything else.
    pub(crate) fn directory_blocks(&self, object: Object) -> u64 {
        u64::from(match object {
            Object::InTree(id) => self.directory_blocks[id.index()],
            Object::LostAndFound => Layout::Preallocated.blocks(),
        })
    }

    /// Whether a directory has an index: all of more than one block do, but for an empty
    /// `lost+found`.
    pub(crate) fn is_indexed(&self, object: Object) -> bool {
        let is_empty = match object {
            Object::InTree(id) => self.tree.children(self.tree.inode(id).first_node).len() == 0,
            Object::LostAndFound => true,
        };
        self.directory_blocks(object) > 1 && !is_empty
    }

    /// Which attribute block an inode points to.
    pub(crate) fn attribute_block(&self, id: InodeId) -> Option<usize> {
        let block = self.attribute_blocks[id.index()];
        (block != NO_BLOCK).then_some(block as usize)
    }

    /// The attributes of an inode, laid out once more for the writer.
    #[expect(
        clippy::expect_used,
        reason = "the survey laid out the same attributes of the same tree"
    )]
    pub(crate) fn attributes(&self, id: InodeId) -> Attributes {
        attributes_of(&self.tree.inode(id)).expect("the attributes had a layout before")
    }

    /// The names in a directory, sorted.
    pub(crate) fn entries(&self, object: Object) -> Vec<Entry<'t>> {
        let Object::InTree(id) = object else {
            return Vec::new();
        };
        let tree = self.tree;
        let node = tree.inode(id).first_node;
        let mut entries: Vec<Entry<'t>> = tree
            .children(node)
            .map(|child| {
                let inode = tree.inode_of(child);
                Entry {
                    name: tree.name(child),
                    number: self.numbering.number(inode),
                    file_type: file_type(&tree.inode(inode).kind),
                }
            })
            .collect();
        if id.index() == 0 && self.numbering.makes_lost_and_found() {
            let place = entries.partition_point(|entry| entry.name < LOST_AND_FOUND);
            entries.insert(
                place,
                Entry {
                    name: LOST_AND_FOUND,
                    number: inode::LOST_AND_FOUND,
                    file_type: FileType::Directory,
                },
            );
        }
        entries
    }

    /// The form of a directory once more, for the writer, which has the entries at hand.
    #[expect(
        clippy::expect_used,
        reason = "the survey laid out the same directory of the same tree"
    )]
    pub(crate) fn laid_out_again(&self, object: Object, entries: &[Entry<'_>]) -> Layout {
        self.layout_of(object, entries)
            .expect("the directory had a layout before")
    }

    fn layout_of(&self, object: Object, entries: &[Entry<'_>]) -> Result<Layout, PlanError> {
        let is_lost_and_found = match object {
            Object::LostAndFound => true,
            Object::InTree(id) => self.numbering.lost_and_found == Some(id),
        };
        let when_empty = if is_lost_and_found {
            WhenEmpty::Preallocated
        } else {
            WhenEmpty::OneBlock
        };
        Layout::new(entries, &self.hasher, self.fill, when_empty).map_err(|problem| {
            let directory = match object {
                Object::InTree(id) => self.tree.path(self.tree.inode(id).first_node),
                Object::LostAndFound => LOST_AND_FOUND.to_vec(),
            };
            match problem {
                DirectoryProblem::TooLarge => PlanError::DirectoryTooLarge {
                    path: ShownPath::new(&directory),
                    entries: entries.len(),
                },
                DirectoryProblem::ReservedHash(position) => {
                    let path = [&directory, entries[position].name].join(&b'/');
                    PlanError::NameHash {
                        path: ShownPath::new(&path),
                    }
                }
            }
        })
    }

    /// `i_generation`: a hash of the object's first path, so that it is fixed before anything
    /// whose checksum it enters.
    pub(crate) fn generation(&self, object: Object) -> u32 {
        match object {
            Object::InTree(id) => crc32c::crc32c(&self.tree.path(self.tree.inode(id).first_node)),
            Object::LostAndFound => crc32c::crc32c(LOST_AND_FOUND),
        }
    }

    /// The number of the directory a directory is in; the root is in itself.
    pub(crate) fn parent_number(&self, object: Object) -> u32 {
        let Object::InTree(id) = object else {
            return inode::ROOT;
        };
        self.tree
            .parent(self.tree.inode(id).first_node)
            .map_or(inode::ROOT, |parent| {
                self.numbering.number(self.tree.inode_of(parent))
            })
    }

    fn shown(&self, node: NodeId) -> ShownPath {
        ShownPath::new(&self.tree.path(node))
    }
}

fn attributes_of(inode: &Inode<'_>) -> Result<Attributes, AttributeProblem> {
    Attributes::new(inode.xattrs.iter().map(|xattr| (xattr.name, xattr.value)))
}

/// The type of an inode as ext4 knows it.
pub(crate) const fn file_type(kind: &InodeKind<'_>) -> FileType {
    match kind {
        InodeKind::Directory { .. } => FileType::Directory,
        InodeKind::Regular(_) => FileType::Regular,
        InodeKind::Symlink(_) => FileType::Symlink,
        InodeKind::CharDevice(_) => FileType::CharDevice,
        InodeKind::BlockDevice(_) => FileType::BlockDevice,
        InodeKind::Fifo => FileType::Fifo,
        InodeKind::Socket => FileType::Socket,
    }
}
