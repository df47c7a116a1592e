//! `kiln purge IMAGE… --agent NAME`: images removed for good on other daemons.

use clap::Args;
use kiln_api::codes;
use kiln_api::image::purge::{
    Purge, PurgeError, PurgeOutcome, PurgeParams, PurgedImage, PurgedOnAgent, PurgedOnAgents,
};
use kiln_domain::{AgentName, OperationState};

use crate::batch::{self, Item, Outcome};
use crate::failure::CommandError;
use crate::follow;
use crate::output::{self, Amount, Format};
use crate::removal::How;
use crate::session::Session;
use crate::text::{cell, size};

/// What a dry run says of the agents' caches: what is of no use there is known when images are gone.
const UNCOUNTED: &str =
    "not counted: what the agents' caches have for these images alone goes too\n";

/// On which other daemons, and what only counts there.
#[derive(Debug, Args)]
pub(crate) struct There {
    /// Remove them on this agent, not here; may be given several times
    #[arg(long = "agent", value_name = "NAME")]
    agents: Vec<AgentName>,
    /// Keep what the agents' caches have of them: blobs and packs
    #[arg(long, requires = "agents")]
    noprune: bool,
    /// Return the operation at once and let the daemon go on
    #[arg(long, requires = "agents")]
    detach: bool,
}

impl There {
    /// Tells whether anything else than this daemon is meant.
    pub(crate) fn is_meant(&self) -> bool {
        !self.agents.is_empty()
    }
}

/// Removes images on agents.
pub(crate) async fn run(
    (images, architecture): (Vec<String>, Option<String>),
    how: How,
    there: There,
    session: &Session,
) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let prunes = !there.noprune;
    let params = PurgeParams {
        image_names: images,
        agent_ids: there.agents,
        architecture,
        force: how.force,
        noprune: there.noprune,
        dry_run: how.dry_run,
        detach: true,
        ..PurgeParams::default()
    };
    let started = match session.call::<Purge>(&client, &params).await? {
        PurgeOutcome::Purged(purged) => return print(session, *purged, prunes),
        PurgeOutcome::Started(started) => started,
    };
    let id = started.operation_id;
    if there.detach {
        let name = id.to_string();
        return session.output().one(&*started, &name, |_| {
            format!("started operation {id}; wait for it:  kiln op wait {id}\n")
        });
    }
    let ended = follow::to_any_end(session, &client, id, follow::Interrupt::Cancels).await?;
    let mut operation = ended.operation;
    let printed = match operation.purged.take() {
        Some(purged) => print(session, *purged, prunes),
        None if operation.state == OperationState::Succeeded => {
            let message = format!("operation {id} succeeded and says not what came of it");
            Err(CommandError::new(codes::daemon::INTERNAL, message))
        }
        None => Ok(()),
    };
    // What was done before a cancelled one ended is told, and then that it was cancelled.
    match (follow::successful(operation), printed) {
        (_, Err(CommandError::ReaderGone)) => Err(CommandError::ReaderGone),
        (Err(error), _) => Err(error),
        (Ok(_), printed) => printed,
    }
}

/// Prints what went where, and ends with 9 when some of it failed.
fn print(session: &Session, purged: PurgedOnAgents, prunes: bool) -> Result<(), CommandError> {
    let output = session.output();
    match (output.format, output.amount) {
        (Format::Table, Amount::Everything) => {
            let uncounted = if purged.dry_run && prunes {
                UNCOUNTED
            } else {
                ""
            };
            output::write(&(table(&purged) + uncounted))?;
        }
        (Format::Table, Amount::Names) => {
            for name in purged.purged_images.iter().flat_map(names) {
                output::write(&format!("{name}\n"))?;
            }
        }
        _ => output.value(&purged)?,
    }
    let went_well = purged.purged_images.into_iter().flat_map(|entry| {
        let images = entry.images.into_iter();
        images.map(|image| Item {
            item: image.item,
            outcome: Outcome::Ok(()),
        })
    });
    let items: Vec<Item<()>> = went_well
        .chain(purged.errors.into_iter().map(failed))
        .collect();
    batch::verdict(session, &items)
}

fn failed(error: PurgeError) -> Item<()> {
    let agent = error.agent_id;
    Item {
        item: match error.item {
            Some(item) => format!("{item} on {agent}"),
            None => agent.to_string(),
        },
        outcome: Outcome::Error(Box::new(error.error)),
    }
}

fn name(image: &PurgedImage) -> String {
    let name = image.name.as_ref().map(|name| cell(name.as_str()));
    name.unwrap_or_else(|| cell(&image.item))
}

/// Lists what went, or would, on an agent.
fn names(entry: &PurgedOnAgent) -> impl Iterator<Item = String> {
    let went = entry.images.iter().filter(|image| !image.already_purged);
    went.map(name)
}

/// Says what went where, and how much that was together.
pub(crate) fn table(purged: &PurgedOnAgents) -> String {
    let (is, frees) = if purged.dry_run {
        ("would go", "would be freed")
    } else {
        ("gone", "freed")
    };
    let mut lines = Vec::new();
    for entry in &purged.purged_images {
        let agent = cell(entry.agent_id.as_str());
        for image in &entry.images {
            let came = if image.already_purged {
                "was not there".to_owned()
            } else {
                format!("{is}, {} {frees}", size(image.freed_bytes))
            };
            lines.push(format!("{agent}  {}  {came}", name(image)));
        }
        if let Some(bytes) = entry.pruned_bytes {
            lines.push(format!("{agent}  (cache)  {} {frees}", size(bytes)));
        }
    }
    let mut counts: Vec<String> = Vec::new();
    for entry in &purged.purged_images {
        let went = entry.images.iter().filter(|image| !image.already_purged);
        counts.push(format!(
            "{}: {}",
            cell(entry.agent_id.as_str()),
            went.count()
        ));
    }
    let mut sum = format!(
        "{} {is}, {} not there, {} {frees}",
        purged.purged,
        purged.already_purged,
        size(purged.freed_bytes)
    );
    if !purged.errors.is_empty() {
        sum = format!("{sum}, {} failed", purged.errors.len());
    }
    if !counts.is_empty() {
        sum = format!("{sum} ({})", counts.join(", "));
    }
    lines.push(sum);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_is_told_by_agent_and_counted() {
        let json = serde_json::json!({
            "purged_images": [
                {"agent_id": "agent-1", "freed_bytes": 3_145_728, "pruned_bytes": 1_048_576, "images": [
                    {"item": "*:old-*", "name": "app-old", "freed_bytes": 3_145_728},
                    {"item": "cache:old", "freed_bytes": 0, "already_purged": true},
                ]},
            ],
            "errors": [], "purged": 1, "already_purged": 1, "freed_bytes": 4_194_304,
            "dry_run": false,
        });
        let purged: PurgedOnAgents = serde_json::from_value(json).unwrap();

        // With -q only what went, not what was asked for.
        let quiet: Vec<String> = purged.purged_images.iter().flat_map(names).collect();
        assert_eq!(quiet, ["app-old"]);
        assert_eq!(
            table(&purged),
            "agent-1  app-old  gone, 3.0 MiB freed\n\
             agent-1  cache:old  was not there\n\
             agent-1  (cache)  1.0 MiB freed\n\
             1 gone, 1 not there, 4.0 MiB freed (agent-1: 1)\n"
        );
    }
}
