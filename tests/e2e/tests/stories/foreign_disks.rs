//! Disks that others put into registries: one with an ext4 root filesystem becomes an image, however
//! it is stored; any other is told what it is and what to do.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_testkit::images::layout::{Descriptor, Layout};
use kiln_testkit::{elf, process, tools};
use serde_json::{Value, json};

use crate::bootable::{booting, file_of, kiln};
use crate::source::oci;
use crate::stage::{KERNEL, LIMIT, Stage, assert_same_bytes, code, text};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const RAW: &str = "application/vnd.diskimage.raw";
const ECI_RAW: &str = "application/vnd.lfedge.disk.layer.v1+raw";
const ECI_KERNEL: &str = "application/vnd.lfedge.eci.kernel.layer.v1+kernel";
const ECI_INITRD: &str = "application/vnd.lfedge.eci.initrd.layer.v1+cpio";
const TITLE: &str = "org.opencontainers.image.title";

/// A layer as an artifact's manifest lists it.
fn layer(blob: &Descriptor, annotations: &[(&str, &str)]) -> Value {
    let annotations: BTreeMap<&str, &str> = annotations.iter().copied().collect();
    json!({
        "mediaType": blob.media_type, "digest": blob.digest, "size": blob.size_bytes,
        "annotations": annotations,
    })
}

/// Writes an artifact with these layers and returns how it is pulled.
fn artifact(layout: &mut Layout, config: (&str, &Value), layers: &[Value]) -> Result<String> {
    let (media_type, config) = config;
    let config = layout.add_blob(media_type, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": media_type, "digest": config.digest, "size": config.size_bytes,
        },
        "layers": layers,
    });
    let manifest = layout.add_blob(MANIFEST, manifest.to_string().as_bytes())?;
    layout.tag("1", &manifest)?;
    Ok(oci(layout, "1"))
}

/// Compresses a file with a program.
fn packed(program: &str, file: &PathBuf) -> Result<Vec<u8>> {
    let mut command = process::command(program);
    command.arg("-c").arg(file);
    Ok(process::run(command, LIMIT)?.stdout)
}

/// What a pull is refused with.
fn refused(stage: &Stage, reference: &str) -> Result<(String, String)> {
    let params = json!({"ref": reference, "name": "bad", "kernel_ref": KERNEL});
    let refused = stage.refused("image.pull", &params)?;
    let told = (code(&refused).to_owned(), refused.to_string());
    assert_eq!(stage.entries("images")?, Vec::<String>::new());
    Ok(told)
}

#[test]
fn a_raw_disk_becomes_an_image_however_it_is_packed_and_named() -> Result<()> {
    let maker = Stage::new()?;
    let image = booting(&maker, "image")?;
    let rootfs = file_of(&image, "rootfs.ext4")?;
    let plain = fs::read(&rootfs)?;
    let gzip = packed("gzip", &rootfs)?;
    let zstd = packed_zstd(&maker)?;
    let stage = Stage::new()?;
    let platform = json!({"architecture": "amd64", "os": "linux"});
    let disks: [(&str, &str, &[u8], &str); 4] = [
        ("plain", RAW, &plain, ""),
        ("gzip", "application/vnd.diskimage.raw.gzip", &gzip, ""),
        ("lying", "application/vnd.diskimage.qcow2", &gzip, ""),
        ("podman", EMPTY, &zstd, "machine.x86_64.raw.zst"),
    ];
    for (name, media_type, bytes, title) in disks {
        let mut layout = Layout::create(stage.path(name))?;
        let blob = layout.add_blob(media_type, bytes)?;
        let titled = [(TITLE, title)];
        let notes = if title.is_empty() { &[][..] } else { &titled };
        let layers = [layer(&blob, notes)];
        let reference = artifact(&mut layout, (EMPTY, &platform), &layers)?;
        let params = json!({"ref": reference, "name": name, "kernel_ref": KERNEL});

        let got = stage.call("image.pull", &params).context(name)?;

        let rootfs = rootfs.display().to_string();
        assert_same_bytes(&rootfs, &text(&got["rootfs"], "path")?).context(name)?;
        // As a root filesystem that was registered: nothing is known of its program.
        assert_eq!(got["boot"]["init_path"], "/sbin/init", "{name}");
        assert_eq!(got["kernel"]["name"], KERNEL, "{name}");
        assert_eq!(got["source"]["original"], Value::Null, "{name}");
    }
    Ok(())
}

/// The image's root filesystem in zstd, as its own export has it: the first chunk is all its data,
/// so that it is packed anew here.
fn packed_zstd(stage: &Stage) -> Result<Vec<u8>> {
    let image = stage.call("image.get", &json!({"image": "image"}))?;
    let rootfs = file_of(&image, "rootfs.ext4")?;
    let layout = Layout::create(stage.path("zstd"))?;
    let compression = kiln_testkit::images::layout::Compression::Zstd;
    let layer = layout.add_archive(fs::File::open(rootfs)?, compression)?;
    Ok(fs::read(layout.blob_path(&layer.blob))?)
}

/// Converts a raw disk to qcow2 with qemu-img.
fn qcow2(stage: &Stage, raw: &Path, words: &[&str]) -> Result<Vec<u8>> {
    let made = stage.path("made.qcow2");
    let mut convert = process::command(tools::require(tools::QEMU_IMG)?);
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
    convert.args(words).arg(raw).arg(&made);
    process::run(convert, LIMIT)?;
    Ok(fs::read(made)?)
}

/// Writes a disk with a boot partition and the root filesystem behind it.
fn with_partitions(rootfs: &Path, path: &Path) -> Result<()> {
    let content = fs::read(rootfs)?;
    let sectors = u32::try_from(content.len() / 512)?;
    let disk = fs::File::create(path)?;
    let places = [(0x0c_u8, 63_u32, 1000_u32), (0x83, 2048, sectors)];
    for ((kind, first, count), at) in places.into_iter().zip((446..).step_by(16)) {
        disk.write_all_at(&[kind], at + 4)?;
        disk.write_all_at(&first.to_le_bytes(), at + 8)?;
        disk.write_all_at(&count.to_le_bytes(), at + 12)?;
    }
    disk.write_all_at(&[0x55, 0xaa], 510)?;
    disk.write_all_at(&content, 2048 * 512)?;
    disk.set_len(2048 * 512 + content.len() as u64 + (1 << 20))?;
    Ok(())
}

#[test]
fn qcow2_and_a_partition_become_the_image_that_is_in_them() -> Result<()> {
    let test = "qcow2_and_a_partition_become_the_image_that_is_in_them";
    if tools::must_skip(test, &[tools::QEMU_IMG])? {
        return Ok(());
    }
    let maker = Stage::new()?;
    let image = booting(&maker, "image")?;
    let rootfs = file_of(&image, "rootfs.ext4")?;
    let plain = qcow2(&maker, &rootfs, &[])?;
    let (plain_file, parts_file) = (maker.path("plain.qcow2"), maker.path("parts.raw"));
    fs::write(&plain_file, &plain)?;
    let xz = packed("xz", &plain_file)?;
    let zstd = qcow2(&maker, &rootfs, &["-c", "-o", "compression_type=zstd"])?;
    with_partitions(&rootfs, &parts_file)?;
    let parts = packed("gzip", &parts_file)?;
    let parts_qcow2 = qcow2(&maker, &parts_file, &["-c"])?;
    let stage = Stage::new()?;
    let platform = json!({"architecture": "amd64", "os": "linux"});
    let eci = "application/vnd.lfedge.disk.layer.v1+qcow2";
    let red_hat = "application/vnd.diskimage.qcow2";
    let disks: [(&str, &str, &[u8], &str); 5] = [
        ("plain", red_hat, &plain, ""),
        ("xz", EMPTY, &xz, "podman-machine.x86_64.qcow2.xz"),
        ("zstd", eci, &zstd, ""),
        ("parts", "application/vnd.diskimage.raw.gzip", &parts, ""),
        ("parts-qcow2", red_hat, &parts_qcow2, ""),
    ];
    for (name, media_type, bytes, title) in disks {
        let mut layout = Layout::create(stage.path(name))?;
        let blob = layout.add_blob(media_type, bytes)?;
        let titled = [(TITLE, title)];
        let notes = if title.is_empty() { &[][..] } else { &titled };
        let layers = [layer(&blob, notes)];
        let reference = artifact(&mut layout, (EMPTY, &platform), &layers)?;
        let params = json!({"ref": reference, "name": name, "kernel_ref": KERNEL});

        let got = stage.call("image.pull", &params).context(name)?;

        let rootfs = rootfs.display().to_string();
        assert_same_bytes(&rootfs, &text(&got["rootfs"], "path")?).context(name)?;
        assert_eq!(got["kernel"]["name"], KERNEL, "{name}");
        let format = if name == "parts" { "raw" } else { "qcow2" };
        let mut disk = json!({ "format": format });
        if name.starts_with("parts") {
            disk["partition"] = json!(2);
        }
        assert_eq!(got["boot"]["disk"], disk, "{name}: {got}");
        // Who pulls it again gets a copy, of which the same is told.
        let params = json!({"ref": reference, "name": format!("{name}-2"), "kernel_ref": KERNEL});
        let again = stage.call("image.pull", &params).context(name)?;
        assert_eq!(again["boot"]["disk"], disk, "{name}: {again}");
        let shown = kiln(&stage, &["image", "show", name])?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let said = match disk["partition"].as_u64() {
            Some(number) => format!("partition {number} of a {format} disk"),
            None => format!("a {format} disk"),
        };
        assert!(shown.contains(&said), "{name}: {shown}");
    }
    // Nothing of the disks is kept.
    assert_eq!(stage.entries("cache/ingest")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn an_eci_artifact_brings_its_kernel_and_initrd() -> Result<()> {
    let maker = Stage::new()?;
    let image = booting(&maker, "image")?;
    let stage = Stage::new()?;
    let mut layout = Layout::create(stage.path("eci"))?;
    let rootfs = fs::read(file_of(&image, "rootfs.ext4")?)?;
    let disk = layout.add_blob(ECI_RAW, &rootfs)?;
    let other = layout.add_blob(ECI_RAW, b"another disk")?;
    let kernel = layout.add_blob(ECI_KERNEL, &elf::smallest(elf::X86_64))?;
    let initrd = layout.add_blob(ECI_INITRD, b"their initrd")?;
    let role = |role| [("org.lfedge.eci.role", role)];
    let layers = [
        layer(&other, &role("disk-additional")),
        layer(&kernel, &role("kernel")),
        layer(&initrd, &role("initrd")),
        layer(&disk, &role("disk-root")),
    ];
    let platform = json!({"architecture": "amd64", "os": "linux"});
    let reference = artifact(&mut layout, (EMPTY, &platform), &layers)?;
    let params = json!({"ref": reference, "name": "theirs", "prefer_shipped_kernel": true});

    let got = stage.call("image.pull", &params)?;

    assert!(fs::read(file_of(&got, "rootfs.ext4")?)? == rootfs);
    assert_eq!(fs::read(file_of(&got, "initrd.img")?)?, b"their initrd");
    assert!(fs::read(file_of(&got, "kernel")?)? == elf::smallest(elf::X86_64));
    // Nothing is put into an initrd that is not ours.
    assert_eq!(got["boot"]["mode"], "none");
    let other = json!({"architecture": "arm64", "os": "linux"});
    fs::remove_file(layout.folder().join("index.json"))?;
    let mut layout = Layout::create(layout.folder())?;
    let reference = artifact(&mut layout, (EMPTY, &other), &layers)?;
    let params = json!({"ref": reference, "name": "arm", "prefer_shipped_kernel": true});
    let refused = stage.refused("image.pull", &params)?;
    assert_eq!(code(&refused), "source.platform_not_found", "{refused}");
    Ok(())
}

#[test]
fn other_disks_are_named_and_refused() -> Result<()> {
    if tools::must_skip("other_disks_are_named_and_refused", &[tools::QEMU_IMG])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let qcow2 = stage.path("disk.qcow2");
    let mut make = process::command(tools::require(tools::QEMU_IMG)?);
    make.args(["create", "-q", "-f", "qcow2"])
        .arg(&qcow2)
        .arg("16M");
    process::run(make, LIMIT)?;
    let mut partitioned = vec![0; 1 << 20];
    partitioned[510..512].copy_from_slice(&[0x55, 0xaa]);
    partitioned[512..520].copy_from_slice(b"EFI PART");
    let chained = stage.path("chained.qcow2");
    let mut make = process::command(tools::require(tools::QEMU_IMG)?);
    make.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]);
    make.arg(&qcow2).arg(&chained);
    process::run(make, LIMIT)?;
    let (qcow2, chained) = (fs::read(qcow2)?, fs::read(chained)?);
    let mut cut = qcow2.clone();
    cut.truncate(100);
    let nothing = json!({});
    let tart = "application/vnd.cirruslabs.tart.config.v1";
    let qcow2_type = "application/vnd.diskimage.qcow2";
    let cases: [(&str, &str, &[u8], &str, &str); 7] = [
        // It is taken apart, and there is nothing in it.
        (
            EMPTY,
            qcow2_type,
            &qcow2,
            "rootfs.not_ext4",
            "not a raw ext4",
        ),
        (
            EMPTY,
            qcow2_type,
            &chained,
            "source.unsupported",
            "a backing file",
        ),
        (EMPTY, RAW, &cut, "layer.malformed", "qcow2 disk is damaged"),
        (
            EMPTY,
            RAW,
            &partitioned,
            "rootfs.not_ext4",
            "a partitioned disk",
        ),
        (EMPTY, RAW, b"BZh9 and so on", "source.unsupported", "bzip2"),
        (EMPTY, RAW, b"", "rootfs.not_ext4", "not a raw ext4"),
        (
            tart,
            "application/vnd.cirruslabs.tart.disk.v2",
            b"bv41",
            "source.unsupported",
            "tart",
        ),
    ];
    for (number, (config, media_type, bytes, want, noun)) in cases.into_iter().enumerate() {
        let mut layout = Layout::create(stage.path(&format!("case-{number}")))?;
        let blob = layout.add_blob(media_type, bytes)?;
        let reference = artifact(&mut layout, (config, &nothing), &[layer(&blob, &[])])?;

        let (code, told) = refused(&stage, &reference)?;

        assert_eq!(code, want, "{noun}: {told}");
        assert!(told.contains(noun), "{noun}: {told}");
        let is_damaged = code == "layer.malformed";
        assert!(is_damaged || told.contains("register"), "no hint: {told}");
    }
    // Of several disks none says that it has the root.
    let mut layout = Layout::create(stage.path("several"))?;
    let blob = layout.add_blob(RAW, b"disk")?;
    let both = [layer(&blob, &[]), layer(&blob, &[])];
    let reference = artifact(&mut layout, (EMPTY, &nothing), &both)?;
    let (code, told) = refused(&stage, &reference)?;
    assert_eq!(code, "source.unsupported", "{told}");
    assert!(told.contains("2 layers"), "{told}");
    // What has no disk at all is refused as before.
    let mut layout = Layout::create(stage.path("words"))?;
    let blob = layout.add_blob("text/plain", b"words")?;
    let reference = artifact(&mut layout, (EMPTY, &nothing), &[layer(&blob, &[])])?;
    let (code, told) = refused(&stage, &reference)?;
    assert_eq!(code, "source.unsupported", "{told}");
    assert!(told.contains("not an image"), "{told}");
    Ok(())
}
