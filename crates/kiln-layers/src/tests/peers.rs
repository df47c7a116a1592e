//! What GNU tar writes is read as it was; what is read here, Python's tarfile reads the same.
//!
//! Without `tar` or `python3` on the machine these have nothing to compare with and pass.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::testing::{Shown, Tar, What, entries};

fn run(command: &mut Command, input: &[u8]) -> Option<Vec<u8>> {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        spawned => spawned.unwrap(),
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A child that has seen enough closes its input; its exit status says whether it is content.
    drop(feeder.join());
    assert!(output.status.success(), "{command:?}");
    Some(output.stdout)
}

fn make_tree(root: &Path) {
    let deep = root.join("deep".repeat(20)).join("er".repeat(60));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), b"far down").unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("block"), [9; 4096]).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not\xffutf8\n")), b"x").unwrap();
    fs::write(root.join("first"), b"two names").unwrap();
    fs::hard_link(root.join("first"), root.join("second")).unwrap();
    symlink("../any/where", root.join("link")).unwrap();
    symlink("t".repeat(150), root.join("longlink")).unwrap();
    let mode = fs::Permissions::from_mode(0o1751);
    fs::set_permissions(root.join("block"), mode).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    for at in [
        0, 100_000, 1_000_000, 1_500_000, 2_000_000, 2_500_000, 3_000_000,
    ] {
        sparse.write_all_at(b"some data", at).unwrap();
    }
    let old = std::time::UNIX_EPOCH - std::time::Duration::new(5, 250_000_000);
    sparse.set_modified(old).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(root.join("pipe"))
            .status()
            .unwrap()
            .success()
    );
}

/// What the file system has under `root`, hard links being files.
fn read_tree(root: &Path, below: &Path, found: &mut BTreeMap<Vec<u8>, Shown>) {
    let path = root.join(below);
    let metadata = fs::symlink_metadata(&path).unwrap();
    let kind = metadata.file_type();
    let what = if kind.is_dir() {
        for entry in fs::read_dir(&path).unwrap() {
            read_tree(root, &below.join(entry.unwrap().file_name()), found);
        }
        What::Directory
    } else if kind.is_symlink() {
        let target = fs::read_link(&path).unwrap();
        What::Symlink(target.as_os_str().as_bytes().to_vec())
    } else if kind.is_file() {
        What::File(fs::read(&path).unwrap(), 0)
    } else {
        What::Fifo
    };
    let name = below.as_os_str().as_bytes().to_vec();
    let shown = Shown {
        path: name.clone(),
        what,
        mode: u16::try_from(metadata.mode() & 0o7777).unwrap(),
        ids: (metadata.uid(), metadata.gid()),
        mtime: kiln_tree::Timestamp {
            seconds: metadata.mtime(),
            nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap(),
        },
        xattrs: BTreeMap::new(),
    };
    found.insert(name, shown);
}

/// Makes entries comparable: links become files, blocks of the pack are forgotten.
fn by_path(shown: Vec<Shown>) -> BTreeMap<Vec<u8>, Shown> {
    let mut found: BTreeMap<Vec<u8>, Shown> = BTreeMap::new();
    for mut entry in shown {
        match &mut entry.what {
            What::Hardlink(target) => entry.what = found[target].what.clone(),
            What::File(_, blocks) => *blocks = 0,
            _ => {}
        }
        found.insert(entry.path.clone(), entry);
    }
    found
}

#[test]
fn gnu_tar_archives_of_every_format_are_read_as_the_tree_was() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    make_tree(&root);
    let mut want = BTreeMap::new();
    read_tree(&root, Path::new(""), &mut want);
    let cases: &[(&[&str], bool)] = &[
        (&["--format=posix"], true),
        (&["--format=posix", "-S", "--sparse-version=0.0"], true),
        (&["--format=posix", "-S", "--sparse-version=0.1"], true),
        (&["--format=posix", "-S", "--sparse-version=1.0"], true),
        (&["--format=gnu"], false),
        (&["--format=gnu", "-S"], false),
    ];
    for (options, has_nanoseconds) in cases {
        let mut command = Command::new("tar");
        command
            .args(*options)
            .arg("-C")
            .arg(&root)
            .args(["-cf", "-", "."]);
        let Some(archive) = run(&mut command, b"") else {
            return;
        };
        let mut want = want.clone();
        if !has_nanoseconds {
            for shown in want.values_mut() {
                shown.mtime.nanoseconds = 0;
            }
        }

        let all = entries(&archive).unwrap();
        let is_sparse =
            |shown: &Shown| shown.path == b"sparse" && matches!(shown.what, What::File(_, ..200));
        assert_eq!(
            all.iter().any(is_sparse),
            options.contains(&"-S"),
            "{options:?}"
        );

        let got = by_path(all);
        assert_eq!(
            got.keys().collect::<Vec<_>>(),
            want.keys().collect::<Vec<_>>()
        );
        for (path, shown) in &want {
            assert!(got[path] == *shown, "{options:?} {}", path.escape_ascii());
        }
    }
}

#[test]
fn gnu_tar_archives_of_old_formats_are_read_as_the_tree_was() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("dir/below")).unwrap();
    fs::write(root.join("dir/below/file"), [5; 5000]).unwrap();
    fs::hard_link(root.join("dir/below/file"), root.join("dir/name")).unwrap();
    symlink("/absolute", root.join("link")).unwrap();
    let mut want = BTreeMap::new();
    read_tree(&root, Path::new(""), &mut want);
    for shown in want.values_mut() {
        shown.mtime.nanoseconds = 0;
    }
    for format in ["ustar", "v7", "oldgnu"] {
        let mut command = Command::new("tar");
        command.arg(format!("--format={format}"));
        command.arg("-C").arg(&root).args(["-cf", "-", "."]);
        let Some(archive) = run(&mut command, b"") else {
            return;
        };
        assert_eq!(by_path(entries(&archive).unwrap()), want, "{format}");
    }
}

/// Attributes that the file system takes, as GNU tar and Python see them.
#[test]
fn gnu_tar_attributes_are_kept_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"x").unwrap();
    let set = "import os, sys\n\
               try: os.setxattr(sys.argv[1], 'user.odd', b'a\\n22 linkpath=x\\n\\0\\xff')\n\
               except OSError: print('unsupported')";
    let mut python = Command::new("python3");
    python.args(["-c", set]).arg(&file);
    let mut tar = Command::new("tar");
    tar.args(["--format=posix", "--xattrs", "-C"]);
    tar.arg(folder.path()).args(["-cf", "-", "file"]);
    let (Some(said), Some(archive)) = (run(&mut python, b""), run(&mut tar, b"")) else {
        return;
    };
    if !said.is_empty() {
        return;
    }

    let got = entries(&archive).unwrap();

    let odd = (b"user.odd".to_vec(), b"a\n22 linkpath=x\n\0\xff".to_vec());
    assert_eq!(got[0].xattrs, BTreeMap::from([odd]));
}

/// Prints a line for each member: name, type, mode, ids, size and target, in hexadecimal
/// where bytes are odd.
const PYTHON: &str = r#"
import sys, tarfile
raw = lambda text: text.encode("utf-8", "surrogateescape")
for m in tarfile.open(fileobj=sys.stdin.buffer, mode="r|", errors="surrogateescape"):
    kind = ("directory" if m.isdir() else "symlink" if m.issym() else "hardlink" if m.islnk()
            else "fifo" if m.isfifo() else "char" if m.ischr() else "block" if m.isblk() else "file")
    print(raw(m.name).strip(b"/").removeprefix(b"./").hex(), kind, oct(m.mode & 0o7777), m.uid, m.gid,
          m.size if kind == "file" else 0, raw(m.linkname).hex() if m.linkname else "-")
"#;

fn as_python_prints(shown: &Shown) -> String {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    };
    let (kind, size, target) = match &shown.what {
        What::Directory => ("directory", 0, None),
        What::File(bytes, _) => ("file", bytes.len(), None),
        What::Symlink(target) => ("symlink", 0, Some(target)),
        What::Hardlink(target) => ("hardlink", 0, Some(target)),
        What::CharDevice(..) => ("char", 0, None),
        What::BlockDevice(..) => ("block", 0, None),
        What::Fifo => ("fifo", 0, None),
        What::Whiteout | What::Opaque => panic!("python knows no whiteouts"),
    };
    format!(
        "{} {kind} 0o{:o} {} {} {size} {}",
        hex(&shown.path),
        shown.mode,
        shown.ids.0,
        shown.ids.1,
        target.map_or("-".to_owned(), |target| hex(target)),
    )
}

#[test]
fn python_reads_accepted_archives_the_same_way() {
    use crate::testing::put;
    let long = "n".repeat(150) + "/" + &"m".repeat(150);
    let ids = |header: &mut _| {
        put(header, 108, b"\x80\0\0\0\x7f\xff\xff\xff");
        put(header, 116, b"0000144\0");
    };
    let prefix = |header: &mut _| put(header, 345, b"some/prefix");
    let empty = |header: &mut _| put(header, 124, b"00000000000\0");
    let map: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"9000"),
        ("GNU.sparse.map", b"5000,4"),
        ("GNU.sparse.name", b"sparse"),
    ];
    let archive = Tar::new()
        .directory("d/")
        .file("d/f", b"hello")
        .edited(b'0', "ids", b"x", ids)
        .edited(b'0', "name", b"x", prefix)
        .long_name(long.as_bytes())
        .file("x", b"gnu")
        .long_link(long.as_bytes())
        .link(b'2', "s", "t")
        .pax(&[
            ("path", b"p\nq"),
            ("uid", b"4294967295"),
            ("comment", b"a\n22 linkpath=/etc/evil\n"),
        ])
        .file("x", b"pax")
        .pax(&[("size", b"700")])
        .edited(b'0', "sized", &[3; 700], empty)
        .pax(&[("linkpath", b"d/f")])
        .link(b'1', "h", "wrong")
        .pax(map)
        .file("GNUSparseFile.0/sparse", b"data")
        .member(b'6', "pipe", b"")
        .member(b'7', "contiguous", b"y")
        .file("last", b"z")
        .end();

    let Some(printed) = run(Command::new("python3").args(["-c", PYTHON]), &archive) else {
        return;
    };

    let got: Vec<_> = entries(&archive)
        .unwrap()
        .iter()
        .map(as_python_prints)
        .collect();
    let want = String::from_utf8(printed).unwrap();
    assert_eq!(got, want.lines().collect::<Vec<_>>());
}
