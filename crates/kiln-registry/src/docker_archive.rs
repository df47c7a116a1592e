//! Archives as `docker save` writes them, seen as an OCI image.
//!
//! ```text
//! manifest.json     [{"Config": "<file>", "RepoTags": ["debian:12"], "Layers": ["<file>", …]}]
//! <config file>     the image config, whose diff ids name the layers
//! <layer files>     plain tars, sometimes compressed; old versions link equal ones
//! ```
//!
//! The archive has no OCI manifest, so one is made: the same archive always gives the same one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kiln_domain::oci::{Descriptor, ImageConfig};
use kiln_domain::{Digest, Reference};
use serde::Deserialize;
use sha2::Digest as _;

use crate::archive::{Archive, compression_of};
use crate::blob::FileRange;
use crate::client::{Fetched, MAX_DOCUMENT_BYTES};
use crate::error::FetchError;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// One image of a docker archive. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DockerArchive {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    archive: Archive,
    manifest: Bytes,
    config: Bytes,
    layers: HashMap<Digest, FileRange>,
}

/// An image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl DockerArchive {
    /// Opens the image `reference`, or the only one, of the archive `file`, which is called
    /// `path` in messages; blocking.
    ///
    /// Layers that are compressed are read once to learn their digests; plain ones are named by
    /// the config's diff ids, which whoever reads them checks.
    pub fn open(
        file: File,
        path: &Path,
        reference: Option<&Reference>,
    ) -> Result<Self, FetchError> {
        let archive = Archive::scan(Arc::new(file), path)?;
        let entry = choose(read_entries(&archive)?, reference, path)?;
        let config = archive
            .read(&entry.config, MAX_DOCUMENT_BYTES)?
            .ok_or_else(|| not_an_archive(path))?;
        let parsed = ImageConfig::parse(&config, entry.layers.len(), MAX_DOCUMENT_BYTES).map_err(
            |source| FetchError::Document {
                document: format!("the config in {}", path.display()),
                source,
            },
        )?;
        let mut layers = HashMap::new();
        let mut descriptors = Vec::new();
        for (name, diff_id) in entry.layers.iter().zip(parsed.diff_ids()) {
            let range = archive.find(name).ok_or_else(|| FetchError::BlobNotFound {
                place: path.display().to_string(),
                digest: *diff_id,
            })?;
            let descriptor = describe(&range, *diff_id, path)?;
            layers.insert(descriptor.digest, range);
            descriptors.push(descriptor);
        }
        let manifest = manifest_of(&config, &descriptors);
        Ok(Self {
            shared: Arc::new(Shared {
                archive,
                manifest,
                config: config.into(),
                layers,
            }),
        })
    }

    pub(crate) fn root(&self) -> Fetched {
        let bytes = self.shared.manifest.clone();
        Fetched {
            digest: Digest::of(&bytes),
            bytes,
            media_type: None,
        }
    }

    /// Returns the config when that is what the descriptor means.
    pub(crate) fn document(&self, descriptor: &Descriptor) -> Result<Fetched, FetchError> {
        let bytes = self.shared.config.clone();
        if Digest::of(&bytes) != descriptor.digest {
            return Err(self.not_found(descriptor.digest));
        }
        Ok(Fetched {
            digest: descriptor.digest,
            bytes,
            media_type: None,
        })
    }

    pub(crate) fn blob(&self, descriptor: &Descriptor) -> Result<FileRange, FetchError> {
        let found = self.shared.layers.get(&descriptor.digest);
        let range = found.ok_or_else(|| self.not_found(descriptor.digest))?;
        crate::layout::check_size(range, descriptor)?;
        Ok(range.clone())
    }

    fn not_found(&self, digest: Digest) -> FetchError {
        FetchError::BlobNotFound {
            place: self.shared.archive.path().display().to_string(),
            digest,
        }
    }
}

fn read_entries(archive: &Archive) -> Result<Vec<Entry>, FetchError> {
    let bytes = archive
        .read("manifest.json", MAX_DOCUMENT_BYTES)?
        .ok_or_else(|| not_an_archive(archive.path()))?;
    serde_json::from_slice(&bytes).map_err(|source| FetchError::Document {
        document: format!("manifest.json in {}", archive.path().display()),
        source: kiln_domain::oci::DocumentError::Malformed(source.into()),
    })
}

fn choose(
    entries: Vec<Entry>,
    reference: Option<&Reference>,
    path: &Path,
) -> Result<Entry, FetchError> {
    let names: Vec<String> = entries.iter().flat_map(Entry::names).take(64).collect();
    let is_meant = |entry: &Entry| match reference {
        None => true,
        Some(reference) => entry
            .repo_tags
            .iter()
            .flatten()
            .any(|tag| tag.parse::<Reference>().is_ok_and(|tag| tag == *reference)),
    };
    let mut meant = entries.into_iter().filter(is_meant);
    match (meant.next(), meant.next(), reference) {
        (Some(entry), None, _) => Ok(entry),
        (Some(_), Some(_), _) => Err(FetchError::TagAmbiguous {
            path: path.to_owned(),
            tags: names,
        }),
        (None, _, Some(reference)) => Err(FetchError::TagMissing {
            path: path.to_owned(),
            tag: reference.to_string(),
            tags: names,
        }),
        (None, _, None) => Err(not_an_archive(path)),
    }
}

impl Entry {
    fn names(&self) -> Vec<String> {
        self.repo_tags
            .iter()
            .flatten()
            .map(|tag| tag.chars().take(255).collect::<String>())
            .map(|tag| tag.escape_debug().to_string())
            .collect()
    }
}

/// Describes a layer file by what its first bytes say it is.
fn describe(range: &FileRange, diff_id: Digest, path: &Path) -> Result<Descriptor, FetchError> {
    let io_error = |source| FetchError::Io {
        step: "read",
        path: path.to_owned(),
        source,
    };
    let mut head = Vec::new();
    range
        .clone()
        .take(6)
        .read_to_end(&mut head)
        .map_err(io_error)?;
    let media_type = match compression_of(&head) {
        None => {
            let size_bytes = range.remaining_bytes();
            return Ok(Descriptor::new(LAYER_TYPE, diff_id, size_bytes));
        }
        Some(with @ ("gzip" | "zstd")) => format!("{LAYER_TYPE}+{with}"),
        Some(with) => {
            return Err(FetchError::ArchiveCompressed {
                path: path.to_owned(),
                with,
            });
        }
    };
    let digest = hash(range.clone()).map_err(io_error)?;
    Ok(Descriptor::new(
        &media_type,
        digest,
        range.remaining_bytes(),
    ))
}

fn hash(mut range: FileRange) -> io::Result<Digest> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match range.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn manifest_of(config: &[u8], layers: &[Descriptor]) -> Bytes {
    let config = Descriptor::new(CONFIG_TYPE, Digest::of(config), config.len() as u64);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config,
        "layers": layers,
    });
    manifest.to_string().into()
}

fn not_an_archive(path: &Path) -> FetchError {
    FetchError::NotASource {
        path: path.to_owned(),
        expected: "an archive of docker save, which has a manifest.json and its files",
    }
}

#[cfg(test)]
mod tests;
