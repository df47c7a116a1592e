//! `kiln logout`: forgets a login wherever it would be found.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use kiln_api::{Failure, codes};
use kiln_credentials::{Chosen, Forgotten, Origin};
use kiln_domain::LoginScope;
use serde::Serialize;

use super::login::{not_kept, place};
use super::system;
use crate::credentials::{broken, places};
use crate::failure::{self, CommandError};
use crate::output;
use crate::session::Session;
use crate::text::cell;

/// Which logins to forget.
#[derive(Debug, Args)]
pub(crate) struct LogoutArguments {
    /// Registry, or namespace in one, as it was logged in to
    #[arg(
        value_name = "REGISTRY[/NAMESPACE]",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    registry: Option<LoginScope>,
    /// Forget every login, helpers' included
    #[arg(long)]
    all: bool,
    /// Look in this auth file only
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Have the daemon forget the login that it keeps; for root only
    #[arg(long, conflicts_with_all = ["authfile", "all"])]
    system: bool,
}

/// One login that is no more.
#[derive(Debug, Serialize)]
struct LoggedOut<'a> {
    key: &'a str,
    file: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    helper: Option<&'a str>,
}

/// Logs out.
pub(crate) async fn logout(
    arguments: LogoutArguments,
    session: &Session,
) -> Result<(), CommandError> {
    if let (true, Some(scope)) = (arguments.system, &arguments.registry) {
        return system::logout(scope, session).await;
    }
    let places = places(arguments.authfile.clone(), session);
    let scope = arguments.registry.clone();
    let forgetting = tokio::task::spawn_blocking(move || {
        let chosen = scope.as_ref().map_or(Chosen::All, Chosen::One);
        kiln_credentials::forget(chosen, &places)
    });
    let forgotten = forgetting.await.map_err(io::Error::other)?;
    let scope = arguments.registry.as_ref();
    let forgotten = forgotten.map_err(|error| trouble(&error, scope))?;
    let items: Vec<LoggedOut<'_>> = forgotten.origins.iter().map(logged_out).collect();
    match scope {
        Some(scope) if items.is_empty() && forgotten.problems.is_empty() => {
            output::note(&format!("there was no login to {scope}\n"));
        }
        None if items.is_empty() && forgotten.problems.is_empty() => {
            output::note("there were no logins\n");
        }
        _ => {}
    }
    let lines = output::Columns {
        header: &["LOGGED OUT OF", "WHICH WAS"],
        row: &|item: &(String, String)| vec![item.0.clone(), item.1.clone()],
        name: &|item: &(String, String)| item.0.clone(),
    };
    let output = session.output();
    match output.format {
        output::Format::Table if items.is_empty() => {}
        output::Format::Table => {
            let rows: Vec<(String, String)> = forgotten
                .origins
                .iter()
                .map(|origin| (cell(&origin.key), place(origin)))
                .collect();
            output.list(&rows, &lines)?;
        }
        output::Format::Ndjson => items.iter().try_for_each(|item| output.value(item))?,
        output::Format::Json | output::Format::Yaml => output.value(&items)?,
    }
    tell(&forgotten, scope, session)
}

fn logged_out(origin: &Origin) -> LoggedOut<'_> {
    LoggedOut {
        key: &origin.key,
        file: &origin.file,
        helper: origin.helper.as_deref(),
    }
}

/// Tells what went wrong on the way; a login that is still there is a failure.
fn tell(
    forgotten: &Forgotten,
    scope: Option<&LoginScope>,
    session: &Session,
) -> Result<(), CommandError> {
    for problem in &forgotten.problems {
        let failure = trouble(problem, scope);
        let text = failure::describe(&failure, session.paint(), session.detail());
        output::note(&text);
    }
    match forgotten.problems.first() {
        None => Ok(()),
        Some(problem) => Err(CommandError::Reported(trouble(problem, scope).exit_code)),
    }
}

fn trouble(error: &kiln_credentials::KeepError, scope: Option<&LoginScope>) -> Failure {
    if let kiln_credentials::KeepError::Read(source) = error {
        return broken(source);
    }
    let failure = if let Some(scope) = scope {
        not_kept(error, scope)
    } else {
        let code = match error {
            kiln_credentials::KeepError::Io { source, .. } if kiln_files::is_no_space(source) => {
                codes::storage::FULL
            }
            _ => codes::file::UNREADABLE,
        };
        Failure::from_error(code, error)
    };
    failure.with_hint(
        "see what is still there:",
        Some("kiln registry ls".to_owned()),
    )
}
