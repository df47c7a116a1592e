//! Short names, such as `debian:12`, and the full names they stand for.

use kiln_domain::{Reference, ReferenceError};

use super::prefix::Location;
use super::rules::{Rules, ShortNameMode};

/// What is done with names that have no registry and no alias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShortNames {
    /// They are looked for where `unqualified-search-registries` says, else at the Docker Hub.
    #[default]
    Allowed,
    /// They are refused.
    Strict,
}

/// A name in full, and why it is that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spelled {
    /// The name in full.
    pub reference: Reference,
    /// Why, where the text was short.
    pub reason: Option<String>,
}

/// Why a short name stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShortNameError {
    /// The text is no reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Short names are off.
    #[error("{name:?} names no registry, and short names are off on this host")]
    Strict {
        /// The name.
        name: String,
    },
    /// The registry that short names are looked for in is none.
    #[error(
        "{name:?} names no registry, and {host:?}, where {origin} has such names looked for, is none"
    )]
    NoRegistry {
        /// The name.
        name: String,
        /// What stands in its place.
        host: String,
        /// The file that says so.
        origin: String,
    },
    /// It could be in several registries, and the configuration forbids to choose.
    #[error("{name:?} names no registry; {origin} allows for {}", registries.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// The registries.
        registries: Vec<String>,
        /// The file that lists them.
        origin: String,
    },
}

/// Spells a name out.
///
/// An alias decides first, then the only registry of `unqualified-search-registries`. Of several
/// the first is taken, unless `short-name-mode` is `enforcing`: asking one after the other would
/// let whoever takes a name at the first of them slip an image in.
pub(super) fn spell_out(
    text: &str,
    rules: &Rules,
    policy: ShortNames,
) -> Result<Spelled, ShortNameError> {
    let plain: Reference = text.parse()?;
    let (name, end) = text.split_at(text.find([':', '@']).unwrap_or(text.len()));
    if !Reference::is_short(text) {
        return Ok(Spelled {
            reference: plain,
            reason: None,
        });
    }
    if let Some(alias) = rules.alias(name) {
        let reference = format!("{}{end}", alias.target).parse()?;
        return Ok(Spelled {
            reference,
            reason: Some(format!("{name} is an alias in {}", alias.origin)),
        });
    }
    let refused = || name.chars().take(80).collect::<String>();
    if policy == ShortNames::Strict {
        return Err(ShortNameError::Strict { name: refused() });
    }
    let Some((hosts @ [first, rest @ ..], origin)) = rules.search() else {
        return Ok(Spelled {
            reference: plain,
            reason: Some("names without a registry are docker.io's".to_owned()),
        });
    };
    if !rest.is_empty() && rules.mode() == ShortNameMode::Enforcing {
        return Err(ShortNameError::Ambiguous {
            name: refused(),
            registries: hosts.to_vec(),
            origin: origin.to_owned(),
        });
    }
    // Read as a name, it would be a namespace of the Docker Hub, which is somebody else's.
    if Location::parse(first).is_err() {
        return Err(ShortNameError::NoRegistry {
            name: refused(),
            host: first.clone(),
            origin: origin.to_owned(),
        });
    }
    Ok(Spelled {
        reference: format!("{first}/{text}").parse()?,
        reason: Some(format!(
            "{first} is the first of unqualified-search-registries in {origin}"
        )),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn spell(conf: &str, text: &str) -> Result<String, ShortNameError> {
        let mut rules = Rules::default();
        rules.add_containers_conf(conf, Path::new("/c")).unwrap();
        let spelled = spell_out(text, &rules, ShortNames::Allowed)?;
        Ok(spelled.reference.to_string())
    }

    #[test]
    fn an_alias_comes_first_then_the_registry_that_is_searched_then_the_hub() {
        let aliases = "[aliases]\nfedora = 'r.example/fedora'\n'a/b' = 'q.io/c'\n";
        let digest = format!("sha256:{}", "1".repeat(64));
        let by_digest = format!("fedora@{digest}");
        let full = format!("r.example/fedora@{digest}");
        let one = "unqualified-search-registries = ['s.example']\n";
        let two = "unqualified-search-registries = ['s.example', 'docker.io']\n";
        let cases = [
            (aliases, "fedora", "r.example/fedora:latest"),
            (aliases, "fedora:41", "r.example/fedora:41"),
            (aliases, by_digest.as_str(), full.as_str()),
            (aliases, "a/b:1", "q.io/c:1"),
            (aliases, "b:1", "docker.io/library/b:1"),
            (
                aliases,
                "docker.io/fedora",
                "docker.io/library/fedora:latest",
            ),
            (one, "debian:12", "s.example/debian:12"),
            (one, "localhost/debian:12", "localhost/debian:12"),
            (two, "debian:12", "s.example/debian:12"),
            ("", "debian", "docker.io/library/debian:latest"),
            (
                "unqualified-search-registries = []\n",
                "a/b",
                "docker.io/a/b:latest",
            ),
        ];
        for (conf, text, want) in cases {
            assert_eq!(spell(conf, text).unwrap(), want, "{text} under {conf}");
        }
    }

    #[test]
    fn a_registry_that_is_none_is_not_taken_for_a_namespace_of_the_hub() {
        let refused = spell("unqualified-search-registries = ['nexus']\n", "debian").unwrap_err();

        assert_eq!(
            refused.to_string(),
            "\"debian\" names no registry, and \"nexus\", where /c has such names looked for, is none"
        );
    }

    #[test]
    fn what_could_be_anybodys_is_refused_where_the_configuration_says_so() {
        let two =
            "unqualified-search-registries = ['a.io', 'b.io']\nshort-name-mode = 'enforcing'\n";
        let error = spell(two, "debian:12").unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"debian\" names no registry; /c allows for a.io, b.io"
        );

        let rules = Rules::default();
        let strict = |text| spell_out(text, &rules, ShortNames::Strict);
        let refused = strict("debian:12").unwrap_err();
        assert!(matches!(refused, ShortNameError::Strict { .. }));
        strict("docker.io/debian:12").unwrap();
    }
}
