//! The image of a fault registry: whole at first, and then as odd as a fault wants it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::images::entry::Entry;
use crate::images::layout::{Compression, Layout, Platform};

/// Media type of a manifest.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Media type of an index.
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Bytes of the first layer's file: more than what is kept of a broken download at least.
const NOISE_BYTES: usize = 200 << 10;

/// What a fault registry serves.
#[derive(Clone, Debug)]
pub struct OddImage {
    blobs: BTreeMap<String, Vec<u8>>,
    /// Manifests and indexes: media type and bytes.
    documents: BTreeMap<String, (String, Vec<u8>)>,
    root: String,
    config: String,
    layers: Vec<String>,
}

impl OddImage {
    /// Makes a whole image of two layers whose bytes depend on `word`.
    pub(super) fn whole(word: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for an image")?;
        let layout = Layout::create(folder.path().join("layout"))?;
        let noise = Entry::file("noise", noise(word, NOISE_BYTES));
        let marker = Entry::file("marker", word);
        let layers = [
            layout.add_layer(&[noise], Compression::Gzip)?,
            layout.add_layer(&[marker], Compression::Gzip)?,
        ];
        let manifest = layout.add_image(&layers, &Platform::linux("amd64"))?;
        Self::of(layout.folder(), &manifest.digest)
    }

    /// Takes the first image, or other artifact, of an OCI layout in `folder`.
    pub(super) fn of_layout(folder: &Path) -> Result<Self> {
        let index: Value = serde_json::from_slice(&fs::read(folder.join("index.json"))?)?;
        Self::of(folder, &text(&index["manifests"][0]["digest"])?)
    }

    fn of(folder: &Path, manifest: &str) -> Result<Self> {
        let mut blobs = BTreeMap::new();
        for entry in fs::read_dir(folder.join("blobs/sha256"))? {
            let entry = entry?;
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            blobs.insert(digest, fs::read(entry.path())?);
        }
        let bytes = blobs.remove(manifest).context("no manifest")?;
        let document: Value = serde_json::from_slice(&bytes)?;
        let layers = document["layers"].as_array().context("no layers")?;
        let layers = layers.iter().map(|layer| text(&layer["digest"]));
        Ok(Self {
            root: manifest.to_owned(),
            config: text(&document["config"]["digest"])?,
            layers: layers.collect::<Result<_>>()?,
            documents: BTreeMap::from([(manifest.to_owned(), (MANIFEST.to_owned(), bytes))]),
            blobs,
        })
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    pub(super) fn config(&self) -> &str {
        &self.config
    }

    /// Returns the digest of the first layer's blob.
    pub fn first_layer(&self) -> &str {
        self.layers.first().map_or("", String::as_str)
    }

    pub(super) fn document(&self, digest: &str) -> Option<&(String, Vec<u8>)> {
        self.documents.get(digest)
    }

    pub(super) fn blob(&self, digest: &str) -> Option<&Vec<u8>> {
        self.blobs.get(digest)
    }

    /// Returns the length of the first layer's blob, in bytes.
    pub fn first_layer_bytes(&self) -> u64 {
        let bytes = self.blobs.get(self.first_layer());
        bytes.map_or(0, |bytes| bytes.len() as u64)
    }

    /// Adds a document and returns its descriptor.
    pub(super) fn add_document(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = digest_of(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.documents
            .insert(digest, (media_type.to_owned(), bytes));
        descriptor
    }

    /// Adds a document and puts it under the tag.
    pub(super) fn set_root(&mut self, media_type: &str, bytes: impl Into<Vec<u8>>) {
        let descriptor = self.add_document(media_type, bytes.into());
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        digest.clone_into(&mut self.root);
    }

    /// Puts an index of these descriptors under the tag.
    pub(super) fn set_root_index(&mut self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.set_root(INDEX, index.to_string());
    }

    /// Returns the descriptor of what is under the tag.
    pub(super) fn root_descriptor(&self) -> Value {
        let (media_type, size) = self
            .document(&self.root)
            .map_or(("", 0), |(media_type, bytes)| {
                (media_type.as_str(), bytes.len())
            });
        json!({"mediaType": media_type, "digest": self.root, "size": size})
    }

    /// Changes the manifest, as JSON, and puts it under the tag.
    pub(super) fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        let bytes = self.root_bytes();
        let mut manifest: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        change(&mut manifest);
        self.set_root(MANIFEST, manifest.to_string());
    }

    /// Puts a value into the manifest.
    pub(super) fn set_at(&mut self, pointer: &str, value: &str) -> Result<()> {
        let value: Value = serde_json::from_str(value)?;
        let mut manifest: Value = serde_json::from_slice(&self.root_bytes())?;
        *manifest.pointer_mut(pointer).context("nothing there")? = value;
        self.set_root(MANIFEST, manifest.to_string());
        Ok(())
    }

    /// Returns the bytes of what is under the tag.
    pub(super) fn root_bytes(&self) -> Vec<u8> {
        let found = self.document(&self.root);
        found.map(|(_, bytes)| bytes.clone()).unwrap_or_default()
    }

    /// Replaces the config, which the manifest then names.
    pub(super) fn set_config(&mut self, bytes: Vec<u8>) {
        let digest = digest_of(&bytes);
        let size = bytes.len();
        self.blobs.insert(digest.clone(), bytes);
        self.config.clone_from(&digest);
        self.edit(|manifest| {
            manifest["config"]["digest"] = json!(digest);
            manifest["config"]["size"] = json!(size);
        });
    }
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("no text")?.to_owned())
}

/// Returns the digest of bytes, as documents write it.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

/// Returns bytes that do not compress, the same for the same word.
fn noise(word: &str, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 32);
    let mut block = Sha256::digest(word.as_bytes());
    while bytes.len() < length {
        bytes.extend_from_slice(&block);
        block = Sha256::digest(block);
    }
    bytes.truncate(length);
    bytes
}
