//! Copies by rule between two real registries.

mod dam;
mod images;
mod killed;

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::http::{self, Request};
use kiln_testkit::images::layout::Layout;
use kiln_testkit::registry::{Access, Asked, PASSWORD, Registry, Transport, USER};
use kiln_testkit::tools::{self, Need};
use serde_json::{Value, json};

use crate::source::{self, oci};
use crate::stage::{Stage, code};

const NEEDS: &[Need] = &[tools::DOCKER_REGISTRY, tools::SKOPEO, tools::HTPASSWD];

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Runs `kiln sync` with a file of rules.
fn sync(stage: &Stage, rules: &str, words: &[&str]) -> Result<Output> {
    let file = stage.path("rules.toml");
    fs::write(&file, rules)?;
    let file = file.display().to_string();
    let mut command = client(stage)?;
    command.args(["sync", &file]).args(words);
    command.output().context("cannot run kiln")
}

/// Prepares to run `kiln` as somebody without logins.
fn client(stage: &Stage) -> Result<Command> {
    let host = format!("unix://{}", stage.daemon.socket().display());
    let mut command = Command::new(built("kiln")?);
    command
        .env("KILN_HOST", host)
        .env("HOME", stage.path("home"))
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("DOCKER_CONFIG")
        .env_remove("REGISTRY_AUTH_FILE");
    Ok(command)
}

fn told(output: &Output) -> Result<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| format!("no JSON, but: {said}"))
}

fn exchange(host: &str, method: &str, target: &str, body: &[u8]) -> Result<http::Message> {
    let mut stream = std::net::TcpStream::connect(host)?;
    let field = if method == "GET" {
        "accept"
    } else {
        "content-type"
    };
    let request = Request {
        method,
        target,
        fields: &[(field, MANIFEST)],
        body,
    };
    http::exchange(&mut stream, host, request)
}

/// Gives three images thirty tags `v1.0` to `v1.29` in `team/app`, and what no rule wants beside
/// them.
fn fill(registry: &Registry, stage: &Stage) -> Result<()> {
    let mut layout = Layout::create(stage.path("layout"))?;
    for word in ["one", "two", "three"] {
        let image = source::small_image(&layout, word)?;
        layout.tag(word, &image)?;
    }
    let host = registry.host();
    let mut manifests = Vec::new();
    for word in ["one", "two", "three"] {
        registry.push(&oci(&layout, word), &format!("team/app:{word}"))?;
        let answer = exchange(&host, "GET", &format!("/v2/team/app/manifests/{word}"), b"")?;
        manifests.push(answer.body);
    }
    let tags = (0..30).map(|number| format!("v1.{number}"));
    let others = ["v1.30-rc1", "v2.0"].map(str::to_owned);
    for (manifest, tag) in manifests.iter().cycle().zip(tags.chain(others)) {
        let answer = exchange(
            &host,
            "PUT",
            &format!("/v2/team/app/manifests/{tag}"),
            manifest,
        )?;
        assert_eq!(answer.status()?, 201, "{tag}");
    }
    registry.push(&oci(&layout, "one"), "other/thing:v1.0")?;
    Ok(())
}

/// Lists what was asked behind the first `before`, as `METHOD kind`.
fn kinds(asked: &[Asked], before: usize) -> Vec<String> {
    let kind = |target: &str| match target {
        target if target.contains("/manifests/") => "manifest",
        target if target.contains("/blobs/") => "blob",
        target if target.contains("/tags/list") => "tags",
        target if target.contains("/_catalog") => "catalog",
        _ => "root",
    };
    let lines = asked[before..].iter();
    let mut kinds: Vec<String> = lines
        .map(|asked| format!("{} {}", asked.method, kind(&asked.target)))
        .collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[test]
fn a_second_sync_of_thirty_tags_asks_for_digests_only() -> Result<()> {
    if tools::must_skip("a_second_sync_of_thirty_tags", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let one = Registry::start(Access::Anonymous, Transport::Http)?;
    let two = Registry::start(Access::Anonymous, Transport::Http)?;
    fill(&one, &stage)?;
    let rules = |newest: &str| {
        format!(
            "[[rule]]\nfrom = '{}/team/*'\ninto = '{}/mirror'\ntags = ['v*']\n\
             exclude = ['*-rc*']\nversions = '>=1.0, <2'\n{newest}\n",
            one.host(),
            two.host()
        )
    };

    let before = two.asked()?.len();
    let dry = told(&sync(
        &stage,
        &rules("newest = 10"),
        &["--dry-run", "--json"],
    )?)?;
    let after_dry = kinds(&two.asked()?, before);
    let newest = told(&sync(&stage, &rules("newest = 10"), &["--json"])?)?;
    let all = told(&sync(&stage, &rules(""), &["--json"])?)?;
    let (here, there) = (one.asked()?.len(), two.asked()?.len());
    let again = told(&sync(&stage, &rules(""), &["--json"])?)?;
    let missing = rules("").replace("/team/*", "/zzz/*");
    let missing = sync(&stage, &format!("{}{missing}", rules("")), &["--json"])?;

    assert_eq!(dry["copied"], 10, "{dry}");
    assert!(dry["sent_bytes"].as_u64() > Some(0), "{dry}");
    assert_eq!(after_dry, ["GET root", "HEAD blob", "HEAD manifest"]);
    assert_eq!(newest["copied"], 10, "{newest}");
    assert_eq!(
        newest["items"][0]["ok"]["into"],
        format!("{}/mirror/app:v1.29", two.host())
    );
    assert_eq!(all["copied"], 20, "{all}");
    assert_eq!(all["up_to_date"], 10, "{all}");
    assert_eq!(all["sent_bytes"], 0, "the three images were there: {all}");
    assert_eq!(again["up_to_date"], 30, "{again}");
    assert_eq!(again["copied"], 0, "{again}");
    assert!(again["unmatched"].is_null(), "{again}");
    let warning = format!("nothing matched the rule for {}/zzz/*", one.host());
    let said = String::from_utf8_lossy(&missing.stderr);
    assert!(
        missing.status.success() && said.contains(&warning),
        "{said}"
    );
    let unmatched = json!([format!("{}/zzz/*", one.host())]);
    assert_eq!(told(&missing)?["unmatched"], unmatched);
    assert_eq!(
        kinds(&one.asked()?, here),
        ["GET catalog", "GET root", "GET tags", "HEAD manifest"]
    );
    assert_eq!(kinds(&two.asked()?, there), ["GET root", "HEAD manifest"]);
    for tag in ["v1.0", "v1.17", "v1.29"] {
        let digest = |host: &str, repository: &str| -> Result<Option<String>> {
            let target = format!("/v2/{repository}/manifests/{tag}");
            let answer = exchange(host, "GET", &target, b"")?;
            Ok(answer.field("docker-content-digest").map(str::to_owned))
        };
        let want = digest(&one.host(), "team/app")?;
        assert!(want.is_some(), "{tag}");
        assert_eq!(digest(&two.host(), "mirror/app")?, want, "{tag}");
    }
    let unwanted = exchange(&two.host(), "GET", "/v2/mirror/app/manifests/v2.0", b"")?;
    assert_eq!(unwanted.status()?, 404);
    Ok(())
}

#[test]
fn a_part_that_fails_stops_nothing_else() -> Result<()> {
    if tools::must_skip("a_part_that_fails_stops_nothing_else", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let one = Registry::start(Access::Basic, Transport::Http)?;
    let two = Registry::start(Access::Anonymous, Transport::Http)?;
    let layout = source::small(&stage.path("layout"))?;
    one.push(&oci(&layout, "1"), "some/small:1")?;
    let auth_file = one.auth_file()?.display().to_string();
    let rule = |from: &str, tag: &str| {
        format!(
            "[[rule]]\nfrom = '{}/{from}'\ninto = '{}/x/{from}'\ntags = ['{tag}']\n",
            one.host(),
            two.host()
        )
    };
    let rules = [
        rule("some/small", "2"),
        rule("none/such", "*"),
        rule("some/small", "1"),
    ]
    .concat();

    let words = ["--authfile", auth_file.as_str(), "--json"];
    let partly = sync(&stage, &rules, &words)?;
    let stranger = sync(&stage, &rule("some/small", "1"), &["--json"])?;
    let table = sync(
        &stage,
        &rule("some/small", "1"),
        &["--authfile", &auth_file],
    )?;
    let broken = sync(&stage, "[[rule]]\nfrom = 'a'\n", &[])?;

    assert_eq!(partly.status.code(), Some(9), "{partly:?}");
    let partly = told(&partly)?;
    assert_eq!(
        (&partly["copied"], &partly["failed"]),
        (&json!(1), &json!(2)),
        "{partly}"
    );
    let codes: Vec<&Value> = (0..2)
        .map(|at| &partly["items"][at]["error"]["code"])
        .collect();
    assert_eq!(codes, ["source.not_found", "source.not_found"]);
    assert_eq!(
        partly["items"][2]["ok"]["sent_bytes"]
            .as_u64()
            .map(|bytes| bytes > 0),
        Some(true)
    );
    assert_eq!(stranger.status.code(), Some(4), "{stranger:?}");
    let text = String::from_utf8(table.stdout)?;
    assert_eq!(text, "0 copied, 1 there already, 0 B sent\n");
    assert_eq!(broken.status.code(), Some(2), "{broken:?}");
    let operations = stage.call("operation.list", &json!({}))?.to_string();
    assert!(operations.contains("registry.sync"), "{operations}");
    for secret in [PASSWORD, USER] {
        assert!(
            !operations.contains(&format!("\"{secret}\"")),
            "{operations}"
        );
    }
    let none = stage.refused("registry.sync", &json!({"rules": []}))?;
    assert_eq!(code(&none), "request.invalid_params");
    Ok(())
}

/// Counts the uploads that were closed, whose bytes have therefore been sent.
fn uploads(registry: &Registry) -> Result<usize> {
    let asked = registry.asked()?;
    let closed = |asked: &&Asked| asked.method == "PUT" && asked.target.contains("/blobs/uploads/");
    Ok(asked.iter().filter(closed).count())
}

#[test]
fn what_several_repositories_share_is_sent_to_a_registry_once() -> Result<()> {
    if tools::must_skip("what_several_repositories_share", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let one = Registry::start(Access::Anonymous, Transport::Http)?;
    let two = Registry::start(Access::Basic, Transport::Http)?;
    let layout = source::small(&stage.path("layout"))?;
    for repository in ["x/one", "x/two", "x/three"] {
        one.push(&oci(&layout, "1"), &format!("{repository}:1"))?;
    }
    let auth_file = two.auth_file()?.display().to_string();
    let rules = format!(
        "[[rule]]\nfrom = '{}/x/*'\ninto = '{}/mirror'\ntags = ['*']\n",
        one.host(),
        two.host()
    );
    let words = ["--authfile", auth_file.as_str(), "--json"];

    let dry = told(&sync(
        &stage,
        &rules,
        &[&words[..], &["--dry-run"]].concat(),
    )?)?;
    let synced = told(&sync(&stage, &rules, &words)?)?;
    let later = json!({
        "from": format!("{}/x/one:1", one.host()),
        "into": format!("{}/later/one:1", two.host()),
        "into_credentials": {"username": USER, "secret": PASSWORD},
    });
    let later = stage.call("registry.copy", &later)?;

    assert_eq!(synced["copied"], 3, "{synced}");
    assert_eq!(uploads(&two)?, 3, "a config and two layers, once each");
    assert_eq!(dry["sent_bytes"], synced["sent_bytes"], "{dry} {synced}");
    assert_eq!(later["mounted"]["blobs"], 3, "{later}");
    assert_eq!(later["sent"]["blobs"], 0, "{later}");
    for repository in ["mirror/one", "mirror/two", "mirror/three", "later/one"] {
        let reference = format!("docker://{}/{repository}:1", two.host());
        let mut inspect = Command::new(tools::require(tools::SKOPEO)?);
        inspect.args(["inspect", "--tls-verify=false", "--authfile", &auth_file]);
        let inspected = inspect.arg(reference).output()?;
        assert!(inspected.status.success(), "{inspected:?}");
    }
    Ok(())
}
