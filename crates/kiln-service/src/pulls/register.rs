//! `image.register`: an existing root filesystem becomes an image.

use std::fs::File;
use std::sync::Arc;

use kiln_api::image::{Boot, Image, Outcome, RegisterParams};
use kiln_api::operation::Stage;
use kiln_api::{Failure, HostFile, codes};
use kiln_artifacts::names::ROOTFS;
use kiln_domain::access::Actor;
use kiln_domain::{Architecture, ImageName, OperationId, OperationKind, PlatformError};

use super::Pulls;
use super::begin::{Attendance, Makes, Opening};
use super::commit::{Finished, Origin};
use super::job::{Ids, unless_cancelled};
use super::kernel_choice::{ChosenKernel, KernelWords, Wanted, choice_failure};
use super::rootfs_probe::probe;
use crate::board::Running;
use crate::boot::{self, BootPlan, boot_failure};
use crate::failures::{artifact_failure, host_file_failure, probe_failure};

/// What the job takes along.
#[derive(Debug)]
struct Job {
    ids: Ids,
    name: ImageName,
    actor: Actor,
    architecture: Architecture,
    rootfs: File,
    reference: String,
    kernel: ChosenKernel,
    plan: BootPlan,
}

impl Pulls {
    /// Registers a root filesystem by copying it; the caller's file may go afterwards.
    pub async fn register(
        &self,
        actor: &Actor,
        params: RegisterParams,
    ) -> Result<Outcome, Failure> {
        let architecture = match &params.architecture {
            None => self.records.architecture,
            Some(word) => word.parse().map_err(|error: PlatformError| {
                Failure::from_error(codes::source::INVALID_PLATFORM, &error)
            })?,
        };
        let words = KernelWords {
            kernel_ref: params.kernel_ref,
            kernel_path: params.kernel_path,
            initrd_path: params.initrd_path,
            modules_dir: params.modules_dir,
        };
        words.check().map_err(|error| choice_failure(&error))?;
        self.records.check_name(&params.name, actor).await?;
        let rootfs = self
            .files
            .claim(actor, &params.rootfs_path)
            .map_err(|error| host_file_failure(&error))?;
        let kernel = self.claim_kernel(actor, words)?;
        let wanted = Wanted {
            architecture,
            boot: params.boot,
        };
        let kernel = self.choose_kernel(kernel, wanted).await?;
        let plan = boot::plan(params.boot, kernel.own_initrd(), None)
            .map_err(|error| boot_failure(&error))?;
        let look = move || {
            let rootfs = rootfs.file().map_err(|error| host_file_failure(&error))?;
            probe(&rootfs).map_err(|error| probe_failure(&error))?;
            Ok(rootfs)
        };
        let rootfs = self.look(look).await?;
        let reference = match &params.rootfs_path {
            HostFile::Path(path) => path.display().to_string(),
            HostFile::Handle(_) => "passed descriptor".to_owned(),
        };
        let ids = Ids::random();
        let opening = Opening {
            makes: Makes::Version {
                name: params.name.clone(),
                id: ids.version_id,
            },
            kind: OperationKind::ImageRegister,
            actor: *actor,
            subject: params.name.to_string(),
            params: serde_json::json!({ "name": params.name, "rootfs": reference }),
        };
        let job = Job {
            ids,
            name: params.name,
            actor: *actor,
            architecture,
            rootfs,
            reference,
            kernel,
            plan,
        };
        self.launch(
            opening,
            Attendance::of(params.detach),
            |desk, id, running| desk.run_register(id, job, running),
        )
        .await
    }

    async fn run_register(
        self,
        id: OperationId,
        job: Job,
        running: Arc<Running>,
    ) -> Result<Image, Failure> {
        running.enter(Stage::Build);
        let ids = job.ids;
        let staging = self.stage(ids).await?;
        let (rootfs, cancel) = (job.rootfs, running.work().clone());
        let work = move || {
            let copied = staging.copy_in(&rootfs, ROOTFS, cancel.flag());
            copied.map(|copied| (staging, copied))
        };
        let copied = self.on_build_pool(&running, work).await?;
        let (staging, copied) =
            copied.map_err(|error| unless_cancelled(&running, artifact_failure(&error)))?;
        let view = job.plan.view.clone();
        let staged = self.stage_kernel(staging, job.kernel, job.plan, &running);
        let (staging, kernel) = staged.await?;
        let finished = Finished {
            operation_id: id,
            image_id: ids.image_id,
            version_id: ids.version_id,
            name: job.name,
            actor: job.actor,
            org: None,
            architecture: job.architecture,
            rootfs_size_bytes: copied.size_bytes,
            boot: Boot {
                monitors: kernel.monitors.clone(),
                ..view
            },
            kernel,
            origin: Origin {
                source_kind: "file",
                source_reference: job.reference,
                manifest_digest: None,
                config_digest: None,
                original: None,
                derivation: None,
                image_config: None,
                blobs: Vec::new(),
            },
        };
        self.records.publish(staging, finished, &running).await
    }
}
