//! From a plan to a file: bodies, directories, inodes, journal, bitmaps, superblocks.
//!
//! Not here: any decision; all of them were made by the plan.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicBool;

use kiln_tree::BLOCK_SIZE;

use crate::bodies;
use crate::bytes::{BLOCK_BYTES, Block};
use crate::contents::Contents;
use crate::crc::Checksum;
use crate::geometry::{GROUP_BLOCKS, has_copy};
use crate::groups::{BitmapSums, DESCRIPTOR_BYTES, Usage};
use crate::inode;
use crate::journal;
use crate::output::Output;
use crate::placement::Placement;
use crate::plan::Plan;
use crate::sums::Sums;
use crate::superblock::{JournalMap, PRIMARY_OFFSET, SUPERBLOCK_BYTES, Superblock, checksum_seed};

/// Where the file bodies of one layer come from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The pack: bodies at the block numbers the tree gives. Only live bodies are read.
    pub file: &'a File,
    /// The CRC32C (the common, inverted form) of every block of the pack.
    pub sums: &'a [u32],
    /// Blocks of the pack that are all zero, as ascending ranges without overlap. They are not
    /// copied, so they become holes of the image file (they are mapped in the file system).
    pub zero_runs: &'a [Range<u64>],
}

/// How file bodies were moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMethod {
    /// By the kernel, which clones where the file system can.
    CopyFileRange,
    /// Through memory, at least in part.
    ReadWrite,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Length of the image.
    pub size_bytes: u64,
    /// Bytes that are not holes.
    pub written_bytes: u64,
    /// The sum of every block that was written.
    pub sums: Sums,
    /// How bodies were moved; nothing if there are none.
    pub copy_method: Option<CopyMethod>,
}

/// Why an image was not written. What is in the file then is useless.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Somebody asked to stop.
    #[error("writing the image was cancelled")]
    Cancelled,
    /// There must be one source a layer.
    #[error("the tree has {layers} layers, sources were given for {given}")]
    Sources {
        /// Layers of the tree.
        layers: usize,
        /// Sources given.
        given: usize,
    },
    /// The file must be empty, because blocks of zeros are not written.
    #[error("the image file is not empty, it has {found_bytes} bytes")]
    OutputNotEmpty {
        /// Its length.
        found_bytes: u64,
    },
    /// A pack ends before a body that the tree has in it.
    #[error("the pack of layer {layer} ends before block {block}")]
    SourceTooShort {
        /// Which layer; the bottom one is 0.
        layer: usize,
        /// A block that is not there.
        block: u64,
    },
    /// The system refused.
    #[error("cannot {step} the image")]
    Io {
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Plan<'_> {
    /// Writes the image into `output`, an empty file open for reading and writing.
    ///
    /// `sources` are the packs of the tree's layers, bottom first. `progress` is told bytes done
    /// and bytes in all, ever more until both are equal. `cancelled` is checked at least every
    /// 4 MiB and every thousand entries.
    ///
    /// Nothing is synced: the caller syncs file and directory when it publishes them. After an
    /// error the file is of no use.
    pub fn write(
        &self,
        sources: &[Source<'_>],
        output: &File,
        progress: &dyn Fn(u64, u64),
        cancelled: &AtomicBool,
    ) -> Result<Written, WriteError> {
        let tree = self.survey.tree;
        if sources.len() != tree.layer_count() {
            return Err(WriteError::Sources {
                layers: tree.layer_count(),
                given: sources.len(),
            });
        }
        let contents = Contents::new(self);
        let total_bytes = self.content_bytes() + contents.blocks() * BLOCK_SIZE;
        let mut output = Output::new(output, self.size_bytes(), total_bytes, progress, cancelled)?;

        let copy_method = bodies::write(
            &self.survey,
            &self.geometry,
            &self.placement,
            sources,
            &mut output,
        )?;
        contents.write(&mut output)?;
        self.write_journal(&mut output)?;
        self.write_groups(&mut output)?;
        let (written_bytes, sums) = output.finish()?;
        Ok(Written {
            size_bytes: self.size_bytes(),
            written_bytes,
            sums,
            copy_method,
        })
    }

    fn write_journal(&self, output: &mut Output<'_>) -> Result<(), WriteError> {
        if self.placement.journal_blocks == 0 {
            return Ok(());
        }
        let block = journal::superblock(self.placement.journal_blocks, &self.identity.uuid);
        output.put(self.placement.journal_start(), &block)
    }

    /// Writes bitmaps, then the descriptors that hold their checksums, then the superblocks.
    fn write_groups(&self, output: &mut Output<'_>) -> Result<(), WriteError> {
        let geometry = &self.geometry;
        let seed = checksum_seed(&self.identity);
        let usage = self.usage();
        let groups = 0..geometry.groups();
        let mut sums = vec![BitmapSums::default(); geometry.tables.len()];

        for group in groups.clone() {
            if let Some(bitmap) = usage.block_bitmap(group) {
                sums[group as usize].blocks = Checksum::from(seed).feed(&bitmap[..]).value();
                output.put(geometry.tables[group as usize].block_bitmap, &bitmap)?;
            }
        }
        for group in groups.clone() {
            if let Some(bitmap) = usage.inode_bitmap(group) {
                sums[group as usize].inodes = usage.inode_bitmap_sum(&bitmap, seed);
                output.put(geometry.tables[group as usize].inode_bitmap, &bitmap)?;
            }
        }
        let mut descriptors = vec![0; geometry.descriptor_blocks as usize * BLOCK_BYTES];
        for (slot, group) in descriptors
            .chunks_exact_mut(DESCRIPTOR_BYTES)
            .zip(groups.clone())
        {
            slot.copy_from_slice(&usage.descriptor(group, sums[group as usize], seed));
        }
        let superblock = self.superblock(&usage);
        for group in groups.filter(|group| has_copy(*group)) {
            let start = u64::from(group) * GROUP_BLOCKS;
            output.put(start, &superblock_block(&superblock, group))?;
            let (blocks, _) = descriptors.as_chunks::<BLOCK_BYTES>();
            for (number, block) in (start + 1..).zip(blocks) {
                output.put(number, block)?;
            }
        }
        Ok(())
    }

    fn usage(&self) -> Usage<'_> {
        let survey = &self.survey;
        let directories = survey
            .numbering
            .objects(survey.tree)
            .filter(|(_, object)| survey.directory_blocks(*object) > 0)
            .map(|(number, _)| number);
        Usage::new(
            &self.geometry,
            self.placement.end,
            survey.numbering.last,
            directories,
        )
    }

    fn superblock(&self, usage: &Usage<'_>) -> Superblock<'_> {
        let journal_blocks = self.placement.journal_blocks;
        let journal = (journal_blocks > 0).then(|| JournalMap {
            content: self.journal_content(),
            size_bytes: journal_blocks * BLOCK_SIZE,
        });
        Superblock {
            identity: &self.identity,
            blocks: self.geometry.blocks,
            free_blocks: usage.free_blocks(),
            inodes: u32::try_from(self.geometry.inodes()).unwrap_or(u32::MAX),
            free_inodes: usage.free_inodes(),
            inodes_per_group: self.geometry.inodes_per_group,
            overhead_blocks: self.geometry.reserved_blocks() + journal_blocks,
            journal,
        }
    }

    /// `i_block` of the journal's inode.
    fn journal_content(&self) -> [u8; 60] {
        let blocks = self.placement.journal_blocks;
        let extents = Placement::run(&self.geometry, self.placement.journal_start(), blocks);
        let numbers =
            self.placement
                .tree_blocks(&self.geometry, inode::JOURNAL, extents.tree_blocks());
        let seed = checksum_seed(&self.identity);
        let checksum = Checksum::of_inode(seed, inode::JOURNAL, 0);
        extents.encode(&numbers, checksum).root
    }
}

/// A block that begins with a superblock; the primary lies 1 KiB into it.
fn superblock_block(superblock: &Superblock<'_>, group: u32) -> Box<Block> {
    let offset = if group == 0 { PRIMARY_OFFSET } else { 0 };
    let mut block = Box::new([0; BLOCK_BYTES]);
    block[offset..offset + SUPERBLOCK_BYTES].copy_from_slice(&superblock.encode(group));
    block
}
