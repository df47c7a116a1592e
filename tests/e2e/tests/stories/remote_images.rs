//! Images and the registries they came from: asking again, what is outdated, taking a tag off. The
//! cases 5.x and 10.x of the image service.

use std::fs;

use anyhow::{Context as _, Result};
use kiln_testkit::elf;
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Descriptor, Layout, Platform};
use kiln_testkit::oci_registry::{Deletes, OciRegistry, Offers};
use kiln_testkit::registry::{Access, PASSWORD, READER, Registry, Transport, USER};
use kiln_testkit::tools::{self, Need};
use serde_json::{Value, json};

use crate::browsing::{kiln, printed};
use crate::source::{self, oci};
use crate::stage::{Stage, code, pull, text};

pub(crate) const NEEDS: &[Need] = &[tools::DOCKER_REGISTRY, tools::SKOPEO, tools::HTPASSWD];

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

/// Starts a registry with one image, pulls that under a name, and returns the registry.
fn pulled_from(stage: &Stage, access: Access, name: &str) -> Result<Registry> {
    let layout = source::small(&stage.path(name))?;
    let registry = Registry::start(access, Transport::Http)?;
    let reference = registry.push(&oci(&layout, "1"), &format!("private/{name}:latest"))?;
    let mut params = pull(&reference, name);
    if access != Access::Anonymous {
        params["credentials"] = login(USER, PASSWORD);
    }
    stage.call("image.pull", &params)?;
    Ok(registry)
}

fn login(user: &str, secret: &str) -> Value {
    json!({"username": user, "secret": secret})
}

#[test]
fn case_5_3_a_registry_that_is_off_is_told_from_an_image_that_is_gone() -> Result<()> {
    if tools::must_skip("case_5_3_a_registry_that_is_off", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mut registry = pulled_from(&stage, Access::Anonymous, "open")?;
    let layout = source::small(&stage.path("layout"))?;
    stage.pull(&oci(&layout, "1"), "local")?;

    let host = registry.host();
    printed(&stage, &["image", "untag", "open"])?;
    let error = stage.refused("image.scan", &json!({"image": "open"}))?;
    assert_eq!(code(&error), "image.source_gone");
    let left = tags(&stage, &format!("{host}/private/open"))?;
    assert_eq!(left, Vec::<String>::new());

    registry.stop()?;
    for method in ["image.scan", "image.untag"] {
        let error = stage.refused(method, &json!({"image": "open"}))?;
        assert_eq!(code(&error), "registry.unreachable", "{method}: {error}");
        assert_eq!(error.data["retryable"], true, "{method}");
        let error = stage.refused(method, &json!({"image": "local"}))?;
        assert_eq!(code(&error), "image.no_registry", "{method}");
    }
    let standing = stage.call("image.outdated", &json!({}))?;
    assert_eq!(standing["items"][0]["state"], "unknown");
    assert_eq!(
        standing["items"][0]["error"]["code"],
        "registry.unreachable"
    );
    Ok(())
}

#[test]
fn case_5_4_a_registry_that_wants_a_login_says_so() -> Result<()> {
    if tools::must_skip("case_5_4_a_registry_that_wants_a_login", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = pulled_from(&stage, Access::Basic, "secure-image")?;

    // Nobody, the right one, a wrong one.
    let mut scan = json!({"image": "secure-image"});
    let error = stage.refused("image.scan", &scan)?;
    assert_eq!(code(&error), "registry.auth_required");
    scan["credentials"] = login(USER, PASSWORD);
    assert_eq!(stage.call("image.scan", &scan)?["is_newer"], false);
    scan["credentials"] = login(USER, "wrong");
    let error = stage.refused("image.scan", &scan)?;
    assert_eq!(code(&error), "registry.auth_failed");

    let standing = stage.call("image.outdated", &json!({}))?;
    let why = &standing["items"][0]["error"]["code"];
    assert_eq!(why, "registry.auth_required");
    let listed = kiln(&stage, &["outdated"])?;
    assert_eq!(listed.status.code(), Some(9), "nobody knows: {listed:?}");
    assert_eq!(String::from_utf8(listed.stdout)?.lines().count(), 2);
    drop(registry);
    Ok(())
}

#[test]
fn what_a_scan_finds_is_registered_once_and_only_on_request() -> Result<()> {
    if tools::must_skip("what_a_scan_finds_is_registered_once", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mut layout = source::small(&stage.path("layout"))?;
    let second = image(&layout, "second", "amd64")?;
    layout.tag("2", &second)?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let reference = registry.push(&oci(&layout, "1"), "cuda:base")?;
    let first = stage.pull(&reference, "cuda")?;

    // Nothing is newer: nothing is made.
    let register = json!({"image": "cuda", "register": true});
    let same = stage.call("image.scan", &register)?;
    assert_eq!(
        (&same["is_newer"], &same["registered"]),
        (&json!(false), &Value::Null)
    );

    registry.push(&oci(&layout, "2"), "cuda:base")?;
    let looked = stage.call("image.scan", &json!({"image": "cuda"}))?;
    assert_eq!(looked["registered"], Value::Null);
    let said = printed(&stage, &["image", "scan", "cuda", "--register", "--json"])?;
    let made: Value = serde_json::from_str(&said)?;
    let digest = made["remote"]["manifest_digest"]
        .as_str()
        .context("no digest")?;
    let digits: String = digest.chars().skip("sha256:".len()).take(12).collect();
    let name = format!("cuda-{digits}");
    assert_eq!(made["registered"]["name"], name.as_str());

    // It is there, boots with the same kernel, and the first stays what it is.
    let now = stage.call("image.get", &json!({"image": name}))?;
    assert_eq!(now["source"]["manifest_digest"], digest);
    assert_eq!(now["kernel"]["name"], first["kernel"]["name"]);
    let before = stage.call("image.get", &json!({"image": "cuda"}))?;
    assert_eq!(before["version"], first["version"]);
    // The audit tells which operation it was.
    let operation = &made["registered"]["operation_id"];
    let lines = stage.call("audit.list", &json!({"method": "image.scan"}))?;
    let line = lines["items"].as_array().and_then(|lines| lines.last());
    assert_eq!(&line.context("no line")?["operation_id"], operation);

    // Twice makes one, whoever asks under which name.
    let again = json!({"image": "cuda", "register": true, "name": "other"});
    let again = stage.call("image.scan", &again)?;
    assert_eq!(again["registered"], json!({"name": name}));
    let said = printed(&stage, &["image", "scan", "cuda", "--register"])?;
    assert!(said.contains(&format!("{name}, which was there")), "{said}");
    Ok(())
}

#[test]
fn scans_that_come_together_make_one_image() -> Result<()> {
    if tools::must_skip("scans_that_come_together_make_one_image", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mut layout = Layout::create(stage.path("layout"))?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let one = image(&layout, "one", "amd64")?;
    layout.tag("1", &one)?;
    let reference = registry.push(&oci(&layout, "1"), "app:latest")?;
    stage.pull(&reference, "app")?;
    let two = image(&layout, "two", "amd64")?;
    layout.tag("2", &two)?;
    registry.push(&oci(&layout, "2"), "app:latest")?;

    let made: Vec<Value> = std::thread::scope(|scope| {
        let scans: Vec<_> = (1..=4)
            .map(|n| {
                let params = json!({"image": "app", "register": true, "name": format!("app-{n}")});
                let stage = &stage;
                scope.spawn(move || stage.call("image.scan", &params))
            })
            .collect();
        let joined = scans.into_iter().map(|scan| match scan.join() {
            Ok(scanned) => Ok(scanned?["registered"].clone()),
            Err(_) => anyhow::bail!("a scan panicked"),
        });
        joined.collect::<Result<_>>()
    })?;

    let operation = made
        .iter()
        .find_map(|registered| registered["operation_id"].as_str())
        .context("nobody began")?;
    stage.call("operation.wait", &json!({"operation_id": operation}))?;
    for registered in &made {
        assert_eq!(registered["name"], made[0]["name"], "{made:?}");
    }
    let images = stage.call("image.list", &json!({}))?;
    assert_eq!(
        images["items"].as_array().map(Vec::len),
        Some(2),
        "{images}"
    );
    Ok(())
}

#[test]
fn another_architecture_is_registered_with_a_kernel_for_it() -> Result<()> {
    if tools::must_skip("another_architecture_is_registered", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    fs::write(stage.path("vmlinux-arm"), elf::smallest(elf::AARCH64))?;
    let kernel = json!({"name": "arm", "kernel_path": stage.path("vmlinux-arm")});
    stage.call("kernel.import", &kernel)?;
    let mut layout = Layout::create(stage.path("layout"))?;
    let images = [
        image(&layout, "amd", "amd64")?,
        image(&layout, "arm", "arm64")?,
    ];
    let index = layout.add_index(&images)?;
    layout.tag("1", &index)?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let reference = registry.push(&oci(&layout, "1"), "alpine:latest")?;
    let mut amd = pull(&reference, "alpine");
    amd["boot"] = json!("none");
    stage.call("image.pull", &amd)?;

    let arm = json!({"image": "alpine", "architecture": "arm64"});
    let missing = stage.refused("image.scan", &arm)?;
    assert_eq!(code(&missing), "image.not_found");
    let mut arm = json!({"image": "alpine", "architecture": "arm64", "register": true,
        "name": "alpine-arm", "kernel_ref": "none-such"});
    let refused = stage.refused("image.scan", &arm)?;
    assert_eq!(code(&refused), "kernel.not_found");
    arm["kernel_ref"] = json!("arm");
    let made = stage.call("image.scan", &arm)?;

    assert_eq!(made["remote"]["architecture"], "arm64");
    assert_eq!(made["registered"]["name"], "alpine-arm");
    let id = text(&made["registered"], "operation_id")?;
    let ended = stage.call("operation.wait", &json!({"operation_id": id}))?;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let shown = stage.call("image.get", &json!({"image": "alpine-arm"}))?;
    assert_eq!(shown["architecture"], "arm64");
    // It boots as the first does.
    assert_eq!(shown["boot"]["choice"], "none");
    let alone = stage.call("image.get", &json!({"image": "alpine"}))?;
    assert_eq!(alone["architecture"], "amd64");
    Ok(())
}

#[test]
fn case_10_2_who_may_only_read_takes_no_tag_off() -> Result<()> {
    let needs = [NEEDS, &[tools::OPENSSL]].concat();
    if tools::must_skip("case_10_2_who_may_only_read", &needs)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = pulled_from(&stage, Access::Bearer, "app")?;
    let untag = |credentials: Option<Value>| {
        let mut params = json!({"image": "app"});
        params["credentials"] = credentials.unwrap_or_default();
        stage.refused("image.untag", &params)
    };

    // A login that is right and may read, none, and one that is wrong.
    let reader = untag(Some(login(READER, PASSWORD)))?;
    assert_eq!(code(&reader), "registry.denied", "{reader}");
    assert_eq!(code(&untag(None)?), "registry.auth_required");
    let wrong = untag(Some(login(READER, "wrong")))?;
    assert_eq!(code(&wrong), "registry.auth_failed");

    // The reader reads, the tag is there, and who may write takes it off.
    let app = format!("{}/private/app", registry.host());
    let read = json!({"ref": app, "credentials": login(READER, PASSWORD)});
    let listed = stage.call("registry.tags", &read)?;
    assert_eq!(listed["items"], json!(["latest"]));
    let writer = json!({"image": "app", "credentials": login(USER, PASSWORD)});
    stage.call("image.untag", &writer)?;
    let gone = stage.call("registry.tags", &read)?;
    assert_eq!(gone["items"], json!([]));
    Ok(())
}

#[test]
fn case_10_3_a_registry_that_breaks_is_quoted_and_keeps_the_tag() -> Result<()> {
    if tools::must_skip("case_10_3_a_registry_that_breaks", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let registry = OciRegistry::start(Offers {
        deletes: Deletes::Broken,
        ..Offers::default()
    })?;
    let reference = format!("{}/app:v1", registry.host());
    let source = oci(&layout, "1");
    printed(&stage, &["copy", &source, &format!("docker://{reference}")])?;
    let image = stage.pull(&reference, "app")?;
    let before = registry.tags("app");

    let error = stage.refused("image.untag", &json!({"image_id": image["id"]}))?;

    assert_eq!(code(&error), "registry.server_error", "{error}");
    assert!(
        error.message.contains("no disk behind the registry"),
        "{error}"
    );
    assert!(error.message.contains("500"), "{error}");
    assert_eq!(registry.tags("app"), before);
    let kept = stage.call("image.get", &json!({"image": "app"}))?;
    assert_eq!(kept["version"], image["version"]);
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
