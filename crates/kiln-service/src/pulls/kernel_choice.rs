//! The one routine by which pull and register come to a kernel: chosen and checked before
//! anything is fetched, staged into the artifact directory later.

use std::sync::atomic::AtomicBool;

use kiln_api::image::BootChoice;
use kiln_api::{Failure, HostFile, codes};
use kiln_artifacts::names::INITRD;
use kiln_artifacts::{ArtifactError, Staging};
use kiln_domain::access::Actor;
use kiln_domain::{Architecture, Digest, KernelName};
use kiln_kernel::{
    Beside, CatalogueError, Kernel, KernelError, KernelFiles, KernelFolder, KernelForm,
    ModulesSource, StageError, Staged,
};
use kiln_store::kernels;

use super::Pulls;
use crate::boot::{BootPlan, OwnInitrd, boot_failure, check_choice};
use crate::cancel::Cancel;
use crate::failures::{
    artifact_failure, catalogue_failure, host_file_failure, kernel_failure, pool_failure,
    stage_failure, store_failure,
};
use crate::guest_initrds::{GuestInitrdError, GuestInitrds, guest_initrd_failure};
use crate::host_files::{Claim, HostFileError, HostFiles, Opened};
use crate::patient_reader::PatientReader;

/// What a call says about its kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct KernelWords {
    pub(crate) kernel_ref: Option<KernelName>,
    pub(crate) kernel_path: Option<HostFile>,
    pub(crate) initrd_path: Option<HostFile>,
    pub(crate) modules_dir: Option<HostFile>,
}

/// The word that stands for the catalogue's default kernel. No kernel can be imported under it.
pub(crate) const DEFAULT: &str = "default";

/// A kernel that was found good, with everything open that will be copied.
#[derive(Debug)]
pub(super) enum ChosenKernel {
    /// One of the catalogue.
    Catalogue(Box<Kernel>),
    /// Files the caller named.
    Files(KernelFiles),
}

/// What is chosen by, besides what a call names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// What the image runs on.
    pub(super) architecture: Architecture,
    /// How it is to boot.
    pub(super) boot: BootChoice,
}

/// What was staged.
#[derive(Clone, Debug)]
pub(super) struct StagedKernel {
    pub(super) name: Option<KernelName>,
    pub(super) kernel_sha256: Digest,
    pub(super) initrd_sha256: Option<Digest>,
    pub(super) has_modules: bool,
    /// Monitors that boot it with our init, as far as is known; none where ours is not used.
    pub(super) monitors: Vec<String>,
}

/// Why a kernel could not be chosen or staged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChoiceError {
    #[error("no kernel was named")]
    Required,
    #[error("kernel {kernel} of the catalogue and a kernel file were both named")]
    Conflict { kernel: KernelName },
    #[error("an initial ramdisk or modules were named without the kernel they belong to")]
    Incomplete,
    #[error("the catalogue has no kernel named {kernel}")]
    NotFound { kernel: KernelName },
    #[error("the kernel cannot be used")]
    Kernel(#[from] KernelError),
    #[error("the kernel runs on {found}, the image on {wanted}")]
    Architecture {
        found: kiln_kernel::Architecture,
        wanted: Architecture,
    },
    #[error("the kernel cannot be staged")]
    Staging(#[from] StageError),
    #[error("the catalogue cannot be read")]
    Catalogue(#[from] CatalogueError),
    #[error("no kernel was named, and no kernel is the default")]
    NoDefault,
    #[error(transparent)]
    Initrd(#[from] GuestInitrdError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl KernelWords {
    /// Refuses what can be refused without looking at anything.
    pub(super) fn check(&self) -> Result<(), ChoiceError> {
        match (&self.kernel_ref, &self.kernel_path) {
            (Some(kernel), Some(_)) => Err(ChoiceError::Conflict {
                kernel: kernel.clone(),
            }),
            (None, None) if self.initrd_path.is_some() || self.modules_dir.is_some() => {
                Err(ChoiceError::Incomplete)
            }
            (None, None) => Err(ChoiceError::Required),
            (Some(kernel), None) if self.initrd_path.is_some() || self.modules_dir.is_some() => {
                Err(ChoiceError::Conflict {
                    kernel: kernel.clone(),
                })
            }
            _ => Ok(()),
        }
    }
}

impl Pulls {
    /// Takes what a call names for its kernel, before anything is awaited.
    pub(super) fn claim_kernel(
        &self,
        actor: &Actor,
        words: KernelWords,
    ) -> Result<ClaimedChoice, Failure> {
        words.check().map_err(|error| choice_failure(&error))?;
        if let Some(name) = words.kernel_ref {
            return Ok(ClaimedChoice::Catalogue(name));
        }
        ClaimedKernel::claim(&self.files, actor, &words)
            .map_err(|error| host_file_failure(&error))?
            .map(ClaimedChoice::Files)
            .ok_or_else(|| choice_failure(&ChoiceError::Required))
    }

    /// Finds the kernel and checks that it is one for what is wanted, and that our init boots on it
    /// where it is wanted. Of files of a caller's the last is not known before they are staged.
    pub(super) async fn choose_kernel(
        &self,
        claimed: ClaimedChoice,
        wanted: Wanted,
    ) -> Result<ChosenKernel, Failure> {
        let (chosen, found) = match claimed {
            ClaimedChoice::Catalogue(name) => self.find_in_catalogue(name).await?,
            ClaimedChoice::Files(claimed) => self.open_files(claimed).await?,
        };
        let architecture = wanted.architecture;
        if found.to_string().parse() != Ok(architecture) {
            return Err(choice_failure(&ChoiceError::Architecture {
                found,
                wanted: architecture,
            }));
        }
        check_choice(wanted.boot, chosen.own_initrd()).map_err(|error| boot_failure(&error))?;
        if wanted.boot == BootChoice::None || chosen.own_initrd() == OwnInitrd::Given {
            return Ok(chosen);
        }
        match chosen {
            ChosenKernel::Catalogue(kernel) => self.with_base(kernel).await,
            files @ ChosenKernel::Files(_) => Ok(files),
        }
    }

    async fn find_in_catalogue(&self, name: KernelName) -> Result<Found, Failure> {
        let name = if name.as_str() == DEFAULT {
            let row = self.records.store.read(kernels::default).await;
            let row = row.map_err(|error| store_failure(&error))?;
            let no_default = || choice_failure(&ChoiceError::NoDefault);
            row.ok_or_else(no_default)?.name
        } else {
            name
        };
        let (catalogue, asked) = (self.kernels.clone(), name.clone());
        let get = move || catalogue.get(asked.as_str());
        let kernel = self
            .look(move || get().map_err(|error| choice_failure(&error.into())))
            .await?
            .ok_or_else(|| choice_failure(&ChoiceError::NotFound { kernel: name }))?;
        let architecture = kernel.facts.architecture;
        Ok((ChosenKernel::Catalogue(Box::new(kernel)), architecture))
    }

    /// Makes sure that the base of the initrds of a kernel of the catalogue is there, on the threads
    /// for long looks. It ends when the caller hangs up. The base is read again when it is needed:
    /// many pulls may wait for their layers meanwhile.
    async fn with_base(&self, kernel: Box<Kernel>) -> Result<ChosenKernel, Failure> {
        let cancel = Cancel::default();
        let gone = cancel.clone();
        let _caller = CancelOnDrop(cancel);
        let initrds = self.initrds.clone();
        let make = move || {
            let base = initrds.base(kernel.folder(), gone.flag());
            base.map_err(|error| guest_initrd_failure(&error))?;
            Ok(ChosenKernel::Catalogue(kernel))
        };
        let ready = self.inspections.run(make).await;
        ready.map_err(|error| pool_failure(&error))?
    }

    /// Opens the files that were claimed for a kernel, and looks whether it is one.
    ///
    /// That reads and unpacks all of it, so it has threads of its own: short looks do not wait
    /// for it. It ends when the caller hangs up.
    async fn open_files(&self, claimed: ClaimedKernel) -> Result<Found, Failure> {
        let open = move || claimed.open().map_err(|error| host_file_failure(&error));
        let files = self.look(open).await?;
        let cancel = Cancel::default();
        let gone = cancel.clone();
        let _caller = CancelOnDrop(cancel);
        let inspect = move || {
            let facts = kiln_kernel::inspect(&files.kernel, gone.flag())
                .map_err(|error| choice_failure(&error.into()))?;
            Ok((ChosenKernel::Files(files), facts.architecture))
        };
        let found = self.inspections.run(inspect).await;
        found.map_err(|error| pool_failure(&error))?
    }
}

/// Stops blocking work when the future that waits for it is dropped.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

type Found = (ChosenKernel, kiln_kernel::Architecture);

/// What a call names for its kernel, and may have.
#[derive(Debug)]
pub(super) enum ClaimedChoice {
    Catalogue(KernelName),
    Files(ClaimedKernel),
}

/// A kernel's files that a caller may have, and that are opened later.
#[derive(Debug)]
pub(crate) struct ClaimedKernel {
    kernel: Claim,
    initrd: Option<Claim>,
    modules: Option<Claim>,
}

impl ClaimedKernel {
    /// Takes the files a call names for a kernel; `None` when it names no kernel file.
    pub(crate) fn claim(
        files: &HostFiles,
        actor: &Actor,
        words: &KernelWords,
    ) -> Result<Option<Self>, HostFileError> {
        let Some(kernel) = &words.kernel_path else {
            return Ok(None);
        };
        let claim = |named: &Option<HostFile>| {
            let named = named.as_ref();
            named.map(|named| files.claim(actor, named)).transpose()
        };
        Ok(Some(Self {
            kernel: files.claim(actor, kernel)?,
            initrd: claim(&words.initrd_path)?,
            modules: claim(&words.modules_dir)?,
        }))
    }

    /// Opens them. It blocks.
    pub(crate) fn open(self) -> Result<KernelFiles, HostFileError> {
        let modules = match self.modules {
            None => None,
            Some(claim) => Some(match claim.directory()? {
                Opened::Directory(path) => ModulesSource::Directory(path),
                Opened::Pipe(tar) | Opened::File(tar) => {
                    ModulesSource::Tar(Box::new(PatientReader::new(tar)))
                }
            }),
        };
        Ok(KernelFiles {
            kernel: self.kernel.file()?,
            initrd: self.initrd.map(Claim::file).transpose()?,
            modules,
        })
    }
}

impl ChosenKernel {
    /// Tells whether an initrd comes along that is not ours to change.
    pub(super) fn own_initrd(&self) -> OwnInitrd {
        let has_one = match self {
            Self::Catalogue(kernel) => kernel.initrd.is_some(),
            Self::Files(files) => files.initrd.is_some(),
        };
        if has_one {
            OwnInitrd::Given
        } else {
            OwnInitrd::None
        }
    }

    /// Copies everything into the staging directory, by reference where the filesystem can, and
    /// composes the initrd where ours is wanted. It blocks.
    pub(super) fn stage(
        self,
        staging: &Staging,
        plan: &BootPlan,
        initrds: &GuestInitrds,
        cancelled: &AtomicBool,
    ) -> Result<StagedKernel, ChoiceError> {
        let into = staging.path();
        let (catalogued, staged) = match self {
            Self::Catalogue(kernel) => {
                let form = KernelForm::best_of(&kernel.facts);
                let staged = kiln_kernel::stage(&kernel, form, into, cancelled)?;
                (Some(kernel), staged)
            }
            Self::Files(files) => (None, kiln_kernel::stage_files(files, into, cancelled)?),
        };
        let Staged {
            kernel,
            recognised,
            initrd,
            modules,
        } = staged;
        // The file may have changed since it was looked at: what was copied is what counts.
        let facts = recognised?;
        let mut initrd_sha256 = initrd.map(|initrd| initrd.sha256);
        let mut monitors = Vec::new();
        if let Some(boot) = &plan.document {
            let folder = match &catalogued {
                // The catalogue has the configuration, too.
                Some(kernel) => kernel.folder(),
                None => KernelFolder {
                    path: into,
                    facts: &facts,
                    modules: match modules {
                        Some(_) => Beside::There,
                        None => Beside::Missing,
                    },
                },
            };
            let base = initrds.base(folder, cancelled)?;
            monitors = base
                .monitors
                .iter()
                .map(|monitor| monitor.as_str().to_owned())
                .collect();
            let composed = base.with(boot)?;
            staging.write(INITRD, &composed)?;
            initrd_sha256 = Some(Digest::of(&composed));
        }
        Ok(StagedKernel {
            name: catalogued.and_then(|kernel| kernel.name.parse().ok()),
            monitors,
            kernel_sha256: kernel.sha256,
            initrd_sha256,
            has_modules: modules.is_some(),
        })
    }
}

pub(super) fn choice_failure(error: &ChoiceError) -> Failure {
    match error {
        ChoiceError::Required => Failure::from_error(codes::kernel::REQUIRED, error).with_hint(
            "name a kernel of the catalogue with --kernel, or import one first",
            Some("kiln kernel import NAME --kernel FILE".to_owned()),
        ),
        ChoiceError::Conflict { .. } | ChoiceError::Incomplete => {
            Failure::from_error(codes::kernel::CHOICE_CONFLICT, error)
        }
        ChoiceError::NotFound { .. } => Failure::from_error(codes::kernel::NOT_FOUND, error),
        ChoiceError::Architecture { .. } => Failure::from_error(codes::kernel::UNRECOGNISED, error)
            .with_hint("name a kernel for the image's architecture", None),
        ChoiceError::Kernel(error) => kernel_failure(error),
        ChoiceError::Staging(error) => stage_failure(error),
        ChoiceError::Catalogue(error) => catalogue_failure(error),
        ChoiceError::NoDefault => Failure::from_error(codes::kernel::NO_DEFAULT, error).with_hint(
            "import a kernel and make it the default, or name one with --kernel",
            Some("kiln kernel default NAME".to_owned()),
        ),
        ChoiceError::Initrd(error) => guest_initrd_failure(error),
        ChoiceError::Artifact(error) => artifact_failure(error),
    }
}
