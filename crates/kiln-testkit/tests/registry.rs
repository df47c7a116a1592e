//! A real registry takes and gives images in every way of access that it is started with.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kiln_testkit::http::{self, Message, Request};
use kiln_testkit::images;
use kiln_testkit::images::layout::{Compression, Layout};
use kiln_testkit::images::torture;
use kiln_testkit::registry::{Access, Registry, Transport, USER};
use kiln_testkit::{tools, wait};

const NEEDS: &[tools::Need] = &[
    tools::DOCKER_REGISTRY,
    tools::SKOPEO,
    tools::OPENSSL,
    tools::HTPASSWD,
];

/// Makes an index of the image of oddities and an attestation, and returns its source.
fn image(folder: &Path) -> Result<String> {
    let mut layout = Layout::create(folder.join("layout"))?;
    let compressions = [Compression::Gzip, Compression::Zstd, Compression::Plain];
    let image = torture::add_to(&layout, &torture::layers(), compressions)?;
    let attestation = layout.add_attestation(&image)?;
    let index = layout.add_index(&[image, attestation])?;
    layout.tag("odd", &index)?;
    Ok(format!("oci:{}:odd", layout.folder().display()))
}

/// Without this the registry hides indexes and OCI manifests.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json";

fn get(registry: &Registry, target: &str, fields: &[(&str, &str)]) -> Result<Message> {
    let fields = [&[("accept", ACCEPT)], fields].concat();
    let mut stream = TcpStream::connect(registry.host())?;
    let request = Request {
        method: "GET",
        target,
        fields: &fields,
        body: b"",
    };
    http::exchange(&mut stream, &registry.host(), request)
}

#[test]
fn an_open_registry_serves_what_was_pushed_and_logs_it() -> Result<()> {
    if tools::must_skip("an_open_registry_serves_what_was_pushed_and_logs_it", NEEDS)? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;

    let reference = registry.push(&image(folder.path())?, "some/odd:1")?;
    let manifest = get(&registry, "/v2/some/odd/manifests/1", &[])?;

    assert_eq!(reference, format!("{}/some/odd:1", registry.host()));
    assert_eq!(manifest.status()?, 200);
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.body)?;
    let digest = manifest["manifests"][0]["digest"]
        .as_str()
        .context("no digest")?;
    assert_eq!(manifest["manifests"][1]["platform"]["os"], "unknown");
    let image = get(&registry, &format!("/v2/some/odd/manifests/{digest}"), &[])?;
    let image: serde_json::Value = serde_json::from_slice(&image.body)?;
    let layer = image["layers"][1]["digest"].as_str().context("no layer")?;
    assert_eq!(registry.fetched_blobs()?, Vec::<String>::new());
    let blob = get(&registry, &format!("/v2/some/odd/blobs/{layer}"), &[])?;
    assert_eq!(
        Some(blob.body.len() as u64),
        image["layers"][1]["size"].as_u64()
    );
    assert_eq!(registry.fetched_blobs()?, [layer]);
    Ok(())
}

#[test]
fn a_password_is_needed_where_one_is_set() -> Result<()> {
    if tools::must_skip("a_password_is_needed_where_one_is_set", NEEDS)? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let registry = Registry::start(Access::Basic, Transport::Http)?;

    registry.push(&image(folder.path())?, "odd:1")?;

    let target = "/v2/odd/manifests/1";
    let wrong = format!("Basic {}", STANDARD.encode("kiln:wrong"));
    let auths = fs::read_to_string(registry.auth_file()?)?;
    let auths: serde_json::Value = serde_json::from_str(&auths)?;
    let account = auths["auths"][registry.host()]["auth"]
        .as_str()
        .context("no account")?;
    let right = format!("Basic {account}");
    assert_eq!(get(&registry, target, &[])?.status()?, 401);
    assert_eq!(
        get(&registry, target, &[("authorization", &wrong)])?.status()?,
        401
    );
    assert_eq!(
        get(&registry, target, &[("authorization", &right)])?.status()?,
        200
    );
    Ok(())
}

#[test]
fn https_with_an_authority_of_its_own_serves_who_knows_it() -> Result<()> {
    if tools::must_skip(
        "https_with_an_authority_of_its_own_serves_who_knows_it",
        NEEDS,
    )? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let registry = Registry::start(Access::Anonymous, Transport::Https)?;

    registry.push(&image(folder.path())?, "odd:1")?;

    let asked = registry.asked()?;
    assert!(
        asked
            .iter()
            .any(|asked| asked.method == "PUT" && asked.status == 201)
    );
    let text = fs::read_to_string(registry.authority().context("no authority")?)?;
    assert!(text.contains("BEGIN CERTIFICATE"));
    Ok(())
}

#[test]
fn tokens_open_what_their_holder_may_do_until_they_end() -> Result<()> {
    if tools::must_skip("tokens_open_what_their_holder_may_do_until_they_end", NEEDS)? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let source = image(folder.path())?;
    for (access, stranger_gets) in [(Access::Bearer, 401), (Access::BearerWithPublicPull, 200)] {
        let registry = Registry::start(access, Transport::Http)?;
        let tokens = registry.tokens().context("no token server")?;

        registry.push(&source, "odd:1")?;

        let logged = tokens.requests();
        assert!(logged.iter().any(|request| {
            request.user.as_deref() == Some(USER)
                && request
                    .scopes
                    .iter()
                    .any(|scope| scope == "repository:odd:pull,push")
        }));
        let stranger = token(tokens.realm().as_str())?;
        let ask = |token: &str| -> Result<u16> {
            let field = format!("Bearer {token}");
            get(
                &registry,
                "/v2/odd/manifests/1",
                &[("authorization", &field)],
            )?
            .status()
        };
        assert_eq!(ask(&stranger)?, stranger_gets, "{access:?}");
        tokens.set_validity_seconds(0);
        let ended = token(tokens.realm().as_str())?;
        // Valid until this second at the latest.
        wait::until("end of the token", Duration::from_secs(5), || {
            Ok((ask(&ended)? == 401).then_some(()))
        })?;
    }
    Ok(())
}

fn token(realm: &str) -> Result<String> {
    let (host, _) = realm
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .context("no realm")?;
    let mut stream = TcpStream::connect(host)?;
    let request = Request {
        method: "GET",
        target: "/token?service=kiln-registry&scope=repository:odd:pull",
        fields: &[],
        body: b"",
    };
    let answer = http::exchange(&mut stream, host, request)?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.body)?;
    Ok(answer["token"].as_str().context("no token")?.to_owned())
}

#[test]
fn images_become_archives() -> Result<()> {
    if tools::must_skip("images_become_archives", NEEDS)? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mut layout = Layout::create(folder.path().join("layout"))?;
    let image = torture::add_to(&layout, &torture::layers(), [Compression::Gzip; 3])?;
    layout.tag("odd", &image)?;
    let source = format!("oci:{}:odd", layout.folder().display());

    for (form, name) in [("oci-archive", "odd"), ("docker-archive", "odd:1")] {
        let file = folder.path().join(form);
        images::copy(&source, &format!("{form}:{}:{name}", file.display()))?;
        let size_bytes = fs::metadata(&file)?.len();
        assert!(size_bytes > 10_000, "{form}: {size_bytes}");
    }
    Ok(())
}
