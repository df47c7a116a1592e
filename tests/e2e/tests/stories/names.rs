//! Images by their names: found, listed, forgotten, and what the events say of it.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::operations::Tap;
use crate::source::{self, oci};
use crate::stage::{KERNEL, Stage, assert_same_bytes, code, text};

fn get(stage: &Stage, image: &str) -> Result<Value> {
    stage.call("image.get", &json!({"image": image}))
}

fn names(stage: &Stage, params: &Value) -> Result<Vec<String>> {
    let listed = stage.call("image.list", params)?;
    let items = listed["items"].as_array().context("no items")?;
    items.iter().map(|image| text(image, "name")).collect()
}

#[test]
fn an_image_answers_to_its_id_its_name_and_its_reference() -> Result<()> {
    let stage = Stage::new()?;
    let tap = Tap::start()?;
    tap.open();
    let image = stage.pull(&tap.reference(), "image")?;
    let id = text(&image, "id")?;

    for named in [
        &id,
        "image",
        "image:latest",
        "image:v1.0.0",
        &tap.reference(),
    ] {
        assert_eq!(get(&stage, named)?["id"], id, "{named}");
    }
    let pinned = json!({"image": "image", "architecture": "x86_64"});
    assert_eq!(stage.call("image.get", &pinned)?["id"], id);
    assert_eq!(image["version"]["number"], "v1.0.0");
    assert_eq!(image["tags"], json!(["latest"]));
    assert_eq!(image["source"]["reference"], tap.reference());
    assert_eq!(image["source"]["kind"], "registry");

    stage.pull(&tap.reference(), "other")?;
    let refused = stage.refused("image.get", &json!({"image": tap.reference()}))?;
    assert_eq!(code(&refused), "image.ambiguous");
    assert!(
        refused.data["hint"]["text"].to_string().contains(&id),
        "{refused}"
    );
    let refused = stage.refused("image.get", &json!({"image": "nobody"}))?;
    assert_eq!(code(&refused), "image.not_found");
    assert!(refused.message.contains("nobody"), "{refused}");
    Ok(())
}

#[test]
fn a_forgotten_image_hides_and_frees_its_name() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), "image")?;
    let id = text(&image, "id")?;
    let forget = |params: Value| stage.call("image.forget", &params);

    let foretold = forget(json!({"image": "image", "dry_run": true}))?;
    assert_eq!(
        (
            foretold["dry_run"].clone(),
            names(&stage, &json!({}))?.len()
        ),
        (json!(true), 1)
    );
    let taken = stage.refused(
        "image.pull",
        &crate::stage::pull(&oci(&layout, "1"), "image"),
    )?;
    let first = forget(json!({"image": "image"}))?;
    let again = forget(json!({"image": id}))?;

    assert_eq!(code(&taken), "image.already_exists");
    assert!(taken.message.contains(&id), "{taken}");
    assert_eq!(first["already_forgotten"], false);
    assert_eq!(again["already_forgotten"], true);
    assert_eq!(again["image"]["is_active"], false);
    assert_eq!(again["image"]["deleted_at"], first["image"]["deleted_at"]);
    assert_eq!(names(&stage, &json!({}))?, Vec::<String>::new());
    assert_eq!(names(&stage, &json!({"all": true}))?, ["image"]);
    // Its files stay until its retention ends; its name serves anew.
    assert!(fs::exists(text(&image["rootfs"], "path")?)?);
    let second = stage.pull(&oci(&layout, "1"), "image")?;
    assert_ne!(second["id"], id);
    assert_eq!(get(&stage, "image")?["id"], second["id"]);
    assert_eq!(get(&stage, &id)?["is_active"], false);
    Ok(())
}

#[test]
fn lists_come_in_pages_and_in_order() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let want: Vec<String> = (0..7).map(|number| format!("image-{number}")).collect();
    for name in &want {
        stage.pull(&oci(&layout, "1"), name)?;
    }

    let mut found = Vec::new();
    let mut after = Value::Null;
    loop {
        let page = stage.call("image.list", &json!({"limit": 3, "after": after}))?;
        for image in page["items"].as_array().context("no items")? {
            found.push(text(image, "name")?);
        }
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
        assert!(found.len() <= want.len(), "no end: {found:?}");
    }

    assert_eq!(found, want);
    assert_eq!(names(&stage, &json!({"name": "e-3"}))?, ["image-3"]);
    Ok(())
}

#[test]
fn events_tell_what_happened_in_order_and_who_did_it() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), "image")?;
    stage.call("image.forget", &json!({"image": "image"}))?;
    stage.call("kernel.remove", &json!({"name": KERNEL}))?;

    let events = stage.call("event.list", &json!({}))?;

    let events = events["items"].as_array().context("no items")?;
    let kinds: Vec<String> = events
        .iter()
        .map(|event| text(event, "kind"))
        .collect::<Result<_>>()?;
    let want = [
        "kernel.imported",
        "operation.started",
        "image.created",
        "operation.succeeded",
        "image.forgotten",
        "kernel.removed",
    ];
    assert_eq!(kinds, want);
    let actor = format!("unix:{}", rustix::process::geteuid().as_raw());
    assert!(
        events.iter().all(|event| event["actor"] == actor),
        "{events:?}"
    );
    assert!(
        events
            .windows(2)
            .all(|pair| pair[0]["seq"].as_u64() < pair[1]["seq"].as_u64())
    );
    let of_image = json!({"object_id": image["id"]});
    let of_image = stage.call("event.list", &of_image)?;
    assert_eq!(of_image["items"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[test]
fn an_image_outlives_the_kernel_it_was_made_with() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), "image")?;

    stage.call("kernel.remove", &json!({"name": KERNEL}))?;

    assert_eq!(stage.entries("kernels")?, Vec::<String>::new());
    let kernel = text(&image["kernel"], "path")?;
    assert_eq!(fs::read(kernel)?, fs::read(stage.path("vmlinux"))?);
    assert_eq!(get(&stage, "image")?["kernel"]["name"], KERNEL);
    Ok(())
}

#[test]
fn a_registered_filesystem_becomes_an_image_of_its_own() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let pulled = stage.pull(&oci(&layout, "1"), "pulled")?;
    let rootfs = text(&pulled["rootfs"], "path")?;

    let params = json!({"name": "registered", "rootfs_path": rootfs, "kernel_ref": KERNEL});
    let registered = stage.call("image.register", &params)?;
    let taken = stage.refused("image.register", &params)?;

    assert_eq!(code(&taken), "image.already_exists");
    assert_eq!(registered["source"]["kind"], "file");
    assert_eq!(registered["managed"], true);
    assert!(registered["rootfs"]["derivation"].is_null());
    assert_same_bytes(&text(&registered["rootfs"], "path")?, &rootfs)
}
