//! A daemon whose database is gone or damaged starts by itself and loses no image.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::{process, wait};
use serde_json::{Value, json};

use crate::source::{self, oci};
use crate::stage::{KERNEL, LIMIT, Stage, text};

/// Makes a snapshot at once when anything has happened.
const EAGER: &str = "[database]\nsnapshot_events = 1\n";

/// Returns what stands beside the database, it and its snapshots included.
fn database_files(stage: &Stage) -> Result<Vec<String>> {
    let mut names = stage.entries("")?;
    names.retain(|name| name.starts_with("kiln.db"));
    names.sort();
    Ok(names)
}

fn names(stage: &Stage, params: &Value) -> Result<Vec<String>> {
    let listed = stage.call("image.list", params)?;
    let items = listed["items"].as_array().context("no items")?;
    items.iter().map(|image| text(image, "name")).collect()
}

/// Returns what the last start put in order.
fn recovered(stage: &Stage) -> Result<Value> {
    Ok(stage.call("daemon.info", &json!({}))?["recovered"].clone())
}

/// Returns every file of an image with its bytes.
fn files(image: &Value) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let folder = PathBuf::from(text(image, "artifact_dir")?);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        found.push((path.clone(), fs::read(path)?));
    }
    found.sort();
    Ok(found)
}

fn kiln(stage: &Stage, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(built("kiln")?);
    let host = format!("unix://{}", stage.daemon.socket().display());
    command.env("KILN_HOST", host).args(arguments);
    let output = command.output().context("cannot run kiln")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn without_any_database_images_and_kernels_are_adopted() -> Result<()> {
    let mut stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let was = stage.pull(&oci(&layout, "1"), "web")?;
    let files_before = files(&was)?;
    stage.daemon.stop()?;
    for name in database_files(&stage)? {
        fs::remove_file(stage.root().join(name))?;
    }

    stage.daemon.start_again()?;

    let told = recovered(&stage)?;
    assert_eq!(told["adopted_images"], 1, "{told}");
    assert_eq!(told["adopted_kernels"], 1, "{told}");
    assert_eq!(told["replaced_database"]["cause"], "lost", "{told}");
    assert_eq!(names(&stage, &json!({}))?, Vec::<String>::new());
    assert_eq!(names(&stage, &json!({"all": true}))?, ["web-recovered"]);
    let now = stage.call("image.get", &json!({"image": "web-recovered"}))?;
    assert_eq!(
        (&now["id"], &now["state"]),
        (&was["id"], &json!("inactive"))
    );
    assert_eq!(
        (&now["owner_uid"], &now["is_active"]),
        (&json!(0), &json!(false))
    );
    assert_eq!(files(&now)?, files_before);
    let listed = kiln(&stage, &["images", "-a"])?;
    assert!(listed.contains("web-recovered"), "{listed}");
    assert!(listed.contains("inactive"), "{listed}");
    let doctor = kiln(&stage, &["doctor"])?;
    assert!(
        doctor.contains("1 images without a record were adopted"),
        "{doctor}"
    );
    let kernels = stage.call("kernel.list", &json!({}))?;
    assert_eq!(kernels["items"][0]["name"], KERNEL);

    let again = stage.pull(&oci(&layout, "1"), "web")?;
    let forgotten = stage.call("image.forget", &json!({"image": "web-recovered"}))?;
    assert_eq!(forgotten["image"]["id"], was["id"]);
    assert_eq!(names(&stage, &json!({}))?, ["web"]);
    stage.daemon.stop()?;
    stage.daemon.start_again()?;
    let told = recovered(&stage)?;
    assert_eq!(
        (&told["adopted_images"], &told["left_unrecorded"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(told["replaced_database"], Value::Null, "{told}");
    let kept = stage.call("image.get", &json!({"image": "web"}))?;
    assert_eq!(kept["id"], again["id"]);
    Ok(())
}

#[test]
fn a_damaged_database_is_replaced_by_its_snapshot_and_kept() -> Result<()> {
    let mut stage = Stage::with_config(EAGER)?;
    let layout = source::small(&stage.path("layout"))?;
    let before = stage.pull(&oci(&layout, "1"), "before")?;
    // The root filesystem's digest is the last event that comes by itself.
    wait::until("a snapshot of everything so far", LIMIT, || {
        let image = stage.call("image.get", &json!({"image": "before"}))?;
        let events = stage.call("event.list", &json!({"limit": 1000}))?;
        let items = events["items"].as_array().context("no items")?;
        let newest = items.last().context("no event")?["seq"].as_i64();
        let name = format!("kiln.db.snapshot-{:020}", newest.context("no seq")?);
        let is_there = stage.root().join(name).exists();
        Ok((is_there && image["rootfs"]["sha256"].is_string()).then_some(()))
    })?;
    stage.daemon.stop()?;
    // From here on a snapshot is made once a day.
    fs::write(stage.root().join("config.toml"), "")?;
    stage.daemon.start_again()?;
    let after = stage.pull(&oci(&layout, "1"), "after")?;
    stage.daemon.stop()?;
    let database = stage.root().join("kiln.db");
    let mut bytes = fs::read(&database)?;
    bytes[..8192].fill(0xa5);
    fs::write(&database, &bytes)?;

    stage.daemon.start_again()?;

    let told = recovered(&stage)?;
    let replaced = &told["replaced_database"];
    assert_eq!(replaced["damaged"], "kiln.db.damaged-1", "{told}");
    assert!(text(replaced, "cause")?.starts_with("damaged: "), "{told}");
    assert!(
        text(replaced, "snapshot")?.starts_with("kiln.db.snapshot-"),
        "{told}"
    );
    assert_eq!(told["adopted_images"], 1, "{told}");
    let shown = stage.call("image.get", &json!({"image": "before"}))?;
    assert_eq!(
        (&shown["id"], &shown["state"]),
        (&before["id"], &json!("available"))
    );
    let shown = stage.call("image.get", &json!({"image": "after-recovered"}))?;
    assert_eq!(
        (&shown["id"], &shown["state"]),
        (&after["id"], &json!("inactive"))
    );
    assert_eq!(fs::read(stage.root().join("kiln.db.damaged-1"))?, bytes);
    let events = stage.call("event.list", &json!({"kind": "database."}))?;
    let event = &events["items"][0];
    assert_eq!(event["kind"], "database.replaced", "{events}");
    assert_eq!(
        (&event["actor"], &event["data"]["adopted_images"]),
        (&json!("daemon"), &json!(1))
    );
    let log = process::log_so_far(&stage.daemon.log());
    assert!(
        log.contains("the database is unusable and is replaced"),
        "{log}"
    );
    Ok(())
}
