//! Deleting from registries: what goes, what stays, and what is refused.

use anyhow::{Context as _, Result};
use kiln_testkit::oci_registry::{Deletes, OciRegistry, Offers};
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools::{self, Need};
use serde_json::{Value, json};

use crate::browsing::{kiln, printed};
use crate::source::{self, oci};
use crate::stage::{Stage, code, text};

const NEEDS: &[Need] = &[tools::DOCKER_REGISTRY, tools::SKOPEO];

fn tags(stage: &Stage, repository: &str) -> Result<Value> {
    let listed = stage.call("registry.tags", &json!({"ref": repository}))?;
    let mut names: Vec<Value> = listed["items"].as_array().context("no list")?.clone();
    names.sort_by_key(ToString::to_string);
    Ok(Value::Array(names))
}

#[test]
fn a_manifest_goes_with_all_its_tags_and_only_when_that_is_wanted() -> Result<()> {
    if tools::must_skip("a_manifest_goes_with_all_its_tags", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mut layout = source::small(&stage.path("layout"))?;
    let other = source::small_image(&layout, "other")?;
    layout.tag("2", &other)?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let one = registry.push(&oci(&layout, "1"), "app:v1")?;
    registry.push(&oci(&layout, "1"), "app:stable")?;
    let two = registry.push(&oci(&layout, "2"), "app:v2")?;
    let app = format!("{}/app", registry.host());

    let refused = stage.refused("registry.delete", &json!({"ref": one}))?;
    let silent = kiln(&stage, &["registry", "delete", &one])?;
    let told = stage.call("registry.delete", &json!({"ref": one, "dry_run": true}))?;
    let still_there = tags(&stage, &app)?;
    let words = ["registry", "rm", &one, "--force", "--yes", "--json"];
    let gone: Value = serde_json::from_str(&printed(&stage, &words)?)?;

    assert_eq!(code(&refused), "registry.tags_shared");
    assert_eq!(silent.status.code(), Some(2), "{silent:?}");
    assert_eq!(told["dry_run"], true);
    assert_eq!(still_there, json!(["stable", "v1", "v2"]));
    assert_eq!(gone["digest"], told["digest"]);
    let mut lost: Vec<String> = serde_json::from_value(gone["tags"].clone())?;
    lost.sort();
    assert_eq!(lost, ["stable", "v1"]);
    assert_eq!(tags(&stage, &app)?, json!(["v2"]));

    // The last one goes unasked; then the list is null.
    printed(&stage, &["registry", "delete", &two, "-y"])?;
    assert_eq!(tags(&stage, &app)?, json!([]));
    let again = stage.refused("registry.delete", &json!({"ref": two}))?;
    assert_eq!(code(&again), "source.not_found");
    Ok(())
}

#[test]
fn a_tag_goes_alone_from_a_registry_that_knows_how_and_from_one_that_does_not() -> Result<()> {
    if tools::must_skip("a_tag_goes_alone", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;

    // Distribution 2: by a manifest that takes its place.
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let one = registry.push(&oci(&layout, "1"), "app:v1")?;
    registry.push(&oci(&layout, "1"), "app:stable")?;
    let app = format!("{}/app", registry.host());
    let untagged = stage.call("registry.untag", &json!({"ref": one}))?;
    assert_eq!(untagged["by_replacement"], true);
    assert_eq!(tags(&stage, &app)?, json!(["stable"]));
    let pinned = format!("{app}@{}", text(&untagged, "digest")?);
    let kept = stage.call("registry.manifest", &json!({"ref": pinned}))?;
    assert_eq!(kept["digest"], untagged["digest"]);
    let plain = stage.refused("registry.untag", &json!({"ref": pinned}))?;
    assert_eq!(code(&plain), "source.invalid_reference");

    // A registry of the specification 1.1: by its own means.
    let modern = OciRegistry::start(Offers::default())?;
    let document = json!({"schemaVersion": 2, "layers": [], "config": {
        "mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "digest":
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }});
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let digest = modern.add_manifest("app", Some("v1"), manifest, &document)?;
    modern.add_manifest("app", Some("v2"), manifest, &document)?;
    let one = format!("{}/app:v1", modern.host());
    let dry = printed(&stage, &["registry", "untag", &one, "--dry-run"])?;
    assert_eq!(modern.tags("app").len(), 2);
    let said = printed(&stage, &["registry", "untag", &one])?;
    assert_eq!(dry, format!("would untag {one}; {digest} stays\n"));
    assert_eq!(said, format!("untagged {one}; {digest} stays\n"));
    let left: Vec<String> = modern.tags("app").into_keys().collect();
    assert_eq!(left, ["v2"]);
    assert_eq!(modern.manifests("app"), [digest]);
    Ok(())
}

#[test]
fn a_registry_that_deletes_nothing_is_explained_and_keeps_everything() -> Result<()> {
    let stage = Stage::new()?;
    let registry = OciRegistry::start(Offers {
        deletes: Deletes::Nothing,
        ..Offers::default()
    })?;
    let document = json!({"schemaVersion": 2, "layers": [], "config": {
        "mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "digest":
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }});
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    registry.add_manifest("app", Some("v1"), manifest, &document)?;
    let one = format!("{}/app:v1", registry.host());
    let before = registry.tags("app");

    for method in ["registry.delete", "registry.untag"] {
        let refused = stage.refused(method, &json!({"ref": one}))?;
        assert_eq!(code(&refused), "registry.unsupported", "{method}");
    }
    let said = kiln(&stage, &["registry", "rm", &one, "--yes"])?;
    let said = String::from_utf8(said.stderr)?;
    assert!(said.contains("REGISTRY_STORAGE_DELETE_ENABLED"), "{said}");
    assert_eq!(registry.tags("app"), before);
    Ok(())
}
