//! `image.pull`: from a reference to a published image.

use std::sync::Arc;

use kiln_api::image::{Boot, BootChoice, Image, Outcome, PullParams};
use kiln_api::operation::Stage;
use kiln_api::{Failure, codes};
use kiln_artifacts::Staging;
use kiln_artifacts::names::{ROOTFS, ROOTFS_SUMS};
use kiln_domain::access::Actor;
use kiln_domain::{
    Credentials, Derivation, Digest, ImageName, NameError, OperationId, OperationKind, OrgId,
    Platform, PlatformError, Secret, Source,
};
use kiln_ext4::{Profile, WRITER_VERSION};
use kiln_store::version_blobs::BlobRole;
use kiln_store::versions;

use super::Pulls;
use super::asked_size;
use super::begin::{Attendance, Makes, Opening};
use super::commit::{Derived, Finished, Origin};
use super::container_disk::may_be_disk;
use super::job::{Ids, Resting, or_cancelled, unless_cancelled};
use super::kernel_choice::{KernelWords, Wanted};
use super::shipped_kernel::{Preference, PullKernel};
use super::source_files::claim_source;
use super::twin::Twin;
use crate::board::Running;
use crate::boot::{self, boot_failure};
use crate::build::{BuildError, BuildRequest};
use crate::failures::{
    artifact_failure, build_failure, fetch_failure, host_file_failure, name_failure, of_source,
    room_failure, store_failure,
};
use crate::fetch::FetchRequest;
use crate::remotes::{identities, tls_verify};
use crate::seams::{BuildRootfs, Found, Resolved};

/// A pull whose every word was understood.
#[derive(Debug)]
struct Checked {
    source: Source,
    name: ImageName,
    platform: Platform,
    kernel: KernelWords,
    preference: Preference,
    boot: BootChoice,
    size_bytes: Option<u64>,
}

/// Why a pull's words were not understood.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error(transparent)]
    Source(#[from] crate::remotes::NameError),
    #[error("no image name follows from {reference:?}")]
    NoName { reference: String },
    #[error("the name that follows from {reference:?} cannot be used")]
    DerivedName {
        reference: String,
        source: NameError,
    },
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

/// What the job takes along.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) ids: Ids,
    request: FetchRequest,
    pub(super) name: ImageName,
    pub(super) actor: Actor,
    pub(super) org: Option<OrgId>,
    pub(super) kernel: PullKernel,
    pub(super) boot: BootChoice,
    pub(super) size_bytes: Option<u64>,
}

impl Pulls {
    /// Pulls an image; the work goes on when the caller hangs up.
    pub async fn pull(&self, actor: &Actor, params: PullParams) -> Result<Outcome, Failure> {
        let checked = self
            .understand(&params)
            .map_err(|error| request_failure(&error))?;
        if let Some(size_bytes) = checked.size_bytes {
            asked_size::check(size_bytes)?;
        }
        let preference = checked.preference;
        preference.check(&checked.kernel)?;
        self.records.check_name(&checked.name, actor).await?;
        let org = self
            .records
            .organization(actor, params.org.as_deref())
            .await?;
        // Handles live a minute: every file is taken before anything waits for a thread.
        let passed = params.source_files.as_ref();
        let source = claim_source(&self.files, actor, &checked.source, passed)?;
        let kernel = self.claim_pull_kernel(actor, preference, checked.kernel)?;
        let (artifacts, size_bytes) = (self.artifacts.clone(), checked.size_bytes);
        let files = self
            .look(move || {
                if let Some(size_bytes) = size_bytes {
                    asked_size::check_host(&artifacts, size_bytes)?;
                }
                source.open().map_err(|error| host_file_failure(&error))
            })
            .await?;
        let wanted = Wanted {
            architecture: checked.platform.architecture(),
            boot: checked.boot,
        };
        let kernel = self.choose_pull_kernel(preference, kernel, wanted).await?;
        let ids = Ids::random();
        let opening = Opening {
            makes: Makes::Version {
                name: checked.name.clone(),
                id: ids.version_id,
            },
            kind: OperationKind::ImagePull,
            actor: *actor,
            subject: checked.source.to_string(),
            params: recorded(&params),
        };
        let tls = tls_verify(params.tls_verify);
        let others = params.mirror_credentials;
        let identities = identities(&checked.source, params.credentials, others);
        let job = Job {
            ids,
            request: FetchRequest {
                source: checked.source,
                files,
                platform: checked.platform,
                identities,
                tls,
            },
            name: checked.name,
            actor: *actor,
            org,
            kernel,
            boot: checked.boot,
            size_bytes: checked.size_bytes,
        };
        self.launch(
            opening,
            Attendance::of(params.detach),
            |desk, id, running| async move {
                let source = job.request.source.clone();
                let done = desk.run_pull(id, job, running).await;
                done.map_err(|failure| of_source(&source, failure))
            },
        )
        .await
    }

    fn understand(&self, params: &PullParams) -> Result<Checked, RequestError> {
        let source = self.records.remotes.source(&params.reference)?;
        let name = match &params.name {
            Some(name) => name.clone(),
            None => derive_name(&source, &params.reference)?,
        };
        let platform = match &params.platform {
            Some(text) => text.parse()?,
            None => Platform::linux(self.records.architecture),
        };
        let kernel = KernelWords {
            kernel_ref: params.kernel_ref.clone(),
            kernel_path: params.kernel_path.clone(),
            initrd_path: params.initrd_path.clone(),
            modules_dir: params.modules_dir.clone(),
        };
        Ok(Checked {
            source,
            name,
            platform,
            kernel,
            preference: Preference::of(params.prefer_shipped_kernel),
            boot: params.boot,
            size_bytes: params.size_bytes,
        })
    }

    /// The job: resolve, fetch, build, stage, publish, commit.
    async fn run_pull(
        self,
        id: OperationId,
        job: Job,
        running: Arc<Running>,
    ) -> Result<Image, Failure> {
        running.enter(Stage::Resolve);
        let resolving = self.fetch.resolve(&job.request, &running);
        let resolved = match or_cancelled(&running, resolving, fetch_failure).await? {
            Found::Image(resolved) => *resolved,
            Found::Bootable(bootable) => {
                return self.run_bootable(id, job, *bootable, running).await;
            }
        };
        if may_be_disk(&resolved) {
            let found = self
                .container_disk(&job.request, &resolved, &running)
                .await?;
            if let Some(found) = found {
                let work = self.run_container_disk(id, job, resolved, found, running);
                return Box::pin(work).await;
            }
        }
        let chosen = job.kernel.without_shipped()?;
        let container = &resolved.config.config;
        let plan = boot::plan(job.boot, chosen.own_initrd(), Some(container))
            .map_err(|error| boot_failure(&error))?;
        let view = plan.view.clone();
        let derived = derive(&resolved, job.size_bytes);
        let ids = job.ids;
        let staging = self.stage(ids).await?;
        let knowing = self.fetch.knows(&resolved);
        let twin = if or_cancelled(&running, knowing, fetch_failure).await? {
            self.twin(&derived.digest).await?
        } else {
            None
        };
        let (staging, rootfs_size_bytes) = match twin {
            Some(twin) => self.copy_rootfs(staging, twin, &running).await?,
            None => {
                self.build_rootfs(staging, &job.request, &resolved, &derived, &running)
                    .await?
            }
        };
        let staged = self.stage_kernel(staging, chosen, plan, &running);
        let (staging, kernel) = staged.await?;
        let config_blob = resolved
            .blobs
            .iter()
            .find(|blob| blob.role == BlobRole::Config);
        let finished = Finished {
            operation_id: id,
            image_id: ids.image_id,
            version_id: ids.version_id,
            name: job.name,
            actor: job.actor,
            org: job.org,
            architecture: resolved.platform.architecture(),
            rootfs_size_bytes,
            boot: Boot {
                monitors: kernel.monitors.clone(),
                ..view
            },
            kernel,
            origin: Origin {
                source_kind: resolved.source_kind,
                source_reference: resolved.source_reference.clone(),
                manifest_digest: Some(resolved.manifest_digest),
                config_digest: config_blob.map(|blob| blob.digest),
                original: None,
                derivation: Some(derived),
                image_config: resolved.container_config(),
                blobs: resolved.blobs,
            },
        };
        self.records.publish(staging, finished, &running).await
    }

    /// Finds a published root filesystem with the same derivation: its bytes are the ones wanted.
    async fn twin(&self, derivation: &Digest) -> Result<Option<Twin>, Failure> {
        let derivation = *derivation;
        let found = self
            .records
            .store
            .read(move |tx| versions::by_derivation(tx, &derivation))
            .await;
        let Some(row) = found.map_err(|error| store_failure(&error))? else {
            return Ok(None);
        };
        let artifacts = self.artifacts.clone();
        // A directory that vanished under us is no reason to fail: then it is built.
        self.look(move || Ok(Twin::open(&artifacts, row.id).unwrap_or_default()))
            .await
    }

    async fn copy_rootfs(
        &self,
        staging: Staging,
        twin: Twin,
        running: &Arc<Running>,
    ) -> Result<(Staging, u64), Failure> {
        running.enter(Stage::Build);
        let cancel = running.work().clone();
        // A staging area that came to nothing is removed there, too.
        let images = self.records.images.clone();
        let spare = self.records.spare.clone();
        let work = move || {
            spare
                .room_for(|| twin.check_room(&images))
                .map_err(|error| room_failure(&error, &error))?;
            let copied = twin.copy_into(&staging, &cancel);
            let size = copied.map_err(|error| artifact_failure(&error))?;
            Ok((staging, size))
        };
        let copied = self.on_build_pool(running, work).await?;
        copied.map_err(|failure| unless_cancelled(running, failure))
    }

    /// Refuses a pull that has no room, before anything of it is fetched.
    pub(super) async fn check_room(
        &self,
        resolved: &Resolved,
        running: &Running,
    ) -> Result<(), Failure> {
        let needs = or_cancelled(running, self.fetch.needs(resolved), fetch_failure).await?;
        needs.check().map_err(|error| room_failure(&error, &error))
    }

    async fn build_rootfs(
        &self,
        staging: Staging,
        request: &FetchRequest,
        resolved: &Resolved,
        derived: &Derived,
        running: &Arc<Running>,
    ) -> Result<(Staging, u64), Failure> {
        running.enter(Stage::Fetch);
        let staging = Resting::new(staging, running);
        self.check_room(resolved, running).await?;
        let fetching = self.fetch.layers(request, resolved, running);
        let packs = or_cancelled(running, fetching, fetch_failure).await?;
        let staging = staging.wake();
        running.enter(Stage::Merge);
        let (builder, entry) = (self.build.clone(), running.clone());
        let derivation = derived.clone();
        let images = self.records.images.clone();
        let spare = self.records.spare.clone();
        let work = move || {
            let request = BuildRequest {
                packs,
                derivation: derivation.digest,
                epoch: derivation.epoch,
                size_bytes: derivation.size_bytes,
                directory: images,
                spare,
            };
            let outcome = build_into(&*builder, &staging, request, &entry);
            outcome.map(|size| (staging, size))
        };
        let outcome = self.on_build_pool(running, work).await?;
        outcome.map_err(|failure| unless_cancelled(running, failure))
    }
}

/// Builds the root filesystem and its checksums into staging. It blocks.
fn build_into(
    build: &dyn BuildRootfs,
    staging: &Staging,
    request: BuildRequest,
    running: &Running,
) -> Result<u64, Failure> {
    let output = staging
        .create(ROOTFS)
        .map_err(|error| artifact_failure(&error))?;
    let outcome = build
        .build(request, &output, running)
        .map_err(|error: BuildError| build_failure(&error))?;
    staging
        .write(ROOTFS_SUMS, &outcome.sums)
        .map_err(|error| artifact_failure(&error))?;
    Ok(outcome.size_bytes)
}

fn derive(resolved: &Resolved, size_bytes: Option<u64>) -> Derived {
    let profile = Profile::RwV1.as_str();
    let epoch = resolved.config.created_seconds().unwrap_or(0);
    let derivation = Derivation {
        diff_ids: resolved.config.diff_ids(),
        profile,
        writer_version: WRITER_VERSION,
        size_bytes,
        epoch,
    };
    Derived {
        digest: derivation.digest(),
        profile,
        writer_version: WRITER_VERSION,
        size_bytes,
        epoch,
    }
}

fn derive_name(source: &Source, reference: &str) -> Result<ImageName, RequestError> {
    let Some(name) = source.derived_image_name() else {
        return Err(RequestError::NoName {
            reference: reference.to_owned(),
        });
    };
    let derived = name.parse::<ImageName>();
    let derived = derived.and_then(|name| name.refuse_id().map(|()| name));
    derived.map_err(|source| RequestError::DerivedName {
        reference: reference.to_owned(),
        source,
    })
}

/// Takes credentials into the type that never shows its secret. The user name `<token>` is how
/// credential helpers mark an identity token.
pub(crate) fn credentials(given: kiln_api::image::Credentials) -> Credentials {
    let secret = Secret::new(given.secret);
    if given.username == "<token>" {
        return Credentials::IdentityToken(secret);
    }
    Credentials::Password {
        username: given.username,
        secret,
    }
}

/// The parameters as an operation records them: without credentials and handles.
fn recorded(params: &PullParams) -> serde_json::Value {
    serde_json::json!({
        "ref": params.reference,
        "name": params.name,
        "kernel_ref": params.kernel_ref,
        "boot": params.boot,
        "size_bytes": params.size_bytes,
        "platform": params.platform,
        "org": params.org,
        "tls_verify": params.tls_verify,
    })
}

fn request_failure(error: &RequestError) -> Failure {
    match error {
        RequestError::Source(error) => name_failure(error),
        RequestError::NoName { .. } | RequestError::DerivedName { .. } => {
            Failure::from_error(codes::image::NAME_INVALID, error)
                .with_hint("name the image with --name", None)
        }
        RequestError::Platform(_) => Failure::from_error(codes::source::INVALID_PLATFORM, error),
    }
}
