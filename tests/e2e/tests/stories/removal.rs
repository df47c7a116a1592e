//! How images go and come back: the cases 1.x to 3.x of the image service, through the socket and the
//! client.

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

/// What the cases 1.1, 1.3 and 1.4 say of an image.
fn forgetting(reference: &str) -> Value {
    json!({"reference": reference, "architecture": "x86_64"})
}

#[test]
fn case_1_1_forgetting_makes_an_image_inactive_and_keeps_it() -> Result<()> {
    let (stage, image) = stage_with("web")?;

    let forgotten = stage.call("image.forget", &forgetting("web:latest"))?;

    assert_eq!(forgotten["image"]["is_active"], false);
    assert_eq!(forgotten["already_forgotten"], false);
    assert!(fs::exists(text(&image["rootfs"], "path")?)?);
    let shown = stage.call("image.get", &json!({"image": image["id"]}))?;
    assert_eq!(shown["state"], "deleted");
    let listed = stage.call("image.list", &json!({}))?;
    assert_eq!(listed["items"], json!([]));
    Ok(())
}

#[test]
fn case_1_2_forgetting_by_an_alias_means_the_image_behind_it() -> Result<()> {
    let (stage, image) = stage_with("ubuntu")?;
    let alias = json!({"alias": "my-ubuntu", "target": "ubuntu"});
    stage.call("image.alias", &alias)?;

    let named = json!({"reference": "my-ubuntu", "architecture": null});
    let forgotten = stage.call("image.forget", &named)?;

    assert_eq!(forgotten["image"]["id"], image["id"]);
    assert_eq!(forgotten["image"]["is_active"], false);
    Ok(())
}

#[test]
fn case_1_3_forgetting_what_is_not_there_is_said_to_be_missing() -> Result<()> {
    let (stage, _image) = stage_with("web")?;

    let missing = stage.refused("image.forget", &forgetting("non-existent:latest"))?;

    assert_eq!(code(&missing), "image.not_found");
    Ok(())
}

#[test]
fn case_1_4_forgetting_twice_is_fine_and_changes_nothing_more() -> Result<()> {
    let (stage, _image) = stage_with("web")?;
    let first = stage.call("image.forget", &forgetting("web:latest"))?;

    let second = stage.call("image.forget", &forgetting("web:latest"))?;

    assert_eq!(second["already_forgotten"], true);
    assert_eq!(second["image"]["is_active"], false);
    assert_eq!(second["image"]["deleted_at"], first["image"]["deleted_at"]);
    Ok(())
}

#[test]
fn case_2_1_an_image_is_forgotten_by_its_id_alone() -> Result<()> {
    let (stage, image) = stage_with("web")?;
    let layout = source::small(&stage.path("other"))?;
    stage.pull(&oci(&layout, "1"), "other")?;
    let by_id = json!({"image_id": image["id"]});

    let forgotten = stage.call("image.forget_by_id", &by_id)?;

    assert_eq!(forgotten["image"]["is_active"], false);
    let again = stage.call("image.forget_by_id", &by_id)?;
    assert_eq!(again["already_forgotten"], true);
    let other = stage.call("image.get", &json!({"image": "other"}))?;
    assert_eq!(other["is_active"], true);
    Ok(())
}

#[test]
fn case_2_2_a_text_that_is_no_id_is_told_from_an_id_that_is_not_there() -> Result<()> {
    let (stage, image) = stage_with("web")?;
    let document = stage.call("rpc.discover", &json!({}))?;
    let methods = document["methods"].as_array().context("no methods")?;
    // Every method that takes an image by its id, whatever it calls the parameter.
    let taken = |param: &Value| {
        let others = param["x-also"].as_array();
        param["name"] == "image_id"
            || others.is_some_and(|others| others.contains(&json!("image_id")))
    };
    let mut asked = 0;
    for method in methods {
        let params = method["params"].as_array().context("no parameters")?;
        if !params.iter().any(taken) {
            continue;
        }
        asked += 1;
        let name = text(method, "name")?;
        let mut params = rest_of(&name);
        for word in [
            "invalid-uuid-format",
            "",
            "web",
            "'; DROP TABLE images; --",
            "0b8f2c345f2e4d0a9a443a1c55d2a7e1",
            "{0b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1}",
        ] {
            params["image_id"] = json!(word);
            let refused = stage.refused(&name, &params)?;
            assert_eq!(code(&refused), "request.invalid_id", "{name} {word:?}");
        }
        // A version's id is none of an image. Where any name is taken, it leads to one.
        let mut missing = vec!["0b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1".to_owned()];
        if ["image.forget_by_id", "image.purge_by_id"].contains(&name.as_str()) {
            missing.push(text(&image["version"], "id")?);
        }
        for id in missing {
            params["image_id"] = json!(id);
            let refused = stage.refused(&name, &params)?;
            let want = if name == "image.alias" {
                "alias.target_not_found"
            } else {
                "image.not_found"
            };
            assert_eq!(code(&refused), want, "{name} {id}");
        }
    }
    assert!(asked >= 16, "only {asked} methods take an id");
    let shown = stage.call("image.get", &json!({"image_id": image["id"]}))?;
    assert_eq!(shown["name"], "web");
    Ok(())
}

/// What a call of a method needs besides the image.
fn rest_of(method: &str) -> Value {
    match method {
        "image.alias" => json!({"alias": "made"}),
        "image.lease" => json!({"purpose": "test"}),
        "image.push" => json!({"into": "127.0.0.1:1/a:1"}),
        "instance.register" => json!({
            "instance_id": "7e0a9bd2-4c11-4d7f-8f0e-2b8a6f1c9d34", "name": "machine",
            "directory": "/tmp", "console_path": "/tmp/console.log", "cpus": 1,
            "memory_bytes": 256 << 20, "ports": [],
        }),
        _ => json!({}),
    }
}

/// Checks what is left of a purged image: nothing, and a line that tells of it.
fn assert_purged(stage: &Stage, image: &Value, names: &[&str]) -> Result<()> {
    let id = text(image, "id")?;
    assert_eq!(stage.entries("images")?, Vec::<String>::new());
    for named in names.iter().copied().chain([id.as_str()]) {
        let refused = stage.refused("image.get", &json!({"image": named}))?;
        assert_eq!(code(&refused), "image.not_found", "{named}");
    }
    // C-02: what was purged is not found any more.
    let by_id = json!({"image_id": id});
    let refused = stage.refused("image.purge_by_id", &by_id)?;
    assert_eq!(code(&refused), "image.not_found");
    let events = stage.call("event.list", &json!({"object_id": id}))?;
    let events = events["items"].as_array().context("no items")?;
    let last = events.last().context("no event")?;
    assert_eq!(last["kind"], "image.purged");
    Ok(())
}

#[test]
fn case_3_1_a_purge_takes_everything_and_tells_what_it_freed() -> Result<()> {
    for forgotten_before in [false, true] {
        let (stage, image) = stage_with("web")?;
        let by_id = json!({"image_id": image["id"]});
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
            assert_eq!(told["versions"], 1);
            assert_eq!(told["confirm_token"], Value::Null);
        }
        assert_purged(&stage, &image, &["web"])?;
        // The name serves anew.
        let layout = source::small(&stage.path("again"))?;
        stage.pull(&oci(&layout, "1"), "web")?;
    }
    Ok(())
}

#[test]
fn case_3_2_every_alias_goes_with_a_purged_image() -> Result<()> {
    let (stage, image) = stage_with("web")?;
    for (alias, target) in [("www", "web"), ("front", "www")] {
        stage.call("image.alias", &json!({"alias": alias, "target": target}))?;
    }

    let purged = stage.call("image.purge_by_id", &json!({"image_id": image["id"]}))?;

    assert_eq!(purged["aliases"], json!(["www", "front"]));
    assert_purged(&stage, &image, &["web", "www", "front"])?;
    let listed = stage.call("alias.list", &json!({}))?;
    assert_eq!(listed["items"], json!([]));
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
