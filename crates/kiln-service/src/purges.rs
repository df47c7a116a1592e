//! Purges: the desk that removes images for good.
//!
//! The record goes first, in one transaction with everything that belongs to it; then the files, see
//! [`files`]. Hiding images, and bringing them back, is in `images`.

mod files;
mod forgotten;
mod retention;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;

use kiln_api::image::Image;
use kiln_api::image::removal::{PurgeByIdParams, Purged};
use kiln_api::{Failure, codes};
use kiln_artifacts::{ArtifactError, Artifacts};
use kiln_domain::access::{Actor, Denied, Grant, Write, permit};
use kiln_domain::{ImageId, ImageName, Timestamp, VersionId};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::images::{self, Custody, ImageRow};
use kiln_store::{Object, ReadTransaction, Store, StoreError, WriteTransaction, holders, versions};

pub(crate) use self::files::make_up;
pub(crate) use self::forgotten::{OnBehalfOf, Remover};
pub use self::retention::{Retention, RetentionSwept};
use self::tokens::{Seen, Tokens};
use crate::aliases::Settlement;
use crate::blocking::{Pool, PoolError};
use crate::clock::Clock;
use crate::failures::{artifact_failure, pool_failure, store_failure};
use crate::find_image::{
    FindImageError, Naming, belongs, find_by_id, find_image_failure, image_id, tags_of,
};
use crate::images::{ImageInUse, refuse_in_use};
use crate::views;
use crate::wholly::wholly;

/// The directories of images, and the threads that remove them.
#[derive(Clone, Debug)]
pub struct PurgeFiles {
    artifacts: Artifacts,
    directory: PathBuf,
    pool: Pool,
}

impl PurgeFiles {
    /// Removes what is in `artifacts`, which is at `directory`, on `pool`.
    pub fn new(artifacts: Artifacts, directory: PathBuf, pool: Pool) -> Self {
        Self {
            artifacts,
            directory,
            pool,
        }
    }
}

/// Removes images for good.
#[derive(Clone, Debug)]
pub struct Purges {
    store: Store,
    clock: Arc<dyn Clock>,
    naming: Naming,
    files: PurgeFiles,
    tokens: Arc<Tokens>,
}

/// Why an image could not be removed for good.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// It cannot be found, or not by this caller.
    #[error(transparent)]
    Find(FindError),
    /// Something uses it.
    #[error(transparent)]
    InUse(InUseError),
    /// It was forced without having looked.
    #[error(
        "the image {image} is to be removed in spite of what uses it, and the call has no token that counts"
    )]
    Unconfirmed {
        /// Which image.
        image: ImageName,
    },
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its files could not be looked at.
    #[error(transparent)]
    Files(#[from] ArtifactError),
    /// No thread was there to do it.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Why words did not lead to an image.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct FindError(FindImageError);

/// What keeps an image.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct InUseError(ImageInUse);

impl From<FindImageError> for PurgeError {
    fn from(error: FindImageError) -> Self {
        Self::Find(FindError(error))
    }
}

/// An image that may be removed, with what would go.
struct Found {
    row: ImageRow,
    view: Image,
    grant: Grant<Write>,
    versions: Vec<VersionId>,
    in_use: u64,
}

/// A removal that is recorded.
struct Purge {
    versions: Vec<VersionId>,
    count: u64,
    aliases: Vec<ImageName>,
    /// The place of the note about its files.
    note: i64,
}

impl Purges {
    /// Makes the desk.
    pub fn new(store: Store, clock: Arc<dyn Clock>, naming: Naming, files: PurgeFiles) -> Self {
        Self {
            store,
            clock,
            naming,
            files,
            tokens: Arc::default(),
        }
    }

    /// Removes an image for good, unless something uses it and it is not forced.
    pub async fn purge_by_id(
        &self,
        actor: &Actor,
        params: PurgeByIdParams,
    ) -> Result<Purged, Failure> {
        let id = image_id(&params.image_id)?;
        let (desk, actor) = (self.clone(), *actor);
        if params.dry_run {
            let foreseen = self.foresee(actor, id, params.force).await;
            return foreseen.map_err(|error| failure(&error));
        }
        // A caller that hangs up must not leave files for the next start.
        let purged = wholly(async move { desk.purge(actor, id, params).await });
        purged.await?.map_err(|error| failure(&error))
    }

    async fn foresee(&self, actor: Actor, id: ImageId, force: bool) -> Result<Purged, PurgeError> {
        let (desk, now) = (self.clone(), self.clock.now());
        let read = self.store.read(move |tx| {
            let found = desk.find(tx, &actor, id, force, now)?;
            let settlement = Settlement::foresee(tx, desk.naming, &found.row)?;
            Ok::<_, PurgeError>((found, settlement.going()))
        });
        let (found, aliases) = read.await?;
        let (artifacts, ids) = (self.files.artifacts.clone(), found.versions.clone());
        let bytes = self
            .files
            .pool
            .run(move || files::freed_bytes(&artifacts, &ids))
            .await??;
        let seen = Seen {
            uid: actor.uid,
            image: id,
            revision: found.row.revision,
        };
        Ok(Purged {
            image: found.view,
            versions: found.versions.len() as u64,
            aliases,
            freed_bytes: bytes,
            in_use: found.in_use,
            dry_run: true,
            confirm_token: force.then(|| self.tokens.give(seen, now)),
        })
    }

    async fn purge(
        &self,
        actor: Actor,
        id: ImageId,
        params: PurgeByIdParams,
    ) -> Result<Purged, PurgeError> {
        let (desk, now) = (self.clone(), self.clock.now());
        let written = self.store.write(move |tx| {
            let found = desk.find(tx, &actor, id, params.force, now)?;
            if params.force {
                let seen = Seen {
                    uid: actor.uid,
                    image: id,
                    revision: found.row.revision,
                };
                let token = params.confirm_token.as_deref().unwrap_or_default();
                if !desk.tokens.take(token, seen, now) {
                    let image = found.row.name;
                    return Err(PurgeError::Unconfirmed { image });
                }
            }
            let by = EventActor::Unix(actor.uid);
            let purge = purge_in(tx, found.grant, by, &found.row, desk.naming, now)?;
            Ok((found, purge))
        });
        let (found, purge) = written.await?;
        let freed_bytes = self.remover().remove_files(&purge, now).await;
        Ok(Purged {
            image: found.view,
            versions: purge.count,
            aliases: purge.aliases,
            freed_bytes,
            in_use: found.in_use,
            dry_run: false,
            confirm_token: None,
        })
    }

    fn find(
        &self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        id: ImageId,
        force: bool,
        now: Timestamp,
    ) -> Result<Found, PurgeError> {
        let (row, version) = find_by_id(tx, actor, id, self.naming)?;
        let grant = permit(actor, &belongs(tx, actor, &row)?)?;
        if !force && let Some(in_use) = refuse_in_use(tx, actor, &row, now)? {
            return Err(PurgeError::InUse(InUseError(in_use)));
        }
        let in_use = holders::count_of_versions_of(tx, id, now)?;
        let versions = directories(tx, &row)?;
        let tags = tags_of(tx, id, version.id)?;
        let view = views::image(&self.files.directory, row.clone(), version, tags);
        Ok(Found {
            row,
            view,
            grant,
            versions,
            in_use,
        })
    }

    /// What removes the files of what was purged.
    fn remover(&self) -> Remover {
        Remover {
            store: self.store.clone(),
            files: self.files.clone(),
            naming: self.naming,
        }
    }
}

/// Lists the directories that go with an image: none that others look after.
fn directories(tx: &ReadTransaction<'_>, row: &ImageRow) -> Result<Vec<VersionId>, StoreError> {
    if row.custody == Custody::Unmanaged {
        return Ok(Vec::new());
    }
    let versions = versions::of_image(tx, row.id)?;
    Ok(versions.into_iter().map(|version| version.id).collect())
}

/// Removes the record of an image and notes its files, all or nothing.
fn purge_in(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Write>,
    by: EventActor,
    row: &ImageRow,
    naming: Naming,
    now: Timestamp,
) -> Result<Purge, PurgeError> {
    let count = versions::of_image(tx, row.id)?.len() as u64;
    let versions = directories(tx, row)?;
    let settlement = Settlement::foresee(tx, naming, row)?;
    images::purge(tx, row.id)?;
    let aliases = settlement.carry_out(tx, naming)?;
    let note = files::note(tx, &versions, now)?;
    let event = NewEvent {
        at: now,
        actor: by,
        kind: "image.purged",
        object: Object::image(row.id),
        data: serde_json::json!({
            "name": row.name,
            "versions": count,
            "aliases": aliases,
        }),
    };
    events::append(tx, &event)?;
    Ok(Purge {
        versions,
        count,
        aliases,
        note,
    })
}

pub(crate) fn failure(error: &PurgeError) -> Failure {
    match error {
        PurgeError::Find(FindError(error)) => find_image_failure(error),
        PurgeError::InUse(InUseError(in_use)) => in_use.to_failure(),
        PurgeError::Unconfirmed { .. } => {
            Failure::from_error(codes::image::CONFIRMATION_NEEDED, error).with_hint(
                "see what would go, with `dry_run` and `force`, and send the token of the answer",
                None,
            )
        }
        PurgeError::Denied(denied) => Failure::from_error(codes::request::DENIED, denied),
        PurgeError::Store(error) => store_failure(error),
        PurgeError::Files(error) => artifact_failure(error),
        PurgeError::Pool(error) => pool_failure(error),
    }
}
