//! What comes of pushes when their registry is away, or an image in use, and what stays on record.

use std::fs;

use anyhow::{Context as _, Result};
use kiln_testkit::registry::Access;
use kiln_testkit::{tools, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{NEEDS, Pipeline, SECRET, envelope, short};
use crate::instances::{Nature, machine};
use crate::stage::{LIMIT, text};

/// A registry that is away is noticed soon.
const IMPATIENT: &str = "\
[registries.limits]
stall_timeout_seconds = 1
document_timeout_seconds = 1
attempts = 1
lost_seconds = 2
";

/// The audit lines of what webhooks did: method, name, result.
fn lines(pipeline: &Pipeline) -> Result<Vec<String>> {
    let listed = pipeline.stage.call("audit.list", &json!({}))?;
    let listed = listed["items"].as_array().cloned().context("no lines")?;
    let word = |line: &Value, key: &str| line[key].as_str().unwrap_or("-").to_owned();
    let told = listed
        .iter()
        .filter(|line| line["actor"] == "daemon")
        .inspect(|line| assert_eq!(line["request_id"], "webhook", "{line}"));
    Ok(told
        .map(|line| {
            let [method, name, result] =
                ["method", "object_name", "result"].map(|key| word(line, key));
            format!("{method} {name} {result}")
        })
        .collect())
}

#[test]
fn a_registry_that_is_away_is_asked_again_and_the_next_notice_has_it_asked_at_once() -> Result<()> {
    if tools::must_skip("a_registry_that_is_away_is_asked_again", NEEDS)? {
        return Ok(());
    }
    let mut pipeline = Pipeline::with(Access::Anonymous, "pull", false, IMPATIENT)?;
    let digest = pipeline.push("one", "apps/web:v1")?;
    let other = pipeline.push("two", "apps/web:v2")?;
    let registry = i32::try_from(pipeline.registry.id())
        .ok()
        .and_then(Pid::from_raw);
    let registry = registry.context("no process id")?;
    kill_process(registry, Signal::STOP)?;

    let told = pipeline.notify(SECRET, &envelope("apps/web", "v1", &digest))?;
    // The third pause takes twenty seconds.
    let put_off = wait::until("pauses", LIMIT, || {
        let events = pipeline.events("webhook.put_off")?;
        Ok((events.len() >= 3).then_some(events))
    })?;
    kill_process(registry, Signal::CONT)?;
    let noticed = pipeline.notify(SECRET, &envelope("apps/web", "v2", &other))?;
    wait::until("the image of the next notice", LIMIT, || {
        let images = pipeline.images()?;
        let is_there = |image: &Value| image["source"]["manifest_digest"] == other.as_str();
        Ok(images.iter().any(is_there).then_some(()))
    })?;
    let again = pipeline.notify(SECRET, &envelope("apps/web", "v1", &digest))?;
    wait::until("the image of the first notice", LIMIT, || {
        Ok((pipeline.images()?.len() == 2).then_some(()))
    })?;

    let pulled = wait::until("its end", LIMIT, || {
        let events = pipeline.events("webhook.pulled")?;
        let of_first =
            |event: &&Value| event["data"]["reference"] == put_off[0]["data"]["reference"];
        Ok(events.iter().find(of_first).cloned())
    })?;
    let (done_at, again_at) = (text(&pulled, "at")?, text(&put_off[2]["data"], "again_at")?);
    assert!(
        done_at < again_at,
        "it was not tried at once: {done_at}, {again_at}"
    );
    for answer in [told, noticed, again] {
        assert_eq!(answer.status()?, 202);
    }
    let first = &put_off[0]["data"];
    assert_eq!(first["code"], "registry.timed_out", "{first}");
    assert_eq!(first["attempts"], 1, "{first}");
    assert!(first["again_at"].is_string(), "{first}");
    assert!(text(first, "reference")?.contains(&digest), "{first}");
    let log = fs::read_to_string(pipeline.stage.daemon.log())?;
    assert!(log.contains("a push is pulled later"), "{log}");
    assert_eq!(pipeline.events("webhook.failed")?, Vec::<Value>::new());
    Ok(())
}

#[test]
fn an_image_of_a_running_machine_outlives_the_next_push_until_the_machine_ends() -> Result<()> {
    if tools::must_skip("an_image_of_a_running_machine_outlives", NEEDS)? {
        return Ok(());
    }
    let mut pipeline = Pipeline::new(Access::Anonymous, "refresh")?;
    let first = pipeline.push("one", "apps/web:v1")?;
    pipeline.only_image(&first)?;
    let name = format!("apps-web-v1-{}", short(&first));
    let machine = machine(&pipeline.stage, 1, "front", &name, Nature::Usual)?;

    pipeline.push("two", "apps/web:v1")?;
    wait::until("the end of the second push", LIMIT, || {
        Ok((pipeline.events("webhook.pulled")?.len() == 2).then_some(()))
    })?;
    let names = |images: Vec<Value>| -> Vec<Value> {
        images.iter().map(|image| image["name"].clone()).collect()
    };
    let held = names(pipeline.images()?);
    assert!(held.len() == 2 && held.contains(&json!(name)), "{held:?}");
    drop(machine);
    wait::until("the end of the machine", LIMIT, || {
        let found = pipeline
            .stage
            .call("instance.get", &json!({"instance": "front"}))?;
        Ok((found["state"] == "ended").then_some(()))
    })?;
    let third = pipeline.push("three", "apps/web:v1")?;
    pipeline.only_image(&third)?;

    let forgotten = format!("image.forget {name}");
    let of_first: Vec<String> = lines(&pipeline)?
        .into_iter()
        .filter(|line| line.starts_with(&forgotten))
        .collect();
    assert_eq!(
        of_first,
        [
            format!("{forgotten} image.in_use"),
            format!("{forgotten} ok"),
        ]
    );
    Ok(())
}

#[test]
fn an_image_in_use_outlives_the_next_push_and_all_that_happens_is_on_record() -> Result<()> {
    if tools::must_skip("an_image_in_use_outlives_the_next_push", NEEDS)? {
        return Ok(());
    }
    let mut pipeline = Pipeline::new(Access::Anonymous, "refresh")?;
    let name = |digest: &str| format!("apps-web-v1-{}", short(digest));
    let first = pipeline.push("one", "apps/web:v1")?;
    pipeline.only_image(&first)?;
    let params = json!({"image": name(&first), "purpose": "a backup", "ttl_seconds": 600});
    let lease = pipeline.stage.call("image.lease", &params)?;

    let second = pipeline.push("two", "apps/web:v1")?;
    wait::until("the end of the second push", LIMIT, || {
        Ok((pipeline.events("webhook.pulled")?.len() == 2).then_some(()))
    })?;
    assert_eq!(pipeline.images()?.len(), 2, "the leased image stays");
    pipeline
        .stage
        .call("image.release", &json!({"lease_id": lease["id"]}))?;
    let third = pipeline.push("three", "apps/web:v1")?;
    pipeline.only_image(&third)?;
    let told = pipeline.notify(SECRET, &envelope("apps/web", "v1", &third))?;
    assert_eq!(told.status()?, 202);
    wait::until("the end of what was told twice", LIMIT, || {
        Ok((pipeline.events("webhook.pulled")?.len() == 4).then_some(()))
    })?;
    let missing = format!("sha256:{}", "0".repeat(64));
    pipeline.notify(SECRET, &envelope("apps/web", "v1", &missing))?;
    wait::until("the failure", LIMIT, || {
        Ok(pipeline.events("webhook.failed")?.first().cloned())
    })?;

    let (first, second, third) = (name(&first), name(&second), name(&third));
    let lines = lines(&pipeline)?;
    assert_eq!(
        lines,
        [
            format!("image.pull {first} ok"),
            format!("image.pull {second} ok"),
            format!("image.forget {first} image.in_use"),
            format!("image.pull {third} ok"),
            format!("image.forget {first} ok"),
            format!("image.forget {second} ok"),
            format!("image.pull {} source.not_found", name(&missing)),
        ]
    );
    Ok(())
}
