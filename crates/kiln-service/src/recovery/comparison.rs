//! After a database took the place of another: what its rows tell of and is not there any more,
//! and the report of it all.
//!
//! The rows of a snapshot are older than the directories. Images keep the state they had then,
//! also when their files are gone; that is told. A kernel's row is made from its directory again
//! wherever the two differ.

use std::collections::HashMap;

use kiln_api::daemon::{Recovered, ReplacedDatabase};
use kiln_artifacts::Artifacts;
use kiln_domain::{Timestamp, VersionId};
use kiln_kernel::Catalogue;
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::meta::{self, Replacement};
use kiln_store::{Object, ObjectKind, Store, StoreError, WriteTransaction, kernels, versions};
use serde_json::Value;

use super::RecoveryError;

/// Removes the rows of kernels that have no directory, or one with another kernel: the latter
/// are adopted afterwards.
pub(super) async fn drop_lost_kernels(
    store: &Store,
    catalogue: &Catalogue,
    now: Timestamp,
) -> Result<(), RecoveryError> {
    let standing: HashMap<_, _> = catalogue
        .list()?
        .into_iter()
        // One that cannot be read may be the one that is recorded.
        .map(|listed| {
            (
                listed.name,
                listed.kernel.ok().map(|kernel| kernel.facts.sha256),
            )
        })
        .collect();
    let mut lost = store.read(kernels::list).await?;
    lost.retain(|row| match standing.get(row.name.as_str()) {
        None => true,
        Some(digest) => digest.is_some_and(|digest| digest != row.sha256),
    });
    let dropped = store.write(move |tx| {
        for row in &lost {
            tracing::error!(kernel = %row.name, "this kernel is not in the catalogue any more");
            kernels::delete(tx, &row.name)?;
            let data = serde_json::json!({ "sha256": row.sha256 });
            append(tx, now, "kernel.lost", Object::kernel(&row.name), data)?;
        }
        Ok::<_, StoreError>(())
    });
    Ok(dropped.await?)
}

/// Finds the versions whose directory is gone, but for those of forgotten images.
pub(super) async fn find_missing(
    store: &Store,
    artifacts: &Artifacts,
) -> Result<Vec<VersionId>, RecoveryError> {
    let mut missing = Vec::new();
    for id in store.read(versions::ids_in_use).await? {
        if !artifacts.is_published(&id.to_string())? {
            tracing::error!(%id, "the directory of this version is missing");
            missing.push(id);
        }
    }
    Ok(missing)
}

/// Tells of the replacement, in the log and as events, and owes nothing any more.
///
/// What was adopted is counted by the events since the replacement: an earlier start may have
/// died after it had adopted some.
pub(super) async fn settle(
    store: &Store,
    replacement: Replacement,
    missing: Vec<VersionId>,
    recovered: Recovered,
    now: Timestamp,
) -> Result<Recovered, RecoveryError> {
    let adopted = store.read(|tx| {
        let since = meta::foreign_events(tx)?;
        let count = |kind| events::count_of_kind(tx, since, kind);
        Ok::<_, StoreError>((count("image.adopted")?, count("kernel.adopted")?))
    });
    let (adopted_images, adopted_kernels) = adopted.await?;
    let recovered = Recovered {
        adopted_images,
        adopted_kernels,
        missing_versions: missing.len() as u64,
        ..recovered
    };
    let replaced = ReplacedDatabase {
        cause: replacement.cause.to_string(),
        damaged: replacement.damaged,
        snapshot: replacement.snapshot,
        unusable_snapshots: replacement.unusable,
    };
    tracing::error!(
        cause = replaced.cause,
        damaged = replaced.damaged,
        snapshot = replaced.snapshot,
        unusable_snapshots = ?replaced.unusable_snapshots,
        adopted_images = recovered.adopted_images,
        left_unrecorded = recovered.left_unrecorded,
        missing_versions = recovered.missing_versions,
        "the database was replaced and compared with the directories"
    );
    let data = serde_json::json!({
        "cause": replaced.cause,
        "damaged": replaced.damaged,
        "snapshot": replaced.snapshot,
        "unusable_snapshots": replaced.unusable_snapshots,
        "adopted_images": recovered.adopted_images,
        "adopted_kernels": recovered.adopted_kernels,
        "left_unrecorded": recovered.left_unrecorded,
        "missing_versions": recovered.missing_versions,
    });
    let settled = store.write(move |tx| {
        for id in missing {
            let data = serde_json::json!({});
            append(tx, now, "version.missing", Object::version(id), data)?;
        }
        let object = Object::new(ObjectKind::Daemon, "database");
        append(tx, now, "database.replaced", object, data)?;
        meta::settle_reconciliation(tx)
    });
    settled.await?;
    Ok(Recovered {
        replaced_database: Some(replaced),
        ..recovered
    })
}

fn append(
    tx: &WriteTransaction<'_>,
    at: Timestamp,
    kind: &str,
    object: Object,
    data: Value,
) -> Result<(), StoreError> {
    let event = NewEvent {
        at,
        actor: EventActor::Daemon,
        kind,
        object,
        data,
    };
    events::append(tx, &event).map(drop)
}
