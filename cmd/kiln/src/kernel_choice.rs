//! The kernel an image boots with: a name of the catalogue, or files.
//!
//! Whether the choice is complete is the daemon's to say, so that every caller hears the same.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kiln_api::HostFile;
use kiln_api::image::BootChoice;
use kiln_client::{ClientError, Directory, HostFiles};
use kiln_domain::KernelName;

use crate::failure::CommandError;

/// The flags.
#[derive(Clone, Debug, Args)]
pub(crate) struct KernelArguments {
    /// Kernel of the catalogue to boot with; the default one when no kernel is named
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
    /// Whose program a guest runs
    #[arg(long, value_enum, default_value_t = Boot::Auto)]
    pub(crate) boot: Boot,
}

/// Whose program a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Boot {
    /// As the image's config suggests: its init where its command is one, else its entrypoint
    Auto,
    /// The image's entrypoint, under Kiln's init
    Entrypoint,
    /// The image's own init
    Init,
    /// Nothing of Kiln's: no initrd is made
    None,
}

impl From<Boot> for BootChoice {
    fn from(boot: Boot) -> Self {
        match boot {
            Boot::Auto => Self::Auto,
            Boot::Entrypoint => Self::Entrypoint,
            Boot::Init => Self::Init,
            Boot::None => Self::None,
        }
    }
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

    /// Waits until the daemon has what it asked for: with `--detach` the work goes on without
    /// this process, but not before it has been given the modules.
    pub(crate) async fn sent(self) -> Result<(), CommandError> {
        match self.modules {
            Some(directory) => Ok(directory.sent().await.map_err(ClientError::from)?),
            None => Ok(()),
        }
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

/// The word by which the daemon's default kernel is meant.
#[expect(
    clippy::expect_used,
    reason = "the word follows the grammar of kernel names"
)]
fn default_kernel() -> KernelName {
    "default".parse().expect("a kernel name")
}

impl KernelArguments {
    /// Tells whether nothing is said about a kernel: one that comes along is good then.
    pub(crate) fn names_none(&self) -> bool {
        let files = [&self.kernel_path, &self.initrd_path, &self.modules_dir];
        self.kernel.is_none() && files.iter().all(|file| file.is_none())
    }

    /// Returns the kernel of the catalogue to name: the one that was, else the default, unless
    /// files were named.
    pub(crate) fn kernel_ref(&self) -> Option<KernelName> {
        if self.names_none() {
            return Some(default_kernel());
        }
        self.kernel.clone()
    }

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
