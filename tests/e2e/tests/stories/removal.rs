//! How images go and come back: cases 1.1 to 3.3 through the socket and the client.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use serde_json::{Value, json};

use crate::source::{self, oci};
use crate::stage::{Stage, code, text};

fn stage_with(name: &str) -> Result<(Stage, Value)> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), name)?;
    Ok((stage, image))
}

/// Counts the blocks of a directory and of what is in it.
fn blocks(path: &Path) -> Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += blocks(&entry?.path())?;
        }
    }
    Ok(bytes)
}

fn kiln(stage: &Stage, words: &[&str]) -> Result<(Option<i32>, String, String)> {
    let mut command = Command::new(built("kiln")?);
    let host = format!("unix://{}", stage.daemon.socket().display());
    command.env("KILN_HOST", host).args(words);
    let output = command.output().context("cannot run kiln")?;
    Ok((
        output.status.code(),
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    ))
}

#[test]
fn cases_1_1_to_1_4_forgetting_is_logical_and_twice_is_fine() -> Result<()> {
    let (stage, image) = stage_with("web")?;

    let forget = json!({"reference": "web:latest", "architecture": "x86_64"});
    let first = stage.call("image.forget", &forget)?;
    let second = stage.call("image.forget", &forget)?;
    let missing = json!({"reference": "non-existent:latest", "architecture": "x86_64"});
    let missing = stage.refused("image.forget", &missing)?;

    assert_eq!(first["image"]["is_active"], false);
    assert_eq!(first["already_forgotten"], false);
    assert_eq!(second["already_forgotten"], true);
    assert_eq!(second["image"]["deleted_at"], first["image"]["deleted_at"]);
    assert_eq!(code(&missing), "image.not_found");
    assert!(fs::exists(text(&image["rootfs"], "path")?)?);
    Ok(())
}

#[test]
fn cases_2_1_and_2_2_an_id_is_one_or_is_told_to_be_none() -> Result<()> {
    let (stage, image) = stage_with("web")?;
    let methods = ["image.forget_by_id", "image.purge_by_id"];
    for method in methods {
        for text in ["invalid-uuid-format", "", "web", "'; DROP TABLE images; --"] {
            let refused = stage.refused(method, &json!({"image_id": text}))?;
            assert_eq!(code(&refused), "request.invalid_id", "{method} {text:?}");
        }
        // A version's id is none of an image.
        for id in [
            "0b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1",
            &text(&image["version"], "id")?,
        ] {
            let refused = stage.refused(method, &json!({"image_id": id}))?;
            assert_eq!(code(&refused), "image.not_found", "{method} {id}");
        }
    }
    let by_id = json!({"image_id": image["id"]});
    let forgotten = stage.call("image.forget_by_id", &by_id)?;
    assert_eq!(forgotten["image"]["is_active"], false);
    let again = stage.call("image.forget_by_id", &by_id)?;
    assert_eq!(again["already_forgotten"], true);
    Ok(())
}

#[test]
fn cases_3_1_and_3_2_a_purge_takes_everything_and_tells_what_it_freed() -> Result<()> {
    for forgotten_before in [false, true] {
        let (stage, image) = stage_with("web")?;
        let by_id = json!({"image_id": image["id"]});
        for (alias, target) in [("www", "web"), ("front", "www")] {
            stage.call("image.alias", &json!({"alias": alias, "target": target}))?;
        }
        if forgotten_before {
            stage.call("image.forget_by_id", &by_id)?;
        }
        let directory = text(&image, "artifact_dir")?;
        let want = blocks(Path::new(&directory))?;

        let look = json!({"image_id": image["id"], "dry_run": true});
        let foretold = stage.call("image.purge_by_id", &look)?;
        assert!(fs::exists(&directory)?);
        let purged = stage.call("image.purge_by_id", &by_id)?;

        for told in [&foretold, &purged] {
            assert_eq!(told["freed_bytes"], want, "{told}");
            assert_eq!(told["aliases"], json!(["www", "front"]));
            assert_eq!(told["versions"], 1);
            assert_eq!(told["confirm_token"], Value::Null);
        }
        assert_eq!(stage.entries("images")?, Vec::<String>::new());
        for named in ["web", "www", "front", &text(&image, "id")?] {
            let refused = stage.refused("image.get", &json!({"image": named}))?;
            assert_eq!(code(&refused), "image.not_found", "{named}");
        }
        // C-02: what was purged is not found any more.
        let refused = stage.refused("image.purge_by_id", &by_id)?;
        assert_eq!(code(&refused), "image.not_found");
        let listed = stage.call("alias.list", &json!({}))?;
        assert_eq!(listed["items"], json!([]));
        let events = stage.call("event.list", &json!({"object_id": image["id"]}))?;
        let events = events["items"].as_array().context("no items")?;
        let last = events.last().context("no event")?;
        assert_eq!(last["kind"], "image.purged");
        // The name serves anew.
        let layout = source::small(&stage.path("again"))?;
        stage.pull(&oci(&layout, "1"), "web")?;
    }
    Ok(())
}

#[test]
fn case_3_3_what_is_in_use_goes_only_after_a_look() -> Result<()> {
    let (stage, image) = stage_with("web")?;
    let lease = json!({"image": "web", "purpose": "nightly backup", "ttl_seconds": 3600});
    stage.call("image.lease", &lease)?;
    let purge = |force: bool, dry_run: bool, token: Value| {
        json!({
            "image_id": image["id"], "force": force, "dry_run": dry_run, "confirm_token": token,
        })
    };

    let refused = stage.refused("image.purge_by_id", &purge(false, false, Value::Null))?;
    assert_eq!(code(&refused), "image.in_use");
    assert!(refused.message.contains("1 lease"), "{refused}");
    for token in [Value::Null, json!("guessed")] {
        let refused = stage.refused("image.purge_by_id", &purge(true, false, token))?;
        assert_eq!(code(&refused), "image.confirmation_needed");
    }
    let refused = stage.refused("image.forget", &json!({"image": "web"}))?;
    assert_eq!(code(&refused), "image.in_use");
    let (exit, shown, _) = kiln(&stage, &["image", "show", "web"])?;
    assert_eq!(exit, Some(0));
    assert!(shown.contains("nightly backup"), "{shown}");

    let (exit, _, told) = kiln(&stage, &["purge", "web"])?;
    assert_eq!(exit, Some(5), "{told}");
    let look = stage.call("image.purge_by_id", &purge(true, true, Value::Null))?;
    assert_eq!(look["in_use"], 1);
    stage.call(
        "image.purge_by_id",
        &purge(true, false, look["confirm_token"].clone()),
    )?;
    assert_eq!(stage.entries("images")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn what_was_forgotten_comes_back_and_a_used_name_needs_another() -> Result<()> {
    let (stage, first) = stage_with("web")?;
    let (exit, _, told) = kiln(&stage, &["forget", "web"])?;
    assert_eq!(exit, Some(0), "{told}");
    let layout = source::small(&stage.path("again"))?;
    stage.pull(&oci(&layout, "1"), "web")?;
    let id = text(&first, "id")?;

    let (exit, _, told) = kiln(&stage, &["restore", &id])?;
    assert_eq!(exit, Some(5), "{told}");
    let foretold = json!({"image": id, "name": "web-1", "dry_run": true});
    let foretold = stage.call("image.restore", &foretold)?;
    assert_eq!(foretold["image"]["is_active"], false);
    let bad = json!({"image": id, "name": "Not A Name"});
    let bad = stage.refused("image.restore", &bad)?;
    assert_eq!(code(&bad), "image.name_invalid");
    let (exit, said, told) = kiln(&stage, &["restore", &id, "--name", "web-1"])?;
    assert_eq!(exit, Some(0), "{told}");
    assert!(said.contains("web-1 is restored"), "{said}");

    let shown = stage.call("image.get", &json!({"image": "web-1"}))?;
    assert_eq!(
        (&shown["id"], &shown["is_active"]),
        (&first["id"], &json!(true))
    );
    assert_eq!(shown["deleted_at"], Value::Null);
    let again = stage.call("image.restore", &json!({"image": "web-1"}))?;
    assert_eq!(again["already_active"], true);
    Ok(())
}

#[test]
fn the_client_makes_lists_and_takes_aliases_and_purges() -> Result<()> {
    let (stage, image) = stage_with("web")?;
    let run = |words: &[&str]| -> Result<String> {
        let (exit, said, told) = kiln(&stage, words)?;
        assert_eq!(exit, Some(0), "{words:?}: {told}");
        Ok(said)
    };

    run(&["alias", "add", "www", "web"])?;
    run(&["image", "alias", "front", "www"])?;
    let listed = run(&["alias", "ls"])?;
    assert!(
        listed.contains("front") && listed.contains("www"),
        "{listed}"
    );
    assert_eq!(run(&["alias", "ls", "web", "-q"])?, "www\nfront\n");
    let gone = run(&["unalias", "www"])?;
    assert!(gone.contains("front now lead"), "{gone}");
    let (exit, _, _) = kiln(&stage, &["alias", "rm", "none"])?;
    assert_eq!(exit, Some(3));
    let lease = run(&["image", "lease", "web", "--purpose", "test", "-q"])?;
    run(&["image", "renew-lease", lease.trim(), "--ttl", "60"])?;
    let foretold = run(&["purge", "web", "--dry-run", "--force"])?;
    assert!(foretold.contains("would be removed for good"), "{foretold}");
    let purged = run(&["purge", "front", "--force"])?;
    assert!(purged.contains("aliases: front"), "{purged}");
    let id = text(&image, "id")?;
    let (exit, _, _) = kiln(&stage, &["image", "purge-by-id", &id])?;
    assert_eq!(exit, Some(3));
    Ok(())
}

#[test]
fn leases_are_bounded_and_their_owners_alone() -> Result<()> {
    let (stage, _image) = stage_with("web")?;
    let lease =
        |purpose: &str, ttl: u64| json!({"image": "web", "purpose": purpose, "ttl_seconds": ttl});
    for (params, want) in [
        (lease("", 60), "request.invalid_params"),
        (lease("a\nb", 60), "request.invalid_params"),
        (lease(&"x".repeat(201), 60), "request.invalid_params"),
        (lease("x", 0), "request.invalid_params"),
        (lease("x", 604_801), "request.invalid_params"),
    ] {
        assert_eq!(
            code(&stage.refused("image.lease", &params)?),
            want,
            "{params}"
        );
    }
    for (method, id, want) in [
        ("image.release", "x", "request.invalid_id"),
        ("image.renew_lease", "x", "request.invalid_id"),
        (
            "image.release",
            "0b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1",
            "lease.not_found",
        ),
    ] {
        let refused = stage.refused(method, &json!({"lease_id": id}))?;
        assert_eq!(code(&refused), want, "{method} {id}");
    }
    let mut last = Value::Null;
    for _ in 0..256 {
        last = stage.call("image.lease", &lease("many", 604_800))?;
    }
    let refused = stage.refused("image.lease", &lease("one more", 60))?;
    assert_eq!(code(&refused), "lease.too_many");
    stage.call("image.release", &json!({"lease_id": last["id"]}))?;
    stage.call("image.lease", &lease("one more", 60))?;
    Ok(())
}

#[test]
fn retention_that_is_over_ends_at_the_next_start() -> Result<()> {
    let mut stage = Stage::with_config("[images]\nretention_days = 0\n")?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), "web")?;
    stage.call("image.forget", &json!({"image": "web"}))?;

    stage.daemon.stop()?;
    stage.daemon.start_again()?;

    let gone = kiln_testkit::wait::until("purge", crate::stage::LIMIT, || {
        Ok(stage.entries("images")?.is_empty().then_some(()))
    });
    gone?;
    let refused = stage.refused("image.get", &json!({"image": image["id"]}))?;
    assert_eq!(code(&refused), "image.not_found");
    Ok(())
}
