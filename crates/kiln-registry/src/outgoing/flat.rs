//! A directory of one image, as skopeo's `dir:` has it.
//!
//! ```text
//! version                 Directory Transport Version: 1.1
//! manifest.json           the document on top
//! <hex>.manifest.json     the manifests of an index
//! <hex>                   configs and layers
//! ```

use std::path::{Path, PathBuf};

use kiln_domain::Digest;

use super::error::OutgoingError;
use super::{OutgoingDocument, make_directory, put_bytes};

/// The file that says what the directory is.
const VERSION_FILE: &str = "version";

/// Most of that file, in bytes.
const MAX_VERSION_BYTES: u64 = 1024;

/// What it begins with, whatever the version.
const MARKER: &str = "Directory Transport Version: ";

/// What it holds here.
const VERSION: &str = "Directory Transport Version: 1.1\n";

#[derive(Debug)]
pub(super) struct NewFlat {
    path: PathBuf,
    /// Whether the directory was made here.
    is_new: bool,
}

impl Drop for NewFlat {
    /// Removes a directory that was made for a copy of which nothing came. With one blob in it, it
    /// stays for the next try.
    fn drop(&mut self) {
        if !self.is_new {
            return;
        }
        let Ok(found) = std::fs::read_dir(&self.path) else {
            return;
        };
        let mut names = found.map(|entry| entry.map(|entry| entry.file_name()));
        if names.all(|name| name.is_ok_and(|name| name == VERSION_FILE)) {
            // What cannot be removed is the user's to look at.
            drop(std::fs::remove_file(self.path.join(VERSION_FILE)));
            drop(std::fs::remove_dir(&self.path));
        }
    }
}

impl NewFlat {
    /// Begins in a new or empty directory, or goes on in one that is of this kind.
    pub(super) fn open(path: &Path) -> Result<Self, OutgoingError> {
        let version = path.join(VERSION_FILE);
        let is_ours = kiln_files::read_kept_text(&version, MAX_VERSION_BYTES)
            .is_ok_and(|text| text.starts_with(MARKER));
        let is_occupied = || std::fs::read_dir(path).is_ok_and(|mut found| found.next().is_some());
        if !is_ours && is_occupied() {
            return Err(OutgoingError::Occupied {
                path: path.to_owned(),
                expected: "an image in the form of dir:",
            });
        }
        let flat = Self {
            path: path.to_owned(),
            is_new: !path.exists(),
        };
        make_directory(path)?;
        put_bytes(&version, VERSION.as_bytes())?;
        Ok(flat)
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join(digest.to_hex())
    }

    pub(super) fn finish(
        &self,
        root: &OutgoingDocument,
        below: &[OutgoingDocument],
    ) -> Result<(), OutgoingError> {
        for document in below {
            let name = format!("{}.manifest.json", document.descriptor.digest.to_hex());
            put_bytes(&self.path.join(name), &document.bytes)?;
        }
        put_bytes(&self.path.join("manifest.json"), &root.bytes)
    }
}
