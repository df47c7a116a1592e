//! The last steps of every job: write `image.json`, publish the directory, commit the rows.
//!
//! Order is the promise: files and directories are synced, then renamed, then the parent is
//! synced, then one transaction makes it known, and only then is anybody told.

use std::sync::Arc;

use kiln_api::image::{Boot, Image, Original};
use kiln_api::operation::Stage;
use kiln_api::{Failure, codes};
use kiln_artifacts::Staging;
use kiln_artifacts::names::IMAGE_JSON;
use kiln_domain::access::Actor;
use kiln_domain::{
    Architecture, Digest, ImageId, ImageName, OperationId, OrgId, TagName, VersionId, VersionKind,
    VersionNumber,
};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::images::{self, Custody, NewImage};
use kiln_store::names::ClaimError;
use kiln_store::operations::{self, Outcome};
use kiln_store::version_blobs::{self, VersionBlob};
use kiln_store::versions::{self, NewVersion};
use kiln_store::{Object, StoreError, WriteTransaction, names, tags};
use serde::Serialize;
use serde_json::Value;

use super::Records;
use super::begin::record_progress;
use super::belonging::{may_add, visibility};
use super::kernel_choice::StagedKernel;
use crate::board::Running;
use crate::digests;
use crate::failures::{artifact_failure, pool_failure, store_failure};
use crate::image_json;
use crate::orgs::{self, OrgError};
use crate::seams::SourceBlob;
use crate::views;

/// Everything known of a version once its files stand in staging.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) operation_id: OperationId,
    pub(super) image_id: ImageId,
    pub(super) version_id: VersionId,
    pub(super) name: ImageName,
    pub(super) actor: Actor,
    pub(super) org: Option<OrgId>,
    pub(super) architecture: Architecture,
    pub(super) rootfs_size_bytes: u64,
    pub(super) kernel: StagedKernel,
    pub(super) boot: Boot,
    pub(super) origin: Origin,
}

/// Where the root filesystem came from.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) source_kind: &'static str,
    pub(super) source_reference: String,
    pub(super) manifest_digest: Option<Digest>,
    pub(super) config_digest: Option<Digest>,
    pub(super) original: Option<Original>,
    pub(super) derivation: Option<Derived>,
    pub(super) image_config: Option<Value>,
    pub(super) blobs: Vec<SourceBlob>,
}

/// What a built root filesystem's bytes follow from.
#[derive(Clone, Debug)]
pub(super) struct Derived {
    pub(super) digest: Digest,
    pub(super) profile: &'static str,
    pub(super) writer_version: u32,
    pub(super) size_bytes: Option<u64>,
    pub(super) epoch: i64,
}

/// `image.json`: what an artifact directory says about itself, should the database be lost.
#[derive(Debug, Serialize)]
struct ImageJson<'a> {
    format: u32,
    image_id: ImageId,
    version_id: VersionId,
    version: VersionNumber,
    name: &'a ImageName,
    owner_uid: u32,
    created_at: String,
    builder: &'static str,
    platform: String,
    source: SourceJson<'a>,
    rootfs: RootfsJson,
    kernel: KernelJson<'a>,
    boot: &'a Boot,
    config: Option<&'a Value>,
}

#[derive(Debug, Serialize)]
struct SourceJson<'a> {
    kind: &'a str,
    reference: &'a str,
    manifest_digest: Option<Digest>,
    config_digest: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<&'a Original>,
    blobs: Vec<BlobJson>,
}

#[derive(Debug, Serialize)]
struct BlobJson {
    role: &'static str,
    digest: Digest,
    size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff_id: Option<Digest>,
}

#[derive(Debug, Serialize)]
struct RootfsJson {
    size_bytes: u64,
    derivation: Option<Digest>,
    profile: Option<&'static str>,
    writer_version: Option<u32>,
    asked_size_bytes: Option<u64>,
    epoch: Option<i64>,
}

#[derive(Debug, Serialize)]
struct KernelJson<'a> {
    name: Option<&'a str>,
    sha256: Digest,
    initrd_sha256: Option<Digest>,
    has_modules: bool,
}

impl Records {
    /// Makes a staged version durable, visible and known, in this order.
    ///
    /// When the rows cannot be committed the published directory is removed again.
    pub(super) async fn publish(
        &self,
        staging: Staging,
        mut finished: Finished,
        running: &Arc<Running>,
    ) -> Result<Image, Failure> {
        running.enter(Stage::Publish);
        let created_at = self.clock.now().to_string();
        let reference = &mut finished.origin.source_reference;
        *reference = image_json::printable(reference);
        let publish = move || {
            let document = to_json(&finished, created_at)
                .map_err(|error| Failure::from_error(codes::daemon::INTERNAL, &error))?;
            staging
                .write(IMAGE_JSON, &document)
                .and_then(|()| staging.publish())
                .map(|published| (published, finished))
                .map_err(|error| artifact_failure(&error))
        };
        let (published, finished) = self
            .build_pool
            .run(publish)
            .await
            .map_err(|error| pool_failure(&error))??;
        // What is told from here on happens now: publishing may have taken a while.
        let now = self.clock.now();
        let images = self.images.clone();
        let version_id = finished.version_id;
        let entry = running.clone();
        let progress = running.progress();
        let committed = self
            .store
            .write(move |tx| {
                // The last moment at which nobody has been told anything.
                if entry.is_cancelled() {
                    return Err(CommitError::Cancelled);
                }
                record_progress(tx, finished.operation_id, &progress, now)?;
                commit(tx, &finished, &images, now)
            })
            .await;
        match committed {
            Ok(image) => {
                // The rows may be lost one day; this stays with the directory.
                let settled = self.look_pool.run(move || published.settle()).await;
                if !matches!(settled, Ok(Ok(()))) {
                    // The next start does it, for the row is there.
                    tracing::error!(%version_id, ?settled, "cannot note that an image was answered");
                }
                Ok(image)
            }
            Err(error) => {
                let removed = self.build_pool.run(move || published.remove()).await;
                if !matches!(removed, Ok(Ok(_))) {
                    // The next start removes a directory that is noted as unanswered.
                    tracing::error!(
                        ?removed,
                        "cannot remove an image that could not be recorded"
                    );
                }
                Err(match error {
                    CommitError::Cancelled => cancelled(),
                    CommitError::Store(error) => store_failure(&error),
                    CommitError::Org(error) => orgs::failure(&error),
                    error @ (CommitError::Lost | CommitError::Claim(_)) => {
                        Failure::from_error(codes::daemon::INTERNAL, &error)
                    }
                })
            }
        }
    }
}

/// Says that a caller stopped the work.
pub(crate) fn cancelled() -> Failure {
    Failure::new(codes::operation::CANCELLED, "the operation was cancelled")
}

#[derive(Debug, thiserror::Error)]
enum CommitError {
    #[error("cancelled before the commit")]
    Cancelled,
    /// The rows were inserted by this very transaction, so this is a defect of the store.
    #[error("the rows just written cannot be read")]
    Lost,
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The organisation went, or the caller left it, while the image was made.
    #[error(transparent)]
    Org(#[from] OrgError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

/// Why a version cannot say what it is. Both are defects.
#[derive(Debug, thiserror::Error)]
enum DocumentError {
    #[error("image.json cannot be written")]
    Write(#[from] serde_json::Error),
    /// It could not be adopted, should the database be lost.
    #[error(
        "image.json would have {found} bytes; at most {} are read back",
        image_json::MAX_BYTES
    )]
    TooLong { found: usize },
}

fn to_json(finished: &Finished, created_at: String) -> Result<Vec<u8>, DocumentError> {
    let Finished { origin, kernel, .. } = finished;
    let derived = origin.derivation.as_ref();
    let document = ImageJson {
        format: image_json::FORMAT,
        image_id: finished.image_id,
        version_id: finished.version_id,
        version: VersionNumber::FIRST,
        name: &finished.name,
        owner_uid: finished.actor.uid,
        created_at,
        builder: concat!("kiln ", env!("CARGO_PKG_VERSION")),
        platform: format!("linux/{}", finished.architecture),
        source: SourceJson {
            kind: origin.source_kind,
            reference: &origin.source_reference,
            manifest_digest: origin.manifest_digest,
            config_digest: origin.config_digest,
            original: origin.original.as_ref(),
            blobs: origin
                .blobs
                .iter()
                .map(|blob| BlobJson {
                    role: blob.role.as_str(),
                    digest: blob.digest,
                    size_bytes: blob.size_bytes,
                    diff_id: blob.diff_id,
                })
                .collect(),
        },
        rootfs: RootfsJson {
            size_bytes: finished.rootfs_size_bytes,
            derivation: derived.map(|derived| derived.digest),
            profile: derived.map(|derived| derived.profile),
            writer_version: derived.map(|derived| derived.writer_version),
            asked_size_bytes: derived.and_then(|derived| derived.size_bytes),
            epoch: derived.map(|derived| derived.epoch),
        },
        kernel: KernelJson {
            name: kernel.name.as_ref().map(kiln_domain::KernelName::as_str),
            sha256: kernel.kernel_sha256,
            initrd_sha256: kernel.initrd_sha256,
            has_modules: kernel.has_modules,
        },
        boot: &finished.boot,
        config: origin.image_config.as_ref(),
    };
    let mut text = serde_json::to_vec(&document)?;
    text.push(b'\n');
    if text.len() as u64 > image_json::MAX_BYTES {
        return Err(DocumentError::TooLong { found: text.len() });
    }
    Ok(text)
}

/// Writes every row of a new image, its event and its operation's end in one transaction.
fn commit(
    tx: &WriteTransaction<'_>,
    finished: &Finished,
    images: &std::path::Path,
    now: kiln_domain::Timestamp,
) -> Result<Image, CommitError> {
    let Finished {
        origin,
        kernel,
        image_id,
        version_id,
        ..
    } = finished;
    if let Some(org) = finished.org {
        may_add(tx, &finished.actor, org)?;
    }
    images::insert(
        tx,
        &NewImage {
            id: *image_id,
            name: finished.name.clone(),
            owner_id: finished.actor.uid,
            org_id: finished.org,
            visibility: visibility(finished.org),
            kind: VersionKind::Rootfs,
            custody: Custody::Managed,
            labels: std::collections::BTreeMap::default(),
            keywords: std::collections::BTreeSet::default(),
            limits: None,
            created_at: now,
        },
    )?;
    names::claim_for_image(tx, &finished.name, *image_id, finished.operation_id)?;
    versions::insert(
        tx,
        &NewVersion {
            id: *version_id,
            image_id: *image_id,
            number: VersionNumber::FIRST,
            architecture: finished.architecture.to_string(),
            kind: VersionKind::Rootfs,
            source_kind: origin.source_kind.to_owned(),
            source_reference: Some(origin.source_reference.clone()),
            manifest_digest: origin.manifest_digest,
            config_digest: origin.config_digest,
            derivation: origin.derivation.as_ref().map(|derived| derived.digest),
            rootfs_size_bytes: finished.rootfs_size_bytes,
            rootfs_sha256: None,
            kernel_sha256: Some(kernel.kernel_sha256),
            initrd_sha256: kernel.initrd_sha256,
            has_modules: kernel.has_modules,
            kernel_name: kernel.name.clone(),
            image_config: origin.image_config.clone(),
            boot: serde_json::to_value(&finished.boot).ok(),
            original: origin
                .original
                .as_ref()
                .and_then(|original| serde_json::to_value(original).ok()),
            created_at: now,
            created_by: finished.actor.uid,
        },
    )?;
    version_blobs::insert_all(tx, *version_id, &blob_rows(&origin.blobs))?;
    digests::request(tx, *version_id, finished.rootfs_size_bytes, now)?;
    tags::set(tx, *image_id, &TagName::latest(), *version_id, now)?;
    let data = serde_json::json!({
        "name": finished.name,
        "source": origin.source_reference,
        "version_id": version_id,
        "operation_id": finished.operation_id,
    });
    let actor = EventActor::Unix(finished.actor.uid);
    let created = NewEvent {
        at: now,
        actor,
        kind: "image.created",
        object: Object::image(*image_id),
        data,
    };
    events::append(tx, &created)?;
    let image = read_back(tx, finished, images)?;
    let operation_id = finished.operation_id;
    operations::set_object(tx, operation_id, &Object::image(*image_id), now)?;
    let result = serde_json::to_value(&image).unwrap_or(Value::Null);
    operations::finish(tx, operation_id, &Outcome::Succeeded { result }, now)?;
    let data = serde_json::json!({ "image_id": image_id, "name": finished.name });
    let object = Object::operation(operation_id);
    events::append(
        tx,
        &NewEvent {
            at: now,
            actor,
            kind: "operation.succeeded",
            object,
            data,
        },
    )?;
    Ok(image)
}

/// Shows the image from the rows just written, so that the answer is what a later call reads.
fn read_back(
    tx: &WriteTransaction<'_>,
    finished: &Finished,
    images: &std::path::Path,
) -> Result<Image, CommitError> {
    let row = images::get(tx, finished.image_id)?;
    let version = versions::get(tx, finished.version_id)?;
    let (row, version) = row.zip(version).ok_or(CommitError::Lost)?;
    Ok(views::image(images, row, version, vec![TagName::latest()]))
}

fn blob_rows(blobs: &[SourceBlob]) -> Vec<VersionBlob> {
    blobs
        .iter()
        .enumerate()
        .map(|(position, blob)| VersionBlob {
            digest: blob.digest,
            role: blob.role,
            position: u32::try_from(position).unwrap_or(u32::MAX),
            size_bytes: blob.size_bytes,
            diff_id: blob.diff_id,
        })
        .collect()
}
