//! Whether the database can be written: what the last write came to, and whether the files are
//! still those that were opened.
//!
//! ```text
//! write ──▶ same files? ──▶ transaction ──▶ noted: written, or failed
//! probe ──▶ written a moment ago? yes: so it can be
//!                                 no:  a write of nothing that anybody reads
//! ```
//! SQLite goes on with files that nobody can find any more: what it would write into them is lost
//! with the process. So nothing is written then.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::StoreError;

/// What a file is, whatever it is called: its device and its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId(u64, u64);

/// What the writes of one opened database came to.
#[derive(Debug)]
pub(crate) struct Health {
    files: Vec<(PathBuf, FileId)>,
    last: Mutex<Last>,
}

/// What the last write came to.
#[derive(Clone, Copy, Debug)]
enum Last {
    /// Nothing was written yet.
    Nothing,
    /// Something was written, durably, at this time.
    Written(Instant),
    /// It failed.
    Failed,
}

impl Health {
    /// Remembers which files a database consists of: itself and its log. Both are there while it is
    /// open.
    pub(crate) fn of(database: &Path) -> io::Result<Self> {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        let files = [database.to_owned(), PathBuf::from(log)].map(|path| {
            let id = id_of(&path)?;
            Ok((path, id))
        });
        Ok(Self {
            files: files.into_iter().collect::<io::Result<_>>()?,
            last: Mutex::new(Last::Nothing),
        })
    }

    /// Fails when a file is gone, or another stands in its place.
    pub(crate) fn check_files(&self) -> Result<(), StoreError> {
        for (path, id) in &self.files {
            let is_there = match id_of(path) {
                Ok(found) => found == *id,
                // What cannot be looked at for another reason is SQLite's to tell of.
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            };
            if !is_there {
                *self.lock() = Last::Failed;
                return Err(StoreError::Replaced { path: path.clone() });
            }
        }
        Ok(())
    }

    /// Notes that a write is durable.
    pub(crate) fn written(&self) {
        *self.lock() = Last::Written(Instant::now());
    }

    /// Notes that a write failed for a reason of the database's.
    pub(crate) fn failed(&self) {
        *self.lock() = Last::Failed;
    }

    /// Tells whether something was written within `age`, and nothing failed since.
    pub(crate) fn is_known_good(&self, age: Duration) -> bool {
        matches!(*self.lock(), Last::Written(at) if at.elapsed() < age)
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id_of(path: &Path) -> io::Result<FileId> {
    // Not opened: closing any descriptor of the database would drop SQLite's locks on it.
    let metadata = fs::metadata(path)?;
    Ok(FileId(metadata.dev(), metadata.ino()))
}
