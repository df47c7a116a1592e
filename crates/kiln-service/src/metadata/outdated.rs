//! Which images have something newer at their registries: a question for each tag, no pull.

use futures_util::{StreamExt as _, stream};
use kiln_api::Failure;
use kiln_api::image::remote::{Freshness, OutdatedParams, Standing};
use kiln_api::page::Page;
use kiln_domain::access::Actor;
use kiln_domain::{Digest, ImageId, Platform, Reference, RegistryName};
use kiln_registry::routes::TlsVerify;
use kiln_registry::{FetchError, Identities, ImageSource, find_manifest};
use kiln_store::images::{self, ImageFilter};
use kiln_store::{StoreError, versions};

use super::{Metadata, digests_of, reference_of};
use crate::events::cursor;
use crate::failures::{source_failure, store_failure};
use crate::find_image::visible_to;

/// Images of a page when the caller does not say.
const PAGE: u32 = 50;

/// Most images of a page: each is a question to a registry, and one that does not answer takes its
/// time.
const PAGE_MAX: u32 = 200;

/// Questions that are asked side by side.
const AT_A_TIME: usize = 8;

/// A version that may have a newer one.
struct Item {
    image_id: ImageId,
    name: String,
    architecture: String,
    reference: Reference,
    /// What the tag may name for the version to be current; the manifest first.
    digests: Vec<Digest>,
}

impl Metadata {
    /// Tells how the newest version of each architecture stands against its registry. What came
    /// from no registry is left out. That a registry cannot be asked is said of its images alone.
    pub async fn outdated(
        &self,
        actor: &Actor,
        params: OutdatedParams,
    ) -> Result<Page<Standing>, Failure> {
        let after = cursor(params.after)?;
        let limit = params.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
        let filter = ImageFilter {
            owner_id: (!params.all).then_some(actor.uid),
            visible_to: visible_to(actor),
            ..ImageFilter::default()
        };
        let read = self.store.read(move |tx| {
            let page = images::page(tx, after, limit, &filter)?;
            let mut items = Vec::new();
            for row in &page.rows {
                let mut versions = versions::of_image(tx, row.id)?;
                versions.sort_by_key(|version| std::cmp::Reverse(version.seq));
                let mut seen = Vec::new();
                for version in versions {
                    if seen.contains(&version.architecture) {
                        continue;
                    }
                    seen.push(version.architecture.clone());
                    let Some(reference) = reference_of(&version) else {
                        continue;
                    };
                    items.push(Item {
                        image_id: row.id,
                        name: row.name.to_string(),
                        reference,
                        digests: digests_of(tx, &version)?,
                        architecture: version.architecture,
                    });
                }
            }
            Ok::<_, StoreError>((items, page.next_after))
        });
        let (items, next) = read.await.map_err(|error| store_failure(&error))?;
        let mut identities = Identities::default();
        for known in params.credentials {
            identities.add(known.registry, crate::pulls::credentials(known.credentials));
        }
        let asked = stream::iter(items).map(|item| self.standing(item, &identities));
        Ok(Page {
            items: asked.buffered(AT_A_TIME).collect().await,
            next: next.and_then(|seq| u64::try_from(seq).ok()),
        })
    }

    async fn standing(&self, item: Item, identities: &Identities) -> Standing {
        let newest = self.newest(&item, identities).await;
        let (state, newest_digest, error) = match newest {
            Ok(newest) if item.digests.contains(&newest) => (Freshness::Current, None, None),
            Ok(newest) => (Freshness::Outdated, Some(newest.to_string()), None),
            Err(FetchError::ReferenceNotFound { .. } | FetchError::PlatformNotFound(_)) => {
                (Freshness::Gone, None, None)
            }
            Err(error) => (Freshness::Unknown, None, Some(source_failure(&error))),
        };
        Standing {
            image_id: item.image_id,
            name: item.name,
            architecture: item.architecture,
            reference: item.reference.to_string(),
            state,
            manifest_digest: item.digests.first().map(ToString::to_string),
            newest_digest,
            error,
        }
    }

    /// Finds what a tag names by now. The digest alone is asked for; documents only when that is not
    /// what is known, as the manifest may be the same in another index.
    async fn newest(&self, item: &Item, identities: &Identities) -> Result<Digest, FetchError> {
        // What is pinned cannot change.
        if let Some(digest) = item.reference.digest() {
            return Ok(item.digests.first().copied().unwrap_or(*digest));
        }
        let own = identities.of(&RegistryName::of(&item.reference)).cloned();
        let tls = TlsVerify::AsConfigured;
        let registry = self.remotes.registry_of(&item.reference, own, tls)?;
        if let Ok(Some(digest)) = registry.manifest_digest(&item.reference).await
            && item.digests.contains(&digest)
        {
            return Ok(digest);
        }
        let source = ImageSource::Registry {
            registry: self.remotes.remote(&item.reference, identities, tls)?,
            reference: item.reference.clone(),
        };
        let platform = item.architecture.parse().map(Platform::linux);
        let platform = platform.unwrap_or_else(|_| Platform::linux(self.naming.architecture));
        Ok(find_manifest(&source, platform).await?.digest)
    }
}
