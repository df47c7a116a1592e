//! One blob on its way into the cache.
//!
//! ```text
//! ingest ──▶ Ingest ──write…──▶ commit: sync file, check size, check digest, make read-only,
//! resume ──▶   │ dropped                rename, sync directory ──▶ Blob
//!              ▼                          │ a check fails
//!     nothing left, or a partial          ▼
//!                                    nothing left
//! ```
//!
//! [`Cache::ingest`](crate::Cache::ingest) writes `ingest/<hex>.<random>`, which goes when it is
//! dropped. [`Cache::resume`](crate::Cache::resume) writes `ingest/<hex>.partial`, which stays, and
//! goes on from one that is there: its bytes are read back and hashed first.
//! [`Ingest::keep`] leaves it there whole, in the place of a commit.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kiln_domain::Digest;
use kiln_files::Passing;
use sha2::Digest as _;
use tempfile::NamedTempFile;

use crate::cache::Blob;
use crate::error::{CacheError, at};
use crate::files;
use crate::partial::Partial;

/// Takes the bytes of one blob, hashing them as they come.
#[derive(Debug)]
pub struct Ingest {
    place: Place,
    target: PathBuf,
    expected: Digest,
    expected_bytes: u64,
    /// How many bytes an earlier download left.
    kept_bytes: u64,
    /// How many bytes were hashed.
    found_bytes: u64,
    hasher: sha2::Sha256,
}

/// Where the bytes are until they have their name.
#[derive(Debug)]
enum Place {
    /// Removed when dropped.
    Temporary(NamedTempFile),
    /// Left for the next one when dropped.
    Partial(Partial),
    /// They have their name, or are gone.
    Nowhere,
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
        let prefix = format!("{}.", digest.to_hex());
        let file = files::create_temporary(directory, &prefix)?;
        let place = Place::Temporary(file);
        Ok(Self::at_place(place, target, digest, size_bytes))
    }

    pub(crate) fn go_on(
        partial: Partial,
        target: PathBuf,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<Self, CacheError> {
        let kept_bytes = partial.length()?;
        let mut ingest = Self::at_place(Place::Partial(partial), target, digest, size_bytes);
        ingest.kept_bytes = kept_bytes;
        Ok(ingest)
    }

    fn at_place(place: Place, target: PathBuf, digest: &Digest, size_bytes: u64) -> Self {
        Self {
            place,
            target,
            expected: *digest,
            expected_bytes: size_bytes,
            kept_bytes: 0,
            found_bytes: 0,
            hasher: sha2::Sha256::new(),
        }
    }

    /// Returns how many bytes came so far, kept ones that were read back included.
    pub fn found_bytes(&self) -> u64 {
        self.found_bytes
    }

    /// Returns how many bytes an earlier download left. They have to be read back with
    /// [`Ingest::read_kept`] before others are written behind them.
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// Reads the next of the kept bytes, hashing them; 0 after the last.
    pub fn read_kept(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.kept_bytes.saturating_sub(self.found_bytes);
        let wanted = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self
            .file()?
            .read_at(&mut buffer[..wanted], self.found_bytes)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.hasher.update(&buffer[..count]);
        self.found_bytes += count as u64;
        Ok(count)
    }

    /// Throws away what came, and what was kept: it is not what it should be.
    pub fn abandon(mut self) -> Result<(), CacheError> {
        self.throw_away()
    }

    fn throw_away(&mut self) -> Result<(), CacheError> {
        match std::mem::replace(&mut self.place, Place::Nowhere) {
            Place::Partial(partial) => partial.remove(),
            Place::Temporary(_) | Place::Nowhere => Ok(()),
        }
    }

    fn file(&self) -> io::Result<&File> {
        match &self.place {
            Place::Temporary(file) => Ok(file.as_file()),
            Place::Partial(partial) => Ok(partial.file()),
            Place::Nowhere => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn path(&self) -> &Path {
        match &self.place {
            Place::Temporary(file) => file.path(),
            Place::Partial(partial) => partial.path(),
            Place::Nowhere => &self.target,
        }
    }

    /// Gives the blob its name, durably, after its length and digest were checked.
    ///
    /// When somebody else was faster, theirs is returned and ours is dropped. A sync that fails
    /// is final: the content is dropped, never believed after a second try.
    pub fn commit(mut self) -> Result<Blob, IngestError> {
        let path = self.path().to_owned();
        let synced = self.file().and_then(File::sync_all);
        let checked = synced
            .map_err(|error| at("sync", &path)(error).into())
            .and_then(|()| self.check());
        if let Err(error) = checked {
            self.throw_away()?;
            return Err(error);
        }
        self.file()
            .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o400)))
            .map_err(at("make read-only", &path))?;
        // Opened before the rename, so that somebody who empties the cache cannot take it away.
        let ours = open_blob(&path)?;
        self.check_is_ours(&ours)?;
        let directory = self.target.parent().unwrap_or(&self.target).to_owned();
        files::create_directory(&directory)?;
        let blob = self.give_name(ours)?;
        // Also for a name that was there: whoever made it may not have synced it yet.
        files::sync_directory(&directory)?;
        Ok(blob)
    }

    fn give_name(&mut self, ours: Blob) -> Result<Blob, CacheError> {
        let renamed = match std::mem::replace(&mut self.place, Place::Nowhere) {
            Place::Temporary(file) => match file.persist_noclobber(&self.target) {
                Ok(_) => Ok(()),
                Err(lost) if lost.error.kind() == io::ErrorKind::AlreadyExists => {
                    return open_blob(&self.target);
                }
                Err(lost) => Err(lost.error),
            },
            // In the place of one that is there: both were checked, and are the same.
            Place::Partial(partial) => {
                fs::rename(partial.path(), &self.target).map_err(at("rename to", &self.target))?;
                let named = open_blob(&self.target)?;
                if !is_one_file(&named.file, partial.file()) {
                    // Somebody has put another in its place at the last moment.
                    files::remove_file(&self.target)?;
                    return Err(at("rename", partial.path())(gone()));
                }
                return Ok(ours);
            }
            Place::Nowhere => Err(io::ErrorKind::NotFound.into()),
        };
        renamed.map_err(at("rename to", &self.target))?;
        Ok(ours)
    }

    /// Returns the blob open for reading alone, after its length and digest were checked, and gives
    /// it no name: nobody finds it in the cache, and it goes when it is closed.
    pub fn withhold(self) -> Result<Blob, IngestError> {
        self.check()?;
        Ok(open_blob(self.path())?)
    }

    /// Leaves the whole blob as a partial, after its length and digest were checked: whoever resumes
    /// it has to fetch nothing. What was begun beside somebody else's is dropped.
    pub fn keep(mut self) -> Result<(), IngestError> {
        if let Err(error) = self.check() {
            self.throw_away()?;
            return Err(error);
        }
        Ok(())
    }

    /// Refuses to go on when somebody has emptied the directory meanwhile, and somebody else has
    /// begun a partial under the same name: what was checked is not what is there.
    fn check_is_ours(&self, found: &Blob) -> Result<(), CacheError> {
        match self.file() {
            Ok(file) if is_one_file(file, &found.file) => Ok(()),
            _ => Err(at("find", self.path())(gone())),
        }
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
        if self.found_bytes < self.kept_bytes {
            return Err(io::Error::other("what was kept has not been read back"));
        }
        // A blob is read again only when its pack is lost.
        let written = self
            .file()
            .and_then(|file| Passing::new(file).write_all_at(bytes, self.found_bytes));
        if let Err(error) = written {
            // A full disk needs the space, and a broken one keeps nothing.
            self.throw_away().ok();
            return Err(error);
        }
        self.hasher.update(bytes);
        self.found_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Place::Partial(partial) = &self.place {
            // Nobody can be told; the next start sweeps what cannot be removed now.
            partial.leave().ok();
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn is_one_file(one: &File, other: &File) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
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
