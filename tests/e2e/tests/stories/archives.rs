//! One image by every local way in, and an index's images by their platforms.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layout, Platform};
use kiln_testkit::{elf, process, tools};
use serde_json::{Value, json};

use crate::source::{self, oci};
use crate::stage::{LIMIT, Stage, assert_same_bytes, code, pull, text};

fn copy(from: &str, to: &str) -> Result<()> {
    let mut command = process::command(tools::require(tools::SKOPEO)?);
    command.args(["--insecure-policy", "copy", "--quiet", from, to]);
    process::run(command, LIMIT)?;
    Ok(())
}

/// Returns the first bytes of a file.
fn head(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    Ok(bytes.get(..512).context("too short for an archive")?.into())
}

#[test]
fn archives_give_the_same_image_as_the_layout_they_were_made_from() -> Result<()> {
    let name = "archives_give_the_same_image_as_the_layout_they_were_made_from";
    if tools::must_skip(name, &[tools::SKOPEO])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    // Docker's archives know no zstd.
    let layout = source::of_layers(&stage.path("layout"), |layout| {
        let lower = [
            Entry::directory("etc"),
            Entry::file("etc/hello", "hello").owner(7, 8),
            Entry::file("etc/removed", "lower"),
        ];
        let upper = [Entry::whiteout("etc/removed"), Entry::file("marker", "ok")];
        Ok(vec![
            layout.add_layer(&lower, Compression::Gzip)?,
            layout.add_layer(&upper, Compression::Gzip)?,
        ])
    })?;
    let from = oci(&layout, "1");
    let file = |name: &str| stage.path(name).display().to_string();
    let archives = [
        format!("oci-archive:{}:1", file("oci.tar")),
        format!("docker-archive:{}:small:1", file("docker.tar")),
    ];
    let want = stage.pull(&from, "image")?;
    for archive in &archives {
        copy(&from, archive)?;
    }
    assert_eq!(
        head(&stage.path("oci.tar"))?.get(257..262),
        Some(&b"ustar"[..])
    );

    for archive in &archives {
        // A daemon of its own: it has nothing of the image yet.
        let other = Stage::new()?;
        let got = other.pull(archive, "image").context(archive.clone())?;

        let kind = archive.split(':').next().context("no kind")?;
        assert_eq!(got["source"]["kind"], json!(kind));
        assert_eq!(got["rootfs"]["derivation"], want["rootfs"]["derivation"]);
        let rootfs = |image: &Value| text(&image["rootfs"], "path");
        assert_same_bytes(&rootfs(&want)?, &rootfs(&got)?).context(archive.clone())?;
        let operation = other.last_operation()?;
        assert_ne!(operation["progress"]["fetched_bytes"], 0, "{operation}");
    }
    Ok(())
}

#[test]
fn an_index_gives_another_platforms_image_with_a_kernel_of_that_platform() -> Result<()> {
    let stage = Stage::new()?;
    let mut layout = Layout::create(stage.path("layout"))?;
    let amd64 = source::small_image(&layout, "for-amd64")?;
    let arm64 = layout.add_layer(&[Entry::file("marker", "for-arm64")], Compression::Gzip)?;
    let arm64 = layout.add_image(&[arm64], &Platform::linux("arm64").variant("v8"))?;
    let index = layout.add_index(&[amd64.clone(), arm64.clone()])?;
    layout.tag("many", &index)?;
    let reference = oci(&layout, "many");
    fs::write(stage.path("arm64"), elf::smallest(elf::AARCH64))?;
    let params = json!({
        "ref": reference, "name": "arm64", "platform": "linux/arm64",
        "kernel_path": stage.path("arm64"), "boot": "none",
    });

    let mut wrong_kernel = pull(&reference, "arm64");
    wrong_kernel["platform"] = json!("linux/arm64");
    let refused = stage.refused("image.pull", &wrong_kernel)?;
    assert_eq!(code(&refused), "kernel.unrecognised", "{refused}");
    let says = |word: &str| refused.message.contains(word);
    assert!(says("x86_64") && says("arm64"), "{refused}");
    stage.assert_nothing_left()?;

    let mut other_way = params.clone();
    other_way["platform"] = json!("linux/amd64");
    let refused = stage.refused("image.pull", &other_way)?;
    assert_eq!(code(&refused), "kernel.unrecognised", "{refused}");

    stage.call("image.pull", &params)?;
    let shown = stage.call("image.get", &json!({"image": "arm64"}))?;
    assert_eq!(shown["architecture"], "arm64");
    assert_eq!(shown["source"]["manifest_digest"], json!(arm64.digest));
    let host = stage.pull(&reference, "host")?;
    assert_eq!(host["architecture"], "amd64");
    assert_eq!(host["source"]["manifest_digest"], json!(amd64.digest));
    Ok(())
}
