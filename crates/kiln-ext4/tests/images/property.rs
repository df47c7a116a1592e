//! Random small trees: e2fsck has nothing to say, and what is read back is what went in.

use kiln_ext4::{Profile, Size};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use crate::compare::{assert_holds, assert_read_by_ext4_view};
use crate::fixture::{Attributes, LayerBuilder, Stack, What};
use crate::identity::assert_only_superblocks_change;
use crate::tools::e2fsck;

/// What a test makes of a path; bodies are given by length and seed.
#[derive(Clone, Debug)]
enum Kind {
    Directory,
    File(u32, u8),
    Sparse(Vec<u16>),
    Symlink(u16),
    Hardlink(usize),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
    Whiteout,
}

#[derive(Clone, Debug)]
struct Made {
    path: Vec<u8>,
    kind: Kind,
    attributes: Attributes,
}

/// Directories and other files have different names, so that nothing is ever below a file.
fn path() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let directory = vec(
        proptest::sample::select(vec![&b"d"[..], b"d\xff", b"d e"]),
        0..4,
    )
    .prop_map(|names| names.join(&b'/'));
    let name = prop_oneof![
        4 => "[a-c]{1,3}",
        1 => "[a-z]{1,250}",
    ];
    (
        directory,
        name.prop_map(|name| format!("f{name}").into_bytes()),
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        2 => Just(Kind::Directory),
        6 => (0..40_000_u32, any::<u8>()).prop_map(|(length, seed)| Kind::File(length, seed)),
        1 => vec(0..4000_u16, 0..12).prop_map(Kind::Sparse),
        2 => (1..4096_u16).prop_map(Kind::Symlink),
        2 => any::<usize>().prop_map(Kind::Hardlink),
        1 => (0..0x1000_u32, 0..0x10_0000_u32).prop_map(|(major, minor)| Kind::Char(major, minor)),
        1 => (0..0x100_u32, 0..0x100_u32).prop_map(|(major, minor)| Kind::Block(major, minor)),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
        1 => Just(Kind::Whiteout),
    ]
}

fn attributes(times: impl Strategy<Value = i64>) -> impl Strategy<Value = Attributes> {
    let name = prop_oneof![
        "user\\.[a-z]{1,40}",
        "security\\.[a-z]{1,9}",
        "trusted\\.[a-z]{1,9}"
    ];
    let xattrs = btree_map(name, vec(any::<u8>(), 0..300), 0..4);
    let mode = 0..0o10000_u16;
    (
        mode,
        any::<u32>(),
        any::<u32>(),
        times,
        0..1_000_000_000_u32,
        xattrs,
    )
        .prop_map(
            |(mode, uid, gid, seconds, nanoseconds, xattrs)| Attributes {
                mode,
                uid,
                gid,
                mtime: (seconds, nanoseconds),
                xattrs: xattrs
                    .into_iter()
                    .map(|(name, value)| (name.into_bytes(), value))
                    .collect(),
            },
        )
}

fn made(times: impl Strategy<Value = i64>) -> impl Strategy<Value = Made> {
    (path(), kind(), attributes(times)).prop_map(|((directory, name), kind, attributes)| {
        let path = match kind {
            Kind::Directory => directory,
            _ if directory.is_empty() => name,
            _ => [directory, name].join(&b'/'),
        };
        Made {
            path,
            kind,
            attributes,
        }
    })
}

fn add(layer: &mut LayerBuilder, made: &Made, files: &mut Vec<Vec<u8>>) {
    let body: Vec<u8>;
    let pieces: Vec<(u64, u8)>;
    let what = match made.kind {
        Kind::Directory => What::Directory,
        Kind::File(length, seed) => {
            // One block in three is all zero.
            body = (0..length)
                .map(|at| {
                    if at / 4096 % 3 == 1 {
                        0
                    } else {
                        seed ^ (at % 251) as u8
                    }
                })
                .collect();
            files.push(made.path.clone());
            What::File(&body)
        }
        Kind::Sparse(ref blocks) => {
            let sorted: std::collections::BTreeSet<u16> = blocks.iter().copied().collect();
            pieces = sorted
                .into_iter()
                .map(|block| (u64::from(block), 1))
                .collect();
            What::Sparse(4000 * 4096 + 17, &pieces)
        }
        Kind::Symlink(length) => {
            body = b"../"
                .iter()
                .copied()
                .cycle()
                .take(usize::from(length))
                .collect();
            What::Symlink(&body)
        }
        Kind::Hardlink(choice) => {
            if files.is_empty() {
                return;
            }
            body = files[choice % files.len()].clone();
            if body == made.path {
                return;
            }
            What::Hardlink(&body)
        }
        Kind::Char(major, minor) => What::CharDevice(major, minor),
        Kind::Block(major, minor) => What::BlockDevice(major, minor),
        Kind::Fifo => What::Fifo,
        Kind::Socket => What::Socket,
        Kind::Whiteout => What::Whiteout,
    };
    layer.add_with(&made.path, &what, &made.attributes);
    if !matches!(
        made.kind,
        Kind::File(..) | Kind::Hardlink(_) | Kind::Directory
    ) {
        files.retain(|file| *file != made.path);
    }
}

fn stack(layers: &[Vec<Made>]) -> Stack {
    let built = layers.iter().map(|entries| {
        let mut layer = LayerBuilder::new();
        // Hard links stay within a layer: whiteouts of other layers may take their targets.
        let mut files = Vec::new();
        for made in entries {
            add(&mut layer, made, &mut files);
        }
        layer.finish()
    });
    Stack::new(built.collect())
}

fn size() -> impl Strategy<Value = Size> {
    prop_oneof![
        Just(Size::Default),
        ((24_u64 << 20)..(400 << 20)).prop_map(Size::Bytes),
    ]
}

fn profile() -> impl Strategy<Value = Profile> {
    prop_oneof![Just(Profile::RwV1), Just(Profile::RoV1)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(
        layers in vec(vec(made(any::<i64>()), 0..40), 1..3),
        size in size(),
        profile in profile(),
    ) {
        let stack = stack(&layers);

        let image = stack.build(profile, size);

        e2fsck(&image.path);
        assert_holds(&image.path, &stack);
    }

    #[test]
    fn any_image_gets_another_uuid(
        layers in vec(vec(made(any::<i64>()), 0..20), 1..2),
        size in size(),
        profile in profile(),
    ) {
        let stack = stack(&layers);
        let image = stack.build(profile, size);

        assert_only_superblocks_change(&image.path);

        assert_holds(&image.path, &stack);
    }

    #[test]
    fn any_tree_of_recent_files_is_read_by_ext4_view(
        layers in vec(vec(made(0..0x7fff_ffff_i64), 0..40), 1..3),
        profile in profile(),
    ) {
        let stack = stack(&layers);

        let image = stack.build(profile, Size::Default);

        assert_read_by_ext4_view(&image.path, &stack);
    }
}
