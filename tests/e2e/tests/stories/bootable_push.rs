//! Built images in registries: pushed in parts, pulled without building, and as disks for others.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::Compression;
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::{process, tools};
use serde_json::{Value, json};

use crate::bootable::{answer, assert_same_files, booting, export, file_of};
use crate::source::{self, oci};
use crate::stage::{LIMIT, Stage, code, pull, text};

/// Starts a registry that anybody may write to.
fn registry() -> Result<Registry> {
    Registry::start(Access::Anonymous, Transport::Http)
}

#[test]
fn a_second_daemon_publishes_what_the_first_built_without_building() -> Result<()> {
    if tools::must_skip("a_second_daemon_publishes", &[tools::DOCKER_REGISTRY])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = registry()?;
    let into = format!("{}/team/web:1", registry.host());
    let image = booting(&stage, "image")?;

    let pushed = answer(&stage, &["push", "image", &into, "--as", "bootable"])?;
    let again = answer(&stage, &["push", "image", &into, "--as", "bootable"])?;
    let other = Stage::new()?;
    let got = answer(&other, &["pull", &into, "--name", "got"])?;

    assert_same_files(&image, &got)?;
    assert_eq!(got["source"]["manifest_digest"], pushed["digest"]);
    assert_eq!(got["source"]["reference"], into.as_str());
    let original = &got["source"]["original"]["manifest_digest"];
    assert_eq!(*original, image["source"]["manifest_digest"]);
    assert_eq!(again["is_up_to_date"], true, "{again}");
    assert_eq!(again["digest"], pushed["digest"]);
    let operation = other.last_operation()?;
    assert_ne!(operation["progress"]["fetched_bytes"], 0, "{operation}");
    // Nothing was decoded or built, and what came is in the image now.
    assert_eq!(other.entries("cache/packs")?, Vec::<String>::new());
    assert_eq!(other.entries("cache/blobs/sha256")?, Vec::<String>::new());
    assert_eq!(other.entries("cache/ingest")?, Vec::<String>::new());
    // Nothing is sent under a digest that cannot be known before.
    let digest = text(&pushed, "digest")?;
    let params = json!({"image": "image", "as": "bootable",
        "into": format!("{}/team/web@{digest}", registry.host())});
    let refused = stage.refused("image.push", &params)?;
    assert_eq!(code(&refused), "request.invalid_params", "{refused}");
    // An export of it says the same of it.
    let file = other.path("image.tar").display().to_string();
    let exported = answer(&other, &["export", "got", &file])?;
    assert_eq!(exported["manifest_digest"], pushed["digest"]);
    Ok(())
}

/// Pulls an image whose root filesystem has data in three chunks; `word` is in a small file.
fn of_three_chunks(stage: &Stage, word: &str) -> Result<Value> {
    let layout = source::of_layers(&stage.path(&format!("layout-{word}")), |layout| {
        let entries = [
            Entry::file("a", source::noise(1, 60 << 20)),
            Entry::file("b", source::noise(2, 60 << 20)),
            Entry::file("c", source::noise(3, 30 << 20)),
            Entry::file("word", format!("{word:8}")),
        ];
        Ok(vec![layout.add_layer(&entries, Compression::Zstd)?])
    })?;
    let mut params = pull(&oci(&layout, "1"), word);
    params["boot"] = json!("entrypoint");
    params["size_bytes"] = json!(256_u64 << 20);
    stage.call("image.pull", &params)
}

#[test]
fn of_a_second_version_only_what_changed_is_sent() -> Result<()> {
    if tools::must_skip("of_a_second_version_only", &[tools::DOCKER_REGISTRY])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = registry()?;
    let into = |tag: &str| format!("{}/team/web:{tag}", registry.host());
    of_three_chunks(&stage, "one")?;
    of_three_chunks(&stage, "two")?;

    let first = answer(&stage, &["push", "one", &into("1"), "--as", "bootable"])?;
    let second = answer(&stage, &["push", "two", &into("2"), "--as", "bootable"])?;

    let count = |pushed: &Value, what: &str| pushed[what]["blobs"].as_u64().unwrap_or_default();
    let all = count(&first, "sent");
    assert_eq!(count(&first, "present"), 0, "{first}");
    assert_eq!(count(&second, "sent") + count(&second, "present"), all);
    // At least one whole chunk of noise, the kernel and the initrd are the same.
    assert!(count(&second, "present") >= 3, "{second}");
    let bytes = |pushed: &Value, what: &str| pushed[what]["bytes"].as_u64().unwrap_or_default();
    assert!(bytes(&second, "present") > 60 << 20, "{second}");
    Ok(())
}

#[test]
fn a_pull_that_broke_off_goes_on_at_the_chunk() -> Result<()> {
    if tools::must_skip("a_pull_that_broke_off", &[tools::DOCKER_REGISTRY])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = registry()?;
    let into = format!("{}/team/web:1", registry.host());
    let image = of_three_chunks(&stage, "one")?;
    answer(&stage, &["push", "one", &into, "--as", "bootable"])?;
    let manifest = stage.call("registry.manifest", &json!({"ref": into}))?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    let chunks: Vec<String> = layers
        .iter()
        .filter(|layer| layer["media_type"] == "application/vnd.diskimage.raw.zstd")
        .map(|layer| text(layer, "digest"))
        .collect::<Result<_>>()?;
    assert_eq!(chunks.len(), 3, "{manifest}");
    let hex = chunks[2].strip_prefix("sha256:").context("no digest")?;
    let blob = registry
        .storage()
        .join("blobs/sha256")
        .join(&hex[..2])
        .join(hex)
        .join("data");
    // The disk under the registry has changed a byte. It is asked for the chunk a second time, and
    // with one thread that comes behind the others.
    let whole = fs::read(&blob)?;
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&blob, damaged)?;
    let other = Stage::with_config("[limits]\ndecode_threads = 1\n")?;
    let params = json!({"ref": into, "name": "got", "prefer_shipped_kernel": true});
    let refused = other.refused("image.pull", &params)?;
    assert_eq!(code(&refused), "source.digest_mismatch", "{refused}");
    assert_eq!(other.entries("images")?, Vec::<String>::new());
    let kept = other.entries("cache/ingest")?;
    fs::write(&blob, whole)?;
    let before = registry.fetched_blobs()?.len();

    let got = other.call("image.pull", &params)?;

    assert_same_files(&image, &got)?;
    assert_eq!(kept.len(), 2, "{kept:?}");
    let fetched = registry.fetched_blobs()?.split_off(before);
    for name in &chunks[..2] {
        assert!(!fetched.contains(name), "{name} was fetched twice");
    }
    assert!(fetched.contains(&chunks[2]), "{fetched:?}");
    assert_eq!(other.entries("cache/ingest")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_disk_for_kubevirt_is_a_good_qcow2_of_the_same_content() -> Result<()> {
    let needs = [tools::DOCKER_REGISTRY, tools::SKOPEO, tools::QEMU_IMG];
    if tools::must_skip("a_disk_for_kubevirt", &needs)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = registry()?;
    let into = format!("{}/team/web:disk", registry.host());
    let image = booting(&stage, "image")?;

    answer(&stage, &["push", "image", &into, "--as", "containerdisk"])?;

    let folder = stage.path("fetched");
    let layout = format!("oci:{}:1", folder.display());
    let mut copy = process::command(tools::require(tools::SKOPEO)?);
    copy.args([
        "--insecure-policy",
        "copy",
        "--quiet",
        "--src-tls-verify=false",
    ]);
    copy.arg(format!("docker://{into}")).arg(&layout);
    process::run(copy, LIMIT)?;
    let read = |path: PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let blob = |descriptor: &Value| -> Result<PathBuf> {
        let digest = text(descriptor, "digest")?;
        let hex = digest.strip_prefix("sha256:").context("no digest")?;
        Ok(folder.join("blobs/sha256").join(hex))
    };
    let index = read(folder.join("index.json"))?;
    let manifest = read(blob(&index["manifests"][0])?)?;
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
    let unpacked = stage.path("unpacked");
    fs::create_dir(&unpacked)?;
    let mut unpack = process::command("tar");
    unpack.arg("-xf").arg(blob(&manifest["layers"][0])?);
    unpack.arg("--numeric-owner").arg("-C").arg(&unpacked);
    process::run(unpack, LIMIT)?;
    let disk = unpacked.join("disk/image.qcow2");
    let rootfs = file_of(&image, "rootfs.ext4")?;
    for words in [
        vec!["check", "-f", "qcow2", &disk.display().to_string()],
        vec![
            "compare",
            "-f",
            "qcow2",
            "-F",
            "raw",
            &disk.display().to_string(),
            &rootfs.display().to_string(),
        ],
    ] {
        let mut command = process::command(tools::require(tools::QEMU_IMG)?);
        command.args(&words);
        process::run(command, LIMIT).with_context(|| words.join(" "))?;
    }
    for (name, file) in [
        ("boot/vmlinuz", "kernel"),
        ("boot/initrd.img", "initrd.img"),
    ] {
        assert!(fs::read(unpacked.join(name))? == fs::read(file_of(&image, file)?)?);
    }
    Ok(())
}

#[test]
fn a_bootable_artifact_is_a_kernel_too_and_skopeo_carries_it() -> Result<()> {
    let needs = [tools::DOCKER_REGISTRY, tools::SKOPEO];
    if tools::must_skip("a_bootable_artifact_is_a_kernel_too", &needs)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = registry()?;
    let image = booting(&stage, "image")?;
    let file = export(&stage, "image", "image.tar")?;
    let into = format!("{}/team/carried:1", registry.host());
    let mut copy = process::command(tools::require(tools::SKOPEO)?);
    copy.args([
        "--insecure-policy",
        "copy",
        "--quiet",
        "--dest-tls-verify=false",
    ]);
    copy.arg(format!("oci-archive:{}", file.display()));
    copy.arg(format!("docker://{into}"));
    process::run(copy, LIMIT)?;
    let other = Stage::new()?;

    let got = answer(&other, &["pull", &into, "--name", "got"])?;
    let kernel = answer(&other, &["kernel", "pull", "theirs", &into])?;

    assert_same_files(&image, &got)?;
    assert_eq!(kernel["sha256"], image["kernel"]["sha256"], "{kernel}");
    Ok(())
}
