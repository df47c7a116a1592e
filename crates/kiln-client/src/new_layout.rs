//! Writes an OCI image layout with one image of one layer, which `oci:DIR` then names.
//!
//! ```text
//! DIR/oci-layout   DIR/index.json ──▶ DIR/blobs/sha256/<hex>   manifest, config, layer (tar)
//! ```
//! It is for images of a few small files, which fit into memory: there is no compression, and no
//! second layer. Nothing depends on time or host, so the same words give the same bytes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_domain::Architecture;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// Media types of the OCI image specification 1.1.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// One file or directory of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// Its path from the root, without a leading slash.
    pub path: String,
    /// What it holds; a directory holds nothing of its own.
    pub body: Option<Vec<u8>>,
    /// Permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
}

/// An image to write.
#[derive(Clone, Debug, PartialEq)]
pub struct NewLayout {
    /// What it runs on.
    pub architecture: Architecture,
    /// Its `config` object, such as `{"Entrypoint": ["/hello"]}`.
    pub config: Value,
    /// What is in it, directories before what is in them.
    pub files: Vec<NewFile>,
}

/// A layout cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct NewLayoutError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl NewFile {
    /// A directory of root's that everybody may enter.
    pub fn directory(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            body: None,
            mode: 0o755,
            owner: (0, 0),
        }
    }

    /// A file of root's that everybody may read.
    pub fn file(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.to_owned(),
            body: Some(body.into()),
            mode: 0o644,
            owner: (0, 0),
        }
    }

    /// The same with other permissions.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// The same as another's.
    #[must_use]
    pub fn owner(self, user: u32, group: u32) -> Self {
        let owner = (user, group);
        Self { owner, ..self }
    }
}

impl NewLayout {
    /// Writes the layout into `directory`, which exists and is empty.
    pub fn write(&self, directory: &Path) -> Result<(), NewLayoutError> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(at("make", &blobs))?;
        let layer = self.layer().map_err(at("make a layer for", directory))?;
        let diff_id = digest(&layer);
        let platform = json!({
            "architecture": self.architecture.as_str(),
            "os": "linux",
        });
        let mut config = platform.clone();
        config["config"] = self.config.clone();
        config["rootfs"] = json!({"type": "layers", "diff_ids": [diff_id]});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": put(&blobs, CONFIG, config.to_string().as_bytes())?,
            "layers": [put(&blobs, LAYER, &layer)?],
        });
        let mut image = put(&blobs, MANIFEST, manifest.to_string().as_bytes())?;
        image["platform"] = platform;
        let index = json!({"schemaVersion": 2, "manifests": [image]});
        write(
            &directory.join("oci-layout"),
            json!({"imageLayoutVersion": "1.0.0"})
                .to_string()
                .as_bytes(),
        )?;
        write(&directory.join("index.json"), index.to_string().as_bytes())
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for file in &self.files {
            let mut header = Header::new_ustar();
            let body = file.body.as_deref().unwrap_or_default();
            header.set_entry_type(match file.body {
                Some(_) => EntryType::Regular,
                None => EntryType::Directory,
            });
            header.set_mode(file.mode);
            header.set_uid(file.owner.0.into());
            header.set_gid(file.owner.1.into());
            header.set_mtime(0);
            header.set_size(body.len() as u64);
            archive.append_data(&mut header, &file.path, body)?;
        }
        archive.into_inner()
    }
}

/// Writes a blob and returns its descriptor.
fn put(blobs: &Path, media_type: &str, bytes: &[u8]) -> Result<Value, NewLayoutError> {
    let digest = digest(bytes);
    let (_, hex) = digest.split_once(':').unwrap_or_default();
    write(&blobs.join(hex), bytes)?;
    Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), NewLayoutError> {
    fs::write(path, bytes).map_err(at("write", path))
}

fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NewLayoutError {
    let path = path.to_owned();
    move |source| NewLayoutError { step, path, source }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn sample() -> NewLayout {
        NewLayout {
            architecture: Architecture::Amd64,
            config: json!({"Entrypoint": ["/hello"]}),
            files: vec![
                NewFile::directory("home").owner(1000, 1000),
                NewFile::file("hello", *b"x").mode(0o755),
            ],
        }
    }

    fn read(directory: &Path, name: &str) -> Value {
        serde_json::from_slice(&fs::read(directory.join(name)).unwrap()).unwrap()
    }

    fn blob(descriptor: &Value) -> String {
        let digest = descriptor["digest"].as_str().unwrap();
        format!("blobs/sha256/{}", digest.strip_prefix("sha256:").unwrap())
    }

    #[test]
    fn a_layout_leads_from_its_index_to_its_files() {
        let directory = tempfile::tempdir().unwrap();

        sample().write(directory.path()).unwrap();

        let index = read(directory.path(), "index.json");
        let manifest = read(directory.path(), &blob(&index["manifests"][0]));
        let config = read(directory.path(), &blob(&manifest["config"]));
        let layer = &manifest["layers"][0];
        assert_eq!(config["config"]["Entrypoint"][0], "/hello");
        // Not compressed: the archive's digest is the blob's.
        assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"]);
        let bytes = fs::read(directory.path().join(blob(layer))).unwrap();
        assert_eq!(layer["size"], bytes.len());
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut body = String::new();
                entry.read_to_string(&mut body).unwrap();
                let header = entry.header();
                let path = header.path().unwrap().display().to_string();
                (path, header.mode().unwrap(), header.uid().unwrap(), body)
            })
            .collect();
        let want = [("home", 0o755, 1000, ""), ("hello", 0o755, 0, "x")];
        let want =
            want.map(|(path, mode, uid, body)| (path.to_owned(), mode, uid, body.to_owned()));
        assert_eq!(entries, want);
    }

    #[test]
    fn the_same_words_give_the_same_bytes() {
        let index = || {
            let directory = tempfile::tempdir().unwrap();
            sample().write(directory.path()).unwrap();
            fs::read(directory.path().join("index.json")).unwrap()
        };

        assert_eq!(index(), index());
    }
}
