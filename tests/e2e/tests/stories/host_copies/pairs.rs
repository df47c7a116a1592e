//! Every kind of place to every kind of place, and skopeo reads what came of it.

use std::fs;

use anyhow::{Context as _, Result};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::Compression;
use kiln_testkit::process;
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools;
use serde_json::Value;

use super::NEEDS;
use crate::browsing::printed;
use crate::source::{self, noise, oci};
use crate::stage::{LIMIT, Stage, text};

const KINDS: [&str; 5] = ["docker", "oci", "oci-archive", "docker-archive", "dir"];

/// Names a place of a kind, `name` of its own.
fn place(kind: &str, name: &str, host: &str) -> String {
    match kind {
        "docker" => format!("docker://{host}/pairs/{name}:1"),
        "oci" => format!("oci:{name}-layout:one"),
        "oci-archive" => format!("oci-archive:{name}.tar:one"),
        "docker-archive" => format!("docker-archive:{name}.docker.tar:example.org/{name}:1"),
        _ => format!("{kind}:{name}-dir"),
    }
}

/// Lets skopeo take an image out of a place, and returns its manifest and the digest of its config.
fn read_by_skopeo(stage: &Stage, place: &str, folder: &str) -> Result<(Vec<u8>, String)> {
    let mut command = process::command(tools::require(tools::SKOPEO)?);
    command.args([
        "--insecure-policy",
        "copy",
        "--quiet",
        "--src-tls-verify=false",
    ]);
    command.args([place, &format!("dir:{folder}")]);
    command.current_dir(stage.path("."));
    process::run(command, LIMIT).with_context(|| format!("skopeo cannot read {place}"))?;
    let bytes = fs::read(stage.path(folder).join("manifest.json"))?;
    let manifest: Value = serde_json::from_slice(&bytes)?;
    let config = text(&manifest["config"], "digest")?;
    Ok((bytes, config))
}

#[test]
fn every_kind_of_place_goes_to_every_kind() -> Result<()> {
    if tools::must_skip("every_kind_of_place_goes_to_every_kind", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let host = registry.host();
    let layout = source::of_layers(&stage.path("layout"), |layout| {
        let one = [Entry::file("one", noise(1, 300_000))];
        let other = [Entry::file("two", "two")];
        Ok(vec![
            layout.add_layer(&one, Compression::Gzip)?,
            layout.add_layer(&other, Compression::Gzip)?,
        ])
    })?;
    let original = registry.push(&oci(&layout, "1"), "pairs/from-docker:1")?;
    let original = format!("docker://{original}");
    let (manifest, config) = read_by_skopeo(&stage, &original, "read-original")?;
    for kind in &KINDS[1..] {
        let into = place(kind, &format!("from-{kind}"), &host);
        printed(&stage, &["copy", &original, &into])?;
    }

    for from in KINDS {
        for into in KINDS {
            let source = place(from, &format!("from-{from}"), &host);
            let target = place(into, &format!("{from}-to-{into}"), &host);
            printed(&stage, &["copy", &source, &target])
                .with_context(|| format!("{from} to {into}"))?;
            let folder = format!("read-{from}-to-{into}");
            let read = read_by_skopeo(&stage, &target, &folder)?;

            assert_eq!(read.1, config, "{from} to {into}");
            // What `docker save` writes has no manifest of its own.
            if ![from, into].contains(&"docker-archive") {
                assert!(read.0 == manifest, "{from} to {into}: another manifest");
            }
        }
    }
    Ok(())
}
