//! The programs images are judged by.

use std::path::Path;
use std::process::{Command, Output};

/// Runs a program of e2fsprogs (or another of the system's) and returns what it said.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new(program)
        .args(arguments)
        // Where system programs are, also for people whose PATH leaves them out.
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}, is it installed? {error}"))
}

/// Runs a program that must succeed; returns its standard output.
pub(crate) fn run_ok(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Demands that e2fsck finds nothing to say, from the primary superblock.
pub(crate) fn e2fsck(image: &Path) {
    run_ok("e2fsck", &["-fn", text(image)]);
}

/// Numbers of the blocks that backup superblocks lie in.
pub(crate) fn backups(image: &Path) -> Vec<u64> {
    run_ok("dumpe2fs", &[text(image)])
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Backup superblock at "))
        .filter_map(|rest| rest.split(',').next())
        .map(|block| block.parse().expect("dumpe2fs prints a number"))
        .collect()
}

/// Demands that e2fsck finds nothing from any backup superblock either.
///
/// Started from a backup, e2fsck takes every group's bitmaps as written, and so complains of
/// mke2fs's own images: only an image without an unused group passes.
pub(crate) fn e2fsck_backups(image: &Path) {
    for backup in backups(image) {
        let block = backup.to_string();
        run_ok("e2fsck", &["-fn", "-b", &block, "-B", "4096", text(image)]);
    }
}

/// Asks debugfs, which must know the answer.
pub(crate) fn debugfs(image: &Path, request: &str) -> String {
    run_ok("debugfs", &["-R", request, text(image)])
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Bytes of disk a file takes.
pub(crate) fn allocated_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).expect("the file is there").blocks() * 512
}

/// All bytes of a sparse file that are not holes, with their places in front of each run.
pub(crate) fn written_bytes(path: &Path) -> Vec<u8> {
    use rustix::fs::SeekFrom;
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path).expect("the file is there");
    let mut bytes = Vec::new();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, SeekFrom::Hole(start)).expect("data ends");
        bytes.extend(start.to_le_bytes());
        let before = bytes.len();
        bytes.resize(before + usize::try_from(at - start).expect("it fits"), 0);
        file.read_exact_at(&mut bytes[before..], start)
            .expect("it can be read");
    }
    bytes
}
