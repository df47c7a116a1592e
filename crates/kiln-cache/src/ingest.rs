//! One blob on its way into the cache.
//!
//! ```text
//! ingest ──▶ Ingest ──write…──▶ commit: sync file, check size, check digest, make read-only,
//!              │ drop                   rename, sync directory ──▶ Blob
//!              ▼                          │ a check fails
//!          nothing left ◀─────────────────┘
//! ```
//!
//! The file is `ingest/<hex>.<random>`: the digest comes first so that a later version can find
//! what a broken download left and go on from there. Today it starts again.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kiln_domain::Digest;
use kiln_files::Passing;
use sha2::Digest as _;
use tempfile::NamedTempFile;

use crate::cache::Blob;
use crate::error::{CacheError, at};
use crate::files;

/// Takes the bytes of one blob, hashing them as they come. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Ingest {
    file: NamedTempFile,
    target: PathBuf,
    expected: Digest,
    expected_bytes: u64,
    found_bytes: u64,
    hasher: sha2::Sha256,
}

/// Why a blob did not get its name.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Fewer bytes came than were announced; more are refused while writing, as [`TooLong`].
    #[error("{digest} should be {expected_bytes} bytes long, but {found_bytes} came")]
    SizeMismatch {
        /// The blob asked for.
        digest: Digest,
        /// The length announced.
        expected_bytes: u64,
        /// The length that came.
        found_bytes: u64,
    },
    /// The bytes are not those that were asked for.
    #[error("the content should be {expected}, but is {found}")]
    DigestMismatch {
        /// The blob asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The cache could not keep it.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl IngestError {
    /// Says whether the cause is a full disk or an exceeded quota: freeing space helps.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Cache(error) if error.is_no_space())
    }
}

/// More bytes came than were announced. It travels inside the [`io::Error`] of a write, from
/// where `get_ref` and a downcast bring it back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{digest} should be {expected_bytes} bytes long, but more came")]
pub struct TooLong {
    /// The blob asked for.
    pub digest: Digest,
    /// The length announced.
    pub expected_bytes: u64,
}

impl Ingest {
    pub(crate) fn begin(
        directory: &Path,
        target: PathBuf,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<Self, CacheError> {
        Ok(Self {
            file: files::create_temporary(directory, &format!("{}.", digest.to_hex()))?,
            target,
            expected: *digest,
            expected_bytes: size_bytes,
            found_bytes: 0,
            hasher: sha2::Sha256::new(),
        })
    }

    /// Returns how many bytes came so far.
    pub fn found_bytes(&self) -> u64 {
        self.found_bytes
    }

    /// Gives the blob its name, durably, after its length and digest were checked.
    ///
    /// When somebody else was faster, theirs is returned and ours is dropped. A sync that fails
    /// is final: the content is dropped, never believed after a second try.
    pub fn commit(self) -> Result<Blob, IngestError> {
        let path = self.file.path();
        self.file.as_file().sync_all().map_err(at("sync", path))?;
        self.check()?;
        self.file
            .as_file()
            .set_permissions(fs::Permissions::from_mode(0o400))
            .map_err(at("make read-only", path))?;
        // Opened before the rename, so that somebody who empties the cache cannot take it away.
        let ours = open_blob(path)?;
        let directory = self.target.parent().unwrap_or(&self.target).to_owned();
        files::create_directory(&directory)?;
        let blob = match self.file.persist_noclobber(&self.target) {
            Ok(_) => ours,
            Err(lost) if lost.error.kind() == io::ErrorKind::AlreadyExists => {
                open_blob(&self.target)?
            }
            Err(lost) => return Err(at("rename to", &self.target)(lost.error).into()),
        };
        // Also for a name that was there: whoever made it may not have synced it yet.
        files::sync_directory(&directory)?;
        Ok(blob)
    }

    /// Returns the blob open for reading alone, after its length and digest were checked, and gives
    /// it no name: nobody finds it in the cache, and it goes when it is closed.
    pub fn withhold(self) -> Result<Blob, IngestError> {
        self.check()?;
        Ok(open_blob(self.file.path())?)
    }

    fn check(&self) -> Result<(), IngestError> {
        if self.found_bytes != self.expected_bytes {
            return Err(IngestError::SizeMismatch {
                digest: self.expected,
                expected_bytes: self.expected_bytes,
                found_bytes: self.found_bytes,
            });
        }
        let found = Digest::from_bytes(self.hasher.clone().finalize().into());
        if found != self.expected {
            return Err(IngestError::DigestMismatch {
                expected: self.expected,
                found,
            });
        }
        Ok(())
    }
}

impl Write for Ingest {
    /// Takes bytes. More than were announced are refused, with [`TooLong`] inside, before they
    /// reach the disk; a full disk is recognised by the error's kind.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.expected_bytes - self.found_bytes;
        if bytes.len() as u64 > left {
            let reason = TooLong {
                digest: self.expected,
                expected_bytes: self.expected_bytes,
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        // A blob is read again only when its pack is lost.
        Passing::new(self.file.as_file()).write_all_at(bytes, self.found_bytes)?;
        self.hasher.update(bytes);
        self.found_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open_blob(path: &Path) -> Result<Blob, CacheError> {
    match files::open_regular(path)? {
        Some((file, metadata)) => Ok(Blob {
            file,
            size_bytes: metadata.len(),
        }),
        None => Err(at("open", path)(io::Error::from(io::ErrorKind::NotFound))),
    }
}
