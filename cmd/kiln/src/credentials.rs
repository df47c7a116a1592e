//! Who to be at a registry: as the command line says it, or as the auth files and helpers of this
//! user know.
//!
//! The secret goes into the call and nowhere else. Where files are looked for and how helpers are
//! asked is `kiln-credentials`'.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use clap::Args;
use kiln_api::image::Credentials;
use kiln_api::{Failure, codes};
use kiln_credentials::{CredentialsError, Places, Target};
use kiln_domain::{Credentials as Found, Reference, RegistryName};
use kiln_files::KeptError;

use crate::failure::CommandError;
use crate::session::Session;
use crate::{output, secret};

/// The user name that marks an identity token, as credential helpers write it.
pub(crate) const IDENTITY_TOKEN: &str = "<token>";

/// A command may be told of several registries; what it says of the command line it says once.
static WARNED: Once = Once::new();

/// The flags.
#[derive(Debug, Args)]
pub(crate) struct CredentialsArguments {
    /// User name for the registry; its password is asked for, or read from standard input
    /// (--creds USER < FILE). As USER:PASSWORD, every user of this host sees it
    #[arg(long, value_name = "USER[:PASSWORD]", conflicts_with = "authfile")]
    creds: Option<String>,
    /// Auth file of docker, podman or skopeo, in place of the usual ones
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

impl CredentialsArguments {
    /// Puts flags together that a command has under other names.
    pub(crate) fn of(creds: Option<String>, authfile: Option<PathBuf>) -> Self {
        Self { creds, authfile }
    }

    /// Returns the auth file that was named.
    pub(crate) fn authfile(&self) -> Option<&Path> {
        self.authfile.as_deref()
    }

    /// Reads what the flags say at once, so that a password is asked for before anything begins.
    pub(crate) fn stated(&self, session: &Session) -> Result<Option<Credentials>, CommandError> {
        let creds = self.creds.as_deref();
        creds.map(|text| parse(text, session)).transpose()
    }

    /// Looks for credentials in auth files and asks their helpers. A broken file that nobody
    /// named is told and passed over: many images need no credentials.
    pub(crate) async fn find(
        &self,
        reference: &Reference,
        session: &Session,
    ) -> Result<Option<Credentials>, CommandError> {
        let reference = reference.clone();
        let search =
            move |places: &Places| kiln_credentials::find(Target::Repository(&reference), places);
        self.search(search, session).await
    }

    /// Does what [`CredentialsArguments::find`] does for a registry as a whole.
    pub(crate) async fn find_registry(
        &self,
        name: &RegistryName,
        session: &Session,
    ) -> Result<Option<Credentials>, CommandError> {
        let name = name.clone();
        let search = move |places: &Places| kiln_credentials::find(Target::Registry(&name), places);
        self.search(search, session).await
    }

    async fn search(
        &self,
        search: impl FnOnce(&Places) -> Result<Option<Found>, CredentialsError> + Send + 'static,
        session: &Session,
    ) -> Result<Option<Credentials>, CommandError> {
        let places = places(self.authfile.clone(), session);
        let found = tokio::task::spawn_blocking(move || search(&places)).await;
        match found.map_err(io::Error::other)? {
            Ok(found) => Ok(found.map(for_the_wire)),
            Err(error) if self.authfile.is_some() => Err(broken(&error).into()),
            Err(error) => {
                let failure = broken(&error);
                let causes: Vec<String> = std::iter::once(failure.message)
                    .chain(failure.cause)
                    .collect();
                let label = session.paint().doubtful("warning:");
                output::note(&format!(
                    "{label} going on without credentials: {}\n",
                    causes.join(": ")
                ));
                Ok(None)
            }
        }
    }
}

/// Returns where this user's tools keep logins; `auth_file` is the one of an option.
pub(crate) fn places(auth_file: Option<PathBuf>, session: &Session) -> Places {
    let surroundings = session.surroundings();
    Places {
        auth_file,
        registry_auth_file: surroundings.registry_auth_file.clone(),
        runtime_dir: surroundings.xdg_runtime_dir.clone(),
        user_run_dir: Some(PathBuf::from(format!(
            "/run/containers/{}",
            rustix::process::geteuid().as_raw()
        ))),
        config_home: surroundings.xdg_config_home.clone(),
        docker_config: surroundings.docker_config.clone(),
        home: surroundings.home.clone(),
        path: surroundings.path.clone(),
    }
}

/// Puts credentials into the form of calls.
pub(crate) fn for_the_wire(found: Found) -> Credentials {
    match found {
        Found::Password { username, secret } => Credentials {
            username,
            secret: secret.expose().to_owned(),
        },
        Found::IdentityToken(secret) => Credentials {
            username: IDENTITY_TOKEN.to_owned(),
            secret: secret.expose().to_owned(),
        },
    }
}

/// Says what is wrong with an auth file or a helper.
pub(crate) fn broken(error: &CredentialsError) -> Failure {
    let code = match error {
        CredentialsError::AuthFileMissing { .. } => codes::file::NOT_FOUND,
        CredentialsError::Unreadable {
            source: KeptError::NotRegular,
            ..
        }
        | CredentialsError::Circle { .. } => codes::file::WRONG_KIND,
        CredentialsError::Unreadable { .. } => codes::file::UNREADABLE,
        CredentialsError::TooLarge { .. } => codes::file::TOO_LARGE,
        CredentialsError::Malformed { .. }
        | CredentialsError::Entry { .. }
        | CredentialsError::Helper { .. } => codes::request::INVALID_PARAMS,
    };
    if matches!(error, CredentialsError::Circle { .. }) {
        return Failure::from_error(code, error).with_hint(
            "remove the link, or let it point to a file, and log in anew:",
            Some("kiln login REGISTRY".to_owned()),
        );
    }
    let is_text = matches!(
        error,
        CredentialsError::Malformed { .. } | CredentialsError::Entry { .. }
    );
    if !is_text && !matches!(error, CredentialsError::Helper { .. }) {
        return Failure::from_error(code, error)
            .with_hint("put a file in its place that you may read", None);
    }
    Failure::from_error(code, error).with_hint(
        "repair it, or remove it and log in anew:",
        Some("kiln login REGISTRY".to_owned()),
    )
}

/// Reads `USER:SECRET`; without a secret it is asked for, or read as one line from stdin.
fn parse(text: &str, session: &Session) -> Result<Credentials, CommandError> {
    let (username, secret) = match text.split_once(':') {
        Some((username, secret)) => (username, Some(secret.to_owned())),
        None => (text, None),
    };
    if username.is_empty() {
        return Err(refused("--creds needs a user name"));
    }
    let secret = match secret {
        Some(secret) => {
            WARNED.call_once(|| warn_of_command_line(session));
            secret
        }
        None => secret::ask(username, session)?,
    };
    Ok(Credentials {
        username: username.to_owned(),
        secret,
    })
}

fn warn_of_command_line(session: &Session) {
    output::note(&format!(
        "{} a password on the command line is seen by every user of this host; give the user alone \
         to be asked for it, or to have it read from standard input (USER < FILE)\n",
        session.paint().doubtful("warning:")
    ));
}

fn refused(message: &str) -> CommandError {
    Failure::new(codes::request::INVALID_PARAMS, message)
        .with_hint(
            "give user and password, or the user alone to be asked:",
            Some("kiln pull REFERENCE --creds USER".to_owned()),
        )
        .into()
}
