//! Claims about Debian packages, built ones and one real one.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::testing::{self, Entry as Built, RELEASE};

fn extract(package: &[u8], into: &Path) -> Result<DebKernel, DebError> {
    let file = testing::file(package);
    DebPackage::open(&file)?.extract_kernel(into, ModulesLimits::default(), &AtomicBool::new(false))
}

fn error_of(package: &[u8]) -> DebError {
    let into = tempfile::tempdir().unwrap();
    extract(package, into.path()).unwrap_err()
}

#[test]
fn a_package_gives_kernel_config_and_modules() {
    let data = testing::kernel_package_tar(b"kernel");
    let cases: &[(&str, Vec<u8>)] = &[
        ("data.tar", data.clone()),
        ("data.tar.gz", testing::pack(Compression::Gzip, &data)),
        ("data.tar.xz", testing::pack(Compression::Xz, &data)),
        ("data.tar.zst", testing::pack(Compression::Zstd, &data)),
    ];
    for (name, data) in cases {
        let into = tempfile::tempdir().unwrap();

        let kernel = extract(&testing::deb(name, data), into.path()).unwrap();

        assert_eq!(kernel.release, RELEASE, "{name}");
        assert_eq!(
            kernel.modules,
            Some(ModulesStaged {
                files: 2,
                bytes: 26
            })
        );
        let text = |path: &str| fs::read_to_string(into.path().join(path)).unwrap();
        assert_eq!(text("kernel"), "kernel");
        assert_eq!(text("config"), "CONFIG_EXT4_FS=y\n");
        assert_eq!(text("modules/kernel/fs/ext4.ko"), "module");
        assert_eq!(fs::read_dir(into.path()).unwrap().count(), 3);
        assert!(!into.path().join("modules/build").is_symlink());
    }
}

#[test]
fn modules_below_usr_are_found_too() {
    let vmlinuz = format!("boot/vmlinuz-{RELEASE}");
    let module = format!("usr/lib/modules/{RELEASE}/a.ko");
    let data = testing::tar(&[
        Built::File(&module, b"module"),
        Built::File(&vmlinuz, b"kernel"),
    ]);
    let into = tempfile::tempdir().unwrap();

    let kernel = extract(&testing::deb("data.tar", &data), into.path()).unwrap();

    assert_eq!(kernel.modules, Some(ModulesStaged { files: 1, bytes: 6 }));
    assert_eq!(kernel.config, None);
    assert_eq!(
        fs::read(into.path().join("modules/a.ko")).unwrap(),
        b"module"
    );
}

#[test]
fn what_is_no_package_is_refused() {
    let data = testing::kernel_package_tar(b"kernel");
    let good = testing::deb("data.tar", &data);
    let mut wrong_length = good.clone();
    wrong_length[8 + 48] = b'+';
    let mut wrong_end = good.clone();
    wrong_end[8 + 58] = b'x';
    let many: Vec<(&str, &[u8])> = vec![("debian-binary", b"2.0\n"); MAX_MEMBERS + 1];
    let cases: &[(&str, Vec<u8>)] = &[
        ("nothing", Vec::new()),
        ("text", b"#!/bin/sh, and some more\n".to_vec()),
        ("no members", AR_MAGIC.to_vec()),
        ("cut header", good[..40].to_vec()),
        ("cut member", good[..good.len() - 600].to_vec()),
        ("length of no number", wrong_length),
        ("damaged header", wrong_end),
        ("too many members", testing::ar(&many)),
        ("other version", testing::ar(&[("debian-binary", b"3.0\n")])),
        (
            "no control",
            testing::ar(&[("debian-binary", b"2.0\n"), ("data.tar", &data)]),
        ),
        (
            "no data",
            testing::ar(&[("debian-binary", b"2.0\n"), ("control.tar", b"")]),
        ),
    ];
    for (what, package) in cases {
        let error = error_of(package);
        assert!(
            matches!(error, DebError::NotAPackage { .. }),
            "{what}: {error}"
        );
    }
    let error = error_of(&testing::deb("data.tar.lzma", b""));
    assert!(matches!(error, DebError::Unsupported { .. }), "{error}");
}

#[test]
fn a_package_must_hold_one_kernel() {
    let named = |name: &str| testing::tar(&[Built::File(name, b"x")]);
    let two = testing::tar(&[
        Built::File("boot/vmlinuz-1", b"x"),
        Built::File("boot/vmlinuz-2", b"x"),
    ]);
    let other_modules = testing::tar(&[
        Built::File("boot/vmlinuz-1", b"x"),
        Built::File("lib/modules/2/a.ko", b"x"),
    ]);
    let link = testing::tar(&[Built::Link("boot/vmlinuz-1", "/etc/passwd")]);
    for data in [named("usr/bin/ls"), two, other_modules, link] {
        let error = error_of(&testing::deb("data.tar", &data));
        assert!(matches!(error, DebError::NotOneKernel { .. }), "{error}");
    }
}

#[test]
fn damaged_data_is_refused() {
    let data = testing::kernel_package_tar(b"kernel");
    let packed = testing::pack(Compression::Xz, &data);
    let mut flipped = packed.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;

    for data in [&packed[..packed.len() / 2], &flipped] {
        let error = error_of(&testing::deb("data.tar.xz", data));
        assert!(
            matches!(
                error,
                DebError::Archive(_) | DebError::Modules(_) | DebError::Read { .. }
            ),
            "{error}"
        );
    }
}

#[test]
fn members_that_begin_with_an_underscore_are_passed_over() {
    let data = testing::kernel_package_tar(b"kernel");
    let package = testing::ar(&[
        ("debian-binary", b"2.0\n"),
        ("_odd", b"odd"),
        ("control.tar.gz/", b""),
        ("_more", b""),
        ("data.tar/", &data),
    ]);
    let into = tempfile::tempdir().unwrap();

    assert_eq!(extract(&package, into.path()).unwrap().release, RELEASE);
}

/// Runs against a real kernel package when `KILN_TEST_KERNEL_DEB` names one.
#[test]
fn a_real_package_gives_a_kernel_that_is_understood() {
    let Some(path) = std::env::var_os("KILN_TEST_KERNEL_DEB") else {
        println!("skipped: KILN_TEST_KERNEL_DEB names no kernel package");
        return;
    };
    let into = tempfile::tempdir().unwrap();
    let go_on = AtomicBool::new(false);
    let package = File::open(&path).unwrap();

    let kernel = DebPackage::open(&package)
        .unwrap()
        .extract_kernel(into.path(), ModulesLimits::default(), &go_on)
        .unwrap();
    let file = File::open(into.path().join("kernel")).unwrap();
    let facts = crate::inspect(&file, &go_on).unwrap();

    println!("{kernel:?}\n{facts:?}");
    assert_eq!(facts.release.as_deref(), Some(kernel.release.as_str()));
    let elf = tempfile::tempfile().unwrap();
    let size = crate::extract_elf(&file, &elf, &go_on).unwrap();
    let inside = crate::inspect(&elf, &go_on).unwrap();
    println!("{inside:?}");
    assert_eq!(inside.size_bytes, size);
    assert_eq!(inside.has_pvh_note, facts.has_pvh_note);
    assert_eq!(inside.release, facts.release);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_damage_makes_it_panic(
        changes in proptest::collection::vec((0_usize..400, any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let data = testing::kernel_package_tar(b"kernel");
        let mut package = testing::deb("data.tar", &data);
        for (at, value) in changes {
            package[at] = value;
        }
        package.truncate(cut.index(package.len()) + 1);
        let into = tempfile::tempdir().unwrap();

        let files = extract(&package, into.path()).map(|kernel| kernel.modules);

        prop_assert!(files.is_err() || files.is_ok_and(|found| found.is_some()));
    }
}
