//! Private copies of images: by their owner, whole or not at all, and never at the image's cost.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::process;
use kiln_testkit::tools;
use serde_json::{Value, json};

use crate::descriptors::{NEEDS, NOBODY, open_stage};
use crate::opening::small;
use crate::stage::{KERNEL, LIMIT, Stage, entries, text};

const UUID: &str = "9d1f3c4e-7a52-4b8e-9f00-2b5d6c7e8f90";

/// Runs `kiln` for the stage's daemon.
fn kiln(stage: &Stage, words: &[&str]) -> Result<Output> {
    run(stage, &mut Command::new(built("kiln")?), words)
}

fn run(stage: &Stage, command: &mut Command, words: &[&str]) -> Result<Output> {
    let host = format!("unix://{}", stage.daemon.socket().display());
    command.env("KILN_HOST", host).args(words);
    command.stdin(Stdio::null()).output().context("no kiln")
}

/// Checks an image out and returns what the client tells.
fn checkout(stage: &Stage, image: &str, file: &Path, more: &[&str]) -> Result<Value> {
    let file = file.to_str().context("no text")?;
    let words = [&["checkout", image, file, "--json"], more].concat();
    let output = kiln(stage, &words)?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A checkout that must fail with this exit code and these words.
fn refused(stage: &Stage, words: &[&str], exit_code: i32, told: &str) -> Result<()> {
    let output = kiln(stage, &[&["checkout"], words].concat())?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit_code), "{words:?}: {stderr}");
    assert!(stderr.contains(told), "{words:?}: {stderr}");
    Ok(())
}

fn tool(program: &str, words: &[&str], file: &Path) -> Result<String> {
    let mut command = process::command(program);
    command.args(words).arg(file);
    let output = process::run(command, LIMIT)?;
    Ok(String::from_utf8(output.stdout)?)
}

fn uuid_of(file: &Path) -> Result<String> {
    let told = tool("dumpe2fs", &["-h"], file)?;
    let line = told
        .lines()
        .find_map(|line| line.strip_prefix("Filesystem UUID:"));
    Ok(line.context("no UUID")?.trim().to_owned())
}

fn folder(stage: &Stage) -> Result<PathBuf> {
    let folder = stage.path("mine");
    fs::create_dir(&folder)?;
    Ok(folder)
}

#[test]
fn a_copy_is_the_image_and_its_owners_alone() -> Result<()> {
    if tools::must_skip("a_copy_is_the_image", &[tools::E2FSCK])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let image = small(&stage, "image")?;
    let path = PathBuf::from(text(&image["rootfs"], "path")?);
    let file = folder(&stage)?.join("disk.img");

    let made = checkout(&stage, "image", &file, &[])?;

    assert_eq!(made["path"], json!(file));
    assert_eq!(made["image_id"], image["id"]);
    assert_eq!(made["size_bytes"], 16 << 20);
    assert_eq!(made["filesystem_uuid"], json!(uuid_of(&path)?));
    assert!(fs::read(&file)? == fs::read(&path)?, "other bytes");
    let metadata = fs::metadata(&file)?;
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    match text(&made, "method")?.as_str() {
        "cloned" => assert_eq!(made["copied_bytes"], 0),
        method => {
            assert_eq!(method, "copied");
            let copied = made["copied_bytes"].as_u64().context("no number")?;
            assert!(
                (4096..=metadata.blocks() * 512).contains(&copied),
                "{copied}"
            );
            assert!(metadata.blocks() * 512 < 4 << 20, "holes were filled");
        }
    }
    assert_eq!(entries(&stage.path("mine"))?, ["disk.img"]);
    Ok(())
}

#[test]
fn a_copy_gets_an_identity_and_a_size_of_its_own_and_the_image_stays() -> Result<()> {
    if tools::must_skip("a_copy_gets_an_identity", &[tools::E2FSCK])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let image = small(&stage, "image")?;
    let path = PathBuf::from(text(&image["rootfs"], "path")?);
    let before = fs::read(&path)?;
    let folder = folder(&stage)?;
    let (random, given) = (folder.join("random"), folder.join("given"));

    let first = checkout(&stage, "image", &random, &["--uuid", "random"])?;
    let more = ["--uuid", UUID, "--size", "64MB"];
    let second = checkout(&stage, "image", &given, &more)?;

    assert_eq!(first["filesystem_uuid"], json!(uuid_of(&random)?));
    assert_ne!(uuid_of(&random)?, uuid_of(&path)?);
    assert_eq!(uuid_of(&given)?, UUID);
    // 64,000,000 bytes end within a block.
    assert_eq!(second["size_bytes"], 64_000_000_u64.next_multiple_of(4096));
    assert_eq!(
        fs::metadata(&given)?.len(),
        64_000_000_u64.next_multiple_of(4096)
    );
    for file in [&random, &given] {
        tool("e2fsck", &["-fn"], file)?;
    }
    // One group, one superblock: nothing else differs.
    let copy = fs::read(&random)?;
    let differing = before
        .iter()
        .zip(&copy)
        .enumerate()
        .filter(|(_, (a, b))| a != b);
    assert!(
        differing
            .map(|(at, _)| at)
            .all(|at| (1024..2048).contains(&at))
    );
    tool("resize2fs", &[], &given)?;
    tool("e2fsck", &["-fn"], &given)?;
    assert!(fs::read(&path)? == before, "the image has changed");
    Ok(())
}

#[test]
fn nothing_is_overwritten_unless_asked_and_no_link_is_followed() -> Result<()> {
    let stage = Stage::new()?;
    small(&stage, "image")?;
    let folder = folder(&stage)?;
    let at = |name: &str| folder.join(name).display().to_string();
    fs::write(at("file"), "precious")?;
    symlink(at("file"), at("link"))?;

    refused(&stage, &["image", &at("file")], 5, "exists already")?;
    refused(&stage, &["image", &at("link")], 5, "exists already")?;
    refused(
        &stage,
        &["image", &at("link"), "--force"],
        2,
        "not a regular file",
    )?;
    refused(&stage, &["image", &at(""), "--force"], 2, "cannot create")?;
    refused(&stage, &["image", &at("none/x")], 3, "cannot open")?;
    refused(&stage, &["image", "-"], 2, "a checkout is a file")?;
    refused(&stage, &["none", &at("new")], 3, "none")?;
    let small = ["image", &at("new"), "--size", "4M"];
    refused(&stage, &small, 2, "cannot hold the image")?;
    let words = ["image", &at("new"), "--uuid", "none"];
    refused(&stage, &words, 2, "neither keep, random nor a UUID")?;
    assert_eq!(fs::read(at("file"))?, b"precious");
    checkout(&stage, "image", Path::new(&at("file")), &["--force"])?;

    assert_eq!(fs::metadata(at("file"))?.len(), 16 << 20);
    let mut left = entries(&folder)?;
    left.sort();
    assert_eq!(left, ["file", "link"]);
    Ok(())
}

#[test]
fn a_filesystem_that_keeps_its_uuid_is_told_and_leaves_no_file() -> Result<()> {
    if tools::must_skip("a_filesystem_that_keeps_its_uuid", &[tools::E2FSCK])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let image = small(&stage, "image")?;
    let folder = folder(&stage)?;
    let dirty = stage.path("dirty.ext4");
    fs::copy(text(&image["rootfs"], "path")?, &dirty)?;
    fs::set_permissions(&dirty, Permissions::from_mode(0o600))?;
    tool("debugfs", &["-w", "-R", "set_super_value state 0"], &dirty)?;
    let params = json!({"name": "dirty", "rootfs_path": dirty, "kernel_ref": KERNEL});
    stage.call("image.register", &params)?;
    let file = folder.join("disk.img").display().to_string();

    refused(
        &stage,
        &["dirty", &file, "--uuid", "random"],
        2,
        "not left clean",
    )?;
    assert_eq!(entries(&folder)?, Vec::<String>::new());

    checkout(&stage, "dirty", Path::new(&file), &[])?;
    assert!(fs::read(&file)? == fs::read(&dirty)?, "other bytes");
    Ok(())
}

#[test]
fn another_user_checks_their_own_image_out_and_no_other() -> Result<()> {
    if tools::must_skip("another_user_checks_their_own_image_out", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let image = small(&stage, "roots")?;
    let mut given = File::open(text(&image["rootfs"], "path")?)?;
    let theirs = stage.path("theirs");
    fs::create_dir(&theirs)?;
    // What they register, and the client where they may run it.
    let (rootfs, client) = (theirs.join("rootfs"), theirs.join("kiln"));
    let mut bytes = Vec::new();
    given.read_to_end(&mut bytes)?;
    fs::write(&rootfs, &bytes)?;
    fs::copy(built("kiln")?, &client)?;
    std::os::unix::fs::chown(&theirs, Some(NOBODY), Some(NOBODY))?;
    fs::set_permissions(&rootfs, Permissions::from_mode(0o644))?;
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new(&client);
        command.uid(NOBODY).gid(NOBODY).current_dir(&theirs);
        run(&stage, &mut command, words)
    };
    let registered = as_nobody(&["register", "own", "--rootfs", "rootfs", "--kernel", KERNEL])?;
    assert_eq!(registered.status.code(), Some(0), "{registered:?}");

    let own = as_nobody(&["checkout", "own", "disk.img", "--uuid", UUID, "--json"])?;
    let foreign = as_nobody(&["checkout", "roots", "other.img"])?;
    let kernel = as_nobody(&["image", "open", "own", "kernel"])?;

    assert_eq!(own.status.code(), Some(0), "{own:?}");
    let metadata = fs::metadata(theirs.join("disk.img"))?;
    assert_eq!((metadata.uid(), metadata.len()), (NOBODY, 16 << 20));
    let told: Value = serde_json::from_slice(&own.stdout)?;
    assert_eq!(told["filesystem_uuid"], UUID);
    assert_eq!(foreign.status.code(), Some(4), "{foreign:?}");
    assert!(!theirs.join("other.img").exists());
    assert_eq!(kernel.stdout, fs::read(stage.path("vmlinux"))?);
    Ok(())
}
