//! The superblock, and what differs between its copies.
//!
//! The values are those of `mke2fs -t ext4 -O ^resize_inode,^orphan_file,metadata_csum_seed`,
//! with two exceptions: no blocks are reserved for root (an image's disk belongs to one
//! workload, and what its owner paid for should show up as free), and nothing counts what was
//! written so far.
//!
//! Not here: where the copies lie; see `geometry`.

use crate::bytes::{high32, low16, low32, put_u16, put_u32};
use crate::crc::Checksum;
use crate::geometry::{FLEX_LOG, GROUP_BLOCKS};
use crate::identity::Identity;
use crate::inode::{JOURNAL, LOST_AND_FOUND};

/// Bytes of a superblock.
pub(crate) const SUPERBLOCK_BYTES: usize = 1024;

/// Where the primary copy begins inside block 0.
pub(crate) const PRIMARY_OFFSET: usize = 1024;

/// Where a copy's own checksum is, over everything before it.
pub(crate) const CHECKSUM_OFFSET: usize = 0x3fc;

const COMPAT_EXT_ATTR: u32 = 0x8;
const COMPAT_DIR_INDEX: u32 = 0x20;
const COMPAT_HAS_JOURNAL: u32 = 0x4;

/// filetype 2, extents 40, 64bit 80, `flex_bg` 200, `metadata_csum_seed` 2000.
const INCOMPAT: u32 = 0x22c2;

/// `sparse_super` 1, `large_file` 2, `huge_file` 8, `dir_nlink` 20, `extra_isize` 40,
/// `metadata_csum` 400.
const RO_COMPAT: u32 = 0x46b;

/// `user_xattr` and `acl` as default mount options.
const DEFAULT_MOUNT_OPTIONS: u32 = 0x0c;

/// Names are hashed as signed bytes, on every host.
const FLAG_SIGNED_HASH: u32 = 1;

/// `s_jnl_blocks` holds a copy of the journal inode's map.
const JOURNAL_BACKUP_BLOCKS: u8 = 1;

/// The journal inode's map, of which the superblock keeps a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JournalMap {
    pub(crate) content: [u8; 60],
    pub(crate) size_bytes: u64,
}

/// What a superblock says.
#[derive(Debug)]
pub(crate) struct Superblock<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) blocks: u64,
    pub(crate) free_blocks: u64,
    pub(crate) inodes: u32,
    pub(crate) free_inodes: u32,
    pub(crate) inodes_per_group: u32,
    /// Blocks of fixed structures and journal.
    pub(crate) overhead_blocks: u64,
    pub(crate) journal: Option<JournalMap>,
}

/// The start value of all metadata checksums but the superblock's own: `s_checksum_seed`.
pub(crate) fn checksum_seed(identity: &Identity) -> u32 {
    Checksum::start().feed(&identity.uuid).value()
}

impl Superblock<'_> {
    /// The copy that group `group` begins with; the primary is that of group 0.
    pub(crate) fn encode(&self, group: u32) -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        let journal_feature = self.journal.map_or(0, |_| COMPAT_HAS_JOURNAL);
        let words = [
            (0x00, self.inodes),
            (0x04, low32(self.blocks)),
            (0x0c, low32(self.free_blocks)),
            (0x10, self.free_inodes),
            (0x18, 2),
            (0x1c, 2),
            (0x20, low32(GROUP_BLOCKS)),
            (0x24, low32(GROUP_BLOCKS)),
            (0x28, self.inodes_per_group),
            (0x4c, 1),
            (0x54, LOST_AND_FOUND),
            (0x5c, COMPAT_EXT_ATTR | COMPAT_DIR_INDEX | journal_feature),
            (0x60, INCOMPAT),
            (0x64, RO_COMPAT),
            (0x100, DEFAULT_MOUNT_OPTIONS),
            (0x150, high32(self.blocks)),
            (0x158, high32(self.free_blocks)),
            (0x160, FLAG_SIGNED_HASH),
            (0x248, low32(self.overhead_blocks)),
            (0x270, checksum_seed(self.identity)),
        ];
        for (offset, value) in words {
            put_u32(&mut bytes, offset, value);
        }
        // Mounts before a check: never. Magic, clean, continue after errors. Inode size, this
        // group, descriptor size. Extra inode bytes, twice.
        let halves = [
            (0x36, 0xffff),
            (0x38, 0xef53),
            (0x3a, 1),
            (0x3c, 1),
            (0x58, 256),
            (0x5a, low16(group)),
            (0xfe, 64),
            (0x15c, 32),
            (0x15e, 32),
        ];
        for (offset, value) in halves {
            put_u16(&mut bytes, offset, value);
        }
        bytes[0x68..0x78].copy_from_slice(&self.identity.uuid);
        bytes[0xec..0xfc].copy_from_slice(&self.identity.hash_seed);
        // half_md4, flex groups, crc32c.
        bytes[0xfc] = 1;
        bytes[0x174] = FLEX_LOG;
        bytes[0x175] = 1;
        self.put_times(&mut bytes);
        self.put_journal(&mut bytes);

        let sum = Checksum::start().feed(&bytes[..CHECKSUM_OFFSET]).value();
        put_u32(&mut bytes, CHECKSUM_OFFSET, sum);
        bytes
    }

    /// Written, checked and created at the epoch; 40 bits each.
    fn put_times(&self, bytes: &mut [u8]) {
        let seconds = self.identity.epoch_seconds.max(0).cast_unsigned();
        for (low, high) in [(0x30, 0x274), (0x40, 0x277), (0x108, 0x276)] {
            put_u32(bytes, low, low32(seconds));
            bytes[high] = low16(high32(seconds)).to_le_bytes()[0];
        }
    }

    fn put_journal(&self, bytes: &mut [u8]) {
        let Some(journal) = &self.journal else {
            return;
        };
        put_u32(bytes, 0xe0, JOURNAL);
        bytes[0xfd] = JOURNAL_BACKUP_BLOCKS;
        bytes[0x10c..0x148].copy_from_slice(&journal.content);
        put_u32(bytes, 0x148, high32(journal.size_bytes));
        put_u32(bytes, 0x14c, low32(journal.size_bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_mke2fs_writes() {
        // `mke2fs -t ext4 -O ^resize_inode,^orphan_file,metadata_csum_seed -m 0
        // -U 11111111-2222-8333-8444-555555555555
        // -E hash_seed=11111111-2222-3333-4444-555555555555 t.img 4G`, with
        // E2FSPROGS_FAKE_TIME=1600000000; `s_kbytes_written` set to 0.
        let mut content = [0; 60];
        content[..12].copy_from_slice(&[0x0a, 0xf3, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        content[16..24].copy_from_slice(&[0, 0x40, 0, 0, 0, 0x80, 7, 0]);
        let identity = Identity {
            uuid: [
                0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x83, 0x33, 0x84, 0x44, 0x55, 0x55, 0x55, 0x55,
                0x55, 0x55,
            ],
            hash_seed: [
                0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44, 0x55, 0x55, 0x55, 0x55,
                0x55, 0x55,
            ],
            epoch_seconds: 1_600_000_000,
        };
        let superblock = Superblock {
            identity: &identity,
            blocks: 1_048_576,
            free_blocks: 1_015_723,
            inodes: 262_144,
            free_inodes: 262_133,
            inodes_per_group: 8192,
            overhead_blocks: 32_848,
            journal: Some(JournalMap {
                content,
                size_bytes: 64 << 20,
            }),
        };

        let bytes = superblock.encode(0);

        let want = include_bytes!("../tests/data/mke2fs-superblock.bin");
        let differing: Vec<usize> = (0..CHECKSUM_OFFSET)
            .filter(|at| bytes[*at] != want[*at])
            .collect();
        assert_eq!(differing, Vec::<usize>::new());
        assert_eq!(superblock.encode(1)[0x5a], 1);
        assert_ne!(
            superblock.encode(1)[CHECKSUM_OFFSET..],
            bytes[CHECKSUM_OFFSET..]
        );
    }
}
