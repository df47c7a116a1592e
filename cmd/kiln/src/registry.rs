//! `kiln registry …`: registries, seen over the network.

mod dev;
mod explain;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod whoami;

use clap::{Args, Subcommand};
use kiln_api::registry::{Ping, PingParams};
use kiln_domain::RegistryName;

use crate::credentials::CredentialsArguments;
use crate::failure::CommandError;
use crate::reach::{self, TlsArguments};
use crate::session::Session;
use crate::text::cell;

/// What there is to do with registries.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask whether a registry is there, speaks the protocol and knows you
    Ping(PingArguments),
    /// Tell which hosts would be asked for an image, in which order, how and why
    Explain(explain::Arguments),
    /// Log in to a registry, where docker, podman and skopeo find it too
    Login(login::LoginArguments),
    /// Forget a login
    Logout(logout::LogoutArguments),
    /// Say who you are at registries, from where, and whether they agree
    Whoami(whoami::WhoamiArguments),
    /// List your logins
    #[command(alias = "list")]
    Ls(whoami::ListArguments),
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
    credentials: CredentialsArguments,
    #[command(flatten)]
    tls: TlsArguments,
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::Ping(arguments) => ping(arguments, session).await,
            Self::Explain(arguments) => explain::run(arguments, session).await,
            Self::Login(arguments) => login::login(arguments, session).await,
            Self::Logout(arguments) => logout::logout(arguments, session).await,
            Self::Whoami(arguments) => whoami::whoami(arguments, session).await,
            Self::Ls(arguments) => whoami::list(arguments, session).await,
            Self::Dev(command) => command.run(session).await,
        }
    }
}

async fn ping(arguments: PingArguments, session: &Session) -> Result<(), CommandError> {
    let registry = reach::named(arguments.registry, session)?;
    let tls_verify = arguments.tls.verify(&registry, session)?;
    let credentials = arguments
        .credentials
        .of_registry(&registry, session)
        .await?;
    let client = session.connect().await?;
    let params = PingParams {
        registry,
        credentials,
        tls_verify,
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
