//! An image of every oddity that layers may hold: what a build must get right, in three layers.
//!
//! Each entry is here for one rule, named beside it. [`layers`] gives the entries; the reference
//! model in [`crate::compare::model`] says what must come of them.

use anyhow::Result;

use super::entry::{Body, Dialect, Entry, Extent};
use super::layout::{Compression, Descriptor, Layout, Platform};

/// Files in the directory that is large enough for an index of its own.
const MANY_FILES: usize = 3_000;

/// A time that needs the extra bits of an ext4 timestamp: 2106-02-07 06:28:16.
const AFTER_2106: i64 = 1 << 32;

/// `cap_net_bind_service=ep` as the kernel stores it, revision 2.
///
/// Source: `include/uapi/linux/capability.h`, `struct vfs_cap_data`.
const CAPABILITY: [u8; 20] = [
    1, 0, 0, 2, // revision 2, effective
    0, 4, 0, 0, 0, 0, 0, 0, // permitted and inheritable, low halves
    0, 0, 0, 0, 0, 0, 0, 0, // high halves
];

/// Returns the entries of the three layers, lowest first.
pub fn layers() -> [Vec<Entry>; 3] {
    [lowest(), middle(), highest()]
}

/// Returns the entries of the three layers without those that umoci 0.4.7 refuses: sparse files
/// in GNU's old form.
pub fn layers_for_umoci() -> [Vec<Entry>; 3] {
    let refused =
        |entry: &Entry| entry.dialect == Dialect::Gnu && matches!(entry.body, Body::Sparse { .. });
    layers().map(|mut entries| {
        entries.retain(|entry| !refused(entry));
        entries
    })
}

/// Adds an image of `layers` to a layout, compressed as given.
pub fn add_to(
    layout: &Layout,
    layers: &[Vec<Entry>; 3],
    compressions: [Compression; 3],
) -> Result<Descriptor> {
    let mut added = Vec::new();
    for (entries, compression) in layers.iter().zip(compressions) {
        added.push(layout.add_layer(entries, compression)?);
    }
    layout.add_image(&added, &Platform::linux("amd64"))
}

/// Returns a layer of oddities that goes on top of any image: nothing in it needs a lower layer.
///
/// It leaves out what umoci and mkfs.ext4 refuse, so that benchmarks can compare with them.
pub fn small_layer() -> Vec<Entry> {
    let [lowest, ..] = layers_for_umoci();
    let moved = |path: &[u8]| [b"odd/".as_slice(), path].concat();
    lowest
        .into_iter()
        .map(|mut entry| {
            entry.path = if entry.path.is_empty() {
                b"odd".to_vec()
            } else {
                moved(&entry.path)
            };
            if let Body::Hardlink(target) = &mut entry.body {
                *target = moved(target);
            }
            entry
        })
        .collect()
}

fn lowest() -> Vec<Entry> {
    let mut entries = vec![
        Entry::directory("").mtime(1_600_000_000, 0),
        Entry::directory("etc"),
        Entry::file("etc/hostname", "torture\n").mtime(1_700_000_000, 1),
        Entry::directory("usr"),
        Entry::directory("usr/sbin"),
        Entry::file("usr/sbin/setuid", "#!/bin/sh\n").mode(0o4755),
        Entry::file("usr/sbin/setgid", "#!/bin/sh\n")
            .mode(0o2755)
            .owner(0, 42),
        // A later layer reaches through this link.
        Entry::symlink("sbin", "usr/sbin"),
        Entry::directory("tmp").mode(0o1777),
        Entry::file("no-permissions", "x").mode(0),
        Entry::file("empty", ""),
        Entry::file("zeros", vec![0; 20_000]),
        Entry::file("one-block", vec![b'b'; 4096]),
        Entry::file("block-and-a-byte", vec![b'c'; 4097]),
    ];
    entries.extend(replaced());
    entries.extend(links());
    entries.extend(odd_times_and_owners());
    entries.extend(attributes());
    entries.extend(special_files());
    entries.extend(names());
    entries.extend(sparse_files());
    entries.push(Entry::directory("many").mode(0o750));
    entries.extend((0..MANY_FILES).map(|number| {
        let body = if number % 3 == 0 {
            String::new()
        } else {
            format!("{number}\n")
        };
        Entry::file(format!("many/file-{number:04}"), body)
    }));
    entries
}

/// What the layers above hide or replace.
fn replaced() -> Vec<Entry> {
    vec![
        Entry::directory("replaced"),
        Entry::directory("replaced/directory-by-file"),
        Entry::file("replaced/directory-by-file/child", "gone"),
        Entry::file("replaced/file-by-directory", "gone"),
        Entry::symlink("replaced/link-by-directory", "../etc"),
        Entry::directory("replaced/directory-by-link"),
        Entry::directory("removed"),
        Entry::file("removed/file", "gone, then back"),
        Entry::file("removed/stays", "stays"),
        Entry::directory("removed/tree"),
        Entry::file("removed/tree/deep", "gone"),
        Entry::directory("opaque"),
        Entry::file("opaque/old", "gone"),
        Entry::directory("opaque/subdirectory"),
        Entry::file("opaque/subdirectory/old", "gone"),
        Entry::directory("metadata")
            .mode(0o700)
            .owner(1, 1)
            .xattr("user.layer", "lowest"),
        Entry::file("metadata/kept", "kept"),
        // Twice in one layer: the last one counts.
        Entry::file("duplicate", "first").mode(0o600),
        Entry::file("duplicate", "second").mode(0o640).owner(5, 6),
    ]
}

fn links() -> Vec<Entry> {
    let symlink = |length: usize| {
        Entry::symlink(format!("links/symlink-{length}"), vec![b't'; length]).mtime(7, 500)
    };
    vec![
        Entry::directory("links"),
        Entry::file("links/original", "shared"),
        Entry::hardlink("links/same-layer", "links/original"),
        Entry::file("links/survivor", "outlives its first name"),
        Entry::hardlink("links/second-name", "links/survivor"),
        // Targets of up to 59 bytes lie in the inode, longer ones in a block.
        symlink(1),
        symlink(59),
        symlink(60),
        symlink(200),
        symlink(201).mtime(7, 0).gnu(),
        Entry::symlink("links/absolute", "/etc/hostname"),
        Entry::symlink("links/outside", "../../../../etc/passwd"),
        Entry::symlink("links/dangling", "nowhere/at/all"),
    ]
}

fn odd_times_and_owners() -> Vec<Entry> {
    vec![
        Entry::directory("times"),
        Entry::file("times/after-2106", "").mtime(AFTER_2106, 500_000_000),
        Entry::file("times/after-2038", "").mtime(1 << 31, 999_999_999),
        // A quarter of a second before the end of 1969-12-30.
        Entry::file("times/before-1970", "").mtime(-86_401, 750_000_000),
        Entry::file("times/before-1970-gnu", "")
            .mtime(-100_000, 0)
            .gnu(),
        Entry::file("times/just-before-1970", "").mtime(-1, 750_000_000),
        Entry::file("times/1970", "").mtime(0, 0),
        Entry::directory("owners"),
        Entry::file("owners/65536", "").owner(65_536, 65_537),
        Entry::file("owners/pax", "").owner(3_000_000_000, 2_500_000),
        Entry::file("owners/gnu", "")
            .owner(2_500_000, 3_000_000_000)
            .gnu(),
        Entry::directory("owners/directory").owner(100_000, 100_001),
        Entry::symlink("owners/link", "pax").owner(70_000, 70_001),
    ]
}

fn attributes() -> Vec<Entry> {
    vec![
        Entry::directory("attributes").xattr("user.directory", "yes"),
        Entry::file("attributes/user", "")
            .xattr("user.plain", "value")
            .xattr("user.binary", b"a=b\nc\0\xff".as_slice()),
        // Does not fit an inode.
        Entry::file("attributes/large", "").xattr("user.large", vec![b'v'; 1500]),
        Entry::file("attributes/capability", "#!/bin/sh\n")
            .mode(0o755)
            .xattr("security.capability", CAPABILITY),
        Entry::file("attributes/acl", "")
            .mode(0o640)
            .xattr("system.posix_acl_access", access_list(6, 1000, 4, 4, 4, 0)),
        Entry::directory("attributes/default-acl")
            .mode(0o750)
            .xattr("system.posix_acl_access", access_list(7, 1000, 5, 5, 5, 0))
            .xattr(
                "system.posix_acl_default",
                access_list(7, 70_000, 7, 5, 7, 0),
            ),
    ]
}

/// A POSIX access control list as the kernel hands it to programs: one entry for each of owner,
/// one user, group, mask and others.
///
/// Source: `include/uapi/linux/posix_acl_xattr.h`.
fn access_list(owner: u16, user: u32, user_may: u16, group: u16, mask: u16, other: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries = [
        (0x01_u16, owner, NOBODY),
        (0x02, user_may, user),
        (0x04, group, NOBODY),
        (0x10, mask, NOBODY),
        (0x20, other, NOBODY),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn special_files() -> Vec<Entry> {
    let device = |name: &str, body| Entry::new(format!("devices/{name}"), body, 0o660);
    vec![
        Entry::directory("devices"),
        device("null", Body::CharacterDevice(1, 3)).mode(0o666),
        device("disk", Body::BlockDevice(8, 1)).owner(0, 6),
        // Beyond 255, where the old encoding of ext4 ends.
        device("large-minor", Body::BlockDevice(259, 300_000)),
        device("large-major", Body::CharacterDevice(4_000, 1)),
        device("pipe", Body::Fifo).mtime(1_700_000_000, 123_456_789),
    ]
}

fn names() -> Vec<Entry> {
    let deep = [
        "names",
        &"d".repeat(120),
        &"e".repeat(120),
        &"f".repeat(120),
    ]
    .join("/");
    let deep_gnu = ["names", &"g".repeat(120), &"h".repeat(120)].join("/");
    vec![
        Entry::directory("names"),
        Entry::file(b"names/latin-\xe9\xff".as_slice(), "no UTF-8"),
        Entry::file(
            [b"names/".as_slice(), &[0xfe; 200]].concat(),
            "long, no UTF-8",
        )
        .gnu(),
        Entry::file("names/ünïcode-☃", "UTF-8"),
        Entry::file("names/with space and\nnewline", ""),
        Entry::file("names/back\\slash", ""),
        // Like a whiteout, but none: only the prefix `.wh.` makes one.
        Entry::file("names/.who", ""),
        Entry::file("names/...", ""),
        Entry::file(format!("names/{}", "n".repeat(255)), "longest name"),
        Entry::file(
            format!("names/{}", "m".repeat(100)),
            "100 bytes and a folder",
        ),
        Entry::directory(deep.rsplit_once('/').map_or("", |(parent, _)| parent)),
        Entry::file(deep.clone(), "deep"),
        Entry::hardlink("names/link-to-deep", deep),
        Entry::file(deep_gnu.clone(), "deep").gnu(),
        Entry::hardlink("names/link-to-deep-gnu", deep_gnu).gnu(),
    ]
}

fn sparse_files() -> Vec<Entry> {
    let extent = |offset: u64, length: usize, byte: u8| Extent {
        offset,
        bytes: vec![byte; length],
    };
    let spread = || {
        vec![
            extent(0, 512, b'a'),
            extent(1 << 20, 10_000, b'b'),
            extent(7 << 20, 1, b'c'),
        ]
    };
    vec![
        Entry::directory("sparse"),
        // Data off block boundaries, and a hole at the end.
        Entry::sparse("sparse/pax", 8 << 20, spread()),
        Entry::sparse("sparse/gnu", 8 << 20, spread()).gnu(),
        Entry::sparse(
            "sparse/hole-first",
            3 << 20,
            vec![extent((3 << 20) - 5, 5, b'z')],
        ),
        Entry::sparse("sparse/only-hole", 1 << 20, vec![extent(1 << 20, 0, 0)]),
    ]
}

fn middle() -> Vec<Entry> {
    vec![
        Entry::whiteout("removed/file"),
        Entry::whiteout("removed/tree"),
        Entry::whiteout("removed/never-there"),
        // The mark comes after what it must not hide.
        Entry::file("opaque/new", "new"),
        Entry::opaque("opaque"),
        Entry::directory("replaced/file-by-directory").mode(0o711),
        Entry::file("replaced/file-by-directory/child", "new"),
        Entry::file("replaced/directory-by-file", "new"),
        Entry::directory("replaced/link-by-directory"),
        Entry::file("replaced/link-by-directory/child", "not in etc"),
        Entry::symlink("replaced/directory-by-link", "../etc"),
        // Changes what the directory says of itself, and nothing in it.
        Entry::directory("metadata")
            .mode(0o751)
            .owner(2, 3)
            .mtime(1_650_000_000, 250_000_000),
        Entry::hardlink("links/cross-layer", "links/original"),
        // Its parent is a link in the layer below.
        Entry::file("sbin/through-link", "in usr/sbin\n").mode(0o755),
        // No entry names the parents.
        Entry::file("implied/parents/file", "child"),
    ]
}

fn highest() -> Vec<Entry> {
    vec![
        Entry::whiteout("links/survivor"),
        Entry::file("removed/file", "back"),
        // Its other names keep the old body.
        Entry::file("links/original", "replaced"),
        Entry::file("many/file-0000", "changed in the highest layer"),
        Entry::file("opaque/old", "back in the highest layer"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_list_has_a_version_and_five_entries() {
        let bytes = access_list(6, 1000, 4, 4, 4, 0);

        assert_eq!(bytes.len(), 4 + 5 * 8);
        assert_eq!(bytes.get(..8), Some(&[2, 0, 0, 0, 1, 0, 6, 0][..]));
        assert_eq!(bytes.get(12..20), Some(&[2, 0, 4, 0, 0xe8, 3, 0, 0][..]));
    }
}
