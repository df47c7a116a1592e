//! What lies on the disk: the desk that tells what takes room and why, and removes what nothing needs.
//!
//! ```text
//! survey (files) ─┐
//! known (store,   ├─▶ judge ─▶ usage: sums │ prune: a plan, told or carried out
//!   operations)  ─┘   (pure: kiln-domain)
//! ```
//! Looking, foretelling and removing decide by one rule. What makes way for a pull that lacks room is
//! in `spare`, what goes by the clock in `partials` and `purges`.

mod known;
mod prune;
mod survey;
mod usage;
mod why;

use std::collections::HashSet;
use std::sync::Arc;

use kiln_api::Failure;
use kiln_domain::storage::PruneScope;
use kiln_domain::{Digest, Timestamp};
use kiln_store::{Store, StoreError};
use tokio::sync::Mutex;

use self::known::Known;
pub use self::survey::StorageFiles;
use self::survey::{SurveyError, Thing};
use crate::blocking::PoolError;
use crate::clock::Clock;
use crate::failures::{
    artifact_failure, catalogue_failure, file_failure, pool_failure, store_failure,
};
use crate::find_image::Naming;
use crate::needs::Needs;
use crate::purges::{PurgeFiles, Remover};

/// Tells what takes room and why, and removes what nothing needs.
#[derive(Clone, Debug)]
pub struct Storage {
    store: Store,
    clock: Arc<dyn Clock>,
    naming: Naming,
    files: StorageFiles,
    needs: Needs,
    remover: Remover,
    /// One prune at a time: two would each tell of half.
    turn: Arc<Mutex<()>>,
}

/// Why the disk could not be looked at.
#[derive(Debug, thiserror::Error)]
enum StorageError {
    #[error(transparent)]
    Survey(#[from] SurveyError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl Storage {
    /// Makes the desk. `purges` are the files of images that go.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        naming: Naming,
        files: StorageFiles,
        needs: Needs,
        purges: PurgeFiles,
    ) -> Self {
        let remover = Remover {
            store: store.clone(),
            files: purges,
            naming,
        };
        Self {
            store,
            clock,
            naming,
            files,
            needs,
            remover,
            turn: Arc::default(),
        }
    }

    /// Looks at the disk first, then at who needs what: what is made meanwhile is not among the
    /// things, and what is used meanwhile is known to be.
    async fn look(
        &self,
        scope: PruneScope,
        now: Timestamp,
    ) -> Result<(Vec<Thing>, Known), StorageError> {
        let files = self.files.clone();
        let things = self.files.pool.run(move || files.survey(now)).await??;
        let known = self.known(scope, now, &things).await?;
        Ok((things, known))
    }

    async fn known<'t>(
        &self,
        scope: PruneScope,
        now: Timestamp,
        things: impl IntoIterator<Item = &'t Thing>,
    ) -> Result<Known, StoreError> {
        let cached: HashSet<Digest> = things.into_iter().filter_map(Thing::digest).collect();
        let needs = self.needs.clone();
        let read = self
            .store
            .read(move |tx| Known::read(tx, scope, &needs, &cached, now));
        read.await
    }
}

fn failure(error: &StorageError) -> Failure {
    match error {
        StorageError::Survey(SurveyError::Artifacts(error)) => artifact_failure(error),
        StorageError::Survey(SurveyError::Kernels(error)) => catalogue_failure(error),
        StorageError::Survey(SurveyError::Files(error)) => file_failure(error),
        StorageError::Store(error) => store_failure(error),
        StorageError::Pool(error) => pool_failure(error),
    }
}
