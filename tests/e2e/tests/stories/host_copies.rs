//! Copies to places of this host, with skopeo as the other side.

mod pairs;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layout, Platform};
use kiln_testkit::process;
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::wait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::browsing::{kiln, printed};
use crate::source::{self, oci};
use crate::space::Disk;
use crate::stage::{KERNEL, LIMIT, Stage, text};

const NEEDS: &[Need] = &[tools::DOCKER_REGISTRY, tools::SKOPEO];

/// A registry with an index of two platforms, and what is where.
struct Scene {
    stage: Stage,
    registry: Registry,
    reference: String,
    digest: String,
}

impl Scene {
    fn new() -> Result<Self> {
        let stage = Stage::new()?;
        let mut layout = Layout::create(stage.path("layout"))?;
        let amd64 = source::small_image(&layout, "for-amd64")?;
        let arm = layout.add_layer(&[Entry::file("marker", "arm")], Compression::Gzip)?;
        let arm = layout.add_image(&[arm], &Platform::linux("arm64"))?;
        let index = layout.add_index(&[amd64, arm])?;
        layout.tag("many", &index)?;
        let registry = Registry::start(Access::Anonymous, Transport::Http)?;
        let reference = registry.push(&oci(&layout, "many"), "some/many:1")?;
        Ok(Self {
            stage,
            registry,
            reference,
            digest: index.digest,
        })
    }

    fn copy(&self, words: &[&str]) -> Result<Value> {
        let words = [&["copy", "--json", "-q"], words].concat();
        Ok(serde_json::from_str(&printed(&self.stage, &words)?)?)
    }

    /// Lets skopeo push what was written, and returns the digest that the registry then has.
    fn back(&self, place: &str, name: &str) -> Result<String> {
        let folder = self.stage.path(".").display().to_string();
        let (transport, path) = place.split_once(':').context("no transport")?;
        let place = format!("{transport}:{folder}/{path}");
        let reference = self.registry.push(&place, name)?;
        let params = json!({"ref": reference});
        text(&self.stage.call("registry.manifest", &params)?, "digest")
    }
}

#[test]
fn every_place_has_the_digests_of_the_registry_and_skopeo_reads_them_all() -> Result<()> {
    if tools::must_skip("every_place_has_the_digests", NEEDS)? {
        return Ok(());
    }
    let scene = Scene::new()?;
    let places = ["oci:lay:v1", "oci-archive:a.tar:v1", "dir:flat"];

    for (number, place) in places.iter().enumerate() {
        let copied = scene.copy(&[&scene.reference, place])?;
        let back = scene.back(place, &format!("back/from:{number}"))?;

        assert_eq!(copied["digest"], scene.digest, "{place}");
        assert_eq!(copied["manifests"], 3, "{place}");
        assert_eq!(copied["written_blobs"], 5, "{place}: {copied}");
        assert_eq!(back, scene.digest, "{place}");
    }

    // From each of them to another, with no registry and no daemon asked.
    for (from, into) in [
        ("oci:lay:v1", "dir:flat2"),
        ("dir:flat2", "oci-archive:b.tar:x"),
        ("oci-archive:b.tar:x", "oci:lay2:y"),
    ] {
        let copied = scene.copy(&[from, into])?;
        assert_eq!(copied["digest"], scene.digest, "{from} to {into}");
    }
    assert_eq!(scene.back("oci:lay2:y", "back/again:1")?, scene.digest);

    // One platform alone; and a directory is a source of pulls like the others.
    let words = [&scene.reference, "dir:one", "--platform", "linux/amd64"];
    let one = scene.copy(&words)?;
    assert_eq!(one["manifests"], 1);
    let words = [
        "pull", "dir:one", "--name", "one", "--kernel", KERNEL, "--json",
    ];
    let pulled: Value = serde_json::from_str(&printed(&scene.stage, &words)?)?;
    assert_eq!(pulled["source"]["manifest_digest"], one["digest"]);
    let words = [
        "copy",
        "dir:flat",
        &format!("{}/to:1", scene.registry.host()),
    ];
    printed(&scene.stage, &words)?;
    let params = json!({"ref": format!("{}/to:1", scene.registry.host())});
    let pushed = scene.stage.call("registry.manifest", &params)?;
    assert_eq!(pushed["digest"], scene.digest);
    Ok(())
}

#[test]
fn a_layout_keeps_its_images_and_a_copy_goes_on_where_it_was() -> Result<()> {
    if tools::must_skip("a_layout_keeps_its_images", NEEDS)? {
        return Ok(());
    }
    let scene = Scene::new()?;
    let other = source::small(&scene.stage.path("other"))?;
    let other = scene.registry.push(&oci(&other, "1"), "other:1")?;
    scene.copy(&[&other, "oci:lay:other"])?;
    scene.copy(&[&scene.reference, "oci:lay:many"])?;
    let blobs = scene.stage.path("lay/blobs/sha256");

    // One blob is lost and one is damaged: those two are fetched, and no other.
    let sizes = layers(&blobs, &scene.digest)?;
    fs::remove_file(blobs.join(&sizes[0]))?;
    let mut damaged = fs::read(blobs.join(&sizes[1]))?;
    damaged[0] ^= 1;
    fs::write(blobs.join(&sizes[1]), &damaged)?;
    let before = scene.registry.fetched_blobs()?.len();
    let again = scene.copy(&[&scene.reference, "oci:lay:many"])?;

    assert_eq!(again["written_blobs"], 2, "{again}");
    assert_eq!(again["existing_blobs"], 3, "{again}");
    let fetched = scene.registry.fetched_blobs()?.split_off(before);
    for hex in &sizes[..2] {
        assert!(fetched.contains(&format!("sha256:{hex}")), "{fetched:?}");
    }
    assert_eq!(scene.back("oci:lay:many", "back/many:1")?, scene.digest);
    scene.back("oci:lay:other", "back/other:1")?;
    let index = fs::read(scene.stage.path("lay/index.json"))?;
    let index: Value = serde_json::from_slice(&index)?;
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
    Ok(())
}

/// Lists the layers of an index's manifests.
fn layers(blobs: &Path, index: &str) -> Result<Vec<String>> {
    let read = |digest: &str| -> Result<Value> {
        let (_, hex) = digest.split_once(':').context("no hex")?;
        Ok(serde_json::from_slice(&fs::read(blobs.join(hex))?)?)
    };
    let mut layers = Vec::new();
    for manifest in read(index)?["manifests"].as_array().context("no index")? {
        let manifest = read(&text(manifest, "digest")?)?;
        for layer in manifest["layers"].as_array().context("no layers")? {
            layers.push(text(layer, "digest")?.replace("sha256:", ""));
        }
    }
    Ok(layers)
}

#[test]
fn a_docker_archive_has_one_image_unpacked_and_says_what_it_cannot_hold() -> Result<()> {
    if tools::must_skip("a_docker_archive_has_one_image", NEEDS)? {
        return Ok(());
    }
    let scene = Scene::new()?;
    let words = [&scene.reference, "docker-archive:d.tar:example.org/app:2"];
    let words = [&words[..], &["--platform", "linux/arm64"]].concat();
    scene.copy(&words)?;
    let skopeo = |words: &[&str]| -> Result<String> {
        let mut command = process::command(tools::require(tools::SKOPEO)?);
        command.arg("--insecure-policy").args(words);
        command.current_dir(scene.stage.path("."));
        Ok(process::run(command, LIMIT)?.text())
    };

    skopeo(&["copy", "docker-archive:d.tar:example.org/app:2", "dir:read"])?;

    let read = fs::read(scene.stage.path("read/manifest.json"))?;
    let read: Value = serde_json::from_slice(&read)?;
    let params = json!({"ref": scene.reference, "platform": "linux/arm64"});
    let original = scene.stage.call("registry.manifest", &params)?;
    assert_eq!(read["config"]["digest"], original["config"]["digest"]);

    // The other platform has a layer in zstd, which this form does not know.
    let words = ["copy", &scene.reference, "docker-archive:z.tar"];
    let refused = kiln(&scene.stage, &words)?;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8(refused.stderr)?;
    assert!(said.contains("zstd"), "{said}");
    assert!(!scene.stage.path("z.tar").exists());
    Ok(())
}

#[test]
fn what_is_there_is_not_overwritten_and_what_fails_leaves_no_file() -> Result<()> {
    if tools::must_skip("what_is_there_is_not_overwritten", NEEDS)? {
        return Ok(());
    }
    let scene = Scene::new()?;
    let stage = &scene.stage;
    fs::write(stage.path("a.tar"), "mine")?;
    fs::create_dir(stage.path("full"))?;
    fs::write(stage.path("full/mine"), "mine")?;
    let run = |words: &[&str]| -> Result<Option<i32>> {
        let words = [&["copy"], words].concat();
        Ok(kiln(stage, &words)?.status.code())
    };

    assert_eq!(run(&[&scene.reference, "oci-archive:a.tar"])?, Some(5));
    assert_eq!(fs::read(stage.path("a.tar"))?, b"mine");
    for place in ["oci:full", "dir:full"] {
        assert_eq!(run(&[&scene.reference, place])?, Some(5), "{place}");
    }
    assert_eq!(fs::read_dir(stage.path("full"))?.count(), 1);
    let missing = format!("{}/none:1", scene.registry.host());
    assert_eq!(run(&[&missing, "oci-archive:new.tar"])?, Some(3));
    assert_eq!(run(&["dir:full", "oci-archive:new.tar"])?, Some(2));
    assert_eq!(run(&["oci:nowhere", "oci-archive:new.tar"])?, Some(3));
    assert_eq!(run(&[&scene.reference, "oci:x", "--tag", "b"])?, Some(2));
    let names = fs::read_dir(stage.path("."))?;
    for entry in names {
        let name = entry?.file_name().to_string_lossy().into_owned();
        assert!(name != "new.tar" && !name.ends_with(".partial"), "{name}");
    }
    assert_eq!(
        run(&[&scene.reference, "oci-archive:a.tar", "--force"])?,
        Some(0)
    );
    scene.back("oci-archive:a.tar", "back/forced:1")?;
    stage.assert_nothing_left()
}

#[test]
fn a_copy_that_is_interrupted_leaves_nothing_half_made() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::of_layers(&stage.path("layout"), |layout| {
        let big = [Entry::file("big", source::noise(7, 96 << 20))];
        Ok(vec![layout.add_layer(&big, Compression::Plain)?])
    })?;
    let blobs = stage.path("lay/blobs/sha256");
    fs::create_dir(stage.path("out"))?;
    let cases = [
        ("oci-archive:out/a.tar", stage.path("out"), 1 << 20),
        // Its layers are unpacked beside it, in files without names, before it grows.
        ("docker-archive:out/a.tar", stage.path("out"), 0),
        ("oci:lay:1", blobs.clone(), 1 << 20),
    ];

    for (place, folder, least) in &cases {
        let (folder, least) = (folder.as_path(), *least);
        for signal in [Signal::INT, Signal::TERM] {
            interrupted(&stage, &[&oci(&layout, "1"), place], folder, least, signal)?;

            assert_eq!(partials(folder)?, [], "{place}");
            assert!(!stage.path("out/a.tar").exists());
            assert!(!stage.path("lay/index.json").exists());
        }
    }
    // What cannot be caught leaves files that the next copy to the same directory takes away.
    let small = source::of_layers(&stage.path("small"), |layout| {
        Ok(vec![
            layout.add_layer(&[Entry::file("a", "a")], Compression::Gzip)?,
        ])
    })?;
    for (place, folder, least) in cases {
        let words = [&oci(&layout, "1"), place];
        interrupted(&stage, &words, &folder, least, Signal::KILL)?;
        assert_eq!(partials(&folder)?.len(), 1, "{place}");

        printed(&stage, &["copy", "-q", "--force", &oci(&small, "1"), place])?;

        assert_eq!(partials(&folder)?, [], "{place}");
    }
    // And it goes on to its end afterwards.
    printed(&stage, &["copy", "-q", &oci(&layout, "1"), "oci:lay:1"])?;
    assert_eq!(partials(&blobs)?, []);
    assert!(stage.path("lay/index.json").exists());
    Ok(())
}

/// Begins a copy and ends it once `least` bytes are written in a folder.
fn interrupted(
    stage: &Stage,
    words: &[&str; 2],
    folder: &Path,
    least: u64,
    signal: Signal,
) -> Result<()> {
    let mut command = process::command(built("kiln")?);
    let host = format!("unix://{}", stage.daemon.socket().display());
    command
        .env("KILN_HOST", host)
        .env("HOME", stage.path("home"));
    command.args(["copy", "-q", "--force"]).args(words);
    command.current_dir(stage.path("."));
    let mut copying = process::start(command, "kiln copy")?;
    wait::until("a blob that is written", LIMIT, || {
        let lengths = partials(folder)?.into_iter().map(|(_, length)| length);
        Ok(lengths.max().filter(|length| *length >= least))
    })?;
    let pid = i32::try_from(copying.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.context("no process id")?, signal)?;
    let status = copying.wait(LIMIT)?;
    anyhow::ensure!(!status.success(), "{words:?}: {status}");
    Ok(())
}

#[test]
fn a_full_disk_keeps_what_it_says_it_keeps() -> Result<()> {
    if tools::must_skip("a_full_disk_keeps", crate::space::NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let disk = Disk::new(16)?;
    let layout = source::of_layers(&stage.path("layout"), |layout| {
        let small = [Entry::file("small", source::noise(8, 1 << 20))];
        let large = [Entry::file("large", source::noise(9, 24 << 20))];
        Ok(vec![
            layout.add_layer(&small, Compression::Plain)?,
            layout.add_layer(&large, Compression::Plain)?,
        ])
    })?;
    let from = oci(&layout, "1");
    let at = |name: &str| disk.path().join(name);
    let places = [
        (
            format!("oci:{}:1", at("lay").display()),
            at("lay/blobs/sha256"),
            true,
        ),
        (format!("dir:{}", at("flat").display()), at("flat"), true),
        (
            format!("oci-archive:{}:1", at("a.tar").display()),
            at("."),
            false,
        ),
    ];

    for (place, folder, keeps) in places {
        let refused = kiln(&stage, &["copy", &from, &place])?;

        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("free some space"), "{place}: {said}");
        assert_eq!(said.contains("nothing was kept"), !keeps, "{place}: {said}");
        assert_eq!(said.contains("run it again"), keeps, "{place}: {said}");
        assert_eq!(partials(&folder)?, [], "{place}");
        if keeps {
            let lengths = fs::read_dir(&folder)?.map(|entry| Ok(entry?.metadata()?.len()));
            let lengths = lengths.collect::<Result<Vec<u64>>>()?;
            assert!(lengths.iter().any(|length| *length > 1 << 20), "{place}");
        }
    }
    assert!(!at("a.tar").exists());
    assert!(!at("lay/index.json").exists());
    assert!(!at("flat/manifest.json").exists());
    Ok(())
}

/// Lists files that have not got their names yet, with their lengths.
fn partials(folder: &Path) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // It may be gone by now.
        if let (true, Ok(there)) = (name.ends_with(".partial"), entry.metadata()) {
            found.push((name, there.len()));
        }
    }
    Ok(found)
}
