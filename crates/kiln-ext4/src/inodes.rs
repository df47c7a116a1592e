//! Inode tables: what every inode says, and the extent trees of those that need more than their
//! inode.
//!
//! Not here: the bytes of a record, see `inode`; which blocks belong to it, see `placement`.

use kiln_tree::{BLOCK_SIZE, Inode, InodeId, InodeKind, Tree};

use crate::bytes::{BLOCK_BYTES, Block};
use crate::crc::Checksum;
use crate::device;
use crate::extents::Extents;
use crate::geometry::BLOCK_INODES;
use crate::inode::{self, FLAG_EXTENTS, FLAG_INDEX, FileType, INODE_BYTES, InodeRecord};
use crate::output::Output;
use crate::placement::Placement;
use crate::plan::Plan;
use crate::superblock::checksum_seed;
use crate::survey::{LONG_TARGET_BYTES, Object, file_type};
use crate::time::DiskTime;
use crate::write::WriteError;

/// Entries between two looks at the cancel flag.
const ENTRIES_PER_CHECK: u32 = 1000;

/// Above this many links a directory's count says 1, "unknown" (`dir_nlink`).
const DIRECTORY_LINKS_MAX: u32 = 65_000;

/// Writes all inodes in use, and extent tree blocks on the way.
pub(crate) fn write(plan: &Plan<'_>, output: &mut Output<'_>) -> Result<(), WriteError> {
    let inodes = Inodes {
        plan,
        tree: plan.survey.tree,
        seed: checksum_seed(&plan.identity),
        epoch: DiskTime::new(plan.identity.epoch_seconds, 0),
    };
    inodes.write(output)
}

/// What enters the checksums of everything that belongs to one inode.
pub(crate) struct Subject {
    number: u32,
    generation: u32,
    pub(crate) checksum: Checksum,
}

impl Subject {
    pub(crate) fn new(plan: &Plan<'_>, number: u32, object: Object) -> Self {
        Self::of_generation(plan, number, plan.survey.generation(object))
    }

    pub(crate) fn journal(plan: &Plan<'_>) -> Self {
        Self::of_generation(plan, inode::JOURNAL, 0)
    }

    fn of_generation(plan: &Plan<'_>, number: u32, generation: u32) -> Self {
        Self {
            number,
            generation,
            checksum: Checksum::of_inode(checksum_seed(&plan.identity), number, generation),
        }
    }
}

struct Inodes<'p> {
    plan: &'p Plan<'p>,
    tree: &'p Tree,
    seed: u32,
    epoch: DiskTime,
}

impl Inodes<'_> {
    fn write(&self, output: &mut Output<'_>) -> Result<(), WriteError> {
        let mut table = Table::new(self.plan);
        let has_journal = self.plan.placement.journal_blocks > 0;
        for (number, object) in self.plan.survey.numbering.objects(self.tree) {
            // The journal's number lies between the root's and everything else's.
            if has_journal && number == inode::LOST_AND_FOUND {
                table.put(inode::JOURNAL, &self.journal_record(output)?, output)?;
            }
            table.put(number, &self.record(number, object, output)?, output)?;
            if number.is_multiple_of(ENTRIES_PER_CHECK) {
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
        let subject = Subject::new(self.plan, number, object);
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
        let content = self.content(subject, id, &inode, output)?;
        let attributes = self.plan.survey.attributes(id);
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
        id: InodeId,
        inode: &Inode<'_>,
        output: &mut Output<'_>,
    ) -> Result<Content, WriteError> {
        let plan = self.plan;
        let object = Object::InTree(id);
        match inode.kind {
            InodeKind::Directory { .. } => self.directory_content(subject, object, output),
            InodeKind::Regular(body) => {
                let start = plan.placement.start(object);
                let extents = Placement::body(&plan.geometry, start, &body);
                self.mapped(subject, &extents, body.size_bytes, output)
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
                extents.push(0, plan.placement.start(object), 1);
                self.mapped(subject, &extents, target.len() as u64, output)
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
        object: Object,
        output: &mut Output<'_>,
    ) -> Result<Content, WriteError> {
        let plan = self.plan;
        let blocks = plan.survey.directory_blocks(object);
        let start = plan.placement.start(object);
        let extents = Placement::run(&plan.geometry, start, blocks);
        let mut content = self.mapped(subject, &extents, blocks * BLOCK_SIZE, output)?;
        if plan.survey.is_indexed(object) {
            content.flags |= FLAG_INDEX;
        }
        Ok(content)
    }

    /// Content in blocks of the image; writes the extent tree's own.
    fn mapped(
        &self,
        subject: &Subject,
        extents: &Extents,
        size_bytes: u64,
        output: &mut Output<'_>,
    ) -> Result<Content, WriteError> {
        let plan = self.plan;
        let count = extents.tree_blocks();
        let numbers = plan
            .placement
            .tree_blocks(&plan.geometry, subject.number, count);
        let encoded = extents.encode(&numbers, subject.checksum);
        for (number, block) in &encoded.blocks {
            output.put(*number, block)?;
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
        let content = self.directory_content(subject, Object::LostAndFound, output)?;
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
        let subject = Subject::journal(plan);
        let content = self.mapped(&subject, &extents, blocks * BLOCK_SIZE, output)?;
        Ok(self.bare_record(&content).encode(subject.number, self.seed))
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
