//! `kiln copy` to a place of this host: the files are made here, with the caller's rights.
//!
//! ```text
//! registry ─▶ daemon: fetch, check ─▶ descriptor ─┐
//! layout, archive, directory of this host ────────┴▶ check ─▶ blob at its place ─▶ manifests, the top last
//! ```
//! A copy that was cut short goes on where it was: blobs that are there, to the byte, are not
//! fetched again.

mod blobs;
mod content;
mod outcome;

use std::path::Path;

use kiln_api::{Failure, codes};
use kiln_domain::{Platform, Source};
use kiln_files::Existing;
use kiln_registry::{Outgoing, OutgoingError};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::blobs::Writing;
use self::content::{Content, Origin, Wanted};
use super::Arguments;
use crate::failure::CommandError;
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
    /// Of these, documents that refer to others.
    referrers: usize,
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
    refuse_what_registries_take(&arguments, &into)?;
    if arguments.referrers {
        refuse_referrers_to(&into)?;
    }
    let writing = Writing::default();
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let copying = copy(&arguments, &into, session, &writing);
    let copied = tokio::select! {
        copied = copying => copied.map_err(|error| outcome::at_place(&into, error))?,
        _ = interrupts.recv() => return Err(stop(&writing).await),
        _ = terminations.recv() => return Err(stop(&writing).await),
    };
    session.output().one(&copied, &copied.digest, |copied| {
        let (into, digest) = (cell(&copied.into), cell(&copied.digest));
        let written = size(copied.written_bytes);
        format!("copied {digest} to {into}, {written} written\n")
    })
}

/// Ends the thread that writes, which removes what it has half made.
async fn stop(writing: &Writing) -> CommandError {
    writing.stop().await;
    outcome::failure(&OutgoingError::Cancelled).into()
}

fn refuse_what_registries_take(arguments: &Arguments, into: &Source) -> Result<(), CommandError> {
    let (word, next) = match (arguments, into) {
        (Arguments { tags, .. }, Source::Directory { .. }) if !tags.is_empty() => {
            ("--tag", "leave it out: such a directory names nothing")
        }
        (Arguments { tags, .. }, _) if !tags.is_empty() => {
            ("--tag", "write the name behind the path, as :NAME")
        }
        (Arguments { detach: true, .. }, _) => (
            "--detach",
            "leave it out: the files are written by this command itself",
        ),
        _ => return Ok(()),
    };
    let text = format!(
        "{word} is for copies to a registry; {:?} is none",
        arguments.into
    );
    Err(Failure::new(codes::request::INVALID_PARAMS, text)
        .with_hint(next, None)
        .into())
}

/// Refuses what a place cannot hold. Without a name for the image, nobody could tell it from what
/// belongs to it.
fn refuse_referrers_to(into: &Source) -> Result<(), CommandError> {
    let (what, next) = match into {
        Source::OciLayout { tag: Some(_), .. } | Source::OciArchive { tag: Some(_), .. } => {
            return Ok(());
        }
        Source::OciLayout { tag: None, .. } | Source::OciArchive { tag: None, .. } => (
            "needs a name for the image beside what refers to it",
            "add :TAG behind the path",
        ),
        _ => (
            "holds one image and nothing that refers to it",
            "copy to oci:DIR:TAG or oci-archive:FILE:TAG",
        ),
    };
    let text = format!("{into} {what}");
    Err(Failure::new(codes::request::INVALID_PARAMS, text)
        .with_hint(next, None)
        .into())
}

async fn copy(
    arguments: &Arguments,
    into: &Source,
    session: &Session,
    writing: &Writing,
) -> Result<Copied, CommandError> {
    let source = arguments
        .from
        .parse::<Source>()
        .map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))?;
    let platform = wanted_platform(arguments, into)?;
    // First: a place that cannot be written is known before anything is fetched.
    let mut outgoing = open(into, arguments.force).map_err(|error| outcome::failure(&error))?;
    let from = Origin::open(&source, arguments, session).await?;
    let wanted = Wanted {
        platform,
        has_referrers: arguments.referrers,
    };
    let content = Content::read(&from, wanted, session).await?;
    let mut copied = Copied {
        from: source.to_string(),
        into: into.to_string(),
        digest: content.root.descriptor.digest.to_string(),
        manifests: content.below.len() + 1,
        referrers: content.referrers.len(),
        written_blobs: 0,
        written_bytes: 0,
        existing_blobs: 0,
    };
    let mut missing = Vec::new();
    for blob in content.blobs {
        let is_there;
        (outgoing, is_there) = writing.has(outgoing, blob.clone()).await?;
        if is_there {
            copied.existing_blobs += 1;
        } else {
            copied.written_blobs += 1;
            copied.written_bytes += blob.size_bytes;
            missing.push(blob);
        }
    }
    outgoing = blobs::bring(outgoing, missing, &from, session, writing).await?;
    let complete = move |outgoing: Outgoing| {
        outgoing.finish(&content.root, &content.below, &content.referrers)
    };
    writing.finish(outgoing, complete).await?;
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
