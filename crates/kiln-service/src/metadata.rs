//! What is said of images: the desk that changes names, labels, keywords and limits, tells what was
//! changed, and asks registries what they say now.
//!
//! Listing, showing and forgetting images is not here.

mod outdated;
mod patch;
mod scan;
mod untag;

use std::path::PathBuf;
use std::sync::Arc;

use kiln_api::image::Image;
use kiln_api::image::modify::{
    Change, EffectiveLimits, HistoryEntry, HistoryParams, Limit, Modified, ModifyParams,
    OneImageParams,
};
use kiln_api::page::Page;
use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, Belongs, Denied, Grant, Write, permit};
use kiln_domain::limits::{self, Limits};
use kiln_domain::{Architecture, Digest, ImageState, Reference, Timestamp};
use kiln_store::events::{self, EventActor, EventFilter, NewEvent};
use kiln_store::images::{self, ImageRow};
use kiln_store::names::{NameHolder, NameTaken, ReserveError};
use kiln_store::version_blobs::{self, BlobRole};
use kiln_store::versions::VersionRow;
use kiln_store::{Object, ReadTransaction, Store, StoreError, WriteTransaction, tags};
use serde_json::{Value, json};

use self::patch::{Patch, PatchError};
use crate::clock::Clock;
use crate::events::{cursor, page_limit};
use crate::failures::store_failure;
use crate::find_image::{
    FindImageError, Named, Naming, architecture, belongs, find_image, find_image_failure,
};
use crate::pulls::name_invalid;
use crate::remotes::Remotes;
use crate::views;

/// Changes what is said of images.
#[derive(Clone, Debug)]
pub struct Metadata {
    store: Store,
    clock: Arc<dyn Clock>,
    directory: PathBuf,
    naming: Naming,
    limits: Limits,
    remotes: Arc<Remotes>,
}

/// Why something could not be said of an image.
#[derive(Debug, thiserror::Error)]
enum MetadataError {
    #[error(transparent)]
    Find(#[from] FindImageError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the image \"{name}\" is forgotten")]
    Forgotten { name: String },
    #[error("the image \"{name}\" is at revision {found}, not at {wanted}")]
    Revision {
        name: String,
        found: u64,
        wanted: u64,
    },
    #[error("the image \"{name}\" came from no registry")]
    NoRegistry { name: String },
    #[error(transparent)]
    Patch(#[from] PatchError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which image a call means.
#[derive(Clone, Debug)]
struct Wanted {
    text: String,
    architecture: Option<Architecture>,
}

impl Wanted {
    fn read(image: String, of: Option<&str>) -> Result<Self, Failure> {
        let architecture = architecture(of)?;
        Ok(Self {
            text: image,
            architecture,
        })
    }
}

impl Metadata {
    /// Makes the desk. `directory` is where artifact directories are, `naming` says how words that
    /// name images are read, `limits` what the configuration says of all images, `remotes` how
    /// registries are reached.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        directory: PathBuf,
        naming: Naming,
        limits: Limits,
        remotes: Arc<Remotes>,
    ) -> Self {
        Self {
            store,
            clock,
            directory,
            naming,
            limits,
            remotes,
        }
    }

    /// Changes what is said of an image, in one transaction: all that was asked for, or nothing.
    pub async fn modify(&self, actor: &Actor, params: ModifyParams) -> Result<Modified, Failure> {
        let wanted = Wanted::read(params.image.clone(), params.architecture.as_deref())?;
        let if_revision = params.if_revision;
        let patch = Patch::read(params).map_err(|error| patch_failure(&error))?;
        self.change(actor, wanted, move |row| {
            if let Some(wanted) = if_revision.filter(|wanted| *wanted != row.revision) {
                return Err(MetadataError::Revision {
                    name: row.name.to_string(),
                    found: row.revision,
                    wanted,
                });
            }
            Ok(patch)
        })
        .await
    }

    /// Takes all custom limits off an image. Doing it twice changes nothing.
    pub async fn clear_limits(
        &self,
        actor: &Actor,
        params: OneImageParams,
    ) -> Result<Modified, Failure> {
        let wanted = Wanted::read(params.image, params.architecture.as_deref())?;
        self.change(actor, wanted, |row| Ok(Patch::without_limits(row)))
            .await
    }

    /// Tells what machines of an image get.
    pub async fn limits(
        &self,
        actor: &Actor,
        params: OneImageParams,
    ) -> Result<EffectiveLimits, Failure> {
        let wanted = Wanted::read(params.image, params.architecture.as_deref())?;
        let (desk, actor) = (self.clone(), *actor);
        let told = self
            .store
            .read(move |tx| {
                let (row, version) = desk.find(tx, &actor, &wanted)?;
                let (limits, ignored_labels) = in_force(&desk.limits, &row, &version);
                Ok::<_, MetadataError>(EffectiveLimits {
                    image_id: row.id,
                    name: row.name.to_string(),
                    limits,
                    ignored_labels,
                })
            })
            .await;
        told.map_err(|error| failure(&error, &actor))
    }

    /// Lists what happened to an image, oldest first.
    pub async fn history(
        &self,
        actor: &Actor,
        params: HistoryParams,
    ) -> Result<Page<HistoryEntry>, Failure> {
        let wanted = Wanted::read(params.image, None)?;
        let (after, limit) = (cursor(params.after)?, page_limit(params.limit)?);
        let (desk, actor) = (self.clone(), *actor);
        let page = self
            .store
            .read(move |tx| {
                let (row, _) = desk.find(tx, &actor, &wanted)?;
                let filter = EventFilter {
                    object: Some(Object::image(row.id)),
                    ..EventFilter::default()
                };
                Ok::<_, MetadataError>(events::page(tx, after, limit, &filter)?)
            })
            .await
            .map_err(|error| failure(&error, &actor))?;
        Ok(Page {
            next: page.next_after.and_then(|seq| u64::try_from(seq).ok()),
            items: page.rows.into_iter().map(entry).collect(),
        })
    }

    /// Finds an image, lets `decide` say what is to become of it, and does that.
    async fn change(
        &self,
        actor: &Actor,
        wanted: Wanted,
        decide: impl FnOnce(&ImageRow) -> Result<Patch, MetadataError> + Send + 'static,
    ) -> Result<Modified, Failure> {
        let (desk, actor, now) = (self.clone(), *actor, self.clock.now());
        let changed = self
            .store
            .write(move |tx| {
                let (row, version) = desk.find(tx, &actor, &wanted)?;
                let grant = permit(&actor, &belongs(tx, &actor, &row)?)?;
                if row.state == ImageState::Deleted {
                    let name = row.name.to_string();
                    return Err(MetadataError::Forgotten { name });
                }
                let patch = decide(&row)?;
                if patch.declares_size() {
                    permit::<kiln_domain::access::Administer>(&actor, &Belongs::TO_THE_DAEMON)?;
                }
                let changes = apply(tx, grant, &actor, (&row, &version), &patch, now)?;
                let row = images::get(tx, row.id)?.unwrap_or(row);
                let image = desk.view(tx, row, version)?;
                Ok(Modified { image, changes })
            })
            .await;
        changed.map_err(|error| failure(&error, &actor))
    }

    /// Finds an image that the actor may change, forgotten or not, and what it came from.
    async fn find_source(&self, actor: &Actor, wanted: Wanted) -> Result<Sourced, Failure> {
        let (desk, actor) = (self.clone(), *actor);
        let found = self
            .store
            .read(move |tx| {
                let (row, version) = desk.find(tx, &actor, &wanted)?;
                let grant = permit(&actor, &belongs(tx, &actor, &row)?)?;
                let reference = reference_of(&version);
                let reference = reference.ok_or_else(|| {
                    let name = row.name.to_string();
                    MetadataError::NoRegistry { name }
                })?;
                let digests = digests_of(tx, &version)?;
                let image = desk.view(tx, row, version)?;
                Ok::<_, MetadataError>(Sourced {
                    grant,
                    image,
                    reference,
                    digests,
                })
            })
            .await;
        found.map_err(|error| failure(&error, &actor))
    }

    fn find(
        &self,
        tx: &ReadTransaction<'_>,
        actor: &Actor,
        wanted: &Wanted,
    ) -> Result<(ImageRow, VersionRow), MetadataError> {
        let named = Named {
            text: &wanted.text,
            architecture: wanted.architecture,
            naming: self.naming,
        };
        Ok(find_image(tx, actor, named)?)
    }

    fn view(
        &self,
        tx: &ReadTransaction<'_>,
        row: ImageRow,
        version: VersionRow,
    ) -> Result<Image, StoreError> {
        let names = tags_of(tx, &row, &version)?;
        let (limits, _) = in_force(&self.limits, &row, &version);
        Ok(Image {
            limits,
            ..views::image(&self.directory, row, version, names)
        })
    }
}

/// Makes the changes, and notes them in the image's history when there are any.
fn apply(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Write>,
    actor: &Actor,
    (row, version): (&ImageRow, &VersionRow),
    patch: &Patch,
    now: Timestamp,
) -> Result<Vec<Change>, MetadataError> {
    let own_tags = tags_of(tx, row, version)?;
    let changes = patch.apply(tx, row, &own_tags, now)?;
    if changes.is_empty() {
        return Ok(changes);
    }
    images::touch(tx, row.id, now)?;
    events::append(
        tx,
        &NewEvent {
            at: now,
            actor: EventActor::from(actor),
            kind: "image.modified",
            object: Object::image(row.id),
            data: json!({ "name": row.name, "changes": changes }),
        },
    )?;
    Ok(changes)
}

/// An image that came from a registry.
struct Sourced {
    grant: Grant<Write>,
    image: Image,
    reference: Reference,
    /// The manifest it was made from, and the index that one was chosen from.
    digests: Vec<Digest>,
}

/// Reads where a version came from, if that is a registry.
fn reference_of(version: &VersionRow) -> Option<Reference> {
    if version.source_kind != "registry" {
        return None;
    }
    version.source_reference.as_deref()?.parse().ok()
}

/// Lists what a tag may name for a version to be what the tag means.
fn digests_of(tx: &ReadTransaction<'_>, version: &VersionRow) -> Result<Vec<Digest>, StoreError> {
    let blobs = version_blobs::of_version(tx, version.id)?.into_iter();
    let index = blobs.filter(|blob| blob.role == BlobRole::Index);
    let index = index.map(|blob| blob.digest);
    Ok(version.manifest_digest.into_iter().chain(index).collect())
}

fn tags_of(
    tx: &ReadTransaction<'_>,
    row: &ImageRow,
    version: &VersionRow,
) -> Result<Vec<kiln_domain::TagName>, StoreError> {
    let tags = tags::of_image(tx, row.id)?.into_iter();
    let own = tags.filter(|tag| tag.version_id == version.id);
    Ok(own.map(|tag| tag.tag).collect())
}

/// Decides what machines of a version get, and which labels say nothing that can be. Labels that
/// callers set win over those that the image came with.
pub(crate) fn in_force(
    daemon: &Limits,
    row: &ImageRow,
    version: &VersionRow,
) -> (Vec<Limit>, Vec<String>) {
    let built_with = version.image_config.as_ref();
    let built_with = built_with.and_then(|config| config["Labels"].as_object());
    let built_with = built_with
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    let set = row.labels.iter();
    let labels = built_with.chain(set.map(|(key, value)| (key.as_str(), value.as_str())));
    let effective = limits::effective(daemon, labels, &custom(row));
    let limits = effective.limits.into_iter().map(|(slot, limit)| Limit {
        slot: slot.to_string(),
        value: limit.value,
        origin: limit.origin,
    });
    (limits.collect(), effective.ignored)
}

/// Reads the limits that callers set. What an older Kiln wrote otherwise is left out, not made up.
fn custom(row: &ImageRow) -> Limits {
    let stored = row.limits.as_ref().and_then(Value::as_object);
    let pairs = stored.into_iter().flatten().filter_map(|(slot, value)| {
        let value = serde_json::from_value(value.clone()).ok()?;
        Some((slot.parse().ok()?, value))
    });
    pairs.collect()
}

fn entry(row: events::EventRow) -> HistoryEntry {
    let event = views::event(row);
    HistoryEntry {
        seq: event.seq,
        at: event.at,
        actor: event.actor,
        kind: event.kind,
        changes: serde_json::from_value(event.data["changes"].clone()).unwrap_or_default(),
    }
}

fn failure(error: &MetadataError, actor: &Actor) -> Failure {
    match error {
        MetadataError::Find(error) => find_image_failure(error),
        MetadataError::Denied(denied) => Failure::from_error(codes::request::DENIED, denied),
        MetadataError::Forgotten { .. } => Failure::from_error(codes::image::IS_FORGOTTEN, error),
        MetadataError::NoRegistry { .. } => Failure::from_error(codes::image::NO_REGISTRY, error),
        MetadataError::Revision { .. } => {
            Failure::from_error(codes::image::REVISION_CONFLICT, error)
        }
        MetadataError::Patch(PatchError::Rename(ReserveError::Taken(taken))) => {
            taken_failure(taken, actor)
        }
        MetadataError::Patch(error) => patch_failure(error),
        MetadataError::Store(error) => store_failure(error),
    }
}

fn patch_failure(error: &PatchError) -> Failure {
    let code = match error {
        PatchError::TwoWays { .. } | PatchError::Size { .. } => codes::request::INVALID_PARAMS,
        PatchError::Name(error) | PatchError::Rename(ReserveError::Name(error)) => {
            return name_invalid(error);
        }
        PatchError::Tag { .. } => codes::image::NAME_INVALID,
        PatchError::Wording(_)
        | PatchError::TooManyWords { .. }
        | PatchError::LabelBytes { .. } => codes::image::LABEL_INVALID,
        PatchError::Limit(_) | PatchError::Quantity { .. } | PatchError::TooManySlots => {
            codes::image::LIMIT_INVALID
        }
        PatchError::Rename(ReserveError::Taken(_)) => codes::image::ALREADY_EXISTS,
        PatchError::Rename(ReserveError::Store(error)) | PatchError::Store(error) => {
            return store_failure(error);
        }
    };
    Failure::from_error(code, error)
}

/// Says who has a name, as far as the caller may know.
fn taken_failure(taken: &NameTaken, actor: &Actor) -> Failure {
    let name = &taken.name;
    let (code, owner) = match &taken.by {
        NameHolder::Image { owner_uid, .. } => (codes::image::ALREADY_EXISTS, Some(*owner_uid)),
        NameHolder::Alias { .. } => (codes::image::ALREADY_EXISTS, Some(actor.uid)),
        NameHolder::Reservation { owner_uid, .. } => (codes::image::NAME_RESERVED, *owner_uid),
    };
    let is_known = owner.is_some_and(|owner| kiln_domain::access::may_see(actor, owner).is_ok());
    let failure = if is_known {
        Failure::from_error(code, taken)
    } else {
        Failure::new(code, format!("the name {name} is taken by another user"))
    };
    failure.with_hint("choose another name", None)
}

#[cfg(test)]
mod tests;
