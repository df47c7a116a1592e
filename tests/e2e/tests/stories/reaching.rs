//! One way to reach a registry from every command: which one a short name means, who is told which
//! login, and how far certificates count.

use std::fs;
use std::process::Output;

use anyhow::{Context as _, Result};
use kiln_testkit::registry::{Access, Extras, Registry, Transport};
use kiln_testkit::tools::{self, Need};
use serde_json::{Value, json};

use crate::routes::{SMALL, kiln, mirrored, with_small};
use crate::stage::{KERNEL, Stage, code, folder, text};

const NEEDS: &[Need] = &[
    tools::DOCKER_REGISTRY,
    tools::SKOPEO,
    tools::OPENSSL,
    tools::HTPASSWD,
];

/// Starts a daemon for which `small` is an alias of the small image of `registry`.
fn with_alias(registry: &Registry) -> Result<(Stage, tempfile::TempDir)> {
    let place = folder()?;
    let conf = place.path().join("registries.conf");
    let aliases = format!("[aliases]\nsmall = \"{}/some/small\"\n", registry.host());
    fs::write(&conf, aliases)?;
    let config = format!("[registries]\nconf_files = [\"{}\"]\n", conf.display());
    Ok((Stage::with_config(&config)?, place))
}

/// Writes an auth file with the registry's login and one that it must never see.
fn logins(registry: &Registry, stage: &Stage) -> Result<String> {
    let mut auths: Value = serde_json::from_slice(&fs::read(registry.auth_file()?)?)?;
    // nobody:wrong
    auths["auths"]["docker.io"] = json!({"auth": "bm9ib2R5Ondyb25n"});
    let path = stage.path("auth.json");
    fs::write(&path, auths.to_string())?;
    Ok(path.display().to_string())
}

/// Fails unless a command went well.
fn well(output: &Output) -> Result<String> {
    anyhow::ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the digest of the first layer of what a registry has.
fn layer(stage: &Stage, words: &[&str], environment: &[(&str, &str)]) -> Result<String> {
    let told: Value = serde_json::from_str(&well(&kiln(stage, words, environment)?)?)?;
    text(&told["layers"][0], "digest")
}

#[test]
fn an_alias_is_followed_with_the_login_of_the_registry_it_leads_to() -> Result<()> {
    if tools::must_skip("an_alias_is_followed", NEEDS)? {
        return Ok(());
    }
    let registry = with_small(Access::Basic, Transport::Http, &Extras::default())?;
    let other = Registry::start(Access::Anonymous, Transport::Http)?;
    let (stage, _place) = with_alias(&registry)?;
    let auth = logins(&registry, &stage)?;
    let run = |words: &[&str]| -> Result<String> {
        let words = [words, &["--authfile", &auth]].concat();
        well(&kiln(&stage, &words, &[])?)
    };
    let full = format!("{}/{SMALL}", registry.host());

    let as_nobody = kiln(&stage, &["tags", "small"], &[])?;
    let tags = run(&["tags", "small", "-q"])?;
    let manifest = run(&["registry", "manifest", "small:1", "--json"])?;
    let manifest: Value = serde_json::from_str(&manifest)?;
    let digest = text(&manifest, "digest")?;
    let blob = text(&manifest["config"], "digest")?;
    let config = run(&["registry", "blob", &format!("small@{blob}")])?;
    run(&["registry", "referrers", "small:1"])?;
    let limits = run(&["registry", "ratelimit", "--image", "small:1"])?;
    run(&["pull", "small:1", "--name", "image", "--kernel", KERNEL])?;
    let layout = format!("oci:{}:1", stage.path("copied").display());
    run(&["copy", "small:1", &layout])?;
    let copied = format!("{}/copied:1", other.host());
    run(&["copy", "small:1", &copied])?;
    let rules = stage.path("rules.toml");
    let rule = format!(
        "[[rule]]\nfrom = 'small'\ninto = '{}/synced'\n",
        other.host()
    );
    fs::write(&rules, rule)?;
    let synced = run(&["sync", &rules.display().to_string(), "--json"])?;
    let synced: Value = serde_json::from_str(&synced)?;

    assert_eq!(as_nobody.status.code(), Some(4), "{as_nobody:?}");
    assert_eq!(tags, "1\n");
    let pinned = format!("{full}@{digest}");
    assert_eq!(text(&manifest, "reference")?, pinned);
    assert!(config.contains("rootfs"), "{config}");
    assert!(limits.starts_with(&registry.host()), "{limits}");
    let image = stage.call("image.get", &json!({"image": "image"}))?;
    assert_eq!(image["source"]["reference"], full.as_str());
    assert_eq!(synced["items"][0]["item"], full.as_str(), "{synced}");
    assert_eq!(synced["items"][0]["ok"]["digest"], digest, "{synced}");
    let there = stage.call("registry.manifest", &json!({"ref": copied}))?;
    assert_eq!(there["digest"], digest);
    Ok(())
}

#[test]
fn nothing_is_written_where_only_an_alias_leads() -> Result<()> {
    if tools::must_skip("nothing_is_written_where_only_an_alias_leads", NEEDS)? {
        return Ok(());
    }
    let registry = with_small(Access::Anonymous, Transport::Http, &Extras::default())?;
    let (stage, _place) = with_alias(&registry)?;
    let full = format!("{}/{SMALL}", registry.host());
    stage.pull(&full, "image")?;
    let before = registry.asked()?.len();
    let rules = stage.path("rules.toml");
    fs::write(
        &rules,
        format!("[[rule]]\nfrom = '{full}'\ninto = 'small'\n"),
    )?;
    let rules = rules.display().to_string();
    let commands: [&[&str]; 5] = [
        &["push", "image", "small:2"],
        &["copy", &full, "small:2"],
        &["registry", "delete", "small:1", "--yes"],
        &["registry", "untag", "small:1"],
        &["sync", &rules],
    ];
    let calls = [
        ("image.push", json!({"image": "image", "into": "small:2"})),
        ("registry.copy", json!({"from": full, "into": "small:2"})),
        ("registry.delete", json!({"ref": "small:1", "force": true})),
        ("registry.untag", json!({"ref": "small:1"})),
        (
            "registry.sync",
            json!({"rules": [{"from": full, "into": "small"}]}),
        ),
    ];

    for words in commands {
        let output = kiln(&stage, words, &[])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains("docker.io/library/small"), "{said}");
    }
    for (method, params) in calls {
        let refused = stage.refused(method, &params)?;
        assert_eq!(code(&refused), "source.invalid_reference", "{method}");
    }
    // A tag that nobody wrote is not taken off either.
    let untagged = format!("{}/some/small", registry.host());
    let output = kiln(&stage, &["registry", "untag", &untagged], &[])?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");

    let asked = registry.asked()?.split_off(before);
    let changed = asked
        .iter()
        .filter(|asked| !["GET", "HEAD"].contains(&asked.method.as_str()));
    assert_eq!(changed.count(), 0, "{asked:?}");
    Ok(())
}

#[test]
fn the_environment_loosens_one_registry_for_every_command() -> Result<()> {
    if tools::must_skip("the_environment_loosens_one_registry", NEEDS)? {
        return Ok(());
    }
    let registry = with_small(Access::Anonymous, Transport::Https, &Extras::default())?;
    let plain = with_small(Access::Anonymous, Transport::Http, &Extras::default())?;
    let stage = Stage::new()?;
    stage.pull(&format!("{}/{SMALL}", plain.host()), "image")?;
    let (host, own) = (registry.host(), format!("https://{}", registry.host()));
    let insecure = [
        ("REGISTRY_URL", own.as_str()),
        ("REGISTRY_INSECURE", "true"),
    ];
    let elsewhere = [
        ("REGISTRY_URL", "http://far.test"),
        ("REGISTRY_INSECURE", "true"),
    ];
    let full = format!("{host}/{SMALL}");
    let [pushed, copied] = ["pushed", "copied"].map(|name| format!("{host}/{name}:1"));
    let from_plain = format!("{}/{SMALL}", plain.host());
    let into_plain = format!("{}/back:1", plain.host());
    let manifest: &[&str] = &["registry", "manifest", &full, "--json"];
    let blob = layer(&stage, manifest, &insecure)?;
    let blob = format!("{host}/some/small@{blob}");
    let layout = format!("oci:{}:1", stage.path("layout-copied").display());
    let rules = stage.path("rules.toml");
    let rule = format!(
        "[[rule]]\nfrom = '{host}/some/*'\ninto = '{}/synced'\n",
        plain.host()
    );
    fs::write(&rules, rule)?;
    let rules = rules.display().to_string();
    // In this order: what is deleted was pushed.
    let commands: [&[&str]; 11] = [
        &["tags", &full],
        manifest,
        &["registry", "blob", &blob],
        &["registry", "referrers", &full],
        &["registry", "ratelimit", &host],
        &["push", "image", &pushed],
        &["copy", &from_plain, &copied],
        &["copy", &full, &into_plain],
        &["copy", &full, &layout],
        &["registry", "untag", &copied],
        &["registry", "delete", &pushed, "--yes", "--force"],
    ];
    let sync: &[&str] = &["sync", &rules];

    for words in commands {
        let refused = kiln(&stage, words, &elsewhere)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(8), "{words:?}: {said}");
        let insisting = [words, &["--tls-verify"]].concat();
        let refused = kiln(&stage, &insisting, &insecure)?;
        assert_eq!(refused.status.code(), Some(8), "{words:?}");
        well(&kiln(&stage, words, &insecure)?).with_context(|| format!("{words:?}"))?;
    }
    // Where all of a sync fails, it ends as its first failure does.
    assert_eq!(kiln(&stage, sync, &[])?.status.code(), Some(8));
    well(&kiln(&stage, sync, &insecure)?)?;
    let flag = ["copy", &full, &copied, "--tls-verify=false"];
    well(&kiln(&stage, &flag, &[])?)?;
    let one_end = ["copy", &full, &copied, "--src-tls-verify=false"];
    assert_eq!(kiln(&stage, &one_end, &[])?.status.code(), Some(8));
    let to_plain = ["copy", &full, &into_plain, "--src-tls-verify=false"];
    well(&kiln(&stage, &to_plain, &[])?)?;
    let insisting = [&to_plain[..], &["--tls-verify"]].concat();
    assert_eq!(kiln(&stage, &insisting, &[])?.status.code(), Some(8));
    Ok(())
}

#[test]
fn who_insists_on_certificates_speaks_no_plain_http_on_this_host_either() -> Result<()> {
    if tools::must_skip("who_insists_on_certificates", NEEDS)? {
        return Ok(());
    }
    let plain = with_small(Access::Anonymous, Transport::Http, &Extras::default())?;
    let stage = Stage::with_config("[registries.limits]\nconnect_timeout_seconds = 1\n")?;
    let full = format!("{}/{SMALL}", plain.host());
    let url = |scheme: &str| format!("{scheme}://{}", plain.host());
    let [encrypted, open] = ["https", "http"].map(url);
    let by_url = [("REGISTRY_URL", encrypted.as_str())];
    let requests = plain.asked()?.len();

    for (flags, environment) in [(&[][..], &by_url[..]), (&["--tls-verify"], &[])] {
        let words = [&["tags", &full], flags].concat();
        let refused = kiln(&stage, &words, environment)?;

        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(8), "{said}");
        let wanted = [
            format!("{} does not answer in HTTPS", plain.host()),
            "https:// in REGISTRY_URL".to_owned(),
            "--tls-verify=false".to_owned(),
        ];
        for part in wanted {
            assert!(said.contains(&part), "{part} in {said}");
        }
        assert_eq!(plain.asked()?.len(), requests, "nothing was asked in HTTP");
    }
    for (flags, environment) in [
        (&["--tls-verify=false"][..], &by_url[..]),
        (&[], &[("REGISTRY_URL", open.as_str())]),
        (&[], &[("REGISTRY_URL", "https://far.test")]),
        (&[], &[]),
    ] {
        let words = [&["tags", &full], flags].concat();
        well(&kiln(&stage, &words, environment)?)?;
    }
    let explain = ["registry", "explain", &full, "--json"];
    let told: Value = serde_json::from_str(&well(&kiln(&stage, &explain, &by_url)?)?)?;
    assert_eq!(told["endpoints"][0]["security"], "https");
    let told: Value = serde_json::from_str(&well(&kiln(&stage, &explain, &[])?)?)?;
    assert_eq!(told["endpoints"][0]["security"], "loopback");
    Ok(())
}

#[test]
fn what_is_sent_on_comes_from_a_mirror_with_the_mirrors_login() -> Result<()> {
    if tools::must_skip("what_is_sent_on_comes_from_a_mirror", NEEDS)? {
        return Ok(());
    }
    let mirror = with_small(Access::Basic, Transport::Http, &Extras::default())?;
    let other = Registry::start(Access::Anonymous, Transport::Http)?;
    let rule = mirrored("origin.test", &mirror, "");
    let stage = Stage::with_config(&format!("{rule}[registries.limits]\nattempts = 1\n"))?;
    let auth = mirror.auth_file()?.display().to_string();
    let from = format!("origin.test/{SMALL}");
    let into = |name: &str| format!("{}/{name}", other.host());
    let rules = stage.path("rules.toml");
    let rule = format!(
        "[[rule]]\nfrom = 'origin.test/some/small'\ninto = '{}'\ntags = ['1']\n\
         platform = 'linux/amd64'\n",
        into("synced")
    );
    fs::write(&rules, rule)?;
    let rules = rules.display().to_string();
    let with_login = |words: &[&str]| {
        let words = [words, &["--authfile", &auth]].concat();
        kiln(&stage, &words, &[])
    };
    let copy: &[&str] = &["copy", &from, &into("copied:1")];
    let pull: &[&str] = &["pull", &from, "--name", "image", "--kernel", KERNEL];
    let sync: &[&str] = &["sync", &rules];
    let push: &[&str] = &["push", "image", &into("pushed:1")];

    // The last one's error counts: the registry itself cannot be reached.
    assert_eq!(kiln(&stage, copy, &[])?.status.code(), Some(8));
    assert_eq!(kiln(&stage, sync, &[])?.status.code(), Some(8));
    well(&with_login(copy)?)?;
    well(&with_login(sync)?)?;
    well(&with_login(pull)?)?;
    let blobs = stage.root().join("cache/blobs/sha256");
    for name in stage.entries("cache/blobs/sha256")? {
        fs::remove_file(blobs.join(name))?;
    }
    assert_eq!(kiln(&stage, push, &[])?.status.code(), Some(8));
    well(&with_login(push)?)?;

    let image = stage.call("image.get", &json!({"image": "image"}))?;
    for name in ["copied:1", "synced:1", "pushed:1"] {
        let there = stage.call("registry.manifest", &json!({"ref": into(name)}))?;
        assert_eq!(
            there["digest"], image["source"]["manifest_digest"],
            "{name}"
        );
    }
    Ok(())
}
