//! Finds out which files of an OCI image layout a pull needs, so that their descriptors can be
//! passed.
//!
//! ```text
//! DIR/index.json ──▶ DIR/blobs/sha256/<hex>   indexes, manifests, configs, layers
//! ```
//! Nothing is judged here: a missing tag, a wrong digest or a malformed document is the daemon's
//! to find, in the same bytes. What cannot be followed is left out.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use kiln_api::{Failure, codes};
use kiln_domain::oci::{Descriptor, Document, ImageConfig, Index, Manifest, StatedMediaTypes};
use kiln_domain::{Digest, Platform};

use crate::files::{FileError, open_regular};

/// The name of the index in the layout and in the call.
pub(crate) const INDEX: &str = "index.json";

/// Where a layout keeps the tag of an image (OCI image spec, "Image Layout").
const TAG_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// The document on top of a directory of one image.
const TOP: &str = "manifest.json";

/// Most files of such a directory that are passed: as many as the daemon keeps for one user.
const MAX_FLAT_FILES: usize = 8_000;

/// Largest document that is followed, in bytes.
const DOCUMENT_LIMIT_BYTES: u64 = 4 << 20;

/// Deepest nesting of indexes that is followed.
const MAX_DEPTH: usize = 4;

/// Most images that are looked into when none names its platform.
const MAX_CANDIDATES: usize = 16;

/// Most entries of one index that are passed: the daemon takes no more documents at once.
const MAX_ENTRIES: usize = 512;

/// Why a layout cannot be passed.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The directory holds no index.
    #[error("{} is not an OCI image layout: it has no index.json", directory.display())]
    NoIndex {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory holds no manifest.
    #[error("{} is no directory of an image: it has no manifest.json", directory.display())]
    NoManifest {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory does not exist.
    #[error("there is no directory {}", directory.display())]
    NotFound {
        /// The directory.
        directory: PathBuf,
    },
    /// The path names something else.
    #[error("{} is {found}, not a directory", directory.display())]
    NotADirectory {
        /// The path.
        directory: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A file of the layout cannot be read with the caller's rights, or is no regular file.
    #[error(transparent)]
    File(#[from] FileError),
}

impl LayoutError {
    pub(crate) fn to_failure(&self) -> Failure {
        match self {
            Self::NoIndex { .. } | Self::NoManifest { .. } => {
                Failure::from_error(codes::source::UNREADABLE, self)
            }
            Self::NotFound { .. } => Failure::from_error(codes::file::NOT_FOUND, self),
            Self::NotADirectory { .. } => Failure::from_error(codes::file::WRONG_KIND, self)
                .with_hint(
                    "an archive is named by oci-archive: or docker-archive:",
                    None,
                ),
            Self::File(error) => error.to_failure(),
        }
    }
}

/// What of a layout is wanted besides an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    /// What refers to it. Which of them are is the daemon's to find: all that refer to anything.
    Referrers,
}

/// Names the files of the layout that a pull for `wanted` needs, or a copy of all platforms where
/// none is, relative to the directory.
pub(crate) fn needed_files(
    directory: &Path,
    tag: Option<&str>,
    wanted: Option<Platform>,
    beside: Beside,
) -> Result<Vec<String>, LayoutError> {
    let Some(bytes) = read(&directory.join(INDEX))? else {
        return Err(without_index(directory));
    };
    let mut walk = Walk {
        directory,
        wanted,
        digests: BTreeSet::new(),
    };
    let parsed = Document::parse(&bytes, StatedMediaTypes::default(), DOCUMENT_LIMIT_BYTES);
    if let Ok(Document::Index(index)) = parsed {
        let all = index.clone();
        if let Some(index) = tagged(index, tag) {
            walk.index(&index, 0)?;
        }
        if beside == Beside::Referrers {
            walk.wanted = None;
            walk.referrers(all)?;
        }
    }
    let blobs = walk.digests.iter().map(blob_name);
    Ok(std::iter::once(INDEX.to_owned()).chain(blobs).collect())
}

/// Names the files of a directory that skopeo's `dir:` wrote, as the call names them, with their
/// paths: the manifest on top, and all else by digest.
pub(crate) fn flat_files(directory: &Path) -> Result<Vec<(String, PathBuf)>, LayoutError> {
    let top = directory.join(TOP);
    if !top.exists() {
        return Err(match without_index(directory) {
            LayoutError::NoIndex { directory } => LayoutError::NoManifest { directory },
            error => error,
        });
    }
    let entries = std::fs::read_dir(directory).map_err(|source| FileError::Unreadable {
        path: directory.to_owned(),
        source,
    })?;
    let mut files = vec![(TOP.to_owned(), top)];
    for entry in entries.flatten().take(MAX_FLAT_FILES) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let hex = name.strip_suffix(".manifest.json").unwrap_or(&name);
        if let Ok(digest) = format!("sha256:{hex}").parse::<Digest>() {
            files.push((blob_name(&digest), entry.path()));
        }
    }
    Ok(files)
}

/// Says why a path has no index below it.
fn without_index(path: &Path) -> LayoutError {
    let directory = path.to_owned();
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => LayoutError::NoIndex { directory },
        Ok(metadata) => LayoutError::NotADirectory {
            directory,
            found: if metadata.is_file() {
                "a regular file"
            } else {
                "a pipe, a socket or a device"
            },
        },
        Err(_) => LayoutError::NotFound { directory },
    }
}

/// Keeps the entries of a tag. Without one, a layout of several tags is ambiguous, which the
/// daemon sees in the index alone.
fn tagged(mut index: Index, tag: Option<&str>) -> Option<Index> {
    let tag_of = |entry: &Descriptor| entry.annotations.get(TAG_ANNOTATION).cloned();
    if let Some(tag) = tag {
        let is_wanted = |entry: &Descriptor| tag_of(entry).as_deref() == Some(tag);
        index.manifests.retain(is_wanted);
        return Some(index);
    }
    let tags: BTreeSet<_> = index.manifests.iter().map(tag_of).collect();
    (tags.len() <= 1).then_some(index)
}

struct Walk<'a> {
    directory: &'a Path,
    wanted: Option<Platform>,
    digests: BTreeSet<Digest>,
}

impl Walk<'_> {
    fn index(&mut self, index: &Index, depth: usize) -> Result<(), LayoutError> {
        let Some(wanted) = self.wanted else {
            return self.whole_index(index, depth);
        };
        let candidates = index.candidates(wanted);
        // Those that state their platform come alone, best first; the daemon takes the first.
        let count = match candidates.first() {
            Some(best) if best.platform.is_some() => 1,
            _ => MAX_CANDIDATES,
        };
        for candidate in candidates.into_iter().take(count) {
            let Some(bytes) = self.document(candidate)? else {
                continue;
            };
            let stated = StatedMediaTypes {
                descriptor: Some(&candidate.media_type),
                response: None,
            };
            // An artifact may be a bootable one.
            match Document::parse_any(&bytes, stated, DOCUMENT_LIMIT_BYTES) {
                Ok(Document::Index(inner)) if depth < MAX_DEPTH => self.index(&inner, depth + 1)?,
                Ok(Document::Manifest(manifest)) => self.manifest(&manifest, wanted)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes what refers to something, with all that it names.
    fn referrers(&mut self, mut index: Index) -> Result<(), LayoutError> {
        let mut kept = Vec::new();
        for entry in index.manifests.into_iter().take(MAX_ENTRIES) {
            if self.refers(&entry)? {
                kept.push(entry);
            }
        }
        index.manifests = kept;
        self.whole_index(&index, 0)
    }

    fn refers(&self, entry: &Descriptor) -> Result<bool, LayoutError> {
        let name = entry.annotations.get(TAG_ANNOTATION);
        if name.is_some_and(|name| name.starts_with("sha256-")) {
            return Ok(true);
        }
        let path = self.directory.join(blob_name(&entry.digest));
        let Some(bytes) = read(&path)? else {
            return Ok(false);
        };
        let stated = StatedMediaTypes {
            descriptor: Some(&entry.media_type),
            response: None,
        };
        Ok(
            match Document::parse_any(&bytes, stated, DOCUMENT_LIMIT_BYTES) {
                Ok(Document::Index(index)) => index.subject.is_some(),
                Ok(Document::Manifest(manifest)) => manifest.subject.is_some(),
                Err(_) => false,
            },
        )
    }

    /// Takes everything, artifacts that are no images too.
    fn whole_index(&mut self, index: &Index, depth: usize) -> Result<(), LayoutError> {
        for entry in index.manifests.iter().take(MAX_ENTRIES) {
            if self.digests.contains(&entry.digest) {
                continue;
            }
            let Some(bytes) = self.document(entry)? else {
                continue;
            };
            let stated = StatedMediaTypes {
                descriptor: Some(&entry.media_type),
                response: None,
            };
            match Document::parse_any(&bytes, stated, DOCUMENT_LIMIT_BYTES) {
                Ok(Document::Index(inner)) if depth < MAX_DEPTH => {
                    self.whole_index(&inner, depth + 1)?;
                }
                Ok(Document::Manifest(manifest)) => {
                    self.add(&manifest.config);
                    manifest.layers.iter().for_each(|layer| self.add(layer));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes that a blob is needed, unless the layout does not hold it.
    fn add(&mut self, blob: &Descriptor) {
        if self.directory.join(blob_name(&blob.digest)).exists() {
            self.digests.insert(blob.digest);
        }
    }

    fn manifest(&mut self, manifest: &Manifest, wanted: Platform) -> Result<(), LayoutError> {
        let Some(bytes) = self.document(&manifest.config)? else {
            return Ok(());
        };
        let parsed = ImageConfig::parse(&bytes, manifest.layers.len(), DOCUMENT_LIMIT_BYTES);
        let platform = parsed.ok().and_then(|config| config.platform().ok());
        if platform.is_some_and(|platform| !wanted.runs(platform)) {
            return Ok(());
        }
        manifest.layers.iter().for_each(|layer| self.add(layer));
        Ok(())
    }

    /// Reads a document and notes that it is needed, unless the layout does not hold it.
    fn document(&mut self, descriptor: &Descriptor) -> Result<Option<Vec<u8>>, LayoutError> {
        let bytes = read(&self.directory.join(blob_name(&descriptor.digest)))?;
        if bytes.is_some() {
            self.digests.insert(descriptor.digest);
        }
        Ok(bytes)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.to_hex())
}

/// Reads at most a document's length and a byte more, which tells that it is too long.
fn read(path: &Path) -> Result<Option<Vec<u8>>, LayoutError> {
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(FileError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    let mut limited = file.take(DOCUMENT_LIMIT_BYTES + 1);
    limited
        .read_to_end(&mut bytes)
        .map_err(|source| FileError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
