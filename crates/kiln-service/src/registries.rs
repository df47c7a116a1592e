//! Registries, seen over the network: the desk of `registry.*`.

mod blob;
mod deletion;
mod doctor;
mod explain;
mod lists;
mod logins;
mod manifest;

use std::sync::Arc;

use kiln_api::image::Credentials;
use kiln_api::registry::{PingParams, Pong};
use kiln_api::{Failure, codes};
use kiln_domain::{Reference, RegistryName};
use kiln_registry::Registry;
use kiln_registry::routes::TlsVerify;

pub use blob::BlobFiles;

use crate::failures::source_failure;
use crate::pulls::credentials;
use crate::remotes::{Remotes, tls_verify};
use crate::system_logins::SystemLogins;

/// Asks registries on behalf of callers.
#[derive(Clone, Debug)]
pub struct Registries {
    remotes: Arc<Remotes>,
    logins: SystemLogins,
    files: BlobFiles,
}

impl Registries {
    /// Makes the desk.
    pub fn new(remotes: Arc<Remotes>, logins: SystemLogins, files: BlobFiles) -> Self {
        Self {
            remotes,
            logins,
            files,
        }
    }

    /// Prepares to speak to a registry as whom the caller says.
    fn open(&self, name: &RegistryName, given: Option<Credentials>) -> Result<Registry, Failure> {
        self.open_with(name, given, TlsVerify::Configured)
    }

    /// Does what [`Registries::open`] does, and takes the caller's word on certificates.
    fn open_with(
        &self,
        name: &RegistryName,
        given: Option<Credentials>,
        tls: TlsVerify,
    ) -> Result<Registry, Failure> {
        let opened = self
            .remotes
            .registry_with(name, given.map(credentials), tls);
        opened.map_err(|error| source_failure(&error))
    }

    /// Prepares to speak to the registry of a repository as whom the caller says.
    fn open_for(
        &self,
        reference: &Reference,
        given: Option<Credentials>,
    ) -> Result<Registry, Failure> {
        let opened = self.remotes.registry_of(reference, given.map(credentials));
        opened.map_err(|error| source_failure(&error))
    }

    /// Asks whether a registry is there.
    pub async fn ping(&self, params: PingParams) -> Result<Pong, Failure> {
        let username = params
            .credentials
            .as_ref()
            .map(|given| given.username.clone());
        let tls = tls_verify(params.tls_verify);
        let registry = self.open_with(&params.registry, params.credentials, tls)?;
        let pong = registry
            .ping()
            .await
            .map_err(|error| source_failure(&error))?;
        Ok(Pong {
            registry: params.registry,
            url: pong.url,
            api_version: pong.api_version,
            username,
            authenticated: pong.is_authenticated,
        })
    }
}

/// Reads a reference to a registry's image, also one that is written like a source of a pull.
fn parse_reference(text: &str) -> Result<Reference, Failure> {
    let bare = text.strip_prefix("docker://").unwrap_or(text);
    bare.parse().map_err(|error: kiln_domain::ReferenceError| {
        Failure::from_error(codes::source::INVALID_REFERENCE, &error)
    })
}
