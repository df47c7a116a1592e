//! `kiln copy`: an image from one place to another, without building.

mod to_host;
pub(crate) mod to_registry;

use std::path::PathBuf;

use clap::Args;
use kiln_api::{Failure, codes};
use kiln_domain::Source;

use crate::credentials::CredentialsArguments;
use crate::failure::CommandError;
use crate::reach::{BothTlsArguments, ReachArguments};
use crate::session::Session;

/// What to copy, and where to.
#[derive(Debug, Args)]
#[command(after_help = "\
Places:
  REGISTRY/REPOSITORY[:TAG][@DIGEST]  a registry, also with docker:// in front
  oci:DIR[:TAG]                       an OCI image layout on this host
  oci-archive:FILE[:TAG]              the same in a tar archive
  docker-archive:FILE[:REFERENCE]     what `docker save` writes; one platform, layers unpacked
  dir:DIR                             one image in a directory, as skopeo writes it")]
pub(crate) struct Arguments {
    /// What to copy
    #[arg(value_name = "SOURCE")]
    pub(crate) from: String,
    /// Where to
    #[arg(value_name = "DESTINATION")]
    pub(crate) into: String,
    /// One platform, such as linux/arm64; all of them, with their index, when left out
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// Further tag at the destination; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// What refers to it at its source too: signatures, SBOMs
    #[arg(long)]
    pub(crate) referrers: bool,
    /// User name and password for the source; the password is asked for when left out
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub(crate) src_creds: Option<String>,
    /// User name and password for the destination; the password is asked for when left out
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub(crate) dest_creds: Option<String>,
    /// Auth file of docker, podman or skopeo, in place of the usual ones
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: BothTlsArguments,
    /// Replace an archive that is there already
    #[arg(long)]
    pub(crate) force: bool,
    /// Return the operation at once and let the daemon go on
    #[arg(long)]
    pub(crate) detach: bool,
}

impl Arguments {
    /// Says who to be where it comes from.
    pub(crate) fn source_flags(&self) -> ReachArguments {
        let credentials = CredentialsArguments::of(self.src_creds.clone(), self.authfile.clone());
        ReachArguments::of(credentials, self.tls.source())
    }

    /// Says who to be where it goes.
    pub(crate) fn destination_flags(&self) -> ReachArguments {
        let credentials = CredentialsArguments::of(self.dest_creds.clone(), self.authfile.clone());
        ReachArguments::of(credentials, self.tls.destination())
    }
}

/// Copies.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    match arguments.into.parse::<Source>() {
        Ok(Source::Registry(_)) => to_registry::run(arguments, session).await,
        Ok(into) => Box::pin(to_host::run(arguments, into, session)).await,
        Err(error) => Err(Failure::from_error(codes::source::INVALID_REFERENCE, &error).into()),
    }
}
