//! Other names of images: the cases 8.x and 9.x of the image service and its scenario 2.

use anyhow::{Context as _, Result};
use kiln_testkit::tools;
use serde_json::{Value, json};

use crate::browsing::printed;
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
fn case_8_2_an_alias_that_exists_is_refused_and_stays_what_it_is() -> Result<()> {
    let stage = stage_with_images(&["web", "other"])?;
    alias(&stage, "existing", "web")?;

    // The taken name is told before the missing target.
    for target in ["other", "nothing", "web"] {
        let told = refusal(&stage, "existing", target)?;
        assert_eq!(told, "alias.already_exists", "{target}");
    }
    // Images and aliases share their names.
    assert_eq!(refusal(&stage, "other", "web")?, "image.already_exists");
    let layout = source::small(&stage.path("again"))?;
    let taken = crate::stage::pull(&oci(&layout, "1"), "existing");
    let taken = stage.refused("image.pull", &taken)?;
    assert_eq!(code(&taken), "image.already_exists");
    assert_eq!(id_of(&stage, "existing")?, id_of(&stage, "web")?);
    Ok(())
}

#[test]
fn case_8_3_no_alias_leads_in_a_circle_nor_on_and_on() -> Result<()> {
    let stage = stage_with_images(&["web"])?;
    alias(&stage, "b", "web")?;
    alias(&stage, "a", "b")?;

    // The circle is told before the taken name and the missing target.
    for (name, target) in [("b", "a"), ("b", "a:latest"), ("new", "new")] {
        assert_eq!(refusal(&stage, name, target)?, "alias.circular", "{name}");
    }
    // A chain has an end: sixteen may follow each other.
    let mut last = "a".to_owned();
    let mut refused = None;
    for n in 0..20 {
        let name = format!("link-{n}");
        let link = json!({"alias": name, "target": last});
        match stage.daemon.call("image.alias", &link) {
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
    Ok(())
}

#[test]
fn case_8_4_an_alias_of_nothing_is_refused() -> Result<()> {
    let stage = stage_with_images(&["web", "other"])?;
    stage.call("image.forget", &json!({"image": "other"}))?;

    for target in ["non-existent:latest", "nothing", "web:no-tag", "other"] {
        let told = refusal(&stage, "new-alias", target)?;
        assert_eq!(told, "alias.target_not_found", "{target}");
    }
    let arm = json!({"alias": "new-alias", "target": "web", "architecture": "arm64"});
    let arm = stage.refused("image.alias", &arm)?;
    assert_eq!(code(&arm), "alias.target_not_found");
    assert_eq!(listed(&stage, &json!({}))?, Vec::<String>::new());
    Ok(())
}

fn dealias(stage: &Stage, alias: &str) -> Result<Value> {
    stage.call("image.dealias", &json!({"alias": alias}))
}

#[test]
fn case_9_1_an_alias_goes_and_what_led_through_it_leads_on() -> Result<()> {
    let stage = stage_with_images(&["web"])?;
    let id = id_of(&stage, "web")?;
    for (name, target) in [("b", "web"), ("a", "b"), ("a-1", "b:v1.0.0")] {
        alias(&stage, name, target)?;
    }

    let removed = dealias(&stage, "b")?;

    assert_eq!(removed["alias"]["alias"], "b");
    assert_eq!(removed["alias"]["target"], "web");
    assert_eq!(removed["retargeted"], json!(["a", "a-1"]));
    assert_eq!(listed(&stage, &json!({}))?, ["a web", "a-1 web:v1.0.0"]);
    for name in ["a", "a-1"] {
        assert_eq!(id_of(&stage, name)?, id, "{name}");
    }
    let refused = stage.refused("image.get", &json!({"image": "b"}))?;
    assert_eq!(code(&refused), "image.not_found");
    Ok(())
}

#[test]
fn case_9_2_an_alias_that_is_not_there_is_said_to_be_missing() -> Result<()> {
    let stage = stage_with_images(&["web"])?;

    // A name that is an image's is no alias.
    for name in ["non-existent-alias", "web"] {
        let refused = stage.refused("image.dealias", &json!({"alias": name}))?;
        assert_eq!(code(&refused), "alias.not_found", "{name}");
    }
    id_of(&stage, "web")?;
    Ok(())
}

#[test]
fn case_9_3_one_of_several_aliases_goes_and_the_rest_stay() -> Result<()> {
    let stage = stage_with_images(&["web"])?;
    for name in ["a", "b", "c"] {
        alias(&stage, name, "web")?;
    }

    dealias(&stage, "b")?;

    assert_eq!(listed(&stage, &json!({}))?, ["a web", "c web"]);
    let shown = stage.call("image.get", &json!({"image": "web"}))?;
    assert_eq!(shown["aliases"], json!(["a", "c"]));
    Ok(())
}

#[test]
fn scenario_2_a_friendly_name_works_wherever_the_long_one_does() -> Result<()> {
    let stage = stage_with_images(&["nvidia/tensorflow"])?;
    let long = "nvidia/tensorflow:latest";
    let run = |words: &[&str]| printed(&stage, words);
    run(&["alias", "add", "tensorflow-gpu", long])?;

    // Every command that only looks prints the same by either name.
    for words in [
        &["image", "show"][..],
        &["image", "limits"],
        &["image", "history"],
        &["image", "forget", "--dry-run"],
    ] {
        let by = |name| run(&[words, &[name]].concat());
        assert_eq!(by("tensorflow-gpu")?, by(long)?, "{words:?}");
    }
    run(&["image", "label", "tensorflow-gpu", "tier=gold"])?;
    let opened = stage.call("image.open", &json!({"image": "tensorflow-gpu"}))?;
    assert_eq!(opened["image"]["labels"], json!({"tier": "gold"}));
    let leased = run(&[
        "image",
        "lease",
        "tensorflow-gpu",
        "--purpose",
        "training",
        "-q",
    ])?;
    run(&["image", "release", leased.trim()])?;
    let copy = stage.path("copy").display().to_string();
    run(&["checkout", "tensorflow-gpu", &copy])?;
    assert_eq!(
        run(&["alias", "ls", "tensorflow-gpu", "-q"])?,
        "tensorflow-gpu\n"
    );

    // Forgotten by the alias, which then means the forgotten image.
    run(&["forget", "tensorflow-gpu"])?;
    let shown = stage.call("image.get", &json!({"image": "tensorflow-gpu"}))?;
    assert_eq!(shown["is_active"], false);
    run(&["restore", "tensorflow-gpu"])?;
    let restored = stage.call("image.get", &json!({"image": long}))?;
    assert_eq!(
        (&restored["is_active"], &restored["name"]),
        (&json!(true), &json!("nvidia/tensorflow"))
    );
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

/// What the resolver finds, what is listed and what an image shows are one.
#[test]
fn lists_and_purges_go_by_where_aliases_lead_now() -> Result<()> {
    let stage = stage_with_images(&["web", "web2"])?;
    let (old, new) = (id_of(&stage, "web")?, id_of(&stage, "web2")?);
    alias(&stage, "prod", "web")?;
    stage.call("image.forget", &json!({"image": "web"}))?;
    assert_eq!(id_of(&stage, "prod")?, old);

    // The name of what was forgotten leads elsewhere.
    alias(&stage, "web", "web2")?;
    assert_eq!(id_of(&stage, "prod")?, new);
    let listed_ids = |params: &Value| -> Result<Vec<String>> {
        let page = stage.call("alias.list", params)?;
        let items = page["items"].as_array().context("no items")?;
        let shown = |row| {
            Ok(format!(
                "{} {}",
                text(row, "alias")?,
                text(row, "image_id")?
            ))
        };
        items.iter().map(shown).collect()
    };
    let both = [format!("prod {new}"), format!("web {new}")];
    assert_eq!(listed_ids(&json!({}))?, both);
    assert_eq!(listed_ids(&json!({"image": "web2"}))?, both);
    assert_eq!(listed_ids(&json!({"image": old}))?, Vec::<String>::new());
    let shown = |image: &str| -> Result<Value> {
        let shown = stage.call("image.get", &json!({"image": image}))?;
        Ok(shown["aliases"].clone())
    };
    assert_eq!(shown("web2")?, json!(["prod", "web"]));
    assert_eq!(shown(&old)?, Value::Null);
    let first = stage.call("alias.list", &json!({"image": "web2", "limit": 1}))?;
    let rest = listed_ids(&json!({"image": "web2", "after": first["next"]}))?;
    assert_eq!(rest, [format!("web {new}")]);

    // What leads to an image goes with it, and none jumps back to the forgotten one.
    let params = |image: &str, dry_run: bool| json!({"image_id": image, "dry_run": dry_run});
    for dry_run in [true, false] {
        let purged = stage.call("image.purge_by_id", &params(&new, dry_run))?;
        assert_eq!(purged["aliases"], json!(["prod", "web"]), "{dry_run}");
    }
    assert_eq!(listed_ids(&json!({}))?, Vec::<String>::new());
    let gone = stage.refused("image.get", &json!({"image": "prod"}))?;
    assert_eq!(code(&gone), "image.not_found");
    Ok(())
}

/// An alias that meant a purged image once, and means another now, stays with that.
#[test]
fn an_alias_that_leads_elsewhere_by_now_outlives_the_image_it_was_made_for() -> Result<()> {
    let stage = stage_with_images(&["web", "web2"])?;
    let (old, new) = (id_of(&stage, "web")?, id_of(&stage, "web2")?);
    alias(&stage, "prod", "web")?;
    stage.call("image.forget", &json!({"image": "web"}))?;
    alias(&stage, "web", "web2")?;

    let purged = stage.call("image.purge_by_id", &json!({"image_id": old}))?;
    assert_eq!(purged["aliases"], json!([]));
    assert_eq!(id_of(&stage, "prod")?, new);
    let removed = dealias(&stage, "web")?;
    assert_eq!(removed["retargeted"], json!(["prod"]));
    assert_eq!(removed["alias"]["image_id"], json!(new));
    assert_eq!(listed(&stage, &json!({"image": new}))?, ["prod web2"]);
    Ok(())
}

#[test]
fn a_name_that_is_taken_is_told_without_words_of_other_commands() -> Result<()> {
    let stage = stage_with_images(&["web", "web2"])?;
    let params = json!({"alias": "web", "target": "web2"});
    let error = stage.refused("image.alias", &params)?;
    assert_eq!(code(&error), "image.already_exists");
    let whole = serde_json::to_string(&error.data)?;
    assert!(
        whole.contains("choose another name for the alias"),
        "{whole}"
    );
    assert!(!whole.contains("--name"), "{whole}");
    Ok(())
}
