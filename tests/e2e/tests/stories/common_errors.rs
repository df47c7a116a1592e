//! The errors that every method of the image service shares: the common errors CE3 and CE4. CE1 is the
//! story of the database that cannot be written.

use anyhow::{Context as _, Result};
use kiln_testkit::tools;
use serde_json::{Value, json};

use crate::browsing::kiln;
use crate::descriptors::{NEEDS, NOBODY, as_user, open_stage};
use crate::source::{self, oci};
use crate::stage::{Stage, code};

#[test]
fn case_ce_3_what_a_caller_may_not_do_is_denied_kept_and_not_done() -> Result<()> {
    if tools::must_skip("case_ce_3_what_a_caller_may_not_do", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), "web")?;
    stage.call("image.alias", &json!({"alias": "www", "target": "web"}))?;
    let before = stage.call("image.get", &json!({"image": "web"}))?;
    let calls = [
        ("image.forget", json!({"image": "web"})),
        ("image.forget_by_id", json!({"image_id": image["id"]})),
        ("image.purge_by_id", json!({"image_id": image["id"]})),
        ("image.scan", json!({"image": "web"})),
        ("image.modify", json!({"image": "web", "name": "mine"})),
        ("image.clear_limits", json!({"image": "web"})),
        ("image.alias", json!({"alias": "mine", "target": "web"})),
        ("image.dealias", json!({"alias": "www"})),
        ("image.untag", json!({"image": "web"})),
    ];

    as_user(NOBODY, || {
        for (method, params) in &calls {
            let refused = stage.refused(method, params)?;
            assert_eq!(code(&refused), "request.denied", "{method}");
            assert_eq!(refused.data["class"], "denied", "{method}");
        }
        Ok(())
    })?;

    assert_eq!(stage.call("image.get", &json!({"image": "web"}))?, before);
    let kept = stage.call("audit.list", &json!({"user": NOBODY.to_string()}))?;
    let kept = kept["items"].as_array().context("no items")?;
    for (method, _) in &calls {
        let line = kept.iter().find(|line| line["method"] == *method);
        let line = line.with_context(|| format!("no line tells of {method}"))?;
        assert_eq!(line["result"], "request.denied", "{method}");
    }
    Ok(())
}

/// Asks by socket and by client; returns code, class and JSON-RPC number, and the exit code.
fn told(
    stage: &Stage,
    words: &[&str],
    method: &str,
    params: &Value,
) -> Result<(Value, Option<i32>)> {
    let refused = stage.refused(method, params)?;
    let told = json!([refused.data["code"], refused.data["class"], refused.code]);
    Ok((told, kiln(stage, words)?.status.code()))
}

#[test]
fn case_ce_4_a_caller_tells_missing_from_denied_from_everything_else() -> Result<()> {
    if tools::must_skip("case_ce_4_a_caller_tells_missing_from_denied", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let layout = source::small(&stage.path("layout"))?;
    stage.pull(&oci(&layout, "1"), "web")?;
    let forget = |name: &str| {
        let params = json!({"image": name});
        told(&stage, &["forget", name], "image.forget", &params)
    };

    let (missing, missing_exit) = forget("nothing")?;
    let (denied, denied_exit) = as_user(NOBODY, || forget("web"))?;
    let (other, other_exit) = {
        let lease = json!({"image": "web", "purpose": "test", "ttl_seconds": 60});
        stage.call("image.lease", &lease)?;
        forget("web")?
    };

    assert_eq!(missing, json!(["image.not_found", "not_found", -32_002]));
    assert_eq!(denied, json!(["request.denied", "denied", -32_004]));
    assert_eq!(other[0], "image.in_use");
    assert_eq!(
        (missing_exit, denied_exit, other_exit),
        (Some(3), Some(4), Some(5))
    );
    // Whatever it was, the audit keeps it with its code.
    let lines = stage.call(
        "audit.list",
        &json!({"method": "image.forget", "result": "failed"}),
    )?;
    let kept = lines["items"].as_array().context("no items")?;
    for code in ["image.not_found", "request.denied", "image.in_use"] {
        assert!(
            kept.iter().any(|line| line["result"] == code),
            "{code}: {lines}"
        );
    }
    Ok(())
}
