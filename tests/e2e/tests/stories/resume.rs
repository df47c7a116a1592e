//! Downloads that were cut short, and what the next pull makes of what they left.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use kiln_testkit::faults::{Asked, Fault, FaultRegistry, PASSWORD, USER, find};
use kiln_testkit::wait;
use serde_json::{Value, json};

use crate::stage::{LIMIT, Stage, assert_same_bytes, code, pull, text};

/// A registry that sends half of the first layer and then nothing, until it is mended.
fn stalling() -> Result<FaultRegistry> {
    let fault = find("layer_stall_in_body").context("no such fault")?;
    FaultRegistry::start_with(fault, "resumed")
}

fn params(registry: &FaultRegistry, name: &str) -> Value {
    let mut params = pull(&registry.reference(), name);
    params["credentials"] = json!({"username": USER, "secret": PASSWORD});
    // Small, since it is compared byte by byte.
    params["size_bytes"] = json!(64 << 20);
    params
}

/// Returns where the partial download of the first layer is, or would be.
fn partial(stage: &Stage, registry: &FaultRegistry) -> PathBuf {
    let digest = registry.image().first_layer();
    let name = format!("{}.partial", digest.trim_start_matches("sha256:"));
    stage.root().join("cache/ingest").join(name)
}

/// Starts a pull and waits until half of its first layer has come.
fn begin(stage: &Stage, registry: &FaultRegistry) -> Result<String> {
    let id = stage.start(params(registry, "image"))?;
    let half = registry.image().first_layer_bytes() / 2;
    wait::until("half of a layer", LIMIT, || {
        // Not there at all is not half there.
        let length = fs::metadata(partial(stage, registry)).map_or(0, |found| found.len());
        Ok((length == half).then_some(()))
    })?;
    Ok(id)
}

fn ranges(asked: &[Asked]) -> Vec<Option<&str>> {
    asked.iter().map(|asked| asked.range.as_deref()).collect()
}

/// Fails unless the rest alone was asked for, and no byte came twice.
fn assert_nothing_came_twice(registry: &FaultRegistry) {
    let size = registry.image().first_layer_bytes();
    let asked = registry.first_layer_asked();
    let rest = format!("bytes={}-", size / 2);
    assert_eq!(ranges(&asked), [None, Some(rest.as_str())]);
    let served: u64 = asked.iter().map(|asked| asked.body_bytes).sum();
    assert_eq!(served, size);
}

/// Fails unless the image is the one that an undisturbed pull gives.
fn assert_undisturbed(stage: &Stage, image: &Value) -> Result<()> {
    let other = Stage::new()?;
    let registry = FaultRegistry::start_with(Fault::NONE, "resumed")?;
    let undisturbed = other.call("image.pull", &params(&registry, "image"))?;
    assert_same_bytes(
        &text(&image["rootfs"], "path")?,
        &text(&undisturbed["rootfs"], "path")?,
    )?;
    assert_eq!(stage.entries("cache/ingest")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_daemon_that_is_killed_goes_on_with_the_rest() -> Result<()> {
    let mut stage = Stage::new()?;
    let registry = stalling()?;
    begin(&stage, &registry)?;

    stage.daemon.kill()?;
    registry.mend();
    stage.daemon.start_again()?;
    let blobs = stage.call("daemon.info", &json!({}))?;
    let image = stage.call("image.pull", &params(&registry, "image"))?;

    assert_eq!(blobs["counts"]["running_operations"], 0);
    assert_nothing_came_twice(&registry);
    let operation = stage.last_operation()?;
    let size = registry.image().first_layer_bytes();
    let fetched = operation["progress"]["fetched_bytes"].as_u64();
    assert!(fetched < Some(size), "{operation}");
    assert_undisturbed(&stage, &image)
}

#[test]
fn a_pull_that_was_cancelled_goes_on_with_the_rest() -> Result<()> {
    let stage = Stage::new()?;
    let registry = stalling()?;
    let id = begin(&stage, &registry)?;

    let ended = stage.call("operation.cancel", &json!({"operation_id": id}))?;
    stage.assert_nothing_left()?;
    registry.mend();
    let image = stage.call("image.pull", &params(&registry, "image"))?;

    assert_eq!(ended["state"], "cancelled");
    assert_nothing_came_twice(&registry);
    assert_undisturbed(&stage, &image)
}

#[test]
fn a_pull_that_failed_goes_on_with_the_rest() -> Result<()> {
    let config = "[registry.limits]\nstall_timeout_seconds = 1\nattempts = 1\n";
    let stage = Stage::with_config(config)?;
    let registry = stalling()?;

    let failed = stage.refused("image.pull", &params(&registry, "image"))?;
    stage.assert_nothing_left()?;
    registry.mend();
    let image = stage.call("image.pull", &params(&registry, "image"))?;

    assert_eq!(code(&failed), "registry.timed_out");
    assert_nothing_came_twice(&registry);
    assert_undisturbed(&stage, &image)
}

/// Bytes that a power cut has damaged, or that somebody has made up, cost a fetch and no more.
#[test]
fn what_was_left_and_is_wrong_costs_one_fetch_and_no_pull() -> Result<()> {
    type Damage = fn(&File, u64) -> std::io::Result<()>;
    let damages: [(&str, Damage); 3] = [
        ("one byte", |file, length| {
            file.write_all_at(b"?", length / 2)
        }),
        ("zeros", |file, length| {
            file.set_len(0)?;
            file.set_len(length)
        }),
        ("all of it, made up", |file, _| {
            file.set_len(0)?;
            file.write_all_at(&vec![b'x'; 100_000], 0)
        }),
    ];
    for (what, damage) in damages {
        let mut stage = Stage::new()?;
        let registry = stalling()?;
        begin(&stage, &registry)?;
        stage.daemon.kill()?;
        registry.mend();
        let path = partial(&stage, &registry);
        let file = File::options().write(true).open(&path)?;
        damage(&file, file.metadata()?.len())?;
        drop(file);

        stage.daemon.start_again()?;
        let image = stage.call("image.pull", &params(&registry, "image"))?;

        let asked = registry.first_layer_asked();
        assert_eq!(asked.len(), 3, "{what}: {asked:?}");
        assert!(asked[1].range.is_some(), "{what}: {asked:?}");
        assert_eq!(asked[2].range, None, "{what}: {asked:?}");
        assert_undisturbed(&stage, &image).context(what)?;
    }
    Ok(())
}

#[test]
fn what_nobody_came_back_for_goes_after_a_day() -> Result<()> {
    let mut stage = Stage::new()?;
    let registry = stalling()?;
    begin(&stage, &registry)?;
    stage.daemon.kill()?;
    let path = partial(&stage, &registry);

    stage.daemon.start_again()?;
    assert!(path.exists(), "it went with the first start");
    stage.daemon.stop()?;
    let modified = fs::metadata(&path)?.modified()?;
    let a_day_ago: SystemTime = modified - Duration::from_secs(25 * 3600);
    File::options()
        .write(true)
        .open(&path)?
        .set_modified(a_day_ago)?;
    stage.daemon.start_again()?;

    assert!(!path.exists(), "it is there after a day");
    Ok(())
}

/// Who finds somebody writing a partial download does not wait for it, and does not touch it.
#[test]
fn another_place_with_the_same_layer_is_not_held_up() -> Result<()> {
    let stage = Stage::new()?;
    let registry = stalling()?;
    let id = begin(&stage, &registry)?;
    let good = FaultRegistry::start_with(Fault::NONE, "resumed")?;

    let image = stage.call("image.pull", &params(&good, "other"))?;
    let length = fs::metadata(partial(&stage, &registry))?.len();
    stage.call("operation.cancel", &json!({"operation_id": id}))?;

    assert_eq!(image["name"], "other");
    assert_eq!(length, registry.image().first_layer_bytes() / 2);
    assert_eq!(ranges(&good.first_layer_asked()), [None]);
    Ok(())
}
