//! Claims about finding and reading modules.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::testing;

static GO_ON: AtomicBool = AtomicBool::new(false);

fn tree(files: &[(&str, &[u8])]) -> (TempDir, ModuleTree) {
    let top = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = top.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let tree = ModuleTree::open(top.path(), &GO_ON).unwrap();
    (top, tree)
}

fn path_of<'a>(tree: &'a ModuleTree, name: &str) -> &'a Path {
    match tree.names().presence(name) {
        Presence::File(path) => path,
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn modules_are_found_by_name_wherever_they_are() {
    let (_top, tree) = tree(&[
        ("kernel/drivers/virtio-rng.ko", b""),
        ("kernel/fs/ext4/ext4.ko.zst", b""),
        ("kernel/net/old.ko", b""),
        ("updates/dkms/old.ko", b""),
        ("extra/old.ko", b""),
        ("kernel/readme.txt", b""),
        (
            "modules.builtin",
            b"kernel/lib/crc16.ko\nkernel/crypto/crc32c-generic.ko\n",
        ),
        ("modules.builtin.modinfo", b"jbd2.license=GPL\0nonsense\0"),
    ]);
    let cases = [
        (
            "virtio_rng",
            Presence::File(Path::new("kernel/drivers/virtio-rng.ko")),
        ),
        (
            "ext4",
            Presence::File(Path::new("kernel/fs/ext4/ext4.ko.zst")),
        ),
        ("old", Presence::File(Path::new("updates/dkms/old.ko"))),
        ("crc16", Presence::BuiltIn),
        ("crc32c_generic", Presence::BuiltIn),
        ("jbd2", Presence::BuiltIn),
        ("readme", Presence::Absent),
    ];
    for (name, want) in cases {
        assert_eq!(tree.names().presence(name), want, "{name}");
    }
}

#[test]
fn compressed_modules_are_unpacked() {
    let module = testing::module(&["name=a", "depends=b"]);
    for (suffix, compression) in [
        ("gz", Compression::Gzip),
        ("xz", Compression::Xz),
        ("zst", Compression::Zstd),
    ] {
        let packed = testing::pack(compression, &module);
        let (_top, tree) = tree(&[(&format!("a.ko.{suffix}"), &packed)]);

        let path = path_of(&tree, "a");

        assert_eq!(tree.content(path).unwrap(), module, "{suffix}");
        assert_eq!(tree.facts(path).unwrap().depends, ["b"], "{suffix}");
    }
}

#[test]
fn what_cannot_be_unpacked_or_understood_is_named() {
    let packed = testing::pack(Compression::Zstd, &testing::module(&["name=a"]));
    let (_top, tree) = tree(&[
        ("cut.ko.zst", &packed[..packed.len() - 3]),
        ("text.ko", b"text"),
    ]);

    let cut = tree.facts(path_of(&tree, "cut")).unwrap_err();
    let text = tree.facts(path_of(&tree, "text")).unwrap_err();

    assert!(matches!(&cut, ModuleTreeError::Corrupt { path, .. } if path.ends_with("cut.ko.zst")));
    assert!(matches!(&text, ModuleTreeError::NotAModule { path, .. } if path.ends_with("text.ko")));
}

#[test]
fn a_module_that_unpacks_without_end_is_stopped() {
    let bomb = zstd::stream::encode_all(io::repeat(0).take(MAX_MODULE_BYTES + 1), 1).unwrap();
    let (_top, tree) = tree(&[("bomb.ko.zst", &bomb)]);

    let error = tree.content(path_of(&tree, "bomb")).unwrap_err();

    assert!(matches!(error, ModuleTreeError::TooLarge { .. }), "{error}");
}

#[test]
fn links_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("a.ko"), "a").unwrap();
    let top = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), top.path().join("build")).unwrap();
    let link = top.path().join("b.ko");
    std::os::unix::fs::symlink(outside.path().join("a.ko"), link).unwrap();

    let tree = ModuleTree::open(top.path(), &GO_ON).unwrap();

    assert_eq!(tree.names(), &ModuleNames::default());
}

#[test]
fn aliases_lead_to_all_that_answer() {
    let generic = testing::module(&["alias=crypto-crc32c"]);
    let intel = testing::module(&["alias=crypto-crc32c", "alias=other"]);
    let (_top, mut tree) = tree(&[
        ("crc32c_generic.ko", &generic),
        ("crc32c-intel.ko", &intel),
        ("unreadable.ko", b"text"),
        (
            "modules.builtin.modinfo",
            b"sha1_generic.alias=crypto-sha1\0",
        ),
    ]);
    let cases: [(&str, &[&str]); 4] = [
        ("crypto-crc32c", &["crc32c_generic", "crc32c_intel"]),
        ("other", &["crc32c_intel"]),
        ("crypto-sha1", &["sha1_generic"]),
        ("unheard-of", &[]),
    ];
    for (alias, want) in cases {
        assert_eq!(tree.providers(alias).unwrap(), want, "{alias}");
    }
}

#[test]
fn asking_to_stop_stops() {
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("a.ko"), "a").unwrap();

    let error = ModuleTree::open(top.path(), &AtomicBool::new(true)).unwrap_err();

    assert!(
        matches!(error, ModuleTreeError::File(FileError::Cancelled { .. })),
        "{error}"
    );
}
