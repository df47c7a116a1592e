//! `kiln events`: what happened.

use clap::{Args, Subcommand};
use kiln_api::event::{Event, List, ListParams};

use crate::failure::CommandError;
use crate::output::Columns;
use crate::pages;
use crate::session::Session;
use crate::text::{cell, time};

/// The method's own spelling.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what happened, oldest first
    #[command(alias = "ls")]
    List(ListArguments),
}

/// Which events to list.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only events behind this sequence number
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Only events whose kind starts so, such as image.
    #[arg(long)]
    kind: Option<String>,
    /// Only events of this object: its id, or a kernel's name
    #[arg(long, value_name = "ID")]
    object: Option<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Lists events, page after page.
pub(crate) async fn list(arguments: ListArguments, session: &Session) -> Result<(), CommandError> {
    let events =
        pages::listed::<List, _>(session, arguments.after, arguments.limit, |after, limit| {
            ListParams {
                after,
                limit,
                kind: arguments.kind.clone(),
                object_id: arguments.object.clone(),
            }
        })
        .await?;
    session.output().list(
        &events,
        &Columns {
            header: &["SEQ", "TIME", "ACTOR", "KIND", "OBJECT"],
            row: &row,
            name: &|event: &Event| event.seq.to_string(),
        },
    )
}

fn row(event: &Event) -> Vec<String> {
    vec![
        event.seq.to_string(),
        time(&event.at),
        cell(&event.actor),
        cell(&event.kind),
        format!("{} {}", cell(&event.object_kind), cell(&event.object_id)),
    ]
}
