//! Certificates by host, as the directories of containers-certs.d(5) hold them.
//!
//! ```text
//! <certs.d>/<host[:port]>/*.crt                an authority the registry's certificate is of
//! <certs.d>/<host[:port]>/NAME.cert, NAME.key  who we are there
//! ```
//! Not here: reading the directories.

use std::fmt;

use kiln_domain::RegistryName;

/// A PEM file.
#[derive(Clone, PartialEq, Eq)]
pub struct PemFile {
    /// Its path: for people.
    pub path: String,
    /// Its content; a private key may be in it, so it is never shown.
    pub pem: Vec<u8>,
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// What a directory has for one host.
#[derive(Clone, Debug)]
pub struct HostCertificates {
    /// The host.
    pub registry: RegistryName,
    /// Authorities.
    pub authorities: Vec<PemFile>,
    /// Client certificates, each followed by its key.
    pub clients: Vec<PemFile>,
}
