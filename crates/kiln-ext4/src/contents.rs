//! The blocks of metadata that belong to files and directories: directory blocks, long link
//! targets and attribute blocks.
//!
//! Directories are made one at a time and forgotten, so a million entries in many directories
//! take no memory here.
//!
//! Not here: inodes and their extent trees, see `inodes`; file bodies, see `bodies`.

use kiln_tree::{BLOCK_SIZE, InodeKind};

use crate::bytes::BLOCK_BYTES;
use crate::directory::{self, Place};
use crate::geometry::Cursor;
use crate::inodes::Subject;
use crate::output::Output;
use crate::plan::Plan;
use crate::superblock::checksum_seed;
use crate::survey::{LONG_TARGET_BYTES, Object};
use crate::write::WriteError;
use crate::xattr;

/// Writes the blocks of metadata that inodes point to.
pub(crate) fn write(plan: &Plan<'_>, output: &mut Output<'_>) -> Result<(), WriteError> {
    write_directories(plan, output)?;
    write_targets(plan, output)?;
    write_attributes(plan, output)
}

fn write_directories(plan: &Plan<'_>, output: &mut Output<'_>) -> Result<(), WriteError> {
    let survey = &plan.survey;
    for (number, object) in survey.numbering.objects(survey.tree) {
        if survey.directory_blocks(object) == 0 {
            continue;
        }
        let entries = survey.entries(object);
        let layout = survey.laid_out_again(object, &entries);
        let place = Place {
            number,
            parent: survey.parent_number(object),
            checksum: Subject::new(plan, number, object).checksum,
        };
        let mut cursor = Cursor::at(&plan.geometry, plan.placement.start(object));
        directory::emit(&place, &layout, &entries, &mut |block| {
            output.put(cursor.take(1).start, block)
        })?;
        output.check_cancelled()?;
        output.advance(u64::from(layout.blocks()) * BLOCK_SIZE);
    }
    Ok(())
}

fn write_targets(plan: &Plan<'_>, output: &mut Output<'_>) -> Result<(), WriteError> {
    let tree = plan.survey.tree;
    for id in tree.inodes() {
        let InodeKind::Symlink(target) = tree.inode(id).kind else {
            continue;
        };
        if target.len() < LONG_TARGET_BYTES {
            continue;
        }
        let mut block = [0; BLOCK_BYTES];
        block[..target.len()].copy_from_slice(target);
        output.put(plan.placement.start(Object::InTree(id)), &block)?;
        output.advance(BLOCK_SIZE);
    }
    Ok(())
}

/// Writes every attribute block when its first user comes by.
fn write_attributes(plan: &Plan<'_>, output: &mut Output<'_>) -> Result<(), WriteError> {
    let survey = &plan.survey;
    let seed = checksum_seed(&plan.identity);
    let mut next = 0;
    for id in survey.tree.inodes() {
        if survey.attribute_block(id) != Some(next) {
            continue;
        }
        if let Some(mut block) = survey.attributes(id).block {
            let number = plan.placement.attribute_blocks[next];
            xattr::seal(&mut block, survey.sharers[next], number, seed);
            output.put(number, &block)?;
            output.advance(BLOCK_SIZE);
        }
        next += 1;
    }
    Ok(())
}
