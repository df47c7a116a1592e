//! What came of a blob before its download ended: `ingest/<hex>.partial`.
//!
//! ```text
//! none ──open──▶ locked ──bytes──▶ locked ──commit──▶ renamed: a blob
//!                  ▲                 │ dropped: cancelled, failed, or killed
//!                  └──────open──── left ──a day old, the blob is there, or no room──▶ removed
//! ```
//! One that is [kept](crate::Ingest::keep) is whole, and goes the same ways.
//!
//! The lock (`flock`) is on the open file, so a daemon that is killed leaves none behind. Whoever
//! finds a partial locked takes in the blob beside it, and nobody waits.
//!
//! Nothing here is believed: whoever goes on from a partial hashes all of it again.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use kiln_domain::{Digest, Timestamp};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::error::{CacheError, at};
use crate::files;

/// How the name of a partial ends.
const EXTENSION: &str = "partial";

/// A partial shorter than this is not worth keeping: asking for the rest costs as much.
const WORTH_KEEPING_BYTES: u64 = 64 << 10;

/// How long a partial is kept after its last byte, in microseconds: a day, within which whoever
/// wants the image tries again.
const KEPT_MICROS: u64 = 24 * 3600 * 1_000_000;

/// How often one is opened anew that was renamed or removed before it was locked.
const OPENINGS: usize = 4;

/// What a partial is of: a blob, whoever gave it, or what one place gave of a blob.
///
/// What one place gave is found by those alone who ask that place: whoever knows a digest, and may
/// not have the blob, could otherwise have a registry of their own send its last byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartialName(Digest);

impl PartialName {
    /// Names what came of a blob from anywhere.
    pub fn of_blob(digest: &Digest) -> Self {
        Self(*digest)
    }

    /// Names what came of a blob from `place`.
    pub fn of_blob_from(place: &str, digest: &Digest) -> Self {
        Self(Digest::of(format!("{digest} from {place}").as_bytes()))
    }

    /// Returns what it is known by where the cache is looked through: see
    /// [`EntryKind::Partial`](crate::EntryKind::Partial).
    pub fn digest(&self) -> Digest {
        self.0
    }

    pub(crate) fn file_name(&self) -> String {
        format!("{}.{EXTENSION}", self.0.to_hex())
    }
}

/// The partial of one blob, locked.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    /// Opens the partial at `path`, or makes it; `None` when somebody else is writing it, or it
    /// is longer than `longest_bytes` and so belongs to another description of the blob.
    pub(crate) fn open(path: &Path, longest_bytes: u64) -> Result<Option<Self>, CacheError> {
        for _ in 0..OPENINGS {
            let Some(file) = open_or_create(path)? else {
                continue;
            };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                // Somebody's, or a file system without locks: then nothing is resumed.
                return Ok(None);
            }
            let found = file.metadata().map_err(at("examine", path))?;
            if !is_still_at(path, &found) {
                continue;
            }
            if found.len() > longest_bytes {
                return Ok(None);
            }
            let path = path.to_owned();
            return Ok(Some(Self { path, file }));
        }
        Ok(None)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns how many bytes there are.
    pub(crate) fn length(&self) -> Result<u64, CacheError> {
        let found = self.file.metadata().map_err(at("examine", &self.path))?;
        Ok(found.len())
    }

    /// Leaves it for the next one who wants the blob, if there is enough of it.
    pub(crate) fn leave(&self) -> Result<(), CacheError> {
        if self.length()? < WORTH_KEEPING_BYTES {
            return self.remove();
        }
        Ok(())
    }

    /// Removes it, unless somebody has emptied the directory and this is another's by now.
    pub(crate) fn remove(&self) -> Result<(), CacheError> {
        let found = self.file.metadata().map_err(at("examine", &self.path))?;
        if is_still_at(&self.path, &found) {
            files::remove_file(&self.path)?;
        }
        Ok(())
    }
}

/// Returns the length of the partial at `path`; zero when there is none.
pub(crate) fn length_at(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    }
}

/// Says whether a name in `ingest/` is that of a partial.
pub(crate) fn is_partial(name: &OsStr) -> bool {
    Path::new(name).extension() == Some(OsStr::new(EXTENSION))
}

/// Says whether a partial is too short to be worth keeping.
pub(crate) fn is_little(metadata: &Metadata) -> bool {
    metadata.len() < WORTH_KEEPING_BYTES
}

/// Returns when the last byte came, in nanoseconds since 1970.
pub(crate) fn written_at(metadata: &Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

/// Says whether a partial has had its time. One from the future comes from a clock that was wrong,
/// and nobody could tell when it will be old.
pub(crate) fn is_old(metadata: &Metadata, now: Timestamp) -> bool {
    let modified = metadata
        .mtime()
        .saturating_mul(1_000_000)
        .saturating_add(metadata.mtime_nsec() / 1_000);
    modified.abs_diff(now.as_micros()) >= KEPT_MICROS
}

/// Removes the partial at `path`, unless somebody is writing it; says whether it did.
pub(crate) fn remove_unused(path: &Path) -> Result<bool, CacheError> {
    match Partial::open(path, u64::MAX)? {
        Some(partial) => partial.remove().map(|()| true),
        None => Ok(false),
    }
}

/// Says whether somebody is writing the partial at `path`.
pub(crate) fn is_locked(path: &Path) -> bool {
    match files::open_regular(path) {
        // A shared lock is had unless somebody writes, and is gone when the file is closed.
        Ok(Some((file, _))) => flock(&file, FlockOperation::NonBlockingLockShared).is_err(),
        Ok(None) | Err(_) => false,
    }
}

/// Opens what is at `path`; what is no partial of ours is removed, and then there is none.
fn open_or_create(path: &Path) -> Result<Option<File>, CacheError> {
    if let Some(parent) = path.parent() {
        // Somebody may have emptied the cache meanwhile.
        files::create_directory(parent)?;
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let own = rustix::process::geteuid().as_raw();
    match opened {
        Ok(file) => {
            let found = file.metadata().map_err(at("examine", path))?;
            // With a second name, writing to it would change something else.
            if found.is_file() && found.nlink() <= 1 && found.uid() == own {
                return Ok(Some(file));
            }
        }
        Err(error) if is_something_else(&error) => {}
        Err(error) => return Err(at("open", path)(error)),
    }
    files::remove_file(path)?;
    Ok(None)
}

/// Says whether a file could not be opened for what it is: a link, a socket, or sealed.
fn is_something_else(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(Errno::LOOP | Errno::NXIO | Errno::ACCESS | Errno::PERM)
    )
}

fn is_still_at(path: &Path, found: &Metadata) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|there| (there.dev(), there.ino()) == (found.dev(), found.ino()))
}
