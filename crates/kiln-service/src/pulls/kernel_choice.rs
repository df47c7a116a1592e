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
use crate::failures::{
    catalogue_failure, host_file_failure, kernel_failure, pool_failure, stage_failure,
};
use crate::host_files::{HostFileError, HostFiles, Opened};
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
    /// Finds the kernel and checks that it is one.
    pub(super) async fn choose_kernel(
        &self,
        actor: &Actor,
        words: KernelWords,
        architecture: Architecture,
    ) -> Result<ChosenKernel, Failure> {
        words.check().map_err(|error| choice_failure(&error))?;
        let chosen = match words.kernel_ref {
            Some(name) => self.find_in_catalogue(name).await?,
            None => self.open_files(actor, words).await?,
        };
        let (chosen, found) = chosen;
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
        let kernel = self
            .records
            .look_pool
            .run(move || catalogue.get(asked.as_str()))
            .await
            .map_err(|error| pool_failure(&error))?
            .map_err(|error| choice_failure(&error.into()))?
            .ok_or_else(|| choice_failure(&ChoiceError::NotFound { kernel: name }))?;
        let architecture = kernel.facts.architecture;
        Ok((ChosenKernel::Catalogue(Box::new(kernel)), architecture))
    }

    async fn open_files(&self, actor: &Actor, words: KernelWords) -> Result<Found, Failure> {
        let files = open_kernel_files(&self.files, actor, &words)
            .map_err(|error| host_file_failure(&error))?
            .ok_or_else(|| choice_failure(&ChoiceError::Required))?;
        let kernel = files
            .kernel
            .try_clone()
            .map_err(|error| Failure::from_error(codes::storage::FAILED, &error))?;
        let facts = self
            .records
            .look_pool
            .run(move || kiln_kernel::inspect(&kernel, &AtomicBool::new(false)))
            .await
            .map_err(|error| pool_failure(&error))?
            .map_err(|error| choice_failure(&error.into()))?;
        Ok((ChosenKernel::Files(files), facts.architecture))
    }
}

type Found = (ChosenKernel, kiln_kernel::Architecture);

/// Opens the files a call names for a kernel; `None` when it names no kernel file.
pub(crate) fn open_kernel_files(
    files: &HostFiles,
    actor: &Actor,
    words: &KernelWords,
) -> Result<Option<KernelFiles>, HostFileError> {
    let Some(kernel) = &words.kernel_path else {
        return Ok(None);
    };
    let kernel = files.file(actor, kernel)?;
    let initrd = words
        .initrd_path
        .as_ref()
        .map(|named| files.file(actor, named))
        .transpose()?;
    let modules = match &words.modules_dir {
        None => None,
        Some(named) => Some(match files.directory(actor, named)? {
            Opened::Directory(path) => ModulesSource::Directory(path),
            Opened::Pipe(tar) | Opened::File(tar) => {
                ModulesSource::Tar(Box::new(PatientReader::new(tar)))
            }
        }),
    };
    Ok(Some(KernelFiles {
        kernel,
        initrd,
        modules,
    }))
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
