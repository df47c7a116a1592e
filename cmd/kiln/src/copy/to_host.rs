//! `kiln copy` to a place of this host: the files are made here, with the caller's rights.
//!
//! ```text
//! registry ─▶ daemon: fetch, check ─▶ descriptor ─┐
//! layout, archive, directory of this host ────────┴▶ check ─▶ blob at its place ─▶ manifests, the top last
//! ```
//! A copy that was cut short goes on where it was: blobs that are there, to the byte, are not
//! fetched again.

mod content;
mod outcome;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_api::{Failure, codes};
use kiln_domain::oci::Descriptor;
use kiln_domain::{Platform, Source};
use kiln_files::Existing;
use kiln_registry::{Outgoing, OutgoingError};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::content::{Body, Content, Origin};
use super::Arguments;
use crate::failure::CommandError;
use crate::output::{self, Amount};
use crate::session::Session;
use crate::text::{cell, size};

/// What was copied.
#[derive(Debug, Serialize)]
struct Copied {
    from: String,
    into: String,
    /// Of the document on top.
    digest: String,
    manifests: usize,
    written_blobs: usize,
    written_bytes: u64,
    /// Blobs that were at the place already.
    existing_blobs: usize,
}

/// Copies to `into`, which is no registry.
pub(super) async fn run(
    arguments: Arguments,
    into: Source,
    session: &Session,
) -> Result<(), CommandError> {
    refuse_what_registries_take(&arguments)?;
    let cancelled = Arc::new(AtomicBool::new(false));
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let copying = copy(&arguments, &into, session, cancelled.clone());
    let copied = tokio::select! {
        copied = copying => copied?,
        _ = interrupts.recv() => return Err(stop(&cancelled)),
        _ = terminations.recv() => return Err(stop(&cancelled)),
    };
    session.output().one(&copied, &copied.digest, |copied| {
        let (into, digest) = (cell(&copied.into), cell(&copied.digest));
        let written = size(copied.written_bytes);
        format!("copied {digest} to {into}, {written} written\n")
    })
}

/// Throws the switch that a thread at work looks at; it removes what it has half made.
fn stop(cancelled: &AtomicBool) -> CommandError {
    cancelled.store(true, Ordering::Relaxed);
    outcome::failure(&OutgoingError::Cancelled).into()
}

fn refuse_what_registries_take(arguments: &Arguments) -> Result<(), CommandError> {
    let word = match arguments {
        Arguments { tags, .. } if !tags.is_empty() => "--tag",
        Arguments {
            referrers: true, ..
        } => "--referrers",
        Arguments { detach: true, .. } => "--detach",
        _ => return Ok(()),
    };
    let text = format!(
        "{word} is for copies to a registry; {:?} is none",
        arguments.into
    );
    Err(CommandError::new(codes::request::INVALID_PARAMS, text))
}

async fn copy(
    arguments: &Arguments,
    into: &Source,
    session: &Session,
    cancelled: Arc<AtomicBool>,
) -> Result<Copied, CommandError> {
    let source = arguments
        .from
        .parse::<Source>()
        .map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))?;
    let platform = wanted_platform(arguments, into)?;
    // First: a place that cannot be written is known before anything is fetched.
    let mut outgoing = open(into, arguments.force).map_err(|error| outcome::failure(&error))?;
    let from = Origin::open(&source, arguments, session).await?;
    let content = Content::read(&from, platform, session).await?;
    let mut copied = Copied {
        from: source.to_string(),
        into: into.to_string(),
        digest: content.root.descriptor.digest.to_string(),
        manifests: content.below.len() + 1,
        written_blobs: 0,
        written_bytes: 0,
        existing_blobs: 0,
    };
    for blob in &content.blobs {
        let is_there;
        (outgoing, is_there) = has(outgoing, blob.clone(), cancelled.clone()).await?;
        if is_there {
            copied.existing_blobs += 1;
            continue;
        }
        let body = from.blob(blob, session).await?;
        outgoing = put(outgoing, blob.clone(), body, cancelled.clone()).await?;
        copied.written_blobs += 1;
        copied.written_bytes += blob.size_bytes;
        if session.output().amount == Amount::Everything {
            let digest = blob.digest.to_short_hex();
            output::note(&format!("{digest}  {}\n", size(blob.size_bytes)));
        }
    }
    let finishing = move || outgoing.finish(&content.root, &content.below);
    let finished = tokio::task::spawn_blocking(finishing).await;
    finished
        .map_err(std::io::Error::other)?
        .map_err(|error| outcome::failure(&error))?;
    Ok(copied)
}

/// Decides for one platform or all of them. An archive of `docker save` holds one.
fn wanted_platform(arguments: &Arguments, into: &Source) -> Result<Option<Platform>, CommandError> {
    let text = match (&arguments.platform, into) {
        (Some(text), _) => text.as_str(),
        (None, Source::DockerArchive { .. }) => std::env::consts::ARCH,
        (None, _) => return Ok(None),
    };
    let platform = text.parse::<Platform>();
    let platform =
        platform.map_err(|error| Failure::from_error(codes::source::INVALID_PLATFORM, &error))?;
    Ok(Some(platform))
}

fn open(into: &Source, force: bool) -> Result<Outgoing, OutgoingError> {
    let existing = if force {
        Existing::Replaced
    } else {
        Existing::Refused
    };
    match into {
        // Never: the caller looked.
        Source::Registry(reference) => Outgoing::layout(Path::new(reference.repository()), None),
        Source::OciLayout { path, tag } => Outgoing::layout(Path::new(path), tag.as_deref()),
        Source::OciArchive { path, tag } => {
            Outgoing::archive(Path::new(path), tag.as_deref(), existing)
        }
        Source::DockerArchive { path, reference } => {
            Outgoing::docker_archive(Path::new(path), reference.as_ref(), existing)
        }
        Source::Directory { path } => Outgoing::flat(Path::new(path)),
    }
}

async fn has(
    outgoing: Outgoing,
    blob: Descriptor,
    cancelled: Arc<AtomicBool>,
) -> Result<(Outgoing, bool), CommandError> {
    let look = move || {
        let found = outgoing.has(&blob, &cancelled);
        found.map(|found| (outgoing, found))
    };
    let looked = tokio::task::spawn_blocking(look).await;
    let looked = looked.map_err(std::io::Error::other)?;
    looked.map_err(|error| outcome::failure(&error).into())
}

/// Writes a blob on a thread of its own. What was begun when the copy is given up is removed there.
async fn put(
    mut outgoing: Outgoing,
    blob: Descriptor,
    mut body: Body,
    cancelled: Arc<AtomicBool>,
) -> Result<Outgoing, CommandError> {
    let write = move || {
        let written = outgoing.put(&blob, &mut body, &cancelled);
        written.map(|()| outgoing)
    };
    let written = tokio::task::spawn_blocking(write).await;
    let written = written.map_err(std::io::Error::other)?;
    written.map_err(|error| outcome::failure(&error).into())
}
