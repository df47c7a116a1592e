//! How registries are reached: mirrors, certificates, proxies, rules of the host, and their
//! explanation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail};
use kiln_testkit::daemon::built;
use kiln_testkit::proxy::Proxy;
use kiln_testkit::registry::{Access, Extras, Registry, Transport, USER};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::wait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::source::{self, oci};
use crate::stage::{KERNEL, LIMIT, Stage, code, folder, pull, text};

const NEEDS: &[Need] = &[
    tools::DOCKER_REGISTRY,
    tools::SKOPEO,
    tools::OPENSSL,
    tools::HTPASSWD,
];

/// A repository that every registry here has.
pub(crate) const SMALL: &str = "some/small:1";

/// Starts a registry that has the small image.
pub(crate) fn with_small(
    access: Access,
    transport: Transport,
    extras: &Extras,
) -> Result<Registry> {
    let folder = folder()?;
    let layout = source::small(&folder.path().join("layout"))?;
    let registry = Registry::start_with(access, transport, extras)?;
    registry.push(&oci(&layout, "1"), SMALL)?;
    Ok(registry)
}

fn open_registry() -> Result<Registry> {
    with_small(Access::Anonymous, Transport::Http, &Extras::default())
}

/// Writes a rule that gives names of `prefix` a mirror.
pub(crate) fn mirrored(prefix: &str, mirror: &Registry, keys: &str) -> String {
    let place = mirror.host();
    format!(
        "[[registry]]\nprefix = \"{prefix}\"\n[[registry.mirror]]\nlocation = \"{place}\"\n{keys}\n"
    )
}

/// Runs `kiln` against a stage's daemon, with nothing of this user's own logins.
pub(crate) fn kiln(stage: &Stage, words: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(built("kiln")?);
    command.env(
        "KILN_HOST",
        format!("unix://{}", stage.daemon.socket().display()),
    );
    command
        .env("HOME", stage.path("home"))
        .env_remove("XDG_RUNTIME_DIR");
    for name in ["XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG"] {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied());
    command.args(words).output().context("cannot run kiln")
}

fn explained(stage: &Stage, reference: &str) -> Result<Value> {
    stage.call("registry.explain", &json!({"ref": reference}))
}

#[test]
fn an_image_comes_from_a_mirror_when_its_registry_cannot_be_reached() -> Result<()> {
    if tools::must_skip("an_image_comes_from_a_mirror", NEEDS)? {
        return Ok(());
    }
    let mirror = open_registry()?;
    let stage = Stage::with_config(&mirrored("origin.test", &mirror, ""))?;
    let digests_only = mirrored("origin.test", &mirror, "resolve = false");
    let strict = Stage::with_config(&digests_only)?;

    let image = stage.pull("origin.test/some/small:1", "image")?;
    let digest = text(&image["source"], "manifest_digest")?;
    let by_tag = strict.refused("image.pull", &pull("origin.test/some/small:1", "tag"))?;
    let pinned = format!("origin.test/some/small@{digest}");
    let by_digest = strict.pull(&pinned, "digest")?;

    // Images are called what they were asked for as, wherever they came from.
    assert_eq!(image["source"]["reference"], "origin.test/some/small:1");
    assert_eq!(code(&by_tag), "registry.unreachable");
    assert_eq!(by_digest["source"]["manifest_digest"], digest.as_str());
    Ok(())
}

#[test]
fn a_mirror_that_lies_is_found_out() -> Result<()> {
    if tools::must_skip("a_mirror_that_lies_is_found_out", NEEDS)? {
        return Ok(());
    }
    let (origin, mirror) = (open_registry()?, open_registry()?);
    let place = folder()?;
    let mut other = kiln_testkit::images::layout::Layout::create(place.path().join("other"))?;
    let image = source::small_image(&other, "a lie")?;
    other.tag("1", &image)?;
    mirror.push(&oci(&other, "1"), SMALL)?;
    // And what it has of the true image is damaged.
    let layers: Vec<String> = origin_layers(&origin)?;
    for layer in &layers {
        damage(&mirror, layer)?;
    }
    let rule = mirrored(&origin.host(), &mirror, "resolve = false");
    let stage = Stage::with_config(&rule)?;
    let truth = Stage::new()?;
    let reference = format!("{}/{SMALL}", origin.host());

    let pulled = stage.pull(&reference, "image")?;
    let wanted = truth.pull(&reference, "image")?;

    let digest = &wanted["source"]["manifest_digest"];
    assert_eq!(&pulled["source"]["manifest_digest"], digest);
    let sent = mirror.fetched_blobs()?;
    for layer in &layers {
        assert!(sent.contains(layer), "the mirror was not asked for {layer}");
    }
    Ok(())
}

/// Returns the digests of the layers of the small image.
fn origin_layers(origin: &Registry) -> Result<Vec<String>> {
    let stage = Stage::new()?;
    stage.pull(&format!("{}/{SMALL}", origin.host()), "probe")?;
    let mut layers = Vec::new();
    for digest in origin.fetched_blobs()? {
        // The other blob is the config, which is JSON.
        if !fs::read(stored(origin, &digest)?)?.starts_with(b"{") {
            layers.push(digest);
        }
    }
    Ok(layers)
}

/// Where a registry keeps a blob.
fn stored(registry: &Registry, digest: &str) -> Result<PathBuf> {
    let hex = digest.strip_prefix("sha256:").context("no sha256")?;
    let below = format!("blobs/sha256/{}/{hex}/data", &hex[..2]);
    Ok(registry.storage().join(below))
}

/// Changes the last byte of what a registry has under a digest.
fn damage(registry: &Registry, digest: &str) -> Result<()> {
    let path = stored(registry, digest)?;
    let mut bytes = fs::read(&path).with_context(|| path.display().to_string())?;
    let last = bytes.last_mut().context("an empty blob")?;
    *last ^= 1;
    Ok(fs::write(path, bytes)?)
}

#[test]
fn two_hosts_share_a_cache_that_asks_the_registry_once() -> Result<()> {
    if tools::must_skip("two_hosts_share_a_cache", NEEDS)? {
        return Ok(());
    }
    let origin = open_registry()?;
    let upstream = Some(format!("http://{}", origin.host()));
    let extras = Extras {
        upstream,
        ..Extras::default()
    };
    let cache = Registry::start_with(Access::Anonymous, Transport::Http, &extras)?;
    let rule = mirrored(&origin.host(), &cache, "");
    let (one, other) = (Stage::with_config(&rule)?, Stage::with_config(&rule)?);
    let reference = format!("{}/{SMALL}", origin.host());

    let image = one.pull(&reference, "image")?;
    for digest in origin.fetched_blobs()? {
        // The cache keeps what it passed on a moment later.
        let path = stored(&cache, &digest)?;
        wait::until("blob in the cache", LIMIT, || {
            Ok(path.exists().then_some(()))
        })?;
    }
    // On a miss distribution 2.8 asks twice at once: for whoever waits, and for itself.
    let before = origin.asked()?;
    let same = other.pull(&reference, "image")?;

    assert_eq!(image["source"], same["source"]);
    let new = origin.asked()?.split_off(before.len());
    let blobs = new.iter().filter(|asked| asked.target.contains("/blobs/"));
    assert_eq!(blobs.count(), 0, "{new:?}");
    let of_cache = cache.fetched_blobs()?;
    assert_eq!(of_cache.len(), 6, "three blobs for each host: {of_cache:?}");
    Ok(())
}

#[test]
fn a_registry_that_asks_for_a_certificate_gets_the_configured_one() -> Result<()> {
    if tools::must_skip("a_registry_that_asks_for_a_certificate", NEEDS)? {
        return Ok(());
    }
    let extras = Extras {
        wants_client_certificate: true,
        ..Extras::default()
    };
    let registry = with_small(Access::Anonymous, Transport::Https, &extras)?;
    let authority = registry.authority().context("no authority")?;
    let client = registry.client().context("no client certificate")?;
    let (host, ca) = (registry.host(), authority.display());
    let nobody = Stage::with_config(&format!("[registries]\nca_files = [\"{ca}\"]\n"))?;
    let ours = Stage::with_config(&format!(
        "[[registry]]\nprefix = \"{host}\"\nca = \"{ca}\"\nclient_cert = \"{}\"\nclient_key = \"{}\"\n",
        client.certificate.display(),
        client.key.display(),
    ))?;
    let place = folder()?;
    let certs = place.path().join("certs.d").join(&host);
    fs::create_dir_all(&certs)?;
    fs::copy(authority, certs.join("ca.crt"))?;
    fs::copy(&client.certificate, certs.join("me.cert"))?;
    fs::copy(&client.key, certs.join("me.key"))?;
    let theirs = Stage::with_config(&format!(
        "[registries]\ncerts_dirs = [\"{}\"]\n",
        place.path().join("certs.d").display()
    ))?;
    let half = place.path().join("half.d").join(&host);
    fs::create_dir_all(&half)?;
    fs::copy(authority, half.join("ca.crt"))?;
    fs::copy(&client.certificate, half.join("client.cert"))?;
    let halved = Stage::with_config(&format!(
        "[registries]\ncerts_dirs = [\"{}\"]\n",
        place.path().join("half.d").display()
    ))?;
    let reference = format!("{host}/{SMALL}");

    let refused = nobody.refused("image.pull", &pull(&reference, "image"))?;
    let incomplete = halved.refused("image.pull", &pull(&reference, "image"))?;
    ours.pull(&reference, "image")?;
    theirs.pull(&reference, "image")?;

    assert_eq!(code(&refused), "registry.tls_failed", "{refused:?}");
    let said = format!("{refused:?}");
    assert!(
        said.contains("wants a client certificate") && said.contains("client.key"),
        "{said}"
    );
    assert_eq!(code(&incomplete), "registry.tls_failed", "{incomplete:?}");
    let said = format!("{incomplete:?}");
    assert!(
        said.contains("client.cert lacks ") && !said.contains("ca.crt"),
        "{said}"
    );
    let told = explained(&halved, &reference)?;
    let shown = text(&told["endpoints"][0], "client_problem")?;
    assert!(shown.contains("client.key"), "{told}");
    let told = explained(&theirs, &reference)?;
    let shown = text(&told["endpoints"][0], "client_certificate")?;
    assert!(shown.ends_with("me.cert"), "{told}");
    let info = theirs.call("daemon.info", &json!({}))?;
    let key = fs::read_to_string(&client.key)?;
    let secret = key.lines().nth(1).context("no key")?;
    assert!(!info.to_string().contains(secret));
    Ok(())
}

#[test]
fn what_is_not_excepted_goes_through_the_proxy() -> Result<()> {
    if tools::must_skip("what_is_not_excepted_goes_through_the_proxy", NEEDS)? {
        return Ok(());
    }
    let plain = open_registry()?;
    let tls = with_small(Access::Anonymous, Transport::Https, &Extras::default())?;
    let (to_plain, to_tls) = (Proxy::start(plain.address())?, Proxy::start(tls.address())?);
    let authority = tls.authority().context("no authority")?;
    let with_password = to_tls.url().replace("http://", "http://ann:hunter2@");
    let config = format!(
        "[registries]\ninsecure = [\"plain.test\"]\nca_files = [\"{}\"]\n",
        authority.display()
    );
    let environment = [
        ("HTTP_PROXY", to_plain.url()),
        ("HTTPS_PROXY", with_password),
        ("NO_PROXY", "direct.test".to_owned()),
    ];
    let stage = Stage::with(&config, &environment)?;

    stage.pull(&format!("plain.test/{SMALL}"), "plain")?;
    stage.pull(&format!("secure.test/{SMALL}"), "secure")?;
    let direct = format!("direct.test/{SMALL}");
    let direct = stage.refused("image.pull", &pull(&direct, "direct"))?;
    stage.pull(&format!("{}/{SMALL}", plain.host()), "own")?;

    let plainly = to_plain.seen();
    let target = format!("http://plain.test/v2/{}", SMALL.replace(':', "/manifests/"));
    assert!(
        plainly.iter().any(|seen| seen.target == target),
        "{plainly:?}"
    );
    assert!(
        plainly
            .iter()
            .all(|seen| seen.target.contains("plain.test"))
    );
    let tunnels = to_tls.seen();
    assert!(!tunnels.is_empty());
    for seen in &tunnels {
        assert_eq!(
            (seen.method.as_str(), seen.target.as_str()),
            ("CONNECT", "secure.test:443")
        );
        // ann:hunter2
        assert_eq!(
            seen.authorization.as_deref(),
            Some("Basic YW5uOmh1bnRlcjI=")
        );
    }
    assert_eq!(code(&direct), "registry.unreachable");
    let info = stage.call("daemon.info", &json!({}))?.to_string();
    let told = explained(&stage, "secure.test/x")?;
    assert_eq!(told["endpoints"][0]["proxy"], to_tls.url());
    let log = fs::read_to_string(stage.daemon.log())?;
    for place in [info, told.to_string(), log] {
        assert!(!place.contains("hunter2"), "{place}");
    }
    Ok(())
}

#[test]
fn rules_are_read_anew_when_the_daemon_is_told() -> Result<()> {
    if tools::must_skip("rules_are_read_anew", NEEDS)? {
        return Ok(());
    }
    let registry = open_registry()?;
    let place = folder()?;
    let conf = place.path().join("registries.conf");
    let blocked = format!(
        "[[registry]]\nlocation = \"{}\"\nblocked = true\n",
        registry.host()
    );
    fs::write(&conf, &blocked)?;
    let config = format!("[registries]\nconf_files = [\"{}\"]\n", conf.display());
    let stage = Stage::with_config(&config)?;
    let reference = format!("{}/{SMALL}", registry.host());
    let is_blocked = || -> Result<bool> {
        let told = explained(&stage, &reference)?;
        told["blocked"].as_bool().context("no answer")
    };

    let refused = stage.refused("image.pull", &pull(&reference, "image"))?;
    let words = ["pull", &reference, "--name", "image", "--kernel", KERNEL];
    let by_hand = kiln(&stage, &words, &[])?;
    let looked = stage.refused("registry.tags", &json!({"ref": reference}))?;
    let sent = json!({"from": reference, "into": reference});
    let sent = stage.refused("registry.copy", &sent)?;
    for refused in [&refused, &looked, &sent] {
        assert_eq!(code(refused), "registry.blocked", "{refused:?}");
    }
    assert!(refused.message.contains("registries.conf:1"), "{refused}");
    assert_eq!(by_hand.status.code(), Some(6), "{by_hand:?}");

    fs::write(&conf, "")?;
    hang_up(&stage)?;
    wait::until("rule that went", LIMIT, || {
        Ok((!is_blocked()?).then_some(()))
    })?;
    stage.pull(&reference, "image")?;

    // What cannot be read changes nothing.
    fs::write(&conf, "[registries.block]\nregistries = []\n")?;
    hang_up(&stage)?;
    wait::until("word in the log", LIMIT, || {
        let log = fs::read_to_string(stage.daemon.log())?;
        Ok(log
            .contains("the configuration stays as it was")
            .then_some(()))
    })?;
    assert!(!is_blocked()?);

    fs::write(&conf, &blocked)?;
    hang_up(&stage)?;
    wait::until("rule that came back", LIMIT, || {
        Ok(is_blocked()?.then_some(()))
    })?;
    let settings = stage.call("daemon.info", &json!({}))?;
    let settings = settings["config"].as_array().context("no settings")?;
    let read = settings
        .iter()
        .find(|setting| setting["key"] == "registries.read");
    let read = read.context("no registries.read")?.to_string();
    assert!(read.contains("registries.conf"), "{read}");
    Ok(())
}

#[test]
fn a_pipe_among_the_drop_ins_stops_neither_reading_nor_ending() -> Result<()> {
    let place = folder()?;
    let pipe = place.path().join("ff.conf");
    let config = format!(
        "[registries]\nconf_files = [\"{}\"]\n",
        place.path().display()
    );
    let mut stage = Stage::with_config(&config)?;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )?;
    let logged = |stage: &Stage, word: &str| {
        wait::until("word in the log", LIMIT, || {
            let log = fs::read_to_string(stage.daemon.log())?;
            Ok(log.contains(word).then_some(()))
        })
    };

    hang_up(&stage)?;
    logged(&stage, "it is not a regular file")?;
    fs::remove_file(&pipe)?;
    hang_up(&stage)?;
    logged(&stage, "the configuration was read anew")?;

    let ended = stage.daemon.stop()?;
    assert!(ended.success(), "{ended}");
    Ok(())
}

fn hang_up(stage: &Stage) -> Result<()> {
    let id = i32::try_from(stage.daemon.id())?;
    let id = Pid::from_raw(id).context("no process")?;
    Ok(kill_process(id, Signal::HUP)?)
}

#[test]
fn an_explanation_names_every_place_and_who_one_would_be_there() -> Result<()> {
    let stage = Stage::with_config(
        "[registries]\nshort_names = \"strict\"\nconf_files = []\n[[registry]]\nprefix = \"origin.test/team\"\n\
         location = \"moved.test/new\"\n[[registry.mirror]]\nlocation = \"public.test\"\n\
         [[registry.mirror]]\nlocation = \"127.0.0.1:5000/m\"\n\
         [[registry.mirror]]\nlocation = \"tags.test\"\npull-from-mirror = \"tag-only\"\n",
    )?;
    let auth = stage.path("auth.json");
    let ann = "YW5uOmh1bnRlcjI="; // ann:hunter2
    let auths = json!({"auths": {"public.test": {"auth": ann}}});
    fs::write(&auth, auths.to_string())?;
    let auth = auth.display().to_string();
    let digest = format!("sha256:{}", "0".repeat(64));
    let pinned = format!("origin.test/team/app@{digest}");
    let words = |reference: &str| {
        ["registry", "explain", reference, "--authfile", &auth].map(str::to_owned)
    };

    let by_tag = run(&stage, &words("origin.test/team/app:1"))?;
    let mut as_json = words("origin.test/team/app:1").to_vec();
    as_json.push("--json".to_owned());
    let told: Value = serde_json::from_str(&run(&stage, &as_json)?)?;
    let by_digest = run(&stage, &words(&pinned))?;
    let short = stage.refused("registry.explain", &json!({"ref": "debian"}))?;

    let places: Vec<_> = told["endpoints"]
        .as_array()
        .context("no endpoints")?
        .iter()
        .collect();
    let shown: Vec<String> = places
        .iter()
        .map(|place| format!("{} {}", place["reference"], place["resolves_tags"]))
        .collect();
    assert_eq!(
        shown,
        [
            "\"public.test/app:1\" false",
            "\"127.0.0.1:5000/m/app:1\" true",
            "\"tags.test/app:1\" true",
            "\"moved.test/new/app:1\" true",
        ]
    );
    assert_eq!(told["users"], json!(["ann", null, null, null]));
    assert!(text(&told, "rule")?.ends_with("config.toml:4"), "{told}");
    assert!(
        by_tag.contains("1. public.test/app:1  (mirror)"),
        "{by_tag}"
    );
    assert!(by_tag.contains("user        ann\n"), "{by_tag}");
    assert!(
        by_digest.contains("tags.test is not asked: it is for tags only"),
        "{by_digest}"
    );
    assert!(!by_tag.contains("hunter2"));
    assert_eq!(code(&short), "source.invalid_reference");
    Ok(())
}

/// Runs `kiln` and returns what it prints; it must succeed.
fn run(stage: &Stage, words: &[String]) -> Result<String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = kiln(stage, &words, &[])?;
    if !output.status.success() {
        bail!("{output:?}");
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_mirror_is_told_its_own_login_and_the_registry_is_not() -> Result<()> {
    if tools::must_skip("a_mirror_is_told_its_own_login", NEEDS)? {
        return Ok(());
    }
    let mirror = with_small(Access::Basic, Transport::Http, &Extras::default())?;
    let stage = Stage::with_config(&mirrored("origin.test", &mirror, ""))?;
    let auth = mirror.auth_file()?.display().to_string();
    let reference = format!("origin.test/{SMALL}");
    let words = ["pull", &reference, "--name", "image", "--kernel", KERNEL];

    let as_nobody = kiln(&stage, &words, &[])?;
    let with_login = [&words[..], &["--authfile", &auth]].concat();
    let as_somebody = kiln(&stage, &with_login, &[])?;
    let stated = [&words[..], &["--creds", "kiln:pass:word"]].concat();
    let for_the_origin = kiln(&stage, &stated, &[])?;

    // The last one's error counts: the registry itself cannot be reached.
    assert_eq!(as_nobody.status.code(), Some(8), "{as_nobody:?}");
    assert!(as_somebody.status.success(), "{as_somebody:?}");
    assert_ne!(for_the_origin.status.code(), Some(0), "{for_the_origin:?}");
    let told = stage.call("image.list", &json!({}))?;
    assert_eq!(told["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(USER, "kiln");
    Ok(())
}

#[test]
fn the_environment_names_a_registry_and_how_it_may_be_spoken_to() -> Result<()> {
    if tools::must_skip("the_environment_names_a_registry", NEEDS)? {
        return Ok(());
    }
    let plain = open_registry()?;
    let tls = with_small(Access::Anonymous, Transport::Https, &Extras::default())?;
    let proxy = Proxy::start(plain.address())?;
    let stage = Stage::with("", &[("HTTP_PROXY", proxy.url())])?;
    let own = format!("http://{}", plain.host());
    let far = [("REGISTRY_URL", "http://far.test")];
    let insecure = [far[0], ("REGISTRY_INSECURE", "true")];
    let ping = ["registry", "ping"];

    let loopback = kiln(&stage, &ping, &[("REGISTRY_URL", &own)])?;
    let nowhere = kiln(&stage, &ping, &[])?;
    let refused = kiln(&stage, &ping, &far)?;
    let waived = kiln(&stage, &ping, &insecure)?;
    let elsewhere = kiln(&stage, &["registry", "ping", "other.test"], &insecure)?;
    let reference = format!("{}/{SMALL}", tls.host());
    let words = ["pull", &reference, "--name", "tls", "--kernel", KERNEL];
    let untrusted = kiln(&stage, &words, &[])?;
    let unverified = kiln(&stage, &[&words[..], &["--tls-verify=false"]].concat(), &[])?;

    assert!(loopback.status.success(), "{loopback:?}");
    assert!(loopback.stderr.is_empty(), "{loopback:?}");
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
    assert_eq!(refused.status.code(), Some(8), "{refused:?}");
    assert!(waived.status.success(), "{waived:?}");
    let warning = String::from_utf8_lossy(&waived.stderr).into_owned();
    assert!(warning.contains("without encryption"), "{warning}");
    assert_eq!(elsewhere.status.code(), Some(8), "{elsewhere:?}");
    assert_eq!(untrusted.status.code(), Some(8), "{untrusted:?}");
    assert!(unverified.status.success(), "{unverified:?}");
    Ok(())
}

#[test]
fn the_configuration_is_checked_with_all_its_files() -> Result<()> {
    let place = folder()?;
    let conf = place.path().join("registries.conf");
    let file = place.path().join("config.toml");
    fs::write(
        &file,
        format!("[registries]\nconf_files = [\"{}\"]\n", conf.display()),
    )?;
    let check = |file: &Path| -> Result<Output> {
        let mut command = Command::new(built("kilnd")?);
        command.arg("--root").arg(place.path().join("root"));
        command.arg("--config").arg(file).arg("--check-config");
        command.output().context("cannot run kilnd")
    };

    let missing = check(&file)?;
    fs::write(&conf, "[[registry]]\nlocation = \"a.test\"\n")?;
    let good = check(&file)?;
    fs::write(&conf, "\n[[registry]]\nprefix = \"*.a.test/b\"\n")?;
    let broken = check(&file)?;
    fs::write(&conf, "[[registry]]\nprefix = a.test\n")?;
    let torn = check(&file)?;

    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    let shown = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(shown.contains("registries.read = ["), "{shown}");
    assert!(shown.contains("1 registries have rules"), "{shown}");
    // A rule that cannot be used is told, and stops nobody; what is no TOML does.
    assert_eq!(broken.status.code(), Some(0), "{broken:?}");
    let shown = String::from_utf8_lossy(&broken.stdout).into_owned();
    let told = shown
        .lines()
        .find(|line| line.starts_with("# passed over: "));
    assert!(
        told.is_some_and(|line| line.contains("registries.conf:2")),
        "{shown}"
    );
    assert_eq!(torn.status.code(), Some(1), "{torn:?}");
    let error = String::from_utf8_lossy(&torn.stderr).into_owned();
    assert!(error.contains("line 2, column "), "{error}");
    Ok(())
}

#[test]
fn a_copy_to_this_host_goes_where_a_pull_would() -> Result<()> {
    if tools::must_skip("a_copy_to_this_host_goes", NEEDS)? {
        return Ok(());
    }
    let moved = with_small(Access::Basic, Transport::Http, &Extras::default())?;
    let rules = format!(
        "[[registry]]\nprefix = \"moved.test\"\nlocation = \"{}\"\n{}",
        moved.host(),
        mirrored("mirrored.test", &moved, "")
    );
    let stage = Stage::with_config(&rules)?;
    let auth_file = moved.auth_file()?.display().to_string();
    let logins = [("REGISTRY_AUTH_FILE", auth_file.as_str())];
    let direct = format!("{}/{SMALL}", moved.host());
    let run = |words: &[&str]| -> Result<String> {
        let output = kiln(&stage, words, &logins)?;
        anyhow::ensure!(output.status.success(), "kiln {words:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let want = run(&["registry", "manifest", &direct, "-q"])?;

    for registry in ["moved.test", "mirrored.test"] {
        let from = format!("{registry}/{SMALL}");
        let place = format!("oci:{}:1", stage.path(registry).display());

        assert_eq!(run(&["copy", &from, &place, "-q"])?, want, "{registry}");
        let seen = run(&["registry", "manifest", &from, "-q"])?;
        assert_eq!(seen, want, "{registry}");
    }
    // Lists are read where the image lies: at what was moved, and at no mirror.
    assert_eq!(run(&["tags", "moved.test/some/small", "-q"])?, "1");
    let place = format!("oci:{}:1", stage.path("stranger").display());
    let stranger = kiln(&stage, &["copy", "moved.test/some/small:1", &place], &[])?;
    assert_eq!(stranger.status.code(), Some(4), "{stranger:?}");
    Ok(())
}
