//! Registries, seen over the network: the desk of `registry.*`.

mod explain;

use std::sync::Arc;

use kiln_api::Failure;
use kiln_api::registry::{PingParams, Pong};

use crate::failures::source_failure;
use crate::pulls::credentials;
use crate::remotes::{Remotes, tls_verify};

/// Asks registries on behalf of callers.
#[derive(Clone, Debug)]
pub struct Registries {
    remotes: Arc<Remotes>,
}

impl Registries {
    /// Makes the desk.
    pub fn new(remotes: Arc<Remotes>) -> Self {
        Self { remotes }
    }

    /// Asks whether a registry is there.
    pub async fn ping(&self, params: PingParams) -> Result<Pong, Failure> {
        let username = params
            .credentials
            .as_ref()
            .map(|given| given.username.clone());
        let identity = params.credentials.map(credentials);
        let tls = tls_verify(params.tls_verify);
        let registry = self.remotes.registry_with(&params.registry, identity, tls);
        let registry = registry.map_err(|error| source_failure(&error))?;
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
