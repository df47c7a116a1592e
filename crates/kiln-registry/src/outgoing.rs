//! Images written to this host: layouts, archives and directories that other tools read.
//!
//! ```text
//! open ──▶ put blob… ──▶ finish: the document on top, last
//! ```
//! A blob gets its name after its length and digest were checked. What is given up leaves blobs of
//! a layout or a directory, which the next copy finds, and of an archive nothing.
//!
//! Not here: where the blobs come from. All of it blocks.

mod archive;
mod docker;
mod error;
mod flat;
mod layout;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kiln_domain::oci::Descriptor;
use kiln_domain::{Digest, Reference};
use kiln_files::Existing;
use serde_json::{Value, json};
use sha2::Digest as _;

pub use error::OutgoingError;

/// Bytes moved at a time; the cancel flag is looked at as often.
const BUFFER_BYTES: usize = 256 << 10;

/// The annotation that names an image of a layout (OCI image spec, "Pre-Defined Annotation Keys").
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation in which containerd keeps the whole reference.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A document to write, byte for byte.
#[derive(Clone, Debug)]
pub struct OutgoingDocument {
    /// What points at it; its platform too, where an index said one.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Bytes,
}

/// An image on its way to a place of this host.
#[derive(Debug)]
pub struct Outgoing {
    place: Place,
}

#[derive(Debug)]
enum Place {
    Layout(layout::NewLayout),
    Archive(archive::NewArchive),
    Docker(docker::NewDockerArchive),
    Flat(flat::NewFlat),
}

impl Outgoing {
    /// Begins or goes on with a layout in the directory `path`; its image gets the name `tag`.
    /// Other images in it stay.
    pub fn layout(path: &Path, tag: Option<&str>) -> Result<Self, OutgoingError> {
        layout::NewLayout::open(path, tag).map(|layout| Self {
            place: Place::Layout(layout),
        })
    }

    /// Begins a layout in a tar archive.
    pub fn archive(
        path: &Path,
        tag: Option<&str>,
        existing: Existing,
    ) -> Result<Self, OutgoingError> {
        archive::NewArchive::create(path, tag, existing).map(|archive| Self {
            place: Place::Archive(archive),
        })
    }

    /// Begins an archive as `docker load` takes it, of one image of one platform.
    pub fn docker_archive(
        path: &Path,
        reference: Option<&Reference>,
        existing: Existing,
    ) -> Result<Self, OutgoingError> {
        docker::NewDockerArchive::create(path, reference, existing).map(|archive| Self {
            place: Place::Docker(archive),
        })
    }

    /// Begins or goes on with a directory of one image, as skopeo's `dir:` has it.
    pub fn flat(path: &Path) -> Result<Self, OutgoingError> {
        flat::NewFlat::open(path).map(|flat| Self {
            place: Place::Flat(flat),
        })
    }

    /// Says whether the place has the blob already; its bytes are checked.
    pub fn has(&self, blob: &Descriptor, cancelled: &AtomicBool) -> Result<bool, OutgoingError> {
        match &self.place {
            Place::Layout(layout) => holds(&layout.blob_path(&blob.digest), blob, cancelled),
            Place::Flat(flat) => holds(&flat.blob_path(&blob.digest), blob, cancelled),
            Place::Archive(_) | Place::Docker(_) => Ok(false),
        }
    }

    /// Writes a blob, which must have the descriptor's length and digest.
    pub fn put(
        &mut self,
        blob: &Descriptor,
        body: &mut dyn Read,
        cancelled: &AtomicBool,
    ) -> Result<(), OutgoingError> {
        let mut checked = Checked::new(body, blob, cancelled);
        match &mut self.place {
            Place::Layout(layout) => put_file(&layout.blob_path(&blob.digest), &mut checked),
            Place::Flat(flat) => put_file(&flat.blob_path(&blob.digest), &mut checked),
            Place::Archive(archive) => archive.put(blob, &mut checked),
            Place::Docker(archive) => archive.put(blob, &mut checked),
        }
    }

    /// Writes the documents, the one on top last, and makes the place complete. `referrers` are those
    /// of the documents that belong to others: layouts list them; other places have no list, and
    /// nobody should ask them for one.
    pub fn finish(
        self,
        root: &OutgoingDocument,
        below: &[OutgoingDocument],
        referrers: &[Descriptor],
    ) -> Result<(), OutgoingError> {
        match self.place {
            Place::Layout(layout) => layout.finish(root, below, referrers),
            Place::Archive(archive) => archive.finish(root, below, referrers),
            Place::Docker(archive) => archive.finish(root),
            Place::Flat(flat) => flat.finish(root, below),
        }
    }
}

/// Reads a blob, and fails at its end when it is not the one it should be.
struct Checked<'a> {
    body: &'a mut dyn Read,
    blob: &'a Descriptor,
    cancelled: &'a AtomicBool,
    hasher: sha2::Sha256,
    found_bytes: u64,
}

impl<'a> Checked<'a> {
    fn new(body: &'a mut dyn Read, blob: &'a Descriptor, cancelled: &'a AtomicBool) -> Self {
        Self {
            body,
            blob,
            cancelled,
            hasher: sha2::Sha256::new(),
            found_bytes: 0,
        }
    }

    /// Lets a file be read only until the work is cancelled.
    fn watched(&self, file: File) -> Watched<'a> {
        Watched {
            file,
            cancelled: self.cancelled,
        }
    }

    /// Moves all of it, and checks it before anything is made of what was moved.
    fn pour(&mut self, path: &Path, into: &mut dyn Write) -> Result<(), OutgoingError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(OutgoingError::Cancelled);
            }
            let count = match self.body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    let digest = self.blob.digest;
                    return Err(OutgoingError::Body { digest, source });
                }
            };
            self.found_bytes += count as u64;
            if self.found_bytes > self.blob.size_bytes {
                break;
            }
            self.hasher.update(&buffer[..count]);
            let written = into.write_all(&buffer[..count]);
            written.map_err(kiln_files::at("write", path))?;
        }
        self.check()
    }

    fn check(&self) -> Result<(), OutgoingError> {
        let expected = self.blob.digest;
        if self.found_bytes != self.blob.size_bytes {
            return Err(OutgoingError::SizeMismatch {
                digest: expected,
                expected_bytes: self.blob.size_bytes,
                found_bytes: self.found_bytes,
            });
        }
        let found = Digest::from_bytes(self.hasher.clone().finalize().into());
        if found != expected {
            return Err(OutgoingError::DigestMismatch { expected, found });
        }
        Ok(())
    }
}

/// A file that can no longer be read once the work is cancelled.
struct Watched<'a> {
    file: File,
    cancelled: &'a AtomicBool,
}

impl Watched<'_> {
    /// Tells that it was cancelled, if it was.
    fn cancelled(&self) -> Option<OutgoingError> {
        let is_cancelled = self.cancelled.load(Ordering::Relaxed);
        is_cancelled.then_some(OutgoingError::Cancelled)
    }

    /// Says why reading a blob out of it failed.
    fn failed(&self, digest: Digest, source: io::Error) -> OutgoingError {
        let cancelled = self.cancelled();
        cancelled.unwrap_or(OutgoingError::Body { digest, source })
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.cancelled() {
            Some(cancelled) => Err(io::Error::other(cancelled)),
            None => self.file.read(buffer),
        }
    }
}

/// Says whether a file is the blob, to the byte.
fn holds(path: &Path, blob: &Descriptor, cancelled: &AtomicBool) -> Result<bool, OutgoingError> {
    let is_right_length = std::fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_file() && found.len() == blob.size_bytes);
    if !is_right_length {
        return Ok(false);
    }
    let mut file = std::fs::File::open(path).map_err(kiln_files::at::<io::Error>("open", path))?;
    match Checked::new(&mut file, blob, cancelled).pour(path, &mut io::sink()) {
        Ok(()) => Ok(true),
        Err(OutgoingError::DigestMismatch { .. } | OutgoingError::SizeMismatch { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a blob into a file of its own, in the place of a damaged one where there is one.
fn put_file(path: &Path, checked: &mut Checked<'_>) -> Result<(), OutgoingError> {
    let new = kiln_files::NewFile::create(path, Existing::Replaced)?;
    checked.pour(path, &mut new.file())?;
    Ok(new.place()?)
}

/// Writes a small file whole, in the place of one that is there.
fn put_bytes(path: &Path, bytes: &[u8]) -> Result<(), OutgoingError> {
    let new = kiln_files::NewFile::create(path, Existing::Replaced)?;
    let written = new.file().write_all(bytes);
    written.map_err(kiln_files::at::<io::Error>("write", path))?;
    Ok(new.place()?)
}

/// Makes a directory with what is above it.
fn make_directory(path: &Path) -> Result<(), OutgoingError> {
    let made = std::fs::create_dir_all(path);
    Ok(made.map_err(kiln_files::at::<io::Error>("make", path))?)
}

/// Returns what says that a directory is a layout.
fn layout_marker() -> Vec<u8> {
    br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()
}

/// Returns the entry of an image in the index of a layout.
fn entry_of(root: &Descriptor, tag: Option<&str>) -> Value {
    let mut entry = root.clone();
    entry.annotations.clear();
    if let Some(tag) = tag {
        entry
            .annotations
            .insert(REF_NAME.to_owned(), tag.to_owned());
    }
    json!(entry)
}

/// Returns the entry of what belongs to an image, as readers of layouts look for it: with what it
/// says of itself, and without a name.
fn referrer_entry(referrer: &Descriptor) -> Value {
    let mut entry = referrer.clone();
    entry.annotations.remove(REF_NAME);
    entry.annotations.remove(CONTAINERD_NAME);
    json!(entry)
}

#[cfg(test)]
mod tests;
