//! Start-up: what an earlier run left is put in order before the first call is answered.
//!
//! The caller holds the lock on the state directory, so nothing of a living daemon is touched.
//! An image's directory without a row goes when it is noted beside it that nobody was told of it,
//! and one of this database's own operations left it: each alone proves nothing, for a database
//! may have been put back, and a log lost. Any other is adopted, and left and reported when it
//! cannot be read. Files of images that were purged go before that. A whole kernel without a row is adopted. Versions whose directory is gone are
//! reported.
//!
//! Replacing the database is in [`crate::database`].

mod adoption;
mod comparison;

use std::collections::HashSet;

use kiln_api::daemon::Recovered;
use kiln_artifacts::{ArtifactError, Artifacts};
use kiln_cache::{Cache, CacheError};
use kiln_domain::{KernelName, Timestamp, VersionId};
use kiln_kernel::{Catalogue, CatalogueError};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::kernels::InsertKernelError;
use kiln_store::{
    Object, ReadTransaction, Store, StoreError, WriteTransaction, kernels, meta, names, operations,
    versions,
};

pub use self::adoption::AdoptionError;
use crate::instances::prune as prune_instances;
use crate::kernels::kernel_row;
use crate::purges::make_up;

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
    /// A kernel could not be adopted.
    #[error("a kernel could not be adopted")]
    Kernel(#[from] InsertKernelError),
    /// An image could not be adopted.
    #[error("an image could not be adopted")]
    Image(#[from] AdoptionError),
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
    let swept_cache = cache.sweep(now)?;
    let swept_kernels = catalogue.sweep()?;
    let owed = store.read(meta::reconciliation_owed).await?;
    let mut recovered = sweep_images(store, artifacts, now).await?;
    if owed.is_some() {
        comparison::drop_lost_kernels(store, catalogue, now).await?;
    }
    let unwanted = remove_unwanted(store, catalogue, swept_kernels.unwanted).await?;
    recovered.adopted_kernels = adopt_kernels(store, catalogue, now).await?;
    let missing = comparison::find_missing(store, artifacts).await?;
    recovered.missing_versions = missing.len() as u64;
    if let Some(replacement) = owed {
        recovered = comparison::settle(store, replacement, missing, recovered, now).await?;
    }
    for failure in swept_kernels.failures {
        tracing::warn!(%failure, "a leftover of the kernel catalogue could not be removed");
    }
    tracing::debug!(?swept_cache, "the cache was swept");
    Ok(Recovered {
        interrupted_operations: interrupted,
        removed_staging: recovered.removed_staging + swept_kernels.staging.len() as u64 + unwanted,
        ..recovered
    })
}

fn interrupt(tx: &WriteTransaction<'_>, now: Timestamp) -> Result<u64, StoreError> {
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
    prune_instances(tx, now)?;
    Ok(interrupted.len() as u64)
}

async fn sweep_images(
    store: &Store,
    artifacts: &Artifacts,
    now: Timestamp,
) -> Result<Recovered, RecoveryError> {
    let purged = make_up(store, artifacts, now).await?;
    let known = store.read(versions::known_ids).await?;
    // What was purged and could not be removed yet is nobody's to adopt.
    let known: HashSet<String> = known
        .into_iter()
        .chain(purged)
        .map(|id| id.to_string())
        .collect();
    let swept = artifacts.sweep(&|id| known.contains(id))?;
    for failure in swept.failures {
        tracing::warn!(%failure, "a leftover of the images could not be removed");
    }
    let mut recovered = Recovered {
        removed_staging: (swept.staging.len() + swept.removing.len()) as u64,
        ..Recovered::default()
    };
    let unanswered: HashSet<String> = swept.unanswered.into_iter().collect();
    // The sweep names version ids only; what could not be parsed would stay in place.
    let unknown = swept.unknown.iter().filter_map(|id| id.parse().ok());
    let mut candidates = Vec::new();
    for (version, left) in left_behind(store, unknown.collect()).await? {
        let id = version.to_string();
        let is_unanswered = unanswered.contains(&id);
        if left == Left::ByOurs && is_unanswered {
            artifacts.remove(&id)?;
            recovered.removed_unrecorded += 1;
            tracing::info!(
                id,
                "removed the directory of an image that nobody was told about"
            );
            continue;
        }
        if is_unanswered {
            // Kept once in doubt, it is kept for good, whichever database comes next.
            artifacts.settle(&id)?;
        }
        candidates.push(version);
    }
    let adopted = adoption::adopt(store, artifacts, &candidates, now).await?;
    recovered.adopted_images = adopted.adopted;
    recovered.left_unrecorded += adopted.left;
    Ok(recovered)
}

/// Who left a directory without a row, as far as this database tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// An operation of this database that did not succeed.
    ByOurs,
    /// Nobody that this database could vouch for.
    ByOthers,
}

async fn left_behind(
    store: &Store,
    unknown: Vec<VersionId>,
) -> Result<Vec<(VersionId, Left)>, StoreError> {
    let judge = move |tx: &ReadTransaction<'_>| {
        let one = |id| {
            let left = if operations::left_behind(tx, &Object::version(id))? {
                Left::ByOurs
            } else {
                Left::ByOthers
            };
            Ok((id, left))
        };
        unknown.into_iter().map(one).collect()
    };
    store.read(judge).await
}

/// Finishes removals of kernels that a crash cut short, and counts them.
///
/// As with images it takes both sides: the note beside the kernel, and a database whose last word
/// on it is its removal. Else the note goes and the kernel stays.
async fn remove_unwanted(
    store: &Store,
    catalogue: &Catalogue,
    unwanted: Vec<String>,
) -> Result<u64, RecoveryError> {
    let mut removed = 0;
    for kernel in unwanted {
        let Ok(name) = kernel.parse::<KernelName>() else {
            continue;
        };
        let last_word = store.read(move |tx| {
            let is_recorded = kernels::get(tx, &name)?.is_some();
            let last = events::last_kind(tx, &Object::kernel(&name))?;
            Ok::<_, StoreError>(last.filter(|_| !is_recorded))
        });
        if last_word.await?.as_deref() == Some("kernel.removed") {
            catalogue.remove(&kernel)?;
            removed += 1;
            tracing::info!(kernel, "finished the removal of a kernel");
        } else {
            catalogue.withdraw_removal(&kernel)?;
        }
    }
    Ok(removed)
}

/// Takes kernels into the database that stand whole in the catalogue without a row: an import
/// that ended between the two, or a database that was lost.
async fn adopt_kernels(
    store: &Store,
    catalogue: &Catalogue,
    now: Timestamp,
) -> Result<u64, RecoveryError> {
    let known: HashSet<String> = store
        .read(kernels::list)
        .await?
        .into_iter()
        .map(|row| row.name.to_string())
        .collect();
    let mut adopted = 0;
    for listed in catalogue.list()? {
        if known.contains(&listed.name) {
            continue;
        }
        match listed.kernel {
            Ok(kernel) => {
                let uid = rustix::process::geteuid().as_raw();
                let Some(row) = kernel_row(&kernel, "adopted", uid, now) else {
                    continue;
                };
                let write = move |tx: &WriteTransaction<'_>| {
                    kernels::insert(tx, &row)?;
                    let data = serde_json::json!({ "version": row.version, "sha256": row.sha256 });
                    let event = NewEvent {
                        at: now,
                        actor: EventActor::Daemon,
                        kind: "kernel.adopted",
                        object: Object::kernel(&row.name),
                        data,
                    };
                    events::append(tx, &event)?;
                    Ok::<_, InsertKernelError>(())
                };
                store.write(write).await?;
                adopted += 1;
                tracing::info!(kernel = listed.name, "adopted a kernel without a row");
            }
            Err(error) => {
                tracing::error!(kernel = listed.name, %error, "a kernel cannot be read");
            }
        }
    }
    Ok(adopted)
}
