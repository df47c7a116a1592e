//! `kiln registry …`: registries, seen over the network.

mod blob;
mod deletion;
mod dev;
mod doctor;
mod explain;
mod lists;
pub(crate) mod login;
pub(crate) mod logout;
mod manifest;
mod natural;
mod system;
pub(crate) mod whoami;

use clap::{Args, Subcommand};
use kiln_api::registry::{Ping, PingParams};
use kiln_domain::RegistryName;

use crate::copy;
use crate::failure::CommandError;
use crate::reach::{self, ReachArguments};
use crate::session::Session;
use crate::sync;
use crate::text::cell;

pub(crate) use lists::{TagsArguments, tags};

/// What there is to do with registries.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask whether a registry is there, speaks the protocol and knows you
    Ping(PingArguments),
    /// List the repositories of a registry, where it has a catalogue
    Catalog(lists::CatalogArguments),
    /// List the tags of a repository
    Tags(TagsArguments),
    /// Show a manifest or index
    Manifest(manifest::Arguments),
    /// Fetch a blob by its digest
    Blob(blob::Arguments),
    /// List what refers to an image: signatures, lists of contents, attestations
    Referrers(lists::ReferrersArguments),
    /// Delete a manifest, with every tag of it
    #[command(alias = "rm")]
    Delete(deletion::DeleteArguments),
    /// Take a tag off a manifest and leave the manifest
    Untag(deletion::UntagArguments),
    /// Tell how often a registry lets itself be asked
    #[command(alias = "rate-limit")]
    Ratelimit(lists::RateLimitArguments),
    /// Tell which hosts would be asked for an image, in which order, how and why
    Explain(explain::Arguments),
    /// Find out what is wrong between here and a registry
    Doctor(doctor::Arguments),
    /// Log in to a registry, where docker, podman and skopeo find it too
    Login(login::LoginArguments),
    /// Forget a login
    Logout(logout::LogoutArguments),
    /// Say who you are at registries, from where, and whether they agree
    Whoami(whoami::WhoamiArguments),
    /// Copy an image from one place to another, without building
    Copy(copy::Arguments),
    /// Copy what is new in some repositories to others, by rule
    Sync(sync::Arguments),
    /// List your logins
    #[command(alias = "list")]
    Ls(whoami::ListArguments),
    /// List the logins that the daemon keeps for work without a caller; for root only
    Logins,
    /// Run a registry on this machine, to develop against
    #[command(subcommand)]
    Dev(dev::Command),
}

/// Which registry to ask.
#[derive(Debug, Args)]
pub(crate) struct PingArguments {
    /// Host of the registry, such as ghcr.io or localhost:5000; that of `REGISTRY_URL` when left out
    registry: Option<RegistryName>,
    #[command(flatten)]
    reach: ReachArguments,
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::Ping(arguments) => ping(arguments, session).await,
            Self::Catalog(arguments) => lists::catalog(arguments, session).await,
            Self::Tags(arguments) => tags(arguments, session).await,
            Self::Manifest(arguments) => manifest::run(arguments, session).await,
            Self::Blob(arguments) => blob::run(arguments, session).await,
            Self::Referrers(arguments) => lists::referrers(arguments, session).await,
            Self::Delete(arguments) => deletion::delete(arguments, session).await,
            Self::Untag(arguments) => deletion::untag(arguments, session).await,
            Self::Ratelimit(arguments) => lists::ratelimit(arguments, session).await,
            Self::Explain(arguments) => explain::run(arguments, session).await,
            Self::Doctor(arguments) => doctor::run(arguments, session).await,
            Self::Login(arguments) => login::login(arguments, session).await,
            Self::Logout(arguments) => logout::logout(arguments, session).await,
            Self::Whoami(arguments) => whoami::whoami(arguments, session).await,
            Self::Copy(arguments) => copy::run(arguments, session).await,
            Self::Sync(arguments) => sync::run(arguments, session).await,
            Self::Ls(arguments) => whoami::list(arguments, session).await,
            Self::Logins => system::list(session).await,
            Self::Dev(command) => command.run(session).await,
        }
    }
}

async fn ping(arguments: PingArguments, session: &Session) -> Result<(), CommandError> {
    let registry = reach::named(arguments.registry, session)?;
    let caller = arguments.reach.caller(session)?;
    let reach = caller.at_registry(&registry).await?;
    let client = session.connect().await?;
    let params = PingParams {
        registry,
        credentials: reach.credentials,
        tls_verify: reach.tls_verify,
    };
    let pong = session.call::<Ping>(&client, &params).await?;
    session.output().one(&pong, pong.registry.as_str(), |pong| {
        let name = cell(pong.registry.as_str());
        match &pong.username {
            Some(username) => format!("{name} answers, to {}\n", cell(username)),
            None => format!("{name} answers\n"),
        }
    })
}
