//! The image and version that a caller's words mean: one rule for all desks.
//!
//! What may be done to it is not here.

use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, Belongs, Denied, Read, Role, permit};
use kiln_domain::{Architecture, ImageId, Reference, TagName, VersionId};
use kiln_store::images::{self, ImageRow};
use kiln_store::resolve::{self, ResolveError, ResolvedImage};
use kiln_store::versions::{self, VersionRow};
use kiln_store::{ReadTransaction, StoreError, orgs, tags};

use crate::failures::store_failure;

/// How words that name images are read on this host, by every method alike.
#[derive(Clone, Copy, Debug)]
pub struct Naming {
    /// The architecture that is meant where a call names none.
    pub architecture: Architecture,
    /// Whether an image that the caller may not see is said not to exist; else the call is denied.
    pub conceals_private: bool,
}

impl Naming {
    /// Means this architecture, and conceals nothing.
    pub fn of_host(architecture: Architecture) -> Self {
        Self {
            architecture,
            conceals_private: false,
        }
    }
}

/// An image as a call names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    /// An id, a name with an optional tag or version, or a source reference.
    pub(crate) text: &'a str,
    /// The architecture that was asked for.
    pub(crate) architecture: Option<Architecture>,
    /// How the rest is to be read.
    pub(crate) naming: Naming,
}

/// Why words do not mean one image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindImageError {
    /// Its row went away between two looks.
    #[error("there is no image {named:?}")]
    NotFound { named: String },
    /// They mean none, or several.
    #[error(transparent)]
    Unresolved(#[from] ResolveError),
    /// They mean one that the caller may not see.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Finds the image, active ones first, inactive and forgotten ones after them.
pub(crate) fn find_image(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    named: Named<'_>,
) -> Result<(ImageRow, VersionRow), FindImageError> {
    let not_found = || FindImageError::NotFound {
        named: named.text.chars().take(300).collect(),
    };
    let canonical = canonical(named.text);
    let query = resolve::Query {
        text: named.text,
        architecture: architecture_of(named).as_str(),
        caller: Some(actor.uid),
        canonical_reference: canonical.as_deref(),
        visible_to: visible_to(actor),
        forgotten: images::Forgotten::Shown,
    };
    let found = match look(tx, named, query) {
        Err(error @ ResolveError::NotFound { .. }) => {
            refuse_hidden(tx, actor, named, query)?;
            return Err(error.into());
        }
        found => found?,
    };
    let row = images::get(tx, found.image_id)?.ok_or_else(not_found)?;
    let version = versions::get(tx, found.version_id)?.ok_or_else(not_found)?;
    Ok((row, version))
}

/// For whom words mean something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Viewer {
    caller: u32,
    visible_to: Option<u32>,
}

impl Viewer {
    /// For a caller, who is shown what it may see.
    pub(crate) fn of(actor: &Actor) -> Self {
        Self {
            caller: actor.uid,
            visible_to: visible_to(actor),
        }
    }

    /// For who made an alias. What is hidden from its maker by now is still what it leads to.
    pub(crate) fn maker(uid: u32) -> Self {
        Self {
            caller: uid,
            visible_to: None,
        }
    }
}

/// Tells which one image a text means, where it means one.
pub(crate) fn meaning(
    tx: &ReadTransaction<'_>,
    text: &str,
    viewer: Viewer,
    naming: Naming,
) -> Result<Option<ImageId>, StoreError> {
    let named = Named {
        text,
        architecture: None,
        naming,
    };
    let canonical = canonical(text);
    let query = resolve::Query {
        text,
        canonical_reference: canonical.as_deref(),
        architecture: naming.architecture.as_str(),
        caller: Some(viewer.caller),
        visible_to: viewer.visible_to,
        forgotten: images::Forgotten::Shown,
    };
    match look(tx, named, query) {
        Ok(found) => Ok(Some(found.image_id)),
        Err(ResolveError::Store(error)) => Err(error),
        Err(
            ResolveError::NotFound { .. }
            | ResolveError::Ambiguous { .. }
            | ResolveError::AliasTooDeep { .. },
        ) => Ok(None),
    }
}

/// Writes a text as a canonical reference, where it reads as one.
fn canonical(text: &str) -> Option<String> {
    let reference = text.parse::<Reference>().ok()?;
    Some(reference.to_string())
}

/// Finds an image by its id alone, whatever its state, with the version that stands for it.
pub(crate) fn find_by_id(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    id: ImageId,
    naming: Naming,
) -> Result<(ImageRow, VersionRow), FindImageError> {
    let not_found = || FindImageError::NotFound {
        named: id.to_string(),
    };
    let row = images::get(tx, id)?.ok_or_else(not_found)?;
    match permit::<Read>(actor, &belongs(tx, actor, &row)?) {
        Err(_) if naming.conceals_private => return Err(not_found()),
        shown => shown?,
    };
    let version = current_version(tx, id, naming.architecture)?.ok_or_else(not_found)?;
    Ok((row, version))
}

/// Returns the version that stands for an image where no other is named: the one tagged `latest`,
/// else the newest, of whatever architecture.
pub(crate) fn current_version(
    tx: &ReadTransaction<'_>,
    image: ImageId,
    architecture: Architecture,
) -> Result<Option<VersionRow>, StoreError> {
    let latest = tags::resolve(tx, image, &TagName::latest(), architecture.as_str())?;
    let latest = match latest {
        Some(version) => versions::get(tx, version)?,
        None => None,
    };
    if latest.is_some() {
        return Ok(latest);
    }
    // An image of another architecture alone is shown by its newest version.
    Ok(versions::of_image(tx, image)?
        .into_iter()
        .max_by_key(|version| version.seq))
}

/// Lists the tags that point to a version of an image.
pub(crate) fn tags_of(
    tx: &ReadTransaction<'_>,
    image: ImageId,
    version: VersionId,
) -> Result<Vec<TagName>, StoreError> {
    let tags = tags::of_image(tx, image)?.into_iter();
    let of_version = tags.filter(|tag| tag.version_id == version);
    Ok(of_version.map(|tag| tag.tag).collect())
}

/// Reads the id of an image.
pub(crate) fn image_id(text: &str) -> Result<ImageId, Failure> {
    text.parse()
        .map_err(|error| Failure::from_error(codes::request::INVALID_ID, &error))
}

fn architecture_of(named: Named<'_>) -> Architecture {
    named.architecture.unwrap_or(named.naming.architecture)
}

fn look(
    tx: &ReadTransaction<'_>,
    named: Named<'_>,
    query: resolve::Query<'_>,
) -> Result<ResolvedImage, ResolveError> {
    match resolve::image(tx, &query) {
        // What exists for one other architecture alone is meant by its bare name.
        Err(ResolveError::NotFound {
            other_architectures,
            ..
        }) if named.architecture.is_none() && other_architectures.len() == 1 => {
            let architecture = &other_architectures[0];
            resolve::image(
                tx,
                &resolve::Query {
                    architecture,
                    ..query
                },
            )
        }
        found => found,
    }
}

/// Denies the call when what was not found is there and hidden from the caller, unless this host
/// conceals that.
fn refuse_hidden(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    named: Named<'_>,
    query: resolve::Query<'_>,
) -> Result<(), FindImageError> {
    if named.naming.conceals_private || query.visible_to.is_none() {
        return Ok(());
    }
    let everything = resolve::Query {
        visible_to: None,
        ..query
    };
    let belongs = match look(tx, named, everything) {
        Ok(found) => match images::get(tx, found.image_id)? {
            Some(row) => belongs(tx, actor, &row)?,
            None => return Ok(()),
        },
        // Several, of which the caller may see none.
        Err(ResolveError::Ambiguous { .. }) => Belongs::TO_THE_DAEMON,
        Err(_) => return Ok(()),
    };
    permit::<Read>(actor, &belongs)?;
    Ok(())
}

/// Tells what an image belongs to, as the actor sees it in this transaction.
pub(crate) fn belongs(
    tx: &ReadTransaction<'_>,
    actor: &Actor,
    row: &ImageRow,
) -> Result<Belongs, StoreError> {
    let standing = match row.org_id {
        Some(org) => orgs::standing_of(tx, org, actor.uid)?,
        None => None,
    };
    Ok(Belongs {
        owner: Some(row.owner_id),
        standing,
        visibility: row.visibility,
    })
}

/// Reads the architecture a call names.
pub(crate) fn architecture(text: Option<&str>) -> Result<Option<Architecture>, Failure> {
    text.map(str::parse)
        .transpose()
        .map_err(|error| Failure::from_error(codes::source::INVALID_PLATFORM, &error))
}

/// Superadmins see everything; others see their own, what is public, and what an organisation of
/// theirs shows.
pub(crate) fn visible_to(actor: &Actor) -> Option<u32> {
    (actor.role != Role::Superadmin).then_some(actor.uid)
}

pub(crate) fn find_image_failure(error: &FindImageError) -> Failure {
    match error {
        FindImageError::NotFound { .. } => Failure::from_error(codes::image::NOT_FOUND, error),
        FindImageError::Unresolved(unresolved) => match unresolved {
            ResolveError::NotFound { .. } => Failure::from_error(codes::image::NOT_FOUND, error),
            ResolveError::Ambiguous { candidates, .. } => {
                let ids: Vec<_> = candidates
                    .iter()
                    .map(|one| one.meant.image_id.to_string())
                    .collect();
                let hint = format!("name one by its id: {}", ids.join(", "));
                Failure::from_error(codes::image::AMBIGUOUS, error).with_hint(hint, None)
            }
            ResolveError::AliasTooDeep { .. } => {
                Failure::from_error(codes::image::AMBIGUOUS, error)
            }
            ResolveError::Store(error) => store_failure(error),
        },
        FindImageError::Denied(denied) => Failure::from_error(codes::request::DENIED, denied),
        FindImageError::Store(error) => store_failure(error),
    }
}
