//! The files of purged images: removed after the record, and made up for by the next start.
//!
//! ```text
//! purge:  record gone, note in the outbox   (one transaction)
//!     ──▶ directories gone, one after the other ──▶ note done
//! start:  notes that wait ──▶ the same, before directories without a row are looked at
//! ```
//! Whatever ends the daemon in between, an image is there with its files, or gone and stays gone.

use kiln_artifacts::{ArtifactError, Artifacts, Removal};
use kiln_domain::{Timestamp, VersionId};
use kiln_files::Going;
use kiln_store::{Store, StoreError, WriteTransaction, outbox};
use serde::{Deserialize, Serialize};

/// The kind of effect that removes directories.
const EFFECT: &str = "image.files";

/// Most notes that one look brings.
const NOTES: u32 = 1_000;

/// Which directories are to go.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    versions: Vec<VersionId>,
}

/// Notes directories that are to go, and returns the note's place.
pub(super) fn note(
    tx: &WriteTransaction<'_>,
    versions: &[VersionId],
    at: Timestamp,
) -> Result<i64, StoreError> {
    let payload = serde_json::json!({ "versions": versions });
    outbox::put(tx, EFFECT, &payload, at)
}

/// Tells how many bytes of the disk directories free when they go.
pub(super) fn freed_bytes(
    artifacts: &Artifacts,
    versions: &[VersionId],
) -> Result<u64, ArtifactError> {
    let (mut bytes, mut going) = (0_u64, Going::default());
    for version in versions {
        bytes = bytes.saturating_add(artifacts.freed_bytes(&version.to_string(), &mut going)?);
    }
    Ok(bytes)
}

/// Removes directories, tells how many bytes that freed, and whether all are gone. One that cannot
/// be removed is in nobody's way.
pub(super) fn remove(artifacts: &Artifacts, versions: &[VersionId]) -> (u64, bool) {
    let (mut freed, mut all) = (0_u64, true);
    for version in versions {
        let id = version.to_string();
        let bytes = artifacts.freed_bytes(&id, &mut Going::default());
        let bytes = bytes.unwrap_or(0);
        match artifacts.remove(&id) {
            Ok(Removal::Removed) => freed = freed.saturating_add(bytes),
            Ok(Removal::Absent) => {}
            Err(error) => {
                all = false;
                tracing::warn!(%error, id, "a purged image's files could not be removed yet");
            }
        }
    }
    (freed, all)
}

/// Removes the files of images that were purged before the daemon ended. Returns the directories
/// that are to go and could not: nobody may adopt them.
pub(crate) async fn make_up(
    store: &Store,
    artifacts: &Artifacts,
    now: Timestamp,
) -> Result<Vec<VersionId>, StoreError> {
    let mut left = Vec::new();
    let waiting = store.read(|tx| outbox::pending(tx, NOTES)).await?;
    for row in waiting.into_iter().filter(|row| row.kind == EFFECT) {
        let Ok(Note { versions }) = serde_json::from_value::<Note>(row.payload) else {
            tracing::error!(seq = row.seq, "a note of files to remove cannot be read");
            continue;
        };
        let (freed_bytes, all) = remove(artifacts, &versions);
        if all {
            store
                .write(move |tx| outbox::mark_done(tx, row.seq, now))
                .await?;
            tracing::info!(freed_bytes, "removed the files of a purged image");
        } else {
            left.extend(versions);
        }
    }
    Ok(left)
}
