//! A plain reader of images, written for these tests alone: it trusts no counter it can do
//! without, follows no index, and knows nothing of the writer.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::fixture::BLOCK;

/// Everything an inode says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) number: u32,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size_bytes: u64,
    pub(crate) links: u16,
    pub(crate) sectors: u64,
    pub(crate) flags: u32,
    /// Access, change, modification, creation.
    pub(crate) times: [(i64, u32); 4],
    pub(crate) content: [u8; 60],
    /// Logical block, physical block, blocks.
    pub(crate) extents: Vec<(u64, u64, u64)>,
    pub(crate) tree_blocks: u64,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) attribute_block: u64,
}

pub(crate) struct Reader {
    file: File,
    inodes_per_group: u32,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path).expect("the image can be opened");
        let mut field = [0; 4];
        file.read_exact_at(&mut field, 1024 + 0x28)
            .expect("a superblock");
        Self {
            file,
            inodes_per_group: u32::from_le_bytes(field),
        }
    }

    pub(crate) fn block(&self, number: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        self.file
            .read_exact_at(&mut block, number * BLOCK as u64)
            .expect("the block is there");
        block
    }

    /// All paths from the root, without a leading slash.
    pub(crate) fn walk(&self) -> BTreeMap<Vec<u8>, Found> {
        let mut found = BTreeMap::new();
        let mut pending = vec![(Vec::new(), 2)];
        while let Some((path, number)) = pending.pop() {
            let inode = self.inode(number);
            if inode.mode & 0xf000 == 0x4000 {
                for (name, child) in self.names(&inode) {
                    let below = if path.is_empty() {
                        name
                    } else {
                        [&path[..], &name].join(&b'/')
                    };
                    pending.push((below, child));
                }
            }
            found.insert(path, inode);
        }
        found
    }

    fn names(&self, directory: &Found) -> Vec<(Vec<u8>, u32)> {
        let mut names = Vec::new();
        for (_, physical, blocks) in &directory.extents {
            for block in *physical..physical + blocks {
                let block = self.block(block);
                let mut at = 0;
                while at < BLOCK {
                    let number = word(&block, at);
                    let length = usize::from(half(&block, at + 4));
                    let name = &block[at + 8..at + 8 + usize::from(block[at + 6])];
                    assert!(length >= 8, "an entry has a length");
                    if number != 0 && name != b"." && name != b".." {
                        names.push((name.to_vec(), number));
                    }
                    at += length;
                }
            }
        }
        names
    }

    pub(crate) fn inode(&self, number: u32) -> Found {
        let group = u64::from((number - 1) / self.inodes_per_group);
        let mut descriptor = [0; 64];
        self.file
            .read_exact_at(&mut descriptor, BLOCK as u64 + group * 64)
            .expect("a descriptor");
        let table = u64::from(word(&descriptor, 8)) | u64::from(word(&descriptor, 0x28)) << 32;
        let index = u64::from((number - 1) % self.inodes_per_group);
        let mut bytes = [0; 256];
        self.file
            .read_exact_at(&mut bytes, table * BLOCK as u64 + index * 256)
            .expect("an inode");
        self.decode(number, &bytes)
    }

    fn decode(&self, number: u32, bytes: &[u8; 256]) -> Found {
        let wide = |low, high| u64::from(word(bytes, low)) | u64::from(half(bytes, high)) << 32;
        let id = |low, high| u32::from(half(bytes, low)) | u32::from(half(bytes, high)) << 16;
        let time = |seconds, extra| {
            let extra = word(bytes, extra);
            let seconds = i64::from(word(bytes, seconds).cast_signed());
            (seconds + (i64::from(extra & 3) << 32), extra >> 2)
        };
        let mut content = [0; 60];
        content.copy_from_slice(&bytes[0x28..0x64]);
        let flags = word(bytes, 0x20);
        let mut extents = Vec::new();
        let mut tree_blocks = 0;
        if flags & 0x8_0000 != 0 {
            self.extents(&content, &mut extents, &mut tree_blocks);
        }
        let attribute_block = wide(0x68, 0x76);
        let mut xattrs = BTreeMap::new();
        if word(bytes, 160) == 0xea02_0000 {
            entries(&bytes[164..], 0, &mut xattrs);
        }
        if attribute_block != 0 {
            let block = self.block(attribute_block);
            assert_eq!(word(&block, 0), 0xea02_0000, "an attribute block");
            entries(&block, 32, &mut xattrs);
        }
        Found {
            number,
            mode: half(bytes, 0),
            uid: id(0x02, 0x78),
            gid: id(0x18, 0x7a),
            size_bytes: u64::from(word(bytes, 0x04)) | u64::from(word(bytes, 0x6c)) << 32,
            links: half(bytes, 0x1a),
            sectors: wide(0x1c, 0x74),
            flags,
            times: [
                time(0x08, 0x8c),
                time(0x0c, 0x84),
                time(0x10, 0x88),
                time(0x90, 0x94),
            ],
            content,
            extents,
            tree_blocks,
            xattrs,
            attribute_block,
        }
    }

    fn extents(&self, node: &[u8], extents: &mut Vec<(u64, u64, u64)>, tree_blocks: &mut u64) {
        assert_eq!(half(node, 0), 0xf30a, "an extent node");
        let depth = half(node, 6);
        for record in node[12..].chunks_exact(12).take(usize::from(half(node, 2))) {
            if depth == 0 {
                let physical = u64::from(word(record, 8)) | u64::from(half(record, 6)) << 32;
                let blocks = u64::from(half(record, 4));
                assert!((1..=32_768).contains(&blocks), "an initialised extent");
                extents.push((u64::from(word(record, 0)), physical, blocks));
            } else {
                let child = u64::from(word(record, 4)) | u64::from(half(record, 8)) << 32;
                *tree_blocks += 1;
                self.extents(&self.block(child), extents, tree_blocks);
            }
        }
    }
}

/// Attributes by full name; lists of permissions stay as they lie on disk.
fn entries(area: &[u8], start: usize, xattrs: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    let mut at = start;
    while word(area, at) != 0 {
        let name_length = usize::from(area[at]);
        let prefix: &[u8] = match area[at + 1] {
            1 => b"user.",
            2 => b"system.posix_acl_access",
            3 => b"system.posix_acl_default",
            4 => b"trusted.",
            6 => b"security.",
            other => panic!("name index {other}"),
        };
        let value_at = usize::from(half(area, at + 2));
        let value_length = word(area, at + 8) as usize;
        let name = [prefix, &area[at + 16..at + 16 + name_length]].concat();
        let value = area[value_at..value_at + value_length].to_vec();
        assert!(xattrs.insert(name, value).is_none(), "no name twice");
        at += 16 + name_length.next_multiple_of(4);
    }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}
