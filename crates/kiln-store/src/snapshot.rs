//! Copies a live database to another file, whole or not at all.
//!
//! When to copy and which copies to keep is not here.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::StoreError;
use crate::error::at;

/// Why a snapshot could not be written. An older one of the same name is unharmed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The copy would take the place of the database it copies.
    #[error("{} is the database itself", path.display())]
    Itself {
        /// The place.
        path: PathBuf,
    },
    /// A file could not be made, synced or moved.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database could not be read, or the copy not be written.
    #[error("cannot copy the database to {}", path.display())]
    Copy {
        /// The copy.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// The store was closed, or the work inside it panicked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes the database as `connection` sees it to `target`, mode 0600, replacing what was there.
///
/// `VACUUM INTO` gives a compact, consistent copy but does not sync it (SQLite manual, "VACUUM
/// with an INTO clause"), so it goes to `<target>.partial`, is synced, and gets its name last.
pub(crate) fn write(connection: &Connection, target: &Path) -> Result<(), SnapshotError> {
    let partial = partial_path(target);
    let written = write_partial(connection, &partial).and_then(|()| {
        fs::rename(&partial, target).map_err(file("publish", target))?;
        sync_parent(target)
    });
    if written.is_err() {
        // The first error is what the caller needs; a later snapshot replaces the remainder.
        fs::remove_file(&partial).ok();
    }
    written
}

/// Tells whether two paths lead to one existing file.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path| {
        fs::metadata(path)
            .map(|found| (found.dev(), found.ino()))
            .ok()
    };
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

fn write_partial(connection: &Connection, partial: &Path) -> Result<(), SnapshotError> {
    // SQLite wants the file empty or missing; made here, it never has a wider mode.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let copy = options.open(partial).map_err(file("create", partial))?;
    let text = partial.to_str().ok_or_else(|| {
        let source = io::Error::new(io::ErrorKind::InvalidFilename, "the path is not UTF-8");
        file("name", partial)(source)
    })?;
    connection
        .execute("VACUUM INTO ?1", [text])
        .map_err(at("copy the database"))
        .map_err(|source| SnapshotError::Copy {
            path: partial.to_owned(),
            source,
        })?;
    copy.sync_all().map_err(file("sync", partial))
}

/// Makes what happened to the names in a file's folder durable.
pub(crate) fn sync_parent(target: &Path) -> Result<(), SnapshotError> {
    let parent = folder_of(target);
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(file("sync", parent))
}

/// Returns the folder a file's name stands in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Returns the name a copy has until it is whole.
pub(crate) fn partial_path(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Gives a system error its step and its file.
pub(crate) fn file(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::File {
        step,
        path: path.to_owned(),
        source,
    }
}
