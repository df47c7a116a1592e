//! Registries, seen over the network: the desk of `registry.*`.

mod logins;

use std::sync::Arc;

use kiln_api::Failure;
use kiln_api::registry::{PingParams, Pong};

use crate::failures::source_failure;
use crate::pulls::credentials;
use crate::remotes::Remotes;
use crate::system_logins::SystemLogins;

/// Asks registries on behalf of callers.
#[derive(Clone, Debug)]
pub struct Registries {
    remotes: Arc<Remotes>,
    logins: SystemLogins,
}

impl Registries {
    /// Makes the desk.
    pub fn new(remotes: Arc<Remotes>, logins: SystemLogins) -> Self {
        Self { remotes, logins }
    }

    /// Asks whether a registry is there.
    pub async fn ping(&self, params: PingParams) -> Result<Pong, Failure> {
        let username = params
            .credentials
            .as_ref()
            .map(|given| given.username.clone());
        let identity = params.credentials.map(credentials);
        let registry = self.remotes.registry(&params.registry, identity);
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
