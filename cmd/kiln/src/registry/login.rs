//! `kiln login`: keeps a login where this user's other tools find it too.
//!
//! The registry is asked first, by the daemon: what it refuses is not kept. Where a login goes is
//! decided by `kiln-credentials`.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use kiln_api::image::Credentials as Wire;
use kiln_api::registry::{Ping, PingParams, Pong};
use kiln_api::{Failure, codes};
use kiln_credentials::{KeepError, Kept, Origin};
use kiln_domain::{Credentials, LoginScope, RegistryName, Secret};
use serde::Serialize;

use super::system;
use crate::credentials::{IDENTITY_TOKEN, broken, places};
use crate::failure::CommandError;
use crate::reach::{self, TlsArguments};
use crate::session::Session;
use crate::text::cell;
use crate::{output, secret};

/// Where a login goes that names no registry.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Who to be, and where.
#[derive(Debug, Args)]
#[command(after_help = "\
The login goes to the first place where it would be found: the credential helper that is configured for the
host, else the first auth file that exists ($REGISTRY_AUTH_FILE, podman's, docker's), else docker's
~/.docker/config.json, which docker, podman and skopeo read too.

An identity token is kept under the user name '<token>'.")]
pub(crate) struct LoginArguments {
    /// Registry such as ghcr.io, or a namespace in one such as ghcr.io/some/team; that of
    /// `REGISTRY_URL` when left out, else docker.io
    #[arg(value_name = "REGISTRY[/NAMESPACE]")]
    registry: Option<LoginScope>,
    /// User name; asked for when left out
    #[arg(short = 'u', long, value_name = "USER")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// What others take, and every user of this host could see.
    #[arg(short = 'p', long, value_name = "PASSWORD", hide = true)]
    password: Option<String>,
    /// Keep the login in this auth file
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Do not ask the registry whether it takes the password
    #[arg(long)]
    no_check: bool,
    /// Have the daemon keep it, for work that has no caller, such as webhooks; for root only
    #[arg(long, conflicts_with = "authfile")]
    system: bool,
    #[command(flatten)]
    tls: TlsArguments,
}

/// What a login came to.
#[derive(Debug, Serialize)]
struct LoggedIn<'a> {
    registry: &'a LoginScope,
    username: &'a str,
    /// Whether the registry took the password. An open one does not ask for it.
    checked: bool,
    file: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    helper: Option<&'a str>,
    key: &'a str,
}

impl LoginArguments {
    /// Returns where to log in.
    fn scope(&self, session: &Session) -> Result<LoginScope, CommandError> {
        if let Some(scope) = &self.registry {
            return Ok(scope.clone());
        }
        if let Some(registry) = reach::of_environment(session)? {
            return Ok(registry.into());
        }
        let usual = DEFAULT_REGISTRY.parse::<LoginScope>();
        usual.map_err(|error| Failure::from_error(codes::request::INVALID_PARAMS, &error).into())
    }
}

/// Logs in.
pub(crate) async fn login(
    arguments: LoginArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let scope = arguments.scope(session)?;
    let (username, secret) = who(&arguments, &scope, session)?;
    if arguments.system {
        let credentials = Wire { username, secret };
        return system::login(scope, credentials, arguments.no_check, session).await;
    }
    let checked = if arguments.no_check {
        false
    } else {
        let credentials = Wire {
            username: username.clone(),
            secret: secret.clone(),
        };
        let pong = ping(scope.registry(), credentials, &arguments.tls, session).await;
        let pong = pong.map_err(|error| or_unchecked(error, &scope))?;
        // Whether it wanted to know.
        pong.authenticated
    };
    let credentials = match username.as_str() {
        IDENTITY_TOKEN => Credentials::IdentityToken(Secret::new(secret)),
        _ => Credentials::Password {
            username: username.clone(),
            secret: Secret::new(secret),
        },
    };
    let kept_scope = scope.clone();
    let places = places(arguments.authfile.clone(), session);
    let keeping = tokio::task::spawn_blocking(move || {
        kiln_credentials::keep(&kept_scope, &credentials, &places)
    });
    let kept = keeping.await.map_err(io::Error::other)?;
    let kept = kept.map_err(|error| not_kept(&error, &scope))?;
    if !checked && !arguments.no_check {
        warn_of_open(scope.registry(), session);
    }
    warn(&kept, session);
    let logged_in = LoggedIn {
        registry: &scope,
        username: &username,
        checked,
        file: &kept.origin.file,
        helper: kept.origin.helper.as_deref(),
        key: &kept.origin.key,
    };
    let name = scope.to_string();
    session.output().one(&logged_in, &name, |logged_in| {
        format!(
            "logged in to {} as {}, kept {}\n",
            cell(&name),
            cell(logged_in.username),
            place(&kept.origin)
        )
    })
}

/// Finds out who wants to log in, before anybody is asked anything.
fn who(
    arguments: &LoginArguments,
    scope: &LoginScope,
    session: &Session,
) -> Result<(String, String), CommandError> {
    let is_terminal = session.surroundings().stdin_is_terminal;
    if arguments.password.is_some() {
        return Err(refused(
            "a password on the command line is seen by every user of this host, and kept in the shell's history",
            scope,
        ));
    }
    let username = match &arguments.username {
        Some(username) => username.clone(),
        None if is_terminal && !arguments.password_stdin => secret::ask_username()?,
        None => return Err(refused("no user name was given", scope)),
    };
    // A colon ends the user name where user name and password are sent (RFC 7617, 2).
    if username.is_empty() || username.contains([':', '\n', '\r', '\0']) {
        return Err(refused("that is no user name", scope));
    }
    let secret = if arguments.password_stdin {
        secret::read_all()?
    } else if is_terminal {
        secret::ask(&username, session)?
    } else {
        return Err(refused(
            "there is no terminal to ask for the password on",
            scope,
        ));
    };
    Ok((username, secret))
}

/// Says what else there is to do where no daemon can ask the registry.
fn or_unchecked(error: CommandError, scope: &LoginScope) -> CommandError {
    match error {
        CommandError::Failed(failure) if failure.is(codes::daemon::UNREACHABLE) => failure
            .with_hint(
                "start the daemon, which asks the registry, or keep the login unchecked:",
                Some(format!("kiln login {scope} --no-check")),
            )
            .into(),
        CommandError::Failed(failure) => wrong_password(*failure).into(),
        other => other,
    }
}

/// Says what there is to do about a login that was refused: to log in is what was just tried.
pub(super) fn wrong_password(failure: Failure) -> Failure {
    if !failure.is(codes::registry::AUTH_FAILED) {
        return failure;
    }
    failure.with_hint(
        "check the user name and type the password again; many registries take an access token in its \
         place",
        None,
    )
}

/// Asks a registry, by the daemon, what it makes of somebody.
pub(super) async fn ping(
    registry: &RegistryName,
    credentials: Wire,
    tls: &TlsArguments,
    session: &Session,
) -> Result<Pong, CommandError> {
    let client = session.connect().await?;
    let params = PingParams {
        registry: registry.clone(),
        credentials: Some(credentials),
        tls_verify: tls.verify(registry, session)?,
    };
    session.call::<Ping>(&client, &params).await
}

/// Says that a registry did not want to know.
pub(super) fn warn_of_open(registry: &RegistryName, session: &Session) {
    output::note(&format!(
        "{} {} is open to everybody and did not ask for the password, so nobody knows whether it is right\n",
        session.paint().doubtful("warning:"),
        cell(registry.as_str())
    ));
}

fn warn(kept: &Kept, session: &Session) {
    let label = session.paint().doubtful("warning:");
    if kept.is_plain() {
        output::note(&format!(
            "{label} the password stands unencrypted in {}; a credential helper would keep it \
             (\"credsStore\" in that file)\n",
            cell(&kept.origin.file.display().to_string())
        ));
    }
    if let Some(other) = &kept.hidden_by {
        output::note(&format!(
            "{label} it is without effect: another login is found before it, {}\n",
            place(other)
        ));
    }
}

/// Says where a login is.
pub(super) fn place(origin: &Origin) -> String {
    let file = cell(&origin.file.display().to_string());
    match &origin.helper {
        Some(helper) => format!("by docker-credential-{} (named in {file})", cell(helper)),
        None => format!("in {file}"),
    }
}

/// Says why a login could not be kept or forgotten.
pub(super) fn not_kept(error: &KeepError, scope: &LoginScope) -> Failure {
    let code = match error {
        KeepError::Read(source) => return broken(source),
        KeepError::NoPlace | KeepError::Namespace { .. } | KeepError::Helper { .. } => {
            codes::request::INVALID_PARAMS
        }
        KeepError::Busy { .. } => codes::storage::FAILED,
        KeepError::Io { source, .. } if kiln_files::is_no_space(source) => codes::storage::FULL,
        KeepError::Io { .. } => codes::file::UNREADABLE,
    };
    let failure = Failure::from_error(code, error);
    match error {
        KeepError::Namespace { host, .. } => failure.with_hint(
            "log in to the registry as a whole:",
            Some(format!("kiln login {host}")),
        ),
        KeepError::Busy { .. } => failure.with_hint("try again", None),
        _ if failure.is(codes::storage::FULL) => failure.with_hint("free some space", None),
        _ => failure.with_hint(
            "keep it in a file of your choice:",
            Some(format!("kiln login {scope} --authfile FILE")),
        ),
    }
}

fn refused(message: &str, scope: &LoginScope) -> CommandError {
    Failure::new(codes::request::INVALID_PARAMS, message)
        .with_hint(
            "pipe the password in:",
            Some(format!(
                "kiln login {scope} -u USER --password-stdin < FILE"
            )),
        )
        .into()
}
