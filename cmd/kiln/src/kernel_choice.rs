//! The kernel an image boots with: a name of the catalogue, or files.
//!
//! Whether the choice is complete is the daemon's to say, so that every caller hears the same.

use std::path::{Path, PathBuf};

use clap::Args;
use kiln_api::HostFile;
use kiln_client::{ClientError, Directory, HostFiles};
use kiln_domain::KernelName;

use crate::failure::CommandError;

/// The flags.
#[derive(Clone, Debug, Args)]
pub(crate) struct KernelArguments {
    /// Kernel of the catalogue to boot with
    #[arg(long, value_name = "NAME")]
    pub(crate) kernel: Option<KernelName>,
    /// Kernel file to boot with, in place of --kernel
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel_path: Option<PathBuf>,
    /// Initial ramdisk to go with --kernel-path
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd_path: Option<PathBuf>,
    /// Directory of modules to go with --kernel-path
    #[arg(long, value_name = "DIR")]
    pub(crate) modules_dir: Option<PathBuf>,
}

/// The files as a call names them.
#[derive(Debug, Default)]
pub(crate) struct PassedKernel {
    pub(crate) kernel: Option<HostFile>,
    pub(crate) initrd: Option<HostFile>,
    pub(crate) modules: Option<Directory>,
}

impl PassedKernel {
    /// Passes the files that are named.
    pub(crate) async fn pass(
        files: &HostFiles,
        kernel: Option<&Path>,
        initrd: Option<&Path>,
        modules: Option<&Path>,
    ) -> Result<Self, ClientError> {
        let mut passed = Self::default();
        if let Some(path) = kernel {
            passed.kernel = Some(files.file(path).await?);
        }
        if let Some(path) = initrd {
            passed.initrd = Some(files.file(path).await?);
        }
        if let Some(path) = modules {
            passed.modules = Some(files.directory(path).await?);
        }
        Ok(passed)
    }

    /// Returns what to name as `modules_dir`.
    pub(crate) fn modules_file(&self) -> Option<HostFile> {
        self.modules
            .as_ref()
            .map(|directory| directory.file().clone())
    }

    /// Adds to a failed call what the daemon cannot know: that a file of the modules could not
    /// be read here.
    pub(crate) fn explain(self, error: CommandError) -> CommandError {
        let broken = self.modules.and_then(Directory::failure);
        match (error, broken) {
            (CommandError::Failed(mut failure), Some(broken)) => {
                failure.cause.push(broken.to_string());
                CommandError::Failed(failure)
            }
            (error, _) => error,
        }
    }
}

impl KernelArguments {
    /// Passes the files that are named.
    pub(crate) async fn pass(&self, files: &HostFiles) -> Result<PassedKernel, ClientError> {
        PassedKernel::pass(
            files,
            self.kernel_path.as_deref(),
            self.initrd_path.as_deref(),
            self.modules_dir.as_deref(),
        )
        .await
    }
}
