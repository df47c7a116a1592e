//! One rule for what a name means, in every method: what finds an image, who is told that there is
//! one, in which words a call may say it, and what hostile words come to.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::tools;
use serde_json::{Value, json};

use crate::descriptors::{NEEDS, NOBODY, as_user, open_stage, open_stage_with};
use crate::operations::Tap;
use crate::source::{self, oci};
use crate::stage::{Stage, code, pull, text};

/// A method that takes an image by any name: its name, the parameter, whether it takes an
/// architecture, what else a call needs, and where the answer has the image's id. A new method must
/// be placed here.
struct Placed {
    method: &'static str,
    parameter: &'static str,
    takes_architecture: bool,
    rest: fn(u32) -> Value,
    id_at: &'static str,
}

const fn placed(
    method: &'static str,
    takes_architecture: bool,
    rest: fn(u32) -> Value,
    id_at: &'static str,
) -> Placed {
    Placed {
        method,
        parameter: "image",
        takes_architecture,
        rest,
        id_at,
    }
}

fn nothing(_: u32) -> Value {
    json!({})
}

const PLACED: &[Placed] = &[
    placed("image.get", true, nothing, "/id"),
    placed("image.open", true, nothing, "/image/id"),
    placed(
        "image.forget",
        true,
        |_| json!({"dry_run": true, "force": true}),
        "/image/id",
    ),
    placed(
        "image.restore",
        true,
        |_| json!({"dry_run": true}),
        "/image/id",
    ),
    placed(
        "image.lease",
        true,
        |_| json!({"purpose": "test", "ttl_seconds": 60}),
        "/image_id",
    ),
    placed(
        "image.push",
        true,
        |_| json!({"into": "127.0.0.1:1/a:1", "detach": true}),
        "",
    ),
    placed("image.modify", true, nothing, "/image/id"),
    placed("image.limits", true, nothing, "/image_id"),
    placed("image.clear_limits", true, nothing, "/image/id"),
    placed("image.history", false, nothing, ""),
    placed("image.scan", true, nothing, "/image/id"),
    placed(
        "image.untag",
        true,
        |_| json!({"dry_run": true}),
        "/image/id",
    ),
    placed("alias.list", false, nothing, "/items/0/image_id"),
    placed(
        "instance.register",
        true,
        |n| {
            json!({
                "instance_id": format!("{n:08x}-0000-4000-8000-000000000000"),
                "name": format!("machine-{n}"),
                "directory": "/tmp",
                "console_path": "/tmp/console.log",
                "cpus": 1,
                "memory_bytes": 256 << 20,
                "ports": [],
            })
        },
        "/image_id",
    ),
    Placed {
        method: "image.alias",
        parameter: "target",
        takes_architecture: true,
        rest: |n| json!({"alias": format!("made-{n}")}),
        id_at: "/image_id",
    },
];

impl Placed {
    fn call(&self, n: u32, image: &str, architecture: Option<&str>) -> Value {
        let mut params = (self.rest)(n);
        params[self.parameter] = json!(image);
        if let Some(architecture) = architecture {
            params["architecture"] = json!(architecture);
        }
        params
    }
}

#[test]
fn every_method_that_takes_an_image_takes_it_by_any_name() -> Result<()> {
    let stage = Stage::new()?;
    let tap = Tap::start()?;
    tap.open();
    let image = stage.pull(&tap.reference(), "web")?;
    let id = text(&image, "id")?;
    stage.call("image.alias", &json!({"alias": "www", "target": "web"}))?;
    let document = stage.call("rpc.discover", &json!({}))?;
    let methods = document["methods"].as_array().context("no methods")?;
    let takes = |method: &Value, wanted: &str| {
        let params = method["params"].as_array();
        params.is_some_and(|params| params.iter().any(|param| param["name"] == wanted))
    };
    let found: BTreeSet<&str> = methods
        .iter()
        .filter(|method| takes(method, "image") || takes(method, "target"))
        .filter_map(|method| method["name"].as_str())
        .collect();
    let listed: BTreeSet<&str> = PLACED.iter().map(|placed| placed.method).collect();
    assert_eq!(found, listed, "place each method in the table");

    let mut n = 0;
    for placed in PLACED {
        let method = methods.iter().find(|one| one["name"] == placed.method);
        let method = method.context("no such method")?;
        assert_eq!(
            takes(method, "architecture"),
            placed.takes_architecture,
            "{}",
            placed.method
        );
        for named in [
            &id,
            "web",
            "web:latest",
            "web:v1.0.0",
            "www",
            "www:latest",
            &tap.reference(),
        ] {
            for architecture in [None, Some("amd64"), Some("x86_64")] {
                if architecture.is_some() && !placed.takes_architecture {
                    continue;
                }
                n += 1;
                let params = placed.call(n, named, architecture);
                let answer = stage.call(placed.method, &params)?;
                if !placed.id_at.is_empty() {
                    let told = answer.pointer(placed.id_at).and_then(Value::as_str);
                    assert_eq!(told, Some(id.as_str()), "{} {params}", placed.method);
                }
            }
        }
        // What is not there is said to be missing, whatever else the call says.
        let mut missing = vec![("nobody", None), ("web:no-tag", None)];
        if placed.takes_architecture {
            missing.push(("web", Some("arm64")));
        }
        for (named, architecture) in missing {
            n += 1;
            let params = placed.call(n, named, architecture);
            let refused = stage.refused(placed.method, &params)?;
            let want = if placed.parameter == "target" {
                "alias.target_not_found"
            } else {
                "image.not_found"
            };
            assert_eq!(code(&refused), want, "{} {params}", placed.method);
        }
    }
    Ok(())
}

/// What a stranger's call about somebody's private image comes to, method by method.
fn told_to_strangers(stage: &Stage) -> Result<Vec<(&'static str, String)>> {
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.pull(&oci(&layout, "1"), "web")?;
    stage.call("image.alias", &json!({"alias": "www", "target": "web"}))?;
    let id = text(&image, "id")?;
    as_user(NOBODY, || {
        let mut told = Vec::new();
        let mut n = 0;
        // This thread's process is another user's, which is told before the image is looked for.
        let others = PLACED.iter();
        for placed in others.filter(|placed| placed.method != "instance.register") {
            for named in ["web", "web:latest", "www", &id] {
                n += 1;
                let params = placed.call(n, named, None);
                let refused = stage.refused(placed.method, &params)?;
                told.push((placed.method, code(&refused).to_owned()));
            }
        }
        for method in ["image.forget_by_id", "image.purge_by_id"] {
            let refused = stage.refused(method, &json!({"image_id": id}))?;
            told.push((method, code(&refused).to_owned()));
        }
        // Lists show what may be seen, whatever calls are answered.
        for method in ["image.list", "alias.list"] {
            let listed = stage.call(method, &json!({}))?;
            assert_eq!(listed["items"], json!([]), "{method}");
        }
        Ok(told)
    })
}

#[test]
fn case_1_5_a_strangers_call_is_denied_in_every_method() -> Result<()> {
    if tools::must_skip("case_1_5_a_strangers_call_is_denied_in_every_method", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;

    for (method, told) in told_to_strangers(&stage)? {
        assert_eq!(told, "request.denied", "{method}");
    }
    Ok(())
}

#[test]
fn case_1_5_what_is_private_is_concealed_where_that_is_set() -> Result<()> {
    let name = "case_1_5_what_is_private_is_concealed_where_that_is_set";
    if tools::must_skip(name, NEEDS)? {
        return Ok(());
    }
    let stage = open_stage_with("[images]\nconceal_private = true\n")?;

    for (method, told) in told_to_strangers(&stage)? {
        let want = if method == "image.alias" {
            "alias.target_not_found"
        } else {
            "image.not_found"
        };
        assert_eq!(told, want, "{method}");
    }
    Ok(())
}

#[test]
fn other_services_words_are_taken_and_contradictions_refused() -> Result<()> {
    let stage = Stage::new()?;
    let tap = Tap::start()?;
    tap.open();
    let image = stage.pull(&tap.reference(), "web")?;
    let document = stage.call("rpc.discover", &json!({}))?;
    let methods = document["methods"].as_array().context("no methods")?;

    let mut n = 1_000;
    for placed in PLACED {
        let method = methods.iter().find(|one| one["name"] == placed.method);
        let params = method.and_then(|method| method["params"].as_array());
        let own = params.into_iter().flatten();
        let own = own.filter(|param| param["name"] == placed.parameter);
        let words: Vec<Value> = own
            .filter_map(|param| param["x-also"].as_array())
            .flatten()
            .cloned()
            .collect();
        assert!(
            words.len() >= 4,
            "{} documents no other words",
            placed.method
        );
        for word in words {
            let word = word.as_str().context("no word")?;
            n += 1;
            let mut params = placed.call(n, "web", None);
            params[placed.parameter].take();
            params
                .as_object_mut()
                .context("no object")?
                .remove(placed.parameter);
            // The word for an id takes no other name.
            let says = if word == "image_id" {
                &image["id"]
            } else {
                &json!("web")
            };
            params[word] = says.clone();
            let both = {
                let mut both = params.clone();
                both[placed.parameter] = json!("other");
                both
            };
            let refused = stage.refused(placed.method, &both)?;
            assert_eq!(code(&refused), "request.invalid_params", "{both}");
            stage.call(placed.method, &params)?;
        }
    }
    let audited = json!({"reference": "web", "force": true});
    stage.call("image.forget", &audited)?;
    let lines = stage.call("audit.list", &json!({"method": "image.forget"}))?;
    let line = lines["items"].as_array().and_then(|lines| lines.last());
    let line = line.context("no audit line")?;
    assert_eq!(line["object_id"], image["id"], "{line}");
    Ok(())
}

#[test]
fn hostile_names_are_refused_and_break_nothing() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    stage.pull(&oci(&layout, "1"), "web")?;
    let long = "a".repeat(10 << 10);
    let hostile = [
        "'; DROP TABLE images; --",
        "\" OR 1=1 --",
        "web' UNION SELECT 1",
        "%",
        "..",
        "../../etc/passwd",
        "web/../web",
        "a\u{0}b",
        "a\nb",
        "\u{1b}[2J",
        "",
        " ",
        "\u{202e}bew",
        "ｗｅｂ",
        "💥",
        &long,
    ];
    let calm = [
        "image.not_found",
        "alias.target_not_found",
        "alias.not_found",
        "image.name_invalid",
        "request.invalid_id",
        "request.invalid_params",
        "lease.not_found",
    ];
    let mut n = 2_000;
    for word in hostile {
        let mut calls: Vec<(&str, Value)> = Vec::new();
        for placed in PLACED {
            n += 1;
            calls.push((placed.method, placed.call(n, word, None)));
        }
        calls.extend([
            ("image.alias", json!({"alias": word, "target": "web"})),
            ("image.dealias", json!({"alias": word})),
            ("image.restore", json!({"image": "web", "name": word})),
            ("image.forget_by_id", json!({"image_id": word})),
            ("image.purge_by_id", json!({"image_id": word})),
            ("image.release", json!({"lease_id": word})),
            ("image.renew_lease", json!({"lease_id": word})),
        ]);
        for (method, params) in calls {
            let refused = stage.refused(method, &params)?;
            assert!(
                calm.contains(&code(&refused)),
                "{method} {word:?}: {refused}"
            );
            assert!(refused.message.len() < 2_000, "{method} repeats it all");
        }
    }
    // What the store keeps of a caller's words is shown in one line of the client's tables.
    let target = "docker.io/library/x:\u{1b}[31mred";
    let odd = json!({"image": "web", "purpose": "\u{202e}esrever 💥", "ttl_seconds": 60});
    stage.call("image.lease", &odd)?;
    let refused = stage.refused("image.alias", &json!({"alias": "odd", "target": target}))?;
    assert_eq!(code(&refused), "alias.target_not_found");
    let host = format!("unix://{}", stage.daemon.socket().display());
    let run = |words: &[&str]| {
        let mut command = Command::new(built("kiln")?);
        command.env("KILN_HOST", &host).args(words);
        command.output().context("cannot run kiln")
    };
    stage.call("image.alias", &json!({"alias": "www", "target": "web"}))?;
    let listed = run(&["alias", "ls"])?;
    assert_eq!(String::from_utf8(listed.stdout)?.lines().count(), 2);
    let shown = String::from_utf8(run(&["image", "show", "web"])?.stdout)?;
    assert!(
        !shown.contains('\u{202e}') && !shown.contains('\u{1b}'),
        "{shown:?}"
    );
    let listed = stage.call("image.list", &json!({}))?;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[test]
fn an_id_is_never_a_name_and_always_its_own_image() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let first = stage.pull(&oci(&layout, "1"), "first")?;
    stage.pull(&oci(&layout, "1"), "second")?;
    let id = text(&first, "id")?;
    let refused: &[(&str, Value)] = &[
        ("image.alias", json!({"alias": id, "target": "second"})),
        ("image.modify", json!({"image": "second", "name": id})),
        ("image.pull", pull(&oci(&layout, "1"), &id)),
        ("org.add", json!({"name": id})),
    ];
    for (method, params) in refused {
        let error = stage.refused(method, params)?;
        let wanted = match *method {
            "org.add" => "request.invalid_params",
            _ => "image.name_invalid",
        };
        assert_eq!(code(&error), wanted, "{method}: {error}");
        assert!(
            error.message.contains("reads as an id"),
            "{method}: {error}"
        );
    }

    stage.call("image.forget", &json!({"image": id}))?;
    let as_id = json!({"image": "second", "name": id});
    stage.refused("image.modify", &as_id)?;
    let restored = json!({"image": id, "name": id, "dry_run": true});
    let error = stage.refused("image.restore", &restored)?;
    assert_eq!(code(&error), "image.name_invalid");
    let shown = stage.call("image.get", &json!({"image": id}))?;
    assert_eq!(text(&shown, "name")?, "first");
    Ok(())
}
