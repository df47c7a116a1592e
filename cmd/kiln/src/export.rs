//! `kiln export`: a whole image in one file, bit for bit.
//!
//! ```text
//! image.open ─▶ descriptors ─▶ chunks, kernel, initrd, modules, checksums ─▶ FILE, an OCI archive
//! ```
//! The daemon hands out descriptors and does nothing else: everything is packed and written here,
//! with the caller's rights. `kiln import` is its mirror.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Args;
use kiln_api::image::{Image, ImageFile, Open};
use kiln_api::{Failure, Method as _, codes};
use kiln_bootable::{ArchiveError, ExportError, Exported, ImageFiles, PackError};
use kiln_client::OpenedImage;
use kiln_files::{Existing, NewFile, is_no_space};
use serde::Serialize;

use crate::checkout::file_failure;
use crate::failure::CommandError;
use crate::interruptible::{self, Leaves};
use crate::output;
use crate::progress::Renderer;
use crate::scratch::Scratch;
use crate::session::Session;
use crate::text::{cell, size};

/// How often it is said how far it is.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Bytes of the archive that are written at a time.
const WRITE_BYTES: usize = 1 << 20;

/// Which image to put where.
#[derive(Debug, Args)]
#[command(after_help = "\
The file has the root filesystem, the kernel, the initial ramdisk and the modules, compressed, holes
left out. `kiln import` makes the same image of it on any host; so do `kiln pull oci-archive:FILE` and
any registry it is copied to, for instance by skopeo. It is readable for you alone.")]
pub(crate) struct Arguments {
    /// Id, name with an optional :TAG or :VERSION, or source reference
    image: String,
    /// File to make, or - for the standard output
    file: PathBuf,
    /// Replace a regular file that is there already
    #[arg(long)]
    force: bool,
    /// One architecture of the image; the host's when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    image: String,
    image_id: String,
    version_id: String,
    path: String,
    manifest_digest: String,
    layers: usize,
    /// Bytes of the packed parts; the file has little more.
    stored_bytes: u64,
    rootfs_size_bytes: u64,
}

/// Makes the file.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let is_stream = arguments.file == Path::new("-");
    if is_stream && session.surroundings().stdout_is_terminal {
        let text = "the bytes of an image are not for a terminal";
        let failure = Failure::new(codes::request::INVALID_PARAMS, text);
        let command = format!("kiln export {} - > FILE", arguments.image);
        return Err(failure
            .with_hint("send them to a file or a program:", Some(command))
            .into());
    }
    let client = session.connect().await?;
    let architecture = arguments.architecture.as_deref();
    let files = [
        ImageFile::Rootfs,
        ImageFile::Kernel,
        ImageFile::Initrd,
        ImageFile::Sums,
        ImageFile::Modules,
    ];
    let opening = client.open_image(&arguments.image, architecture, &files);
    let mut opened = session.limited(Open::NAME, opening).await?;
    let files = image_files(&mut opened)?;
    let image = opened.image;
    let teller = Teller::new(session.renderer());
    if is_stream {
        let scratch = Scratch::of_user(session.surroundings())?;
        let pack = move |cancelled: &AtomicBool| {
            pack_into(
                &files,
                &image,
                BufWriter::with_capacity(WRITE_BYTES, io::stdout().lock()),
                &scratch,
                &teller,
                cancelled,
            )
        };
        interruptible::run(session, Leaves::Nothing, pack).await?;
        return Ok(());
    }
    let path = std::path::absolute(&arguments.file)?;
    let existing = if arguments.force {
        Existing::Replaced
    } else {
        Existing::Refused
    };
    let pack = move |cancelled: &AtomicBool| {
        let new = NewFile::create(&path, existing).map_err(|error| file_failure(&error))?;
        let scratch = Scratch::beside(&path);
        let output = BufWriter::with_capacity(WRITE_BYTES, new.file());
        let exported = pack_into(&files, &image, output, &scratch, &teller, cancelled)?;
        new.place().map_err(|error| file_failure(&error))?;
        Ok(Made {
            image: image.name.to_string(),
            image_id: image.id.to_string(),
            version_id: image.version.id.to_string(),
            path: path.display().to_string(),
            manifest_digest: exported.manifest_digest.to_string(),
            layers: exported.layers,
            stored_bytes: exported.stored_bytes,
            rootfs_size_bytes: image.rootfs.size_bytes,
        })
    };
    let made = interruptible::run(session, Leaves::Files, pack).await?;
    session.output().one(&made, &made.path, lines)
}

/// Takes the files of an opened image.
fn image_files(opened: &mut OpenedImage) -> Result<ImageFiles, CommandError> {
    let mut needed = |file: ImageFile| {
        let missing = || {
            let text = format!("the daemon gave no {file}");
            CommandError::new(codes::daemon::INTERNAL, text)
        };
        opened.take(file).ok_or_else(missing)
    };
    Ok(ImageFiles {
        rootfs: needed(ImageFile::Rootfs)?,
        kernel: needed(ImageFile::Kernel)?,
        initrd: opened.take(ImageFile::Initrd),
        modules: opened.take(ImageFile::Modules),
        sums: opened.take(ImageFile::Sums),
    })
}

fn pack_into(
    files: &ImageFiles,
    image: &Image,
    output: impl Write,
    scratch: &Scratch,
    teller: &Teller,
    cancelled: &AtomicBool,
) -> Result<Exported, Failure> {
    let config = image.bootable_config(kiln_bootable::compression());
    let tell = |done, total| teller.tell(done, total);
    let scratch = |most_bytes| scratch.file(most_bytes);
    let exported = kiln_bootable::export(files, &config, output, &scratch, &tell, cancelled);
    exported.map_err(|error| failure(&error))
}

/// Says now and then how far it is.
struct Teller {
    renderer: Renderer,
    last: Mutex<Instant>,
}

impl Teller {
    fn new(renderer: Renderer) -> Self {
        Self {
            renderer,
            last: Mutex::new(Instant::now()),
        }
    }

    fn tell(&self, done: u64, total: u64) {
        if matches!(self.renderer, Renderer::Silent | Renderer::Json) {
            return;
        }
        // Whoever has the lock is telling.
        let Ok(mut last) = self.last.try_lock() else {
            return;
        };
        if last.elapsed() >= TELL_EVERY {
            *last = Instant::now();
            let text = format!("packing: {} of {}\n", size(done), size(total));
            self.renderer.note(&text);
        }
    }
}

fn failure(error: &ExportError) -> Failure {
    let system = |source: &io::Error| {
        if is_no_space(source) {
            codes::storage::FULL
        } else {
            codes::storage::FAILED
        }
    };
    let code = match error {
        ExportError::Pack(PackError::Cancelled) => codes::operation::CANCELLED,
        ExportError::Pack(PackError::PartialBlock { .. }) => codes::rootfs::CANNOT_HOLD,
        ExportError::Pack(PackError::Read { source, .. } | PackError::Write { source, .. })
        | ExportError::Archive(ArchiveError::Blob { source, .. } | ArchiveError::Output(source))
        | ExportError::Scratch(source) => system(source),
        ExportError::Unreadable(_) => codes::source::UNSUPPORTED,
        ExportError::Documents(_) => codes::daemon::INTERNAL,
        ExportError::Thread => codes::daemon::BUSY,
    };
    Failure::from_error(code, error).with_hint("nothing was kept", None)
}

fn lines(made: &Made) -> String {
    output::pairs(&[
        ("file", cell(&made.path)),
        ("image", cell(&made.image)),
        ("manifest", cell(&made.manifest_digest)),
        (
            "size",
            format!(
                "{} of a root filesystem of {}",
                size(made.stored_bytes),
                size(made.rootfs_size_bytes)
            ),
        ),
    ])
}
