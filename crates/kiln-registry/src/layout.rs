//! OCI image layouts: a directory, a tar archive of one, or files somebody opened for us.
//!
//! ```text
//! oci-layout              {"imageLayoutVersion":"1.0.0"}
//! index.json              the images, named by annotations
//! blobs/sha256/<hex>      everything else
//! ```
//!
//! The directory of one image that skopeo's `dir:` writes is read as a layout too, with an index
//! made up for it.
//!
//! Not here: trust. A directory is read with the daemon's own rights, so its path must come from
//! a caller who has them; others hand opened files over.

mod referrers;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_domain::Digest;
use kiln_domain::oci::{Descriptor, Document, StatedMediaTypes};

use crate::archive::{Archive, read_range};
use crate::blob::FileRange;
use crate::client::{Fetched, MAX_DOCUMENT_BYTES};
use crate::error::FetchError;

pub(crate) use referrers::Referrer;

/// The annotation that names an image of a layout (OCI image spec, "Pre-Defined Annotation
/// Keys").
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation in which containerd keeps the whole reference.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The document on top of a directory as skopeo's `dir:` has it.
const TOP: &str = "manifest.json";

/// Most names an error lists.
const MAX_LISTED: usize = 64;

/// An OCI image layout, and which of its images is meant. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Layout {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    place: PathBuf,
    tag: Option<String>,
    index: Vec<u8>,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Directory,
    /// All files side by side, and the document on top under a name of its own.
    Flat {
        root: Digest,
    },
    Archive(Archive),
    Files(HashMap<Digest, Arc<File>>),
}

impl Layout {
    /// Opens the layout in the directory `path`; blocking.
    pub fn open_directory(path: &Path, tag: Option<&str>) -> Result<Self, FetchError> {
        if !path.exists() {
            return Err(FetchError::PathNotFound {
                path: path.to_owned(),
            });
        }
        let index_path = path.join("index.json");
        let index = match open_file(&index_path) {
            Ok(range) => read_range(range, MAX_DOCUMENT_BYTES, &index_path)?,
            Err(error) if is_absent(&error) => return Err(not_a_layout(path)),
            Err(error) => return Err(io_error("open", &index_path, error)),
        };
        Ok(Self::new(path, tag, index, Store::Directory))
    }

    /// Opens the layout in the tar archive `file`, which is called `path` in messages; blocking.
    pub fn open_archive(file: File, path: &Path, tag: Option<&str>) -> Result<Self, FetchError> {
        let archive = Archive::scan(Arc::new(file), path)?;
        let index = archive
            .read("index.json", MAX_DOCUMENT_BYTES)?
            .ok_or_else(|| not_a_layout(path))?;
        Ok(Self::new(path, tag, index, Store::Archive(archive)))
    }

    /// Takes a layout whose files the caller has opened: `index` is what `index.json` holds.
    /// `path` is what the layout is called in messages.
    pub fn from_files(
        index: Vec<u8>,
        blobs: impl IntoIterator<Item = (Digest, File)>,
        path: &Path,
        tag: Option<&str>,
    ) -> Self {
        let files = blobs
            .into_iter()
            .map(|(digest, file)| (digest, Arc::new(file)))
            .collect();
        Self::new(path, tag, index, Store::Files(files))
    }

    /// Opens the one image in the directory `path`, as skopeo's `dir:` has it; blocking.
    pub fn open_flat_directory(path: &Path) -> Result<Self, FetchError> {
        if !path.exists() {
            return Err(FetchError::PathNotFound {
                path: path.to_owned(),
            });
        }
        let top = path.join(TOP);
        let manifest = match open_file(&top) {
            Ok(range) => read_range(range, MAX_DOCUMENT_BYTES, &top)?,
            Err(error) if is_absent(&error) => {
                return Err(FetchError::NotASource {
                    path: path.to_owned(),
                    expected: "a directory of an image, which has a manifest.json",
                });
            }
            Err(error) => return Err(io_error("open", &top, error)),
        };
        let root = Digest::of(&manifest);
        let store = Store::Flat { root };
        Ok(Self::new(path, None, index_of(&manifest), store))
    }

    /// Takes such a directory, whose files the caller has opened: `manifest` is the document on
    /// top. `path` is what the directory is called in messages; blocking.
    pub fn from_flat_files(
        manifest: File,
        blobs: impl IntoIterator<Item = (Digest, File)>,
        path: &Path,
    ) -> Result<Self, FetchError> {
        let top = path.join(TOP);
        let manifest = Arc::new(manifest);
        let range = whole_file(manifest.clone()).map_err(|error| io_error("read", &top, error))?;
        let bytes = read_range(range, MAX_DOCUMENT_BYTES, &top)?;
        let blobs = blobs.into_iter();
        let mut files: HashMap<Digest, Arc<File>> = blobs
            .map(|(digest, file)| (digest, Arc::new(file)))
            .collect();
        files.insert(Digest::of(&bytes), manifest);
        Ok(Self::new(path, None, index_of(&bytes), Store::Files(files)))
    }

    fn new(place: &Path, tag: Option<&str>, index: Vec<u8>, store: Store) -> Self {
        Self {
            shared: Arc::new(Shared {
                place: place.to_owned(),
                tag: tag.map(str::to_owned),
                index,
                store,
            }),
        }
    }

    /// Reads the document of the image that is meant, with its descriptor when the layout's
    /// index points at it; blocking.
    pub(crate) fn root(&self) -> Result<(Fetched, Option<Descriptor>), FetchError> {
        let shared = &*self.shared;
        let entries = shared.entries()?;
        match choose(&entries, shared.tag.as_deref(), &shared.place)? {
            Some(entry) => Ok((self.document(entry)?, Some(entry.clone()))),
            None => Ok((
                Fetched {
                    digest: Digest::of(&shared.index),
                    bytes: shared.index.clone().into(),
                    media_type: None,
                },
                None,
            )),
        }
    }

    /// Reads a manifest, an index or a config and checks its digest; blocking.
    pub(crate) fn document(&self, descriptor: &Descriptor) -> Result<Fetched, FetchError> {
        let range = self.blob(descriptor)?;
        let bytes = read_range(range, MAX_DOCUMENT_BYTES, &self.shared.place)?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            return Err(FetchError::DigestMismatch {
                what: format!("a blob of {}", self.shared.place.display()),
                expected: descriptor.digest,
                found,
            });
        }
        Ok(Fetched {
            bytes: bytes.into(),
            media_type: None,
            digest: found,
        })
    }

    /// Opens a blob and checks its size; blocking.
    pub(crate) fn blob(&self, descriptor: &Descriptor) -> Result<FileRange, FetchError> {
        let shared = &*self.shared;
        let digest = descriptor.digest;
        let name = format!("blobs/sha256/{}", digest.to_hex());
        let range = match &shared.store {
            Store::Archive(archive) => archive.find(&name),
            Store::Files(files) => files
                .get(&digest)
                .map(|file| whole_file(file.clone()))
                .transpose()
                .map_err(|error| io_error("read", &shared.place.join(&name), error))?,
            Store::Flat { root } => {
                let hex = digest.to_hex();
                let document = format!("{hex}.manifest.json");
                let names = if digest == *root {
                    vec![TOP.to_owned()]
                } else {
                    vec![hex, document]
                };
                shared.first_of(&names)?
            }
            Store::Directory => match open_file(&shared.place.join(&name)) {
                Ok(range) => Some(range),
                Err(error) if is_absent(&error) => None,
                Err(error) => return Err(io_error("open", &shared.place.join(&name), error)),
            },
        };
        let range = range.ok_or_else(|| FetchError::BlobNotFound {
            place: shared.place.display().to_string(),
            digest,
        })?;
        check_size(&range, descriptor)?;
        Ok(range)
    }
}

impl Shared {
    /// Opens the first of these files that is there.
    fn first_of(&self, names: &[String]) -> Result<Option<FileRange>, FetchError> {
        for name in names {
            let path = self.place.join(name);
            match open_file(&path) {
                Ok(range) => return Ok(Some(range)),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(io_error("open", &path, error)),
            }
        }
        Ok(None)
    }

    fn entries(&self) -> Result<Vec<Descriptor>, FetchError> {
        let document =
            Document::parse(&self.index, StatedMediaTypes::default(), MAX_DOCUMENT_BYTES).map_err(
                |source| FetchError::Document {
                    document: self.place.join("index.json").display().to_string(),
                    source,
                },
            )?;
        match document {
            Document::Index(index) => Ok(index.manifests),
            Document::Manifest(_) => Err(not_a_layout(&self.place)),
        }
    }
}

/// Chooses the image that is meant, or none when the layout's index is itself the image's: it
/// has several entries and names none.
fn choose<'a>(
    entries: &'a [Descriptor],
    tag: Option<&str>,
    place: &Path,
) -> Result<Option<&'a Descriptor>, FetchError> {
    let Some(tag) = tag else {
        return match entries {
            // Some tools add an entry each time they write the same image.
            [first, others @ ..] if others.iter().all(|other| other.digest == first.digest) => {
                Ok(Some(first))
            }
            [] => Err(FetchError::NotASource {
                path: place.to_owned(),
                expected: "an OCI image layout with an image in it",
            }),
            several if names(several).is_empty() => Ok(None),
            several => Err(FetchError::TagAmbiguous {
                path: place.to_owned(),
                tags: names(several),
            }),
        };
    };
    let is_named = |entry: &&Descriptor| {
        [REF_NAME, CONTAINERD_NAME]
            .iter()
            .any(|key| entry.annotations.get(*key).is_some_and(|name| name == tag))
    };
    let mut named = entries.iter().filter(is_named);
    let Some(first) = named.next() else {
        return Err(FetchError::TagMissing {
            path: place.to_owned(),
            tag: tag.to_owned(),
            tags: names(entries),
        });
    };
    if named.all(|other| other.digest == first.digest) {
        return Ok(Some(first));
    }
    Err(FetchError::TagAmbiguous {
        path: place.to_owned(),
        tags: names(entries),
    })
}

fn names(entries: &[Descriptor]) -> Vec<String> {
    entries
        .iter()
        .filter_map(|entry| entry.annotations.get(REF_NAME))
        .map(|name| name.chars().take(255).collect::<String>())
        .map(|name| name.escape_debug().to_string())
        .take(MAX_LISTED)
        .collect()
}

/// Makes the index of a layout with this one image.
fn index_of(manifest: &[u8]) -> Vec<u8> {
    let stated: serde_json::Value = serde_json::from_slice(manifest).unwrap_or_default();
    let media_type = stated["mediaType"].as_str().unwrap_or_default();
    let entry = Descriptor::new(media_type, Digest::of(manifest), manifest.len() as u64);
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
    index.to_string().into_bytes()
}

pub(crate) fn check_size(range: &FileRange, descriptor: &Descriptor) -> Result<(), FetchError> {
    let found_bytes = range.remaining_bytes();
    if found_bytes != descriptor.size_bytes {
        return Err(FetchError::SizeMismatch {
            digest: descriptor.digest,
            expected_bytes: descriptor.size_bytes,
            found_bytes,
        });
    }
    Ok(())
}

fn open_file(path: &Path) -> io::Result<FileRange> {
    // Looked at before it is opened: opening a pipe would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        let text = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    whole_file(Arc::new(File::open(path)?))
}

fn whole_file(file: Arc<File>) -> io::Result<FileRange> {
    let size_bytes = file.metadata()?.len();
    Ok(FileRange::new(file, 0, size_bytes))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn not_a_layout(path: &Path) -> FetchError {
    FetchError::NotASource {
        path: path.to_owned(),
        expected: "an OCI image layout, which has an index.json",
    }
}

fn io_error(step: &'static str, path: &Path, source: io::Error) -> FetchError {
    FetchError::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
