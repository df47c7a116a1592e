//! Archives as other programs read and write them: those of busybox and of GNU.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_kernel::{CpioLimits, CpioNode, CpioWriter, read_initramfs};
use kiln_testkit::debs;
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::process;
use kiln_testkit::tools::{self, Need};

/// What getting Debian's packages takes.
const PACKAGES: [Need; 3] = [tools::APT_GET, tools::APT_CACHE, tools::DPKG_DEB];
/// Longest time of a program.
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);

/// An archive with a bit of everything.
fn sample() -> Result<CpioWriter<'static>> {
    let mut archive = CpioWriter::default();
    archive.directory("dev")?;
    for (name, node) in [
        (
            "dev/console",
            CpioNode::CharacterDevice { major: 5, minor: 1 },
        ),
        (
            "dev/vda",
            CpioNode::BlockDevice {
                major: 254,
                minor: 0,
            },
        ),
        ("link", CpioNode::Link(b"folder/file"[..].into())),
    ] {
        archive.add(name, 0o600, node)?;
    }
    archive.directory("folder")?;
    for length in 0..9_u8 {
        let name = format!("folder/{}", "n".repeat(usize::from(length) + 1));
        archive.file(name, 0o640, vec![b'a' + length; usize::from(length)])?;
    }
    archive.file("folder/file", 0o755, &b"content"[..])?;
    Ok(archive)
}

/// Programs that read archives, as Debian packages them; nothing is installed.
fn cpio_programs(fixtures: &Fixtures) -> Result<Vec<(PathBuf, &'static [&'static str])>> {
    let busybox = debs::package(fixtures, "busybox-static")?;
    let gnu = debs::package(fixtures, "cpio")?;
    let gnu = ["bin/cpio", "usr/bin/cpio"].map(|path| gnu.tree.join(path));
    let gnu = gnu.into_iter().find(|path| path.is_file());
    Ok(vec![
        (busybox.tree.join("bin/busybox"), &["cpio"]),
        (gnu.context("the package cpio has no cpio")?, &["--quiet"]),
    ])
}

fn run_on(
    archive: &Path,
    (program, words): &(PathBuf, &[&str]),
    more: &[&str],
    folder: &Path,
) -> Result<String> {
    let mut command = process::command(program);
    command.args(*words).args(more).current_dir(folder);
    command.stdin(Stdio::from(File::open(archive)?));
    Ok(process::run(command, PROGRAM_LIMIT)?.text())
}

#[test]
fn other_programs_read_what_is_written() -> Result<()> {
    if tools::must_skip("archives and cpio", &PACKAGES)? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let bytes = sample()?.to_bytes();
    let archive = folder.path().join("archive");
    fs::write(&archive, &bytes)?;
    let entries = read_initramfs(&bytes, CpioLimits::default())?;
    for program in cpio_programs(&Fixtures::shared()?)? {
        let listing = run_on(&archive, &program, &["-t"], folder.path())?;
        let names = entries.iter().map(|entry| entry.path.display().to_string());
        assert_eq!(
            listing.lines().collect::<Vec<_>>(),
            names.collect::<Vec<_>>(),
            "{program:?}"
        );
        let details = run_on(&archive, &program, &["-t", "-v"], folder.path())?;
        for (name, mode, number) in [("dev/console", "crw", "5,"), ("dev/vda", "brw", "254,")] {
            let line = details.lines().find(|line| line.ends_with(name));
            let line = line.with_context(|| format!("no {name}: {details}"))?;
            // Busybox shows no numbers.
            let shown = program.1 == ["cpio"] || line.contains(number);
            assert!(line.starts_with(mode) && shown, "{line}");
        }

        // Devices take the rights of root, so only the rest is unpacked.
        let into = tempfile::tempdir()?;
        run_on(
            &archive,
            &program,
            &["-i", "-d", "folder*", "link"],
            into.path(),
        )?;
        for entry in &entries {
            let path = into.path().join(&entry.path);
            match &entry.node {
                CpioNode::File(content) => assert_eq!(fs::read(path)?, **content),
                CpioNode::Link(target) => {
                    let found = fs::read_link(path)?;
                    assert_eq!(found.as_os_str().as_encoded_bytes(), &**target);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[test]
fn what_other_programs_write_is_read() -> Result<()> {
    if tools::must_skip("archives of cpio", &PACKAGES)? {
        return Ok(());
    }
    let top = tempfile::tempdir()?;
    fs::create_dir(top.path().join("folder"))?;
    fs::write(top.path().join("folder/file"), "content")?;
    fs::hard_link(
        top.path().join("folder/file"),
        top.path().join("folder/twin"),
    )?;
    std::os::unix::fs::symlink("folder/file", top.path().join("link"))?;
    let list = tempfile::NamedTempFile::new()?;
    fs::write(&list, ".\n./folder\n./folder/file\n./folder/twin\n./link\n")?;
    for (program, words) in cpio_programs(&Fixtures::shared()?)? {
        let mut command = process::command(&program);
        command.args(words).args(["-o", "-H", "newc"]);
        command.current_dir(top.path());
        command.stdin(Stdio::from(list.reopen()?));
        let archive = process::run(command, PROGRAM_LIMIT)?.stdout;

        let entries = read_initramfs(&archive, CpioLimits::default())?;

        let names: BTreeSet<String> = entries
            .iter()
            .map(|entry| entry.path.display().to_string())
            .collect();
        let want = ["", "folder", "folder/file", "folder/twin", "link"];
        assert_eq!(names, want.map(str::to_owned).into(), "{program:?}");
        let contents: Vec<&[u8]> = entries
            .iter()
            .filter_map(|entry| match &entry.node {
                CpioNode::File(content) => Some(&**content),
                _ => None,
            })
            .collect();
        assert!(
            contents.contains(&&b"content"[..]),
            "{program:?}: {contents:?}"
        );
    }
    Ok(())
}
