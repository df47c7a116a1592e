use kiln_domain::Platform;

use super::*;
use crate::blob::BlobBody;
use crate::testing::tar_of;
use crate::{ImageSource, resolve};

const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0not really";

fn amd64() -> Platform {
    "amd64".parse().unwrap()
}

/// The files of an archive with one image per entry: its tags and the bytes of its layers.
fn files(images: &[(&[&str], &[&[u8]])]) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut entries = Vec::new();
    for (at, (tags, layers)) in images.iter().enumerate() {
        let diff_ids: Vec<Digest> = layers.iter().map(|bytes| Digest::of(bytes)).collect();
        let config = serde_json::json!({
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let names: Vec<String> = (0..layers.len())
            .map(|layer| format!("{at}-{layer}/layer.tar"))
            .collect();
        entries.push(serde_json::json!({
            "Config": format!("{at}.json"),
            "RepoTags": if tags.is_empty() { None } else { Some(tags) },
            "Layers": names,
        }));
        files.push((format!("{at}.json"), config.to_string().into_bytes()));
        let layers = layers.iter().map(|bytes| bytes.to_vec());
        files.extend(names.into_iter().zip(layers));
    }
    let manifest = serde_json::to_vec(&entries).unwrap();
    files.push(("manifest.json".to_owned(), manifest));
    files
}

fn open(files: &[(String, Vec<u8>)], reference: Option<&str>) -> Result<DockerArchive, FetchError> {
    let reference = reference.map(|text| text.parse().unwrap());
    DockerArchive::open(tar_of(files), Path::new("a.tar"), reference.as_ref())
}

#[tokio::test]
async fn layers_are_named_by_diff_id_or_by_their_compressed_bytes() {
    let files = files(&[(&["debian:12"], &[b"plain tar", GZIP])]);

    let source = ImageSource::DockerArchive(open(&files, None).unwrap());
    let resolved = resolve(&source, amd64()).await.unwrap();

    let types: Vec<&str> = resolved
        .layers
        .iter()
        .map(|layer| layer.descriptor.media_type.as_str())
        .collect();
    assert_eq!(types, [LAYER_TYPE, &format!("{LAYER_TYPE}+gzip")]);
    for (layer, want) in resolved.layers.iter().zip([b"plain tar", GZIP]) {
        assert_eq!(layer.descriptor.digest, Digest::of(want));
        let BlobBody::File(mut range) = source.blob(&layer.descriptor, 0).await.unwrap() else {
            panic!("an archive gives a file");
        };
        let mut bytes = Vec::new();
        range.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, want);
    }
}

#[tokio::test]
async fn the_same_archive_gives_the_same_manifest() {
    let files = files(&[(&[], &[b"layer"])]);
    let mut digests = Vec::new();
    for _ in 0..2 {
        let source = ImageSource::DockerArchive(open(&files, None).unwrap());
        digests.push(resolve(&source, amd64()).await.unwrap().manifest_digest);
    }

    assert_eq!(digests[0], digests[1]);
}

#[test]
fn the_image_is_chosen_by_reference_or_because_it_is_alone() {
    let two = files(&[
        (&["debian:11", "old:1"], &[b"a"]),
        (&["debian:12"], &[b"b"]),
    ]);
    let twice = files(&[(&["debian:12"], &[b"a"]), (&["debian:12"], &[b"b"])]);
    let one = files(&[(&[], &[b"a"])]);
    let cases = [
        (&one, None, "found"),
        (&two, Some("docker.io/library/debian:12"), "found"),
        (&two, Some("old:1"), "found"),
        (&two, None, "TagAmbiguous"),
        (&twice, Some("debian:12"), "TagAmbiguous"),
        (&two, Some("debian:13"), "TagMissing"),
        (&one, Some("debian:13"), "TagMissing"),
    ];
    for (files, reference, want) in cases {
        match open(files, reference) {
            Ok(_) => assert_eq!("found", want, "{reference:?}"),
            Err(error) => assert!(
                format!("{error:?}").starts_with(want),
                "{want} expected for {reference:?}, got {error:?}"
            ),
        }
    }
}

#[test]
fn incomplete_archives_are_refused_by_name() {
    let whole = files(&[(&[], &[b"a", b"b"])]);
    let without = |name: &str| {
        let mut files = whole.clone();
        files.retain(|(file, _)| file != name);
        files
    };
    let replaced = |name: &str, bytes: &[u8]| {
        let mut files = without(name);
        files.push((name.to_owned(), bytes.to_vec()));
        files
    };
    let one_diff_id = format!(
        r#"{{"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        Digest::of(b"a")
    );
    let cases = [
        (without("manifest.json"), "NotASource"),
        (without("0.json"), "NotASource"),
        (without("0-1/layer.tar"), "BlobNotFound"),
        (replaced("manifest.json", b"[]"), "NotASource"),
        (replaced("manifest.json", b"{}"), "Document"),
        (replaced("0.json", one_diff_id.as_bytes()), "Document"),
        (replaced("0-0/layer.tar", b"BZh91AY"), "ArchiveCompressed"),
    ];
    for (files, want) in cases {
        let error = open(&files, None).unwrap_err();
        assert!(format!("{error:?}").starts_with(want), "{error:?}");
    }
}
