//! Pulls from real registries, in every way of access.

use std::collections::BTreeMap;
use std::thread;

use anyhow::{Context as _, Result};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::Compression;
use kiln_testkit::images::layout::{Layout, Platform};
use kiln_testkit::registry::{Access, PASSWORD, Registry, Transport, USER};
use kiln_testkit::tools::{self, Need};
use serde_json::{Value, json};

use crate::source::{self, oci};
use crate::stage::{Stage, assert_same_bytes, code, pull, text};

const NEEDS: &[Need] = &[
    tools::DOCKER_REGISTRY,
    tools::SKOPEO,
    tools::OPENSSL,
    tools::HTPASSWD,
];

fn credentials() -> Value {
    json!({"username": USER, "secret": PASSWORD})
}

/// Starts a registry that has the small image, and returns its reference.
fn with_small(stage: &Stage, access: Access, transport: Transport) -> Result<(Registry, String)> {
    let layout = source::small(&stage.path("layout"))?;
    let registry = Registry::start(access, transport)?;
    let reference = registry.push(&oci(&layout, "1"), "some/small:1")?;
    Ok((registry, reference))
}

#[test]
fn a_second_name_for_the_same_digest_fetches_and_decodes_nothing() -> Result<()> {
    if tools::must_skip("a_second_name_for_the_same_digest", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let (registry, reference) = with_small(&stage, Access::Anonymous, Transport::Http)?;

    let first = stage.pull(&reference, "first")?;
    let before = registry.fetched_blobs()?;
    let second = stage.pull(&reference, "second")?;
    let digest = text(&first["source"], "manifest_digest")?;
    let (host, _) = reference.split_once('/').context("no host")?;
    let third = stage.pull(&format!("{host}/some/small@{digest}"), "third")?;
    let after = registry.fetched_blobs()?;

    let listed = stage.call("operation.list", &json!({}))?;
    let fetched: Vec<Option<u64>> = (0..3)
        .map(|at| listed["items"][at]["progress"]["fetched_bytes"].as_u64())
        .collect();
    assert!(fetched[0] > Some(0), "{fetched:?}");
    assert_eq!(fetched[1..], [Some(0), Some(0)]);
    assert_eq!(before.len(), 3, "a config and two layers: {before:?}");
    assert_eq!(before, after, "something was fetched twice");
    for other in [&second, &third] {
        assert_eq!(other["source"]["manifest_digest"], digest);
        assert_eq!(other["rootfs"]["derivation"], first["rootfs"]["derivation"]);
        assert_ne!(other["artifact_dir"], first["artifact_dir"]);
    }
    assert_same_bytes(
        &text(&first["rootfs"], "path")?,
        &text(&second["rootfs"], "path")?,
    )?;
    Ok(())
}

#[test]
fn cached_layers_of_another_image_are_not_fetched_again() -> Result<()> {
    if tools::must_skip("cached_layers_of_another_image", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let mut layout = Layout::create(stage.path("layout"))?;
    let shared = layout.add_layer(&[Entry::file("shared", "shared")], Compression::Gzip)?;
    for tag in ["a", "b"] {
        let own = layout.add_layer(&[Entry::file("own", tag)], Compression::Zstd)?;
        let image = layout.add_image(&[shared.clone(), own], &Platform::linux("amd64"))?;
        layout.tag(tag, &image)?;
    }
    let push = |tag: &str| registry.push(&oci(&layout, tag), &format!("some/{tag}:1"));
    let (a, b) = (push("a")?, push("b")?);

    stage.pull(&a, "a")?;
    stage.pull(&b, "b")?;

    let operation = stage.last_operation()?;
    let layers = &operation["progress"]["layers"];
    assert_eq!(layers[0]["state"], "cached", "{operation}");
    assert_eq!(layers[1]["state"], "done", "{operation}");
    let fetched = registry.fetched_blobs()?;
    let of_shared = fetched
        .iter()
        .filter(|digest| **digest == shared.blob.digest);
    assert_eq!(of_shared.count(), 1, "{fetched:?}");
    Ok(())
}

#[test]
fn sixty_four_clients_fetch_every_blob_once() -> Result<()> {
    if tools::must_skip("sixty_four_clients_fetch_every_blob_once", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let (registry, reference) = with_small(&stage, Access::Anonymous, Transport::Http)?;

    let pulled: Vec<Result<Value>> = thread::scope(|scope| {
        let pulls: Vec<_> = (0..64)
            .map(|number| {
                let (stage, reference) = (&stage, &reference);
                scope.spawn(move || stage.pull(reference, &format!("image-{number}")))
            })
            .collect();
        pulls
            .into_iter()
            .map(|pull| {
                pull.join()
                    .unwrap_or_else(|_| anyhow::bail!("a client panicked"))
            })
            .collect()
    });

    for image in pulled {
        image?;
    }
    let mut counts = BTreeMap::new();
    for digest in registry.fetched_blobs()? {
        *counts.entry(digest).or_insert(0) += 1;
    }
    assert!(counts.len() >= 3, "{counts:?}");
    let layers_twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(
        layers_twice.is_empty(),
        "fetched more than once: {layers_twice:?}"
    );
    Ok(())
}

#[test]
fn a_password_opens_what_it_should() -> Result<()> {
    if tools::must_skip("a_password_opens_what_it_should", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let (_registry, reference) = with_small(&stage, Access::Basic, Transport::Http)?;
    let with = |credentials: Value| {
        let mut params = pull(&reference, "image");
        params["credentials"] = credentials;
        params
    };

    let none = stage.refused("image.pull", &pull(&reference, "image"))?;
    let wrong = with(json!({"username": USER, "secret": "wr0ng-pass-w0rd"}));
    let wrong = stage.refused("image.pull", &wrong)?;
    stage.call("image.pull", &with(credentials()))?;

    assert_eq!(code(&none), "registry.auth_required");
    assert_eq!(code(&wrong), "registry.auth_failed");
    // Kept nowhere, logged nowhere.
    for secret in [PASSWORD, "wr0ng-pass-w0rd"] {
        let log = std::fs::read(stage.daemon.log())?;
        let mut places = vec![("log".to_owned(), log)];
        for name in ["kiln.db", "kiln.db-wal"] {
            let bytes = std::fs::read(stage.root().join(name)).unwrap_or_default();
            places.push((name.to_owned(), bytes));
        }
        for (name, bytes) in places {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{name} has the secret {secret}");
        }
    }
    Ok(())
}

#[test]
fn tokens_open_what_they_should() -> Result<()> {
    if tools::must_skip("tokens_open_what_they_should", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let (registry, reference) = with_small(&stage, Access::Bearer, Transport::Http)?;

    let none = stage.refused("image.pull", &pull(&reference, "image"))?;
    let mut params = pull(&reference, "image");
    params["credentials"] = credentials();
    stage.call("image.pull", &params)?;

    let auth = ["registry.auth_required", "registry.denied"];
    assert!(auth.contains(&code(&none)), "{none:?}");
    let asked = registry.tokens().context("no token server")?.requests();
    assert!(asked.iter().any(|request| {
        request.user.as_deref() == Some(USER)
            && request
                .scopes
                .contains(&"repository:some/small:pull".to_owned())
    }));

    let (_public, reference) = {
        let registry = Registry::start(Access::BearerWithPublicPull, Transport::Http)?;
        let layout = source::small(&stage.path("public"))?;
        let reference = registry.push(&oci(&layout, "1"), "public/small:1")?;
        (registry, reference)
    };
    stage.pull(&reference, "public")?;
    Ok(())
}

#[test]
fn a_registry_with_an_authority_of_its_own_is_trusted_when_it_is_configured() -> Result<()> {
    if tools::must_skip("a_registry_with_an_authority_of_its_own", NEEDS)? {
        return Ok(());
    }
    let strict = Stage::new()?;
    let (registry, reference) = with_small(&strict, Access::Anonymous, Transport::Https)?;
    let authority = registry.authority().context("no authority")?;
    let config = format!(
        "[registry]\nca_files = [{:?}]\n",
        authority.display().to_string()
    );
    let trusting = Stage::with_config(&config)?;

    let refused = strict.refused("image.pull", &pull(&reference, "image"))?;
    trusting.pull(&reference, "image")?;

    assert_eq!(code(&refused), "registry.tls_failed");
    strict.assert_nothing_left()
}

#[test]
fn an_index_gives_the_platform_asked_for() -> Result<()> {
    if tools::must_skip("an_index_gives_the_platform_asked_for", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let mut layout = Layout::create(stage.path("layout"))?;
    let amd64 = source::small_image(&layout, "for-amd64")?;
    let arm = layout.add_layer(&[Entry::file("marker", "for-arm")], Compression::Gzip)?;
    let arm = layout.add_image(&[arm], &Platform::linux("arm").variant("v7"))?;
    let attestation = layout.add_attestation(&amd64)?;
    let index = layout.add_index(&[attestation, arm, amd64.clone()])?;
    layout.tag("many", &index)?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let reference = registry.push(&oci(&layout, "many"), "some/many:1")?;

    let image = stage.pull(&reference, "image")?;
    let mut params = pull(&reference, "other");
    params["platform"] = json!("linux/amd64");
    let same = stage.call("image.pull", &params)?;

    assert_eq!(image["source"]["manifest_digest"], amd64.digest);
    assert_eq!(image["architecture"], "amd64");
    assert_eq!(same["source"]["manifest_digest"], amd64.digest);
    Ok(())
}
