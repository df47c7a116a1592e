//! `kiln registry blob`: the bytes of a blob, in a file or for another program.
//!
//! The daemon fetches and checks; the file is made here, with the caller's rights.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Args;
use kiln_api::failure::printable;
use kiln_api::registry::{Blob, BlobParams, OpenedBlob};
use kiln_api::{Failure, codes};
use kiln_files::{Existing, FileError, NewFile};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::checkout::file_failure;
use crate::failure::CommandError;
use crate::interruptible::{self, Leaves};
use crate::output;
use crate::reach::ReachArguments;
use crate::session::Session;
use crate::text::{cell, size};

/// Longest text that is shown on a terminal, in bytes: configs have a few thousand.
const MAX_SHOWN_BYTES: u64 = 64 << 10;

/// Which blob, and where to.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The repository with the blob's digest, such as ghcr.io/org/app@sha256:…
    #[arg(value_name = "REPOSITORY@DIGEST")]
    reference: String,
    /// Write it into a file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a regular file that is there already
    #[arg(long, requires = "output")]
    force: bool,
    #[command(flatten)]
    reach: ReachArguments,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    digest: String,
    size_bytes: u64,
    path: String,
}

/// Fetches it.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let existing = if arguments.force {
        Existing::Replaced
    } else {
        Existing::Refused
    };
    // Begun first: a place that cannot be written is known before anything is fetched.
    let new = arguments
        .output
        .as_deref()
        .map(|path| NewFile::create(path, existing).map(|new| (path, new)));
    let new = new.transpose().map_err(|error| file_failure(&error))?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let (file, opened) = tokio::select! {
        fetched = fetch(&arguments, session) => fetched?,
        // The file that was begun goes with this function.
        _ = interrupts.recv() => return Err(stopped()),
        _ = terminations.recv() => return Err(stopped()),
    };
    match new {
        Some((path, new)) => {
            let path = path.to_owned();
            let name = opened.digest.clone();
            let write =
                move |cancelled: &AtomicBool| written(&file, &opened, &path, new, cancelled);
            let written = interruptible::run(session, Leaves::Files, write).await?;
            session.output().one(&written, &name, |written| {
                let path = cell(&written.path);
                format!("wrote {} to {path}\n", size(written.size_bytes))
            })
        }
        None if session.surroundings().stdout_is_terminal => show(file, &opened),
        None => {
            let mut file = file;
            output::write_from(&mut file)
        }
    }
}

fn stopped() -> CommandError {
    Failure::new(codes::operation::CANCELLED, "it was stopped half way")
        .with_hint("nothing was kept", None)
        .into()
}

/// Has the daemon fetch and check it.
async fn fetch(
    arguments: &Arguments,
    session: &Session,
) -> Result<(File, OpenedBlob), CommandError> {
    let caller = arguments.reach.caller(session)?;
    let client = session.connect().await?;
    let (reference, reach) = caller.for_fetching(&arguments.reference, &client).await?;
    let params = BlobParams {
        reference: reference.to_string(),
        size_bytes: None,
        credentials: reach.credentials,
        mirror_credentials: reach.mirror_credentials,
        tls_verify: reach.tls_verify,
    };
    let opened = session.call::<Blob>(&client, &params).await?;
    let taken = client.files().take(&[opened.handle]).await?;
    let Some(file) = taken.into_iter().next() else {
        let text = "the daemon gave no descriptor of the blob";
        return Err(CommandError::new(codes::daemon::INTERNAL, text));
    };
    Ok((file, opened))
}

fn written(
    file: &File,
    opened: &OpenedBlob,
    path: &Path,
    new: NewFile,
    cancelled: &AtomicBool,
) -> Result<Written, Failure> {
    let placed = new.copy_from(file, cancelled).and_then(|_| new.place());
    placed.map_err(|error: FileError| file_failure(&error))?;
    Ok(Written {
        digest: opened.digest.clone(),
        size_bytes: opened.size_bytes,
        path: path.display().to_string(),
    })
}

/// Shows a text on the terminal; anything else does not belong there.
fn show(file: File, opened: &OpenedBlob) -> Result<(), CommandError> {
    let mut text = String::new();
    let is_text = opened.size_bytes <= MAX_SHOWN_BYTES
        && file.take(MAX_SHOWN_BYTES).read_to_string(&mut text).is_ok();
    if is_text {
        return output::write(&printable(&text));
    }
    let text = format!(
        "the {} of this blob are not for a terminal",
        size(opened.size_bytes)
    );
    let hint = "write them into a file with --output FILE, or send them to a program";
    Err(Failure::new(codes::request::INVALID_PARAMS, text)
        .with_hint(hint, None)
        .into())
}
