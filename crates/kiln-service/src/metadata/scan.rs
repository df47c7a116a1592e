//! Asking the registry again about one image and architecture.
//!
//! What was built stays what it is: the answer is kept beside it, and so is that of every other
//! architecture.

use kiln_api::image::remote::{RemoteImage, RemoteLayer, ScanParams, Scanned};
use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, Grant, Read, Write, permit};
use kiln_domain::oci::{self, Manifest};
use kiln_domain::{Digest, ImageId, ImageName, Platform, Source, Timestamp};
use kiln_registry::{FetchError, ImageSource, find_manifest};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::remote_states::{self, RemoteStateRow};
use kiln_store::{Object, StoreError, WriteTransaction, images, versions};
use serde_json::json;

use super::{Metadata, Sourced, Wanted};
use crate::failures::{source_failure, store_failure};
use crate::find_image::belongs;
use crate::remotes;

/// Longest config that is read, in bytes; the registry's transport takes no more either.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

impl Metadata {
    /// Asks the registry of an image what it has now. A forgotten image is asked about like others,
    /// and stays forgotten. Registering what it has is not done here: see [`crate::scan`].
    pub async fn scan(&self, actor: &Actor, params: ScanParams) -> Result<Scanned, Failure> {
        let wanted = Wanted::read(params.image, params.architecture.as_deref())?;
        let other = wanted.architecture.filter(|_| params.register);
        let found = match self.find_source(actor, wanted.clone()).await {
            // An architecture that nothing was made for yet is asked about by what there is.
            Err(failure) if other.is_some() && failure.is(codes::image::NOT_FOUND) => {
                let wanted = Wanted {
                    architecture: None,
                    ..wanted
                };
                self.find_source(actor, wanted).await
            }
            found => found,
        };
        let Sourced {
            grant,
            image,
            reference,
            digests,
        } = found?;
        let platform = match other {
            Some(other) => Ok(other),
            None => image.architecture.parse(),
        };
        let platform = platform
            .map(Platform::linux)
            .map_err(|error| Failure::from_error(codes::source::INVALID_PLATFORM, &error))?;
        let tls = remotes::tls_verify(params.tls_verify);
        let whole = Source::Registry(reference.clone());
        let identities = remotes::identities(&whole, params.credentials, params.mirror_credentials);
        let remote = self.remotes.remote(&reference, &identities, tls);
        let source = ImageSource::Registry {
            registry: remote.map_err(|error| source_failure(&error))?,
            reference: reference.clone(),
        };
        let asked = ask(&source, platform).await;
        let (digest, manifest, config) = asked.map_err(|error| scan_failure(&error))?;
        let now = self.clock.now();
        let remote = RemoteImage {
            reference: reference.to_string(),
            architecture: platform.architecture().to_string(),
            manifest_digest: digest.to_string(),
            size_bytes: manifest.layers.iter().map(|layer| layer.size_bytes).sum(),
            layers: manifest.layers.iter().map(layer).collect(),
            created: config.as_ref().and_then(|config| config.created.clone()),
            labels: config
                .map(|config| config.config.labels)
                .unwrap_or_default(),
            seen_at: now.to_string(),
        };
        let built = digests.first().copied();
        let actor = *actor;
        let (image_id, kept) = (image.id, remote.clone());
        let keeping = self
            .store
            .write(move |tx| keep(tx, grant, &actor, (image_id, built), &kept, digest, now));
        let has_changed = keeping.await.map_err(|error| store_failure(&error))?;
        Ok(Scanned {
            is_newer: built != Some(digest),
            has_changed,
            image,
            remote,
            registered: None,
        })
    }

    /// Finds the active image that was made of what a scan found, among those the actor may see.
    pub(crate) async fn made_of(
        &self,
        actor: &Actor,
        remote: &RemoteImage,
    ) -> Result<Option<ImageName>, Failure> {
        let actor = *actor;
        let (reference, digest) = (remote.reference.clone(), remote.manifest_digest.clone());
        let found = self.store.read(move |tx| {
            for version in versions::by_source_reference(tx, &reference)? {
                let made_of = version.manifest_digest.map(|digest| digest.to_string());
                let Some(row) = images::get(tx, version.image_id)? else {
                    continue;
                };
                let is_shown = permit::<Read>(&actor, &belongs(tx, &actor, &row)?).is_ok();
                if made_of.as_ref() == Some(&digest) && is_shown {
                    return Ok(Some(row.name));
                }
            }
            Ok::<_, StoreError>(None)
        });
        found.await.map_err(|error| store_failure(&error))
    }
}

async fn ask(
    source: &ImageSource,
    platform: Platform,
) -> Result<(Digest, Manifest, Option<oci::ImageConfig>), FetchError> {
    let found = find_manifest(source, platform).await?;
    let manifest = found.manifest;
    if !manifest.is_image() {
        return Ok((found.digest, manifest, None));
    }
    let bytes = source.small_blob(&manifest.config).await?.bytes;
    let layers = manifest.layers.len();
    // One that breaks a rule says nothing of itself; what the manifest says is still true.
    let config = oci::ImageConfig::parse(&bytes, layers, MAX_CONFIG_BYTES).ok();
    Ok((found.digest, manifest, config))
}

fn layer(descriptor: &oci::Descriptor) -> RemoteLayer {
    RemoteLayer {
        digest: descriptor.digest.to_string(),
        size_bytes: descriptor.size_bytes,
        media_type: descriptor.media_type.clone(),
    }
}

/// Keeps what a registry said, and tells whether that is news.
fn keep(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Write>,
    actor: &Actor,
    (image_id, built): (ImageId, Option<Digest>),
    remote: &RemoteImage,
    digest: Digest,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let before = remote_states::get(tx, image_id, &remote.architecture)?;
    let before = before.map(|row| row.manifest_digest).or(built);
    // Whoever purged it meanwhile wanted nothing kept of it.
    if images::get(tx, image_id)?.is_none() {
        return Ok(before != Some(digest));
    }
    let row = RemoteStateRow {
        image_id,
        architecture: remote.architecture.clone(),
        reference: remote.reference.clone(),
        manifest_digest: digest,
        document: json!(remote),
        seen_at: now,
    };
    remote_states::set(tx, &row)?;
    if before == Some(digest) {
        return Ok(false);
    }
    let data = json!({
        "reference": remote.reference,
        "changes": [{
            "field": format!("remote.{}", remote.architecture),
            "from": before,
            "to": digest,
        }],
    });
    events::append(
        tx,
        &NewEvent {
            at: now,
            actor: EventActor::from(actor),
            kind: "image.scanned",
            object: Object::image(image_id),
            data,
        },
    )?;
    Ok(true)
}

/// Tells what is gone from what could not be asked.
fn scan_failure(error: &FetchError) -> Failure {
    match error {
        FetchError::ReferenceNotFound { .. } | FetchError::PlatformNotFound(_) => {
            Failure::from_error(codes::image::SOURCE_GONE, error)
        }
        _ => source_failure(error),
    }
}
