//! Opens the database, or what takes the place of one that is lost or damaged.
//!
//! Comparing the new one with the directories is in [`crate::recover`], which must follow.

use std::path::Path;

use kiln_artifacts::{ArtifactError, Artifacts};
use kiln_store::meta::Cause;
use kiln_store::recovery::{self, ReplaceError};
use kiln_store::{OpenError, SnapshotError, Store, StoreOptions};

/// Why there is no database to work with.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// It could not be opened, and not because it is damaged: somebody must look at it.
    #[error("the database cannot be opened")]
    Open(#[from] OpenError),
    /// It is lost or damaged, and nothing could take its place.
    #[error("the database cannot be replaced")]
    Replace(#[from] ReplaceError),
    /// What stands beside it could not be listed.
    #[error("the snapshots of the database cannot be listed")]
    Snapshots(#[from] SnapshotError),
    /// The images directory failed.
    #[error("the images cannot be listed")]
    Artifacts(#[from] ArtifactError),
}

/// Opens the database at `path`, blocking, and creates it when nothing tells of an earlier one.
///
/// One that is damaged, or missing although images or snapshots are there, is replaced by its
/// newest healthy snapshot, else by an empty one. It is set aside, never deleted. A newer or
/// foreign database, and one that cannot be read, is left alone.
pub fn open_database(
    path: &Path,
    options: &StoreOptions,
    artifacts: &Artifacts,
) -> Result<Store, DatabaseError> {
    if recovery::is_lost(path) && (!artifacts.is_empty()? || recovery::has_snapshot(path)?) {
        replace(path, Cause::Lost)?;
    }
    match Store::open(path, options) {
        Err(OpenError::Corrupt { finding, .. }) => {
            replace(path, Cause::Damaged { finding })?;
            Ok(Store::open(path, options)?)
        }
        opened => Ok(opened?),
    }
}

fn replace(path: &Path, cause: Cause) -> Result<(), ReplaceError> {
    tracing::error!(database = %path.display(), %cause, "the database is unusable and is replaced");
    recovery::replace(path, cause).map(drop)
}
