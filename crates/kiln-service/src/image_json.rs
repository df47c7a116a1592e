//! Reads `image.json` back: what an artifact directory says about itself when the database does
//! not know it.
//!
//! Its bytes are believed in nothing: every value is parsed by the rules of its type, sizes and
//! counts are limited, and the files it tells of must be there. Nothing large is read, so whether
//! the files hold what they should is not known. Writing it is in `pulls/commit.rs`.

use std::io::{self, Read as _};

use kiln_api::image::{Boot, Original};
use kiln_artifacts::names::{IMAGE_JSON, INITRD, KERNEL, MODULES, ROOTFS};
use kiln_artifacts::{ArtifactError, Artifacts};
use kiln_domain::oci::MAX_LAYERS;
use kiln_domain::{
    Architecture, Digest, ImageId, ImageName, KernelName, Platform, PlatformError, Timestamp,
    VersionId, VersionNumber,
};
use kiln_store::version_blobs::{BlobRole, VersionBlob};
use serde::Deserialize;
use serde_json::Value;

/// Number of the format that is written, and the newest that is read.
pub(crate) const FORMAT: u32 = 1;

/// Longest document that is written or read, in bytes. It holds what is kept of an image config
/// of at most 4 MiB, which written without spaces is longer by a sixth at most, and a few hundred
/// kilobytes of blobs.
pub(crate) const MAX_BYTES: u64 = 16 << 20;

/// Blobs of one version: its layers, and the documents that lead to them.
const MAX_BLOBS: usize = MAX_LAYERS + 16;

/// Most monitors that a version tells of: more than there are.
const MAX_MONITORS: usize = 16;

/// Longest word or reference, in bytes. A path of 4,096 bytes has six for each once it is
/// [`printable`].
const MAX_TEXT_BYTES: usize = 32 << 10;

/// What a directory says of itself, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recorded {
    /// Length of the document.
    pub(crate) document_bytes: usize,
    pub(crate) image_id: ImageId,
    pub(crate) version_id: VersionId,
    pub(crate) number: VersionNumber,
    /// The name the image had when it was made.
    pub(crate) name: ImageName,
    /// Who had it made.
    pub(crate) owner_uid: u32,
    pub(crate) created_at: Timestamp,
    pub(crate) architecture: Architecture,
    pub(crate) source_kind: String,
    pub(crate) source_reference: String,
    pub(crate) manifest_digest: Option<Digest>,
    pub(crate) config_digest: Option<Digest>,
    /// What it was built from elsewhere.
    pub(crate) original: Option<Original>,
    pub(crate) blobs: Vec<VersionBlob>,
    pub(crate) rootfs_size_bytes: u64,
    pub(crate) derivation: Option<Digest>,
    pub(crate) kernel_name: Option<KernelName>,
    pub(crate) kernel_sha256: Digest,
    pub(crate) initrd_sha256: Option<Digest>,
    pub(crate) has_modules: bool,
    /// How it boots; an older Kiln did not say.
    pub(crate) boot: Option<Boot>,
    pub(crate) config: Option<Value>,
}

/// Why a directory could not be understood. It is left as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnreadableImage {
    /// A newer Kiln wrote it.
    #[error("image.json has format {found}; this build reads formats up to {FORMAT}")]
    Newer { found: u32 },
    /// It is torn, or somebody else wrote it.
    #[error("image.json is not what Kiln writes")]
    Malformed(#[from] serde_json::Error),
    /// It is larger than any that Kiln writes.
    #[error("image.json has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// It says what cannot be.
    #[error("image.json is wrong: {what}")]
    Wrong { what: String },
    /// It runs on something that is not known here.
    #[error("image.json names no platform")]
    Platform(#[from] PlatformError),
    /// A file is not there, or is not as it says.
    #[error("{name} {what}")]
    File { name: &'static str, what: String },
    /// A file could not be opened.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// It could not be read.
    #[error("image.json cannot be read")]
    Read(#[source] io::Error),
}

/// Only the number, which every format has.
#[derive(Deserialize)]
struct Numbered {
    format: u32,
}

#[derive(Deserialize)]
struct Document {
    image_id: ImageId,
    version_id: VersionId,
    version: VersionNumber,
    name: ImageName,
    owner_uid: u32,
    created_at: Timestamp,
    platform: String,
    source: SourceDocument,
    rootfs: RootfsDocument,
    kernel: KernelDocument,
    boot: Option<Boot>,
    config: Option<Value>,
}

#[derive(Deserialize)]
struct SourceDocument {
    kind: String,
    reference: String,
    manifest_digest: Option<Digest>,
    config_digest: Option<Digest>,
    original: Option<Original>,
    blobs: Vec<BlobDocument>,
}

#[derive(Deserialize)]
struct BlobDocument {
    role: String,
    digest: Digest,
    size_bytes: u64,
    diff_id: Option<Digest>,
}

#[derive(Deserialize)]
struct RootfsDocument {
    size_bytes: u64,
    derivation: Option<Digest>,
}

#[derive(Deserialize)]
struct KernelDocument {
    name: Option<KernelName>,
    sha256: Digest,
    initrd_sha256: Option<Digest>,
    has_modules: bool,
}

/// Returns a reference with its control characters, which a path may have, written as escapes:
/// what is recorded can be read back, and shown.
pub(crate) fn printable(reference: &str) -> String {
    let mut shown = String::with_capacity(reference.len());
    for character in reference.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Reads what the directory of `version_id` says of itself and checks it against its files.
pub(crate) fn read(
    artifacts: &Artifacts,
    version_id: VersionId,
) -> Result<Recorded, UnreadableImage> {
    let id = version_id.to_string();
    let Some(file) = artifacts.open_file(&id, IMAGE_JSON)? else {
        return Err(lacking(IMAGE_JSON));
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(UnreadableImage::Read)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(UnreadableImage::TooLarge);
    }
    let recorded = parse(&bytes, version_id)?;
    check_files(artifacts, &id, &recorded)?;
    Ok(recorded)
}

/// Understands a document that stands in the directory of `version_id`.
fn parse(bytes: &[u8], version_id: VersionId) -> Result<Recorded, UnreadableImage> {
    match serde_json::from_slice::<Numbered>(bytes)?.format {
        1..=FORMAT => {}
        0 => return Err(wrong("there is no format 0")),
        found => return Err(UnreadableImage::Newer { found }),
    }
    let document: Document = serde_json::from_slice(bytes)?;
    if document.version_id != version_id {
        return Err(wrong(format!("it tells of {}", document.version_id)));
    }
    let Document { source, kernel, .. } = document;
    Ok(Recorded {
        document_bytes: bytes.len(),
        image_id: document.image_id,
        version_id,
        number: document.version,
        name: document.name,
        owner_uid: document.owner_uid,
        created_at: document.created_at,
        architecture: document.platform.parse::<Platform>()?.architecture(),
        blobs: blobs(source.blobs)?,
        source_kind: text("the kind of its source", source.kind)?,
        source_reference: text("its source", source.reference)?,
        manifest_digest: source.manifest_digest,
        config_digest: source.config_digest,
        original: source.original.map(printable_original).transpose()?,
        rootfs_size_bytes: size(document.rootfs.size_bytes)?,
        derivation: document.rootfs.derivation,
        kernel_name: kernel.name,
        kernel_sha256: kernel.sha256,
        initrd_sha256: kernel.initrd_sha256,
        has_modules: kernel.has_modules,
        boot: document.boot.map(printable_boot).transpose()?,
        config: document.config,
    })
}

fn printable_original(original: Original) -> Result<Original, UnreadableImage> {
    let checked = |noun, given: Option<String>| given.map(|given| text(noun, given)).transpose();
    Ok(Original {
        reference: checked("its original", original.reference)?,
        manifest_digest: checked("its original's digest", original.manifest_digest)?,
    })
}

fn printable_boot(boot: Boot) -> Result<Boot, UnreadableImage> {
    let path = boot.init_path.map(|path| text("its init", path));
    Ok(Boot {
        init_path: path.transpose()?,
        reason: text("how it boots", boot.reason)?,
        monitors: boot
            .monitors
            .into_iter()
            .take(MAX_MONITORS)
            .map(|monitor| text("a monitor", monitor))
            .collect::<Result<_, _>>()?,
        ..boot
    })
}

fn blobs(documents: Vec<BlobDocument>) -> Result<Vec<VersionBlob>, UnreadableImage> {
    if documents.len() > MAX_BLOBS {
        return Err(wrong(format!("it has {} blobs", documents.len())));
    }
    let blob = |(position, document): (u32, BlobDocument)| {
        let role: Result<BlobRole, _> = document.role.parse();
        Ok(VersionBlob {
            digest: document.digest,
            role: role.map_err(|error| wrong(error.to_string()))?,
            position,
            size_bytes: size(document.size_bytes)?,
            diff_id: document.diff_id,
        })
    };
    (0..).zip(documents).map(blob).collect()
}

/// Takes a size that a file can have.
fn size(bytes: u64) -> Result<u64, UnreadableImage> {
    match i64::try_from(bytes) {
        Ok(_) => Ok(bytes),
        Err(_) => Err(wrong(format!("no file has {bytes} bytes"))),
    }
}

fn text(noun: &str, text: String) -> Result<String, UnreadableImage> {
    if text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        return Err(wrong(format!("{noun} is too long or not printable")));
    }
    Ok(text)
}

fn check_files(
    artifacts: &Artifacts,
    id: &str,
    recorded: &Recorded,
) -> Result<(), UnreadableImage> {
    let length = length_of(artifacts, id, ROOTFS)?;
    if length != recorded.rootfs_size_bytes {
        let what = format!("has {length} bytes, not {}", recorded.rootfs_size_bytes);
        return Err(UnreadableImage::File { name: ROOTFS, what });
    }
    length_of(artifacts, id, KERNEL)?;
    if recorded.initrd_sha256.is_some() {
        length_of(artifacts, id, INITRD)?;
    }
    if recorded.has_modules && !artifacts.has_directory(id, MODULES)? {
        return Err(lacking(MODULES));
    }
    Ok(())
}

fn length_of(artifacts: &Artifacts, id: &str, name: &'static str) -> Result<u64, UnreadableImage> {
    let file = artifacts
        .open_file(id, name)?
        .ok_or_else(|| lacking(name))?;
    let found = file.metadata().map_err(|error| UnreadableImage::File {
        name,
        what: format!("cannot be examined: {error}"),
    })?;
    Ok(found.len())
}

fn lacking(name: &'static str) -> UnreadableImage {
    let what = "is not there".to_owned();
    UnreadableImage::File { name, what }
}

fn wrong(what: impl Into<String>) -> UnreadableImage {
    UnreadableImage::Wrong { what: what.into() }
}

#[cfg(test)]
mod tests;
