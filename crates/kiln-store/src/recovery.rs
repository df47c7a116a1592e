//! Puts another database in the place of a damaged or lost one: its newest healthy snapshot, or an
//! empty one.
//!
//! Deciding that it must happen is the caller's, and so is telling the artifact directories from
//! the rows afterwards. The new database says that this is owed before it takes its place, so
//! that no crash forgets it ([`crate::meta::reconciliation_owed`]).
//!
//! ```text
//! newest of kiln.db.before-<n>, kiln.db.snapshot-<..>, else an empty database ──▶ kiln.db.partial
//! what is owed ──write, sync──▶ kiln.db.partial
//! kiln.db, kiln.db-wal ──rename──▶ kiln.db.damaged-<n>, kiln.db.damaged-<n>-wal
//! kiln.db.partial ──rename──▶ kiln.db
//! ```
//! When it is interrupted there is no database, never one with the log of another; the next
//! start finds it lost and comes back here.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rusqlite::Connection;

use crate::error::at;
use crate::meta::{self, Cause, Replacement};
use crate::open::{self, StoreOptions, check, open_writer};
use crate::snapshot::{file, folder_of, partial_path, sync_parent};
use crate::{OpenError, ReadTransaction, SnapshotError, StoreError, events};

/// Damaged databases kept side by side before somebody must look at them.
const DAMAGED_MAX: u32 = 1000;

/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Why a database could not be replaced. The former one is where it was, or set aside.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// A file could not be made, synced, moved or listed.
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// An empty database could not be made.
    #[error(transparent)]
    Empty(#[from] OpenError),
    /// No snapshot can be used, and a newer Kiln made one: it must put that one in place.
    #[error("a newer build must replace the database")]
    Newer(#[source] OpenError),
    /// The new database could not be told what it owes.
    #[error("cannot prepare {}", path.display())]
    Prepare {
        /// The new database, before it has its name.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
}

/// Tells whether there is no database at `path`, or one without anything in it.
///
/// A database whose log was removed, or which was copied without it, may look like that. What
/// cannot be read is not lost; opening it tells what is wrong.
pub fn is_lost(path: &Path) -> bool {
    match fs::metadata(path) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(found) => found.len() == 0 || open::is_empty(path),
    }
}

/// Tells whether a snapshot stands beside `path`, healthy or not.
pub fn has_snapshot(path: &Path) -> Result<bool, SnapshotError> {
    Ok(!snapshots(path)?.is_empty())
}

/// Replaces the database at `path`, which nobody may have open, by its newest healthy snapshot,
/// or by an empty database when there is none. Nothing is deleted. When there is none but for one
/// of a newer schema, nothing is done at all.
///
/// The newest snapshot is the one that holds the most events: file times may lie.
pub fn replace(path: &Path, cause: Cause) -> Result<Replacement, ReplaceError> {
    let Found {
        newest: snapshot,
        unusable,
        newer,
    } = newest_snapshot(path)?;
    if let (None, Some(newer)) = (&snapshot, newer) {
        return Err(ReplaceError::Newer(newer));
    }
    let partial = partial_path(path);
    clear(&partial)?;
    match &snapshot {
        Some(snapshot) => copy(snapshot, &partial)?,
        None => make_empty(&partial)?,
    }
    let damaged = free_name(path)?;
    let replacement = Replacement {
        cause,
        damaged: path.exists().then(|| name_of(&damaged)),
        snapshot: snapshot.as_deref().map(name_of),
        unusable: unusable.iter().map(|path| name_of(path)).collect(),
    };
    prepare(&partial, &replacement)?;
    set_aside(path, &damaged)?;
    fs::rename(&partial, path).map_err(file("publish", path))?;
    sync_parent(path)?;
    Ok(replacement)
}

/// Removes what an earlier attempt left. A journal that stayed would be played into the copy.
fn clear(partial: &Path) -> Result<(), SnapshotError> {
    let companions = COMPANIONS.map(|suffix| with_suffix(partial, suffix));
    for path in companions.iter().map(PathBuf::as_path).chain([partial]) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn make_empty(partial: &Path) -> Result<(), OpenError> {
    let (connection, _) = open_writer(partial, &StoreOptions::default())?;
    connection
        .close()
        .map_err(|(_, error)| open::opening(partial, at("close the database")(error)))
}

/// Tells the new database what it owes, in the one file that gets a name.
fn prepare(partial: &Path, replacement: &Replacement) -> Result<(), ReplaceError> {
    let told = open::alone(partial).and_then(|connection| {
        meta::owe_reconciliation(&connection, replacement)?;
        connection
            .close()
            .map_err(|(_, error)| at("close the database")(error))
    });
    told.map_err(|source| ReplaceError::Prepare {
        path: partial.to_owned(),
        source,
    })?;
    let synced = File::open(partial).and_then(|file| file.sync_all());
    Ok(synced.map_err(file("sync", partial))?)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// What the snapshots beside a database are.
struct Found {
    /// The newest healthy one.
    newest: Option<PathBuf>,
    /// The unhealthy ones, sorted.
    unusable: Vec<PathBuf>,
    /// Says of one of them that a newer Kiln made it.
    newer: Option<OpenError>,
}

fn newest_snapshot(path: &Path) -> Result<Found, SnapshotError> {
    let mut healthy = Vec::new();
    let mut unusable = Vec::new();
    let mut newer = None;
    for candidate in snapshots(path)? {
        match check(&candidate) {
            Ok(connection) => match rank(&candidate, &connection) {
                Some(rank) => healthy.push((rank, candidate)),
                None => unusable.push(candidate),
            },
            Err(error) => {
                unusable.push(candidate);
                if matches!(error, OpenError::Newer { .. }) {
                    newer = Some(error);
                }
            }
        }
    }
    unusable.sort();
    Ok(Found {
        newest: healthy.into_iter().max().map(|(_, candidate)| candidate),
        unusable,
        newer,
    })
}

/// Tells how new a snapshot is, events first and file time second; `None` when it is unusable.
fn rank(candidate: &Path, connection: &Connection) -> Option<(i64, u128)> {
    let seq = events::newest_seq(&ReadTransaction::over(connection)).ok()?;
    let modified = fs::metadata(candidate).and_then(|found| found.modified());
    let age = modified
        .ok()?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Some((seq, age.as_nanos()))
}

fn snapshots(path: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let folder = folder_of(path);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(file("list", folder))? {
        let entry = entry.map_err(file("list", folder))?;
        if is_snapshot_name(path, &entry.file_name()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn is_snapshot_name(path: &Path, name: &OsStr) -> bool {
    let (Some(database), Some(name)) = (path.file_name().and_then(OsStr::to_str), name.to_str())
    else {
        return false;
    };
    let Some(suffix) = name.strip_prefix(database) else {
        return false;
    };
    let is_copy = suffix.starts_with(".before-") || suffix.starts_with(".snapshot-");
    // Neither a copy that was never finished nor what SQLite keeps beside one.
    let is_part = COMPANIONS.iter().any(|end| suffix.ends_with(end));
    is_copy && !is_part && !suffix.ends_with(".partial")
}

fn copy(snapshot: &Path, partial: &Path) -> Result<(), SnapshotError> {
    let mut source = File::open(snapshot).map_err(file("open", snapshot))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut target = options.open(partial).map_err(file("create", partial))?;
    io::copy(&mut source, &mut target).map_err(file("write", partial))?;
    target.sync_all().map_err(file("sync", partial))
}

/// Moves a database, if there is one, and its log out of the way.
fn set_aside(path: &Path, damaged: &Path) -> Result<(), SnapshotError> {
    // The database first: a log without its database is dropped by SQLite, a database without
    // its log would look healthy and lack its last commits.
    move_if_there(path, damaged)?;
    sync_parent(path)?;
    for suffix in COMPANIONS {
        move_if_there(&with_suffix(path, suffix), &with_suffix(damaged, suffix))?;
    }
    sync_parent(path)
}

fn free_name(path: &Path) -> Result<PathBuf, SnapshotError> {
    (1..=DAMAGED_MAX)
        .map(|number| with_suffix(path, &format!(".damaged-{number}")))
        .find(|name| !name.exists() && !with_suffix(name, "-wal").exists())
        .ok_or_else(|| file("set aside", path)(io::ErrorKind::AlreadyExists.into()))
}

fn move_if_there(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file("set aside", from)(error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
