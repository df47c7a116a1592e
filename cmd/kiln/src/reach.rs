//! How the registries of one call are reached: who to be at each, and whether certificates count.
//!
//! Which registries those are the daemon knows (`registry.explain`); who the caller is at them, the
//! caller's auth files. So each is told its own credentials and no other's.

use clap::Args;
use kiln_api::image::Credentials;
use kiln_api::registry::{Explain, ExplainParams, RegistryCredentials};
use kiln_api::{Failure, codes};
use kiln_client::Client;
use kiln_domain::{Reference, RegistryName};

use crate::credentials::CredentialsArguments;
use crate::failure::CommandError;
use crate::output;
use crate::session::Session;

/// The flag.
#[derive(Debug, Default, Args)]
pub(crate) struct TlsArguments {
    /// Insist on a certificate that can be trusted; with =false plain HTTP will do, and any
    /// certificate, at the registry that is named
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    tls_verify: Option<bool>,
}

impl TlsArguments {
    /// Decides for a registry: the flag, else `REGISTRY_INSECURE` for the one of `REGISTRY_URL`. Says
    /// so where neither its name nor a certificate will tell who answers.
    pub(crate) fn verify(
        &self,
        registry: &RegistryName,
        session: &Session,
    ) -> Result<bool, CommandError> {
        let verify = match self.tls_verify {
            Some(verify) => verify,
            None => !is_insecure(registry, session)?,
        };
        if !verify && !registry.is_loopback() {
            let label = session.paint().doubtful("warning:");
            output::note(&format!(
                "{label} {registry} may be spoken to without encryption: anybody on the way can read \
                 and change what is sent, passwords included\n"
            ));
        }
        Ok(verify)
    }
}

fn is_insecure(registry: &RegistryName, session: &Session) -> Result<bool, CommandError> {
    let surroundings = session.surroundings();
    let word = surroundings
        .registry_insecure
        .as_deref()
        .unwrap_or_default();
    let is_insecure = match word.to_ascii_lowercase().as_str() {
        "" | "0" | "false" | "no" => false,
        "1" | "true" | "yes" => true,
        _ => {
            let text = format!("REGISTRY_INSECURE is {word:?}, which is neither true nor false");
            return Err(Failure::new(codes::request::INVALID_PARAMS, text).into());
        }
    };
    Ok(is_insecure && of_environment(session)?.as_ref() == Some(registry))
}

/// Returns the registry of `REGISTRY_URL`, where that is set.
pub(crate) fn of_environment(session: &Session) -> Result<Option<RegistryName>, CommandError> {
    let Some(text) = &session.surroundings().registry_url else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|error| {
        let text = format!("REGISTRY_URL is {text:?}: {error}");
        Failure::new(codes::request::INVALID_PARAMS, text).into()
    })
}

/// Returns the registry that was named, else that of `REGISTRY_URL`.
pub(crate) fn named(
    registry: Option<RegistryName>,
    session: &Session,
) -> Result<RegistryName, CommandError> {
    let registry = match registry {
        Some(registry) => Some(registry),
        None => of_environment(session)?,
    };
    registry.ok_or_else(|| {
        let text = "no registry was named, and REGISTRY_URL is not set";
        Failure::new(codes::request::INVALID_PARAMS, text)
            .with_hint("name its host, such as localhost:5000", None)
            .into()
    })
}

/// What a call is told.
#[derive(Debug)]
pub(crate) struct Reach {
    pub(crate) credentials: Option<Credentials>,
    pub(crate) mirror_credentials: Vec<RegistryCredentials>,
    pub(crate) tls_verify: bool,
}

impl Reach {
    /// For what comes from no registry.
    pub(crate) fn nowhere(stated: Option<Credentials>) -> Self {
        Self {
            credentials: stated,
            mirror_credentials: Vec::new(),
            tls_verify: true,
        }
    }

    /// Finds out what a pull of `reference`, as it was written, has to know.
    ///
    /// `stated` are the credentials that the command line says; they are for the registry that the
    /// reference names.
    pub(crate) async fn of(
        written: &str,
        stated: Option<Credentials>,
        arguments: &CredentialsArguments,
        tls: &TlsArguments,
        client: &Client,
        session: &Session,
    ) -> Result<Self, CommandError> {
        let params = ExplainParams {
            reference: written.to_owned(),
            tls_verify: true,
        };
        let explained = session.call::<Explain>(client, &params).await;
        // What cannot be explained is the pull's to refuse.
        let explained = explained.ok();
        let reference = explained
            .as_ref()
            .map_or(written, |explanation| &explanation.reference);
        let Ok(reference) = reference.parse::<Reference>() else {
            return Ok(Self::nowhere(stated));
        };
        let own = RegistryName::of(&reference);
        let mut reach = Self {
            tls_verify: tls.verify(&own, session)?,
            ..Self::nowhere(stated)
        };
        if reach.credentials.is_none() {
            reach.credentials = arguments.find(&reference, session).await?;
        }
        let others = explained.into_iter().flat_map(|found| found.endpoints);
        for endpoint in others.filter(|endpoint| endpoint.registry != own) {
            let Ok(there) = endpoint.reference.parse::<Reference>() else {
                continue;
            };
            let registry = endpoint.registry;
            let found = arguments.find(&there, session).await?;
            reach
                .mirror_credentials
                .extend(found.map(|credentials| RegistryCredentials {
                    registry,
                    credentials,
                }));
        }
        Ok(reach)
    }
}
