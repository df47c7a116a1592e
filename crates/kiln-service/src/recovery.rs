//! Start-up: what an earlier run left is put in order before the first call is answered.
//!
//! The caller holds the lock on the state directory, so nothing of a living daemon is touched.
//! With a healthy database a directory without a row is the trace of a call that nobody was
//! answered, and goes. Beside a database that is new it is evidence, and stays.

use std::collections::HashSet;

use kiln_api::daemon::Recovered;
use kiln_artifacts::{ArtifactError, Artifacts};
use kiln_cache::{Cache, CacheError};
use kiln_domain::Timestamp;
use kiln_kernel::{Catalogue, CatalogueError};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::{Object, Store, StoreError, kernels, names, operations, versions};

/// How long ended operations are kept, in microseconds: seven days.
const OPERATIONS_KEPT_MICROS: i64 = 7 * 86_400_000_000;

/// How many ended operations are kept whatever their age.
const OPERATIONS_KEPT: u32 = 10_000;

/// Why the state could not be put in order.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The database failed.
    #[error("the database failed during recovery")]
    Store(#[from] StoreError),
    /// The images directory failed.
    #[error("the images could not be put in order")]
    Artifacts(#[from] ArtifactError),
    /// The cache failed.
    #[error("the cache could not be put in order")]
    Cache(#[from] CacheError),
    /// The kernel catalogue failed.
    #[error("the kernel catalogue could not be put in order")]
    Catalogue(#[from] CatalogueError),
}

/// Puts database and directories in order and tells what was found.
pub async fn recover(
    store: &Store,
    artifacts: &Artifacts,
    catalogue: &Catalogue,
    cache: &Cache,
    now: Timestamp,
) -> Result<Recovered, RecoveryError> {
    let interrupted = store.write(move |tx| interrupt(tx, now)).await?;
    let swept_cache = cache.sweep()?;
    let swept_kernels = catalogue.sweep()?;
    let recovered = sweep_images(store, artifacts).await?;
    let left_kernels = sweep_kernels(store, catalogue).await?;
    for failure in swept_kernels.failures {
        tracing::warn!(%failure, "a leftover of the kernel catalogue could not be removed");
    }
    tracing::debug!(?swept_cache, "the cache was swept");
    Ok(Recovered {
        interrupted_operations: interrupted,
        removed_staging: recovered.removed_staging + swept_kernels.staging.len() as u64,
        removed_unrecorded: recovered.removed_unrecorded + left_kernels,
        ..recovered
    })
}

fn interrupt(tx: &kiln_store::WriteTransaction<'_>, now: Timestamp) -> Result<u64, StoreError> {
    let interrupted = operations::interrupt_running(tx, now)?;
    for id in &interrupted {
        let event = NewEvent {
            at: now,
            actor: EventActor::Daemon,
            kind: "operation.interrupted",
            object: Object::operation(*id),
            data: serde_json::json!({}),
        };
        events::append(tx, &event)?;
    }
    names::clear_reservations(tx)?;
    let horizon = now.as_micros().saturating_sub(OPERATIONS_KEPT_MICROS);
    if let Ok(horizon) = Timestamp::from_micros(horizon) {
        operations::prune(tx, OPERATIONS_KEPT, horizon)?;
    }
    Ok(interrupted.len() as u64)
}

async fn sweep_images(store: &Store, artifacts: &Artifacts) -> Result<Recovered, RecoveryError> {
    let known: HashSet<String> = store
        .read(|tx| Ok::<_, StoreError>(versions::known_ids(tx)?))
        .await?
        .into_iter()
        .map(|id| id.to_string())
        .collect();
    let swept = artifacts.sweep(&|id| known.contains(id))?;
    let mut recovered = Recovered {
        removed_staging: (swept.staging.len() + swept.removing.len()) as u64,
        ..Recovered::default()
    };
    if store.opened_fresh() {
        recovered.left_unrecorded = swept.unknown.len() as u64;
        if recovered.left_unrecorded > 0 {
            tracing::error!(
                directories = recovered.left_unrecorded,
                "the database is new, but there are images: they are left where they are"
            );
        }
        return Ok(recovered);
    }
    for id in swept.unknown {
        artifacts.remove(&id)?;
        recovered.removed_unrecorded += 1;
        tracing::info!(
            id,
            "removed the directory of an image that nobody was told about"
        );
    }
    Ok(recovered)
}

/// Removes catalogue directories whose import was never answered; counts them.
async fn sweep_kernels(store: &Store, catalogue: &Catalogue) -> Result<u64, RecoveryError> {
    if store.opened_fresh() {
        return Ok(0);
    }
    let rows = store.read(kernels::list).await?;
    let known: HashSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let mut removed = 0;
    for listed in catalogue.list()? {
        if !known.contains(listed.name.as_str()) {
            catalogue.remove(&listed.name)?;
            removed += 1;
        }
    }
    Ok(removed)
}
