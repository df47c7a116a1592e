//! Built images by rule: those of a registry, and those of this host.

use anyhow::Result;
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools;
use serde_json::{Value, json};

use super::{exchange, kinds, sync, told};
use crate::bootable::{answer, assert_same_files, booting};
use crate::source::{self, oci};
use crate::stage::{Stage, pull, text};

fn registry() -> Result<Registry> {
    Registry::start(Access::Anonymous, Transport::Http)
}

/// Lists what came of each thing, as `item into up_to_date`.
fn lines(synced: &Value) -> Vec<String> {
    let items = synced["items"].as_array().into_iter().flatten();
    let line = |item: &Value| {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, done) = (word(&item["item"]), &item["ok"]);
        format!("{name} {} {}", word(&done["into"]), done["is_up_to_date"])
    };
    items.map(line).collect()
}

#[test]
fn a_built_image_in_a_registry_is_synced_like_others() -> Result<()> {
    if tools::must_skip("a_built_image_in_a_registry", &[tools::DOCKER_REGISTRY])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let (one, two) = (registry()?, registry()?);
    let image = booting(&stage, "web")?;
    let from = format!("{}/team/web:1", one.host());
    let pushed = answer(&stage, &["push", "web", &from, "--as", "bootable"])?;
    let rules = format!(
        "[[rule]]\nfrom = '{}/team/*'\ninto = '{}/copy'\n",
        one.host(),
        two.host()
    );

    let synced = told(&sync(&stage, &rules, &["--json"])?)?;
    let other = Stage::new()?;
    let into = format!("{}/copy/web:1", two.host());
    let got = answer(&other, &["pull", &into, "--name", "got"])?;

    assert_eq!(synced["copied"], 1, "{synced}");
    assert_eq!(synced["items"][0]["ok"]["digest"], pushed["digest"]);
    assert_eq!(got["source"]["manifest_digest"], pushed["digest"]);
    assert_same_files(&image, &got)?;
    Ok(())
}

#[test]
fn images_of_this_host_go_by_rule_and_what_is_there_is_not_packed_again() -> Result<()> {
    if tools::must_skip("images_of_this_host_go_by_rule", &[tools::DOCKER_REGISTRY])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mirror = registry()?;
    let web = booting(&stage, "web-1")?;
    booting(&stage, "web-2")?;
    booting(&stage, "other")?;
    let host = mirror.host();
    let built = format!("[[rule]]\nimages = 'web-*'\nas = 'bootable'\ninto = '{host}/hosts'\n");
    let places = |is_there: bool| {
        ["web-1", "web-2"]
            .map(|name| format!("{name}:latest {host}/hosts/{name}:latest {is_there}"))
    };

    let dry = told(&sync(&stage, &built, &["--dry-run", "--json"])?)?;
    let asked = mirror.asked()?;
    let nothing_yet = exchange(&host, "GET", "/v2/hosts/web-1/manifests/latest", b"")?;
    let first = told(&sync(&stage, &built, &["--json"])?)?;
    let before = mirror.asked()?.len();
    let again = told(&sync(&stage, &built, &["--json"])?)?;
    let asked_again = kinds(&mirror.asked()?, before);
    let dry_again = told(&sync(&stage, &built, &["--dry-run", "--json"])?)?;

    // The dry run says what happens, and does nothing.
    assert_eq!(lines(&dry), places(false), "{dry}");
    assert_eq!(kinds(&asked, 0), ["GET root", "HEAD blob"]);
    assert_eq!(nothing_yet.status()?, 404);
    assert_eq!(lines(&first), places(false), "{first}");
    for member in ["copied", "failed", "sent_bytes"] {
        assert_eq!(dry[member], first[member], "{member}: {dry} {first}");
    }
    for at in 0..2 {
        let digest = |synced: &Value| synced["items"][at]["ok"]["digest"].clone();
        assert_eq!(digest(&dry), digest(&first));
        assert_eq!(digest(&again), digest(&first));
    }
    // The second time nothing is packed: no part is asked for.
    assert_eq!(lines(&again), places(true), "{again}");
    assert_eq!(asked_again, ["GET root", "HEAD manifest"]);
    assert_eq!(lines(&dry_again), places(true), "{dry_again}");
    // Another host publishes it without building.
    let other = Stage::new()?;
    let into = format!("{host}/hosts/web-1:latest");
    let got = answer(&other, &["pull", &into, "--name", "got"])?;
    assert_same_files(&web, &got)?;
    // What an operator pushes by hand is the same.
    let by_hand = answer(
        &stage,
        &["push", "web-2", &format!("{host}/x:1"), "--as", "bootable"],
    )?;
    assert_eq!(by_hand["digest"], first["items"][1]["ok"]["digest"]);
    Ok(())
}

#[test]
fn a_place_that_names_something_else_gets_the_image_again() -> Result<()> {
    if tools::must_skip(
        "a_place_that_names_something_else",
        &[tools::DOCKER_REGISTRY],
    )? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mirror = registry()?;
    booting(&stage, "web")?;
    let into = format!("{}/web", mirror.host());
    let rules = format!("[[rule]]\nimages = 'web'\nas = 'bootable'\ninto = '{into}'\n");
    let first = told(&sync(&stage, &rules, &["--json"])?)?;
    answer(&stage, &["push", "web", &format!("{into}:latest")])?;

    let again = told(&sync(&stage, &rules, &["--json"])?)?;

    assert_eq!(again["copied"], 1, "{again}");
    assert_eq!(again["sent_bytes"], 0, "its parts were there: {again}");
    assert_eq!(
        again["items"][0]["ok"]["digest"],
        first["items"][0]["ok"]["digest"]
    );
    let events = stage.call("event.list", &json!({"kind": "image.pushed"}))?;
    let pushes = events["items"].as_array().map(Vec::len);
    assert_eq!(pushes, Some(3), "{events}");
    Ok(())
}

#[test]
fn the_images_they_were_made_from_go_too_and_what_cannot_is_told() -> Result<()> {
    if tools::must_skip("the_images_they_were_made_from", &[tools::DOCKER_REGISTRY])? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mirror = registry()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.call("image.pull", &pull(&oci(&layout, "1"), "app"))?;
    let host = mirror.host();
    let rules = format!(
        "[[rule]]\nimages = 'app'\ninto = '{host}/x/app'\n\
         [[rule]]\nimages = 'none'\ninto = '{host}/none'\n\
         [[rule]]\nimages = 'ap*'\ninto = '{host}/x'\n\
         [[rule]]\nimages = 'ap*'\ninto = '{host}/x'\nas = 'bootable'\n"
    );

    let synced = sync(&stage, &rules, &["--json"])?;

    assert_eq!(synced.status.code(), Some(9), "{synced:?}");
    let synced = told(&synced)?;
    let digest = text(&image["source"], "manifest_digest")?;
    assert_eq!(synced["items"][0]["ok"]["digest"], digest, "{synced}");
    assert_eq!(synced["items"][1]["error"]["code"], "image.not_found");
    // A rule that says the same again adds nothing; one that says another is told.
    assert_eq!(
        synced["items"].as_array().map(Vec::len),
        Some(3),
        "{synced}"
    );
    assert_eq!(
        synced["items"][2]["error"]["code"],
        "request.invalid_params"
    );
    let refused = sync(&stage, "[[rule]]\ninto = 'a.example/x'\n", &[])?;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    Ok(())
}
