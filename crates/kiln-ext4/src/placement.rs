//! Which free block holds what, for one geometry.
//!
//! ```text
//! free blocks, lowest first:
//!   directories | long link targets | attribute blocks | file bodies | extent tree blocks | journal
//!   (by inode number)                                    (layer, then archive order)
//! ```
//!
//! Everything is placed in one pass with one cursor, so an object's blocks follow from the one
//! block it starts at. Bodies in archive order keep the ranges copied from a pack long. Extent
//! tree blocks come behind the bodies because only then is it known how often superblock copies
//! cut them.
//!
//! Not here: the bytes.

use std::collections::BTreeMap;

use kiln_tree::{Body, CancelCheck, Cancelled, InodeKind};

use crate::extents::Extents;
use crate::geometry::{Cursor, Geometry};
use crate::identity::Profile;
use crate::inode;
use crate::journal;
use crate::survey::{LONG_TARGET_BYTES, Object, Survey};

/// Where everything starts.
#[derive(Debug)]
pub(crate) struct Placement {
    /// By inode index: first block of a directory, a long link target or a body; else 0.
    starts: Vec<u64>,
    /// First block of the `lost+found` the writer makes.
    lost_and_found: u64,
    /// The attribute blocks.
    pub(crate) attribute_blocks: Vec<u64>,
    /// First extent tree block, by inode number, of what needs any.
    tree_starts: BTreeMap<u32, u64>,
    /// First block of the journal.
    journal: u64,
    /// Blocks of the journal; none where there is none.
    pub(crate) journal_blocks: u64,
    /// Every free block below this one is taken, none above.
    pub(crate) end: u64,
}

impl Placement {
    /// Places everything, beyond the end of the image if it does not fit.
    pub(crate) fn new(
        survey: &Survey<'_>,
        geometry: &Geometry,
        profile: Profile,
        check: &CancelCheck<'_>,
    ) -> Result<Self, Cancelled> {
        let tree = survey.tree;
        let mut placement = Self {
            starts: vec![0; tree.inode_count()],
            lost_and_found: 0,
            attribute_blocks: Vec::with_capacity(survey.sharers.len()),
            tree_starts: BTreeMap::new(),
            journal: 0,
            journal_blocks: match profile {
                Profile::RwV1 => journal::blocks(geometry.blocks),
                Profile::RoV1 => 0,
            },
            end: 0,
        };
        let mut cursor = Cursor::new(geometry);
        let mut extents = Extents::default();
        let mut trees = Vec::new();

        for (number, object) in survey.numbering.objects(tree) {
            check.entry()?;
            let blocks = survey.directory_blocks(object);
            if blocks > 0 {
                *placement.start_mut(object) = cursor.position();
                extents.clear();
                map_run(&mut cursor, blocks, &mut extents);
                note_tree(&mut trees, number, &extents);
            }
        }
        for id in tree.inodes() {
            check.entry()?;
            if let InodeKind::Symlink(target) = tree.inode(id).kind
                && target.len() >= LONG_TARGET_BYTES
            {
                placement.starts[id.index()] = cursor.take(1).start;
            }
        }
        for _ in &survey.sharers {
            placement.attribute_blocks.push(cursor.take(1).start);
        }
        for id in tree.bodies() {
            check.entry()?;
            if let InodeKind::Regular(body) = tree.inode(id).kind {
                placement.starts[id.index()] = cursor.position();
                extents.clear();
                map_body(&mut cursor, &body, &mut extents);
                note_tree(&mut trees, survey.numbering.number(id), &extents);
            }
        }
        placement.place_trees(&mut cursor, &trees);
        if placement.journal_blocks > 0 {
            placement.journal = cursor.position();
            extents.clear();
            map_run(&mut cursor, placement.journal_blocks, &mut extents);
            trees.clear();
            note_tree(&mut trees, inode::JOURNAL, &extents);
            placement.place_trees(&mut cursor, &trees);
        }
        placement.end = cursor.position();
        Ok(placement)
    }

    fn place_trees(&mut self, cursor: &mut Cursor<'_>, trees: &[(u32, u64)]) {
        for (number, blocks) in trees {
            self.tree_starts.insert(*number, cursor.position());
            cursor.take_all(*blocks, |_| {});
        }
    }

    fn start_mut(&mut self, object: Object) -> &mut u64 {
        match object {
            Object::InTree(id) => &mut self.starts[id.index()],
            Object::LostAndFound => &mut self.lost_and_found,
        }
    }

    /// First block of a directory, a long link target or a body.
    pub(crate) fn start(&self, object: Object) -> u64 {
        match object {
            Object::InTree(id) => self.starts[id.index()],
            Object::LostAndFound => self.lost_and_found,
        }
    }

    /// Where the blocks of a directory or the journal lie.
    pub(crate) fn run(geometry: &Geometry, start: u64, blocks: u64) -> Extents {
        let mut extents = Extents::default();
        map_run(&mut Cursor::at(geometry, start), blocks, &mut extents);
        extents
    }

    /// Where a file's blocks lie.
    pub(crate) fn body(geometry: &Geometry, start: u64, body: &Body<'_>) -> Extents {
        let mut extents = Extents::default();
        map_body(&mut Cursor::at(geometry, start), body, &mut extents);
        extents
    }

    /// First block of the journal, whose superblock lies there.
    pub(crate) const fn journal_start(&self) -> u64 {
        self.journal
    }

    /// The blocks of an inode's extent tree.
    pub(crate) fn tree_blocks(&self, geometry: &Geometry, number: u32, count: u64) -> Vec<u64> {
        let mut blocks = Vec::new();
        if let Some(start) = self.tree_starts.get(&number) {
            Cursor::at(geometry, *start).take_all(count, |piece| blocks.extend(piece));
        }
        blocks
    }
}

/// Remembers an inode whose extents do not fit it.
fn note_tree(trees: &mut Vec<(u32, u64)>, number: u32, extents: &Extents) {
    let blocks = extents.tree_blocks();
    if blocks > 0 {
        trees.push((number, blocks));
    }
}

/// Takes the blocks of a file without holes.
fn map_run(cursor: &mut Cursor<'_>, blocks: u64, extents: &mut Extents) {
    let mut logical = 0;
    cursor.take_all(blocks, |piece| {
        let blocks = piece.end - piece.start;
        extents.push(logical, piece.start, blocks);
        logical += blocks;
    });
}

/// Takes the mapped blocks of a file; what no segment covers stays a hole.
fn map_body(cursor: &mut Cursor<'_>, body: &Body<'_>, extents: &mut Extents) {
    for segment in body.segments() {
        let mut logical = segment.file_block;
        cursor.take_all(segment.blocks, |piece| {
            let blocks = piece.end - piece.start;
            extents.push(logical, piece.start, blocks);
            logical += blocks;
        });
    }
}
