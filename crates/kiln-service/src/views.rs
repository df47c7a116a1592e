//! Rows of the store as the wire shows them.
//!
//! What a caller may see is decided before.

use std::path::Path;

use kiln_api::image::{Image, ImageKernel, Rootfs, Source, Version};
use kiln_api::instance::Instance;
use kiln_api::operation::Operation;
use kiln_api::{Failure, codes, event, kernel};
use kiln_artifacts::names::{INITRD, KERNEL, MODULES, ROOTFS};
use kiln_domain::{OperationId, OperationKind, OperationState, TagName};
use kiln_store::events::{EventActor, EventRow};
use kiln_store::images::{Custody, ImageRow};
use kiln_store::instances::InstanceRow;
use kiln_store::kernels::KernelRow;
use kiln_store::operations::OperationRow;
use kiln_store::versions::VersionRow;
use kiln_vmm::generic_kernel_arguments;

use crate::board::Running;

/// Shows an image with one of its versions; `images` is where artifact directories are.
pub(crate) fn image(
    images: &Path,
    row: ImageRow,
    version: VersionRow,
    tags: Vec<TagName>,
) -> Image {
    let folder = images.join(version.id.to_string());
    let below = |name: &str| folder.join(name).display().to_string();
    let kernel_arguments = generic_kernel_arguments(machine(&version.architecture));
    Image {
        id: row.id,
        name: row.name,
        state: row.state,
        is_active: row.state.is_active(),
        managed: row.custody == Custody::Managed,
        owner_uid: row.owner_id,
        org_id: row.org_id,
        visibility: row.visibility,
        revision: row.revision,
        kind: row.kind,
        architecture: version.architecture,
        artifact_dir: folder.display().to_string(),
        rootfs: Rootfs {
            path: below(ROOTFS),
            size_bytes: version.rootfs_size_bytes,
            derivation: version.derivation.map(|digest| digest.to_string()),
            sha256: version.rootfs_sha256.map(|digest| digest.to_string()),
        },
        kernel: ImageKernel {
            path: below(KERNEL),
            sha256: version
                .kernel_sha256
                .map(|digest| digest.to_string())
                .unwrap_or_default(),
            name: version.kernel_name.map(|name| name.to_string()),
            initrd_path: version.initrd_sha256.map(|_| below(INITRD)),
            modules_path: version.has_modules.then(|| below(MODULES)),
        },
        kernel_arguments,
        // What cannot be read was written by another Kiln: it is left out, not made up.
        boot: version
            .boot
            .and_then(|boot| serde_json::from_value(boot).ok()),
        source: Source {
            kind: version.source_kind,
            reference: version.source_reference.unwrap_or_default(),
            manifest_digest: version.manifest_digest.map(|digest| digest.to_string()),
            original: version
                .original
                .and_then(|original| serde_json::from_value(original).ok()),
        },
        version: Version {
            id: version.id,
            number: version.number,
        },
        tags,
        description: row.description,
        labels: row.labels,
        keywords: row.keywords,
        declared_size_bytes: row.declared_size_bytes,
        limits: Vec::new(),
        remote: None,
        in_use: None,
        aliases: Vec::new(),
        leases: Vec::new(),
        config: version.image_config,
        created_at: row.created_at.to_string(),
        updated_at: row.updated_at.to_string(),
        deleted_at: row.deleted_at.map(|at| at.to_string()),
    }
}

/// The processor of a machine that runs an architecture.
fn machine(architecture: &str) -> kiln_vmm::Architecture {
    match architecture {
        "arm64" => kiln_vmm::Architecture::Arm64,
        _ => kiln_vmm::Architecture::Amd64,
    }
}

/// Shows an operation; `live` is its entry on the board when it is running in this process.
pub(crate) fn operation(mut row: OperationRow, live: Option<&Running>) -> Operation {
    let unrecorded = live.and_then(Running::unrecorded).cloned();
    if let Some(failure) = &unrecorded {
        row.result = live.and_then(Running::kept).map(|kept| kept.result.clone());
        row.state = if failure.is(codes::operation::CANCELLED) {
            OperationState::Cancelled
        } else {
            OperationState::Failed
        };
    }
    let stored = row
        .progress
        .and_then(|progress| serde_json::from_value(progress).ok());
    let error = row
        .error
        .and_then(|error| serde_json::from_value::<Failure>(error).ok());
    // A result or error that an older daemon wrote differently is left out, not made up.
    let (mut result, mut kernel, mut transfer, mut synced, mut purged) =
        (None, None, None, None, None);
    match (row.kind, row.result) {
        (_, None) => {}
        (OperationKind::KernelPull, Some(value)) => kernel = serde_json::from_value(value).ok(),
        (OperationKind::ImagePull | OperationKind::ImageRegister, Some(value)) => {
            result = serde_json::from_value(value).ok();
        }
        (OperationKind::ImagePush | OperationKind::RegistryCopy, Some(value)) => {
            transfer = serde_json::from_value(value).ok();
        }
        (OperationKind::RegistrySync, Some(value)) => synced = serde_json::from_value(value).ok(),
        (OperationKind::ImagePurge, Some(value)) => purged = serde_json::from_value(value).ok(),
    }
    Operation {
        id: row.id,
        kind: row.kind,
        state: row.state,
        subject: row.subject,
        owner_uid: row.owner_uid,
        progress: live.map(Running::progress).or(stored),
        watchers: live.map(|running| running.watchers().count() as u64),
        result,
        kernel,
        transfer,
        synced,
        purged,
        error: unrecorded
            .or(error)
            .or_else(|| interruption(row.id, row.state)),
        created_at: row.created_at.to_string(),
        updated_at: row.updated_at.to_string(),
        finished_at: row.finished_at.map(|at| at.to_string()),
    }
}

/// Says why an operation ended that could not say it itself.
fn interruption(id: OperationId, state: OperationState) -> Option<Failure> {
    (state == OperationState::Interrupted).then(|| {
        let message = format!("the daemon ended while operation {id} was running");
        Failure::new(codes::operation::INTERRUPTED, message).with_operation(id)
    })
}

/// Shows a machine.
pub(crate) fn instance(row: InstanceRow) -> Instance {
    let (monitor, accelerator) = row
        .running
        .map(|under| (under.monitor, under.accelerator))
        .unzip();
    Instance {
        id: row.id,
        name: row.name,
        state: row.state,
        owner_uid: row.owner_uid,
        image_id: row.image_id,
        image_name: row.image_name,
        version_id: row.version_id,
        pid: row.process.pid,
        pid_started: row.process.started.ticks(),
        monitor,
        accelerator,
        directory: row.directory,
        console_path: row.console_path,
        cpus: row.cpus,
        memory_bytes: row.memory_bytes,
        // Ports that an older daemon wrote differently are left out, not made up.
        ports: serde_json::from_value(row.ports).unwrap_or_default(),
        exit_code: row.end.exit_code,
        reason: row.end.reason,
        created_at: row.created_at.to_string(),
        started_at: row.started_at.map(|at| at.to_string()),
        ended_at: row.ended_at.map(|at| at.to_string()),
    }
}

/// Shows an event.
pub(crate) fn event(row: EventRow) -> event::Event {
    event::Event {
        seq: u64::try_from(row.seq).unwrap_or_default(),
        at: row.at.to_string(),
        actor: match row.actor {
            EventActor::Unix(uid) => format!("unix:{uid}"),
            EventActor::Daemon => "daemon".to_owned(),
        },
        kind: row.kind,
        object_kind: row.object.kind.as_str().to_owned(),
        object_id: row.object.id,
        data: row.data,
    }
}

/// Shows a kernel; `kernels` is where the catalogue's directories are.
pub(crate) fn kernel(kernels: &Path, row: KernelRow) -> kernel::Kernel {
    let folder = kernels.join(row.name.as_str());
    let below = |name: &str| folder.join(name).display().to_string();
    kernel::Kernel {
        version: row.version,
        architecture: row.architecture,
        format: row.format,
        sha256: row.sha256.to_string(),
        size_bytes: row.size_bytes,
        path: below(KERNEL),
        elf_path: row.has_elf.then(|| below("vmlinux")),
        initrd_path: row.initrd_sha256.map(|_| below(INITRD)),
        modules_path: row.has_modules.then(|| below(MODULES)),
        is_default: row.is_default,
        owner_uid: row.owner_id,
        created_at: row.created_at.to_string(),
        name: row.name,
    }
}
