//! Removing what was forgotten, for those who remove many: the retention, and a prune.

use kiln_domain::access::{Actor, permit};
use kiln_domain::{ImageId, ImageState, Timestamp};
use kiln_store::events::EventActor;
use kiln_store::images::{self, ImageRow};
use kiln_store::{Store, WriteTransaction, holders, outbox};

use super::{Purge, PurgeError, PurgeFiles, files, purge_in};
use crate::find_image::{Naming, belongs};

/// Removes forgotten images, record and files.
#[derive(Clone, Debug)]
pub(crate) struct Remover {
    pub(crate) store: Store,
    pub(crate) files: PurgeFiles,
    /// How names are read, which decides where aliases lead.
    pub(crate) naming: Naming,
}

/// As whom, and who is said to have done it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnBehalfOf {
    pub(crate) actor: Actor,
    pub(crate) event: EventActor,
}

impl Remover {
    /// Purges one image and returns how many bytes of the disk that freed; `None` when it came back,
    /// came into use, or is not due any more.
    ///
    /// `is_due` is asked in the transaction that removes the record.
    pub(crate) async fn purge_forgotten(
        &self,
        id: ImageId,
        whom: OnBehalfOf,
        now: Timestamp,
        is_due: impl FnOnce(&WriteTransaction<'_>, &ImageRow) -> Result<bool, PurgeError>
        + Send
        + 'static,
    ) -> Result<Option<u64>, PurgeError> {
        let naming = self.naming;
        let purged = self.store.write(move |tx| {
            let Some(row) = images::get(tx, id)? else {
                return Ok(None);
            };
            let in_use = holders::count_of_versions_of(tx, id, now)?;
            if row.state != ImageState::Deleted || in_use > 0 || !is_due(tx, &row)? {
                return Ok(None);
            }
            let grant = permit(&whom.actor, &belongs(tx, &whom.actor, &row)?)?;
            purge_in(tx, grant, whom.event, &row, naming, now).map(Some)
        });
        match purged.await? {
            Some(purge) => Ok(Some(self.remove_files(&purge, now).await)),
            None => Ok(None),
        }
    }

    /// Removes the files of a purged image and tells how many bytes that freed.
    pub(super) async fn remove_files(&self, purge: &Purge, now: Timestamp) -> u64 {
        let (artifacts, ids) = (self.files.artifacts.clone(), purge.versions.clone());
        let removal = self.files.pool.run(move || files::remove(&artifacts, &ids));
        let (freed, all) = removal.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "a purged image's files wait for the next start");
            (0, false)
        });
        if all {
            let note = purge.note;
            let noted = self
                .store
                .write(move |tx| {
                    outbox::mark_done(tx, note, now)?;
                    outbox::prune(tx, now)
                })
                .await;
            if let Err(error) = noted {
                // The next start finds nothing to remove, and says so to itself.
                tracing::warn!(%error, "a note of files that are gone stays");
            }
        }
        freed
    }
}
