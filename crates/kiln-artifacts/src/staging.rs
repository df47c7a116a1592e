//! One artifact directory on its way in.
//!
//! ```text
//!              create, copy_in, …          seal, rename, sync <images>
//! stage(id) ────────────────────▶ Staging ─────────────────────────────▶ Published ── settle ──▶
//!                                    │ drop                                  │ remove
//!                                    ▼                                       ▼
//!                                 nothing left                            nothing left
//! ```
//!
//! `Staging`: the files may be incomplete, nobody else looks at them, a crash leaves them to the
//! sweep. `Published`: complete and on the disk, whatever happens next. Until it is settled, the
//! empty file `<id>.unanswered` beside it proves that nobody was told of it: whoever starts on a
//! database that does not know the directory may remove it then, and only then.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_domain::Digest;
use kiln_files::{Copied, Directory, FileError, at};
use sha2::Digest as _;

use crate::artifacts::{Artifacts, Removal};
use crate::error::ArtifactError;
use crate::names;

/// Bytes hashed between two looks at the cancel flag.
const HASH_CHUNK_BYTES: usize = 1 << 20;

/// A directory `<id>.staging` in the making. Dropped, it is removed.
#[derive(Debug)]
pub struct Staging {
    artifacts: Artifacts,
    id: String,
    directory: Directory,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    Open,
    Published,
}

impl Staging {
    pub(crate) fn begin(artifacts: Artifacts, id: &str) -> Result<Self, ArtifactError> {
        let directory = artifacts.images().create_child(&staging_name(id))?;
        Ok(Self {
            artifacts,
            id: id.to_owned(),
            directory,
            state: State::Open,
        })
    }

    /// Returns where the files are for now. The path is gone after [`Staging::publish`].
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Creates the empty file `name`, open for reading and writing. It must not exist.
    pub fn create(&self, name: &str) -> Result<File, ArtifactError> {
        check_name(name)?;
        Ok(self.directory.create_file(name.as_ref())?)
    }

    /// Creates the file `name` with these bytes: for documents that fit in memory.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), ArtifactError> {
        self.create(name)?
            .write_all(content)
            .map_err(at("write", self.directory.child_path(name)))?;
        Ok(())
    }

    /// Copies all of an open regular file to the new file `name`: cloned where the file system
    /// can, else moved with its holes kept.
    pub fn copy_in(
        &self,
        source: &File,
        name: &str,
        cancelled: &AtomicBool,
    ) -> Result<Copied, ArtifactError> {
        check_name(name)?;
        let (_, copied) = self.directory.copy_in(source, name.as_ref(), cancelled)?;
        Ok(copied)
    }

    /// Opens the file `name`, which was created here, for reading.
    pub fn open(&self, name: &str) -> Result<File, ArtifactError> {
        check_name(name)?;
        let path = self.directory.child_path(name);
        match self.directory.open_file(name.as_ref())? {
            Some(file) => Ok(file),
            None => Err(at("open", path)(io::Error::from(io::ErrorKind::NotFound)).into()),
        }
    }

    /// Creates the empty directory `name` and returns its path. It must not exist.
    pub fn create_dir(&self, name: &str) -> Result<PathBuf, ArtifactError> {
        check_name(name)?;
        Ok(self.directory.create_child(name)?.path().to_owned())
    }

    /// Hashes the file `name` as it lies here now.
    ///
    /// What is published is hashed, not what was offered: a file that its owner changes while it
    /// is copied gives the digest of the copy.
    pub fn digest_of(&self, name: &str, cancelled: &AtomicBool) -> Result<Digest, ArtifactError> {
        check_name(name)?;
        let path = self.directory.child_path(name);
        let mut file = self.open(name)?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; HASH_CHUNK_BYTES];
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(FileError::Cancelled { path }.into());
            }
            let read = file.read(&mut buffer).map_err(at("read", &path))?;
            if read == 0 {
                return Ok(Digest::from_bytes(hasher.finalize().into()));
            }
            hasher.update(&buffer[..read]);
        }
    }

    /// Makes the directory visible under its final name, durably, with its files read-only.
    ///
    /// Every file below is synced, then the directories from the inside out, then comes the
    /// rename, then a sync of the parent. Consumes the staging area, so that nothing can be added
    /// to a published image. On failure nothing is left behind, under either name: a sync that
    /// failed proves the content lost, so it is never tried a second time.
    pub fn publish(mut self) -> Result<Published, ArtifactError> {
        let images = self.artifacts.images();
        self.directory.seal()?;
        // Not synced by itself: should it be lost with the power and the rename not, the directory
        // is kept for want of a proof.
        let note = unanswered_name(&self.id);
        drop(images.create_file(note.as_ref())?);
        if let Err(error) = images.rename(&staging_name(&self.id), &self.id) {
            drop(images.remove(note.as_ref()));
            return Err(error.into());
        }
        self.state = State::Published;
        let published = Published {
            artifacts: self.artifacts.clone(),
            id: self.id.clone(),
        };
        if let Err(error) = images.sync() {
            // The caller hears of the failed sync; should the removal fail too, the next start
            // finds a directory that no row knows, and removes it.
            drop(published.remove());
            return Err(error.into());
        }
        Ok(published)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.state == State::Open {
            // Nobody can be told here; what stays is removed by the sweep of the next start.
            let leftover = staging_name(&self.id);
            drop(self.artifacts.images().remove(leftover.as_ref()));
        }
    }
}

/// A complete, durable artifact directory that this process has just made.
#[derive(Debug)]
pub struct Published {
    artifacts: Artifacts,
    id: String,
}

impl Published {
    /// Returns where the files are.
    pub fn path(&self) -> PathBuf {
        self.artifacts.images().child_path(&self.id)
    }

    /// Notes, durably, that it stands for good: for when the step after publishing succeeded,
    /// before anybody is answered.
    pub fn settle(self) -> Result<(), ArtifactError> {
        self.artifacts.settle(&self.id)
    }

    /// Takes it back: for when the step after publishing failed and nobody was answered.
    pub fn remove(self) -> Result<Removal, ArtifactError> {
        self.artifacts.remove(&self.id)
    }
}

pub(crate) fn staging_name(id: &str) -> String {
    format!("{id}{}", names::STAGING_SUFFIX)
}

pub(crate) fn unanswered_name(id: &str) -> String {
    format!("{id}{}", names::UNANSWERED_SUFFIX)
}

pub(crate) fn check_name(name: &str) -> Result<(), ArtifactError> {
    if names::is_file_name(name) {
        Ok(())
    } else {
        Err(ArtifactError::InvalidName {
            name: name.to_owned(),
        })
    }
}
