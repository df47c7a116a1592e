//! The end of a pull whose source is an image that was built elsewhere: nothing is built.
//!
//! ```text
//! artifact ─▶ here already? copy ─▶ rootfs.ext4 ─▶ ext4? sums right? ─┐
//!         │          else chunks ─┘                                   │
//!         └─▶ kernel, initrd, modules, as they are ───────────────────┴─▶ stage, publish, commit
//! ```
//! A kernel that the caller named takes the place of the one that comes along, and then the initrd
//! is composed as for any image. What an artifact says about the derivation of its bytes would be
//! believed by other pulls, so nothing of the kind is kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_api::image::{Boot, BootChoice, DiskFormat, Image, Original, TakenDisk};
use kiln_api::operation::Stage;
use kiln_api::{Failure, codes};
use kiln_artifacts::Staging;
use kiln_artifacts::names::{ROOTFS, ROOTFS_SUMS};
use kiln_bootable::{Format, Taken};
use kiln_domain::oci::bootable::{BootWords, MAX_SUMS_BYTES, Part};
use kiln_domain::oci::{ContainerConfig, Descriptor};
use kiln_domain::{Architecture, OperationId};
use kiln_ext4::{Sums, SumsError, VerifyError};
use kiln_kernel::{KernelFiles, ModulesSource};

use super::Pulls;
use super::commit::{Finished, Origin};
use super::job::{Ids, Resting, or_cancelled, unless_cancelled};
use super::kernel_choice::{ChoiceError, ChosenKernel, choice_failure};
use super::pull::Job;
use super::rootfs_probe::{ProbeError, probe};
use crate::board::Running;
use crate::boot::{self, BootPlan, boot_failure};
use crate::failures::{
    artifact_failure, catalogue_failure, fetch_failure, pool_failure, room_failure, storage_code,
};
use crate::seams::{Bootable, BootableFiles, BootableTarget};
use crate::space::Space;

/// The files that came along, besides the root filesystem.
#[derive(Debug)]
pub(super) struct Shipped {
    pub(super) kernel: File,
    pub(super) initrd: Option<File>,
    pub(super) modules: Option<File>,
}

/// A part of an artifact besides the root filesystem, and the layer that it is.
pub(super) type WantedPart = (Part, Descriptor);

/// The files of parts, each open at its beginning.
pub(super) type PartFiles = BTreeMap<Part, File>;

/// The root filesystem, judged, in a staging directory, and the files that go with it.
#[derive(Debug)]
pub(super) struct Obtained {
    pub(super) staging: Resting<Staging>,
    pub(super) rootfs_size_bytes: u64,
    /// What it was taken out of, where that was more than the filesystem.
    pub(super) disk: Option<TakenDisk>,
    pub(super) files: PartFiles,
}

/// Shows what a root filesystem was taken out of.
pub(super) fn shown_disk(taken: Taken) -> TakenDisk {
    TakenDisk {
        format: match taken.format {
            Format::Raw => DiskFormat::Raw,
            Format::Qcow2 => DiskFormat::Qcow2,
        },
        partition: taken.partition,
    }
}

/// The kernel an image gets, and how it boots with it.
#[derive(Debug)]
pub(super) struct Booting {
    pub(super) kernel: ChosenKernel,
    pub(super) plan: BootPlan,
    /// Monitors that the artifact names; with a kernel of ours they are known here.
    pub(super) monitors: Option<Vec<String>>,
}

/// Why the root filesystem that was put together is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootfsError {
    #[error("the root filesystem of the artifact cannot be used")]
    Probe(#[from] ProbeError),
    #[error("the checksums that came with the root filesystem cannot be used")]
    Sums(#[from] SumsError),
    #[error(
        "the root filesystem is not the one that its checksums are of: at least {blocks} blocks \
         differ, the first is {first}"
    )]
    Differs { blocks: u64, first: u64 },
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error("cannot read the checksums that came with the root filesystem")]
    Read(#[source] std::io::Error),
    #[error(transparent)]
    Artifact(#[from] kiln_artifacts::ArtifactError),
}

#[derive(Debug, thiserror::Error)]
#[error("a bootable artifact has the size that it was built with, and {size_bytes} was asked for")]
pub(super) struct SizeAsked {
    pub(super) size_bytes: u64,
}

impl SizeAsked {
    pub(super) fn failure(&self) -> Failure {
        Failure::from_error(codes::source::UNSUPPORTED, self).with_hint(
            "leave --size out; kiln checkout --size makes a larger copy of an image",
            None,
        )
    }
}

/// Why no file could be made as long as the root filesystem.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a file of {size_bytes} bytes for the root filesystem among the images")]
pub(super) struct LengthError {
    pub(super) size_bytes: u64,
    pub(super) source: std::io::Error,
}

/// The host's own file system has a longest file: ext4's ends one block below 16 TiB.
pub(super) fn length_failure(error: &LengthError) -> Failure {
    match error.source.kind() {
        std::io::ErrorKind::FileTooLarge => Failure::from_error(codes::rootfs::CANNOT_HOLD, error)
            .with_hint(
                "the file system below the daemon's state directory holds no file of that length: \
                 ext4's longest ends one block below 16 TiB, XFS holds longer ones",
                None,
            ),
        _ => Failure::from_error(storage_code(&error.source), error),
    }
}

/// What the image was made from where it was built, as the artifact says.
fn original(bootable: &Bootable) -> Option<Original> {
    let source = bootable.original.clone()?;
    Some(Original {
        reference: source.reference,
        manifest_digest: source.manifest_digest.map(|digest| digest.to_string()),
    })
}

impl Pulls {
    /// The job from where the source turned out to be a bootable artifact.
    pub(super) async fn run_bootable(
        self,
        id: OperationId,
        job: Job,
        bootable: Bootable,
        running: Arc<Running>,
    ) -> Result<Image, Failure> {
        if let Some(size_bytes) = job.size_bytes {
            return Err(SizeAsked { size_bytes }.failure());
        }
        let parts = &bootable.parts;
        let named = match &parts.kernel {
            Some(_) => job.kernel.unless_shipped(),
            None => Some(job.kernel.without_shipped()?),
        };
        let mut wanted = wanted(&[(Part::Sums, &parts.sums)]);
        if named.is_none() {
            wanted.extend(self::wanted(&[
                (Part::Kernel, &parts.kernel),
                (Part::Initrd, &parts.initrd),
                (Part::Modules, &parts.modules),
            ]));
        }
        let here = self.take_here(job.ids, &job.actor, &bootable, &wanted, &running);
        let obtained = match here.await? {
            Some(obtained) => obtained,
            None => {
                self.fetch_parts(job.ids, &bootable, &wanted, &running)
                    .await?
            }
        };
        let Obtained {
            staging,
            rootfs_size_bytes,
            disk,
            mut files,
        } = obtained;
        let mut next = |part: Part| files.remove(&part);
        let booting = if let Some(kernel) = named {
            named_kernel(kernel, job.boot, bootable.container.as_ref())?
        } else {
            let missing = || Failure::new(codes::daemon::INTERNAL, "the kernel is missing");
            let shipped = Shipped {
                kernel: next(Part::Kernel).ok_or_else(missing)?,
                initrd: next(Part::Initrd),
                modules: next(Part::Modules),
            };
            let wanted = bootable.platform.architecture();
            self.check_kernel(&shipped.kernel, wanted).await?;
            if job.boot == BootChoice::Auto {
                let boot = shipped_boot(bootable.boot.as_ref());
                self.check_initrd(&boot, shipped.initrd.as_ref()).await?;
            }
            let container = bootable.container.as_ref();
            shipped_kernel(shipped, job.boot, container, bootable.boot.as_ref())?
        };
        let staging = staging.wake();
        let view = booting.plan.view.clone();
        let staged = self.stage_kernel(staging, booting.kernel, booting.plan, &running);
        let (staging, kernel) = staged.await?;
        let monitors = booting.monitors.unwrap_or_else(|| kernel.monitors.clone());
        let finished = Finished {
            operation_id: id,
            image_id: job.ids.image_id,
            version_id: job.ids.version_id,
            name: job.name,
            actor: job.actor,
            org: job.org,
            architecture: bootable.platform.architecture(),
            rootfs_size_bytes,
            boot: Boot {
                monitors,
                disk,
                ..view
            },
            kernel,
            origin: Origin {
                source_kind: bootable.source_kind,
                source_reference: bootable.source_reference.clone(),
                manifest_digest: Some(bootable.manifest_digest),
                config_digest: Some(bootable.config_digest),
                original: original(&bootable),
                derivation: None,
                image_config: bootable
                    .container
                    .as_ref()
                    .and_then(|config| serde_json::to_value(config).ok()),
                blobs: bootable.blobs.clone(),
            },
        };
        let image = self.records.publish(staging, finished, &running).await?;
        self.fetch.drop_chunks(&bootable).await;
        Ok(image)
    }

    /// Fetches the root filesystem and what is wanted besides, and judges it.
    async fn fetch_parts(
        &self,
        ids: Ids,
        bootable: &Bootable,
        wanted: &[WantedPart],
        running: &Arc<Running>,
    ) -> Result<Obtained, Failure> {
        running.enter(Stage::Fetch);
        let needs = self.fetch.bootable_needs(bootable);
        let needs = or_cancelled(running, needs, fetch_failure).await?;
        needs
            .check()
            .map_err(|error| room_failure(&error, &error))?;
        let (images, spare) = (self.records.images.clone(), self.records.spare.clone());
        let written = written_bytes(bootable, wanted);
        self.look(move || {
            let room = spare.room_beside(&needs.partials, || match Space::of_directory(&images) {
                Some(disk) => needs.check_with(&disk, written),
                None => Ok(()),
            });
            room.map_err(|error| room_failure(&error, &error))
        })
        .await?;
        let staging = self.stage(ids).await?;
        let size_bytes = bootable.rootfs_size_bytes.unwrap_or_default();
        let (staging, rootfs) = self.rootfs_target(staging, size_bytes).await?;
        let staging = Resting::new(staging, running);
        let fetching = self.fetch_files(bootable, wanted, Some(rootfs), running);
        let (mut files, taken) = fetching.await?;
        let sums = files.remove(&Part::Sums);
        running.enter(Stage::Build);
        let judged = self.judge_rootfs(staging.wake(), sums, running).await?;
        let (staging, rootfs_size_bytes) =
            judged.map_err(|error| unless_cancelled(running, rootfs_failure(&error)))?;
        Ok(Obtained {
            staging: Resting::new(staging, running),
            rootfs_size_bytes,
            disk: taken.map(shown_disk),
            files,
        })
    }

    /// Fetches the files of these parts, and the root filesystem where there is a place for it; tells what
    /// that was taken out of.
    pub(super) async fn fetch_files(
        &self,
        bootable: &Bootable,
        wanted: &[WantedPart],
        rootfs: Option<File>,
        running: &Arc<Running>,
    ) -> Result<(PartFiles, Option<Taken>), Failure> {
        let kernels = self.kernels.clone();
        let layers: Vec<Descriptor> = wanted.iter().map(|(_, layer)| layer.clone()).collect();
        let files = self.look(move || {
            let file = |layer| {
                let scratch = kernels.scratch();
                Ok((layer, scratch.map_err(|error| catalogue_failure(&error))?))
            };
            layers.into_iter().map(file).collect()
        });
        let target = BootableTarget {
            rootfs: rootfs.map(Arc::new),
            files: files.await?,
            directory: self.records.images.clone(),
        };
        let fetching = self.fetch.bootable(bootable, target, running);
        let BootableFiles { files, taken } = or_cancelled(running, fetching, fetch_failure).await?;
        let parts = wanted.iter().map(|(part, _)| *part);
        Ok((parts.zip(files).collect(), taken))
    }

    /// Judges a root filesystem on the build pool; `Err` inside says why it is not taken.
    pub(super) async fn judge_rootfs(
        &self,
        staging: Staging,
        sums: Option<File>,
        running: &Arc<Running>,
    ) -> Result<Result<(Staging, u64), RootfsError>, Failure> {
        let entry = running.clone();
        let check = move || {
            let checked = check_rootfs(&staging, sums, entry.work().flag());
            checked.map(|size_bytes| (staging, size_bytes))
        };
        self.on_build_pool(running, check).await
    }

    /// Makes the file that the root filesystem is fetched into.
    async fn rootfs_target(
        &self,
        staging: Staging,
        size_bytes: u64,
    ) -> Result<(Staging, File), Failure> {
        self.look(move || {
            let rootfs = staging
                .create(ROOTFS)
                .map_err(|error| artifact_failure(&error))?;
            let made = rootfs.set_len(size_bytes);
            made.map_err(|source| length_failure(&LengthError { size_bytes, source }))?;
            Ok((staging, rootfs))
        })
        .await
    }

    /// Refuses a kernel that came along and is none, or one of another architecture.
    pub(super) async fn check_kernel(
        &self,
        kernel: &File,
        wanted: Architecture,
    ) -> Result<(), Failure> {
        let duplicate = kernel.try_clone();
        let kernel =
            duplicate.map_err(|error| Failure::from_error(storage_code(&error), &error))?;
        let inspect = move || {
            let facts = kiln_kernel::inspect(&kernel, &AtomicBool::new(false))
                .map_err(|error| choice_failure(&error.into()))?;
            let found = facts.architecture;
            if found.to_string().parse() == Ok(wanted) {
                return Ok(());
            }
            Err(choice_failure(&ChoiceError::Architecture { found, wanted }))
        };
        let inspected = self.inspections.run(inspect).await;
        inspected.map_err(|error| pool_failure(&error))?
    }
}

/// Lists those of the parts that there are.
fn wanted(parts: &[(Part, &Option<Descriptor>)]) -> Vec<WantedPart> {
    let there = |(part, layer): &(Part, &Option<Descriptor>)| Some((*part, (*layer).clone()?));
    parts.iter().filter_map(there).collect()
}

/// Adds up what will lie beside the other images: the data that the artifact says it has, and the
/// files that are wanted. Of a disk that somebody else made nothing is known.
fn written_bytes(bootable: &Bootable, wanted: &[WantedPart]) -> u64 {
    let chunks = bootable.parts.disk.chunks().iter();
    let data = chunks.map(|chunk| chunk.size_bytes);
    let files = wanted.iter().map(|(_, file)| file.size_bytes);
    data.chain(files).fold(0, u64::saturating_add)
}

/// The kernel that the caller named: the initrd is composed for it.
pub(super) fn named_kernel(
    kernel: ChosenKernel,
    choice: BootChoice,
    config: Option<&ContainerConfig>,
) -> Result<Booting, Failure> {
    let plan = boot::plan(choice, kernel.own_initrd(), config);
    Ok(Booting {
        kernel,
        plan: plan.map_err(|error| boot_failure(&error))?,
        monitors: None,
    })
}

/// The kernel that came along: with its own initrd, unless the caller wants it to boot in a certain
/// way.
pub(super) fn shipped_kernel(
    shipped: Shipped,
    choice: BootChoice,
    container: Option<&ContainerConfig>,
    words: Option<&BootWords>,
) -> Result<Booting, Failure> {
    let Shipped {
        kernel,
        initrd,
        modules,
    } = shipped;
    let modules = match modules {
        None => None,
        Some(packed) => {
            let tar = kiln_bootable::inflate(packed);
            let tar = tar.map_err(|error| Failure::from_error(storage_code(&error), &error))?;
            Some(ModulesSource::Tar(Box::new(tar)))
        }
    };
    let files = |initrd| {
        ChosenKernel::Files(KernelFiles {
            kernel,
            initrd,
            modules,
        })
    };
    if choice != BootChoice::Auto {
        return named_kernel(files(None), choice, container);
    }
    // How our init boots is no more true without it; that there is none stays so.
    let words = words.filter(|words| initrd.is_some() || words.mode == "none");
    let view = shipped_boot(words);
    let monitors = Some(view.monitors.clone());
    let document = None;
    Ok(Booting {
        kernel: files(initrd),
        plan: BootPlan { document, view },
        monitors,
    })
}

/// Shows how an artifact says that it boots.
pub(super) fn shipped_boot(words: Option<&BootWords>) -> Boot {
    let word = |text: &str| serde_json::from_value(text.into()).ok();
    let known = words.and_then(|words| {
        let mode = word(&words.mode).filter(|mode| *mode != BootChoice::Auto)?;
        Some((word(&words.choice)?, mode, words))
    });
    let Some((choice, mode, words)) = known else {
        return Boot {
            choice: BootChoice::Auto,
            mode: BootChoice::None,
            init_path: None,
            reason: "the artifact does not say how it boots".to_owned(),
            monitors: Vec::new(),
            disk: None,
        };
    };
    Boot {
        choice,
        mode,
        init_path: words.init_path.clone(),
        reason: words.reason.clone(),
        monitors: words.monitors.clone(),
        disk: None,
    }
}

/// Judges the root filesystem as it lies in staging, keeps its checksums beside it, and returns its
/// length. It blocks.
fn check_rootfs(
    staging: &Staging,
    sums: Option<File>,
    cancelled: &AtomicBool,
) -> Result<u64, RootfsError> {
    let rootfs = staging.open(ROOTFS)?;
    let size_bytes = probe(&rootfs)?;
    let Some(sums) = sums else {
        return Ok(size_bytes);
    };
    let mut bytes = Vec::new();
    sums.take(MAX_SUMS_BYTES)
        .read_to_end(&mut bytes)
        .map_err(RootfsError::Read)?;
    let differing = kiln_ext4::verify(&rootfs, &Sums::decode(&bytes)?, cancelled)?;
    if let Some(first) = differing.first() {
        return Err(RootfsError::Differs {
            blocks: differing.iter().map(|range| range.end - range.start).sum(),
            first: first.start,
        });
    }
    staging.write(ROOTFS_SUMS, &bytes)?;
    Ok(size_bytes)
}

pub(super) fn rootfs_failure(error: &RootfsError) -> Failure {
    let code = match error {
        RootfsError::Probe(ProbeError::Io(source)) | RootfsError::Read(source) => {
            storage_code(source)
        }
        RootfsError::Probe(_) => codes::rootfs::NOT_EXT4,
        RootfsError::Sums(_) => codes::source::MALFORMED_MANIFEST,
        RootfsError::Differs { .. } => codes::source::DIGEST_MISMATCH,
        RootfsError::Verify(VerifyError::Cancelled) => codes::operation::CANCELLED,
        RootfsError::Verify(VerifyError::Read { source, .. }) => storage_code(source),
        RootfsError::Artifact(error) => return artifact_failure(error),
    };
    Failure::from_error(code, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_the_host_cannot_hold_is_named() {
        let failure = |source| {
            let size_bytes = 16 << 40;
            let source = std::io::Error::from(source);
            length_failure(&LengthError { size_bytes, source })
        };

        let too_long = failure(std::io::ErrorKind::FileTooLarge);
        assert_eq!(too_long.code, "rootfs.cannot_hold");
        assert!(too_long.message.contains("17592186044416 bytes"));
        assert!(too_long.hint.unwrap().text.contains("file system"));
        let full = failure(std::io::ErrorKind::StorageFull);
        assert_eq!(full.code, "storage.full");
    }
}
