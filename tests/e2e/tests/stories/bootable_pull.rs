//! Built images from registries, again and in pieces: what is here is not fetched, what broke off
//! goes on, and nobody gets what another may not have.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_testkit::faults::{Asked, Fault, FaultRegistry, PASSWORD, USER, find};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::Compression;
use kiln_testkit::{process, tools, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bootable::{answer, assert_same_files, booting, export, file_of, kiln, with_modules};
use crate::descriptors::{self, as_nobody, open_stage};
use crate::source::{self, oci};
use crate::space::{self, Small};
use crate::stage::{LIMIT, Stage, code, pull, text};

/// More than one cell of 64 MiB, so that there are two chunks.
const NOISE_BYTES: usize = 70 << 20;

/// The layout of an artifact, in a folder of its own.
struct Artifact {
    folder: TempDir,
    manifest: Value,
}

impl Artifact {
    /// Takes the export of an image apart.
    fn of(maker: &Stage, image: &str) -> Result<Self> {
        let archive = export(maker, image, "exported.tar")?;
        let folder = crate::stage::folder()?;
        let mut unpack = process::command("tar");
        unpack.arg("-xf").arg(&archive).arg("-C").arg(folder.path());
        process::run(unpack, LIMIT)?;
        fs::remove_file(archive)?;
        let index: Value = serde_json::from_slice(&fs::read(folder.path().join("index.json"))?)?;
        let manifest = fs::read(blob(folder.path(), &index["manifests"][0])?)?;
        Ok(Self {
            manifest: serde_json::from_slice(&manifest)?,
            folder,
        })
    }

    /// Makes one whose root filesystem has two chunks.
    fn of_two_chunks() -> Result<Self> {
        let maker = Stage::new()?;
        let layout = source::of_layers(&maker.path("layout"), |layout| {
            let entries = [Entry::file("noise", source::noise(11, NOISE_BYTES))];
            Ok(vec![layout.add_layer(&entries, Compression::Plain)?])
        })?;
        let mut params = pull(&oci(&layout, "1"), "large");
        params["boot"] = json!("entrypoint");
        params["size_bytes"] = json!(128 << 20);
        maker.call("image.pull", &params)?;
        let artifact = Self::of(&maker, "large")?;
        assert_eq!(artifact.chunks()?.len(), 2, "{}", artifact.manifest);
        Ok(artifact)
    }

    fn serve(&self, fault: Fault) -> Result<FaultRegistry> {
        FaultRegistry::start_layout(fault, self.folder.path())
    }

    /// Serves it so that half of the first chunk comes and then nothing, until it is mended.
    fn stalling(&self) -> Result<FaultRegistry> {
        self.serve(find("layer_stall_in_body").context("no such fault")?)
    }

    fn layers(&self) -> Result<&Vec<Value>> {
        self.manifest["layers"].as_array().context("no layers")
    }

    /// Returns digest and length of every chunk.
    fn chunks(&self) -> Result<Vec<(String, u64)>> {
        let layers = self.layers()?.iter();
        let chunks = layers.filter(|layer| layer["annotations"]["kiln.bootable.role"] == "rootfs");
        chunks
            .map(|layer| {
                let size = layer["size"].as_u64().context("no size")?;
                Ok((text(layer, "digest")?, size))
            })
            .collect()
    }

    /// Takes the blobs of all layers away: what serves it then has the documents alone.
    fn forget_layers(&self) -> Result<()> {
        for layer in self.layers()? {
            fs::remove_file(blob(self.folder.path(), layer)?)?;
        }
        Ok(())
    }
}

fn blob(folder: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = text(descriptor, "digest")?;
    let hex = digest.strip_prefix("sha256:").context("no digest")?;
    Ok(folder.join("blobs/sha256").join(hex))
}

fn params(registry: &FaultRegistry, name: &str) -> Value {
    json!({
        "ref": registry.reference(), "name": name, "prefer_shipped_kernel": true,
        "credentials": {"username": USER, "secret": PASSWORD},
    })
}

/// Returns the requests for a blob that had a token.
fn asked_for(registry: &FaultRegistry, digest: &str) -> Vec<Asked> {
    let mut asked = registry.asked();
    asked.retain(|asked| asked.target.ends_with(digest) && asked.authorization.is_some());
    asked
}

/// Returns how many requests for layers there were.
fn layers_asked(registry: &FaultRegistry, artifact: &Artifact) -> Result<usize> {
    let mut count = 0;
    for layer in artifact.layers()? {
        count += asked_for(registry, &text(layer, "digest")?).len();
    }
    Ok(count)
}

/// Returns the lengths of the downloads that were left, or are running, shortest first.
fn lengths_left(root: &Path) -> Result<Vec<u64>> {
    let folder = root.join("cache/ingest");
    let mut lengths = Vec::new();
    for name in crate::stage::entries(&folder)? {
        if name.ends_with(".partial") {
            lengths.push(fs::metadata(folder.join(name)).map_or(0, |found| found.len()));
        }
    }
    lengths.sort_unstable();
    Ok(lengths)
}

/// Waits until half of the first chunk has come and all of the second.
fn wait_for_the_stall(root: &Path, artifact: &Artifact) -> Result<()> {
    let chunks = artifact.chunks()?;
    let mut want = [chunks[0].1 / 2, chunks[1].1];
    want.sort_unstable();
    wait::until("half of one chunk and all of another", LIMIT, || {
        Ok((lengths_left(root)? == want).then_some(()))
    })
}

/// Fails unless of the first chunk only the rest came later, and of the second nothing.
fn assert_nothing_came_twice(registry: &FaultRegistry, artifact: &Artifact) -> Result<()> {
    let chunks = artifact.chunks()?;
    let first = asked_for(registry, &chunks[0].0);
    let rest = format!("bytes={}-", chunks[0].1 / 2);
    let last = first.last().context("nobody asked")?;
    assert_eq!(last.range.as_deref(), Some(rest.as_str()), "{first:?}");
    let served: u64 = first.iter().map(|asked| asked.body_bytes).sum();
    assert_eq!(served, chunks[0].1, "{first:?}");
    assert_eq!(asked_for(registry, &chunks[1].0).len(), 1);
    Ok(())
}

/// Fails unless the image is as its maker's was, and nothing of the downloads is left.
fn assert_arrived(stage: &Stage, image: &Value, artifact: &Artifact) -> Result<()> {
    let other = Stage::new()?;
    let registry = artifact.serve(Fault::NONE)?;
    let undisturbed = other.call("image.pull", &params(&registry, "undisturbed"))?;
    assert_same_files(&undisturbed, image)?;
    assert_eq!(stage.entries("cache/ingest")?, Vec::<String>::new());
    assert_eq!(stage.entries("images")?.len(), 1);
    Ok(())
}

#[test]
fn an_artifact_that_is_here_is_neither_fetched_nor_built() -> Result<()> {
    let maker = Stage::new()?;
    with_modules(&maker, "modules")?;
    let artifact = Artifact::of(&maker, "modules")?;
    let registry = artifact.serve(Fault::NONE)?;
    let stage = Stage::new()?;
    let first = stage.call("image.pull", &params(&registry, "first"))?;
    let before = layers_asked(&registry, &artifact)?;

    let second = stage.call("image.pull", &params(&registry, "second"))?;
    let operation = stage.last_operation()?;
    let mut named = params(&registry, "named");
    named["prefer_shipped_kernel"] = json!(false);
    named["kernel_ref"] = json!(crate::stage::KERNEL);
    named["boot"] = json!("none");
    let named = stage.call("image.pull", &named)?;

    assert_ne!(before, 0);
    assert_eq!(layers_asked(&registry, &artifact)?, before);
    assert_eq!(operation["progress"]["fetched_bytes"], 0, "{operation}");
    assert_same_files(&first, &second)?;
    for known in ["config", "boot", "architecture", "source"] {
        assert_eq!(first[known], second[known], "{known}");
    }
    assert_eq!(named["kernel"]["name"], crate::stage::KERNEL);
    assert_eq!(named["boot"]["mode"], "none");
    Ok(())
}

/// What the disk has lost is not passed on.
#[test]
fn a_damaged_image_stands_in_for_no_other() -> Result<()> {
    let maker = Stage::new()?;
    booting(&maker, "image")?;
    let artifact = Artifact::of(&maker, "image")?;
    let registry = artifact.serve(Fault::NONE)?;
    let stage = Stage::new()?;
    let good = stage.call("image.pull", &params(&registry, "good"))?;
    let newest = stage.call("image.pull", &params(&registry, "newest"))?;
    let before = layers_asked(&registry, &artifact)?;
    let rootfs = file_of(&newest, "rootfs.ext4")?;
    fs::set_permissions(&rootfs, Permissions::from_mode(0o600))?;
    // The superblock's name of the volume: no probe looks at it.
    File::options()
        .write(true)
        .open(&rootfs)?
        .write_all_at(b"damaged", 1024 + 120)?;

    let got = stage.call("image.pull", &params(&registry, "got"))?;

    assert_same_files(&good, &got)?;
    assert!(layers_asked(&registry, &artifact)? > before, "nothing came");
    Ok(())
}

/// A manifest is no secret; what it lists may be.
#[test]
fn who_shows_anothers_manifest_gets_nothing_of_what_it_lists() -> Result<()> {
    if tools::must_skip("who_shows_anothers_manifest", descriptors::NEEDS)? {
        return Ok(());
    }
    let artifact = Artifact::of_two_chunks()?;
    let theirs = artifact.stalling()?;
    let stage = open_stage()?;
    let id = stage.start(params(&theirs, "theirs"))?;
    wait_for_the_stall(&stage.root(), &artifact)?;
    let documents_only = Artifact {
        folder: tempfile::tempdir()?,
        manifest: artifact.manifest.clone(),
    };
    let mut copy = process::command("cp");
    copy.arg("-r").arg(artifact.folder.path().join("."));
    copy.arg(documents_only.folder.path());
    process::run(copy, LIMIT)?;
    documents_only.forget_layers()?;
    let mine = documents_only.serve(Fault::NONE)?;
    let attack = |name| as_nobody(|| stage.refused("image.pull", &params(&mine, name)));

    // While its chunks are kept, and once it is an image.
    let early = attack("early")?;
    stage.call("operation.cancel", &json!({"operation_id": id}))?;
    theirs.mend();
    stage.call("image.pull", &params(&theirs, "theirs"))?;
    let late = attack("late")?;
    // From where it came the other user may have it: that registry has just said so.
    let before = layers_asked(&theirs, &artifact)?;
    let allowed = as_nobody(|| stage.call("image.pull", &params(&theirs, "allowed")))?;

    assert_eq!(code(&early), "source.not_found", "{early}");
    assert_eq!(code(&late), "source.not_found", "{late}");
    assert_eq!(allowed["name"], "allowed");
    assert_eq!(layers_asked(&theirs, &artifact)?, before);
    Ok(())
}

#[test]
fn a_daemon_that_is_killed_goes_on_with_the_chunks() -> Result<()> {
    let artifact = Artifact::of_two_chunks()?;
    let registry = artifact.stalling()?;
    let mut stage = Stage::new()?;
    stage.start(params(&registry, "image"))?;
    wait_for_the_stall(&stage.root(), &artifact)?;

    stage.daemon.kill()?;
    registry.mend();
    stage.daemon.start_again()?;
    stage.assert_nothing_left()?;
    let listed = stage.call("image.list", &json!({}))?;
    let image = stage.call("image.pull", &params(&registry, "image"))?;

    assert_eq!(listed["items"], json!([]), "something half made is shown");
    assert_nothing_came_twice(&registry, &artifact)?;
    assert_arrived(&stage, &image, &artifact)
}

#[test]
fn a_cancelled_pull_of_an_artifact_leaves_nothing_but_its_chunks() -> Result<()> {
    let artifact = Artifact::of_two_chunks()?;
    let registry = artifact.stalling()?;
    let stage = Stage::new()?;
    let id = stage.start(params(&registry, "image"))?;
    wait_for_the_stall(&stage.root(), &artifact)?;

    let ended = stage.call("operation.cancel", &json!({"operation_id": id}))?;
    stage.assert_nothing_left()?;
    registry.mend();
    let image = stage.call("image.pull", &params(&registry, "image"))?;

    assert_eq!(ended["state"], "cancelled");
    assert_nothing_came_twice(&registry, &artifact)?;
    assert_arrived(&stage, &image, &artifact)
}

#[test]
fn a_running_pull_of_an_artifact_keeps_its_chunks() -> Result<()> {
    let artifact = Artifact::of_two_chunks()?;
    let registry = artifact.stalling()?;
    let stage = Stage::new()?;
    let id = stage.start(params(&registry, "image"))?;
    wait_for_the_stall(&stage.root(), &artifact)?;

    let pruned = stage.call("storage.prune", &json!({"cache": true}))?;

    let kinds = pruned["kinds"].as_array().context("no kinds")?;
    assert!(
        kinds.iter().all(|kind| kind["kind"] != "partial"),
        "{pruned}"
    );
    registry.mend();
    let wait = json!({"operation_id": id, "timeout_ms": 60_000});
    let ended = stage.call("operation.wait", &wait)?;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_nothing_came_twice(&registry, &artifact)
}

/// Bytes that a power cut has damaged cost one fetch of that chunk.
#[test]
fn a_chunk_that_was_left_and_is_wrong_costs_one_fetch() -> Result<()> {
    let artifact = Artifact::of_two_chunks()?;
    let registry = artifact.stalling()?;
    let mut stage = Stage::new()?;
    stage.start(params(&registry, "image"))?;
    wait_for_the_stall(&stage.root(), &artifact)?;
    stage.daemon.kill()?;
    registry.mend();
    let folder = stage.root().join("cache/ingest");
    for name in crate::stage::entries(&folder)? {
        let file = File::options().write(true).open(folder.join(name))?;
        let length = file.metadata()?.len();
        file.write_all_at(b"damaged", length / 2)?;
    }

    stage.daemon.start_again()?;
    let image = stage.call("image.pull", &params(&registry, "image"))?;

    for (digest, _) in artifact.chunks()? {
        let asked = asked_for(&registry, &digest);
        let last = asked.last().context("nobody asked")?;
        assert_eq!(last.range, None, "{asked:?}");
        assert!(asked.len() <= 3, "{asked:?}");
    }
    assert_arrived(&stage, &image, &artifact)
}

#[test]
fn a_disk_that_runs_full_in_the_middle_is_said_to_be_full() -> Result<()> {
    if tools::must_skip("a_disk_that_runs_full_in_the_middle", space::NEEDS)? {
        return Ok(());
    }
    let artifact = Artifact::of_two_chunks()?;
    let registry = artifact.stalling()?;
    let config = "[registry.limits]\nstall_timeout_seconds = 2\n";
    let small = Small::with_config(192, config)?;
    let mut started = params(&registry, "image");
    started["detach"] = json!(true);
    let started = small.daemon.call("image.pull", &started)?;
    let id = text(&started, "operation_id")?;
    let root = small.daemon.root().to_owned();
    wait_for_the_stall(&root, &artifact)?;

    let filler = small.fill_up_to(1 << 20)?;
    registry.mend();
    let params_of_wait = json!({"operation_id": id});
    let ended = small.daemon.call("operation.wait", &params_of_wait)?;
    let left = small.entries("images")?;
    let unnamed = small.entries("cache/ingest")?;
    let kept = lengths_left(&root)?;
    fs::remove_file(filler)?;
    let image = small
        .daemon
        .call("image.pull", &params(&registry, "image"))?;

    assert_eq!(ended["error"]["code"], "storage.full", "{ended}");
    assert_eq!(left, Vec::<String>::new());
    // What was being written made way; the chunk that was whole serves the next pull.
    assert_eq!(unnamed.len(), kept.len(), "{unnamed:?}");
    let chunks = artifact.chunks()?;
    assert_eq!(kept, [chunks[1].1]);
    assert_eq!(asked_for(&registry, &chunks[1].0).len(), 1);
    assert_eq!(image["name"], "image");
    Ok(())
}

/// Downloads that broke off are kept for a day, but not at the price of a pull.
#[test]
fn what_downloads_left_makes_way_for_a_pull() -> Result<()> {
    if tools::must_skip("what_downloads_left_makes_way", space::NEEDS)? {
        return Ok(());
    }
    let artifact = Artifact::of_two_chunks()?;
    let registry = artifact.stalling()?;
    let small = Small::with_config(192, "")?;
    let mut started = params(&registry, "image");
    started["detach"] = json!(true);
    let started = small.daemon.call("image.pull", &started)?;
    let root = small.daemon.root().to_owned();
    wait_for_the_stall(&root, &artifact)?;
    let id = json!({"operation_id": text(&started, "operation_id")?});
    small.daemon.call("operation.cancel", &id)?;
    let kept = lengths_left(&root)?;
    small.fill_up_to(14 << 20)?;

    // 4 MiB for the blob, as much for the pack, and for the image: with the reserve too much.
    let image = small.pull(&small.noise(9, 4, Compression::Plain)?, "other")?;

    assert_eq!(kept.len(), 2);
    assert_eq!(image["name"], "other");
    assert!(lengths_left(&root)?.len() < 2, "nothing made way");
    Ok(())
}

#[test]
fn an_image_that_was_imported_before_is_copied() -> Result<()> {
    let maker = Stage::new()?;
    let image = booting(&maker, "image")?;
    let archive = export(&maker, "image", "image.tar")?;
    let path = archive.to_str().context("no text")?;
    let stage = Stage::new()?;
    answer(&stage, &["import", path, "--name", "one"])?;

    let two = answer(&stage, &["import", path, "--name", "two"])?;

    assert_same_files(&image, &two)?;
    let operation = stage.last_operation()?;
    assert_eq!(operation["progress"]["fetched_bytes"], 0, "{operation}");
    // Its manifest is whole, and all of its bytes are here: the file is read all the same.
    let damaged = archive.with_file_name("damaged.tar");
    fs::copy(&archive, &damaged)?;
    let file = fs::File::options().read(true).write(true).open(&damaged)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle)?;
    file.write_all_at(&[!byte[0]], middle)?;
    let path = damaged.to_str().context("no text")?;
    let output = kiln(&stage, &["import", path, "--name", "three"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("sha256:"),
        "{said}"
    );
    stage.refused("image.get", &json!({"image": "three"}))?;
    Ok(())
}
