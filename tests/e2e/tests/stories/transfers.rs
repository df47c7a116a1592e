//! Pushes and copies between real registries, with skopeo as the other side.

mod cutting;
mod scripted;
mod whole;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::http::{self, Request};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layout, Platform};
use kiln_testkit::process;
use kiln_testkit::registry::{Access, PASSWORD, Registry, Transport, USER};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::wait;
use serde_json::{Value, json};

use self::cutting::Cutting;
use self::scripted::Scripted;
use crate::source::{self, noise, oci};
use crate::stage::{LIMIT, Stage, code, text};

const NEEDS: &[Need] = &[
    tools::DOCKER_REGISTRY,
    tools::SKOPEO,
    tools::OPENSSL,
    tools::HTPASSWD,
];

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Runs `kiln` as somebody without logins.
fn kiln(stage: &Stage, words: &[&str]) -> Result<Output> {
    let host = format!("unix://{}", stage.daemon.socket().display());
    let mut command = Command::new(built("kiln")?);
    command
        .env("KILN_HOST", host)
        .env("HOME", stage.path("home"))
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("DOCKER_CONFIG")
        .env_remove("REGISTRY_AUTH_FILE")
        .current_dir(stage.path("."))
        .args(words);
    command.output().context("cannot run kiln")
}

/// Runs `kiln` and reads what it prints as JSON.
fn told(stage: &Stage, words: &[&str]) -> Result<Value> {
    let output = kiln(stage, words)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "kiln {words:?}: {said}");
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("kiln {words:?} printed no JSON"))
}

/// Asks skopeo for the digest of what a registry has.
fn digest_by_skopeo(reference: &str, flags: &[&str]) -> Result<String> {
    let mut command = process::command(tools::require(tools::SKOPEO)?);
    command.args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"]);
    command.args(flags).arg(format!("docker://{reference}"));
    Ok(process::run(command, LIMIT)?.text())
}

/// Copies an image out of a registry with skopeo, which checks every digest, and returns that of
/// its manifest.
fn fetch_by_skopeo(reference: &str, layout: &Path) -> Result<String> {
    let mut command = process::command(tools::require(tools::SKOPEO)?);
    command.args(["--insecure-policy", "copy", "--quiet", "--all"]);
    command.args(["--preserve-digests", "--src-tls-verify=false"]);
    command.arg(format!("docker://{reference}"));
    command.arg(format!("oci:{}:out", layout.display()));
    process::run(command, LIMIT)?;
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    text(&index["manifests"][0], "digest")
}

/// Copies the image `1` out of a layout with skopeo, and returns its digest.
fn fetch_by_skopeo_from(layout: &Path, into: &Path) -> Result<String> {
    let mut command = process::command(tools::require(tools::SKOPEO)?);
    command.args(["--insecure-policy", "copy", "--quiet", "--all"]);
    command.arg(format!("oci:{}:1", layout.display()));
    command.arg(format!("oci:{}:out", into.display()));
    process::run(command, LIMIT)?;
    let index: Value = serde_json::from_slice(&fs::read(into.join("index.json"))?)?;
    text(&index["manifests"][0], "digest")
}

/// Sends one request to a registry open to all.
fn ask(host: &str, request: Request<'_>) -> Result<http::Message> {
    let mut stream = std::net::TcpStream::connect(host)?;
    http::exchange(&mut stream, host, request)
}

fn put_manifest(host: &str, target: &str, media_type: &str, body: &str) -> Result<()> {
    let request = Request {
        method: "PUT",
        target,
        fields: &[("content-type", media_type)],
        body: body.as_bytes(),
    };
    let answer = ask(host, request)?;
    assert_eq!(answer.status()?, 201, "{answer:?}");
    Ok(())
}

/// Makes a layout whose `many` is an index of two platforms and an attestation.
fn with_platforms(stage: &Stage) -> Result<(Layout, String)> {
    let mut layout = Layout::create(stage.path("layout"))?;
    let amd64 = source::small_image(&layout, "for-amd64")?;
    let arm = layout.add_layer(&[Entry::file("marker", "for-arm")], Compression::Gzip)?;
    let arm = layout.add_image(&[arm], &Platform::linux("arm64"))?;
    let attestation = layout.add_attestation(&amd64)?;
    let index = layout.add_index(&[attestation, arm, amd64])?;
    layout.tag("many", &index)?;
    Ok((layout, index.digest))
}

#[test]
fn a_pushed_image_is_the_oci_image_it_was_made_from() -> Result<()> {
    if tools::must_skip("a_pushed_image_is_the_oci_image", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let home = Registry::start(Access::Anonymous, Transport::Http)?;
    let other = Registry::start(Access::Anonymous, Transport::Http)?;
    let from = home.push(&oci(&layout, "1"), "some/small:1")?;
    let image = stage.pull(&from, "small")?;
    let digest = text(&image["source"], "manifest_digest")?;
    let into = format!("{}/mine/small:1", other.host());

    let first = told(
        &stage,
        &["push", "small", &into, "--tag", "stable", "--json"],
    )?;
    let again = told(&stage, &["push", "small", &into, "--json"])?;
    let beside = format!("{}/mine/beside:1", home.host());
    let beside = told(&stage, &["push", "small", &beside, "--json"])?;

    assert_eq!(first["digest"], digest);
    assert_eq!(
        first["sent"]["blobs"], 3,
        "a config and two layers: {first}"
    );
    assert_eq!(first["tags"].as_array().map(Vec::len), Some(2));
    assert_eq!(again["is_up_to_date"], true, "{again}");
    assert_eq!(beside["mounted"]["blobs"], 3, "{beside}");
    assert_eq!(beside["sent"]["blobs"], 0, "{beside}");
    assert_eq!(digest_by_skopeo(&into, &[])?, digest);
    let stable = into.replace(":1", ":stable");
    assert_eq!(fetch_by_skopeo(&stable, &stage.path("fetched"))?, digest);
    let second = other.asked()?;
    let sent = second
        .iter()
        .filter(|asked| asked.method == "PUT" && asked.target.contains("/blobs/"));
    assert_eq!(sent.count(), 3, "{second:?}");
    Ok(())
}

#[test]
fn what_the_cache_has_dropped_comes_from_the_source_again() -> Result<()> {
    if tools::must_skip("what_the_cache_has_dropped", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let home = Registry::start(Access::Basic, Transport::Http)?;
    let other = Registry::start(Access::Anonymous, Transport::Http)?;
    let from = home.push(&oci(&layout, "1"), "some/small:1")?;
    let mut params = crate::stage::pull(&from, "small");
    params["credentials"] = json!({"username": USER, "secret": PASSWORD});
    let image = stage.call("image.pull", &params)?;
    let digest = text(&image["source"], "manifest_digest")?;
    let blobs = stage.root().join("cache/blobs/sha256");
    for name in stage.entries("cache/blobs/sha256")? {
        fs::remove_file(blobs.join(name))?;
    }
    let into = format!("{}/mine/small:1", other.host());
    let push = json!({"image": "small", "into": into});

    let stranger = stage.refused("image.push", &push)?;
    let mut with = push.clone();
    with["from_credentials"] = json!({"username": USER, "secret": PASSWORD});
    let pushed = stage.call("image.push", &with)?;

    assert_eq!(code(&stranger), "registry.auth_required");
    assert_eq!(pushed["digest"], digest);
    assert_eq!(pushed["sent"]["blobs"], 3, "{pushed}");
    // Nothing that only passed through is kept.
    assert_eq!(stage.entries("cache/blobs/sha256")?, Vec::<String>::new());
    assert_eq!(stage.entries("cache/ingest")?, Vec::<String>::new());
    let operation = stage.last_operation()?;
    assert_eq!(operation["kind"], "image.push");
    assert_eq!(operation["transfer"]["digest"], digest);
    assert!(!operation.to_string().contains(PASSWORD), "{operation}");
    Ok(())
}

#[test]
fn an_image_without_a_source_is_not_pushed() -> Result<()> {
    let stage = Stage::new()?;
    if tools::must_skip("an_image_without_a_source", &[tools::MKFS_EXT4])? {
        return Ok(());
    }
    let rootfs = stage.path("rootfs.ext4");
    fs::File::create(&rootfs)?.set_len(16 << 20)?;
    let mut command = process::command(tools::require(tools::MKFS_EXT4)?);
    command.arg("-q").arg(&rootfs);
    process::run(command, LIMIT)?;
    let params = json!({
        "name": "mine", "rootfs_path": rootfs, "kernel_ref": crate::stage::KERNEL, "boot": "none",
    });
    stage.call("image.register", &params)?;

    let refused = stage.refused(
        "image.push",
        &json!({"image": "mine", "into": "127.0.0.1:1/x:1"}),
    )?;

    assert_eq!(code(&refused), "image.no_oci_source");
    Ok(())
}

#[test]
fn passwords_tokens_and_authorities_open_what_they_should_for_writing() -> Result<()> {
    if tools::must_skip("passwords_tokens_and_authorities", NEEDS)? {
        return Ok(());
    }
    for (access, transport) in [
        (Access::Basic, Transport::Http),
        (Access::BearerWithPublicPull, Transport::Http),
        (Access::Bearer, Transport::Https),
    ] {
        let registry = Registry::start(access, transport)?;
        let config = registry.authority().map_or_else(String::new, |authority| {
            format!(
                "[registry]\nca_files = [{:?}]\n",
                authority.display().to_string()
            )
        });
        let stage = Stage::with_config(&config)?;
        let layout = source::small(&stage.path("layout"))?;
        let into = format!("{}/mine/small:1", registry.host());
        let auth_file = registry.auth_file()?.display().to_string();
        let from = oci(&layout, "1");

        let stranger = kiln(&stage, &["copy", &from, &into])?;
        let wrong = kiln(
            &stage,
            &["copy", &from, &into, "--dest-creds", "kiln:wrong"],
        )?;
        let copied = told(
            &stage,
            &["copy", &from, &into, "--authfile", &auth_file, "--json"],
        )?;

        assert_eq!(stranger.status.code(), Some(4), "{access:?} {stranger:?}");
        assert_eq!(wrong.status.code(), Some(4), "{access:?} {wrong:?}");
        assert_eq!(copied["sent"]["blobs"], 3, "{access:?} {copied}");
        let account = format!("{USER}:{PASSWORD}");
        let seen = digest_by_skopeo(&into, &["--creds", &account])?;
        assert_eq!(copied["digest"], seen, "{access:?}");
        if let Some(tokens) = registry.tokens() {
            let scope = "repository:mine/small:pull,push".to_owned();
            let asked = tokens.requests();
            assert!(
                asked.iter().any(|request| request.scopes.contains(&scope)),
                "{asked:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_copy_takes_all_platforms_or_one() -> Result<()> {
    if tools::must_skip("a_copy_takes_all_platforms_or_one", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let (layout, index) = with_platforms(&stage)?;
    let one = Registry::start(Access::Anonymous, Transport::Http)?;
    let two = Registry::start(Access::Anonymous, Transport::Http)?;
    let first = format!("{}/a/many:1", one.host());
    let second = format!("{}/b/many:1", two.host());
    let alone = format!("{}/b/alone:1", two.host());
    drop(layout);

    // A relative path is the client's.
    let all = told(&stage, &["copy", "oci:layout:many", &first, "--json"])?;
    let on = told(
        &stage,
        &["copy", &format!("docker://{first}"), &second, "--json"],
    )?;
    let arm = [
        "copy",
        &first,
        &alone,
        "--platform",
        "linux/arm64",
        "--json",
    ];
    let arm = told(&stage, &arm)?;
    let missing = ["copy", &first, &alone, "--platform", "linux/riscv64"];
    let missing = kiln(&stage, &missing)?;

    assert_eq!(all["digest"], index);
    assert_eq!(all["documents"], 4, "an index and three manifests: {all}");
    assert_eq!(on["digest"], index);
    assert_eq!(on["sent"], all["sent"]);
    assert_eq!(fetch_by_skopeo(&second, &stage.path("fetched"))?, index);
    assert_eq!(arm["documents"], 1);
    let both_there = &arm["present"]["blobs"];
    assert_eq!(both_there, 0, "another repository has none: {arm}");
    assert_eq!(
        digest_by_skopeo(&alone, &["--override-arch=arm64"])?,
        text(&arm, "digest")?
    );
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
    // What only passed through is not kept.
    assert_eq!(stage.entries("cache/blobs/sha256")?, Vec::<String>::new());
    assert_eq!(stage.entries("cache/ingest")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn what_skopeo_sent_kiln_copies_and_the_other_way_round() -> Result<()> {
    if tools::must_skip("what_skopeo_sent_kiln_copies", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let by_skopeo = registry.push(&oci(&layout, "1"), "skopeo/small:1")?;
    let host = registry.host();
    let archive = stage.path("docker.tar");
    let mut command = process::command(tools::require(tools::SKOPEO)?);
    command.args(["--insecure-policy", "copy", "--quiet"]);
    // Docker knows no zstd.
    let gzip = source::of_layers(&stage.path("gzip"), |layout| {
        let file = Entry::file("file", "saved");
        Ok(vec![layout.add_layer(&[file], Compression::Gzip)?])
    })?;
    command.arg(oci(&gzip, "1"));
    command.arg(format!("docker-archive:{}:small:1", archive.display()));
    process::run(command, LIMIT)?;
    let archive = format!("docker-archive:{}", archive.display());

    let by_kiln = format!("{host}/kiln/small:1");
    let copied = told(
        &stage,
        &["registry", "copy", &by_skopeo, &by_kiln, "--json"],
    )?;
    let pinned = format!("{host}/kiln/small@{}", text(&copied, "digest")?);
    let pinned = told(&stage, &["copy", &by_skopeo, &pinned, "--json"])?;
    let other = format!("{host}/kiln/small@sha256:{}", "0".repeat(64));
    let other = json!({"from": by_skopeo, "into": other});
    let other = stage.refused("registry.copy", &other)?;
    let saved = format!("{host}/kiln/saved:1");
    let saved_digest = text(
        &told(&stage, &["copy", &archive, &saved, "--json"])?,
        "digest",
    )?;

    assert_eq!(copied["mounted"]["blobs"], 3, "{copied}");
    assert_eq!(copied["digest"], digest_by_skopeo(&by_skopeo, &[])?);
    assert_eq!(pinned["is_up_to_date"], true, "{pinned}");
    assert_eq!(code(&other), "source.digest_conflict");
    assert_eq!(fetch_by_skopeo(&saved, &stage.path("saved"))?, saved_digest);
    Ok(())
}

#[test]
fn what_refers_to_an_image_goes_along_on_request() -> Result<()> {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    if tools::must_skip("what_refers_to_an_image", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let one = Registry::start(Access::Anonymous, Transport::Http)?;
    let two = Registry::start(Access::Anonymous, Transport::Http)?;
    let from = one.push(&oci(&layout, "1"), "some/small:1")?;
    let subject = digest_by_skopeo(&from, &[])?;
    let read = Request {
        method: "GET",
        target: "/v2/some/small/manifests/1",
        fields: &[("accept", MANIFEST)],
        body: b"",
    };
    let manifest: Value = serde_json::from_slice(&ask(&one.host(), read)?.body)?;
    let signature = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x.signature",
        "config": manifest["config"], "layers": [],
        "subject": {"mediaType": MANIFEST, "digest": subject, "size": 1},
    });
    // This registry keeps no lists of referrers: clients keep them under a tag.
    put_manifest(
        &one.host(),
        "/v2/some/small/manifests/signature",
        MANIFEST,
        &signature.to_string(),
    )?;
    let read = Request {
        target: "/v2/some/small/manifests/signature",
        ..read
    };
    let signed = ask(&one.host(), read)?;
    let signed = signed
        .field("docker-content-digest")
        .context("no digest")?
        .to_owned();
    let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": signed, "size": signature.to_string().len()},
    ]});
    let tag = subject.replace(':', "-");
    put_manifest(
        &one.host(),
        &format!("/v2/some/small/manifests/{tag}"),
        INDEX,
        &list.to_string(),
    )?;
    let without = format!("{}/without/small:1", two.host());
    let with = format!("{}/with/small:1", two.host());

    let plain = told(&stage, &["copy", &from, &without, "--json"])?;
    let signed_too = told(&stage, &["copy", &from, &with, "--referrers", "--json"])?;

    assert_eq!(plain["referrers"], 0);
    assert_eq!(signed_too["referrers"], 1, "{signed_too}");
    let listed = |repository: &str| {
        let request = Request {
            method: "GET",
            target: &format!("/v2/{repository}/small/manifests/{tag}"),
            fields: &[("accept", INDEX)],
            body: b"",
        };
        ask(&two.host(), request)
    };
    assert_eq!(listed("without")?.status()?, 404);
    let list: Value = serde_json::from_slice(&listed("with")?.body)?;
    assert_eq!(list["manifests"][0]["digest"], signed, "{list}");
    assert_eq!(
        list["manifests"][0]["artifactType"],
        "application/x.signature"
    );

    assert_both_ways(&stage, &two, &from, (&signed_too, &signed))?;
    Ok(())
}

/// By way of this host: a layout, and an archive of the layout. What was copied before is an image
/// with its one referrer.
fn assert_both_ways(
    stage: &Stage,
    two: &Registry,
    from: &str,
    (signed_too, signed): (&Value, &str),
) -> Result<()> {
    let tag = text(signed_too, "digest")?.replace(':', "-");
    let listed = |name: &str| {
        let request = Request {
            method: "GET",
            target: &format!("/v2/{name}/small/manifests/{tag}"),
            fields: &[("accept", INDEX)],
            body: b"",
        };
        ask(&two.host(), request)
    };
    let out = told(
        stage,
        &["copy", from, "oci:signed:1", "--referrers", "--json"],
    )?;
    let words = [
        "copy",
        "oci:signed:1",
        "oci-archive:signed.tar:1",
        "--referrers",
        "--json",
    ];
    let packed = told(stage, &words)?;
    for (place, name) in [
        ("oci:signed:1", "layout"),
        ("oci-archive:signed.tar:1", "archive"),
    ] {
        let into = format!("{}/{name}/small:1", two.host());
        let back = told(stage, &["copy", place, &into, "--referrers", "--json"])?;
        assert_eq!(back["digest"], signed_too["digest"], "{name}");
        assert_eq!(back["referrers"], 1, "{name}: {back}");
        let list: Value = serde_json::from_slice(&listed(name)?.body)?;
        assert_eq!(list["manifests"][0]["digest"], signed, "{name}: {list}");
    }
    assert_eq!(
        (&out["referrers"], &out["manifests"]),
        (&json!(1), &json!(2)),
        "{out}"
    );
    assert_eq!(packed["referrers"], 1, "{packed}");
    let layout = stage.path("signed");
    let copied = fetch_by_skopeo_from(&layout, &stage.path("by-skopeo"))?;
    assert_eq!(signed_too["digest"], copied.as_str());
    // A name is what tells the image from what belongs to it, and some places hold one image.
    told(stage, &["copy", from, "dir:flat", "--json"])?;
    let again = format!("{}/again/small:1", two.host());
    for (source, into) in [
        (from, "oci:unnamed"),
        (from, "dir:one"),
        ("dir:flat", &again),
    ] {
        let refused = kiln(stage, &["copy", source, into, "--referrers"])?;
        assert_eq!(
            refused.status.code(),
            Some(2),
            "{source} {into}: {refused:?}"
        );
    }
    Ok(())
}

#[test]
fn an_upload_that_is_cut_goes_on() -> Result<()> {
    const SIZE: usize = 40 << 20;
    if tools::must_skip("an_upload_that_is_cut_goes_on", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layout = source::of_layers(&stage.path("layout"), |layout| {
        let file = Entry::file("noise", noise(7, SIZE));
        Ok(vec![layout.add_layer(&[file], Compression::Gzip)?])
    })?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    // In the middle of the second part of sixteen mebibytes.
    let cutting = Cutting::before(&registry.host(), 24 << 20)?;
    let into = format!("{}/some/large:1", cutting.host());

    let copied = told(&stage, &["copy", &oci(&layout, "1"), &into, "--json"])?;

    assert_eq!(cutting.cuts(), 1);
    let straight = format!("{}/some/large:1", registry.host());
    assert_eq!(
        fetch_by_skopeo(&straight, &stage.path("fetched"))?,
        text(&copied, "digest")?
    );
    let passed = cutting.passed_bytes();
    // distribution 2 forgets an upload that was cut in the middle of a part; from 3 on it goes on.
    let begun_anew = (SIZE + (24 << 20)) as u64;
    assert!(passed < begun_anew + (1 << 20), "{passed} bytes were sent");
    Ok(())
}

#[test]
fn refusals_say_what_is_wrong() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let from = oci(&layout, "1");
    let cases = [
        ("upload 405 UNSUPPORTED", "registry.read_only"),
        ("upload 403 DENIED", "registry.denied"),
        ("upload 403 quota exceeded", "registry.quota_exceeded"),
        ("bytes 413 too large", "registry.too_large"),
        ("manifest 400 tag is immutable", "registry.tag_immutable"),
        ("manifest 400 MANIFEST_INVALID", "registry.push_refused"),
    ];
    for (script, want) in cases {
        let registry = Scripted::start(script)?;
        let into = format!("{}/some/small:1", registry.host());
        let params = json!({"from": from, "into": into});

        let refused = stage.refused("registry.copy", &params)?;

        assert_eq!(code(&refused), want, "{script}: {refused:?}");
    }
    let invalid = json!({"from": from, "into": "localhost/UPPER"});
    let refused = stage.refused("registry.copy", &invalid)?;
    assert_eq!(code(&refused), "source.invalid_reference");
    Ok(())
}

#[test]
fn a_repository_that_hangs_holds_up_no_other() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let registry = Scripted::start("upload@some/hanging 0 never answered")?;
    let copy = |repository: &str, is_detached: bool| {
        let into = format!("{}/some/{repository}:1", registry.host());
        let params = json!({"from": oci(&layout, "1"), "into": into, "detach": is_detached});
        stage.call("registry.copy", &params)
    };
    let word = |layer: &Value| layer["state"].as_str().map(str::to_owned);
    let hanging = copy("hanging", true)?;
    registry.wait_for("POST")?;

    // Who waits says so, and can be stopped.
    let waiting = copy("waiting", true)?;
    let id = json!({"operation_id": waiting["operation_id"]});
    wait::until("a copy that waits for another", LIMIT, || {
        let operation = stage.call("operation.get", &id)?;
        let layers = operation["progress"]["layers"].as_array().cloned();
        let states: Vec<_> = layers.iter().flatten().map(word).collect();
        let waits = |state: &Option<String>| state.as_deref() == Some("waiting");
        Ok((!states.is_empty() && states.iter().all(waits)).then_some(()))
    })?;
    let stopped = stage.call("operation.cancel", &id)?;
    let done = copy("other", false)?;

    assert_eq!(stopped["state"], "cancelled", "{stopped}");
    assert_ne!(done["sent"]["blobs"], 0, "{done}");
    let id = json!({"operation_id": hanging["operation_id"]});
    let still = stage.call("operation.get", &id)?;
    assert_eq!(still["state"], "running", "{still}");
    let ended = stage.call("operation.cancel", &id)?;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    Ok(())
}

#[test]
fn a_push_that_is_cancelled_writes_no_tag() -> Result<()> {
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let registry = Scripted::start("bytes 0 never answered")?;
    let into = format!("{}/some/small:1", registry.host());
    let params = json!({"from": oci(&layout, "1"), "into": into, "detach": true});
    let started = stage.call("registry.copy", &params)?;
    registry.wait_for("PUT")?;

    let id = json!({"operation_id": started["operation_id"]});
    let ended = stage.call("operation.cancel", &id)?;

    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert!(
        !registry
            .asked()
            .iter()
            .any(|line| line.contains("/manifests/") && line.starts_with("PUT"))
    );
    assert_eq!(stage.entries("cache/ingest")?, Vec::<String>::new());
    Ok(())
}
