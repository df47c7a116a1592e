//! Hostile words in every place where a method of the table takes text, and what shows of them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::{CallError, post};
use kiln_testkit::oci_registry::{OciRegistry, Offers};
use serde_json::{Map, Value, json};

use crate::browsing::kiln;
use crate::source::{self, oci};
use crate::stage::{Stage, text};

/// An id that nothing has.
const NOBODY: &str = "0b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1";

/// Words that mean something to SQL, paths, terminals, or people's eyes.
fn hostile() -> Vec<String> {
    let words = [
        "'; DROP TABLE images; --",
        "\" OR 1=1 --",
        "x' UNION SELECT value FROM meta --",
        "%",
        "_%_",
        "..",
        "../../etc/passwd",
        "/etc/shadow",
        "a\u{0}b",
        "a\r\nx-injected: 1",
        "\u{1b}[2J\u{1b}]0;owned\u{7}",
        "\u{9b}31m",
        "\u{202e}esrever",
        "",
        " ",
        "ｗｅｂ💥",
        "${HOME}`id`$(id)",
        "-rf",
    ];
    let long = "a".repeat(10 << 10);
    let deep = "[".repeat(1 << 10);
    words
        .into_iter()
        .map(str::to_owned)
        .chain([long, deep])
        .collect()
}

/// What a parameter is when another one is looked at: something that leads as far as it can, and
/// destroys nothing.
fn harmless(name: &str, host: &str) -> Option<Value> {
    Some(match name {
        "image" | "target" | "object" => json!("web"),
        "image_id" | "lease_id" | "operation_id" | "instance_id" => json!(NOBODY),
        "instance" | "name" | "alias" => json!("made"),
        "org" => json!("team"),
        "user" => json!("4711"),
        "uid" => json!(4711),
        "role" => json!("user"),
        "standing" => json!("member"),
        "ref" | "from" => json!(format!("{host}/app:1")),
        "into" => json!(format!("{host}/copy:1")),
        "registry" => json!(host),
        "purpose" => json!("test"),
        "rootfs_path" | "kernel_path" => json!("/nonexistent"),
        "directory" | "console_path" => json!("/tmp/machine"),
        "monitor" => json!("qemu"),
        "accelerator" => json!("tcg"),
        "cpus" => json!(1),
        "memory_bytes" => json!(256 << 20),
        "credentials" => json!({"username": "u", "secret": "s"}),
        "rules" => json!([]),
        "agent" => json!("nobody"),
        "address" => json!("unix:///nonexistent/kiln.sock"),
        _ => return None,
    })
}

/// Tells whether a schema takes text.
fn takes_text(schema: &Value) -> bool {
    match &schema["type"] {
        Value::String(kind) => kind == "string",
        Value::Array(kinds) => kinds.contains(&json!("string")),
        _ => false,
    }
}

/// Every way to say `word` to a parameter of this schema: itself, in a list, as a value and as a key.
fn said(schema: &Value, word: &str) -> Vec<Value> {
    if takes_text(schema) {
        return vec![json!(word)];
    }
    if takes_text(&schema["items"]) {
        return vec![json!([word])];
    }
    let mut ways = Vec::new();
    let members = schema["properties"].as_object().into_iter().flatten();
    for (key, member) in members {
        ways.extend(
            said(member, word)
                .into_iter()
                .map(|value| json!({ key: value })),
        );
    }
    if schema
        .get("additionalProperties")
        .is_some_and(|more| more != false)
    {
        ways.push(json!({ word: "x" }));
    }
    ways
}

/// Fails when a text that reached a caller could command a terminal.
fn assert_calm(what: &str, text: &str) {
    let hostile = text.chars().find(|c| kiln_api::failure::is_hostile(*c));
    assert_eq!(hostile, None, "{what}: {text:?}");
}

#[test]
fn no_hostile_word_in_any_parameter_of_any_method_does_anything() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    stage.pull(&oci(&layout, "1"), "web")?;
    stage.call("org.add", &json!({"name": "team"}))?;
    let registry = OciRegistry::start(Offers::default())?;
    let before = stage.call("image.get", &json!({"image": "web"}))?;
    let document = stage.call("rpc.discover", &json!({}))?;
    let methods = document["methods"].as_array().context("no methods")?;

    let mut asked = 0;
    let mut codes = BTreeSet::new();
    for method in methods {
        let name = text(method, "name")?;
        let params = method["params"].as_array().context("no parameters")?;
        // Subscriptions live on WebSockets; their calls are decoded by the same code.
        if method.get("x-subscription").is_some() {
            continue;
        }
        let has = |wanted: &str| params.iter().any(|param| param["name"] == wanted);
        let mut rest = Map::new();
        for param in params.iter().filter(|param| param["required"] == true) {
            let key = text(param, "name")?;
            let value = harmless(&key, &registry.host());
            let value = value.with_context(|| format!("{name}: say what {key} may be"))?;
            rest.insert(key, value);
        }
        for flag in ["dry_run", "detach"].into_iter().filter(|flag| has(flag)) {
            rest.insert(flag.to_owned(), json!(true));
        }
        if name == "image.modify" || name == "image.alias" {
            // Would succeed, and does in other stories.
            rest.insert("architecture".to_owned(), json!("arm64"));
        }
        for param in params {
            let key = text(param, "name")?;
            for word in hostile() {
                for value in said(&param["schema"], &word) {
                    asked += 1;
                    let mut call = rest.clone();
                    call.insert(key.clone(), value);
                    let call = Value::Object(call);
                    let Err(error) = stage.daemon.call(&name, &call) else {
                        continue;
                    };
                    let error = CallError::refused(error)?;
                    let code = error.name().unwrap_or("no code").to_owned();
                    let what = format!("{name} {key} {word:?}: {code}");
                    let class = &error.data["class"];
                    assert!(class != "internal", "{what} is a defect: {error}");
                    assert!(error.message.len() < 4_000, "{what} repeats it all");
                    assert_calm(&what, &error.message);
                    codes.insert(code);
                }
            }
        }
    }
    assert!(asked > 2_000, "only {asked} calls");
    assert!(codes.len() > 10, "{codes:?}");

    // Nothing happened to what is there, and the daemon serves on.
    let after = stage.call("image.get", &json!({"image": "web"}))?;
    for field in [
        "id",
        "name",
        "labels",
        "keywords",
        "description",
        "revision",
        "is_active",
    ] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(
        stage.call("org.get", &json!({"org": "team"}))?["name"],
        "team"
    );
    for listing in [
        &["images", "--all"][..],
        &["image", "show", "web"],
        &["image", "history", "web"],
        &["alias", "ls"],
        &["kernel", "ls"],
        &["op", "ls"],
        &["events"],
        &["audit", "ls"],
        &["user", "ls"],
        &["org", "ls"],
        &["ps", "--all"],
        &["registry", "logins"],
    ] {
        for format in [&[][..], &["--json"], &["--format", "ndjson"]] {
            let words = [listing, format].concat();
            let shown = kiln(&stage, &words)?;
            assert!(shown.status.success(), "{words:?}: {shown:?}");
            assert_calm(&words.join(" "), &String::from_utf8(shown.stdout)?);
            assert_calm(&words.join(" "), &String::from_utf8(shown.stderr)?);
        }
    }
    Ok(())
}

#[test]
fn json_that_is_nested_without_end_is_refused_and_breaks_nothing() -> Result<()> {
    let stage = Stage::new()?;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let inner = if open == "[" { "" } else { "1" };
        let nested = format!("{}{inner}{}", open.repeat(100_000), close.repeat(100_000));
        for params in [nested.clone(), format!("{{\"image\":{nested}}}")] {
            let body =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"image.get","params":{params}}}"#);
            let answer = post(&stage.daemon.socket(), body.as_bytes())?;
            let code = answer["error"]["data"]["code"].as_str();
            let code = code.with_context(|| answer.to_string())?;
            assert!(code.starts_with("request."), "{code}");
        }
    }
    stage.call("daemon.info", &json!({}))?;
    Ok(())
}
