//! An archive as `docker load` takes it: one image, its layers unpacked.
//!
//! ```text
//! <hex of the config>.json    the config
//! <hex of the diff id>.tar    each layer, not compressed
//! manifest.json               [{"Config": …, "RepoTags": [...], "Layers": [...]}]
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};
use std::path::Path;

use flate2::write::MultiGzDecoder;
use kiln_domain::oci::{Descriptor, Document, ImageConfig, Manifest, StatedMediaTypes};
use kiln_domain::{Digest, Reference};
use kiln_files::Existing;
use serde_json::json;
use sha2::Digest as _;

use super::archive::Tar;
use super::error::OutgoingError;
use super::{Checked, OutgoingDocument};
use crate::archive::compression_of;
use crate::client::MAX_DOCUMENT_BYTES;

#[derive(Debug)]
pub(super) struct NewDockerArchive {
    tar: Tar,
    reference: Option<String>,
    /// By the digest of the blob. Configs and layers look alike until the manifest names them.
    small: HashMap<Digest, Vec<u8>>,
    /// Which plain layer each compressed one is.
    layers: HashMap<Digest, Digest>,
    path: std::path::PathBuf,
}

impl NewDockerArchive {
    pub(super) fn create(
        path: &Path,
        reference: Option<&Reference>,
        existing: Existing,
    ) -> Result<Self, OutgoingError> {
        Ok(Self {
            tar: Tar::create(path, existing)?,
            reference: reference.map(ToString::to_string),
            small: HashMap::new(),
            layers: HashMap::new(),
            path: path.to_owned(),
        })
    }

    /// Keeps a config in memory, and unpacks a layer into the archive.
    pub(super) fn put(
        &mut self,
        blob: &Descriptor,
        checked: &mut Checked<'_>,
    ) -> Result<(), OutgoingError> {
        if blob.media_type.ends_with("json") && blob.size_bytes <= MAX_DOCUMENT_BYTES {
            let mut bytes = Vec::new();
            checked.pour(&self.path, &mut bytes)?;
            self.small.insert(blob.digest, bytes);
            return Ok(());
        }
        let at = |step| kiln_files::at::<io::Error>(step, &self.path);
        let folder = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let folder = kiln_files::Directory::open_through_links(folder)?;
        let mut packed = folder.create_unnamed()?;
        checked.pour(&self.path, &mut packed)?;
        let mut head = [0; 6];
        packed.rewind().map_err(at("read back"))?;
        let count = packed.read(&mut head).map_err(at("read back"))?;
        packed.rewind().map_err(at("read back"))?;
        let (diff_id, size_bytes, mut plain) = match compression_of(&head[..count]) {
            None => (blob.digest, blob.size_bytes, packed),
            Some("gzip") => {
                let plain = folder.create_unnamed()?;
                let mut packed = checked.watched(packed);
                unpack(&mut packed, plain).map_err(|source| packed.failed(blob.digest, source))?
            }
            Some(with) => {
                let digest = blob.digest;
                return Err(OutgoingError::Compression { digest, with });
            }
        };
        if !self.layers.values().any(|known| *known == diff_id) {
            plain.rewind().map_err(at("read back"))?;
            let name = format!("{}.tar", diff_id.to_hex());
            let mut plain = checked.watched(plain);
            self.tar
                .put_file(&name, size_bytes, &mut plain)
                .map_err(|error| plain.cancelled().unwrap_or(error))?;
        }
        self.layers.insert(blob.digest, diff_id);
        Ok(())
    }

    pub(super) fn finish(self, root: &OutgoingDocument) -> Result<(), OutgoingError> {
        let digest = root.descriptor.digest;
        let stated = StatedMediaTypes::default();
        let document = Document::parse_any(&root.bytes, stated, MAX_DOCUMENT_BYTES);
        let refused = |source| OutgoingError::Document { digest, source };
        let manifest = match document.map_err(refused)? {
            Document::Manifest(manifest) if manifest.is_image() => manifest,
            Document::Manifest(_) => {
                let found = "an artifact";
                return Err(OutgoingError::NotOneImage { found });
            }
            Document::Index(_) => {
                let found = "an index of several";
                return Err(OutgoingError::NotOneImage { found });
            }
        };
        let layers = self.checked_layers(&manifest)?;
        let name = format!("{}.json", manifest.config.digest.to_hex());
        let config = self.small.get(&manifest.config.digest);
        self.tar
            .put_bytes(&name, config.map_or(&[], Vec::as_slice))?;
        let tags: Vec<&String> = self.reference.iter().collect();
        let list = json!([{"Config": name, "RepoTags": tags, "Layers": layers}]);
        self.tar
            .put_bytes("manifest.json", list.to_string().as_bytes())?;
        self.tar.place()
    }

    /// Compares the layers with the config's diff ids, and names them.
    fn checked_layers(&self, manifest: &Manifest) -> Result<Vec<String>, OutgoingError> {
        let empty = Vec::new();
        let config = self.small.get(&manifest.config.digest).unwrap_or(&empty);
        let config = ImageConfig::parse(config, manifest.layers.len(), MAX_DOCUMENT_BYTES);
        let digest = manifest.config.digest;
        let config = config.map_err(|source| OutgoingError::Document { digest, source })?;
        let layers = manifest.layers.iter().zip(config.diff_ids());
        layers
            .map(|(layer, expected)| match self.layers.get(&layer.digest) {
                Some(found) if found == expected => Ok(format!("{}.tar", expected.to_hex())),
                found => Err(OutgoingError::DigestMismatch {
                    expected: *expected,
                    found: found.copied().unwrap_or(layer.digest),
                }),
            })
            .collect()
    }
}

/// Unpacks gzip, and tells what it unpacks to.
fn unpack(packed: &mut impl io::Read, plain: File) -> io::Result<(Digest, u64, File)> {
    let mut decoder = MultiGzDecoder::new(Hashed {
        inner: plain,
        hasher: sha2::Sha256::new(),
        count: 0,
    });
    io::copy(packed, &mut decoder)?;
    let hashed = decoder.finish()?;
    let digest = Digest::from_bytes(hashed.hasher.finalize().into());
    Ok((digest, hashed.count, hashed.inner))
}

/// Hashes and counts what is written.
struct Hashed {
    inner: File,
    hasher: sha2::Sha256,
    count: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
