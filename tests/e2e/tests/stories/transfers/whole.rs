//! Pushes of the whole index that an image was chosen from.

use anyhow::Result;
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools;
use serde_json::json;

use super::{NEEDS, fetch_by_skopeo, told, with_platforms};
use crate::source::{self, oci};
use crate::stage::{Stage, code};

#[test]
fn all_platforms_go_as_long_as_the_tag_still_names_them() -> Result<()> {
    if tools::must_skip("all_platforms_go_as_long_as", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let home = Registry::start(Access::Anonymous, Transport::Http)?;
    let other = Registry::start(Access::Anonymous, Transport::Http)?;
    let (layout, index) = with_platforms(&stage)?;
    let from = home.push(&oci(&layout, "many"), "some/many:1")?;
    let image = stage.pull(&from, "many")?;
    let into = format!("{}/mine/many:1", other.host());
    let one = format!("{}/mine/one:1", other.host());

    let all = told(&stage, &["push", "many", &into, "--all", "--json"])?;

    assert_eq!(all["digest"], index.as_str(), "{all}");
    assert_eq!(all["documents"], 4, "an index and three manifests: {all}");
    let fetched = fetch_by_skopeo(&into, &stage.path("fetched"))?;
    assert_eq!(fetched, index);

    // The tag moves on: what the image was chosen from can no longer be found by it.
    let small = source::small(&stage.path("small"))?;
    home.push(&oci(&small, "1"), "some/many:1")?;
    let params = json!({"image": "many", "into": into, "all_platforms": true});
    let refused = stage.refused("image.push", &params)?;
    assert_eq!(code(&refused), "source.changed", "{refused}");
    let still = fetch_by_skopeo(&into, &stage.path("still"))?;
    assert_eq!(still, index, "a refused push changes nothing");
    let alone = told(&stage, &["push", "many", &one, "--json"])?;
    assert_eq!(alone["digest"], image["source"]["manifest_digest"]);

    // What came from no registry has no index that could be asked for.
    let local = stage.pull(&oci(&layout, "many"), "local")?;
    assert_eq!(local["name"], "local");
    let params = json!({"image": "local", "into": into, "all_platforms": true});
    let refused = stage.refused("image.push", &params)?;
    assert_eq!(code(&refused), "image.no_oci_source", "{refused}");
    // Nor can be looked what refers to it: that none went along is not told as done.
    let into = format!("{}/mine/local:1", other.host());
    let params = json!({"image": "local", "into": into, "referrers": true});
    let refused = stage.refused("image.push", &params)?;
    assert_eq!(code(&refused), "image.no_oci_source", "{refused}");
    let hint = refused.data["hint"]["text"].as_str().unwrap_or_default();
    let copy = format!("kiln copy {} {into} --referrers", oci(&layout, "many"));
    assert!(hint.contains(&copy), "{hint}");
    told(&stage, &["push", "local", &into, "--json"])?;
    Ok(())
}
