use std::sync::Mutex;

use kiln_domain::oci::DocumentType;

use super::*;
use crate::testing::{Asked, OCI_INDEX, OCI_MANIFEST, Reply, Server, manifest};

async fn push(server: &Server, bytes: &str) -> Result<Digest, FetchError> {
    let bytes = Bytes::from(bytes.to_owned());
    server
        .registry(None)
        .push_manifest(&server.reference(), OCI_MANIFEST, &bytes)
        .await
}

#[tokio::test]
async fn a_manifest_is_put_byte_for_byte_under_its_tag_or_its_digest() {
    let server = Server::start(|_, _| Reply::status(201)).await;
    let text = format!("{}\n", manifest());
    let digest = Digest::of(text.as_bytes());
    let by_digest = server.reference().with_digest(digest);

    let pushed = push(&server, &text).await.unwrap();
    server
        .registry(None)
        .push_manifest(&by_digest, OCI_MANIFEST, &text.clone().into())
        .await
        .unwrap();

    assert_eq!(pushed, digest);
    let asked = server.asked();
    assert_eq!(asked[0].target, "/v2/app/manifests/1");
    assert_eq!(asked[1].target, format!("/v2/app/manifests/{digest}"));
    for asked in asked {
        assert_eq!(asked.body, text);
        assert_eq!(asked.header("content-type"), Some(OCI_MANIFEST));
    }
}

#[tokio::test]
async fn what_the_registry_stored_must_be_what_was_sent() {
    let other = Digest::of(b"rewritten");
    let server = Server::start(move |_, _| {
        Reply::status(201).with("docker-content-digest", &other.to_string())
    })
    .await;

    let error = push(&server, &manifest()).await.unwrap_err();

    assert!(matches!(error, FetchError::DigestMismatch { expected, .. } if expected == other));
}

#[tokio::test]
async fn a_tag_that_may_not_move_is_told_apart() {
    let cases = [
        (
            400,
            "tag already exists and cannot be overwritten because the repository is immutable",
        ),
        (412, "configured as immutable"),
        (409, "the tag is locked"),
    ];
    for (status, said) in cases {
        let body = format!(r#"{{"errors":[{{"code":"X","message":"{said}"}}]}}"#);
        let server = Server::start(move |asked, _| match asked.method.as_str() {
            "PUT" => Reply::new(status, body.clone()),
            _ => Reply::status(200),
        })
        .await;

        let error = push(&server, &manifest()).await.unwrap_err();

        assert!(
            matches!(error, FetchError::TagImmutable { .. }),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_digest_is_asked_for_without_its_manifest() {
    let text = Digest::of(b"x").to_string();
    let cases = [
        (200, Some(text.clone()), Some(Digest::of(b"x"))),
        (200, None, None),
        (404, None, None),
    ];
    for (status, told, want) in cases {
        let server = Server::start(move |asked, _| {
            let reply = match asked.method.as_str() {
                "HEAD" => Reply::status(status),
                _ => return Reply::status(200),
            };
            match &told {
                Some(told) => reply.with("docker-content-digest", told),
                None => reply,
            }
        })
        .await;

        let found = server
            .registry(None)
            .manifest_digest(&server.reference())
            .await
            .unwrap();

        assert_eq!(found, want, "status {status}");
    }
}

/// A registry that keeps what is put under tags; with `is_listing` it keeps lists of referrers.
fn keeping(is_listing: bool) -> impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static {
    let kept: Mutex<Vec<(String, String, String)>> = Mutex::default();
    move |asked, _| {
        let mut kept = kept.lock().unwrap();
        if asked.method == "PUT" {
            let media_type = asked.header("content-type").unwrap().to_owned();
            kept.push((asked.target.clone(), media_type, asked.body.clone()));
            let reply = Reply::status(201);
            return if is_listing {
                reply.with("oci-subject", &Digest::of(b"subject").to_string())
            } else {
                reply
            };
        }
        let found = kept
            .iter()
            .rev()
            .find(|(target, ..)| *target == asked.target);
        match found {
            Some((_, media_type, body)) => Reply::ok(body.clone()).with("content-type", media_type),
            None => Reply::status(404),
        }
    }
}

fn referrer(kind: &str) -> String {
    let subject = Digest::of(b"subject");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"{kind}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},"layers":[],"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":7}},"annotations":{{"made":"today"}}}}"#,
        Digest::of(b"{}")
    )
}

#[tokio::test]
async fn a_registry_without_lists_of_referrers_gets_one() {
    let server = Server::start(keeping(false)).await;

    push(&server, &referrer("a/sbom")).await.unwrap();
    push(&server, &referrer("a/scan")).await.unwrap();
    push(&server, &referrer("a/sbom")).await.unwrap();

    let tag = format!("sha256-{}", Digest::of(b"subject").to_hex());
    let list = server.reference().with_tag(&tag).unwrap();
    let found = server.registry(None).manifest(&list).await.unwrap();
    assert_eq!(found.media_type.as_deref(), Some(OCI_INDEX));
    let stated = kiln_domain::oci::StatedMediaTypes::default();
    let parsed = kiln_domain::oci::Document::parse_any(&found.bytes, stated, 1 << 20).unwrap();
    let kiln_domain::oci::Document::Index(index) = parsed else {
        panic!("{parsed:?}");
    };
    assert_eq!(index.document_type, DocumentType::OciIndex);
    let listed: Vec<_> = index.manifests.iter().map(|entry| entry.digest).collect();
    assert_eq!(
        listed,
        ["a/sbom", "a/scan"].map(|kind| Digest::of(referrer(kind).as_bytes()))
    );
    let text = String::from_utf8_lossy(&found.bytes);
    assert!(text.contains(r#""artifactType":"a/scan""#), "{text}");
    assert!(text.contains(r#""made":"today""#), "{text}");
}

#[tokio::test]
async fn a_registry_that_lists_referrers_is_left_to_it() {
    let server = Server::start(keeping(true)).await;

    push(&server, &referrer("a/sbom")).await.unwrap();

    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_blob_of_untold_length_is_not_absent() {
    let told = [
        (Reply::status(404), Presence::Absent),
        (Reply::ok("seven b").cut_after(0), Presence::OfBytes(7)),
        (Reply::ok("").unannounced(), Presence::Untold),
    ];
    for (reply, expected) in told {
        let server = Server::start(move |_, _| reply.clone()).await;
        let registry = server.registry(None);
        let (reference, digest) = (server.reference(), Digest::of(b"x"));

        let found = registry.blob_presence(&reference, &digest).await.unwrap();
        let size = registry.blob_size(&reference, &digest).await.unwrap();

        assert_eq!(found, expected);
        let has_size = matches!(expected, Presence::OfBytes(_));
        assert_eq!(size, has_size.then_some(7));
    }
}
