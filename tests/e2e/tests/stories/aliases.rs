//! Other names of images: cases 8.1 to 9.3, and scenario 2.

use anyhow::{Context as _, Result};
use kiln_testkit::tools;
use serde_json::{Value, json};

use crate::descriptors::{NEEDS, NOBODY, as_user, open_stage};
use crate::source::{self, oci};
use crate::stage::{Stage, code, text};

fn alias(stage: &Stage, alias: &str, target: &str) -> Result<Value> {
    let params = json!({"alias": alias, "target": target});
    stage.call("image.alias", &params)
}

fn refusal(stage: &Stage, alias: &str, target: &str) -> Result<String> {
    let params = json!({"alias": alias, "target": target});
    Ok(code(&stage.refused("image.alias", &params)?).to_owned())
}

fn id_of(stage: &Stage, image: &str) -> Result<String> {
    text(&stage.call("image.get", &json!({"image": image}))?, "id")
}

fn listed(stage: &Stage, params: &Value) -> Result<Vec<String>> {
    let page = stage.call("alias.list", params)?;
    let items = page["items"].as_array().context("no items")?;
    items
        .iter()
        .map(|row| Ok(format!("{} {}", text(row, "alias")?, text(row, "target")?)))
        .collect()
}

fn stage_with_images(names: &[&str]) -> Result<Stage> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    for name in names {
        stage.pull(&oci(&layout, "1"), name)?;
    }
    Ok(stage)
}

#[test]
fn case_8_1_an_alias_is_another_name_of_an_image() -> Result<()> {
    let stage = stage_with_images(&["web"])?;
    let id = id_of(&stage, "web")?;

    let pinned = json!({"alias": "www", "target": "web:v1.0.0", "architecture": "x86_64"});
    let made = stage.call("image.alias", &pinned)?;
    alias(&stage, "front", "www")?;
    // Another service's word for the same, and an id as the target.
    let other = json!({"alias": "by-id", "image_canonical": id});
    stage.call("image.alias", &other)?;

    assert_eq!(
        (text(&made, "alias")?, text(&made, "image_id")?),
        ("www".to_owned(), id.clone())
    );
    for named in ["www", "front", "by-id", "by-id:latest"] {
        assert_eq!(id_of(&stage, named)?, id, "{named}");
    }
    let shown = stage.call("image.get", &json!({"image": "web"}))?;
    assert_eq!(shown["aliases"], json!(["www", "front", "by-id"]));
    assert_eq!(
        listed(&stage, &json!({"image": "front"}))?,
        ["www web:v1.0.0", "front www", &format!("by-id {id}")]
    );
    let first = stage.call("alias.list", &json!({"limit": 2}))?;
    let rest = listed(&stage, &json!({"after": first["next"]}))?;
    assert_eq!(rest, [format!("by-id {id}")]);
    Ok(())
}

#[test]
fn cases_8_2_to_8_4_what_cannot_be_an_alias_is_refused_in_order() -> Result<()> {
    let stage = stage_with_images(&["web", "other"])?;
    alias(&stage, "b", "web")?;
    alias(&stage, "a", "b")?;

    // 8.3: the circle is told before the taken name and the missing target.
    assert_eq!(refusal(&stage, "b", "a")?, "alias.circular");
    assert_eq!(refusal(&stage, "b", "a:latest")?, "alias.circular");
    assert_eq!(refusal(&stage, "new", "new")?, "alias.circular");
    // 8.2: the taken name before the missing target.
    assert_eq!(refusal(&stage, "a", "other")?, "alias.already_exists");
    assert_eq!(refusal(&stage, "a", "nothing")?, "alias.already_exists");
    assert_eq!(refusal(&stage, "other", "web")?, "image.already_exists");
    // 8.4
    assert_eq!(refusal(&stage, "new", "nothing")?, "alias.target_not_found");
    assert_eq!(
        refusal(&stage, "new", "web:no-tag")?,
        "alias.target_not_found"
    );
    stage.call("image.forget", &json!({"image": "other"}))?;
    assert_eq!(refusal(&stage, "new", "other")?, "alias.target_not_found");
    let arm = json!({"alias": "new", "target": "web", "architecture": "arm64"});
    let arm = stage.refused("image.alias", &arm)?;
    assert_eq!(code(&arm), "alias.target_not_found");
    // A chain has an end: sixteen may follow each other.
    let mut last = "a".to_owned();
    let mut refused = None;
    for n in 0..20 {
        let name = format!("link-{n}");
        match stage
            .daemon
            .call("image.alias", &json!({"alias": name, "target": last}))
        {
            Ok(_) => assert_eq!(id_of(&stage, &name)?, id_of(&stage, "web")?),
            Err(error) => {
                refused = Some(kiln_testkit::daemon::CallError::refused(error)?);
                break;
            }
        }
        last = name;
    }
    let refused = refused.context("a chain without an end")?;
    assert_eq!(code(&refused), "alias.circular");
    // An image cannot take an alias's name either.
    let layout = source::small(&stage.path("again"))?;
    let taken = crate::stage::pull(&oci(&layout, "1"), "a");
    assert_eq!(
        code(&stage.refused("image.pull", &taken)?),
        "image.already_exists"
    );
    Ok(())
}

#[test]
fn cases_9_1_to_9_3_an_alias_goes_alone_and_others_lead_on() -> Result<()> {
    let stage = stage_with_images(&["web"])?;
    let id = id_of(&stage, "web")?;
    for (name, target) in [("b", "web"), ("a", "b"), ("a-1", "b:v1.0.0"), ("c", "web")] {
        alias(&stage, name, target)?;
    }
    let dealias = |name: &str| stage.call("image.dealias", &json!({"alias": name}));

    // 9.2, and a name that is an image's.
    for name in ["none", "web"] {
        let refused = stage.refused("image.dealias", &json!({"alias": name}))?;
        assert_eq!(code(&refused), "alias.not_found", "{name}");
    }
    // 9.1 and 9.3
    let removed = dealias("b")?;
    assert_eq!(removed["retargeted"], json!(["a", "a-1"]));
    assert_eq!(removed["alias"]["target"], "web");
    assert_eq!(
        listed(&stage, &json!({}))?,
        ["a web", "a-1 web:v1.0.0", "c web"]
    );
    for name in ["a", "a-1", "c"] {
        assert_eq!(id_of(&stage, name)?, id, "{name}");
    }
    let refused = stage.refused("image.get", &json!({"image": "b"}))?;
    assert_eq!(code(&refused), "image.not_found");
    dealias("c")?;
    assert_eq!(listed(&stage, &json!({}))?.len(), 2);
    Ok(())
}

#[test]
fn scenario_2_a_friendly_name_works_wherever_the_long_one_does() -> Result<()> {
    let stage = stage_with_images(&["nvidia/tensorflow"])?;
    alias(&stage, "tensorflow-gpu", "nvidia/tensorflow")?;

    let opened = stage.call("image.open", &json!({"image": "tensorflow-gpu"}))?;
    assert_eq!(opened["image"]["name"], "nvidia/tensorflow");
    let leased = json!({"image": "tensorflow-gpu", "purpose": "training"});
    let lease = stage.call("image.lease", &leased)?;
    stage.call("image.release", &json!({"lease_id": lease["id"]}))?;
    // 1.2: forgotten by an alias; the alias then means the forgotten image.
    let forget = json!({"reference": "tensorflow-gpu", "architecture": null});
    let forgotten = stage.call("image.forget", &forget)?;
    assert_eq!(forgotten["image"]["is_active"], false);
    let again = stage.call("image.forget", &forget)?;
    assert_eq!(again["already_forgotten"], true);
    let restored = stage.call("image.restore", &json!({"image": "tensorflow-gpu"}))?;
    assert_eq!(restored["image"]["name"], "nvidia/tensorflow");
    Ok(())
}

#[test]
fn an_alias_is_its_makers_and_its_images_keepers() -> Result<()> {
    if tools::must_skip("an_alias_is_its_makers_and_its_images_keepers", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let layout = source::small(&stage.path("layout"))?;
    stage.pull(&oci(&layout, "1"), "web")?;
    alias(&stage, "www", "web")?;

    let (make, take, seen) = as_user(NOBODY, || {
        Ok((
            stage.refused("image.alias", &json!({"alias": "mine", "target": "web"}))?,
            stage.refused("image.dealias", &json!({"alias": "www"}))?,
            listed(&stage, &json!({}))?,
        ))
    })?;

    assert_eq!(code(&make), "request.denied");
    assert_eq!(code(&take), "request.denied");
    assert_eq!(seen, Vec::<String>::new());
    Ok(())
}
