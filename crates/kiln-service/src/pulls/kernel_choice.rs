//! The one routine by which pull and register come to a kernel: chosen and checked before
//! anything is fetched, staged into the artifact directory later.

use std::sync::atomic::AtomicBool;

use kiln_api::{Failure, HostFile, codes};
use kiln_artifacts::Staging;
use kiln_domain::access::Actor;
use kiln_domain::{Architecture, Digest, KernelName};
use kiln_kernel::{
    CatalogueError, KernelError, KernelFiles, KernelForm, ModulesSource, StageError,
};

use super::Pulls;
use crate::cancel::Cancel;
use crate::failures::{
    catalogue_failure, host_file_failure, kernel_failure, pool_failure, stage_failure,
};
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

/// A kernel that was found good, with everything open that will be copied.
#[derive(Debug)]
pub(super) enum ChosenKernel {
    /// One of the catalogue.
    Catalogue(Box<kiln_kernel::Kernel>),
    /// Files the caller named.
    Files(KernelFiles),
}

/// What was staged.
#[derive(Clone, Debug)]
pub(super) struct StagedKernel {
    pub(super) name: Option<KernelName>,
    pub(super) kernel_sha256: Digest,
    pub(super) initrd_sha256: Option<Digest>,
    pub(super) has_modules: bool,
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

    /// Finds the kernel and checks that it is one, for `architecture`.
    pub(super) async fn choose_kernel(
        &self,
        claimed: ClaimedChoice,
        architecture: Architecture,
    ) -> Result<ChosenKernel, Failure> {
        let (chosen, found) = match claimed {
            ClaimedChoice::Catalogue(name) => self.find_in_catalogue(name).await?,
            ClaimedChoice::Files(claimed) => self.open_files(claimed).await?,
        };
        if found.to_string().parse() != Ok(architecture) {
            return Err(choice_failure(&ChoiceError::Architecture {
                found,
                wanted: architecture,
            }));
        }
        Ok(chosen)
    }

    async fn find_in_catalogue(&self, name: KernelName) -> Result<Found, Failure> {
        let (catalogue, asked) = (self.kernels.clone(), name.clone());
        let get = move || catalogue.get(asked.as_str());
        let kernel = self
            .look(move || get().map_err(|error| choice_failure(&error.into())))
            .await?
            .ok_or_else(|| choice_failure(&ChoiceError::NotFound { kernel: name }))?;
        let architecture = kernel.facts.architecture;
        Ok((ChosenKernel::Catalogue(Box::new(kernel)), architecture))
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
    /// Copies everything into the staging directory, by reference where the filesystem can. It
    /// blocks.
    pub(super) fn stage(
        self,
        staging: &Staging,
        cancelled: &AtomicBool,
    ) -> Result<StagedKernel, ChoiceError> {
        let into = staging.path();
        let (name, staged) = match self {
            Self::Catalogue(kernel) => {
                let staged = kiln_kernel::stage(&kernel, KernelForm::AsGiven, into, cancelled)?;
                (kernel.name.parse().ok(), staged)
            }
            Self::Files(files) => (None, kiln_kernel::stage_files(files, into, cancelled)?),
        };
        // The file may have changed since it was looked at: what was copied is what counts.
        staged.recognised?;
        Ok(StagedKernel {
            name,
            kernel_sha256: staged.kernel.sha256,
            initrd_sha256: staged.initrd.map(|initrd| initrd.sha256),
            has_modules: staged.modules.is_some(),
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
    }
}
