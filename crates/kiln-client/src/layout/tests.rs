use std::fs;

use serde_json::{Value, json};

use super::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A layout under construction. Blobs are named by letters in what a check returns.
struct Layout {
    directory: tempfile::TempDir,
    names: Vec<(String, &'static str)>,
}

impl Layout {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
        Self {
            directory,
            names: Vec::new(),
        }
    }

    fn blob(&mut self, name: &'static str, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.directory.path().join(blob_name(&digest)), bytes).unwrap();
        self.names.push((blob_name(&digest), name));
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// Adds an image of one layer and returns its descriptor. Names: manifest, config, layer.
    fn image(&mut self, architecture: &str, names: [&'static str; 3]) -> Value {
        let [manifest, config, layer] = names;
        let layer = self.blob(
            layer,
            "application/vnd.oci.image.layer.v1.tar",
            layer.as_bytes(),
        );
        let diff_id = &layer["digest"];
        let config_body = json!({
            "architecture": architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        });
        let config = self.blob(
            config,
            "application/vnd.oci.image.config.v1+json",
            config_body.to_string().as_bytes(),
        );
        let body = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        self.blob(manifest, MANIFEST, body.to_string().as_bytes())
    }

    fn index(&self, manifests: &[Value]) {
        let body = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.directory.path().join(INDEX), body.to_string()).unwrap();
    }

    /// Names the files needed, blobs by their letters, in alphabetical order.
    fn needed(&self, tag: Option<&str>, platform: &str) -> String {
        let files = needed_files(
            self.directory.path(),
            tag,
            Some(platform.parse().unwrap()),
            Beside::Nothing,
        )
        .unwrap();
        assert_eq!(files[0], INDEX);
        let mut names: Vec<&str> = files[1..]
            .iter()
            .map(|file| self.names.iter().find(|(path, _)| path == file).unwrap().1)
            .collect();
        names.sort_unstable();
        names.join(" ")
    }
}

fn with(mut descriptor: Value, tag: Option<&str>, architecture: Option<&str>) -> Value {
    if let Some(tag) = tag {
        descriptor["annotations"] = json!({ (TAG_ANNOTATION): tag });
    }
    if let Some(architecture) = architecture {
        descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
    }
    descriptor
}

#[test]
fn only_the_tagged_images_files_are_needed() {
    let mut layout = Layout::new();
    let one = layout.image("amd64", ["m1", "c1", "l1"]);
    let two = layout.image("amd64", ["m2", "c2", "l2"]);
    layout.index(&[with(one, Some("v1"), None), with(two, Some("v2"), None)]);

    assert_eq!(layout.needed(Some("v2"), "amd64"), "c2 l2 m2");
    assert_eq!(layout.needed(Some("none"), "amd64"), "");
    assert_eq!(
        layout.needed(None, "amd64"),
        "",
        "which one is the daemon's to ask"
    );
}

#[test]
fn the_platform_chooses_in_nested_indexes_and_by_config() {
    let mut layout = Layout::new();
    let amd = layout.image("amd64", ["ma", "ca", "la"]);
    let arm = layout.image("arm64", ["mr", "cr", "lr"]);
    let stated = json!({ "schemaVersion": 2, "manifests": [
        with(amd.clone(), None, Some("amd64")), with(arm.clone(), None, Some("arm64")),
    ]});
    let nested = layout.blob(
        "i",
        "application/vnd.oci.image.index.v1+json",
        stated.to_string().as_bytes(),
    );
    layout.index(&[with(nested, Some("latest"), None)]);
    assert_eq!(layout.needed(None, "arm64"), "cr i lr mr");
    assert_eq!(layout.needed(Some("latest"), "amd64"), "ca i la ma");

    layout.index(&[amd, arm]);
    assert_eq!(
        layout.needed(None, "arm64"),
        "ca cr lr ma mr",
        "the configs have to tell"
    );
}

#[test]
fn what_is_missing_or_malformed_is_left_to_the_daemon() {
    let mut layout = Layout::new();
    let image = layout.image("amd64", ["m", "c", "l"]);
    layout.index(&[image]);
    let layer = layout
        .names
        .iter()
        .find(|(_, name)| *name == "l")
        .unwrap()
        .0
        .clone();
    fs::remove_file(layout.directory.path().join(layer)).unwrap();
    assert_eq!(layout.needed(None, "amd64"), "c m");

    fs::write(layout.directory.path().join(INDEX), "{").unwrap();
    assert_eq!(layout.needed(None, "amd64"), "");
}

#[test]
fn a_directory_without_an_index_is_no_layout() {
    let directory = tempfile::tempdir().unwrap();
    let code = |path: &Path| {
        let wanted = "amd64".parse().unwrap();
        needed_files(path, None, Some(wanted), Beside::Nothing)
            .unwrap_err()
            .to_failure()
            .code
    };

    assert_eq!(code(directory.path()), "source.unreadable");
    assert_eq!(code(&directory.path().join("none")), "file.not_found");
}

#[test]
fn a_path_that_is_no_layout_is_told_by_what_it_is() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("image.tar");
    fs::write(&file, b"x").unwrap();
    let cases = [
        (place.path().to_owned(), "source.unreadable", "index.json"),
        (file, "file.wrong_kind", "is a regular file"),
        (
            PathBuf::from("/dev/null"),
            "file.wrong_kind",
            "is a pipe, a socket or a device",
        ),
        (place.path().join("absent"), "file.not_found", "absent"),
    ];
    for (path, code, words) in cases {
        let error = needed_files(
            &path,
            None,
            Some("linux/amd64".parse().unwrap()),
            Beside::Nothing,
        )
        .unwrap_err();

        let failure = error.to_failure();

        assert_eq!(failure.code, code, "{}", path.display());
        assert!(failure.message.contains(words), "{}", failure.message);
    }
}
