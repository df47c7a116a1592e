//! Registries as this host is configured to reach them.

use std::sync::{Arc, PoisonError, RwLock};

use kiln_api::registry::RegistryCredentials;
use kiln_domain::{Credentials, Reference, RegistryName, Source, SourceError};
use kiln_registry::routes::{Network, Security, ShortNameError, TlsVerify};
use kiln_registry::{Config, FetchError, Identities, Registry, Remote};

use crate::pulls::credentials as in_custody;

/// Opens registries for callers. What one caller proves is never another's: each gets a client of
/// its own.
///
/// The configuration may be replaced at any time. What was opened before keeps the former.
#[derive(Debug)]
pub struct Remotes {
    network: RwLock<Arc<Network>>,
}

/// Why a text is no source on this host.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NameError {
    /// It is none anywhere.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It is a short name that stands for nothing here.
    #[error(transparent)]
    ShortName(#[from] ShortNameError),
}

impl Remotes {
    /// Opens registries as `network` says.
    pub fn new(network: Network) -> Self {
        Self {
            network: RwLock::new(Arc::new(network)),
        }
    }

    /// Opens registries as `network` says from now on.
    pub fn replace(&self, network: Network) {
        let mut current = self.network.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(network);
    }

    /// Returns the configuration in force.
    pub(crate) fn network(&self) -> Arc<Network> {
        let current = self.network.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Returns the settings of the transport in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.network().config.clone()
    }

    /// Prepares to speak to a registry as the owner of `credentials`, or as nobody.
    pub fn registry(
        &self,
        name: &RegistryName,
        credentials: Option<Credentials>,
    ) -> Result<Registry, FetchError> {
        self.registry_with(name, credentials, TlsVerify::AsConfigured)
    }

    /// Does what [`Remotes::registry`] does, and takes the caller's word on certificates.
    pub(crate) fn registry_with(
        &self,
        name: &RegistryName,
        credentials: Option<Credentials>,
        tls: TlsVerify,
    ) -> Result<Registry, FetchError> {
        let endpoint = self.network().registry(name, tls)?;
        Registry::at(&endpoint, credentials)
    }

    /// Prepares to speak to the registry of a repository, as the rule for the repository says.
    pub(crate) fn registry_of(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
        tls: TlsVerify,
    ) -> Result<Registry, FetchError> {
        let network = self.network();
        let endpoint = network.registry_of(reference, tls)?;
        Registry::at(&endpoint, credentials)
    }

    /// Prepares to fetch an image from its registry and the mirrors of that.
    pub(crate) fn remote(
        &self,
        reference: &Reference,
        identities: &Identities,
        tls: TlsVerify,
    ) -> Result<Remote, FetchError> {
        let route = self.network().route(reference, tls);
        for endpoint in route.endpoints() {
            if endpoint.security == Security::Insecure {
                let registry = endpoint.registry.as_str();
                tracing::warn!(registry, "plain HTTP or any certificate will do");
            }
        }
        Remote::new(route, identities)
    }

    /// Reads a source; a short name becomes the full one that it stands for on this host.
    pub(crate) fn source(&self, text: &str) -> Result<Source, NameError> {
        let source: Source = text.parse()?;
        if !matches!(source, Source::Registry(_)) {
            return Ok(source);
        }
        Ok(Source::Registry(self.reference(text)?))
    }

    /// Reads a reference to a registry's image, also one that is written like a source of a pull; a
    /// short name becomes the full one that it stands for on this host.
    pub(crate) fn reference(&self, text: &str) -> Result<Reference, ShortNameError> {
        let text = text.strip_prefix("docker://").unwrap_or(text);
        Ok(self.network().spell_out(text)?.reference)
    }
}

/// Takes what a call says about certificates.
pub(crate) fn tls_verify(word: Option<bool>) -> TlsVerify {
    match word {
        None => TlsVerify::AsConfigured,
        Some(true) => TlsVerify::Demanded,
        Some(false) => TlsVerify::Waived,
    }
}

/// Takes a call's credentials into custody: those of the registry that the source names, and those
/// of others.
pub(crate) fn identities(
    source: &Source,
    own: Option<kiln_api::image::Credentials>,
    others: Vec<RegistryCredentials>,
) -> Identities {
    let mut identities = Identities::default();
    if let (Source::Registry(reference), Some(own)) = (source, own) {
        identities.add(RegistryName::of(reference), in_custody(own));
    }
    for other in others {
        identities.add(other.registry, in_custody(other.credentials));
    }
    identities
}
