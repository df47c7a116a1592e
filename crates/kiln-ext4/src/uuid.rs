//! Another UUID for a file system that exists: a patch of its superblocks and of nothing else.
//!
//! Metadata checksums begin with a seed. Where the feature `metadata_csum_seed` is on, it stands in
//! the superblock; elsewhere it is the UUID's checksum, so the feature is turned on with the old
//! UUID's. What `tune2fs -U` leaves alone is left alone here too: the journal keeps a copy of the
//! first UUID, and nobody compares it.
//!
//! ```text
//! check all copies ─▶ write the backups ─▶ write the primary
//! ```
//! The bytes may be of any ext4 tool's making, and hostile. Not here: making them durable, random
//! numbers, file systems that are in use.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::bytes::{get_u16, get_u32, put_u32};
use crate::crc::Checksum;
use crate::superblock::{CHECKSUM_OFFSET, PRIMARY_OFFSET, SUPERBLOCK_BYTES};

const MAGIC: u16 = 0xef53;
const STATE_CLEAN: u16 = 1;
const STATE_ERRORS: u16 = 2;
const CRC32C: u8 = 1;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const COMPAT_STABLE_INODES: u32 = 0x800;

const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_CSUM_SEED: u32 = 0x2000;

/// `filetype` 2, `meta_bg` 10, `extents` 40, `64bit` 80, `flex_bg` 200, `ea_inode` 400,
/// `metadata_csum_seed` 2000, `large_dir` 4000, `inline_data` 8000, `encrypt` 10000, `casefold`
/// 20000. Missing: `journal_dev` 8 is no file system, `mmp` 100 says that others may be writing.
const INCOMPAT_KNOWN: u32 = 0x3_e6d2;

const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_GDT_CSUM: u32 = 0x10;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;
const RO_COMPAT_ORPHAN_PRESENT: u32 = 0x1_0000;

/// Largest exponent above 1 KiB that a block size may have: 64 KiB.
const MAX_LOG_BLOCK_SIZE: u32 = 6;

/// Why a file system's UUID could not be read or changed. Nothing was changed then, but for an
/// input or output error.
#[derive(Debug, thiserror::Error)]
pub enum UuidError {
    /// It is not ext4.
    #[error("the file holds no ext4 filesystem")]
    NotExt4,
    /// A UUID of zeros counts as none.
    #[error("a UUID of zeros means that there is none")]
    Nil,
    /// It was not unmounted, or has errors.
    #[error("the filesystem was not left clean: it needs e2fsck or a recovery of its journal")]
    NotClean,
    /// It has a feature that depends on the UUID, or one that is not known.
    #[error("the filesystem uses {feature}, which does not go with another UUID")]
    Unsupported {
        /// The feature, with its bits where it has no name here.
        feature: String,
    },
    /// A superblock is not what its checksum, or the primary one, says.
    #[error("the superblock of group {group} is damaged")]
    Damaged {
        /// Which group's; the primary is that of group 0.
        group: u64,
    },
    /// The file ends before the file system does.
    #[error("the filesystem is {wanted_bytes} bytes long, its file {found_bytes}")]
    Truncated {
        /// The file system's own size in bytes.
        wanted_bytes: u64,
        /// The file's size in bytes.
        found_bytes: u64,
    },
    /// The operating system refused a step.
    #[error("cannot {step} the filesystem's superblocks")]
    Io {
        /// What was tried, as a verb.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// One copy of the superblock, and where it lies.
struct Copy {
    offset: u64,
    bytes: [u8; SUPERBLOCK_BYTES],
}

/// What the primary superblock says about the places of the others.
struct Layout {
    first_block: u64,
    blocks: u64,
    block_bytes: u64,
    group_blocks: u64,
    backups: Backups,
}

/// Which groups have a copy.
#[derive(Clone, Copy)]
enum Backups {
    /// Every group.
    All,
    /// 1 and the powers of 3, 5 and 7.
    Sparse,
    /// These two; 0 is none.
    Two([u32; 2]),
}

/// Reads the UUID of the ext4 file system in `file`.
pub fn uuid(file: &File) -> Result<[u8; 16], UuidError> {
    let primary = read_copy(file, PRIMARY_OFFSET as u64)?;
    if !is_ext4(&primary.bytes) {
        return Err(UuidError::NotExt4);
    }
    Ok(uuid_of(&primary.bytes))
}

/// Gives the ext4 file system in `file` another UUID, in every copy of its superblock.
///
/// `file` must be open for reading and writing, and nobody else may be at work on it. Linux before
/// 4.4 does not mount a file system whose feature `metadata_csum_seed` this had to turn on.
pub fn set_uuid(file: &File, uuid: [u8; 16]) -> Result<(), UuidError> {
    if uuid == [0; 16] {
        return Err(UuidError::Nil);
    }
    let mut primary = read_copy(file, PRIMARY_OFFSET as u64)?;
    check(&primary.bytes)?;
    let layout = Layout::read(&primary.bytes).ok_or(UuidError::Damaged { group: 0 })?;
    layout.check_length(file)?;
    let mut copies = Vec::new();
    for group in layout.backup_groups() {
        let copy = read_copy(file, layout.offset_of(group))?;
        let is_ours = is_ext4(&copy.bytes)
            && uuid_of(&copy.bytes) == uuid_of(&primary.bytes)
            && has_checksum(&copy.bytes) == has_checksum(&primary.bytes)
            && is_whole(&copy.bytes);
        if !is_ours {
            return Err(UuidError::Damaged { group });
        }
        copies.push(copy);
    }
    // The primary last: until then the file system is what it was to everybody who mounts it.
    for copy in copies.iter_mut().chain([&mut primary]) {
        patch(&mut copy.bytes, uuid);
        file.write_all_at(&copy.bytes, copy.offset)
            .map_err(|source| UuidError::Io {
                step: "write",
                source,
            })?;
    }
    Ok(())
}

fn patch(bytes: &mut [u8; SUPERBLOCK_BYTES], uuid: [u8; 16]) {
    let has_checksum = has_checksum(bytes);
    let incompat = get_u32(bytes, 0x60);
    if has_checksum && incompat & INCOMPAT_CSUM_SEED == 0 {
        let seed = Checksum::start().feed(&uuid_of(bytes)).value();
        put_u32(bytes, 0x60, incompat | INCOMPAT_CSUM_SEED);
        put_u32(bytes, 0x270, seed);
    }
    bytes[0x68..0x78].copy_from_slice(&uuid);
    if has_checksum {
        let sum = checksum(bytes);
        put_u32(bytes, CHECKSUM_OFFSET, sum);
    }
}

fn check(bytes: &[u8; SUPERBLOCK_BYTES]) -> Result<(), UuidError> {
    if !is_ext4(bytes) {
        return Err(UuidError::NotExt4);
    }
    if !is_whole(bytes) {
        return Err(UuidError::Damaged { group: 0 });
    }
    let (compat, incompat) = (get_u32(bytes, 0x5c), get_u32(bytes, 0x60));
    let ro_compat = get_u32(bytes, 0x64);
    let state = get_u16(bytes, 0x3a);
    let is_clean = state & STATE_CLEAN != 0 && state & STATE_ERRORS == 0;
    let is_recovered =
        incompat & INCOMPAT_RECOVER == 0 && ro_compat & RO_COMPAT_ORPHAN_PRESENT == 0;
    if !is_clean || !is_recovered {
        return Err(UuidError::NotClean);
    }
    let unsupported = |feature: &str| {
        let feature = feature.to_owned();
        Err(UuidError::Unsupported { feature })
    };
    let unknown = incompat & !INCOMPAT_KNOWN;
    if unknown != 0 {
        return unsupported(&format!("the features {unknown:#x}"));
    }
    // Group descriptors have checksums of the UUID itself, without a seed.
    if ro_compat & RO_COMPAT_GDT_CSUM != 0 {
        return unsupported("checksums of group descriptors alone (uninit_bg)");
    }
    // Encryption keys are derived from the UUID.
    if compat & COMPAT_STABLE_INODES != 0 {
        return unsupported("stable inode numbers (stable_inodes)");
    }
    // A journal on another device lists the UUIDs of its users.
    if compat & COMPAT_HAS_JOURNAL != 0 && get_u32(bytes, 0xe0) == 0 {
        return unsupported("a journal on another device");
    }
    if has_checksum(bytes) && bytes[0x175] != CRC32C {
        return unsupported("checksums of another kind than crc32c");
    }
    Ok(())
}

impl Layout {
    fn read(bytes: &[u8; SUPERBLOCK_BYTES]) -> Option<Self> {
        let (compat, incompat) = (get_u32(bytes, 0x5c), get_u32(bytes, 0x60));
        let high = if incompat & INCOMPAT_64BIT == 0 {
            0
        } else {
            get_u32(bytes, 0x150)
        };
        let log = get_u32(bytes, 0x18);
        let layout = Self {
            first_block: u64::from(get_u32(bytes, 0x14)),
            blocks: u64::from(high) << 32 | u64::from(get_u32(bytes, 0x04)),
            block_bytes: 1024 << (log <= MAX_LOG_BLOCK_SIZE).then_some(log)?,
            group_blocks: u64::from(get_u32(bytes, 0x20)),
            backups: if compat & COMPAT_SPARSE_SUPER2 != 0 {
                Backups::Two([get_u32(bytes, 0x24c), get_u32(bytes, 0x250)])
            } else if get_u32(bytes, 0x64) & RO_COMPAT_SPARSE_SUPER != 0 {
                Backups::Sparse
            } else {
                Backups::All
            },
        };
        // A group's bitmap is one block; a small group would make a walk over all of them long.
        let is_sane = layout.group_blocks >= 256 && layout.first_block < layout.blocks;
        (is_sane && layout.blocks.checked_mul(layout.block_bytes).is_some()).then_some(layout)
    }

    fn check_length(&self, file: &File) -> Result<(), UuidError> {
        let found_bytes = file.metadata().map_err(unreadable)?.len();
        let wanted_bytes = self.blocks * self.block_bytes;
        if found_bytes < wanted_bytes {
            return Err(UuidError::Truncated {
                wanted_bytes,
                found_bytes,
            });
        }
        Ok(())
    }

    /// Every group but the first that has a copy, as far as there are groups.
    fn backup_groups(&self) -> impl Iterator<Item = u64> + '_ {
        let groups = (self.blocks - self.first_block).div_ceil(self.group_blocks);
        (1..groups).filter(|group| match self.backups {
            Backups::All => true,
            Backups::Sparse => *group == 1 || [3, 5, 7].iter().any(|root| is_power(*group, *root)),
            Backups::Two(two) => two.iter().any(|number| u64::from(*number) == *group),
        })
    }

    fn offset_of(&self, group: u64) -> u64 {
        (self.first_block + group * self.group_blocks) * self.block_bytes
    }
}

fn is_power(mut number: u64, root: u64) -> bool {
    while number > 1 && number.is_multiple_of(root) {
        number /= root;
    }
    number == 1
}

fn read_copy(file: &File, offset: u64) -> Result<Copy, UuidError> {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(Copy { offset, bytes }),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(UuidError::NotExt4),
        Err(error) => Err(unreadable(error)),
    }
}

fn unreadable(source: io::Error) -> UuidError {
    UuidError::Io {
        step: "read",
        source,
    }
}

/// ext2 and ext3 share the magic: what makes it ext4 is the extents feature.
fn is_ext4(bytes: &[u8; SUPERBLOCK_BYTES]) -> bool {
    get_u16(bytes, 0x38) == MAGIC && get_u32(bytes, 0x60) & INCOMPAT_EXTENTS != 0
}

fn is_whole(bytes: &[u8; SUPERBLOCK_BYTES]) -> bool {
    !has_checksum(bytes) || get_u32(bytes, CHECKSUM_OFFSET) == checksum(bytes)
}

fn has_checksum(bytes: &[u8; SUPERBLOCK_BYTES]) -> bool {
    get_u32(bytes, 0x64) & RO_COMPAT_METADATA_CSUM != 0
}

fn checksum(bytes: &[u8; SUPERBLOCK_BYTES]) -> u32 {
    Checksum::start().feed(&bytes[..CHECKSUM_OFFSET]).value()
}

fn uuid_of(bytes: &[u8; SUPERBLOCK_BYTES]) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&bytes[0x68..0x78]);
    uuid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_lie_in_groups_1_and_the_powers_of_3_5_and_7() {
        let groups = |backups| {
            let layout = Layout {
                first_block: 0,
                blocks: 32_768 * 400,
                block_bytes: 4096,
                group_blocks: 32_768,
                backups,
            };
            layout.backup_groups().collect::<Vec<_>>()
        };

        let sparse = [1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343];
        assert_eq!(groups(Backups::Sparse), sparse);
        assert_eq!(groups(Backups::All).len(), 399);
        assert_eq!(groups(Backups::Two([1, 399])), [1, 399]);
        assert_eq!(groups(Backups::Two([1, 0])), [1]);
        assert_eq!(groups(Backups::Two([0, 400])), []);
    }
}
