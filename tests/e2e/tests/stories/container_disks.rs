//! KubeVirt's containerDisks: ordinary images with a disk in them, pulled as the disk they carry.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layout, Platform};
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::{process, tools};
use serde_json::{Value, json};

use crate::bootable::{answer, booting, file_of};
use crate::source::{noise, oci};
use crate::space::{Small, is_foreseen};
use crate::stage::{KERNEL, LIMIT, Stage, assert_same_bytes, code, pull, text};

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
    // How it boots travels too, and what it was taken out of is told.
    let boot = |image: &Value, key: &str| image["boot"][key].clone();
    for key in ["mode", "reason", "init_path", "monitors"] {
        assert_eq!(boot(&got, key), boot(&image, key), "{key}: {got}");
    }
    assert_eq!(boot(&got, "disk"), json!({"format": "qcow2"}), "{got}");
    assert_eq!(boot(&image, "disk"), Value::Null, "{image}");
    let labels = &got["config"]["Labels"];
    let arguments = labels["dev.kiln.kernel_arguments"].clone();
    assert_eq!(arguments, image["kernel_arguments"], "{labels}");
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
    image_with(folder, entries, json!({}))
}

fn image_with(folder: &Path, entries: &[Entry], container: Value) -> Result<String> {
    let mut layout = Layout::create(folder)?;
    let layer = layout.add_layer(entries, Compression::Gzip)?;
    let image = layout.add_image_with(&[layer], &Platform::linux("amd64"), container)?;
    layout.tag("1", &image)?;
    Ok(oci(&layout, "1"))
}

#[test]
fn a_disk_that_does_not_fit_is_refused_before_it_is_taken_apart() -> Result<()> {
    let test = "a_disk_that_does_not_fit_is_refused_before_it_is_taken_apart";
    if tools::must_skip(
        test,
        &[crate::space::NEEDS, &[tools::QEMU_IMG, tools::MKFS_EXT4]].concat(),
    )? {
        return Ok(());
    }
    // 20 MiB of noise in 64 MiB of an ext4 filesystem, in a qcow2 file.
    let folder = crate::stage::folder()?;
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("files"))?;
    fs::write(at("files/noise"), noise(21, 20 << 20))?;
    let mut make = process::command(tools::require(tools::MKFS_EXT4)?);
    make.arg("-q")
        .arg("-d")
        .arg(at("files"))
        .arg(at("raw"))
        .arg("64M");
    process::run(make, LIMIT)?;
    let mut convert = process::command(tools::require(tools::QEMU_IMG)?);
    convert
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .arg(at("raw"))
        .arg(at("qcow2"));
    process::run(convert, LIMIT)?;
    let disk = Entry::file("disk/noise.qcow2", fs::read(at("qcow2"))?);
    let reference = image_of(&at("layout"), &[disk])?;
    // The layer and what it unpacks to fit, and the root filesystem does not beside them.
    let small = Small::new(56)?;
    let params = pull(&reference, "bad");

    let refused = small.daemon.call("image.pull", &params);

    let error = refused.err().context("it fitted")?.refused()?;
    assert_eq!(code(&error), "storage.full", "{error}");
    assert!(is_foreseen(&error, "/root/images"), "{error}");
    assert_eq!(small.entries("images")?, Vec::<String>::new());
    let large = Small::new(96)?;
    let got = large.daemon.call("image.pull", &params)?;
    assert_eq!(got["boot"]["disk"]["format"], "qcow2", "{got}");
    Ok(())
}

#[test]
fn only_a_disk_and_nothing_else_makes_a_containerdisk() -> Result<()> {
    let maker = Stage::new()?;
    let image = booting(&maker, "image")?;
    let rootfs = fs::read(file_of(&image, "rootfs.ext4")?)?;
    let stage = Stage::new()?;
    let disk = || Entry::file("disk/fedora.img", rootfs.clone());
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
    // What the label says is shown only where it may be: it is whatever somebody wrote.
    let labels =
        json!({"Labels": {"dev.kiln.boot": "{\"mode\": \"init\\u001b\", \"choice\": \"auto\"}"}});
    let kernel = Entry::file(
        "boot/vmlinuz",
        kiln_testkit::elf::smallest(kiln_testkit::elf::X86_64),
    );
    let reference = image_with(&stage.path("labelled"), &[disk(), kernel], labels)?;
    let params = json!({"ref": reference, "name": "labelled", "prefer_shipped_kernel": true});
    let got = stage.call("image.pull", &params)?;
    assert_eq!(got["boot"]["mode"], "none", "{got}");
    assert_eq!(
        got["boot"]["reason"],
        "the artifact does not say how it boots"
    );
    // What lies there is judged as any disk.
    let words = image_of(&stage.path("words"), &[Entry::file("disk/a.img", "words")])?;
    let refused = stage.refused("image.pull", &pull(&words, "bad"))?;
    assert_eq!(code(&refused), "rootfs.not_ext4", "{refused}");
    Ok(())
}
