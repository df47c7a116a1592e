//! Snapshots that follow each other beside the database, of which the newest few are kept.
//!
//! ```text
//! kiln.db.snapshot-<seq>   seq: the newest event when it was begun, twenty digits
//! ```
//! When to make one is the caller's to decide.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::recovery::with_suffix;
use crate::snapshot::{file, folder_of, sync_parent};
use crate::{SnapshotError, Store, StoreError, events};

/// What stands before the number in a snapshot's name.
const SUFFIX: &str = ".snapshot-";

/// Digits of the number: as many as the largest has.
const DIGITS: usize = 20;

/// A snapshot that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Where it is.
    pub path: PathBuf,
    /// The newest event when it was begun; it may hold a few more.
    pub seq: i64,
    /// How many older snapshots were removed.
    pub removed: usize,
}

impl Store {
    /// Makes a snapshot named after the newest event, and removes older ones beyond the newest
    /// `keep`. Only one call at a time.
    ///
    /// Without a new event it replaces the last one. Snapshots that claim to be newer than this
    /// database stay: they are left from one that it took the place of.
    pub async fn rotate_snapshots(&self, keep: NonZeroUsize) -> Result<Rotated, SnapshotError> {
        let seq = self.read::<_, StoreError, _>(events::newest_seq).await?;
        let path = with_suffix(self.path(), &format!("{SUFFIX}{seq:0DIGITS$}"));
        self.snapshot_to(&path).await?;
        let database = self.path().to_owned();
        let removing = tokio::task::spawn_blocking(move || remove_older(&database, seq, keep));
        // Only a runtime that shuts down, or a bug, ends the task without an answer.
        let removed = removing.await.map_err(|_| StoreError::Closed)??;
        Ok(Rotated { path, seq, removed })
    }
}

/// Removes snapshots up to `seq` beyond the newest `keep`, and copies that were never finished.
fn remove_older(database: &Path, seq: i64, keep: NonZeroUsize) -> Result<usize, SnapshotError> {
    let folder = folder_of(database);
    let mut whole = Vec::new();
    for entry in fs::read_dir(folder).map_err(file("list", folder))? {
        let path = entry.map_err(file("list", folder))?.path();
        match Found::of(database, &path) {
            Some(Found::Whole(number)) if number <= seq => whole.push((number, path)),
            Some(Found::Unfinished) => fs::remove_file(&path).map_err(file("remove", &path))?,
            _ => {}
        }
    }
    whole.sort_unstable_by(|one, other| other.cmp(one));
    let surplus = whole.split_off(whole.len().min(keep.get()));
    for (_, path) in &surplus {
        fs::remove_file(path).map_err(file("remove", path))?;
    }
    sync_parent(database)?;
    Ok(surplus.len())
}

/// What a name beside the database says about itself.
enum Found {
    Whole(i64),
    Unfinished,
}

impl Found {
    fn of(database: &Path, path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let rest = name.strip_prefix(database.file_name()?.to_str()?)?;
        let rest = rest.strip_prefix(SUFFIX)?;
        let (digits, end) = rest.split_at_checked(DIGITS)?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        match end {
            "" if is_number => digits.parse().ok().map(Self::Whole),
            ".partial" if is_number => Some(Self::Unfinished),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_domain::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::events::{EventActor, NewEvent};
    use crate::meta::Cause;
    use crate::{Object, ObjectKind, StoreOptions, recovery};

    const KEEP: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

    async fn happen(store: &Store) {
        let event = NewEvent {
            at: Timestamp::EPOCH,
            actor: EventActor::Daemon,
            kind: "daemon.tested",
            object: Object::new(ObjectKind::Daemon, "kilnd"),
            data: json!({}),
        };
        let written = store.write(move |tx| events::append(tx, &event)).await;
        written.unwrap();
    }

    fn name(seq: i64) -> String {
        format!("kiln.db.snapshot-{seq:020}")
    }

    fn snapshots(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("snapshot"))
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn the_newest_few_stay_and_one_state_has_one_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.db");
        let store = Store::open(&path, &StoreOptions::default()).unwrap();
        let foreign = [
            "kiln.db.snapshot-mine",
            "kiln.db.snapshot-00000000000000000007",
        ];
        for name in foreign
            .iter()
            .chain(&["kiln.db.snapshot-00000000000000000002.partial"])
        {
            fs::write(folder.path().join(name), "x").unwrap();
        }

        let mut removed = Vec::new();
        for _ in 0..4 {
            removed.push(store.rotate_snapshots(KEEP).await.unwrap().removed);
            happen(&store).await;
        }
        let last = store.rotate_snapshots(KEEP).await.unwrap();
        let again = store.rotate_snapshots(KEEP).await.unwrap();

        assert_eq!(removed, [0, 0, 1, 1]);
        assert_eq!((last.seq, last.removed), (4, 1));
        assert_eq!((again.path, again.removed), (last.path, 0));
        let want = [&name(3), &name(4), foreign[1], foreign[0]];
        assert_eq!(snapshots(folder.path()), want);
        store.close().await.unwrap();
        fs::remove_file(&path).unwrap();
        let replacement = recovery::replace(&path, Cause::Lost).unwrap();
        assert_eq!(replacement.snapshot, Some(name(4)));
    }
}
