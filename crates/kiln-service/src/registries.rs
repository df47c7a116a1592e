//! Registries, seen over the network: the desk of `registry.*`.

mod blob;
mod deletion;
mod doctor;
mod explain;
mod lists;
mod logins;
mod manifest;

use std::sync::Arc;

use kiln_api::Failure;
use kiln_api::image::Credentials;
use kiln_api::registry::{PingParams, Pong, RegistryCredentials};
use kiln_domain::{Reference, RegistryName, Source};
use kiln_registry::{Registry, Remote};

pub use blob::BlobFiles;
pub(crate) use deletion::take_off;

use crate::failures::{short_name_failure, source_failure};
use crate::pulls::credentials;
use crate::remotes::{self, Remotes};
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
    fn open(
        &self,
        name: &RegistryName,
        given: Option<Credentials>,
        tls_verify: Option<bool>,
    ) -> Result<Registry, Failure> {
        let tls = remotes::tls_verify(tls_verify);
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
        tls_verify: Option<bool>,
    ) -> Result<Registry, Failure> {
        let tls = remotes::tls_verify(tls_verify);
        let opened = self
            .remotes
            .registry_of(reference, given.map(credentials), tls);
        opened.map_err(|error| source_failure(&error))
    }

    /// Prepares to fetch from wherever a pull would, as whom the caller says.
    fn remote_for(
        &self,
        reference: &Reference,
        own: Option<Credentials>,
        others: Vec<RegistryCredentials>,
        tls_verify: Option<bool>,
    ) -> Result<Remote, Failure> {
        let source = Source::Registry(reference.clone());
        let identities = remotes::identities(&source, own, others);
        let tls = remotes::tls_verify(tls_verify);
        let opened = self.remotes.remote(reference, &identities, tls);
        opened.map_err(|error| source_failure(&error))
    }

    /// Reads what is to be looked at; a short name is spelled out as this host does it.
    fn read(&self, text: &str) -> Result<Reference, Failure> {
        let read = self.remotes.reference(text);
        read.map_err(|error| short_name_failure(&error))
    }

    /// Asks whether a registry is there.
    pub async fn ping(&self, params: PingParams) -> Result<Pong, Failure> {
        let username = params
            .credentials
            .as_ref()
            .map(|given| given.username.clone());
        let registry = self.open(&params.registry, params.credentials, params.tls_verify)?;
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
