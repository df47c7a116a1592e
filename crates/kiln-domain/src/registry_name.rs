//! Names of registries, apart from any repository.
//!
//! Not here: how a registry is reached, which is configuration.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::reference::{self, Reference, ReferenceError};

/// A registry as references write it: `docker.io`, `localhost:5000`.
///
/// Invariant: a host with an optional port, in lower case; the Docker Hub's other names have become
/// `docker.io`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryName(String);

impl RegistryName {
    /// Returns the registry of a reference.
    pub fn of(reference: &Reference) -> Self {
        Self(reference.registry().to_owned())
    }

    /// Says whether the name, as it is written, is one of this host.
    pub fn is_loopback(&self) -> bool {
        let host = match self.0.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.0.split(':').next().unwrap_or_default(),
        };
        let is_name = host == "localhost" || host.ends_with(".localhost");
        is_name
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RegistryName {
    type Err = ReferenceError;

    /// Reads a name, also in the form of a URL such as `http://localhost:5000/v2/`: people copy
    /// what their other tools take. The scheme says nothing here.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('@') {
            return Err(ReferenceError::UserInfo);
        }
        let schemes = ["https://", "http://"];
        let rest = schemes
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .unwrap_or(text);
        let rest = rest.trim_end_matches('/');
        let rest = ["/v1", "/v2"]
            .iter()
            .find_map(|path| rest.strip_suffix(path))
            .unwrap_or(rest);
        if rest.is_empty() {
            return Err(ReferenceError::Empty);
        }
        reference::check_registry(rest)?;
        Ok(Self(match rest.to_ascii_lowercase() {
            hub if reference::is_default_registry(&hub) => reference::DEFAULT_REGISTRY.to_owned(),
            name => name,
        }))
    }
}

crate::text::serde_through_text!(RegistryName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_host_are_known_without_asking() {
        let cases = [
            ("localhost", true),
            ("localhost:5000", true),
            ("a.localhost", true),
            ("127.0.0.2:5000", true),
            ("[::1]:5000", true),
            ("[::2]:5000", false),
            ("localhost.example.com", false),
            ("10.0.0.1", false),
        ];
        for (text, want) in cases {
            let name: RegistryName = text.parse().unwrap();
            assert_eq!(name.is_loopback(), want, "{text}");
        }
    }

    #[test]
    fn names_are_read_in_the_forms_people_have_them() {
        let cases = [
            ("docker.io", Some("docker.io")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("registry-1.docker.io", Some("docker.io")),
            ("localhost:5000", Some("localhost:5000")),
            ("http://localhost:5000", Some("localhost:5000")),
            ("http://LOCALHOST:5000/v2/", Some("localhost:5000")),
            ("[::1]:5000", Some("[::1]:5000")),
            ("registry", Some("registry")),
            ("", None),
            ("https://", None),
            ("ftp://a", None),
            ("a/b", None),
            ("a b", None),
            ("a:0", None),
            ("a:99999", None),
            ("http://ada:s3cr3t@a", None),
        ];
        for (text, want) in cases {
            let got = text.parse::<RegistryName>().ok();
            assert_eq!(got.as_ref().map(RegistryName::as_str), want, "{text:?}");
        }
    }
}
