//! Writing a bootable artifact: its layers' descriptors, and the manifest that lists them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::{Descriptor, Document, DocumentError, DocumentType, StatedMediaTypes};
use super::{
    BOOTABLE_CONFIG, BOOTABLE_TYPE, BootableConfig, BootableError, BootableLayers, CHUNK, DIGEST,
    ECI_ROLE, INITRD, JsonError, KERNEL, MAX_CHUNK_BYTES, MODULES, OFFSET, ROLE, SIZE, SUMS,
};
use crate::digest::Digest;

/// Smallest grid of chunks, in bytes. What of a version changed since the one before is stored and
/// sent by this unit, and a break costs no more of it than this; the documentation has the figures.
const GRID_BYTES: u64 = 64 << 20;

/// Most cells of a grid: a manifest has at most 1,024 layers, and a few are other files.
const MAX_CELLS: u64 = 1000;

/// A part of an image, which becomes one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A stretch of the root filesystem.
    Chunk {
        /// Where it begins.
        offset_bytes: u64,
        /// How long it is.
        size_bytes: u64,
    },
    /// The kernel.
    Kernel,
    /// The initial ramdisk.
    Initrd,
    /// The modules.
    Modules,
    /// The checksums of the root filesystem's blocks.
    Sums,
}

/// Longest document that is read, in bytes; sources take no longer ones.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Why nobody could read an artifact that was about to be written.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableError {
    /// Its manifest is too long, or has too many layers.
    #[error("the image cannot be an artifact")]
    Manifest(#[from] DocumentError),
    /// A part is longer than is read.
    #[error("the image cannot be an artifact")]
    Parts(#[from] BootableError),
}

/// The documents of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootableManifest {
    /// The config's bytes.
    pub config: Vec<u8>,
    /// The config.
    pub config_descriptor: Descriptor,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The manifest, with the platform an index names.
    pub manifest_descriptor: Descriptor,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    schema_version: u8,
    media_type: &'static str,
    artifact_type: &'static str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

/// Returns how long the cells are that a root filesystem is cut into, in bytes: 64 MiB, and as many
/// times twice that as it takes for there to be no more than a thousand, up to 512 MiB.
///
/// Nothing when even then there are more: no artifact holds it, unless most of it is holes.
pub fn chunk_grid_bytes(rootfs_bytes: u64) -> u64 {
    let mut grid = GRID_BYTES;
    while grid < MAX_CHUNK_BYTES && rootfs_bytes.div_ceil(grid) > MAX_CELLS {
        grid *= 2;
    }
    grid
}

impl Part {
    /// Describes the part's layer: `blob` is what it hashes to as it is stored, `plain` unpacked.
    pub fn descriptor(self, blob: Digest, blob_bytes: u64, plain: Digest) -> Descriptor {
        let (media_type, role, eci_role) = match self {
            Self::Chunk { .. } => (CHUNK, "rootfs", Some("disk-root")),
            Self::Kernel => (KERNEL, "kernel", Some("kernel")),
            Self::Initrd => (INITRD, "initrd", Some("initrd")),
            Self::Modules => (MODULES, "modules", None),
            Self::Sums => (SUMS, "sums", None),
        };
        let mut descriptor = Descriptor::new(media_type, blob, blob_bytes);
        let mut note = |key: &str, value: String| {
            descriptor.annotations.insert(key.to_owned(), value);
        };
        note(ROLE, role.to_owned());
        if let Some(role) = eci_role {
            note(ECI_ROLE, role.to_owned());
        }
        if let Self::Chunk {
            offset_bytes,
            size_bytes,
        } = self
        {
            note(OFFSET, offset_bytes.to_string());
            note(SIZE, size_bytes.to_string());
            note(DIGEST, plain.to_string());
        }
        descriptor
    }
}

impl BootableManifest {
    /// Fails when what was written is beyond the limits of those who read it, by their own code.
    pub fn check(&self) -> Result<(), UnreadableError> {
        let config = BootableConfig::parse(&self.config)?;
        let stated = StatedMediaTypes::default();
        let read = Document::parse_any(&self.manifest, stated, MAX_DOCUMENT_BYTES)?;
        if let Document::Manifest(manifest) = read {
            BootableLayers::of(&manifest, config.rootfs.size_bytes)?;
        }
        Ok(())
    }

    /// Writes the documents of an artifact with these layers, in this order.
    pub fn write(config: &BootableConfig, layers: &[Descriptor]) -> Result<Self, JsonError> {
        let bytes = config.to_bytes()?;
        let described = Descriptor::new(BOOTABLE_CONFIG, Digest::of(&bytes), bytes.len() as u64);
        let mut annotations = BTreeMap::new();
        let source = config.source.clone().unwrap_or_default();
        if let Some(reference) = source.reference {
            annotations.insert("org.opencontainers.image.base.name", reference);
        }
        if let Some(digest) = source.manifest_digest {
            annotations.insert("org.opencontainers.image.base.digest", digest.to_string());
        }
        let media_type = DocumentType::OciManifest.as_str();
        let manifest = serde_json::to_vec(&Written {
            schema_version: 2,
            media_type,
            artifact_type: BOOTABLE_TYPE,
            config: &described,
            layers,
            annotations,
        })?;
        let size_bytes = manifest.len() as u64;
        let mut manifest_descriptor =
            Descriptor::new(media_type, Digest::of(&manifest), size_bytes);
        manifest_descriptor.platform = Some(config.platform.clone());
        Ok(Self {
            config: bytes,
            config_descriptor: described,
            manifest,
            manifest_descriptor,
        })
    }
}
