//! `kiln import`: the image that `kiln export` put into a file.
//!
//! It is a pull of that archive; what comes on the standard input waits in a file without a name.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use kiln_api::image::{BootChoice, Pull, PullParams};
use kiln_api::{Failure, HostFile, codes};
use kiln_domain::ImageName;

use crate::checkout::file_failure;
use crate::failure::CommandError;
use crate::kernel_choice::KernelArguments;
use crate::pull::finish;
use crate::scratch::Scratch;
use crate::session::Session;

/// Which file to make an image of.
#[derive(Debug, Args)]
#[command(after_help = "\
The image boots with the kernel in the file. Name another with --kernel, and its initial ramdisk is
made for that one. What was exported for another architecture needs --platform.")]
pub(crate) struct Arguments {
    /// File that `kiln export` made, or - for the standard input
    file: PathBuf,
    /// Name of the image; derived from the file's when left out
    #[arg(long)]
    name: Option<ImageName>,
    #[command(flatten)]
    kernel: KernelArguments,
    /// Platform of the image, such as linux/arm64; the host's when left out
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Return the operation at once and let the daemon go on
    #[arg(long)]
    detach: bool,
}

/// Imports.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let is_stream = arguments.file == Path::new("-");
    if is_stream && arguments.name.is_none() {
        let text = "an image from the standard input has no name";
        let failure = Failure::new(codes::image::NAME_INVALID, text);
        return Err(failure.with_hint("name it with --name", None).into());
    }
    let client = session.connect().await?;
    let files = client.files();
    let (reference, archive) = if is_stream {
        // No signal is caught meanwhile: the input may never end, and the file has no name.
        let scratch = Scratch::of_user(session.surroundings())?;
        let spooling = tokio::task::spawn_blocking(move || spool(&scratch)).await;
        let spooled = spooling.map_err(io::Error::other)??;
        let handle = files.pass_file(&spooled).await?;
        (
            "oci-archive:standard-input".to_owned(),
            HostFile::Handle(handle),
        )
    } else {
        let path = std::path::absolute(&arguments.file)?;
        let Some(text) = path.to_str().filter(|text| !text.contains(':')) else {
            let text = format!("{} cannot be written as a reference", path.display());
            let failure = Failure::new(codes::source::INVALID_REFERENCE, text);
            let hint = "give the file a name without colons, or send it to the standard input";
            return Err(failure.with_hint(hint, None).into());
        };
        (format!("oci-archive:{text}"), files.file(&path).await?)
    };
    let kernel = arguments.kernel.pass(&files).await?;
    let params = PullParams {
        reference,
        name: arguments.name,
        kernel_ref: arguments.kernel.kernel_ref(),
        prefer_shipped_kernel: arguments.kernel.names_none(),
        kernel_path: kernel.kernel.clone(),
        initrd_path: kernel.initrd.clone(),
        modules_dir: kernel.modules_file(),
        boot: BootChoice::from(arguments.kernel.boot),
        size_bytes: None,
        platform: arguments.platform,
        credentials: None,
        mirror_credentials: Vec::new(),
        org: None,
        tls_verify: None,
        source_files: Some([("archive".to_owned(), archive)].into()),
        detach: true,
    };
    let started = session.call::<Pull>(&client, &params).await;
    let finished = match started {
        Ok(outcome) => finish(session, &client, outcome, arguments.detach).await,
        Err(error) => Err(error),
    };
    match finished {
        Ok(()) => kernel.sent().await,
        Err(error) => Err(kernel.explain(error)),
    }
}

/// Takes the standard input into a file without a name, open for reading alone.
fn spool(scratch: &Scratch) -> Result<File, Failure> {
    let failed = |error: io::Error| {
        let code = if kiln_files::is_no_space(&error) {
            codes::storage::FULL
        } else {
            codes::storage::FAILED
        };
        Failure::from_error(code, &error)
    };
    // How long it gets nobody knows.
    let mut file = scratch.file(1).map_err(failed)?;
    io::copy(&mut io::stdin().lock(), &mut file).map_err(failed)?;
    kiln_files::read_only(&file).map_err(|error| file_failure(&error))
}
