//! Claims about taking modules in.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::testing::{self, Entry as Built};

static GO_ON: AtomicBool = AtomicBool::new(false);

fn from_tar(stream: &[u8], into: &TempDir) -> Result<ModulesStaged, ModulesError> {
    stage_modules_from_tar(stream, into.path(), ModulesLimits::default(), &GO_ON)
}

fn from_dir(from: &Path, into: &TempDir) -> Result<ModulesStaged, ModulesError> {
    stage_modules_from_dir(from, into.path(), ModulesLimits::default(), &GO_ON)
}

fn text(into: &TempDir, path: &str) -> String {
    fs::read_to_string(into.path().join(path)).unwrap()
}

#[test]
fn a_stream_becomes_a_directory() {
    let into = tempfile::tempdir().unwrap();
    let stream = testing::tar(&[
        Built::Directory("./"),
        Built::File("modules.dep", b"kernel/a.ko:"),
        Built::Directory("kernel"),
        Built::File("kernel/a.ko", b"module"),
        Built::Link("kernel/b.ko", "../kernel/a.ko"),
        // Its directory comes without an entry of its own.
        Built::File("kernel/fs/ext4/ext4.ko", b"ext4"),
        Built::Link("build", "/usr/src/linux"),
        Built::Link("source", "/usr/src/linux"),
    ]);

    let staged = from_tar(&stream, &into).unwrap();

    assert_eq!(
        staged,
        ModulesStaged {
            files: 3,
            bytes: 22
        }
    );
    assert_eq!(text(&into, "modules.dep"), "kernel/a.ko:");
    assert_eq!(text(&into, "kernel/b.ko"), "module");
    assert_eq!(text(&into, "kernel/fs/ext4/ext4.ko"), "ext4");
    assert!(!into.path().join("build").is_symlink());
    assert!(!into.path().join("source").is_symlink());
}

/// Takes entries given as path and content in; what has no content is a directory, and what begins
/// with an arrow a link.
fn from_entries(
    entries: &[(&str, Option<&str>)],
    into: &TempDir,
) -> Result<ModulesStaged, ModulesError> {
    let entries: Vec<ModulesEntry> = entries
        .iter()
        .map(|(path, content)| ModulesEntry {
            path: path.split('/').map(OsString::from).collect(),
            kind: match content.map(|text| (text, text.strip_prefix('→'))) {
                None => ModulesEntryKind::Directory,
                Some((_, Some(target))) => ModulesEntryKind::Link(target.into()),
                Some((text, None)) => ModulesEntryKind::File {
                    size_bytes: text.len() as u64,
                    body: Box::new(io::Cursor::new(text.to_owned())),
                },
            },
        })
        .collect();
    stage_modules_from_entries(
        entries.into_iter(),
        into.path(),
        ModulesLimits::default(),
        &GO_ON,
    )
}

#[test]
fn entries_become_a_directory_and_none_leads_out_of_it() {
    let into = tempfile::tempdir().unwrap();

    let staged = from_entries(
        &[
            ("modules.dep", Some("kernel/a.ko:")),
            ("kernel", None),
            ("kernel/a.ko", Some("module")),
            ("kernel/b.ko", Some("→a.ko")),
            ("build", Some("→/usr/src/linux")),
        ],
        &into,
    )
    .unwrap();

    let want = ModulesStaged {
        files: 2,
        bytes: 18,
    };
    assert_eq!(staged, want);
    assert_eq!(text(&into, "kernel/b.ko"), "module");
    assert!(!into.path().join("build").is_symlink());
    for path in ["..", "kernel/../../x", ".", "a//b", ""] {
        let into = tempfile::tempdir().unwrap();
        let error = from_entries(&[(path, Some("x"))], &into).unwrap_err();
        assert!(
            matches!(error, ModulesError::Refused { .. }),
            "{path}: {error}"
        );
    }
    let error = from_entries(&[("a", Some("→/etc/passwd"))], &into).unwrap_err();
    assert!(matches!(error, ModulesError::Refused { .. }), "{error}");
}

#[test]
fn a_directory_is_copied_like_a_stream() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(from.path().join("kernel/fs")).unwrap();
    fs::write(from.path().join("kernel/fs/ext4.ko"), "ext4").unwrap();
    fs::write(from.path().join("modules.dep"), "").unwrap();
    symlink("fs/ext4.ko", from.path().join("kernel/alias.ko")).unwrap();
    symlink("/usr/src/linux", from.path().join("build")).unwrap();

    let staged = from_dir(from.path(), &into).unwrap();

    assert_eq!(staged, ModulesStaged { files: 2, bytes: 4 });
    assert_eq!(text(&into, "kernel/alias.ko"), "ext4");
    assert!(!into.path().join("build").is_symlink());
}

#[test]
fn links_that_could_lead_outside_are_refused() {
    let cases: &[(&str, &str, bool)] = &[
        ("kernel/a", "b", true),
        ("kernel/a", "./b/./c", true),
        ("kernel/a", "../modules.dep", true),
        ("kernel/a", "../../modules.dep", false),
        ("a", "..", false),
        ("a", "/etc/passwd", false),
        // Harmless to the eye, not where `x` is a link that climbs.
        ("kernel/a", "x/../..", false),
        ("kernel/a", "x/..", false),
    ];
    for (name, target, good) in cases {
        let into = tempfile::tempdir().unwrap();
        let got = from_tar(&testing::tar(&[Built::Link(name, target)]), &into);
        match got {
            Ok(_) => assert!(good, "{name} -> {target} was taken"),
            Err(ModulesError::Refused { .. }) => assert!(!good, "{name} -> {target} was refused"),
            Err(other) => panic!("{name} -> {target}: {other}"),
        }
    }
}

#[test]
fn nothing_is_written_through_a_link() {
    let (root, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let victim = root.path().join("victim");
    fs::create_dir(&victim).unwrap();
    symlink(&victim, into.path().join("kernel")).unwrap();
    let through = [
        Built::File("kernel/a.ko", b"module"),
        Built::Directory("kernel"),
        Built::Link("kernel/a", "b"),
    ];

    for entry in through {
        let error = from_tar(&testing::tar(&[entry]), &into).unwrap_err();
        assert!(
            matches!(error, ModulesError::File(FileError::Io { .. })),
            "{error}"
        );
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
}

#[test]
fn names_come_once() {
    let into = tempfile::tempdir().unwrap();
    let twice = testing::tar(&[Built::File("a", b"1"), Built::File("a", b"2")]);

    let error = from_tar(&twice, &into).unwrap_err();

    assert!(
        matches!(error, ModulesError::File(FileError::AlreadyExists { .. })),
        "{error}"
    );
}

#[test]
fn what_is_no_file_is_refused() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let socket = std::os::unix::net::UnixListener::bind(from.path().join("socket")).unwrap();
    let hard_link = {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        let mut builder = tar::Builder::new(Vec::new());
        builder
            .append_link(&mut header, "a", "/etc/passwd")
            .unwrap();
        builder.into_inner().unwrap()
    };

    let errors = [
        from_dir(from.path(), &into).unwrap_err(),
        from_tar(&hard_link, &into).unwrap_err(),
    ];

    drop(socket);
    for error in errors {
        assert!(matches!(error, ModulesError::Refused { .. }), "{error}");
    }
}

#[test]
fn limits_hold_before_anything_is_written() {
    let stream = testing::tar(&[Built::File("a", b"12345"), Built::File("b", b"12345")]);
    let cases = [
        (
            ModulesLimits {
                entries: 2,
                bytes: 10,
            },
            true,
        ),
        (
            ModulesLimits {
                entries: 1,
                bytes: 10,
            },
            false,
        ),
        (
            ModulesLimits {
                entries: 2,
                bytes: 9,
            },
            false,
        ),
    ];
    for (limits, fits) in cases {
        let into = tempfile::tempdir().unwrap();
        let got = stage_modules_from_tar(&stream[..], into.path(), limits, &GO_ON);
        assert_eq!(got.is_ok(), fits, "{limits:?}");
        assert_eq!(into.path().join("b").exists(), fits, "{limits:?}");
    }
}

#[test]
fn a_broken_stream_is_an_error() {
    let into = tempfile::tempdir().unwrap();
    let stream = testing::tar(&[Built::File("a", &[1; 2000])]);

    let error = from_tar(&stream[..1500], &into).unwrap_err();

    assert!(matches!(error, ModulesError::Archive(_)), "{error}");
}

#[test]
fn asking_to_stop_stops() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("a"), "a").unwrap();
    let stream = testing::tar(&[Built::File("a", b"a")]);
    let (stop, limits) = (AtomicBool::new(true), ModulesLimits::default());

    let errors = [
        stage_modules_from_tar(&stream[..], into.path(), limits, &stop).unwrap_err(),
        stage_modules_from_dir(from.path(), into.path(), limits, &stop).unwrap_err(),
    ];

    for error in errors {
        assert!(
            matches!(error, ModulesError::File(FileError::Cancelled { .. })),
            "{error}"
        );
    }
}
