//! What callers did and were refused stays on record: written, filtered, exported.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::{process, tools};
use serde_json::{Value, json};

use crate::descriptors::{NEEDS, NOBODY, as_user, open_stage};
use crate::source::{self, oci};
use crate::stage::{Stage, pull};

const LIMIT: Duration = Duration::from_secs(30);

fn lines(stage: &Stage, params: &Value) -> Result<Vec<Value>> {
    let listed = stage.call("audit.list", params)?;
    listed["items"].as_array().cloned().context("no items")
}

/// Shows these members of each line, `-` where there is none.
fn in_words(lines: &[Value], keys: &[&str]) -> Vec<String> {
    let shown = |line: &Value| {
        let words = keys.iter().map(|key| line[*key].as_str().unwrap_or("-"));
        words.collect::<Vec<_>>().join(" ")
    };
    lines.iter().map(shown).collect()
}

/// Runs the client and returns what it printed.
fn kiln(stage: &Stage, words: &[&str]) -> Result<String> {
    let mut command = process::command(built("kiln")?);
    let socket = format!("unix://{}", stage.daemon.socket().display());
    command.args(["--host", &socket]).args(words);
    Ok(process::run(command, LIMIT)?.text())
}

#[test]
fn a_refused_call_and_a_change_are_on_record_and_a_look_is_not() -> Result<()> {
    if tools::must_skip("a_refused_call_and_a_change_are_on_record", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let layout = source::small(&stage.path("layout"))?;
    let mut with_secret = pull(&oci(&layout, "1"), "web");
    with_secret["credentials"] = json!({"username": "bob", "secret": "hunter2"});
    let image = stage.call("image.pull", &with_secret)?;
    let kernel = json!({"name": "tiny"});

    as_user(NOBODY, || stage.refused("kernel.remove", &kernel))?;
    as_user(NOBODY, || stage.refused("user.list", &json!({})))?;
    as_user(NOBODY, || {
        stage.refused("image.forget", &json!({"image": "web", "user_id": 0}))
    })?;
    as_user(NOBODY, || stage.call("image.list", &json!({})))?;
    stage.refused("image.forget", &json!({"image": "nothing"}))?;
    stage.call("image.forget", &json!({"image": "web", "dry_run": true}))?;
    stage.call("image.forget", &json!({"image": "web"}))?;

    let all = lines(&stage, &json!({}))?;
    let keys = ["actor", "role", "method", "object_name", "result"];
    let told = in_words(&all, &keys);
    assert_eq!(
        told,
        [
            "unix:0 superadmin kernel.import tiny ok",
            "unix:0 superadmin image.pull web ok",
            "unix:65534 user kernel.remove tiny request.denied",
            "unix:65534 user user.list - request.denied",
            "unix:65534 user image.forget web request.denied",
            "unix:0 superadmin image.forget nothing image.not_found",
            "unix:0 superadmin image.forget web ok",
        ]
    );
    assert_eq!(all[1]["object_id"], image["id"]);
    assert_eq!(all[6]["object_id"], image["id"]);
    let requests: Vec<_> = all
        .iter()
        .filter_map(|line| line["request_id"].as_str())
        .collect();
    assert!(
        requests.iter().all(|id| id.starts_with('r')),
        "{requests:?}"
    );
    assert!(!format!("{all:?}").contains("hunter2"));

    // Others see their own; nothing of the rest, whatever they ask for.
    let own = as_user(NOBODY, || lines(&stage, &json!({})))?;
    assert_eq!(own.len(), 3);
    let others = as_user(NOBODY, || lines(&stage, &json!({"user": "0"})))?;
    assert_eq!(others, Vec::<Value>::new());
    Ok(())
}

#[test]
fn the_line_of_a_call_tells_how_its_operation_ended() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let image = stage.call("image.pull", &pull(&oci(&layout, "1"), "web"))?;
    let missing = oci(&layout, "nothing");
    stage.refused("image.pull", &pull(&missing, "attended"))?;
    let mut detached = pull(&missing, "detached");
    detached["detach"] = json!(true);
    let started = stage.call("image.pull", &detached)?;
    let wait = json!({"operation_id": started["operation_id"], "timeout_ms": 30_000});
    let ended = stage.call("operation.wait", &wait)?;
    let code = ended["error"]["code"].as_str().context("no code")?;
    let id = json!({"image_id": image["id"]});
    stage.call("image.forget", &json!({"image": "web"}))?;
    stage.call("image.purge_by_id", &id)?;

    let all = lines(&stage, &json!({"method": "image."}))?;
    let told = in_words(&all, &["method", "object_name", "result"]);
    assert_eq!(
        told,
        [
            "image.pull web ok".to_owned(),
            format!("image.pull attended {code}"),
            format!("image.pull detached {code}"),
            "image.forget web ok".to_owned(),
            "image.purge_by_id web ok".to_owned(),
        ]
    );
    let failed = lines(&stage, &json!({"result": "failed"}))?;
    assert_eq!(failed.len(), 2);
    Ok(())
}

#[test]
fn nobody_hides_a_refusal_behind_many_failures() -> Result<()> {
    if tools::must_skip("nobody_hides_a_refusal_behind_many_failures", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    as_user(NOBODY, || {
        for _ in 0..150 {
            stage.refused("image.forget", &json!({"image": "nothing"}))?;
        }
        stage.refused("kernel.remove", &json!({"name": "tiny"}))
    })?;

    let denied = lines(&stage, &json!({"result": "request.denied"}))?;

    assert_eq!(denied.len(), 1, "{denied:?}");
    assert_eq!(denied[0]["method"], "kernel.remove");
    Ok(())
}

#[test]
fn lines_are_filtered_paged_and_exported() -> Result<()> {
    let stage = Stage::new()?;
    let org = stage.call("org.add", &json!({"name": "web"}))?;
    stage.call("user.add", &json!({"uid": 54_001, "name": "alice"}))?;
    let middle = lines(&stage, &json!({}))?;
    let middle = middle.last().context("no line")?["at"].clone();
    stage.refused("org.add", &json!({"name": "web"}))?;
    let member = json!({"org": "web", "user": "alice", "standing": "member"});
    stage.call("org.add_member", &member)?;
    let uid = rustix::process::geteuid().as_raw();

    let cases = [
        (
            json!({}),
            "kernel.import org.add user.add org.add org.add_member",
        ),
        (json!({"method": "org."}), "org.add org.add org.add_member"),
        (json!({"method": "org.add", "result": "failed"}), "org.add"),
        (json!({"result": "org.already_exists"}), "org.add"),
        (json!({"result": "ok", "method": "user"}), "user.add"),
        (json!({"object": "web"}), "org.add org.add"),
        (json!({"object": org["id"]}), "org.add org.add_member"),
        (json!({"object": "web alice"}), "org.add_member"),
        (
            json!({"user": uid.to_string(), "until": middle}),
            "kernel.import org.add",
        ),
        (json!({"since": middle}), "user.add org.add org.add_member"),
        (json!({"user": "alice"}), ""),
        (json!({"user": "77"}), ""),
        (json!({"method": "%"}), ""),
    ];
    for (filter, want) in cases {
        let found = lines(&stage, &filter)?;
        let found: Vec<_> = found
            .iter()
            .filter_map(|line| line["method"].as_str())
            .collect();
        assert_eq!(found.join(" "), want, "{filter}");
    }
    let first = stage.call("audit.list", &json!({"limit": 2}))?;
    let second = stage.call("audit.list", &json!({"limit": 2, "after": first["next"]}))?;
    assert_eq!(second["items"][0]["seq"], 3);
    // A user goes, the lines stay and are found by the uid; nobody is called so any more.
    stage.call("user.remove", &json!({"user": "alice"}))?;
    let error = stage.refused("audit.list", &json!({"user": "alice"}))?;
    assert_eq!(error.name(), Some("user.not_found"));

    let listed = kiln(
        &stage,
        &["audit", "ls", "--method", "org.", "--result", "failed"],
    )?;
    assert!(listed.contains("org.already_exists"), "{listed}");
    let json_lines = kiln(&stage, &["audit", "export"])?;
    let exported: Vec<Value> = json_lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    assert_eq!(exported.len(), 6, "{json_lines}");
    assert_eq!(exported[1]["object_id"], org["id"]);
    let csv = kiln(
        &stage,
        &["audit", "export", "--as", "csv", "--object", "web alice"],
    )?;
    let rows: Vec<_> = csv.lines().collect();
    assert_eq!(rows.len(), 2, "{csv}");
    assert!(rows[0].starts_with("seq,at,actor,"), "{csv}");
    assert!(rows[1].contains(",org.add_member,org,web alice,"), "{csv}");
    Ok(())
}

#[test]
fn the_client_shows_and_changes_who_is_who() -> Result<()> {
    let stage = Stage::new()?;

    assert!(kiln(&stage, &["whoami"])?.contains("superadmin"));
    // A name of this host is as good as a uid.
    let added = kiln(&stage, &["user", "add", "nobody"])?;
    assert!(
        added.contains("65534") && added.contains("nobody"),
        "{added}"
    );
    kiln(&stage, &["user", "set-role", "nobody", "agent"])?;
    kiln(&stage, &["user", "rename", "nobody", "builder"])?;
    let by_host_name = kiln(&stage, &["user", "show", "nobody"])?;
    assert!(
        by_host_name.contains("builder") && by_host_name.contains("agent"),
        "{by_host_name}"
    );
    kiln(&stage, &["org", "add", "web"])?;
    let org = kiln(&stage, &["org", "add-member", "web", "nobody", "--admin"])?;
    assert!(org.contains("65534 builder (admin)"), "{org}");
    assert!(kiln(&stage, &["user", "ls"])?.contains("web (admin)"));
    kiln(&stage, &["org", "rm-member", "web", "builder"])?;
    assert_eq!(kiln(&stage, &["org", "ls", "--quiet"])?.trim(), "web");
    assert!(kiln(&stage, &["org", "rm", "web"])?.contains("removed web"));
    assert!(kiln(&stage, &["user", "rm", "builder"])?.contains("removed 65534"));
    Ok(())
}
