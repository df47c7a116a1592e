//! Inode records: 256 bytes, of which 32 extend the classic 128 and 96 are left for attributes.
//!
//! Not here: extent trees and attribute entries, which arrive encoded.

use crate::bytes::{high16, high32, low16, low32, put_u16, put_u32};
use crate::crc::Checksum;
use crate::time::DiskTime;

/// Bytes of an inode record.
pub(crate) const INODE_BYTES: usize = 256;

/// Where attributes inside the inode begin: 128 + `i_extra_isize`.
pub(crate) const ATTRIBUTES_OFFSET: usize = 160;

/// `i_extra_isize`: the fields up to and including `i_projid`.
const EXTRA_BYTES: u16 = 32;

/// Units `i_blocks` counts in: 512 bytes.
const BLOCK_SECTORS: u64 = 8;

/// `EXT4_EXTENTS_FL`: `i_block` holds an extent tree.
pub(crate) const FLAG_EXTENTS: u32 = 0x8_0000;

/// `EXT4_INDEX_FL`: the directory is indexed.
pub(crate) const FLAG_INDEX: u32 = 0x1000;

/// The root directory's inode.
pub(crate) const ROOT: u32 = 2;

/// The journal's inode.
pub(crate) const JOURNAL: u32 = 8;

/// The inode of `lost+found`, which is also the first that is not reserved.
pub(crate) const LOST_AND_FOUND: u32 = 11;

/// What a name or an inode stands for, with the numbers both places use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileType {
    Regular,
    Directory,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
    Symlink,
}

impl FileType {
    /// The type byte of a directory entry.
    pub(crate) const fn entry_code(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }

    /// The upper four bits of the mode.
    const fn mode_bits(self) -> u16 {
        match self {
            Self::Fifo => 0x1000,
            Self::CharDevice => 0x2000,
            Self::Directory => 0x4000,
            Self::BlockDevice => 0x6000,
            Self::Regular => 0x8000,
            Self::Symlink => 0xa000,
            Self::Socket => 0xc000,
        }
    }
}

/// One inode, before it is bytes.
#[derive(Debug)]
pub(crate) struct InodeRecord<'a> {
    pub(crate) file_type: FileType,
    /// Permission bits, `0o7777`.
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size_bytes: u64,
    /// All four times: a fresh image has no history, and "now" would not be deterministic.
    pub(crate) time: DiskTime,
    pub(crate) links: u16,
    /// Blocks of data, extent tree and attributes together.
    pub(crate) blocks: u64,
    pub(crate) flags: u32,
    /// `i_block`: an extent tree, a short link target, or a device number.
    pub(crate) content: [u8; 60],
    pub(crate) generation: u32,
    /// The attribute block, or 0.
    pub(crate) attribute_block: u64,
    /// The attributes inside the inode with their magic; empty or at most 96 bytes.
    pub(crate) attributes: &'a [u8],
}

impl InodeRecord<'_> {
    /// The record as it lies in the inode table, checksum included.
    pub(crate) fn encode(&self, number: u32, seed: u32) -> [u8; INODE_BYTES] {
        let sectors = self.blocks * BLOCK_SECTORS;
        let mut bytes = [0; INODE_BYTES];
        put_u16(
            &mut bytes,
            0x00,
            self.file_type.mode_bits() | self.permissions,
        );
        put_u16(&mut bytes, 0x02, low16(self.uid));
        put_u32(&mut bytes, 0x04, low32(self.size_bytes));
        put_u16(&mut bytes, 0x18, low16(self.gid));
        put_u16(&mut bytes, 0x1a, self.links);
        put_u32(&mut bytes, 0x1c, low32(sectors));
        put_u32(&mut bytes, 0x20, self.flags);
        bytes[0x28..0x64].copy_from_slice(&self.content);
        put_u32(&mut bytes, 0x64, self.generation);
        put_u32(&mut bytes, 0x68, low32(self.attribute_block));
        put_u32(&mut bytes, 0x6c, high32(self.size_bytes));
        put_u16(&mut bytes, 0x74, low16(high32(sectors)));
        put_u16(&mut bytes, 0x76, low16(high32(self.attribute_block)));
        put_u16(&mut bytes, 0x78, high16(self.uid));
        put_u16(&mut bytes, 0x7a, high16(self.gid));
        put_u16(&mut bytes, 0x80, EXTRA_BYTES);
        // Access, change, modification and creation, each with its extension.
        for (seconds, extra) in [(0x08, 0x8c), (0x0c, 0x84), (0x10, 0x88), (0x90, 0x94)] {
            put_u32(&mut bytes, seconds, self.time.seconds);
            put_u32(&mut bytes, extra, self.time.extra);
        }
        bytes[ATTRIBUTES_OFFSET..ATTRIBUTES_OFFSET + self.attributes.len()]
            .copy_from_slice(self.attributes);

        let sum = Checksum::of_inode(seed, number, self.generation)
            .feed(&bytes)
            .value();
        put_u16(&mut bytes, 0x7c, low16(sum));
        put_u16(&mut bytes, 0x82, high16(sum));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::get_u32;

    #[test]
    fn the_journal_inode_is_the_one_mke2fs_writes() {
        let mut extents = crate::extents::Extents::default();
        extents.push(0, 491_520, 16_384);
        let record = InodeRecord {
            file_type: FileType::Regular,
            permissions: 0o600,
            uid: 0,
            gid: 0,
            size_bytes: 64 << 20,
            time: DiskTime::new(1_600_000_000, 0),
            links: 1,
            blocks: 16_384,
            flags: FLAG_EXTENTS,
            content: extents.encode(&[], Checksum::from(0)).root,
            generation: 0,
            attribute_block: 0,
            attributes: &[],
        };

        let bytes = record.encode(JOURNAL, 0xa311_85fc);

        // `debugfs -R 'stat <8>'` of `mke2fs -t ext4 -U 11111111-2222-8333-8444-555555555555
        // -O ^resize_inode,^orphan_file,metadata_csum_seed` on 4 GiB, E2FSPROGS_FAKE_TIME=1600000000.
        let sum = u32::from(bytes[0x7c])
            | u32::from(bytes[0x7d]) << 8
            | u32::from(bytes[0x82]) << 16
            | u32::from(bytes[0x83]) << 24;
        assert_eq!(get_u32(&bytes, 0x1c), 131_072);
        assert_eq!(sum, 0xcf95_01b7);
    }

    #[test]
    fn large_ids_sizes_and_block_numbers_use_their_high_halves() {
        let record = InodeRecord {
            file_type: FileType::Symlink,
            permissions: 0o777,
            uid: 0x0003_0001,
            gid: 0x0004_0002,
            size_bytes: 0x5_0000_0006,
            time: DiskTime::new(0, 0),
            links: 3,
            blocks: 0x2_0000_0000,
            flags: 0,
            content: [0; 60],
            generation: 9,
            attribute_block: 0x7_0000_0008,
            attributes: &[0xaa; 96],
        };

        let bytes = record.encode(12, 0);

        assert_eq!(bytes[0x00..0x02], [0xff, 0xa1]);
        assert_eq!(bytes[0x02..0x04], [1, 0]);
        assert_eq!(bytes[0x18..0x1a], [2, 0]);
        assert_eq!(bytes[0x78..0x7c], [3, 0, 4, 0]);
        assert_eq!(bytes[0x6c..0x70], [5, 0, 0, 0]);
        assert_eq!(bytes[0x74..0x78], [0x10, 0, 7, 0]);
        assert_eq!(bytes[160..], [0xaa; 96]);
    }
}
