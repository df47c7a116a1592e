use proptest::prelude::*;

use super::*;

const LIMIT: u64 = 4 << 20;
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

fn descriptor(media_type: &str) -> String {
    format!(
        r#"{{"mediaType":"{media_type}","digest":"{}","size":7}}"#,
        Digest::of(b"x")
    )
}

fn members(layer_count: usize) -> String {
    let config = descriptor("application/vnd.oci.image.config.v1+json");
    let layers = vec![descriptor("application/vnd.oci.image.layer.v1.tar+gzip"); layer_count];
    format!(r#""config":{config},"layers":[{}]"#, layers.join(","))
}

fn stated_in_body(media_type: Option<&str>) -> String {
    media_type.map_or_else(String::new, |text| format!(r#""mediaType":"{text}","#))
}

fn manifest(media_type: Option<&str>) -> String {
    let stated = stated_in_body(media_type);
    format!(r#"{{"schemaVersion":2,{stated}{}}}"#, members(2))
}

fn index(media_type: Option<&str>) -> String {
    let stated = stated_in_body(media_type);
    let entry = descriptor(OCI_MANIFEST);
    format!(r#"{{"schemaVersion":2,{stated}"manifests":[{entry}]}}"#)
}

fn parse(
    text: &str,
    response: Option<&str>,
    descriptor: Option<&str>,
) -> Result<DocumentType, String> {
    let stated = StatedMediaTypes {
        response,
        descriptor,
    };
    match Document::parse(text.as_bytes(), stated, LIMIT) {
        Ok(Document::Manifest(manifest)) => Ok(manifest.document_type),
        Ok(Document::Index(index)) => Ok(index.document_type),
        Err(error) => Err(format!("{error:?}")
            .split([' ', '(', '{'])
            .next()
            .unwrap_or_default()
            .to_owned()),
    }
}

#[test]
fn agreeing_statements_are_read() {
    let parameters = format!("{OCI_MANIFEST}; charset=utf-8");
    let cases = [
        (
            manifest(Some(OCI_MANIFEST)),
            Some(OCI_MANIFEST),
            DocumentType::OciManifest,
        ),
        (
            manifest(None),
            Some(parameters.as_str()),
            DocumentType::OciManifest,
        ),
        (
            manifest(Some(DOCKER_MANIFEST)),
            Some(DOCKER_MANIFEST),
            DocumentType::DockerManifest,
        ),
        (manifest(None), None, DocumentType::OciManifest),
        (index(None), None, DocumentType::OciIndex),
        (index(Some(DOCKER_LIST)), None, DocumentType::DockerList),
    ];
    for (text, response, want) in cases {
        assert_eq!(parse(&text, response, None), Ok(want), "reading {text}");
    }
}

#[test]
fn every_disagreement_is_refused() {
    let types = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
    for one in types {
        for other in types.into_iter().filter(|other| *other != one) {
            let cases = [
                (None, Some(one), Some(other)),
                (Some(one), Some(other), None),
                (Some(one), None, Some(other)),
            ];
            for (body, response, descriptor) in cases {
                for text in [manifest(body), index(body)] {
                    assert_eq!(
                        parse(&text, response, descriptor),
                        Err("MediaTypesDisagree".to_owned()),
                        "reading {text} as {response:?} and {descriptor:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn documents_that_could_be_two_things_are_refused() {
    let both = format!(r#"{{"schemaVersion":2,{},"manifests":[]}}"#, members(1));
    let index_with_layers = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
    let cases = [
        (both.as_str(), Some(OCI_MANIFEST), "Ambiguous"),
        (both.as_str(), Some(OCI_INDEX), "Ambiguous"),
        (index_with_layers, Some(OCI_INDEX), "Ambiguous"),
        (index_with_layers, None, "Ambiguous"),
        (&manifest(None), Some(OCI_INDEX), "Ambiguous"),
        (&index(None), Some(OCI_MANIFEST), "Ambiguous"),
        (r#"{"schemaVersion":2}"#, None, "Ambiguous"),
        (
            &manifest(None),
            Some("application/json"),
            "UnknownMediaType",
        ),
        (
            &manifest(Some("text/html")),
            Some(OCI_MANIFEST),
            "UnknownMediaType",
        ),
        (&manifest(None), Some(SCHEMA1), "Schema1"),
        (&manifest(Some(SCHEMA1)), None, "Schema1"),
        (r#"{"schemaVersion":1,"fsLayers":[]}"#, None, "Schema1"),
        (&manifest(None).replace(":2,", ":3,"), None, "SchemaVersion"),
        ("not json", Some(OCI_MANIFEST), "Malformed"),
        (r#"{"manifests":[],"manifests":[]}"#, None, "Malformed"),
        (
            &manifest(None).replace("\"size\":7", "\"size\":-7"),
            None,
            "Malformed",
        ),
        (
            &manifest(None).replace("sha256:", "sha256:../../"),
            None,
            "Malformed",
        ),
    ];
    for (text, response, want) in cases {
        assert_eq!(
            parse(text, response, None),
            Err(want.to_owned()),
            "reading {text} as {response:?}"
        );
    }
}

#[test]
fn artifacts_and_too_many_layers_are_refused() {
    let helm = manifest(None).replace(
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.cncf.helm.config.v1+json",
    );
    let full = format!(r#"{{"schemaVersion":2,{}}}"#, members(MAX_LAYERS));
    let over = format!(r#"{{"schemaVersion":2,{}}}"#, members(MAX_LAYERS + 1));

    assert_eq!(parse(&helm, None, None), Err("NotAnImage".to_owned()));
    assert_eq!(parse(&full, None, None), Ok(DocumentType::OciManifest));
    assert_eq!(parse(&over, None, None), Err("TooManyLayers".to_owned()));
}

#[test]
fn what_an_artifact_says_it_is_and_about_is_kept_and_never_a_reason_to_refuse() {
    let about = |subject: &str| {
        let members = members(1);
        let text = format!(
            r#"{{"schemaVersion":2,"artifactType":"application/spdx+json","subject":{subject},{members}}}"#
        );
        match Document::parse(text.as_bytes(), StatedMediaTypes::default(), LIMIT) {
            Ok(Document::Manifest(manifest)) => (
                manifest.artifact_type,
                manifest.subject.map(|subject| subject.digest),
            ),
            other => panic!("{other:?}"),
        }
    };
    let kind = Some("application/spdx+json".to_owned());

    let known = about(&descriptor(OCI_MANIFEST));
    let foreign = about(r#"{"mediaType":"x","digest":"sha512:00","size":1}"#);

    assert_eq!(known, (kind.clone(), Some(Digest::of(b"x"))));
    assert_eq!(foreign, (kind, None));
}

#[test]
fn layers_longer_than_any_are_refused() {
    let of = |size: u64| {
        let text = manifest(None);
        let (before, after) = text.rsplit_once(r#""size":"#).unwrap();
        let end = after.find(['}', ',']).unwrap();
        format!(r#"{before}"size":{size}{}"#, &after[end..])
    };

    let longest = parse(&of(MAX_LAYER_BYTES), None, None);

    assert_eq!(longest, Ok(DocumentType::OciManifest));
    for size in [MAX_LAYER_BYTES + 1, 1 << 62, u64::MAX] {
        let got = parse(&of(size), None, None);
        assert_eq!(got, Err("LayerTooLarge".to_owned()), "{size}");
    }
}

#[test]
fn size_is_checked_before_anything_else() {
    let error = Document::parse(b"           ", StatedMediaTypes::default(), 10).unwrap_err();

    assert!(matches!(
        error,
        DocumentError::TooLarge {
            size_bytes: 11,
            limit_bytes: 10
        }
    ));
}

proptest! {
    #[test]
    fn no_bytes_panic(at in 0..400_usize, byte: u8) {
        let mut bytes = manifest(Some(OCI_MANIFEST)).into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        drop(Document::parse(&bytes, StatedMediaTypes::default(), LIMIT));
    }
}
