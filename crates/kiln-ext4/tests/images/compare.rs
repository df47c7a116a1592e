//! An image against the tree it was made of: every name, every field, every byte.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ext4_view::{Ext4, FileType};
use kiln_tree::{Inode, InodeKind, NodeId, Tree};

use crate::fixture::{BLOCK, Stack, crc32c};
use crate::reader::{Found, Reader};
use crate::tools::backups;

/// Demands that the image holds the tree, and nothing but the tree and `lost+found`.
pub(crate) fn assert_holds(image: &Path, stack: &Stack) {
    let reader = Reader::open(image);
    let mut found = reader.walk();
    if stack.tree.lookup(b"lost+found").is_none() {
        let made = found.remove(&b"lost+found"[..]).expect("a lost+found");
        assert_eq!(
            (made.number, made.mode, made.size_bytes),
            (11, 0o40700, 16_384)
        );
    }
    let mut numbers = BTreeMap::new();
    for_each_node(&stack.tree, |node| {
        let path = stack.tree.path(node);
        let shown = path.escape_ascii().to_string();
        let got = found
            .remove(&path)
            .unwrap_or_else(|| panic!("{shown} is missing"));
        compare(&shown, stack, node, &got, &reader);
        // One object has one number, under all its names.
        let number = numbers
            .entry(stack.tree.inode_of(node))
            .or_insert(got.number);
        assert_eq!(*number, got.number, "{shown}");
    });
    assert!(found.is_empty(), "not in the tree: {:?}", found.keys());
    let mut distinct: Vec<u32> = numbers.values().copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), numbers.len(), "two objects share a number");
}

fn for_each_node(tree: &Tree, mut visit: impl FnMut(NodeId)) {
    let mut pending = vec![tree.root()];
    while let Some(node) = pending.pop() {
        visit(node);
        pending.extend(tree.children(node));
    }
}

fn compare(path: &str, stack: &Stack, node: NodeId, got: &Found, reader: &Reader) {
    let inode = stack.tree.inode(stack.tree.inode_of(node));
    assert_eq!(
        got.mode,
        type_bits(&inode.kind) | inode.mode,
        "mode of {path}"
    );
    assert_eq!(
        (got.uid, got.gid),
        (inode.uid, inode.gid),
        "owner of {path}"
    );
    let mtime = clamped(inode.mtime.seconds, inode.mtime.nanoseconds);
    assert_eq!(got.times, [mtime; 4], "times of {path}");
    assert_eq!(
        u32::from(got.links),
        links(stack, node, &inode),
        "links of {path}"
    );
    assert_eq!(got.xattrs, xattrs(&inode), "attributes of {path}");

    let mapped: u64 = got.extents.iter().map(|(_, _, blocks)| blocks).sum();
    let attribute_blocks = u64::from(got.attribute_block != 0);
    let blocks = mapped + got.tree_blocks + attribute_blocks;
    assert_eq!(got.sectors, blocks * 8, "blocks of {path}");

    match inode.kind {
        InodeKind::Directory { .. } => {
            assert_eq!(got.size_bytes, mapped * BLOCK as u64, "size of {path}");
            let names = stack.tree.children(node).len();
            let is_indexed = got.flags & 0x1000 != 0;
            assert_eq!(is_indexed, mapped > 1 && names > 0, "index of {path}");
        }
        InodeKind::Regular(body) => {
            assert_eq!(got.size_bytes, body.size_bytes, "size of {path}");
            compare_body(path, stack, &inode, got, reader);
        }
        InodeKind::Symlink(target) => {
            assert_eq!(got.size_bytes, target.len() as u64, "size of {path}");
            let is_fast = target.len() < 60;
            assert_eq!(got.flags & 0x8_0000 == 0, is_fast, "form of {path}");
            let stored = if is_fast {
                got.content[..target.len()].to_vec()
            } else {
                reader.block(got.extents[0].1)[..target.len()].to_vec()
            };
            assert_eq!(stored, target, "target of {path}");
        }
        InodeKind::CharDevice(device) | InodeKind::BlockDevice(device) => {
            let word = |at: usize| {
                u32::from_le_bytes(got.content[at..at + 4].try_into().expect("four bytes"))
            };
            let numbers = match (word(0), word(4)) {
                (0, new) => ((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & !0xff)),
                (old, _) => (old >> 8, old & 0xff),
            };
            assert_eq!(numbers, (device.major, device.minor), "numbers of {path}");
        }
        InodeKind::Fifo | InodeKind::Socket => assert_eq!(got.size_bytes, 0, "{path}"),
    }
}

/// What is mapped is what the segments map, and holds what the pack holds.
fn compare_body(path: &str, stack: &Stack, inode: &Inode<'_>, got: &Found, reader: &Reader) {
    let InodeKind::Regular(body) = inode.kind else {
        return;
    };
    let layer = &stack.layers[inode.layer];
    let mut extents = got.extents.iter().flat_map(|(logical, physical, blocks)| {
        (0..*blocks).map(move |offset| (logical + offset, physical + offset))
    });
    for segment in body.segments() {
        for offset in 0..segment.blocks {
            let (logical, physical) = extents.next().unwrap_or_else(|| panic!("{path} is cut"));
            let pack_block = segment.pack_block + offset;
            assert_eq!(logical, segment.file_block + offset, "map of {path}");
            // Long runs of zeros are looked at in one place in a thousand.
            let is_zero = layer.zero_runs.iter().any(|run| run.contains(&pack_block));
            if is_zero && offset % 1000 != 0 {
                continue;
            }
            let mut want = [0; BLOCK];
            layer
                .pack
                .read_exact_at(&mut want, pack_block * BLOCK as u64)
                .expect("the pack has it");
            assert!(reader.block(physical) == want, "block {logical} of {path}");
        }
    }
    assert_eq!(extents.next(), None, "{path} maps too much");
}

fn links(stack: &Stack, node: NodeId, inode: &Inode<'_>) -> u32 {
    let InodeKind::Directory { subdirectories } = inode.kind else {
        return inode.links;
    };
    let is_root = node == stack.tree.root();
    let made = is_root && stack.tree.lookup(b"lost+found").is_none();
    let links = 2 + subdirectories + u32::from(made);
    if links > 65_000 { 1 } else { links }
}

fn xattrs(inode: &Inode<'_>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    inode
        .xattrs
        .iter()
        .filter(|xattr| {
            [
                &b"user."[..],
                b"trusted.",
                b"security.",
                b"system.posix_acl_",
            ]
            .iter()
            .any(|prefix| xattr.name.starts_with(prefix) && xattr.name.len() > prefix.len())
        })
        .map(|xattr| {
            let value = if xattr.name.starts_with(b"system.posix_acl_") {
                acl_on_disk(xattr.value)
            } else {
                xattr.value.to_vec()
            };
            (xattr.name.to_vec(), value)
        })
        .collect()
}

fn acl_on_disk(seen: &[u8]) -> Vec<u8> {
    let mut stored = vec![1, 0, 0, 0];
    for entry in seen[4..].chunks_exact(8) {
        let is_named = matches!(entry[0], 2 | 8);
        stored.extend_from_slice(&entry[..if is_named { 8 } else { 4 }]);
    }
    stored
}

fn clamped(seconds: i64, nanoseconds: u32) -> (i64, u32) {
    let (earliest, latest) = (-0x8000_0000, 0x3_7fff_ffff);
    match seconds {
        _ if seconds < earliest => (earliest, 0),
        _ if seconds > latest => (latest, 0),
        _ => (seconds, nanoseconds),
    }
}

fn type_bits(kind: &InodeKind<'_>) -> u16 {
    match kind {
        InodeKind::Fifo => 0o010_000,
        InodeKind::CharDevice(_) => 0o020_000,
        InodeKind::Directory { .. } => 0o040_000,
        InodeKind::BlockDevice(_) => 0o060_000,
        InodeKind::Regular(_) => 0o100_000,
        InodeKind::Symlink(_) => 0o120_000,
        InodeKind::Socket => 0o140_000,
    }
}

/// Demands that every copy of superblock and descriptors is the primary's, but for the group it
/// names and its own checksum.
pub(crate) fn assert_backups_match(image: &Path) {
    let reader = Reader::open(image);
    let primary = reader.block(0)[1024..2048].to_vec();
    let descriptors = reader.block(1);
    for block in backups(image) {
        let copy = reader.block(block)[..1024].to_vec();
        let differing: Vec<usize> = (0..1020).filter(|at| copy[*at] != primary[*at]).collect();
        let group = block / 32_768;
        let stored = u16::from_le_bytes([copy[0x5a], copy[0x5b]]);
        assert_eq!(
            u64::from(stored),
            group,
            "group of the copy in block {block}"
        );
        assert!(
            differing.iter().all(|at| matches!(at, 0x5a | 0x5b)),
            "{differing:?}"
        );
        let sum = u32::from_le_bytes(copy[1020..].try_into().expect("four bytes"));
        assert_eq!(
            sum,
            !crc32c(&copy[..1020]),
            "checksum of the copy in block {block}"
        );
        assert!(
            reader.block(block + 1) == descriptors,
            "descriptors behind block {block}"
        );
    }
}

/// Reads the tree back with `ext4-view`, which checks every checksum it meets and looks names
/// up through the index.
///
/// It refuses inodes whose seconds have bit 31 set (before 1970, and 2038 to 2106), so trees
/// for it have none.
pub(crate) fn assert_read_by_ext4_view(image: &Path, stack: &Stack) {
    let view = Ext4::load_from_path(image).expect("ext4-view can load the image");
    for_each_node(&stack.tree, |node| {
        let inode = stack.tree.inode(stack.tree.inode_of(node));
        let path = [b"/", &stack.tree.path(node)[..]].concat();
        let path = &path[..];
        let shown = path.escape_ascii().to_string();
        let metadata = view
            .symlink_metadata(path)
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(metadata.mode() & 0o7777, inode.mode, "{shown}");
        assert_eq!(
            (metadata.uid(), metadata.gid()),
            (inode.uid, inode.gid),
            "{shown}"
        );
        match inode.kind {
            InodeKind::Regular(body) => {
                assert_eq!(metadata.len(), body.size_bytes, "{shown}");
                if body.size_bytes <= 1 << 20 {
                    let bytes = view
                        .read(path)
                        .unwrap_or_else(|error| panic!("{shown}: {error}"));
                    assert!(bytes == expected(stack, &inode), "content of {shown}");
                }
            }
            InodeKind::Symlink(target) => {
                assert_eq!(metadata.file_type(), FileType::Symlink, "{shown}");
                // It resolves the parents, and takes targets that are paths.
                let got = view
                    .read_link(path)
                    .unwrap_or_else(|error| panic!("{shown}: {error}"));
                assert_eq!(got.as_ref(), target, "{shown}");
            }
            InodeKind::Directory { .. } => {
                let count = view
                    .read_dir(path)
                    .unwrap_or_else(|error| panic!("{shown}: {error}"));
                let made = node == stack.tree.root() && stack.tree.lookup(b"lost+found").is_none();
                let want = 2 + stack.tree.children(node).len() + usize::from(made);
                assert_eq!(count.count(), want, "names in {shown}");
            }
            _ => {}
        }
    });
}

/// The bytes of a small file.
pub(crate) fn expected(stack: &Stack, inode: &Inode<'_>) -> Vec<u8> {
    let InodeKind::Regular(body) = inode.kind else {
        return Vec::new();
    };
    let blocks = body.size_bytes.div_ceil(BLOCK as u64) as usize;
    let mut bytes = vec![0; blocks * BLOCK];
    for segment in body.segments() {
        let start = segment.file_block as usize * BLOCK;
        let end = start + segment.blocks as usize * BLOCK;
        stack.layers[inode.layer]
            .pack
            .read_exact_at(&mut bytes[start..end], segment.pack_block * BLOCK as u64)
            .expect("the pack has it");
    }
    bytes.truncate(body.size_bytes as usize);
    bytes
}
