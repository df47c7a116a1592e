//! Lists of a registry, page by page, and its limits.

use kiln_api::page::{DEFAULT_LIMIT, MAX_LIMIT};
use kiln_api::registry::{
    CatalogParams, Limit, Names, RateLimitParams, RateLimits, ReferrersPage, ReferrersParams,
    TagsParams,
};
use kiln_api::{Failure, codes};
use kiln_domain::{Reference, RegistryName};
use kiln_registry::{Cursor, CursorError, FetchError, Page, ReferrersKept};

use super::{Registries, manifest};
use crate::failures::source_failure;

/// The image that the Docker Hub keeps for questions about its limits; asking for it with HEAD is
/// not counted (docs.docker.com, "Pull usage and limits").
const HUB_PREVIEW: &str = "docker.io/ratelimitpreview/test:latest";

/// The Docker Hub, as references name it.
const HUB: &str = "docker.io";

impl Registries {
    /// Lists repositories.
    pub async fn catalog(&self, params: CatalogParams) -> Result<Names, Failure> {
        let after = cursor(params.after.as_deref())?;
        let registry = self.open(&params.registry, params.credentials, params.tls_verify)?;
        let listing = registry.catalog(Some(limit(params.limit)), after.as_ref());
        let page = listing.await.map_err(|error| {
            let failure = source_failure(&error);
            match error {
                // A registry that shows its catalogue to nobody often says it so.
                FetchError::AuthRequired { .. }
                | FetchError::AuthFailed { .. }
                | FetchError::Denied { .. } => failure.with_hint(
                    "many registries, docker.io and ghcr.io among them, show their catalogue to \
                     nobody; the tags of one repository are listed by:",
                    Some(format!("kiln tags {}/REPOSITORY", params.registry)),
                ),
                _ => failure,
            }
        })?;
        Ok(names(page))
    }

    /// Lists the tags of a repository.
    pub async fn tags(&self, params: TagsParams) -> Result<Names, Failure> {
        let reference = self.read(&params.reference)?;
        let after = cursor(params.after.as_deref())?;
        let remote = self.remote_for(
            &reference,
            params.credentials,
            params.mirror_credentials,
            params.tls_verify,
        )?;
        // Lists are complete only where it lies: a mirror has what it was asked for.
        let (registry, reference) = remote.location(&reference);
        let listing = registry.tags(&reference, Some(limit(params.limit)), after.as_ref());
        let page = listing.await.map_err(|error| source_failure(&error))?;
        Ok(names(page))
    }

    /// Lists what refers to an image.
    pub async fn referrers(&self, params: ReferrersParams) -> Result<ReferrersPage, Failure> {
        let reference = self.read(&params.reference)?;
        let after = cursor(params.after.as_deref())?;
        let remote = self.remote_for(
            &reference,
            params.credentials,
            params.mirror_credentials,
            params.tls_verify,
        )?;
        let (registry, reference) = remote.location(&reference);
        let subject = if let Some(digest) = reference.digest() {
            *digest
        } else {
            let fetched = registry.manifest(&reference).await;
            fetched.map_err(|error| source_failure(&error))?.digest
        };
        let kind = params.artifact_type.as_deref();
        let limit = Some(limit(params.limit));
        let listing = registry.referrers(&reference, &subject, kind, limit, after.as_ref());
        let found = listing.await.map_err(|error| source_failure(&error))?;
        Ok(ReferrersPage {
            subject: subject.to_string(),
            items: found.page.items.iter().map(manifest::pointer).collect(),
            next: found.page.next.as_ref().map(ToString::to_string),
            under_tag: found.kept == ReferrersKept::UnderTag,
        })
    }

    /// Tells how often a registry lets itself be asked.
    pub async fn ratelimit(&self, params: RateLimitParams) -> Result<RateLimits, Failure> {
        let image = params.reference.as_deref();
        let image = image.map(|text| self.read(text)).transpose()?;
        let reference = asked_about(&params.registry, image)?;
        let registry = self.open(&params.registry, params.credentials, params.tls_verify)?;
        let asking = registry.rate_limits(reference.as_ref());
        let told = asking.await.map_err(|error| source_failure(&error))?;
        let limits = told.limits.into_iter().map(|limit| Limit {
            name: limit.name.map(|name| name.to_string()),
            limit: limit.limit,
            remaining: limit.remaining,
            window_seconds: limit.window_seconds,
            reset_seconds: limit.reset_seconds,
        });
        Ok(RateLimits {
            registry: params.registry,
            limits: limits.collect(),
            source: told.source.map(|source| source.to_string()),
        })
    }
}

/// Decides which image a question about limits is asked with.
fn asked_about(
    registry: &RegistryName,
    image: Option<Reference>,
) -> Result<Option<Reference>, Failure> {
    let Some(reference) = image else {
        let preview = (registry.as_str() == HUB).then(|| HUB_PREVIEW.parse());
        return preview
            .transpose()
            .map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error));
    };
    if RegistryName::of(&reference) != *registry {
        let message = format!("{reference} is not an image of {registry}");
        return Err(Failure::new(codes::request::INVALID_PARAMS, message));
    }
    Ok(Some(reference))
}

fn names(page: Page<String>) -> Names {
    Names {
        items: page.items,
        next: page.next.as_ref().map(ToString::to_string),
    }
}

fn limit(asked: Option<u32>) -> u32 {
    asked.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
}

fn cursor(text: Option<&str>) -> Result<Option<Cursor>, Failure> {
    let parsed = text.map(str::parse::<Cursor>).transpose();
    parsed.map_err(|error: CursorError| {
        Failure::from_error(codes::request::INVALID_PARAMS, &error)
            .with_hint("give back what the page before has as next", None)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(registry: &str, reference: Option<&str>) -> Result<Option<String>, String> {
        let image = reference.map(|text| text.parse().unwrap());
        let found = asked_about(&registry.parse().unwrap(), image);
        let found = found.map_err(|failure| failure.code)?;
        Ok(found.map(|reference| reference.to_string()))
    }

    #[test]
    fn limits_are_asked_about_with_an_image_of_that_registry() {
        let hub = Some("docker.io/ratelimitpreview/test:latest".to_owned());
        let own = Some("quay.io/a/b:1".to_owned());
        let invalid = Err("request.invalid_params".to_owned());

        assert_eq!(about("docker.io", None), Ok(hub));
        assert_eq!(about("quay.io", None), Ok(None));
        assert_eq!(about("quay.io", Some("quay.io/a/b:1")), Ok(own));
        assert_eq!(about("quay.io", Some("debian")), invalid);
    }

    #[test]
    fn a_page_has_from_one_to_a_thousand_names() {
        let limits = [None, Some(0), Some(7), Some(u32::MAX)].map(limit);
        assert_eq!(limits, [100, 1, 7, 1_000]);
    }
}
