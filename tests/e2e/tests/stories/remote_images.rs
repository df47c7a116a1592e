//! Images and the registries they came from: asking again, what is outdated, taking a tag off. The
//! cases 5.x and 10.x of the image service.

use std::fs;

use anyhow::{Context as _, Result};
use kiln_testkit::elf;
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Descriptor, Layout, Platform};
use kiln_testkit::registry::{Access, PASSWORD, Registry, Transport, USER};
use kiln_testkit::tools::{self, Need};
use serde_json::{Value, json};

use crate::browsing::{kiln, printed};
use crate::source::{self, oci};
use crate::stage::{Stage, code, pull};

const NEEDS: &[Need] = &[tools::DOCKER_REGISTRY, tools::SKOPEO, tools::HTPASSWD];

/// Adds an image of one layer for an architecture.
fn image(layout: &Layout, word: &str, architecture: &str) -> Result<Descriptor> {
    let entries = [Entry::file("hello", format!("{word}\n"))];
    let layers = [layout.add_layer(&entries, Compression::Gzip)?];
    layout.add_image(&layers, &Platform::linux(architecture))
}

fn tags(stage: &Stage, repository: &str) -> Result<Vec<String>> {
    let listed = stage.call("registry.tags", &json!({"ref": repository}))?;
    let items = listed["items"].as_array().context("no list")?;
    let mut names: Vec<String> = items
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    names.sort();
    Ok(names)
}

#[test]
fn case_5_1_a_scan_keeps_what_the_registry_says_beside_what_was_built() -> Result<()> {
    if tools::must_skip("case_5_1_a_scan", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mut layout = source::small(&stage.path("layout"))?;
    let second = image(&layout, "second", "amd64")?;
    layout.tag("2", &second)?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let reference = registry.push(&oci(&layout, "1"), "cuda:base")?;
    let pulled = stage.pull(&reference, "cuda")?;

    let same = stage.call(
        "image.scan",
        &json!({"image_name": "cuda", "architecture": "x86_64"}),
    )?;
    assert_eq!(
        (&same["is_newer"], &same["has_changed"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(same["remote"]["layers"].as_array().map(Vec::len), Some(2));
    assert_eq!(printed(&stage, &["outdated"])?.lines().count(), 1);

    // The tag moves.
    registry.push(&oci(&layout, "2"), "cuda:base")?;
    let newer = stage.call("image.scan", &json!({"image": "cuda"}))?;
    assert_eq!(
        (&newer["is_newer"], &newer["has_changed"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(newer["remote"]["layers"].as_array().map(Vec::len), Some(1));
    let again = stage.call("image.scan", &json!({"image": "cuda"}))?;
    assert_eq!(
        (&again["is_newer"], &again["has_changed"]),
        (&json!(true), &json!(false))
    );
    let now = stage.call("image.get", &json!({"image": "cuda"}))?;
    assert_eq!(now["version"], pulled["version"]);
    assert_eq!(now["source"], pulled["source"]);
    assert_eq!(
        now["remote"]["manifest_digest"],
        newer["remote"]["manifest_digest"]
    );
    let said = printed(&stage, &["image", "scan", "cuda"])?;
    assert!(said.contains("something newer"), "{said}");

    let outdated = kiln(&stage, &["outdated"])?;
    assert_eq!(outdated.status.code(), Some(10), "{outdated:?}");
    let listed = String::from_utf8(outdated.stdout)?;
    assert!(
        listed.contains("outdated") && listed.contains("cuda"),
        "{listed}"
    );
    let standing = stage.call("image.outdated", &json!({}))?;
    assert_eq!(standing["items"][0]["state"], "outdated");
    assert_eq!(
        standing["items"][0]["newest_digest"],
        newer["remote"]["manifest_digest"]
    );

    // A forgotten image is asked about, and stays forgotten.
    stage.call("image.forget", &json!({"image": "cuda"}))?;
    let forgotten = stage.call("image.scan", &json!({"image_id": pulled["id"]}))?;
    assert_eq!(forgotten["image"]["state"], "deleted");
    assert_eq!(
        stage.call("image.outdated", &json!({}))?["items"],
        json!([])
    );
    Ok(())
}

#[test]
fn case_5_2_only_the_architecture_that_is_named_is_asked_about() -> Result<()> {
    if tools::must_skip("case_5_2_only_the_architecture", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    fs::write(stage.path("vmlinux-arm"), elf::smallest(elf::AARCH64))?;
    let kernel = json!({"name": "arm", "kernel_path": stage.path("vmlinux-arm")});
    stage.call("kernel.import", &kernel)?;
    let mut layout = Layout::create(stage.path("layout"))?;
    let index = |layout: &Layout, words: [&str; 2]| {
        let images = [
            image(layout, words[0], "amd64")?,
            image(layout, words[1], "arm64")?,
        ];
        layout.add_index(&images)
    };
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let first = index(&layout, ["amd 1", "arm 1"])?;
    layout.tag("1", &first)?;
    let reference = registry.push(&oci(&layout, "1"), "alpine:latest")?;
    stage.pull(&reference, "alpine-amd")?;
    let mut arm = pull(&reference, "alpine-arm");
    arm["kernel_ref"] = json!("arm");
    arm["platform"] = json!("linux/arm64");
    arm["boot"] = json!("none");
    stage.call("image.pull", &arm)?;

    // Only the arm64 image changes.
    let second = index(&layout, ["amd 1", "arm 2"])?;
    layout.tag("2", &second)?;
    registry.push(&oci(&layout, "2"), "alpine:latest")?;
    let arm = json!({"image": "alpine-arm", "architecture": "aarch64"});
    let scanned = stage.call("image.scan", &arm)?;
    let amd = stage.call("image.get", &json!({"image": "alpine-amd"}))?;
    let other = stage.call("image.scan", &json!({"image": "alpine-amd"}))?;

    assert_eq!(scanned["remote"]["architecture"], "arm64");
    assert_eq!(scanned["is_newer"], true);
    assert_eq!(amd["remote"], Value::Null);
    assert_eq!(other["remote"]["architecture"], "amd64");
    assert_eq!(other["is_newer"], false);
    let standing = stage.call("image.outdated", &json!({}))?;
    let states: Vec<&Value> = (0..2).map(|n| &standing["items"][n]["state"]).collect();
    assert_eq!(states, ["current", "outdated"]);
    Ok(())
}

#[test]
fn case_5_3_and_5_4_a_registry_that_is_off_wants_a_login_or_has_it_no_more() -> Result<()> {
    if tools::must_skip("case_5_3_and_5_4", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let mut open = Registry::start(Access::Anonymous, Transport::Http)?;
    let reference = open.push(&oci(&layout, "1"), "image:tag")?;
    stage.pull(&reference, "open")?;
    let secure = Registry::start(Access::Basic, Transport::Http)?;
    let reference = secure.push(&oci(&layout, "1"), "secure-image:latest")?;
    let mut params = pull(&reference, "secure");
    params["credentials"] = json!({"username": USER, "secret": PASSWORD});
    stage.call("image.pull", &params)?;
    stage.pull(&oci(&layout, "1"), "local")?;

    // 5.4: nobody, the right one, a wrong one.
    let error = stage.refused("image.scan", &json!({"image": "secure"}))?;
    assert_eq!(code(&error), "registry.auth_required");
    let mut scan = json!({"image": "secure", "credentials": params["credentials"]});
    assert_eq!(stage.call("image.scan", &scan)?["is_newer"], false);
    scan["credentials"]["secret"] = json!("wrong");
    let error = stage.refused("image.scan", &scan)?;
    assert_eq!(code(&error), "registry.auth_failed");
    // 10.2: who may not write takes nothing off.
    let error = stage.refused("image.untag", &json!({"image": "secure"}))?;
    assert_eq!(code(&error), "registry.auth_required");

    // What is gone is told from what cannot be asked.
    let open_host = open.host();
    printed(&stage, &["image", "untag", "open"])?;
    let error = stage.refused("image.scan", &json!({"image": "open"}))?;
    assert_eq!(code(&error), "image.source_gone");
    assert_eq!(
        tags(&stage, &format!("{open_host}/image"))?,
        Vec::<String>::new()
    );

    // 5.3 and 10.3.
    open.stop()?;
    for method in ["image.scan", "image.untag"] {
        let error = stage.refused(method, &json!({"image": "open"}))?;
        assert_eq!(code(&error), "registry.unreachable", "{method}: {error}");
        let error = stage.refused(method, &json!({"image": "local"}))?;
        assert_eq!(code(&error), "image.no_registry", "{method}");
    }
    let standing = stage.call("image.outdated", &json!({}))?;
    let states: Vec<&Value> = (0..2).map(|n| &standing["items"][n]["state"]).collect();
    assert_eq!(states, ["unknown", "unknown"]);
    let why = [0, 1].map(|n| standing["items"][n]["error"]["code"].clone());
    assert_eq!(why, ["registry.unreachable", "registry.auth_required"]);
    assert_eq!(printed(&stage, &["outdated"])?.lines().count(), 3);
    Ok(())
}

#[test]
fn case_10_1_one_tag_goes_and_the_other_of_the_same_digest_stays() -> Result<()> {
    if tools::must_skip("case_10_1_one_tag_goes", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mut layout = source::small(&stage.path("layout"))?;
    let other = image(&layout, "other", "amd64")?;
    layout.tag("2", &other)?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let reference = registry.push(&oci(&layout, "1"), "app:v1")?;
    registry.push(&oci(&layout, "1"), "app:stable")?;
    registry.push(&oci(&layout, "2"), "app:other")?;
    let app = format!("{}/app", registry.host());
    let pulled = stage.pull(&reference, "app")?;
    let id = &pulled["id"];

    // Only tags of what the image was made from.
    let wrong = json!({"image_id": id, "tag": "other"});
    let error = stage.refused("image.untag", &wrong)?;
    assert_eq!(code(&error), "source.changed");
    let missing = json!({"image_id": id, "tag": "none"});
    let error = stage.refused("image.untag", &missing)?;
    assert_eq!(code(&error), "source.not_found");
    let told = printed(&stage, &["image", "untag", "app", "--dry-run"])?;
    assert!(
        told.starts_with(&format!("would untag {reference}; sha256:")),
        "{told}"
    );
    assert_eq!(tags(&stage, &app)?, ["other", "stable", "v1"]);

    let untagged = stage.call(
        "image.untag",
        &json!({"image_id": id, "registry": registry.host()}),
    )?;

    assert_eq!(untagged["image"]["id"], *id);
    assert_eq!(untagged["reference"], reference.as_str());
    assert_eq!(tags(&stage, &app)?, ["other", "stable"]);
    let kept = stage.call(
        "registry.manifest",
        &json!({"ref": format!("{app}:stable")}),
    )?;
    assert_eq!(kept["digest"], untagged["digest"]);
    assert_eq!(
        stage.call("image.get", &json!({"image": "app"}))?["version"],
        pulled["version"]
    );
    stage.pull(&format!("{app}:stable"), "again")?;
    Ok(())
}
