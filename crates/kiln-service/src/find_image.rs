//! The image and version that a caller's words mean: one rule for all desks.
//!
//! What may be done to it is not here.

use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, Role};
use kiln_domain::{Architecture, Reference};
use kiln_store::images::{self, ImageRow};
use kiln_store::resolve::{self, ResolveError};
use kiln_store::versions::{self, VersionRow};
use kiln_store::{ReadTransaction, StoreError};

use crate::failures::store_failure;

/// An image as a call names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    /// An id, a name with an optional tag or version, or a source reference.
    pub(crate) text: &'a str,
    /// The architecture that was asked for.
    pub(crate) architecture: Option<Architecture>,
    /// What is meant where none was.
    pub(crate) host: Architecture,
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
    let canonical = named
        .text
        .parse::<Reference>()
        .ok()
        .map(|reference| reference.to_string());
    let query = resolve::Query {
        text: named.text,
        architecture: named.architecture.unwrap_or(named.host).as_str(),
        canonical_reference: canonical.as_deref(),
        visible_to: visible_to(actor),
        forgotten: images::Forgotten::Shown,
    };
    let found = match resolve::image(tx, &query) {
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
            )?
        }
        found => found?,
    };
    let row = images::get(tx, found.image_id)?.ok_or_else(not_found)?;
    let version = versions::get(tx, found.version_id)?.ok_or_else(not_found)?;
    Ok((row, version))
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
        FindImageError::Store(error) => store_failure(error),
    }
}
