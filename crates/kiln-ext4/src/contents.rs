//! The blocks that belong to files and directories but are no bodies: directory blocks, long
//! link targets, attribute blocks, extent tree blocks and inode tables.
//!
//! Directories are made one at a time and forgotten, so a million entries in many directories
//! take no memory here.
//!
//! Not here: file bodies, and what belongs to groups.

use kiln_tree::{BLOCK_SIZE, Inode, InodeId, InodeKind, Tree};

use crate::bytes::{BLOCK_BYTES, Block};
use crate::crc::Checksum;
use crate::device;
use crate::directory::{self, Place};
use crate::extents::Extents;
use crate::geometry::{BLOCK_INODES, Cursor};
use crate::inode::{self, FLAG_EXTENTS, FLAG_INDEX, FileType, INODE_BYTES, InodeRecord};
use crate::output::Output;
use crate::placement::Placement;
use crate::plan::Plan;
use crate::superblock::checksum_seed;
use crate::survey::{LONG_TARGET_BYTES, Object, attributes_of, file_type};
use crate::time::DiskTime;
use crate::write::WriteError;
use crate::xattr::{self, Attributes};

/// Entries between two looks at the cancel flag.
const ENTRIES_PER_CHECK: u32 = 1000;

/// Above this many links a directory's count says 1, "unknown" (`dir_nlink`).
const DIRECTORY_LINKS_MAX: u32 = 65_000;

/// Writes what lies in inodes and in blocks of metadata.
pub(crate) struct Contents<'p> {
    plan: &'p Plan<'p>,
    tree: &'p Tree,
    seed: u32,
    epoch: DiskTime,
}

impl<'p> Contents<'p> {
    pub(crate) fn new(plan: &'p Plan<'p>) -> Self {
        Self {
            plan,
            tree: plan.survey.tree,
            seed: checksum_seed(&plan.identity),
            epoch: DiskTime::new(plan.identity.epoch_seconds, 0),
        }
    }

    /// Blocks this is going to report as done.
    pub(crate) fn blocks(&self) -> u64 {
        let inode_blocks = self.plan.survey.numbering.last.div_ceil(BLOCK_INODES);
        self.plan.survey.other_blocks + u64::from(inode_blocks)
    }

    pub(crate) fn write(&self, output: &mut Output<'_>) -> Result<(), WriteError> {
        self.write_directories(output)?;
        self.write_targets(output)?;
        self.write_attributes(output)?;
        self.write_inodes(output)
    }

    fn write_directories(&self, output: &mut Output<'_>) -> Result<(), WriteError> {
        let survey = &self.plan.survey;
        for (number, object) in survey.numbering.objects(self.tree) {
            if survey.directory_blocks(object) == 0 {
                continue;
            }
            let entries = survey.entries(object);
            let layout = survey.laid_out_again(object, &entries);
            let place = Place {
                number,
                parent: survey.parent_number(object),
                checksum: self.subject(number, object).checksum,
            };
            let start = self.plan.placement.start(object);
            let mut cursor = Cursor::at(&self.plan.geometry, start);
            directory::emit(&place, &layout, &entries, &mut |block| {
                output.put(cursor.take(1).start, block)
            })?;
            output.check_cancelled()?;
            output.advance(u64::from(layout.blocks()) * BLOCK_SIZE);
        }
        Ok(())
    }

    fn write_targets(&self, output: &mut Output<'_>) -> Result<(), WriteError> {
        for id in self.tree.inodes() {
            let InodeKind::Symlink(target) = self.tree.inode(id).kind else {
                continue;
            };
            if target.len() < LONG_TARGET_BYTES {
                continue;
            }
            let mut block = [0; BLOCK_BYTES];
            block[..target.len()].copy_from_slice(target);
            output.put(self.plan.placement.start(Object::InTree(id)), &block)?;
            output.advance(BLOCK_SIZE);
        }
        Ok(())
    }

    /// Writes every attribute block when its first user comes by.
    fn write_attributes(&self, output: &mut Output<'_>) -> Result<(), WriteError> {
        let mut next = 0;
        for id in self.tree.inodes() {
            if self.plan.survey.attribute_block(id) != Some(next) {
                continue;
            }
            let attributes = laid_out_again(&self.tree.inode(id));
            if let Some(mut block) = attributes.block {
                let number = self.plan.placement.attribute_blocks[next];
                let sharers = self.plan.survey.sharers[next];
                xattr::seal(&mut block, sharers, number, self.seed);
                output.put(number, &block)?;
                output.advance(BLOCK_SIZE);
            }
            next += 1;
        }
        Ok(())
    }

    fn write_inodes(&self, output: &mut Output<'_>) -> Result<(), WriteError> {
        let mut table = Table::new(self.plan);
        let mut early = self.plan.survey.numbering.objects(self.tree).peekable();
        let mut since_check = 0;
        // The journal's number lies between the root's and everything else's.
        if let Some((number, root)) = early.next() {
            table.put(number, &self.record(number, root, output)?, output)?;
        }
        if self.plan.placement.journal_blocks > 0 {
            table.put(inode::JOURNAL, &self.journal_record(output)?, output)?;
        }
        for (number, object) in early {
            table.put(number, &self.record(number, object, output)?, output)?;
            since_check += 1;
            if since_check == ENTRIES_PER_CHECK {
                since_check = 0;
                output.check_cancelled()?;
            }
        }
        table.flush(output)
    }

    /// Makes the record of one object; its extent tree blocks are written on the way.
    fn record(
        &self,
        number: u32,
        object: Object,
        output: &mut Output<'_>,
    ) -> Result<[u8; INODE_BYTES], WriteError> {
        let subject = self.subject(number, object);
        match object {
            Object::InTree(id) => self.tree_record(&subject, id, output),
            Object::LostAndFound => self.lost_and_found_record(&subject, output),
        }
    }

    fn tree_record(
        &self,
        subject: &Subject,
        id: InodeId,
        output: &mut Output<'_>,
    ) -> Result<[u8; INODE_BYTES], WriteError> {
        let inode = self.tree.inode(id);
        let content = self.content(subject, &inode, output)?;
        let attributes = laid_out_again(&inode);
        let attribute_block = self.plan.survey.attribute_block(id);
        let record = InodeRecord {
            file_type: file_type(&inode.kind),
            permissions: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size_bytes: content.size_bytes,
            time: DiskTime::new(inode.mtime.seconds, inode.mtime.nanoseconds),
            links: self.links(id, &inode),
            blocks: content.blocks + u64::from(attribute_block.is_some()),
            flags: content.flags,
            content: content.bytes,
            generation: subject.generation,
            attribute_block: attribute_block
                .map_or(0, |block| self.plan.placement.attribute_blocks[block]),
            attributes: &attributes.inline,
        };
        Ok(record.encode(subject.number, self.seed))
    }

    fn content(
        &self,
        subject: &Subject,
        inode: &Inode<'_>,
        output: &mut Output<'_>,
    ) -> Result<Content, WriteError> {
        let plan = self.plan;
        match inode.kind {
            InodeKind::Directory { .. } => self.directory_content(subject, output),
            InodeKind::Regular(body) => {
                let start = plan.placement.start(subject.object);
                let extents = Placement::body(&plan.geometry, start, &body);
                self.mapped(
                    subject.number,
                    subject.checksum,
                    &extents,
                    body.size_bytes,
                    output,
                )
            }
            InodeKind::Symlink(target) if target.len() < LONG_TARGET_BYTES => {
                let mut bytes = [0; 60];
                bytes[..target.len()].copy_from_slice(target);
                Ok(Content {
                    size_bytes: target.len() as u64,
                    ..Content::immediate(bytes)
                })
            }
            InodeKind::Symlink(target) => {
                let mut extents = Extents::default();
                extents.push(0, plan.placement.start(subject.object), 1);
                self.mapped(
                    subject.number,
                    subject.checksum,
                    &extents,
                    target.len() as u64,
                    output,
                )
            }
            InodeKind::CharDevice(numbers) | InodeKind::BlockDevice(numbers) => {
                let bytes = device::encode(numbers.major, numbers.minor).unwrap_or([0; 60]);
                Ok(Content::immediate(bytes))
            }
            InodeKind::Fifo | InodeKind::Socket => Ok(Content::immediate([0; 60])),
        }
    }

    fn directory_content(
        &self,
        subject: &Subject,
        output: &mut Output<'_>,
    ) -> Result<Content, WriteError> {
        let plan = self.plan;
        let blocks = plan.survey.directory_blocks(subject.object);
        let start = plan.placement.start(subject.object);
        let extents = Placement::run(&plan.geometry, start, blocks);
        let mut content = self.mapped(
            subject.number,
            subject.checksum,
            &extents,
            blocks * BLOCK_SIZE,
            output,
        )?;
        if plan.survey.is_indexed(subject.object) {
            content.flags |= FLAG_INDEX;
        }
        Ok(content)
    }

    /// Content in blocks of the image; writes the extent tree's own.
    fn mapped(
        &self,
        number: u32,
        checksum: Checksum,
        extents: &Extents,
        size_bytes: u64,
        output: &mut Output<'_>,
    ) -> Result<Content, WriteError> {
        let plan = self.plan;
        let count = extents.tree_blocks();
        let numbers = plan.placement.tree_blocks(&plan.geometry, number, count);
        let encoded = extents.encode(&numbers, checksum);
        for (block_number, block) in &encoded.blocks {
            output.put(*block_number, block)?;
        }
        Ok(Content {
            size_bytes,
            blocks: extents.mapped_blocks() + count,
            flags: FLAG_EXTENTS,
            bytes: encoded.root,
        })
    }

    fn links(&self, id: InodeId, inode: &Inode<'_>) -> u16 {
        let links = match inode.kind {
            InodeKind::Directory { subdirectories } => {
                let is_root = id == self.tree.inode_of(self.tree.root());
                let made = is_root && self.plan.survey.numbering.makes_lost_and_found();
                let links = subdirectories.saturating_add(2 + u32::from(made));
                if links > DIRECTORY_LINKS_MAX {
                    1
                } else {
                    links
                }
            }
            _ => inode.links,
        };
        u16::try_from(links).unwrap_or(1)
    }

    fn lost_and_found_record(
        &self,
        subject: &Subject,
        output: &mut Output<'_>,
    ) -> Result<[u8; INODE_BYTES], WriteError> {
        let content = self.directory_content(subject, output)?;
        let record = InodeRecord {
            file_type: FileType::Directory,
            permissions: 0o700,
            generation: subject.generation,
            links: 2,
            ..self.bare_record(&content)
        };
        Ok(record.encode(subject.number, self.seed))
    }

    fn journal_record(&self, output: &mut Output<'_>) -> Result<[u8; INODE_BYTES], WriteError> {
        let plan = self.plan;
        let blocks = plan.placement.journal_blocks;
        let extents = Placement::run(&plan.geometry, plan.placement.journal_start(), blocks);
        let checksum = Checksum::of_inode(self.seed, inode::JOURNAL, 0);
        let size_bytes = blocks * BLOCK_SIZE;
        let content = self.mapped(inode::JOURNAL, checksum, &extents, size_bytes, output)?;
        Ok(self.bare_record(&content).encode(inode::JOURNAL, self.seed))
    }

    /// A file of the image's own: root's, of the epoch, for root alone.
    fn bare_record(&self, content: &Content) -> InodeRecord<'static> {
        InodeRecord {
            file_type: FileType::Regular,
            permissions: 0o600,
            uid: 0,
            gid: 0,
            size_bytes: content.size_bytes,
            time: self.epoch,
            links: 1,
            blocks: content.blocks,
            flags: content.flags,
            content: content.bytes,
            generation: 0,
            attribute_block: 0,
            attributes: &[],
        }
    }

    fn subject(&self, number: u32, object: Object) -> Subject {
        let generation = self.plan.survey.generation(object);
        Subject {
            number,
            object,
            generation,
            checksum: Checksum::of_inode(self.seed, number, generation),
        }
    }
}

/// The object whose inode is being made.
struct Subject {
    number: u32,
    object: Object,
    generation: u32,
    /// The start of everything that carries a checksum of this inode.
    checksum: Checksum,
}

#[expect(
    clippy::expect_used,
    reason = "the survey laid out the same attributes of the same tree"
)]
fn laid_out_again(inode: &Inode<'_>) -> Attributes {
    attributes_of(inode).expect("the attributes fit before")
}

/// What an inode says about its content.
struct Content {
    size_bytes: u64,
    /// Blocks of content and extent tree.
    blocks: u64,
    flags: u32,
    bytes: [u8; 60],
}

impl Content {
    /// Content that lies in the inode.
    const fn immediate(bytes: [u8; 60]) -> Self {
        Self {
            size_bytes: 0,
            blocks: 0,
            flags: 0,
            bytes,
        }
    }
}

/// The inode tables, filled by ascending number.
struct Table<'p> {
    plan: &'p Plan<'p>,
    block: Box<Block>,
    /// Which block of all tables in a row is being filled.
    current: u32,
}

impl<'p> Table<'p> {
    fn new(plan: &'p Plan<'p>) -> Self {
        Self {
            plan,
            block: Box::new([0; BLOCK_BYTES]),
            current: 0,
        }
    }

    fn put(
        &mut self,
        number: u32,
        record: &[u8; INODE_BYTES],
        output: &mut Output<'_>,
    ) -> Result<(), WriteError> {
        let index = number - 1;
        if index / BLOCK_INODES != self.current {
            self.flush(output)?;
            self.current = index / BLOCK_INODES;
        }
        let offset = (index % BLOCK_INODES) as usize * INODE_BYTES;
        self.block[offset..offset + INODE_BYTES].copy_from_slice(record);
        Ok(())
    }

    fn flush(&mut self, output: &mut Output<'_>) -> Result<(), WriteError> {
        let geometry = &self.plan.geometry;
        let group = self.current / geometry.table_blocks;
        let table = geometry.tables[group as usize].inode_table;
        let within = self.current % geometry.table_blocks;
        output.put(table + u64::from(within), &self.block)?;
        output.advance(BLOCK_SIZE);
        self.block.fill(0);
        Ok(())
    }
}
