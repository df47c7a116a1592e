//! `kiln operation …`, short `kiln op …`: long work that the daemon owns.

use std::time::Instant;

use clap::{Args, Subcommand};
use kiln_api::operation::{
    Cancel, CancelParams, Get, List, ListParams, Operation, OperationParams,
};
use kiln_domain::{OperationId, OperationState};

use crate::agent_purge;
use crate::batch::{self, Item};
use crate::failure::CommandError;
use crate::follow::{self, Interrupt};
use crate::output::{self, Columns, Format};
use crate::pages;
use crate::progress::{self, Lines};
use crate::session::Session;
use crate::text::{cell, time};

/// What there is to do with operations.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List operations, in the order of their making
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Tell how an operation stands
    #[command(visible_alias = "get", alias = "inspect")]
    Show(OperationArguments),
    /// Wait until an operation has ended; its end is the exit code
    Wait(OperationArguments),
    /// Stop running operations; what they had half made disappears
    Cancel(CancelArguments),
    /// Print an operation's progress as it comes
    Watch(OperationArguments),
}

/// Which operations to list.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only those that are running, succeeded, failed, cancelled or interrupted
    #[arg(long)]
    state: Option<OperationState>,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Which operation.
#[derive(Debug, Args)]
pub(crate) struct OperationArguments {
    /// Its id
    #[arg(value_name = "ID")]
    id: OperationId,
}

/// Which operations to cancel.
#[derive(Debug, Args)]
pub(crate) struct CancelArguments {
    /// Their ids
    #[arg(value_name = "ID", required = true)]
    ids: Vec<OperationId>,
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::List(arguments) => list(arguments, session).await,
            Self::Show(arguments) => show(arguments, session).await,
            Self::Wait(arguments) => wait(arguments, session).await,
            Self::Cancel(arguments) => cancel(arguments, session).await,
            Self::Watch(arguments) => watch(arguments.id, session).await,
        }
    }
}

async fn list(arguments: ListArguments, session: &Session) -> Result<(), CommandError> {
    let operations =
        pages::listed::<List, _>(session, None, arguments.limit, |after, limit| ListParams {
            state: arguments.state,
            after,
            limit,
        })
        .await?;
    session.output().list(
        &operations,
        &Columns {
            header: &["ID", "KIND", "STATE", "SUBJECT", "STARTED", "ENDED"],
            row: &row,
            name: &|operation: &Operation| operation.id.to_string(),
        },
    )
}

fn row(operation: &Operation) -> Vec<String> {
    vec![
        operation.id.to_string(),
        operation.kind.to_string(),
        operation.state.to_string(),
        cell(&operation.subject),
        time(&operation.created_at),
        operation
            .finished_at
            .as_deref()
            .map_or_else(|| "-".to_owned(), time),
    ]
}

async fn show(arguments: OperationArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = OperationParams {
        operation_id: arguments.id,
    };
    let operation = session.call::<Get>(&client, &params).await?;
    print(session, &operation)
}

async fn wait(arguments: OperationArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let ended = follow::to_the_end(session, &client, arguments.id, Interrupt::Leaves).await;
    print(session, &ended?.operation)
}

async fn cancel(arguments: CancelArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let mut items = Vec::new();
    for operation_id in arguments.ids {
        let params = CancelParams {
            operation_id,
            unless_watched: false,
        };
        let result = session.call::<Cancel>(&client, &params).await;
        items.push(Item::new(operation_id.to_string(), result)?);
    }
    batch::report(session, &items, |id, operation| match operation.state {
        OperationState::Running => format!("operation {id} is being cancelled"),
        state => format!("operation {id} is {state}"),
    })
}

/// Prints every item on stdout: the daemon's own as JSON lines, or words for people.
pub(crate) async fn watch(id: OperationId, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let begun = Instant::now();
    let mut words = Lines::default();
    let mut items = session.limited("operation.watch", client.watch(id)).await?;
    while let Some(item) = items.next().await {
        let operation = item?;
        output::write(&match session.output().format {
            Format::Table => words.observe(&operation, begun.elapsed()),
            Format::Json | Format::Ndjson | Format::Yaml => progress::json_line(&operation),
        })?;
        if operation.state.is_final() {
            follow::successful(operation)?;
            break;
        }
    }
    Ok(())
}

fn print(session: &Session, operation: &Operation) -> Result<(), CommandError> {
    let id = operation.id.to_string();
    session.output().one(operation, &id, lines)
}

fn lines(operation: &Operation) -> String {
    let mut pairs = vec![
        ("id", operation.id.to_string()),
        ("kind", operation.kind.to_string()),
        ("state", operation.state.to_string()),
        ("subject", cell(&operation.subject)),
        ("owner", format!("uid {}", operation.owner_uid)),
        ("started", time(&operation.created_at)),
    ];
    if let Some(progress) = &operation.progress {
        pairs.push(("progress", progress::sentence(progress)));
    }
    if let Some(watchers) = operation.watchers {
        pairs.push(("watchers", watchers.to_string()));
    }
    if let Some(at) = &operation.finished_at {
        pairs.push(("ended", time(at)));
    }
    if let Some(image) = &operation.result {
        pairs.push((
            "image",
            format!("{} (id {})", cell(image.name.as_str()), image.id),
        ));
    }
    if let Some(error) = &operation.error {
        pairs.push((
            "error",
            format!("{} ({})", cell(&error.message), cell(&error.code)),
        ));
        pairs.extend(error.cause.iter().map(|cause| ("cause", cell(cause))));
    }
    let mut text = output::pairs(&pairs);
    if let Some(purged) = &operation.purged {
        text += &agent_purge::table(purged);
        let errors = purged.errors.iter().map(|error| &error.error);
        text.extend(errors.map(|error| format!("failed: {}\n", cell(&error.message))));
    }
    text
}
