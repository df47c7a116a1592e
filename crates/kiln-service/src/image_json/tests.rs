use std::fs;

use kiln_api::image::BootChoice;
use serde_json::json;
use tempfile::TempDir;

use super::*;

const ID: &str = "0b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1";

fn version_id() -> VersionId {
    ID.parse().unwrap()
}

fn document() -> Value {
    let digest = Digest::of(b"content");
    json!({
        "format": 1,
        "image_id": "1b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1",
        "version_id": ID,
        "version": "v1.0.0",
        "name": "team/web",
        "owner_uid": 1000,
        "created_at": "2024-03-01T00:00:00.000000Z",
        "builder": "kiln 0.1.0",
        "platform": "linux/amd64",
        "source": {
            "kind": "registry",
            "reference": "docker.io/library/web:1",
            "manifest_digest": digest,
            "config_digest": null,
            "blobs": [{"role": "layer", "digest": digest, "size_bytes": 7, "diff_id": digest}],
        },
        "rootfs": {"size_bytes": 6, "derivation": digest, "epoch": 0},
        "kernel": {"name": "debian", "sha256": digest, "initrd_sha256": digest, "has_modules": true},
        "boot": {
            "choice": "auto", "mode": "init", "init_path": "/sbin/init", "reason": "it is one",
            "monitors": ["qemu-q35"],
        },
        "config": {"Entrypoint": ["/bin/sh"]},
    })
}

/// Returns the document with the value at `pointer` replaced.
fn with(pointer: &str, value: Value) -> Value {
    let mut document = document();
    *document.pointer_mut(pointer).unwrap() = value;
    document
}

fn parsed(document: &Value) -> Result<Recorded, String> {
    let told = parse(document.to_string().as_bytes(), version_id());
    told.map_err(|error| error.to_string())
}

/// A directory as a pull leaves it, without its document.
fn directory() -> (TempDir, Artifacts) {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = Artifacts::open(&folder.path().join("images")).unwrap();
    let place = folder.path().join("images").join(ID);
    fs::create_dir_all(place.join(MODULES)).unwrap();
    fs::write(place.join(ROOTFS), "rootfs").unwrap();
    fs::write(place.join(KERNEL), "kernel").unwrap();
    fs::write(place.join(INITRD), "initrd").unwrap();
    (folder, artifacts)
}

#[test]
fn what_a_directory_says_of_itself_comes_back() {
    let (folder, artifacts) = directory();
    let place = folder.path().join("images").join(ID);
    fs::write(place.join(IMAGE_JSON), document().to_string()).unwrap();

    let recorded = read(&artifacts, version_id()).unwrap();

    let digest = Digest::of(b"content");
    let want = Recorded {
        document_bytes: document().to_string().len(),
        image_id: "1b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1".parse().unwrap(),
        version_id: version_id(),
        number: VersionNumber::FIRST,
        name: "team/web".parse().unwrap(),
        owner_uid: 1000,
        created_at: "2024-03-01T00:00:00Z".parse().unwrap(),
        architecture: Architecture::Amd64,
        source_kind: "registry".to_owned(),
        source_reference: "docker.io/library/web:1".to_owned(),
        manifest_digest: Some(digest),
        config_digest: None,
        original: None,
        blobs: vec![VersionBlob {
            digest,
            role: BlobRole::Layer,
            position: 0,
            size_bytes: 7,
            diff_id: Some(digest),
        }],
        rootfs_size_bytes: 6,
        derivation: Some(digest),
        kernel_name: Some("debian".parse().unwrap()),
        kernel_sha256: digest,
        initrd_sha256: Some(digest),
        has_modules: true,
        boot: Some(Boot {
            choice: BootChoice::Auto,
            mode: BootChoice::Init,
            init_path: Some("/sbin/init".to_owned()),
            reason: "it is one".to_owned(),
            monitors: vec!["qemu-q35".to_owned()],
            disk: None,
        }),
        config: Some(json!({"Entrypoint": ["/bin/sh"]})),
    };
    assert_eq!(recorded, want);
}

#[test]
fn what_an_older_kiln_wrote_does_not_say_how_it_boots() {
    let mut old = document();
    old.as_object_mut().unwrap().remove("boot");

    assert_eq!(parsed(&old).map(|recorded| recorded.boot), Ok(None));
}

#[test]
fn a_document_that_breaks_a_rule_is_refused() {
    let blob = document()["source"]["blobs"][0].clone();
    let mut odd = blob.clone();
    odd["role"] = json!("ghost");
    let mut huge = blob.clone();
    huge["size_bytes"] = json!(u64::MAX);
    let cases = [
        ("/boot/reason", json!("a\nb"), "how it boots"),
        ("/boot/mode", json!("magic"), "not what Kiln writes"),
        ("/format", json!(2), "format 2"),
        ("/format", json!(0), "no format 0"),
        ("/format", json!("1"), "not what Kiln writes"),
        (
            "/version_id",
            json!("1b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1"),
            "tells of 1b8f2c34",
        ),
        ("/name", json!("../../etc"), "not what Kiln writes"),
        ("/name", json!("web\u{1b}[2J"), "not what Kiln writes"),
        ("/owner_uid", json!(-1), "not what Kiln writes"),
        ("/platform", json!("windows/amd64"), "no platform"),
        ("/created_at", json!("yesterday"), "not what Kiln writes"),
        ("/source/kind", json!("a\nb"), "kind of its source"),
        (
            "/source/reference",
            json!("r".repeat(MAX_TEXT_BYTES + 1)),
            "its source is too long",
        ),
        (
            "/source/blobs",
            json!(vec![blob.clone(); MAX_BLOBS + 1]),
            "blobs",
        ),
        ("/source/blobs", json!([odd]), "ghost"),
        ("/source/blobs", json!([huge]), "no file has"),
        ("/rootfs/size_bytes", json!(u64::MAX), "no file has"),
        ("/rootfs/size_bytes", json!(1.5), "not what Kiln writes"),
        ("/kernel/name", json!("a/b"), "not what Kiln writes"),
        ("/kernel", Value::Null, "not what Kiln writes"),
    ];
    for (pointer, value, want) in cases {
        let refused = parsed(&with(pointer, value)).unwrap_err();

        assert!(refused.contains(want), "{pointer}: {refused}");
    }
}

#[test]
fn a_torn_document_is_refused_wherever_it_was_cut() {
    let whole = document().to_string();
    for length in 0..whole.len() {
        let told = parse(&whole.as_bytes()[..length], version_id());

        assert!(
            matches!(told, Err(UnreadableImage::Malformed(_))),
            "{length}: {told:?}"
        );
    }
    let deep = "[".repeat(100_000);
    parse(deep.as_bytes(), version_id()).unwrap_err();
}

#[test]
fn what_a_later_release_adds_within_the_format_is_ignored() {
    let mut document = document();
    document["novelty"] = json!({"a": 1});

    parsed(&document).unwrap();
}

#[test]
fn the_files_it_tells_of_must_be_there() {
    type Damage = fn(&std::path::Path);
    let cases: &[(Damage, &str)] = &[
        (
            |place| fs::remove_file(place.join(ROOTFS)).unwrap(),
            "rootfs.ext4 is not there",
        ),
        (
            |place| fs::write(place.join(ROOTFS), "short").unwrap(),
            "rootfs.ext4 has 5 bytes",
        ),
        (
            |place| fs::remove_file(place.join(KERNEL)).unwrap(),
            "kernel is not there",
        ),
        (
            |place| fs::remove_file(place.join(INITRD)).unwrap(),
            "initrd.img is not there",
        ),
        (
            |place| fs::remove_dir(place.join(MODULES)).unwrap(),
            "modules is not there",
        ),
        (
            |place| fs::remove_file(place.join(IMAGE_JSON)).unwrap(),
            "image.json is not there",
        ),
        (
            |place| {
                fs::remove_file(place.join(KERNEL)).unwrap();
                std::os::unix::fs::symlink("/etc/passwd", place.join(KERNEL)).unwrap();
            },
            "is not a regular file",
        ),
        (
            |place| {
                let file = fs::File::create(place.join(IMAGE_JSON)).unwrap();
                file.set_len(MAX_BYTES + 1).unwrap();
            },
            "more than 16777216 bytes",
        ),
    ];
    for (damage, want) in cases {
        let (folder, artifacts) = directory();
        let place = folder.path().join("images").join(ID);
        fs::write(place.join(IMAGE_JSON), document().to_string()).unwrap();
        damage(&place);

        let refused = read(&artifacts, version_id()).unwrap_err().to_string();

        assert!(refused.contains(want), "{want}: {refused}");
    }
}
