//! `kiln image open`: the bytes of one file of an image, for other programs.

use clap::{Args, ValueEnum};
use kiln_api::image::{ImageFile, Open};
use kiln_api::{Failure, Method as _, codes};

use crate::failure::CommandError;
use crate::output;
use crate::session::Session;

/// Which file to write out.
#[derive(Debug, Args)]
#[command(after_help = "\
A root filesystem has its full size here, holes included; `kiln checkout` makes a file of it that
takes no more room than the image does.")]
pub(crate) struct Arguments {
    /// Id, name with an optional :TAG or :VERSION, or source reference
    image: String,
    /// Which file of it
    #[arg(value_enum)]
    file: FileWord,
    /// One architecture of it; the host's when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
}

/// A file of an image, as it is named here.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FileWord {
    /// The root filesystem
    Rootfs,
    /// The kernel
    Kernel,
    /// The initial ramdisk, where the image has one
    Initrd,
    /// The checksums of the root filesystem's blocks, where the image has some
    Sums,
    /// The modules as a tar, where the image has some
    Modules,
}

/// Writes it to stdout.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    if session.surroundings().stdout_is_terminal {
        let text = "the bytes of an image are not for a terminal";
        let failure = Failure::new(codes::request::INVALID_PARAMS, text);
        let hint = "send them to a file or a program:";
        let command = format!("kiln image open {} … > FILE", arguments.image);
        return Err(failure.with_hint(hint, Some(command)).into());
    }
    let wanted = match arguments.file {
        FileWord::Rootfs => ImageFile::Rootfs,
        FileWord::Kernel => ImageFile::Kernel,
        FileWord::Initrd => ImageFile::Initrd,
        FileWord::Sums => ImageFile::Sums,
        FileWord::Modules => ImageFile::Modules,
    };
    let client = session.connect().await?;
    let architecture = arguments.architecture.as_deref();
    let files = [wanted];
    let opening = client.open_image(&arguments.image, architecture, &files);
    let mut opened = session.limited(Open::NAME, opening).await?;
    let Some(mut file) = opened.take(wanted) else {
        let text = format!("the image {} has no {wanted}", opened.image.name);
        return Err(CommandError::new(codes::file::NOT_FOUND, text));
    };
    output::write_from(&mut file)
}
