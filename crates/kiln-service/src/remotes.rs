//! Registries as this host is configured to reach them.

use std::sync::Arc;

use kiln_domain::{Credentials, RegistryName};
use kiln_registry::{Config, FetchError, Registry};

/// Opens registries for callers. What one caller proves is never another's: each gets a client of
/// its own.
#[derive(Debug)]
pub struct Remotes {
    config: Arc<Config>,
}

impl Remotes {
    /// Opens registries as `config` says.
    pub fn new(config: Config) -> Self {
        Self {
            config: Arc::new(config),
        }
    }

    /// Returns the configuration in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.clone()
    }

    /// Prepares to speak to a registry as the owner of `credentials`, or as nobody.
    pub(crate) fn registry(
        &self,
        name: &RegistryName,
        credentials: Option<Credentials>,
    ) -> Result<Registry, FetchError> {
        Registry::named(name, credentials, self.config())
    }
}
