//! Writes OCI image layouts: folders of blobs with an `index.json`.
//!
//! ```text
//! oci-layout              {"imageLayoutVersion": "1.0.0"}
//! index.json              what tags name
//! blobs/sha256/<hex>      layers, configurations, manifests and indexes
//! ```
//! Source: the OCI image specification 1.1, `image-layout.md`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::entry::{self, Entry};
use crate::fixtures::hex;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// Bytes of archive in each member of [`Compression::GzipMembers`].
const MEMBER_BYTES: usize = 64 << 10;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// One gzip member.
    Gzip,
    /// Many gzip members, as parallel and seekable compressors write them.
    GzipMembers,
    /// Zstandard.
    Zstd,
}

/// The platform an image is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Operating system, such as `linux`.
    pub os: String,
    /// Processor architecture, such as `amd64`.
    pub architecture: String,
    /// Variant of the architecture, such as `v7`.
    pub variant: Option<String>,
}

/// A blob in the layout.
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    /// Its media type.
    pub media_type: String,
    /// Its digest, `sha256:<hex>`.
    pub digest: String,
    /// Its length in bytes.
    pub size_bytes: u64,
    extra: Vec<(String, Value)>,
}

/// A layer in the layout.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The compressed blob.
    pub blob: Descriptor,
    /// Digest of the archive before compression, `sha256:<hex>`.
    pub diff_id: String,
    /// Length of the archive before compression, in bytes.
    pub diff_bytes: u64,
}

/// An image layout being written.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
    tags: Vec<(String, Descriptor)>,
}

impl Platform {
    /// Linux on the architecture with this name.
    pub fn linux(architecture: &str) -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }

    /// The same with a variant of the architecture.
    #[must_use]
    pub fn variant(self, variant: &str) -> Self {
        let variant = Some(variant.to_owned());
        Self { variant, ..self }
    }

    fn to_json(&self) -> Value {
        let mut value = json!({"architecture": self.architecture, "os": self.os});
        if let Some(variant) = &self.variant {
            value["variant"] = json!(variant);
        }
        value
    }
}

impl Descriptor {
    fn to_json(&self) -> Value {
        let mut value = json!({
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size_bytes,
        });
        for (key, extra) in &self.extra {
            value[key] = extra.clone();
        }
        value
    }
}

impl Layout {
    /// Starts a layout in `folder`, which is made.
    pub fn create(folder: impl Into<PathBuf>) -> Result<Self> {
        let layout = Self {
            folder: folder.into(),
            tags: Vec::new(),
        };
        let blobs = layout.folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
        layout.write_file("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
        layout.write_index()?;
        Ok(layout)
    }

    /// Returns the layout's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of a blob.
    pub fn blob_path(&self, descriptor: &Descriptor) -> PathBuf {
        let hex = descriptor.digest.trim_start_matches("sha256:");
        self.folder.join("blobs/sha256").join(hex)
    }

    /// Adds a blob.
    pub fn add_blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let mut sink = self.sink()?;
        sink.write_all(bytes).context("cannot write a blob")?;
        self.keep(sink, media_type)
    }

    /// Adds a layer of `entries`.
    pub fn add_layer(&self, entries: &[Entry], compression: Compression) -> Result<Layer> {
        let mut archive = Vec::new();
        for entry in entries {
            entry.write_to(&mut archive)?;
        }
        entry::write_end(&mut archive)?;
        self.add_archive(archive.as_slice(), compression)
    }

    /// Adds a layer whose archive is read from `archive`.
    pub fn add_archive(&self, archive: impl Read, compression: Compression) -> Result<Layer> {
        let mut archive = Hashing::new(archive);
        let sink = self.sink()?;
        let (sink, suffix) = match compression {
            Compression::Plain => {
                let mut sink = sink;
                io::copy(&mut archive, &mut sink).context("cannot write a layer")?;
                (sink, "")
            }
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(sink, flate2::Compression::new(6));
                io::copy(&mut archive, &mut encoder).context("cannot write a layer")?;
                (encoder.finish()?, "+gzip")
            }
            Compression::GzipMembers => (gzip_members(&mut archive, sink)?, "+gzip"),
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(sink, 3)?;
                io::copy(&mut archive, &mut encoder).context("cannot write a layer")?;
                (encoder.finish()?, "+zstd")
            }
        };
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        Ok(Layer {
            blob: self.keep(sink, &media_type)?,
            diff_id: archive.digest(),
            diff_bytes: archive.length,
        })
    }

    /// Adds an image of `layers`, lowest first, that runs a shell.
    pub fn add_image(&self, layers: &[Layer], platform: &Platform) -> Result<Descriptor> {
        let shell = json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]});
        self.add_image_with(layers, platform, shell)
    }

    /// Adds an image of `layers`, lowest first, whose config says how it runs.
    pub fn add_image_with(
        &self,
        layers: &[Layer],
        platform: &Platform,
        container: Value,
    ) -> Result<Descriptor> {
        let diff_ids: Vec<&String> = layers.iter().map(|layer| &layer.diff_id).collect();
        let mut config = platform.to_json();
        config["created"] = json!("2023-11-14T22:13:20Z");
        config["config"] = container;
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        let config = self.add_blob(CONFIG, &serde_json::to_vec(&config)?)?;
        let blobs: Vec<Value> = layers.iter().map(|layer| layer.blob.to_json()).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.to_json(),
            "layers": blobs,
        });
        let mut descriptor = self.add_blob(MANIFEST, &serde_json::to_vec(&manifest)?)?;
        descriptor
            .extra
            .push(("platform".to_owned(), platform.to_json()));
        Ok(descriptor)
    }

    /// Adds an attestation about `image`, as buildkit puts beside the images of an index: a
    /// manifest for the platform `unknown/unknown` that must never be chosen.
    pub fn add_attestation(&self, image: &Descriptor) -> Result<Descriptor> {
        let statement = json!({"_type": "https://in-toto.io/Statement/v0.1", "subject": []});
        let layer = self.add_blob(IN_TOTO, &serde_json::to_vec(&statement)?)?;
        let unknown = json!({"architecture": "unknown", "os": "unknown"});
        let mut config = unknown.clone();
        config["rootfs"] = json!({"type": "layers", "diff_ids": [layer.digest]});
        let config = self.add_blob(CONFIG, &serde_json::to_vec(&config)?)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.to_json(),
            "layers": [layer.to_json()],
        });
        let mut descriptor = self.add_blob(MANIFEST, &serde_json::to_vec(&manifest)?)?;
        let annotations = json!({
            "vnd.docker.reference.digest": image.digest,
            "vnd.docker.reference.type": "attestation-manifest",
        });
        descriptor
            .extra
            .push(("annotations".to_owned(), annotations));
        descriptor.extra.push(("platform".to_owned(), unknown));
        Ok(descriptor)
    }

    /// Adds an index of `manifests`.
    pub fn add_index(&self, manifests: &[Descriptor]) -> Result<Descriptor> {
        let manifests: Vec<Value> = manifests.iter().map(Descriptor::to_json).collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.add_blob(INDEX, &serde_json::to_vec(&index)?)
    }

    /// Names an image or an index; the layout on disk is complete after each call.
    pub fn tag(&mut self, name: &str, descriptor: &Descriptor) -> Result<()> {
        self.tags.push((name.to_owned(), descriptor.clone()));
        self.write_index()
    }

    fn write_index(&self) -> Result<()> {
        let name_of = |name: &str| json!({"org.opencontainers.image.ref.name": name});
        let manifests: Vec<Value> = self
            .tags
            .iter()
            .map(|(name, descriptor)| {
                let mut value = descriptor.to_json();
                value["annotations"] = name_of(name);
                value
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.write_file("index.json", &index)
    }

    fn write_file(&self, name: &str, value: &Value) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, serde_json::to_vec(value)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn sink(&self) -> Result<Sink> {
        let file = tempfile::NamedTempFile::new_in(&self.folder)
            .with_context(|| format!("cannot write in {}", self.folder.display()))?;
        let (file, path) = file.into_parts();
        Ok(Sink {
            hashing: Hashing::new(BufWriter::new(file)),
            path,
        })
    }

    fn keep(&self, mut sink: Sink, media_type: &str) -> Result<Descriptor> {
        sink.flush().context("cannot write a blob")?;
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: sink.hashing.digest(),
            size_bytes: sink.hashing.length,
            extra: Vec::new(),
        };
        let path = self.blob_path(&descriptor);
        sink.path
            .persist(&path)
            .with_context(|| format!("cannot keep {}", path.display()))?;
        // Temporary files are their owner's alone; a layout is for any program to read.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
            .with_context(|| format!("cannot open up {}", path.display()))?;
        Ok(descriptor)
    }
}

fn gzip_members(archive: &mut impl Read, mut sink: Sink) -> Result<Sink> {
    loop {
        let mut piece = Vec::new();
        archive
            .by_ref()
            .take(MEMBER_BYTES as u64)
            .read_to_end(&mut piece)
            .context("cannot read a layer")?;
        if piece.is_empty() {
            return Ok(sink);
        }
        let mut encoder = GzEncoder::new(sink, flate2::Compression::new(6));
        encoder.write_all(&piece).context("cannot write a layer")?;
        sink = encoder.finish()?;
    }
}

/// A blob being written under no name yet.
#[derive(Debug)]
struct Sink {
    hashing: Hashing<BufWriter<File>>,
    path: tempfile::TempPath,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.hashing.inner.write(bytes)?;
        self.hashing.count(bytes.get(..length).unwrap_or_default());
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hashing.inner.flush()
    }
}

/// Hashes and counts what passes through.
#[derive(Debug)]
struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    length: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            length: 0,
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
    }

    fn digest(&self) -> String {
        format!("sha256:{}", hex(&self.hasher.clone().finalize()))
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count(buffer.get(..length).unwrap_or_default());
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::sha256_hex;

    #[test]
    fn every_compression_decodes_to_the_diff_id() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let layout = Layout::create(folder.path())?;
        let entries = [Entry::file("file", vec![7; 200_000])];
        let mut diff_ids = Vec::new();

        for compression in [
            Compression::Plain,
            Compression::Gzip,
            Compression::GzipMembers,
            Compression::Zstd,
        ] {
            let layer = layout.add_layer(&entries, compression)?;
            let blob = fs::read(layout.blob_path(&layer.blob))?;
            assert_eq!(layer.blob.digest, format!("sha256:{}", sha256_hex(&blob)));
            let mut archive = Vec::new();
            match compression {
                Compression::Plain => archive.clone_from(&blob),
                Compression::Gzip | Compression::GzipMembers => {
                    flate2::read::MultiGzDecoder::new(blob.as_slice()).read_to_end(&mut archive)?;
                }
                Compression::Zstd => archive = zstd::decode_all(blob.as_slice())?,
            }
            assert_eq!(layer.diff_id, format!("sha256:{}", sha256_hex(&archive)));
            assert_eq!(layer.diff_bytes, archive.len() as u64);
            diff_ids.push(layer.diff_id);
        }

        diff_ids.dedup();
        assert_eq!(diff_ids.len(), 1);
        Ok(())
    }
}
