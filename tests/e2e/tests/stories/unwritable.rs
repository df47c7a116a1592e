//! A database that cannot be written: what is refused meanwhile, what goes on, and that it all ends by
//! itself. The common error CE1 of the image service.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::{process, wait};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use crate::browsing::{kiln, printed};
use crate::operations::Tap;
use crate::source::{self, oci};
use crate::stage::{LIMIT, Stage, code, text};

const REFUSED: &str = "storage.database_failed";

/// Lets the daemon write no further byte to any file, or as many as before.
fn limit_files(stage: &Stage, bytes: Option<u64>) -> Result<()> {
    let id = i32::try_from(stage.daemon.id())?;
    let id = Pid::from_raw(id).context("no process")?;
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Some(id), Resource::Fsize, limit)?;
    Ok(())
}

/// The database's files, which nobody may change, not even root.
struct Frozen(Vec<PathBuf>);

impl Frozen {
    const NEEDS: &[Need] = &[Need::Root, tools::CHATTR];

    fn new(stage: &Stage) -> Result<Self> {
        let files = ["kiln.db", "kiln.db-wal"].map(|name| stage.root().join(name));
        let frozen = Self(files.into());
        frozen.set("+i")?;
        Ok(frozen)
    }

    fn set(&self, attribute: &str) -> Result<()> {
        let mut command = process::command(tools::require(tools::CHATTR)?);
        command.arg(attribute).args(&self.0);
        process::run(command, LIMIT)?;
        Ok(())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // What cannot be thawed is left for whoever runs the tests to see.
        drop(self.set("-i"));
    }
}

fn with_image() -> Result<Stage> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    stage.pull(&oci(&layout, "1"), "web")?;
    Ok(stage)
}

/// Returns the methods of the daemon's own table, and what each takes.
fn methods(stage: &Stage) -> Result<Vec<(String, String)>> {
    let document = stage.call("rpc.discover", &json!({}))?;
    let methods = document["methods"].as_array().context("no methods")?;
    let methods = methods.iter();
    methods
        .map(|method| Ok((text(method, "name")?, text(method, "x-right")?)))
        .collect()
}

#[test]
fn case_ce_1_without_a_database_nothing_changes_and_looking_goes_on() -> Result<()> {
    let stage = with_image()?;
    let layout = source::small(&stage.path("other"))?;
    let late = crate::stage::pull(&oci(&layout, "1"), "late");
    let process = stage.daemon.id();
    let methods = methods(&stage)?;
    limit_files(&stage, Some(0))?;

    // The first call to come meets it in the database itself, and so does each one after it.
    let first = stage.refused("image.forget", &json!({"image": "web"}))?;
    assert_eq!(code(&first), REFUSED, "{first}");
    assert_eq!(error_of(&stage)?["code"], REFUSED);
    assert_eq!(first.data["retryable"], true);
    let mut changing = 0;
    for (method, right) in &methods {
        if ["read", "oversee"].contains(&right.as_str()) {
            continue;
        }
        changing += 1;
        let refused = stage.refused(method, &json!({}))?;
        assert_eq!(code(&refused), REFUSED, "{method}: {refused}");
    }
    assert!(changing > 30, "only {changing} methods change anything");
    for (method, params) in [
        ("image.pull", late.clone()),
        ("image.modify", json!({"image": "web", "name": "new"})),
        ("image.alias", json!({"alias": "www", "target": "web"})),
        ("image.lease", json!({"image": "web", "purpose": "test"})),
        ("org.add", json!({"name": "team"})),
        ("kernel.set_default", json!({"name": crate::stage::KERNEL})),
    ] {
        let refused = stage.refused(method, &params)?;
        assert_eq!(code(&refused), REFUSED, "{method}: {refused}");
    }
    // Looking goes on, and so does asking what would happen.
    for (method, params) in [
        ("image.get", json!({"image": "web"})),
        ("image.list", json!({})),
        ("image.open", json!({"image": "web"})),
        ("image.limits", json!({"image": "web"})),
        ("image.history", json!({"image": "web"})),
        ("image.forget", json!({"image": "web", "dry_run": true})),
        ("alias.list", json!({})),
        ("kernel.list", json!({})),
        ("operation.list", json!({})),
        ("event.list", json!({})),
        ("audit.list", json!({})),
        ("user.whoami", json!({})),
    ] {
        stage.call(method, &params)?;
    }
    let told = printed(&stage, &["info"])?;
    assert!(told.contains("cannot be written"), "{told}");
    let doctor = kiln(&stage, &["doctor"])?;
    let told = String::from_utf8(doctor.stdout)?;
    let line = told.lines().find(|line| line.contains("  database  "));
    assert!(line.is_some_and(|line| line.starts_with("fail")), "{told}");

    // Mended, it is the same daemon, which knows of nothing that was refused.
    limit_files(&stage, None)?;
    let web = stage.call("image.get", &json!({"image": "web"}))?;
    assert_eq!(
        (&web["is_active"], &web["revision"]),
        (&json!(true), &json!(1))
    );
    stage.call("image.alias", &json!({"alias": "www", "target": "web"}))?;
    stage.call("image.pull", &late)?;
    stage.call("image.forget", &json!({"image": "web"}))?;
    assert_eq!(error_of(&stage)?, Value::Null);
    assert_eq!(stage.entries("images")?.len(), 2);
    let running = stage.call("operation.list", &json!({"state": "running"}))?;
    assert_eq!(running["items"], json!([]));
    assert_eq!(stage.daemon.id(), process);
    Ok(())
}

/// Returns what the daemon says of its database.
fn error_of(stage: &Stage) -> Result<Value> {
    let info = stage.call("daemon.info", &json!({}))?;
    Ok(info["database"]["error"].clone())
}

#[test]
fn a_pull_whose_end_cannot_be_recorded_fails_now_and_is_recorded_later() -> Result<()> {
    let name = "a_pull_whose_end_cannot_be_recorded_fails_now";
    if tools::must_skip(name, Frozen::NEEDS)? {
        return Ok(());
    }
    let stage = with_image()?;
    let tap = Tap::start()?;
    let late = crate::stage::pull(&tap.reference(), "late");
    let id = stage.start(late.clone())?;
    tap.wait_for_request()?;

    // Only the database is out of reach: the image is made, and cannot be committed.
    let frozen = Frozen::new(&stage)?;
    tap.open();
    let asked = json!({"operation_id": id});
    let ended = stage.call("operation.wait", &asked)?;
    assert_eq!(ended["state"], "failed", "{ended}");
    assert_eq!(ended["error"]["code"], REFUSED, "{ended}");
    assert_eq!(
        stage.entries("images")?.len(),
        1,
        "the published image is gone"
    );
    let listed = stage.call("operation.list", &json!({"state": "failed"}))?;
    assert_eq!(listed["items"], json!([]), "nothing of it is recorded yet");
    let shown = stage.call("operation.get", &asked)?;
    assert_eq!(shown["state"], "failed");
    let refused = stage.refused("image.pull", &late)?;
    assert_eq!(code(&refused), REFUSED);

    drop(frozen);
    wait::until("the operation's end in the database", LIMIT, || {
        let listed = stage.call("operation.list", &json!({"state": "failed"}))?;
        let ids = listed["items"].as_array().context("no items")?;
        let is_there = ids.iter().any(|one| one["id"] == id.as_str());
        Ok(is_there.then_some(()))
    })?;
    // The name is free again.
    stage.call("image.pull", &late)?;
    let info = stage.call("daemon.info", &json!({}))?;
    assert_eq!(info["counts"]["running_operations"], 0);
    Ok(())
}

#[test]
fn a_database_that_was_moved_away_is_not_written_until_it_is_back() -> Result<()> {
    let stage = with_image()?;
    let (database, away) = (stage.root().join("kiln.db"), stage.path("away.db"));
    let forget = json!({"image": "web"});

    for stands_in in [false, true] {
        fs::rename(&database, &away)?;
        if stands_in {
            fs::copy(&away, &database)?;
        }
        let refused = stage.refused("image.forget", &forget)?;
        assert_eq!(code(&refused), REFUSED);
        let told = format!("{} is not the file that was opened", database.display());
        assert!(refused.message.contains(&told), "{refused}");
        assert_eq!(error_of(&stage)?["code"], REFUSED);
        let shown = stage.call("image.get", &json!({"image": "web"}))?;
        assert_eq!(shown["is_active"], true);
        fs::rename(&away, &database)?;
        assert_eq!(error_of(&stage)?, Value::Null);
    }

    stage.call("image.forget", &forget)?;
    Ok(())
}

#[test]
fn a_database_that_was_removed_is_there_again_after_the_next_start() -> Result<()> {
    let mut stage = with_image()?;
    let before = stage.call("image.get", &json!({"image": "web"}))?;
    for name in ["kiln.db", "kiln.db-wal", "kiln.db-shm"] {
        fs::remove_file(stage.root().join(name))?;
    }
    let refused = stage.refused("image.alias", &json!({"alias": "www", "target": "web"}))?;
    assert_eq!(code(&refused), REFUSED);

    stage.daemon.stop()?;
    stage.daemon.start_again()?;

    let after = stage.call("image.get", &json!({"image": "web"}))?;
    assert_eq!(after, before);
    let info = stage.call("daemon.info", &json!({}))?;
    assert_eq!(info["recovered"]["replaced_database"]["cause"], "lost");
    stage.call("image.alias", &json!({"alias": "www", "target": "web"}))?;
    Ok(())
}
