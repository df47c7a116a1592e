//! `kiln register`: an existing root filesystem becomes an image.

use std::path::PathBuf;

use clap::Args;
use kiln_api::image::{Register, RegisterParams};
use kiln_domain::ImageName;

use crate::failure::CommandError;
use crate::kernel_choice::KernelArguments;
use crate::pull;
use crate::session::Session;

/// What to register.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Name of the image
    name: ImageName,
    /// Root filesystem: a raw ext4 image
    #[arg(long, value_name = "FILE")]
    rootfs: PathBuf,
    #[command(flatten)]
    kernel: KernelArguments,
    /// What it runs on, such as arm64; the host's architecture when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
    /// Return the operation at once and let the daemon go on
    #[arg(long)]
    detach: bool,
}

/// Registers.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let files = client.files();
    let rootfs_path = files.file(&arguments.rootfs).await?;
    let kernel = arguments.kernel.pass(&files).await?;
    let params = RegisterParams {
        name: arguments.name,
        rootfs_path,
        kernel_ref: arguments.kernel.kernel_ref(),
        kernel_path: kernel.kernel.clone(),
        initrd_path: kernel.initrd.clone(),
        modules_dir: kernel.modules_file(),
        boot: arguments.kernel.boot.into(),
        architecture: arguments.architecture,
        detach: true,
    };
    let started = session.call::<Register>(&client, &params).await;
    let finished = match started {
        Ok(outcome) => pull::finish(session, &client, outcome, arguments.detach).await,
        Err(error) => Err(error),
    };
    match finished {
        Ok(()) => kernel.sent().await,
        Err(error) => Err(kernel.explain(error)),
    }
}
