//! `kiln registry whoami` and `kiln registry ls`: who this user is at registries, from where, and
//! whether the registries agree.

use std::io;
use std::path::PathBuf;

use clap::Args;
use kiln_api::{Class, Failure, codes};
use kiln_credentials::{Found, Login, Logins, Target};
use kiln_domain::{Credentials, LoginScope};
use serde::Serialize;

use super::login::ping;
use crate::credentials::{IDENTITY_TOKEN, broken, for_the_wire, places};
use crate::failure::{self, CommandError};
use crate::output::{self, Columns};
use crate::reach::TlsArguments;
use crate::session::Session;
use crate::text::cell;

/// The exit code when a registry refuses a login.
const EXIT_REFUSED: u8 = 4;

/// The exit code when some logins are listed and others could not be.
const EXIT_PARTIAL: u8 = 9;

/// Where to look.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Look in this auth file only
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

/// Who, and where.
#[derive(Debug, Args)]
pub(crate) struct WhoamiArguments {
    /// Registry, namespace or repository; every one with a login when left out
    #[arg(value_name = "REGISTRY[/NAMESPACE]")]
    registry: Option<LoginScope>,
    /// Look in this auth file only
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Do not ask the registries
    #[arg(long)]
    no_check: bool,
    #[command(flatten)]
    tls: TlsArguments,
}

/// What a registry makes of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// It took the password, or gave a token for it.
    Accepted,
    /// It did not.
    Refused,
    /// It is open to everybody and did not ask.
    NotAsked,
    /// Nobody asked it, or it did not answer.
    Unknown,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::NotAsked => "open to everybody",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether all could be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problems {
    None,
    /// Something could not; the exit code of the first.
    First(u8),
}

/// One login, without its secret.
#[derive(Debug, Serialize)]
struct Identity {
    registry: String,
    username: String,
    file: PathBuf,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    helper: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Lists logins; nobody is asked anything.
pub(crate) async fn list(arguments: ListArguments, session: &Session) -> Result<(), CommandError> {
    let (found, problems) = all(arguments.authfile, session).await?;
    let rows: Vec<Identity> = found.into_iter().map(listed).collect();
    let columns = Columns {
        header: &["REGISTRY", "USER", "KEPT"],
        row: &|row: &Identity| vec![cell(&row.registry), cell(&row.username), kept(row)],
        name: &|row: &Identity| row.registry.clone(),
    };
    session.output().list(&rows, &columns)?;
    ended(&rows, problems)
}

/// Says who this user is, and asks registries what they make of it.
pub(crate) async fn whoami(
    arguments: WhoamiArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let (rows, problems) = match &arguments.registry {
        Some(scope) => {
            let found = locate(scope, arguments.authfile.clone(), session).await?;
            let found = found.ok_or_else(|| nobody(scope))?;
            let row = judged(scope, found, &arguments, session).await;
            (vec![row], Problems::None)
        }
        None => everywhere(&arguments, session).await?,
    };
    let columns = Columns {
        header: &["REGISTRY", "USER", "REGISTRY SAYS", "KEPT"],
        row: &|row: &Identity| {
            let verdict = row.verdict.unwrap_or(Verdict::Unknown).word().to_owned();
            vec![cell(&row.registry), cell(&row.username), verdict, kept(row)]
        },
        name: &|row: &Identity| row.username.clone(),
    };
    session.output().list(&rows, &columns)?;
    for row in &rows {
        if let Some(reason) = &row.reason {
            output::note(&format!("{}: {}\n", cell(&row.registry), cell(reason)));
        }
    }
    ended(&rows, problems)
}

/// Says how it ended, for scripts: an empty list must not pass for nobody's being logged in.
fn ended(rows: &[Identity], problems: Problems) -> Result<(), CommandError> {
    let is_refused = |row: &Identity| row.verdict == Some(Verdict::Refused);
    match problems {
        Problems::First(code) if rows.is_empty() => Err(CommandError::Reported(code)),
        Problems::First(_) => Err(CommandError::Reported(EXIT_PARTIAL)),
        Problems::None if rows.iter().any(is_refused) => Err(CommandError::Reported(EXIT_REFUSED)),
        Problems::None => Ok(()),
    }
}

/// Goes through all logins. Of two of one name the first counts.
async fn everywhere(
    arguments: &WhoamiArguments,
    session: &Session,
) -> Result<(Vec<Identity>, Problems), CommandError> {
    let mut rows: Vec<Identity> = Vec::new();
    let (logins, problems) = all(arguments.authfile.clone(), session).await?;
    for login in logins {
        if rows.iter().any(|row| row.registry == login.name) {
            continue;
        }
        // Names that break the grammar of registries lead nowhere.
        let Ok(scope) = login.name.parse::<LoginScope>() else {
            rows.push(listed(login));
            continue;
        };
        let found = locate(&scope, arguments.authfile.clone(), session).await?;
        rows.push(match found {
            Some(found) => judged(&scope, found, arguments, session).await,
            None => listed(login),
        });
    }
    Ok((rows, problems))
}

fn kept(row: &Identity) -> String {
    let file = cell(&row.file.display().to_string());
    match &row.helper {
        Some(helper) => format!("docker-credential-{}, {file}", cell(helper)),
        None => file,
    }
}

fn listed(login: Login) -> Identity {
    Identity {
        registry: login.name,
        username: login.username.unwrap_or_else(|| IDENTITY_TOKEN.to_owned()),
        file: login.origin.file,
        key: login.origin.key,
        helper: login.origin.helper,
        verdict: None,
        reason: None,
    }
}

async fn judged(
    scope: &LoginScope,
    found: Found,
    arguments: &WhoamiArguments,
    session: &Session,
) -> Identity {
    let username = match &found.credentials {
        Credentials::Password { username, .. } => username.clone(),
        Credentials::IdentityToken(_) => IDENTITY_TOKEN.to_owned(),
    };
    let (verdict, reason) = if arguments.no_check {
        (None, None)
    } else {
        let credentials = for_the_wire(found.credentials);
        let (verdict, reason) =
            verdict(ping(scope.registry(), credentials, &arguments.tls, session).await);
        (Some(verdict), reason)
    };
    Identity {
        registry: scope.to_string(),
        username,
        file: found.origin.file,
        key: found.origin.key,
        helper: found.origin.helper,
        verdict,
        reason,
    }
}

fn verdict(answer: Result<kiln_api::registry::Pong, CommandError>) -> (Verdict, Option<String>) {
    match answer {
        Ok(pong) if pong.authenticated => (Verdict::Accepted, None),
        Ok(_) => (Verdict::NotAsked, None),
        Err(CommandError::Failed(failure)) => {
            let is_refusal = matches!(failure.class, Class::Auth | Class::Denied);
            let verdict = if is_refusal {
                Verdict::Refused
            } else {
                Verdict::Unknown
            };
            (verdict, Some(failure.message))
        }
        Err(_) => (Verdict::Unknown, None),
    }
}

fn nobody(scope: &LoginScope) -> Failure {
    let message = format!("there is no login to {scope}");
    Failure::new(codes::registry::AUTH_REQUIRED, message)
        .with_hint("log in:", Some(format!("kiln login {scope}")))
}

async fn locate(
    scope: &LoginScope,
    authfile: Option<PathBuf>,
    session: &Session,
) -> Result<Option<Found>, CommandError> {
    let places = places(authfile, session);
    let scope = scope.clone();
    let searching = tokio::task::spawn_blocking(move || {
        kiln_credentials::locate(Target::Scope(&scope), &places)
    });
    let found = searching.await.map_err(io::Error::other)?;
    Ok(found.map_err(|error| broken(&error))?)
}

/// Lists all logins; what could not be looked at is told.
async fn all(
    authfile: Option<PathBuf>,
    session: &Session,
) -> Result<(Vec<Login>, Problems), CommandError> {
    let places = places(authfile, session);
    let listing = tokio::task::spawn_blocking(move || kiln_credentials::logins(&places));
    let found: Logins = listing
        .await
        .map_err(io::Error::other)?
        .map_err(|error| broken(&error))?;
    let mut problems = Problems::None;
    for failure in found.problems.iter().map(broken) {
        output::note(&failure::describe(
            &failure,
            session.paint(),
            session.detail(),
        ));
        if problems == Problems::None {
            problems = Problems::First(failure.exit_code);
        }
    }
    Ok((found.items, problems))
}
