//! Takes images into the database that stand whole in `images/` without a row.
//!
//! They become inactive, root's, and get a name of their own: what their owner, their name and
//! their rights had become was in the database that is gone. Which directories may be adopted is
//! decided by the caller.

use std::collections::HashMap;

use kiln_artifacts::Artifacts;
use kiln_domain::{ImageId, ImageName, TagName, Timestamp, VersionId, VersionKind, Visibility};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::images::{self, Custody, NewImage};
use kiln_store::names::{self, ReserveError};
use kiln_store::versions::{self, NewVersion};
use kiln_store::{Object, Store, StoreError, WriteTransaction, tags, version_blobs};
use uuid::Uuid;

use crate::digests;
use crate::failures::with_causes;
use crate::image_json::{self, Recorded};

/// Images adopted in one transaction: enough to spare most syncs.
const AT_A_TIME: usize = 200;

/// Bytes of documents after which a transaction ends, too: a few kilobytes each as a rule, but
/// they may be megabytes, and are held all at once.
const BYTES_AT_A_TIME: usize = 16 << 20;

/// The user adopted images belong to: root.
const OWNER: u32 = 0;

/// What an adopted image's name ends in.
const SUFFIX: &str = "-recovered";

/// Longest name an image may have, in bytes.
const NAME_MAX: usize = 128;

/// Why an image could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum AdoptionError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name was free a moment before, in the same transaction: a defect.
    #[error(transparent)]
    Name(#[from] ReserveError),
}

/// What came of adopting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Adopted {
    pub(super) adopted: u64,
    /// Those whose document or files are not as they should be; they stay as they are.
    pub(super) left: u64,
}

/// Adopts what can be read of these directories, and reports each.
pub(super) async fn adopt(
    store: &Store,
    artifacts: &Artifacts,
    candidates: &[VersionId],
    now: Timestamp,
) -> Result<Adopted, AdoptionError> {
    let mut done = Adopted::default();
    let mut numbers = Numbers::default();
    let mut candidates = candidates.iter();
    loop {
        let (read, left) = next_batch(artifacts, &mut candidates);
        done.left += left;
        if read.is_empty() {
            return Ok(done);
        }
        done.adopted += read.len() as u64;
        numbers = store
            .write(move |tx| {
                for recorded in read {
                    let (version, was) = (recorded.version_id, recorded.name.clone());
                    let name = enter(tx, recorded, &mut numbers, now)?;
                    tracing::warn!(%version, %was, %name, "adopted an image without a row");
                }
                Ok::<_, AdoptionError>(numbers)
            })
            .await?;
    }
}

/// Reads as many of the next directories as belong into one transaction, none only at the end;
/// counts those that cannot be read.
fn next_batch(
    artifacts: &Artifacts,
    candidates: &mut std::slice::Iter<'_, VersionId>,
) -> (Vec<Recorded>, u64) {
    let mut read: Vec<Recorded> = Vec::new();
    let (mut left, mut bytes) = (0, 0);
    while read.len() < AT_A_TIME
        && bytes < BYTES_AT_A_TIME
        && let Some(id) = candidates.next()
    {
        match image_json::read(artifacts, *id) {
            Ok(recorded) => {
                bytes += recorded.document_bytes;
                read.push(recorded);
            }
            Err(error) => {
                left += 1;
                let error = with_causes(&error);
                tracing::error!(
                    %id, error,
                    "the database does not know this image and it cannot be adopted; it is left in place"
                );
            }
        }
    }
    (read, left)
}

/// Writes every row of an adopted image and its event; returns the name it got.
fn enter(
    tx: &WriteTransaction<'_>,
    recorded: Recorded,
    numbers: &mut Numbers,
    now: Timestamp,
) -> Result<ImageName, AdoptionError> {
    let name = numbers.free_name(tx, &recorded.name)?;
    // Its own id where that is free: whoever kept it finds the image again.
    let id = match images::get(tx, recorded.image_id)? {
        None => recorded.image_id,
        Some(_) => ImageId::new(Uuid::new_v4()),
    };
    images::insert(tx, &image(id, &name, recorded.created_at))?;
    names::give_to_image(tx, &name, id, now)?;
    let version_id = recorded.version_id;
    let data = serde_json::json!({
        "name": name,
        "recorded_name": recorded.name,
        "recorded_owner_uid": recorded.owner_uid,
        "source": recorded.source_reference,
        "version_id": version_id,
    });
    let size_bytes = recorded.rootfs_size_bytes;
    let blobs = recorded.blobs.clone();
    versions::insert(tx, &version(id, recorded))?;
    version_blobs::insert_all(tx, version_id, &blobs)?;
    tags::set(tx, id, &TagName::latest(), version_id, now)?;
    digests::request(tx, version_id, size_bytes, now)?;
    images::deactivate(tx, id, now)?;
    let event = NewEvent {
        at: now,
        actor: EventActor::Daemon,
        kind: "image.adopted",
        object: Object::image(id),
        data,
    };
    events::append(tx, &event)?;
    Ok(name)
}

fn image(id: ImageId, name: &ImageName, created_at: Timestamp) -> NewImage {
    NewImage {
        id,
        name: name.clone(),
        owner_id: OWNER,
        org_id: None,
        visibility: Visibility::Private,
        kind: VersionKind::Rootfs,
        custody: Custody::Managed,
        labels: std::collections::BTreeMap::default(),
        keywords: std::collections::BTreeSet::default(),
        limits: None,
        created_at,
    }
}

fn version(image_id: ImageId, recorded: Recorded) -> NewVersion {
    NewVersion {
        id: recorded.version_id,
        image_id,
        number: recorded.number,
        architecture: recorded.architecture.to_string(),
        kind: VersionKind::Rootfs,
        source_kind: recorded.source_kind,
        source_reference: Some(recorded.source_reference),
        manifest_digest: recorded.manifest_digest,
        config_digest: recorded.config_digest,
        derivation: recorded.derivation,
        rootfs_size_bytes: recorded.rootfs_size_bytes,
        rootfs_sha256: None,
        kernel_sha256: Some(recorded.kernel_sha256),
        initrd_sha256: recorded.initrd_sha256,
        has_modules: recorded.has_modules,
        kernel_name: recorded.kernel_name,
        image_config: recorded.config,
        boot: recorded
            .boot
            .and_then(|boot| serde_json::to_value(boot).ok()),
        original: recorded
            .original
            .and_then(|original| serde_json::to_value(original).ok()),
        created_at: recorded.created_at,
        created_by: recorded.owner_uid,
    }
}

/// The number last tried for each name, so that a thousand images that had one name, each
/// forgotten before the next, do not try a million.
#[derive(Debug, Default)]
struct Numbers(HashMap<ImageName, u32>);

impl Numbers {
    /// Finds a free name: `<name>-recovered`, else with a number behind it, from 2 on.
    fn free_name(
        &mut self,
        tx: &WriteTransaction<'_>,
        name: &ImageName,
    ) -> Result<ImageName, StoreError> {
        let number = self.0.entry(name.clone()).or_insert(0);
        loop {
            *number += 1;
            let candidate = recovered_name(name, *number);
            if names::holder_of(tx, &candidate)?.is_none() {
                return Ok(candidate);
            }
        }
    }
}

/// Makes the `number`th name for what was called `name`, cut where it would be too long.
#[expect(
    clippy::expect_used,
    reason = "a name cut behind a letter or digit is one, and so is it with a suffix of words"
)]
fn recovered_name(name: &ImageName, number: u32) -> ImageName {
    let suffix = match number {
        0 | 1 => SUFFIX.to_owned(),
        number => format!("{SUFFIX}-{number}"),
    };
    // Names are ASCII, so any place is one to cut at; a separator must not stand at the cut.
    let room = NAME_MAX - suffix.len();
    let base = name.as_str().get(..room).unwrap_or(name.as_str());
    let base = base.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    let text = format!("{base}{suffix}");
    text.parse().expect("the front of a name and a suffix")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kiln_artifacts::names::{IMAGE_JSON, KERNEL, ROOTFS};

    use super::*;

    /// Documents of six megabytes: three of them are enough for one transaction.
    #[test]
    fn a_batch_ends_with_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path()).unwrap();
        let candidates: Vec<VersionId> = (0..4)
            .map(|n| {
                format!("0b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e{n}")
                    .parse()
                    .unwrap()
            })
            .collect();
        let digest = kiln_domain::Digest::of(b"");
        for id in &candidates {
            let place = folder.path().join(id.to_string());
            fs::create_dir(&place).unwrap();
            fs::write(place.join(ROOTFS), "").unwrap();
            fs::write(place.join(KERNEL), "").unwrap();
            let document = serde_json::json!({
                "format": 1, "image_id": id, "version_id": id, "version": "v1.0.0", "name": "web",
                "owner_uid": 0, "created_at": "2024-03-01T00:00:00.000000Z",
                "platform": "linux/amd64",
                "source": {"kind": "file", "reference": "web", "blobs": []},
                "rootfs": {"size_bytes": 0},
                "kernel": {"sha256": digest, "has_modules": false},
                "config": {"User": "u".repeat(6 << 20)},
            });
            fs::write(place.join(IMAGE_JSON), document.to_string()).unwrap();
        }
        let torn = folder.path().join(candidates[0].to_string());
        fs::write(torn.join(IMAGE_JSON), "{").unwrap();
        let mut candidates = [candidates.clone(), candidates].concat();
        candidates.swap(0, 4);
        let mut rest = candidates.iter();

        let batches: Vec<_> = std::iter::repeat_with(|| next_batch(&artifacts, &mut rest))
            .map(|(read, left)| (read.len(), left))
            .take(3)
            .collect();

        assert_eq!(batches, [(3, 1), (3, 1), (0, 0)]);
    }

    #[test]
    fn a_recovered_name_is_a_name_whatever_it_was_made_of() {
        let long = "a".repeat(128);
        let split = format!("{}-{}", "b".repeat(117), "c".repeat(10));
        let cases = [
            ("web", 1, "web-recovered".to_owned()),
            ("web", 2, "web-recovered-2".to_owned()),
            ("team/web", 1, "team/web-recovered".to_owned()),
            (&long, 1, format!("{}-recovered", "a".repeat(118))),
            (&long, 12, format!("{}-recovered-12", "a".repeat(115))),
            (&split, 1, format!("{}-recovered", "b".repeat(117))),
        ];
        for (name, number, want) in cases {
            let name: ImageName = name.parse().unwrap();

            assert_eq!(recovered_name(&name, number).as_str(), want);
        }
        // Wherever the cut falls, also inside a run of separators.
        for front in 100..124 {
            let text = format!(
                "{}/b__c---d{}",
                "a".repeat(front - 10),
                "e".repeat(128 - front - 2)
            );
            let name: ImageName = text[..text.len().min(128)].parse().unwrap();
            recovered_name(&name, u32::MAX);
        }
    }
}
