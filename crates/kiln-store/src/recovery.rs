//! Puts the newest healthy snapshot in the place of a damaged or lost database.
//!
//! Deciding that it must happen, and telling the artifact directories from the rows afterwards,
//! is the caller's.
//!
//! ```text
//! kiln.db, kiln.db-wal ──rename──▶ kiln.db.damaged-<n>, kiln.db.damaged-<n>-wal
//! kiln.db.before-<n> or kiln.db.snapshot-<..> ──copy──▶ kiln.db.partial ──rename──▶ kiln.db
//! ```
//! When it is interrupted there is no database, never one with the log of another; the next
//! start finds it lost and comes back here.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::open::check;
use crate::snapshot::{file, folder_of, partial_path, sync_parent};
use crate::{ReadTransaction, SnapshotError, events};

/// Damaged databases kept side by side before somebody must look at them.
const DAMAGED_MAX: u32 = 1000;

/// What was found and done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Where the former database went, if there was one.
    pub damaged: Option<PathBuf>,
    /// The snapshot a copy of which is the database now; `None` when no healthy one exists, and
    /// then there is no database.
    pub snapshot: Option<PathBuf>,
    /// Snapshots that are damaged, foreign or of a newer schema, and were passed over.
    pub unusable: Vec<PathBuf>,
}

/// Replaces the database at `path`, which nobody may have open, by its newest healthy snapshot.
///
/// The newest is the one that holds the most events: file times may lie. Nothing is deleted.
pub fn replace_with_newest_snapshot(path: &Path) -> Result<Recovered, SnapshotError> {
    let (snapshot, unusable) = newest_snapshot(path)?;
    let partial = partial_path(path);
    if let Some(snapshot) = &snapshot {
        copy(snapshot, &partial)?;
    }
    let damaged = set_aside(path)?;
    if snapshot.is_some() {
        fs::rename(&partial, path).map_err(file("publish", path))?;
        sync_parent(path)?;
    }
    Ok(Recovered {
        damaged,
        snapshot,
        unusable,
    })
}

/// Returns the newest healthy snapshot beside a database, and the unhealthy ones.
fn newest_snapshot(path: &Path) -> Result<(Option<PathBuf>, Vec<PathBuf>), SnapshotError> {
    let mut healthy = Vec::new();
    let mut unusable = Vec::new();
    for candidate in snapshots(path)? {
        match rank(&candidate) {
            Some(rank) => healthy.push((rank, candidate)),
            None => unusable.push(candidate),
        }
    }
    let newest = healthy.into_iter().max().map(|(_, candidate)| candidate);
    unusable.sort();
    Ok((newest, unusable))
}

/// Tells how new a snapshot is, events first and file time second; `None` when it is unusable.
fn rank(candidate: &Path) -> Option<(i64, u128)> {
    let connection = check(candidate).ok()?;
    let seq = events::newest_seq(&ReadTransaction::over(&connection)).ok()?;
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
    let is_part = [".partial", "-wal", "-shm", "-journal"];
    is_copy && !is_part.iter().any(|end| suffix.ends_with(end))
}

fn copy(snapshot: &Path, partial: &Path) -> Result<(), SnapshotError> {
    let mut source = File::open(snapshot).map_err(file("open", snapshot))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut target = options.open(partial).map_err(file("create", partial))?;
    io::copy(&mut source, &mut target).map_err(file("write", partial))?;
    target.sync_all().map_err(file("sync", partial))
}

/// Moves a database and its log out of the way; returns where it went, if it existed.
fn set_aside(path: &Path) -> Result<Option<PathBuf>, SnapshotError> {
    let damaged = free_name(path)?;
    // The database first: a log without its database is dropped by SQLite, a database without
    // its log would look healthy and lack its last commits.
    let existed = move_if_there(path, &damaged)?;
    sync_parent(path)?;
    for suffix in ["-wal", "-shm"] {
        move_if_there(&with_suffix(path, suffix), &with_suffix(&damaged, suffix))?;
    }
    sync_parent(path)?;
    Ok(existed.then_some(damaged))
}

fn free_name(path: &Path) -> Result<PathBuf, SnapshotError> {
    (1..=DAMAGED_MAX)
        .map(|number| with_suffix(path, &format!(".damaged-{number}")))
        .find(|name| !name.exists() && !with_suffix(name, "-wal").exists())
        .ok_or_else(|| file("set aside", path)(io::ErrorKind::AlreadyExists.into()))
}

fn move_if_there(from: &Path, to: &Path) -> Result<bool, SnapshotError> {
    match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(file("set aside", from)(error)),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
