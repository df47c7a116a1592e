//! `kiln registry delete` and `kiln registry untag`.

use std::io::{BufRead as _, IsTerminal as _};

use clap::Args;
use kiln_api::registry::{Delete, DeleteParams, Deleted, Untag, UntagParams};
use kiln_api::{Failure, codes};

use crate::failure::CommandError;
use crate::output;
use crate::reach::ReachArguments;
use crate::session::Session;
use crate::text::cell;

/// Which manifest.
#[derive(Debug, Args)]
#[command(after_help = "\
The manifest goes with every tag of it; `kiln registry untag` takes one tag off and leaves the rest.
What refers to the manifest and its layers stay until the registry collects its garbage.")]
pub(crate) struct DeleteArguments {
    /// The image or artifact with its registry, by tag or digest
    #[arg(value_name = "REFERENCE")]
    reference: String,
    /// Delete other tags of the manifest too
    #[arg(long)]
    force: bool,
    /// Only tell what would go
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    reach: ReachArguments,
}

/// Which tag.
#[derive(Debug, Args)]
pub(crate) struct UntagArguments {
    /// The image or artifact with its registry and tag
    #[arg(value_name = "REFERENCE:TAG")]
    reference: String,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    reach: ReachArguments,
}

/// Deletes a manifest.
pub(crate) async fn delete(
    arguments: DeleteArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let caller = arguments.reach.caller(session)?;
    let (reference, reach) = caller.for_writing(&arguments.reference).await?;
    let client = session.connect().await?;
    let mut params = DeleteParams {
        reference: reference.to_string(),
        force: arguments.force,
        dry_run: true,
        credentials: reach.credentials,
        tls_verify: reach.tls_verify,
    };
    if !arguments.dry_run {
        if !arguments.yes {
            let found = session.call::<Delete>(&client, &params).await?;
            confirm(&found)?;
            // What was agreed to, wherever the tag moves meanwhile.
            params.reference = found.reference;
        }
        params.dry_run = false;
    }
    let deleted = session.call::<Delete>(&client, &params).await?;
    session.output().one(&deleted, &deleted.digest, |deleted| {
        let verb = if deleted.dry_run {
            "would delete"
        } else {
            "deleted"
        };
        format!("{verb} {}\n", what(deleted))
    })
}

/// Takes a tag off.
pub(crate) async fn untag(
    arguments: UntagArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let caller = arguments.reach.caller(session)?;
    let (_, reach) = caller.for_writing(&arguments.reference).await?;
    let client = session.connect().await?;
    let params = UntagParams {
        // As it was written: a tag that was left out must not become `latest`.
        reference: arguments.reference.clone(),
        dry_run: arguments.dry_run,
        credentials: reach.credentials,
        tls_verify: reach.tls_verify,
    };
    let untagged = session.call::<Untag>(&client, &params).await?;
    session
        .output()
        .one(&untagged, &untagged.digest, |untagged| {
            let verb = if untagged.dry_run {
                "would untag"
            } else {
                "untagged"
            };
            let (reference, digest) = (cell(&untagged.reference), cell(&untagged.digest));
            format!("{verb} {reference}; {digest} stays\n")
        })
}

fn what(deleted: &Deleted) -> String {
    let digest = cell(&deleted.digest);
    let tags: Vec<String> = deleted.tags.iter().map(|tag| cell(tag)).collect();
    match tags.as_slice() {
        [] => format!("{digest}, which has no tags"),
        [only] => format!("{digest} and its tag {only}"),
        several => format!("{digest} and its tags {}", several.join(", ")),
    }
}

/// Asks on the terminal; where nobody can be asked, nothing is deleted.
fn confirm(found: &Deleted) -> Result<(), CommandError> {
    if !std::io::stdin().is_terminal() {
        let text = format!("{} is not deleted without a word", found.reference);
        return Err(Failure::new(codes::request::INVALID_PARAMS, text)
            .with_hint("say --yes where nobody can be asked", None)
            .into());
    }
    output::note(&format!("Delete {}? [y/N] ", what(found)));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    let text = format!("{} was not deleted", found.reference);
    Err(Failure::new(codes::operation::CANCELLED, text)
        .with_hint("nothing was changed", None)
        .into())
}
