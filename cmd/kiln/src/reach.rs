//! How the registries of one call are reached: which they are, who to be at each, and whether
//! certificates count.
//!
//! Which registries those are the daemon knows (`registry.explain`); who the caller is at them, the
//! caller's auth files. So each is told its own credentials and no other's. What is sent is the name
//! in full that the credentials were looked up for: an alias that changes meanwhile moves nothing.
//!
//! ```text
//! read:  text ─explain─▶ name in full ─▶ credentials of its registry, of each mirror
//! write: text, which names its registry ─▶ credentials of that
//! ```

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use kiln_api::image::Credentials;
use kiln_api::registry::{Explain, ExplainParams, Explanation, RegistryCredentials};
use kiln_api::{Failure, codes, destination};
use kiln_client::Client;
use kiln_domain::{Reference, ReferenceError, RegistryName, without_user_info};

use crate::credentials::CredentialsArguments;
use crate::failure::CommandError;
use crate::output;
use crate::session::Session;

/// Who to be, and how to speak: the flags of every command that reaches one registry.
#[derive(Debug, Args)]
pub(crate) struct ReachArguments {
    #[command(flatten)]
    credentials: CredentialsArguments,
    #[command(flatten)]
    tls: TlsArguments,
}

/// The flag.
#[derive(Debug, Default, Args)]
pub(crate) struct TlsArguments {
    /// Insist on HTTPS with a certificate that can be trusted, also on this host and at mirrors; with
    /// =false plain HTTP will do, and any certificate, at the registry that is named
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    tls_verify: Option<bool>,
    /// The registries that were warned of.
    #[arg(skip)]
    warned: Mutex<BTreeSet<RegistryName>>,
}

/// The flags of commands that reach two registries.
#[derive(Debug, Args)]
pub(crate) struct BothTlsArguments {
    #[command(flatten)]
    both: TlsArguments,
    /// The same for the source alone
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    src_tls_verify: Option<bool>,
    /// The same for the destination alone
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    dest_tls_verify: Option<bool>,
}

impl BothTlsArguments {
    /// Returns what holds where it comes from.
    pub(crate) fn source(&self) -> TlsArguments {
        TlsArguments::of(self.src_tls_verify.or(self.both.tls_verify))
    }

    /// Returns what holds where it goes.
    pub(crate) fn destination(&self) -> TlsArguments {
        TlsArguments::of(self.dest_tls_verify.or(self.both.tls_verify))
    }
}

impl TlsArguments {
    /// Puts a flag in its place that a command has under another name.
    pub(crate) fn of(tls_verify: Option<bool>) -> Self {
        Self {
            tls_verify,
            warned: Mutex::default(),
        }
    }

    /// Decides for a registry: the flag, else `REGISTRY_INSECURE` and then the scheme of
    /// `REGISTRY_URL` for the one named there, else nothing. Says so where neither its name nor a
    /// certificate will tell who answers.
    pub(crate) fn verify(
        &self,
        registry: &RegistryName,
        session: &Session,
    ) -> Result<Option<bool>, CommandError> {
        let verify = match self.tls_verify {
            Some(verify) => Some(verify),
            None => by_environment(registry, session)?,
        };
        if verify == Some(false) && !registry.is_loopback() && self.is_news(registry) {
            let label = session.paint().doubtful("warning:");
            output::note(&format!(
                "{label} {registry} may be spoken to without encryption: anybody on the way can read \
                 and change what is sent, passwords included\n"
            ));
        }
        Ok(verify)
    }
}

impl TlsArguments {
    /// Notes a registry; says whether it was not noted before.
    fn is_news(&self, registry: &RegistryName) -> bool {
        // Nothing is left half done by whoever panicked: the set is only added to.
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        warned.insert(registry.clone())
    }
}

/// What the environment says about the registry that it names: of `https://` nobody expects plain
/// HTTP, while `http://` is written for registries that have long had a certificate.
fn by_environment(
    registry: &RegistryName,
    session: &Session,
) -> Result<Option<bool>, CommandError> {
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
            return Err(Failure::new(codes::request::INVALID_PARAMS, text)
                .with_hint("set it to true or false", None)
                .into());
        }
    };
    let url = surroundings.registry_url.as_deref().unwrap_or_default();
    let verify = if is_insecure {
        Some(false)
    } else {
        url.starts_with("https://").then_some(true)
    };
    // Where nothing follows from it the URL is not read: its mistakes do not stop this call.
    if verify.is_none() || of_environment(session)?.as_ref() != Some(registry) {
        return Ok(None);
    }
    Ok(verify)
}

/// Returns the registry of `REGISTRY_URL`, where that is set.
pub(crate) fn of_environment(session: &Session) -> Result<Option<RegistryName>, CommandError> {
    let Some(text) = &session.surroundings().registry_url else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|error| {
        let next = match &error {
            ReferenceError::UserInfo => "take the password out of it, and log in with kiln login",
            _ => "name a host in it, such as http://localhost:5000",
        };
        let shown = without_user_info(text);
        let text = format!("REGISTRY_URL is {shown:?}: {error}");
        Failure::new(codes::request::INVALID_PARAMS, text)
            .with_hint(next, None)
            .into()
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
    /// As in every call that has it: what is left out is as the daemon is configured.
    pub(crate) tls_verify: Option<bool>,
}

impl Reach {
    /// For what comes from no registry.
    pub(crate) fn nowhere(stated: Option<Credentials>) -> Self {
        Self {
            credentials: stated,
            mirror_credentials: Vec::new(),
            tls_verify: None,
        }
    }
}

impl ReachArguments {
    /// Puts flags together that a command has under other names.
    pub(crate) fn of(credentials: CredentialsArguments, tls: TlsArguments) -> Self {
        Self { credentials, tls }
    }

    /// Returns the auth file that was named.
    pub(crate) fn authfile(&self) -> Option<&Path> {
        self.credentials.authfile()
    }

    /// Reads what the flags say at once, so that a password is asked for before anything begins.
    pub(crate) fn caller<'a>(&'a self, session: &'a Session) -> Result<Caller<'a>, CommandError> {
        Ok(Caller {
            stated: self.credentials.stated(session)?,
            arguments: self,
            session,
        })
    }
}

/// Who is calling: as the flags say, else as the auth files know. What the flags say is for the
/// registry that is named, and for no mirror.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    stated: Option<Credentials>,
    arguments: &'a ReachArguments,
    session: &'a Session,
}

impl Caller<'_> {
    /// Returns the credentials that the flags say.
    pub(crate) fn stated(self) -> Option<Credentials> {
        self.stated
    }

    /// Says whether the flags say credentials.
    pub(crate) fn has_stated(&self) -> bool {
        self.stated.is_some()
    }

    /// Finds out how to reach a registry as a whole.
    pub(crate) async fn at_registry(self, name: &RegistryName) -> Result<Reach, CommandError> {
        let Self {
            stated,
            arguments,
            session,
        } = self;
        let tls_verify = arguments.tls.verify(name, session)?;
        let credentials = match stated {
            Some(stated) => Some(stated),
            None => arguments.credentials.find_registry(name, session).await?,
        };
        Ok(Reach {
            tls_verify,
            ..Reach::nowhere(credentials)
        })
    }

    /// Finds out how to write to a place, which names its registry: nothing leads elsewhere.
    pub(crate) async fn for_writing(self, text: &str) -> Result<(Reference, Reach), CommandError> {
        let reference = destination(text)?;
        let reach = self.at_repository(&reference).await?;
        Ok((reference, reach))
    }

    /// Finds out how to look at something where it lies, without mirrors; a short name is spelled
    /// out.
    pub(crate) async fn for_looking(
        self,
        written: &str,
        client: &Client,
    ) -> Result<(Reference, Reach), CommandError> {
        let (reference, _) = explained(written, client, self.session).await?;
        let reach = self.at_repository(&reference).await?;
        Ok((reference, reach))
    }

    /// Finds out how to fetch an image, from its registry or a mirror; a short name is spelled out.
    pub(crate) async fn for_fetching(
        self,
        written: &str,
        client: &Client,
    ) -> Result<(Reference, Reach), CommandError> {
        let (arguments, session) = (self.arguments, self.session);
        let (reference, explanation) = explained(written, client, session).await?;
        let mut reach = self.at_repository(&reference).await?;
        reach.mirror_credentials =
            at_mirrors(&reference, explanation, &arguments.credentials, session).await?;
        Ok((reference, reach))
    }

    /// Finds out how to fetch what has the form of a pattern: with the login of the registry as a
    /// whole, which the pattern names, and of the mirrors that a name of this form has.
    pub(crate) async fn for_fetching_many(
        self,
        pattern: &str,
        client: &Client,
    ) -> Result<Reach, CommandError> {
        let (arguments, session) = (self.arguments, self.session);
        let sample = destination(&pattern.replace(['*', '?'], "x"))?;
        let mut reach = self.at_registry(&RegistryName::of(&sample)).await?;
        let (_, explanation) = explained(&sample.to_string(), client, session).await?;
        reach.mirror_credentials =
            at_mirrors(&sample, explanation, &arguments.credentials, session).await?;
        Ok(reach)
    }

    async fn at_repository(self, reference: &Reference) -> Result<Reach, CommandError> {
        let Self {
            stated,
            arguments,
            session,
        } = self;
        let tls_verify = arguments
            .tls
            .verify(&RegistryName::of(reference), session)?;
        let credentials = match stated {
            Some(stated) => Some(stated),
            None => arguments.credentials.find(reference, session).await?,
        };
        Ok(Reach {
            tls_verify,
            ..Reach::nowhere(credentials)
        })
    }
}

/// Spells a name out as the daemon does, and asks where it would be asked for.
async fn explained(
    written: &str,
    client: &Client,
    session: &Session,
) -> Result<(Reference, Explanation), CommandError> {
    let params = ExplainParams {
        reference: written.to_owned(),
        tls_verify: None,
    };
    let explanation = session.call::<Explain>(client, &params).await?;
    let reference = explanation.reference.parse::<Reference>();
    let reference =
        reference.map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))?;
    Ok((reference, explanation))
}

/// Finds who to be wherever an image is asked for but at its own registry.
async fn at_mirrors(
    reference: &Reference,
    explanation: Explanation,
    arguments: &CredentialsArguments,
    session: &Session,
) -> Result<Vec<RegistryCredentials>, CommandError> {
    let own = RegistryName::of(reference);
    let mut all = Vec::new();
    let others = explanation.endpoints.into_iter();
    for endpoint in others.filter(|endpoint| endpoint.registry != own) {
        let Ok(there) = endpoint.reference.parse::<Reference>() else {
            continue;
        };
        let registry = endpoint.registry;
        let found = arguments.find(&there, session).await?;
        all.extend(found.map(|credentials| RegistryCredentials {
            registry,
            credentials,
        }));
    }
    Ok(all)
}
