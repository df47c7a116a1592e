//! Where a login counts: in all of a registry, or below one of its namespaces.
//!
//! Not here: how auth files spell such names, and where logins are kept.

use std::fmt;
use std::str::FromStr;

use crate::reference::{self, Reference, ReferenceError};
use crate::registry_name::RegistryName;

/// A registry, or a namespace in it: `docker.io`, `ghcr.io/some/team`.
///
/// Invariant: a [`RegistryName`], then nothing or a slash and a repository's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoginScope {
    registry: RegistryName,
    namespace: Option<String>,
}

impl LoginScope {
    /// Returns the registry.
    pub fn registry(&self) -> &RegistryName {
        &self.registry
    }

    /// Returns the namespace; none when the login counts in all of the registry.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Lists what a login that counts here may be called, the most special first: the name itself,
    /// then what it lies in, down to the registry.
    pub fn names(&self) -> Vec<String> {
        let mut name = self.to_string();
        let mut names = vec![name.clone()];
        while let Some(slash) = name.rfind('/') {
            name.truncate(slash);
            names.push(name.clone());
        }
        names
    }
}

impl From<RegistryName> for LoginScope {
    fn from(registry: RegistryName) -> Self {
        Self {
            registry,
            namespace: None,
        }
    }
}

impl From<&Reference> for LoginScope {
    /// Takes the repository as the namespace.
    fn from(reference: &Reference) -> Self {
        Self {
            registry: RegistryName::of(reference),
            namespace: Some(reference.repository().to_owned()),
        }
    }
}

impl fmt::Display for LoginScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}", self.registry),
            None => self.registry.fmt(f),
        }
    }
}

impl FromStr for LoginScope {
    type Err = ReferenceError;

    /// Reads a name, also in the forms of URLs that [`RegistryName`] takes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('@') {
            return Err(ReferenceError::UserInfo);
        }
        let scheme = ["https://", "http://"]
            .into_iter()
            .find(|scheme| text.starts_with(scheme))
            .unwrap_or_default();
        let rest = text.get(scheme.len()..).unwrap_or_default();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        let is_root = path.is_empty() || (!scheme.is_empty() && matches!(path, "v1" | "v2"));
        if !is_root {
            reference::check_repository(path)?;
        }
        Ok(Self {
            registry: host.parse()?,
            namespace: (!is_root).then(|| path.to_owned()),
        })
    }
}

crate::text::serde_through_text!(LoginScope);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_and_without_a_namespace() {
        let cases = [
            ("docker.io", Some("docker.io")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("localhost:5000/", Some("localhost:5000")),
            ("GHCR.io/some/team", Some("ghcr.io/some/team")),
            ("docker.io/ada", Some("docker.io/ada")),
            ("reg.io/v2", Some("reg.io/v2")),
            ("http://reg.io/v2/", Some("reg.io")),
            ("", None),
            ("/team", None),
            ("reg.io/Team", None),
            ("reg.io/a//b", None),
            ("reg.io/a:1", None),
            ("reg.io/../x", None),
        ];
        for (text, want) in cases {
            let got = text.parse::<LoginScope>().ok();
            assert_eq!(
                got.map(|scope| scope.to_string()).as_deref(),
                want,
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_most_special_name_comes_first() {
        let reference: Reference = "reg.io/a/b/c:1".parse().unwrap();

        assert_eq!(
            LoginScope::from(&reference).names(),
            ["reg.io/a/b/c", "reg.io/a/b", "reg.io/a", "reg.io"]
        );
        let whole: LoginScope = "reg.io".parse().unwrap();
        assert_eq!(whole.names(), ["reg.io"]);
    }
}
