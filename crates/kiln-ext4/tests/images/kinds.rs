//! Every kind of file, every field.

use kiln_ext4::{Profile, Size};

use crate::compare::{assert_backups_match, assert_holds, assert_read_by_ext4_view};
use crate::fixture::{Attributes, LayerBuilder, Stack, What};
use crate::tools::{debugfs, e2fsck};

/// A tree with something of everything that every reader understands.
pub(crate) fn sample() -> Stack {
    let mut lower = LayerBuilder::new();
    fill(&mut lower);
    let mut upper = LayerBuilder::new();
    upper
        .add("etc/passwd", &What::Whiteout)
        .file("etc/group", b"root:x:0:\n")
        .file("usr/bin/new", &[0xab; 9000])
        .add("usr/bin/alias", &What::Hardlink(b"usr/bin/tool"));
    Stack::new(vec![lower.finish(), upper.finish()])
}

fn fill(layer: &mut LayerBuilder) {
    let large_xattr = vec![0x77; 3000];
    let with = |xattrs: &[(&str, &[u8])]| Attributes {
        xattrs: xattrs
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()))
            .collect(),
        ..Attributes::default()
    };
    let long_target = [&b"../".repeat(1364)[..], b"end"].concat();
    layer
        .directory("etc")
        .directory("usr")
        .directory("usr/bin")
        .directory("dev")
        .directory("empty")
        .directory(b"caf\xe9")
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n")
        .file("etc/empty", b"")
        .file("usr/bin/tool", &[1; 4096])
        .file("usr/bin/other", &[2; 4097])
        .file(b"caf\xe9/\xff\xfe", b"not text")
        .add("usr/bin/link", &What::Hardlink(b"usr/bin/tool"))
        .add("etc/short", &What::Symlink(&[b'a'; 59]))
        .add("etc/long", &What::Symlink(&[b'b'; 60]))
        .add("etc/longest", &What::Symlink(&long_target))
        .add("dev/null", &What::CharDevice(1, 3))
        .add("dev/large", &What::CharDevice(0xfff, 0xf_ffff))
        .add("dev/disk", &What::BlockDevice(259, 300))
        .add("dev/pipe", &What::Fifo)
        .add("dev/socket", &What::Socket)
        .add_with(
            "etc/small-xattr",
            &What::File(b"1"),
            &with(&[("user.a", b"b")]),
        )
        .add_with(
            "etc/capable",
            &What::File(b"2"),
            &with(&[
                (
                    "security.capability",
                    b"\x01\0\0\x02\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                ),
                ("user.empty", b""),
                ("com.apple.provenance", b"dropped"),
            ]),
        )
        .add_with(
            "etc/large-xattr",
            &What::File(b"3"),
            &with(&[("user.large", &large_xattr)]),
        )
        .add_with(
            "etc/same-xattr",
            &What::File(b"4"),
            &with(&[("user.large", &large_xattr)]),
        )
        .add_with(
            "etc/owned",
            &What::File(b"5"),
            &Attributes {
                mode: 0o6755,
                uid: 4_000_000_000,
                gid: 70_000,
                ..Attributes::default()
            },
        );
    let mut zeros = vec![3; 4096];
    zeros.resize(4096 * 5, 0);
    zeros.extend([4; 100]);
    layer
        .file("usr/zeros", &zeros)
        .add(
            "usr/sparse",
            &What::Sparse(1 << 20, &[(0, 1), (7, 2), (8, 3), (255, 4)]),
        )
        .add("usr/hole", &What::Sparse(5_000_000, &[]));
}

#[test]
fn every_kind_comes_back_as_it_was() {
    let stack = sample();
    for profile in [Profile::RwV1, Profile::RoV1] {
        let image = stack.build(profile, Size::Default);

        e2fsck(&image.path);
        assert_backups_match(&image.path);
        assert_holds(&image.path, &stack);
        assert_read_by_ext4_view(&image.path, &stack);
        assert_eq!(image.written.size_bytes, 1 << 30);
    }
}

#[test]
fn times_outside_of_the_ordinary_come_back() {
    let cases = [
        (-1, 750_000_000),
        (-0x8000_0000, 0),
        (0, 0),
        (0x8000_0000, 500_000_000),
        (0xffff_ffff, 999_999_999),
        (0x1_0000_0000, 1),
        (0x3_7fff_ffff, 999_999_999),
        (i64::MAX, 5),
        (i64::MIN, 5),
    ];
    let stack = Stack::of(|layer| {
        for (number, mtime) in cases.into_iter().enumerate() {
            let attributes = Attributes {
                mtime,
                ..Attributes::default()
            };
            layer.add_with(format!("t{number}"), &What::File(b"t"), &attributes);
        }
    });

    let image = stack.build(Profile::RwV1, Size::Default);

    e2fsck(&image.path);
    assert_holds(&image.path, &stack);
    // 1969 reads back as 1969: seconds and extension as the kernel splits them.
    let stat = debugfs(&image.path, "stat /t0");
    assert!(stat.contains("mtime: 0xffffffff:b2d05e00"), "{stat}");
}
