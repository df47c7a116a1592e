//! Deleting from a registry: what may go, and what goes with it.

use kiln_api::registry::{DeleteParams, Deleted, UntagParams, Untagged};
use kiln_api::{Failure, codes, destination};
use kiln_domain::Reference;
use kiln_registry::{BrowseError, FetchError, Fetched, Registry};

use super::Registries;
use crate::failures::source_failure;

/// Most tags that a message names.
const MAX_LISTED: usize = 10;

impl Registries {
    /// Deletes a manifest and every tag of it, when no other tag than the one named is lost or
    /// the caller wants it so.
    pub async fn delete(&self, params: DeleteParams) -> Result<Deleted, Failure> {
        let reference = destination(&params.reference)?;
        let registry = self.open_for(&reference, params.credentials, params.tls_verify)?;
        let fetched = registry.manifest(&reference).await;
        let digest = fetched.map_err(|error| source_failure(&error))?.digest;
        let finding = registry.tags_of(&reference, &digest);
        let tags = finding.await.map_err(|error| source_failure(&error))?;
        let own = match reference.digest() {
            Some(_) => reference.written_tag(),
            None => reference.tag(),
        };
        let others: Vec<&String> = tags
            .iter()
            .filter(|tag| Some(tag.as_str()) != own)
            .collect();
        if !others.is_empty() && !params.force && !params.dry_run {
            return Err(shared(&reference, &others));
        }
        if !params.dry_run {
            let deleting = registry.delete_manifest(&reference, &digest);
            deleting.await.map_err(|error| failure(&error))?;
        }
        Ok(Deleted {
            reference: reference.with_digest(digest).to_string(),
            digest: digest.to_string(),
            tags,
            dry_run: params.dry_run,
        })
    }

    /// Takes a tag off a manifest.
    pub async fn untag(&self, params: UntagParams) -> Result<Untagged, Failure> {
        let reference = destination(&params.reference)?;
        if reference.written_tag().is_none() || reference.digest().is_some() {
            let message = format!("{} does not name a tag alone", params.reference);
            return Err(
                Failure::new(codes::source::INVALID_REFERENCE, message).with_hint(
                    "write the tag out, without a digest: REGISTRY/NAME:TAG",
                    None,
                ),
            );
        }
        let registry = self.open_for(&reference, params.credentials, params.tls_verify)?;
        let fetched = registry.manifest(&reference).await;
        let fetched = fetched.map_err(|error| source_failure(&error))?;
        take_off(&registry, &reference, &fetched, params.dry_run).await
    }
}

/// Takes a tag off the manifest that it was found to name, unless this only tells.
pub(crate) async fn take_off(
    registry: &Registry,
    reference: &Reference,
    fetched: &Fetched,
    dry_run: bool,
) -> Result<Untagged, Failure> {
    let mut by_replacement = false;
    if !dry_run {
        let unique = uuid::Uuid::new_v4().to_string();
        let done = registry.untag(reference, fetched, &unique).await;
        let how = done.map_err(|error| failure(&error))?;
        by_replacement = how == kiln_registry::Untagged::ByReplacement;
    }
    Ok(Untagged {
        reference: reference.to_string(),
        digest: fetched.digest.to_string(),
        by_replacement,
        dry_run,
    })
}

fn shared(reference: &Reference, others: &[&String]) -> Failure {
    let place = format!("{}/{}", reference.registry(), reference.repository());
    let listed: Vec<&str> = others
        .iter()
        .take(MAX_LISTED)
        .map(|tag| tag.as_str())
        .collect();
    let more = match others.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "deleting {reference} would also delete these tags of {place}: {}{more}",
        listed.join(", ")
    );
    let failure = Failure::new(codes::registry::TAGS_SHARED, message);
    match reference.written_tag() {
        Some(tag) => failure.with_hint(
            "take the one tag off and leave the manifest, or use --force:",
            Some(format!("kiln registry untag {place}:{tag}")),
        ),
        None => failure,
    }
}

/// Explains a registry that deletes nothing: most are set up so.
fn failure(error: &FetchError) -> Failure {
    let failure = source_failure(error);
    match error {
        FetchError::Browse(BrowseError::NotOffered { .. }) => failure.with_hint(
            "deletion is off unless whoever runs the registry turns it on; for Docker's registry \
             it is REGISTRY_STORAGE_DELETE_ENABLED=true",
            None,
        ),
        _ => failure,
    }
}
