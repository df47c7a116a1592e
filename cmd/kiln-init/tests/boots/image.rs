//! The image that guests boot: busybox, a few accounts, and deliberately little else.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use kiln_ext4::{Identity, Plan, Profile, Size, Source};
use kiln_layers::{Declared, Limits, Pack, decode};
use kiln_testkit::debs;
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::images::debian;
use kiln_testkit::images::entry::{self, Entry};
use kiln_tree::Tree;
use sha2::{Digest, Sha256};

/// Size of the filesystem, in bytes.
pub(crate) const SIZE_BYTES: u64 = 64 << 20;

const APPLETS: &[&str] = &[
    "cat", "chmod", "cut", "echo", "env", "grep", "hostname", "id", "ip", "kill", "ls", "mkdir",
    "mount", "poweroff", "ps", "pwd", "reboot", "sed", "setsid", "sh", "sleep", "stat", "sync",
    "tail", "touch", "tr", "true", "tty", "wc",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:App:/home/app:/bin/sh\n";
const GROUP: &str = "root:x:0:\nvideo:x:44:app\naudio:x:29:app\napp:x:1000:\n";

/// Writes the image with `extra` files to `path`.
///
/// It has neither `/proc` nor `/run`, its resolv.conf leads to what is not there, and it has no
/// `/etc/hosts`: images like this exist, and boot.
pub(crate) fn build(fixtures: &Fixtures, extra: &[Entry], path: &Path) -> Result<()> {
    let busybox = debs::package(fixtures, "busybox-static")?;
    let busybox = fs::read(busybox.tree.join("bin/busybox")).context("busybox")?;
    let mut entries = vec![
        Entry::directory("bin"),
        Entry::file("bin/busybox", busybox).mode(0o755),
        Entry::directory("etc"),
        Entry::file("etc/passwd", PASSWD),
        Entry::file("etc/group", GROUP),
        Entry::file("etc/hostname", "image\n"),
        Entry::symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
        Entry::directory("data").owner(1000, 44).mode(0o750),
        Entry::file("data/seed", "sown\n").owner(1000, 44),
        Entry::directory("home"),
        Entry::directory("home/app").owner(1000, 1000),
    ];
    for applet in APPLETS {
        entries.push(Entry::symlink(format!("bin/{applet}"), "busybox"));
    }
    entries.extend_from_slice(extra);
    write_image(
        &mut [&mut layer(&entries)?.as_slice()],
        Size::Bytes(SIZE_BYTES),
        path,
    )
}

/// Writes a Debian with systemd and `extra` files over it to `path`.
pub(crate) fn build_debian(fixtures: &Fixtures, extra: &[Entry], path: &Path) -> Result<()> {
    let packages = ["systemd-sysv", "udev", "dbus"];
    let mut base = File::open(debian::base_tar(fixtures, &packages)?)?;
    write_image(
        &mut [&mut base, &mut layer(extra)?.as_slice()],
        Size::Default,
        path,
    )
}

/// A shell script in the image, executable.
pub(crate) fn script(path: &str, body: &str) -> Entry {
    Entry::file(path, format!("#!/bin/sh\n{body}\n")).mode(0o755)
}

fn layer(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut layer = Vec::new();
    for entry in entries {
        entry.write_to(&mut layer)?;
    }
    entry::write_end(&mut layer)?;
    Ok(layer)
}

/// Builds layers, bottom first, as the daemon does.
fn write_image(layers: &mut [&mut (dyn Read + Send)], size: Size, path: &Path) -> Result<()> {
    let never = AtomicBool::new(false);
    let mut packs = Vec::new();
    for layer in layers {
        let output = tempfile::tempfile()?;
        let limits = Limits::default();
        decode(
            layer,
            Declared::Unknown,
            None,
            &output,
            &limits,
            &|_| {},
            &never,
        )?;
        packs.push(Pack::open(output)?);
    }
    let indexes = packs.iter().map(|pack| pack.index().clone()).collect();
    let tree = Tree::merge(
        indexes,
        &kiln_tree::Limits::default(),
        &AtomicBool::new(false),
    )?;
    let identity = Identity::derive(&[7; 32], 1_700_000_000);
    let plan = Plan::new(
        &tree,
        Profile::RwV1,
        &identity,
        size,
        &AtomicBool::new(false),
    )?;
    let image = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    let sources: Vec<Source<'_>> = packs
        .iter()
        .map(|pack| Source {
            file: pack.file(),
            sums: pack.sums(),
            zero_runs: pack.zero_runs(),
        })
        .collect();
    plan.write(&sources, &image, &|_, _| {}, &never)?;
    Ok(())
}

/// Returns the SHA-256 of a file.
pub(crate) fn digest(path: &Path) -> Result<[u8; 32]> {
    Ok(Sha256::digest(fs::read(path)?).into())
}
