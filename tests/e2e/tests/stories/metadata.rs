//! What is said of images: names, labels, keywords, limits, and the history of all that. The cases
//! 6.x and 7.x of the image service and its scenario 3.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_api::codes;
use kiln_testkit::tools;
use serde_json::{Value, json};

use crate::browsing::{kiln, printed};
use crate::descriptors::{NEEDS, as_user, open_stage};
use crate::source::{self, oci};
use crate::stage::{Stage, code, text};

/// A user who owns nothing.
const STRANGER: u32 = 54_003;

/// A stage with an image of that name, and its id.
fn with_image(name: &str) -> Result<(Stage, String)> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), name)?;
    let id = text(&image, "id")?;
    Ok((stage, id))
}

/// Lists what holds, as `slot=value origin`.
fn limits(stage: &Stage, image: &str) -> Result<Vec<String>> {
    let told = stage.call("image.limits", &json!({"image": image}))?;
    let limits = told["limits"].as_array().context("no limits")?;
    let shown = limits.iter().map(|limit| {
        let (slot, origin) = (text(limit, "slot")?, text(limit, "origin")?);
        Ok(format!("{slot}={} {origin}", limit["value"]))
    });
    shown.collect()
}

#[test]
fn case_6_1_an_image_is_renamed_and_its_old_name_leads_to_it() -> Result<()> {
    let (stage, id) = with_image("old-name")?;
    let renaming = json!({"image_id": id, "modifier": {"name": "new-name:latest"}});

    let renamed = stage.call("image.modify", &renaming)?;

    assert_eq!(renamed["image"]["name"], "new-name");
    for name in [
        "new-name",
        "new-name:latest",
        "old-name",
        "old-name:latest",
        &id,
    ] {
        let found = stage.call("image.get", &json!({"image": name}))?;
        assert_eq!(found["id"], id.as_str(), "{name}");
    }
    // Neither name is free for another, and back is a way too.
    let layout = source::small(&stage.path("other"))?;
    for name in ["new-name", "old-name"] {
        let params = crate::stage::pull(&oci(&layout, "1"), name);
        let error = stage.refused("image.pull", &params)?;
        assert_eq!(code(&error), "image.already_exists", "{name}");
    }
    let said = printed(&stage, &["image", "rename", "old-name", "old-name"])?;
    assert_eq!(said, "old-name: name new-name -> old-name\n");
    stage.pull(&oci(&layout, "1"), "third")?;
    let error = stage.refused(
        "image.modify",
        &json!({"image": "third", "name": "new-name"}),
    )?;
    assert_eq!(code(&error), "image.already_exists");
    Ok(())
}

#[test]
fn case_6_2_limits_are_read_by_one_rule_and_told_with_their_origin() -> Result<()> {
    let (stage, id) = with_image("web")?;
    assert_eq!(
        limits(&stage, "web")?,
        ["cpu=1 built-in", "memory=536870912 built-in"]
    );

    let params =
        json!({"image_id": id, "modifier": {"resource_limits": {"cpu": "4", "memory": "8G"}}});
    stage.call("image.modify", &params)?;

    assert_eq!(
        limits(&stage, &id)?,
        ["cpu=4 custom", "memory=8589934592 custom"]
    );
    let shown = printed(&stage, &["image", "limits", "web"])?;
    let lines: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[1], ["cpu", "4", "custom"]);
    assert_eq!(lines[2], ["memory", "8.0", "GiB", "custom"]);
    for (slot, value) in [
        ("memory", json!(4)),
        ("cpu", json!("lots")),
        ("CPU", json!(1)),
        ("cpu", json!(true)),
    ] {
        let params = json!({"image": "web", "limits": {slot: value}});
        let error = stage.refused("image.modify", &params)?;
        assert_eq!(code(&error), "image.limit_invalid", "{params}");
    }
    Ok(())
}

#[test]
fn case_6_3_keywords_are_replaced_and_images_found_by_them() -> Result<()> {
    let (stage, id) = with_image("trainer")?;
    let layout = source::small(&stage.path("other"))?;
    stage.pull(&oci(&layout, "1"), "web")?;
    stage.call(
        "image.modify",
        &json!({"image": "trainer", "keywords": ["old"]}),
    )?;
    let params = json!({"image_id": id, "props": {"tags": ["gpu", "ml", "tensorflow"]}});

    let modified = stage.call("image.modify", &params)?;

    let image = &modified["image"];
    assert_eq!(image["keywords"], json!(["gpu", "ml", "tensorflow"]));
    assert_eq!(image["tags"], json!(["latest"]));
    let listed = |words: &[&str]| printed(&stage, &[&["images", "-q"], words].concat());
    assert_eq!(listed(&["-k", "gpu", "-k", "ml"])?, "trainer\n");
    assert_eq!(listed(&["--keyword", "old"])?, "");
    printed(&stage, &["image", "label", "web", "tier=gold", "zone=a"])?;
    assert_eq!(listed(&["-l", "tier=gold", "-l", "zone"])?, "web\n");
    assert_eq!(listed(&["-l", "tier=tin"])?, "");
    let error = stage.refused("image.list", &json!({"labels": ["' OR 1=1 --"]}))?;
    assert_eq!(code(&error), "image.label_invalid");
    Ok(())
}

#[test]
fn case_6_4_several_things_change_together_or_none_does() -> Result<()> {
    let (stage, id) = with_image("web")?;
    let before = stage.call("image.get", &json!({"image": id}))?;
    let wrong = json!({
        "image_id": id, "name": "renamed", "labels": {"set": {"a": "1"}}, "keywords": ["a b"],
    });
    let error = stage.refused("image.modify", &wrong)?;
    assert_eq!(code(&error), "image.label_invalid");
    assert_eq!(stage.call("image.get", &json!({"image": id}))?, before);

    let params = json!({"image_id": id, "if_revision": before["revision"], "modifier": {
        "name": "renamed", "size": 1_024_000_000_u64, "labels": {"version": "2.0"},
    }});
    let modified = stage.call("image.modify", &params)?;

    let image = &modified["image"];
    assert_eq!(image["name"], "renamed");
    assert_eq!(image["declared_size_bytes"], 1_024_000_000_u64);
    assert_eq!(image["rootfs"], before["rootfs"]);
    assert_eq!(image["labels"], json!({"version": "2.0"}));
    assert_eq!(modified["changes"].as_array().map(Vec::len), Some(3));
    // Whoever looked before it changed comes too late.
    let late = stage.refused("image.modify", &params)?;
    assert_eq!(code(&late), "image.revision_conflict");

    let words = [
        "image",
        "modify",
        "web",
        "--description",
        "a web server",
        "-l",
        "tier=gold",
        "--unset-label",
        "version",
        "-k",
        "web,small",
        "--limit",
        "cpu=1.5",
        "--json",
    ];
    let said: Value = serde_json::from_str(&printed(&stage, &words)?)?;
    assert_eq!(said["image"]["labels"], json!({"tier": "gold"}));
    let history = printed(&stage, &["image", "history", "renamed"])?;
    assert!(history.contains("image.created"), "{history}");
    for told in [
        "name web -> renamed",
        "labels.version 2.0 -> -",
        "limits.cpu - -> 1.5",
    ] {
        assert!(history.contains(told), "{told}: {history}");
    }
    let first = stage.call("image.history", &json!({"image_id": id, "limit": 1}))?;
    let after = json!({"image_id": id, "after": first["next"]});
    let rest = stage.call("image.history", &after)?;
    assert_eq!(first["items"][0]["kind"], "image.created");
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(rest["items"][0]["changes"], modified["changes"]);
    Ok(())
}

/// A stage whose daemon has limits of its own, with an image of that name.
fn with_limits(name: &str) -> Result<Stage> {
    let stage = Stage::with_config("[images.limits]\ncpu = 2\ngpu = 0\n")?;
    let layout = source::small(&stage.path("layout"))?;
    stage.pull(&oci(&layout, "1"), name)?;
    Ok(stage)
}

/// What holds on such a stage unless somebody says otherwise.
const DEFAULTS: [&str; 3] = ["cpu=2 daemon", "gpu=0 daemon", "memory=536870912 built-in"];

#[test]
fn case_7_1_cleared_limits_let_the_defaults_hold_again() -> Result<()> {
    let stage = with_limits("compute-heavy")?;
    assert_eq!(limits(&stage, "compute-heavy:latest")?, DEFAULTS);
    let set = json!({"image": "compute-heavy", "limits": {"cpu": 8, "memory": "32G"}});
    stage.call("image.modify", &set)?;

    let clear = json!({"image_canonical": "compute-heavy:latest", "architecture": "x86_64"});
    let cleared = stage.call("image.clear_limits", &clear)?;

    assert_eq!(cleared["changes"].as_array().map(Vec::len), Some(2));
    assert_eq!(limits(&stage, "compute-heavy")?, DEFAULTS);
    // Labels win over what was built in, and what is custom over them.
    let label = [
        "image",
        "label",
        "compute-heavy",
        "dev.kiln.limits.memory=1G",
    ];
    printed(&stage, &label)?;
    let want = ["cpu=2 daemon", "gpu=0 daemon", "memory=1073741824 label"];
    assert_eq!(limits(&stage, "compute-heavy")?, want);
    Ok(())
}

#[test]
fn case_7_2_clearing_no_limits_is_fine_and_changes_nothing() -> Result<()> {
    let stage = with_limits("plain")?;
    let before = stage.call("image.get", &json!({"image": "plain"}))?;

    for _ in 0..2 {
        let cleared = stage.call("image.clear_limits", &json!({"image": "plain"}))?;
        assert_eq!(cleared["changes"], json!([]));
    }

    assert_eq!(stage.call("image.get", &json!({"image": "plain"}))?, before);
    let said = printed(&stage, &["image", "clear-limits", "plain"])?;
    assert_eq!(said, "plain: nothing to change\n");
    Ok(())
}

#[test]
fn scenario_3_limits_are_set_and_cleared_by_the_client() -> Result<()> {
    let stage = with_limits("compute-heavy")?;
    let name = "compute-heavy:latest";

    let set = ["image", "limits", name, "cpu=8", "memory=32G", "gpu=2"];
    let said = printed(&stage, &set)?;
    assert_eq!(
        said,
        "compute-heavy: limits.cpu - -> 8\ncompute-heavy: limits.gpu - -> 2\n\
         compute-heavy: limits.memory - -> 34359738368\n"
    );
    let want = ["cpu=8 custom", "gpu=2 custom", "memory=34359738368 custom"];
    assert_eq!(limits(&stage, name)?, want);

    printed(&stage, &["image", "clear-limits", name])?;
    assert_eq!(limits(&stage, name)?, DEFAULTS);
    Ok(())
}

#[test]
fn nothing_is_said_of_forgotten_images_nor_by_strangers() -> Result<()> {
    if tools::must_skip("nothing_is_said_by_strangers", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), "web")?;
    let named = json!({"image_id": image["id"], "name": "mine"});
    let error = as_user(STRANGER, || stage.refused("image.modify", &named))?;
    assert!(
        ["request.denied", "image.not_found"].contains(&code(&error)),
        "{error}"
    );

    stage.call("image.forget", &json!({"image": "web"}))?;
    for (method, params) in [
        ("image.modify", named),
        ("image.clear_limits", json!({"image_id": image["id"]})),
    ] {
        let error = stage.refused(method, &params)?;
        assert_eq!(code(&error), "image.is_forgotten", "{method}");
    }
    let hostile = kiln(
        &stage,
        &["image", "rename", "'; DROP TABLE images; --", "x"],
    )?;
    assert_eq!(hostile.status.code(), Some(3), "{hostile:?}");
    Ok(())
}

#[test]
fn every_error_name_of_the_page_has_a_code_that_exists() -> Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/image-service.md");
    let page = fs::read_to_string(page)?;
    let (_, table) = page.split_once("## Names of errors").context("no table")?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('`').collect())
        .collect();
    for row in &rows {
        assert!(codes::all().any(|code| code.name == row[3]), "{row:?}");
    }
    let names: Vec<&str> = rows.iter().map(|row| row[1]).collect();
    for name in [
        "ImageNotFound",
        "PermissionDenied",
        "InvalidIdFormat",
        "AliasAlreadyExists",
        "CircularAlias",
        "TargetImageNotFound",
        "AliasNotFound",
        "ImageInUse",
        "RegistryConnectionError",
        "AuthenticationRequired",
        "RegistryAuthorizationError",
        "RegistryAPIError",
        "DatabaseConnectionError",
        "AgentConnectionError",
    ] {
        assert!(names.contains(&name), "{name}");
    }
    Ok(())
}

#[test]
fn what_would_change_nothing_without_a_word_is_refused() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    stage.pull(&oci(&layout, "1"), "web")?;
    for wrong in [
        json!({"image": "web", "labels": []}),
        json!({"image": "web", "modifier": []}),
    ] {
        let error = stage.refused("image.modify", &wrong)?;
        assert_eq!(code(&error), "request.invalid_params", "{wrong}");
    }
    stage.call("image.modify", &json!({"image": "web", "labels": null}))?;
    for method in ["image.list", "alias.list", "operation.list", "event.list"] {
        let error = stage.refused(method, &json!({"limit": 0}))?;
        assert_eq!(code(&error), "request.invalid_params", "{method}");
        assert!(error.message.contains("limit is 0"), "{error}");
    }
    Ok(())
}
