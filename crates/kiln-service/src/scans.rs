//! Scanning and, where that is asked for, making an image of what is newer: two desks, one call.
//!
//! ```text
//! scan ──▶ nothing newer                           ─▶ what the registry says
//!      ├─▶ newer, and an image was made of it       ─▶ … and that image's name
//!      ├─▶ newer, and one is being made of it       ─▶ … and its name and operation
//!      └─▶ newer, and none was: image.pull, detached ─▶ … and the operation
//! ```
//! A version is one image's alone until versions can be added to it, so what is new becomes an image
//! beside the one that was named. One user's scans take turns for each manifest, so that those that
//! come together make one image; what others are making is not theirs to see.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kiln_api::image::remote::{Registered, RemoteImage, ScanParams, Scanned};
use kiln_api::image::{Image, Outcome, PullParams};
use kiln_api::{Failure, codes};
use kiln_domain::access::Actor;
use kiln_domain::{ImageName, KernelName, OperationId, Platform};

use crate::keyed_lock::KeyedLock;
use crate::metadata::Metadata;
use crate::pulls::{DEFAULT, Pulls};
use crate::wholly::wholly;

/// How many digits of a manifest's digest stand behind the name of an image that was made of it.
const DIGITS: usize = 12;

/// Asks the registry of an image what it has now; with `register` begins to make an image of it
/// where this host has none.
pub async fn scan(
    metadata: &Metadata,
    pulls: &Pulls,
    actor: &Actor,
    params: ScanParams,
) -> Result<Scanned, Failure> {
    let asked = params.clone();
    let mut scanned = metadata.scan(actor, params).await?;
    if !asked.register || !scanned.is_newer {
        return Ok(scanned);
    }
    let key = Key {
        uid: actor.uid,
        reference: scanned.remote.reference.clone(),
        manifest: scanned.remote.manifest_digest.clone(),
    };
    let (metadata, pulls, actor) = (metadata.clone(), pulls.clone(), *actor);
    // A caller that hangs up must not leave an image in the making that the next does not know of.
    let registered = wholly(async move {
        let registering = pulls.registering.clone();
        let _turn = registering.turns.lock(key.clone()).await;
        // Asked first: what has ended since is an image by then.
        if let Some(begun) = registering.begun(&key, |id| pulls.is_running(id)) {
            scanned.registered = Some(begun);
            return Ok(scanned);
        }
        let there = metadata.made_of(&actor, &scanned.remote).await?;
        scanned.registered = Some(if let Some(name) = there {
            Registered {
                name,
                operation_id: None,
            }
        } else {
            let begun = register(&pulls, &actor, &scanned, asked).await?;
            registering.note(key, &begun);
            begun
        });
        Ok(scanned)
    });
    registered.await?
}

/// What scans are making images of.
#[derive(Debug, Default)]
pub(crate) struct Registering {
    turns: KeyedLock<Key>,
    begun: Mutex<HashMap<Key, (ImageName, OperationId)>>,
}

/// A manifest that a user's scan found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    uid: u32,
    reference: String,
    manifest: String,
}

impl Registering {
    /// Returns what is being made of a manifest; what is made no more is dropped.
    fn begun(&self, key: &Key, is_running: impl Fn(OperationId) -> bool) -> Option<Registered> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.retain(|_, (_, id)| is_running(*id));
        let (name, id) = begun.get(key)?;
        Some(Registered {
            name: name.clone(),
            operation_id: Some(*id),
        })
    }

    fn note(&self, key: Key, registered: &Registered) {
        if let Some(id) = registered.operation_id {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            begun.insert(key, (registered.name.clone(), id));
        }
    }
}

async fn register(
    pulls: &Pulls,
    actor: &Actor,
    scanned: &Scanned,
    asked: ScanParams,
) -> Result<Registered, Failure> {
    let Scanned { image, remote, .. } = scanned;
    let name = match asked.name {
        Some(name) => name,
        None => derived(&image.name, &remote.manifest_digest)?,
    };
    let platform = remote.architecture.parse().map(Platform::linux);
    let platform =
        platform.map_err(|error| Failure::from_error(codes::source::INVALID_PLATFORM, &error))?;
    let params = PullParams {
        reference: remote.reference.clone(),
        name: Some(name.clone()),
        kernel_ref: asked.kernel_ref.or_else(|| kernel_of(image, remote)),
        prefer_shipped_kernel: false,
        kernel_path: None,
        initrd_path: None,
        modules_dir: None,
        boot: image
            .boot
            .as_ref()
            .map(|boot| boot.choice)
            .unwrap_or_default(),
        size_bytes: None,
        platform: Some(platform.to_string()),
        credentials: asked.credentials,
        mirror_credentials: asked.mirror_credentials,
        tls_verify: asked.tls_verify,
        source_files: None,
        org: image.org_id.map(|org| org.to_string()),
        detach: true,
    };
    match pulls.pull(actor, params).await? {
        Outcome::Started(started) => Ok(Registered {
            name,
            operation_id: Some(started.operation_id),
        }),
        Outcome::Image(image) => Ok(Registered {
            name: image.name,
            operation_id: None,
        }),
    }
}

/// Names what is new after the image that was named; twice the same for the same manifest.
fn derived(image: &ImageName, digest: &str) -> Result<ImageName, Failure> {
    let digits = digest.rsplit(':').next().unwrap_or(digest);
    let digits: String = digits.chars().take(DIGITS).collect();
    let name = format!("{image}-{digits}");
    name.parse().map_err(|error| {
        Failure::from_error(codes::image::NAME_INVALID, &error)
            .with_hint("say what to call it with --name", None)
    })
}

/// The kernel that the image was made with, where it is one of the catalogue and of the architecture
/// that is wanted; else the default.
fn kernel_of(image: &Image, remote: &RemoteImage) -> Option<KernelName> {
    let own = image.kernel.name.as_deref();
    let own = own.filter(|_| image.architecture == remote.architecture);
    own.unwrap_or(DEFAULT).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_named_after_the_image_and_its_manifest() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let named = |image: &str| derived(&image.parse().unwrap(), &digest);

        assert_eq!(named("team/web").unwrap().as_str(), "team/web-0123456789ab");
        let long = named(&"a".repeat(120)).unwrap_err();
        assert!(long.is(codes::image::NAME_INVALID));
    }
}
