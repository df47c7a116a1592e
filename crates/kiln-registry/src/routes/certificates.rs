//! Certificates by host, as the directories of containers-certs.d(5) hold them.
//!
//! ```text
//! <certs.d>/<host[:port]>/*.crt                an authority the registry's certificate is of
//! <certs.d>/<host[:port]>/NAME.cert, NAME.key  who we are there
//! ```
//! Not here: reading the directories.

use std::fmt;
use std::path::PathBuf;

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

/// Why a host's client certificates cannot be used. Nobody goes there as somebody else meanwhile, or
/// as nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientProblem {
    /// One file of the two is there.
    #[error("{} lacks {}, which belongs to it", present.display(), missing.display())]
    Lone {
        /// The file that is there.
        present: PathBuf,
        /// The other.
        missing: PathBuf,
    },
    /// Both are there, and are no pair.
    #[error(
        "{} and {} are not a PEM certificate and the key that belongs to it: {reason}",
        certificate.display(),
        key.display()
    )]
    NoPair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What the reader said.
        reason: String,
    },
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
    /// Why none of the client certificates may be used.
    pub problem: Option<ClientProblem>,
}
