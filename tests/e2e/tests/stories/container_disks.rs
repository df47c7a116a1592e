//! KubeVirt's containerDisks: ordinary images with a disk in them, pulled as the disk they carry.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layout, Platform};
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools;
use serde_json::{Value, json};

use crate::bootable::{answer, booting, file_of};
use crate::source::oci;
use crate::stage::{KERNEL, Stage, assert_same_bytes, code, text};

fn assert_same_rootfs(one: &Value, other: &Value) -> Result<()> {
    assert_same_bytes(
        &text(&one["rootfs"], "path")?,
        &text(&other["rootfs"], "path")?,
    )
}

#[test]
fn a_containerdisk_that_was_pushed_comes_back_with_its_kernel() -> Result<()> {
    let test = "a_containerdisk_that_was_pushed_comes_back_with_its_kernel";
    if tools::must_skip(test, &[tools::DOCKER_REGISTRY])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let into = format!("{}/team/web:disk", registry.host());
    let image = booting(&stage, "image")?;
    answer(&stage, &["push", "image", &into, "--as", "containerdisk"])?;
    let other = Stage::new()?;

    let got = answer(&other, &["pull", &into, "--name", "got"])?;

    assert_same_rootfs(&image, &got)?;
    for file in ["kernel", "initrd.img"] {
        let (there, here) = (file_of(&image, file)?, file_of(&got, file)?);
        assert!(fs::read(there)? == fs::read(here)?, "{file}");
    }
    assert_eq!(got["source"]["reference"], into.as_str());
    // Whoever names a kernel gets that one.
    let params = json!({"ref": into, "name": "named", "kernel_ref": KERNEL});
    let named = other.call("image.pull", &params)?;
    assert_same_rootfs(&image, &named)?;
    assert_eq!(named["kernel"]["name"], KERNEL);
    let params = json!({"ref": into, "name": "sized", "kernel_ref": KERNEL, "size_bytes": 1 << 30});
    let refused = other.refused("image.pull", &params)?;
    assert_eq!(code(&refused), "source.unsupported", "{refused}");
    Ok(())
}

/// Writes an image that names no program and has these files.
fn image_of(folder: &Path, entries: &[Entry]) -> Result<String> {
    let mut layout = Layout::create(folder)?;
    let layer = layout.add_layer(entries, Compression::Gzip)?;
    let image = layout.add_image_with(&[layer], &Platform::linux("amd64"), json!({}))?;
    layout.tag("1", &image)?;
    Ok(oci(&layout, "1"))
}

#[test]
fn only_a_disk_and_nothing_else_makes_a_containerdisk() -> Result<()> {
    let maker = Stage::new()?;
    let image = booting(&maker, "image")?;
    let rootfs = fs::read(file_of(&image, "rootfs.ext4")?)?;
    let stage = Stage::new()?;
    let disk = || Entry::file("disk/fedora.img", rootfs.clone());
    let pull =
        |reference: &str, name: &str| json!({"ref": reference, "name": name, "kernel_ref": KERNEL});
    let raw = image_of(&stage.path("raw"), &[Entry::directory("disk"), disk()])?;

    let got = stage
        .call("image.pull", &pull(&raw, "raw"))
        .context("raw")?;

    assert_same_rootfs(&image, &got)?;
    let others = [
        ("other", vec![disk(), Entry::file("etc/hostname", "web")]),
        ("two", vec![disk(), Entry::file("disk/second.img", "data")]),
        (
            "below",
            vec![Entry::file("disk/deep/fedora.img", rootfs.clone())],
        ),
        ("none", vec![Entry::directory("disk")]),
    ];
    for (name, entries) in others {
        let reference = image_of(&stage.path(name), &entries)?;
        let refused = stage.refused("image.pull", &pull(&reference, "bad"))?;
        assert_eq!(code(&refused), "boot.nothing_to_run", "{name}: {refused}");
    }
    // What lies there is judged as any disk.
    let words = image_of(&stage.path("words"), &[Entry::file("disk/a.img", "words")])?;
    let refused = stage.refused("image.pull", &pull(&words, "bad"))?;
    assert_eq!(code(&refused), "rootfs.not_ext4", "{refused}");
    Ok(())
}
