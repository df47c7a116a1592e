//! Prefixes of names and what takes their place (containers-registries.conf(5)).

use std::fmt;

use kiln_domain::{Reference, without_user_info};

/// The beginning of image names that a rule is for.
///
/// Invariant: `host[:port][/part…][:tag|@digest]`, or `*.` and a host. The Docker Hub is called
/// `docker.io`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Prefix(String);

/// The place where names with a prefix physically lie: `host[:port][/part…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location(String);

/// Why a text is neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct PlaceError {
    /// The text without a password, cut to 80 characters.
    text: String,
    expected: &'static str,
}

impl Prefix {
    /// Reads a prefix.
    pub(crate) fn parse(text: &str) -> Result<Self, PlaceError> {
        let refused = |expected| PlaceError {
            text: without_user_info(text).chars().take(80).collect(),
            expected,
        };
        if let Some(rest) = text.strip_prefix("*.") {
            if rest.contains(['/', ':', '@', '*']) || rest.is_empty() {
                return Err(refused(
                    "a wildcard: *. and a host, without port and repository",
                ));
            }
            return Ok(Self(text.to_ascii_lowercase()));
        }
        let name = normal(text);
        if is_name(&name) {
            Ok(Self(name))
        } else {
            Err(refused(
                "the beginning of an image's name: HOST[:PORT][/PART…]",
            ))
        }
    }

    /// Says how many bytes of a full name, such as `docker.io/library/debian:12`, this is for.
    pub(crate) fn matches(&self, name: &str) -> Option<usize> {
        let end = match self.0.strip_prefix('*') {
            Some(suffix) => {
                let at = name.find(suffix)?;
                if name.get(..at)?.contains('/') {
                    return None;
                }
                at + suffix.len()
            }
            None => name.starts_with(&self.0).then_some(self.0.len())?,
        };
        let next = name.get(end..)?.chars().next();
        matches!(next, None | Some('/' | ':' | '@')).then_some(end)
    }

    /// Returns the place of the same name, unless it is a wildcard, which is none.
    pub(crate) fn to_location(&self) -> Option<Location> {
        (!self.0.starts_with('*')).then(|| Location(self.0.clone()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Location {
    /// Reads a location.
    pub(crate) fn parse(text: &str) -> Result<Self, PlaceError> {
        let name = normal(text);
        // A tag belongs to the image that is asked for, never to a place.
        let last = name.rsplit('/').next().unwrap_or_default();
        let has_tag = name.contains('/') && last.contains(':');
        if is_name(&name) && !has_tag && !name.contains('@') {
            return Ok(Self(name));
        }
        Err(PlaceError {
            text: without_user_info(text).chars().take(80).collect(),
            expected: "a place in a registry: HOST[:PORT][/PART…]",
        })
    }

    /// Puts itself in place of the first `matched` bytes of a reference's name.
    ///
    /// Returns nothing when what comes out is no reference, because it is too long for example.
    pub(crate) fn rewrite(&self, reference: &Reference, matched: usize) -> Option<Reference> {
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let rest = name.get(matched..).unwrap_or_default();
        with_end_of(&format!("{}{rest}", self.0), reference)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gives a name the tag and the digest of a reference.
pub(crate) fn with_end_of(name: &str, reference: &Reference) -> Option<Reference> {
    let mut text = name.to_owned();
    if let Some(tag) = reference.written_tag() {
        text.extend([":", tag]);
    }
    if let Some(digest) = reference.digest() {
        text.extend(["@", &digest.to_string()]);
    }
    text.parse().ok()
}

/// Brings a name into the form that references have: hosts are lower case, and the Docker Hub has
/// one name.
fn normal(text: &str) -> String {
    let (host, rest) = text.split_at(text.find('/').unwrap_or(text.len()));
    let host = host.to_ascii_lowercase();
    let host = match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    format!("{host}{rest}")
}

/// Says whether a reference can begin so.
fn is_name(name: &str) -> bool {
    let whole = if name.contains('/') {
        name.to_owned()
    } else {
        format!("{name}/x")
    };
    let host = name.split('/').next().unwrap_or_default();
    let parsed = whole.parse::<Reference>();
    parsed.is_ok_and(|reference| reference.registry() == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_a_part_of_the_name_ends() {
        let cases = [
            ("example.com", "example.com/a:1", Some(11)),
            ("example.com", "example.com:5000/a:1", Some(11)),
            ("example.com", "example.community/a:1", None),
            ("example.com/foo", "example.com/foo/bar:1", Some(15)),
            ("example.com/foo", "example.com/foo:1", Some(15)),
            ("example.com/foo", "example.com/food:1", None),
            ("example.com/foo:1", "example.com/foo:1", Some(17)),
            ("example.com/foo:1", "example.com/foo:12", None),
            ("*.example.com", "a.example.com/foo:1", Some(13)),
            ("*.example.com", "a.b.example.com:5/foo:1", Some(15)),
            ("*.example.com", "example.com/foo:1", None),
            ("*.example.com", "other.io/a.example.com/foo:1", None),
            ("*.example.com", "a.example.community/foo:1", None),
            ("index.docker.io", "docker.io/library/debian:1", Some(9)),
            ("EXAMPLE.com", "example.com/a:1", Some(11)),
        ];
        for (prefix, name, want) in cases {
            let prefix = Prefix::parse(prefix).unwrap();
            assert_eq!(prefix.matches(name), want, "{prefix} and {name}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in [
            "",
            "*.example.com/foo",
            "*.example.com:5000",
            "example.*.com",
            "*",
            "*.",
            "https://example.com",
            "example",
            "example.com/Foo",
        ] {
            assert!(Prefix::parse(text).is_err(), "{text:?}");
        }
        for text in ["example.com/foo:1", "example.com/foo@sha256:1", "a b.c", ""] {
            assert!(Location::parse(text).is_err(), "{text:?}");
        }
        Location::parse("example.com:5000").unwrap();
    }

    #[test]
    fn a_password_in_a_place_is_not_said_again() {
        for text in ["u:s3cr3t@host.example/x", "https://u:s3cr3t@host:5000"] {
            for error in [
                Location::parse(text).unwrap_err(),
                Prefix::parse(text).unwrap_err(),
                Prefix::parse(&format!("*.{text}")).unwrap_err(),
            ] {
                assert!(!error.to_string().contains("s3cr3t"), "{error}");
            }
        }
    }

    #[test]
    fn a_location_takes_the_place_of_the_prefix() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let by_digest = format!("example.com/foo/app@{digest}");
        let moved = format!("new.net/bar/app@{digest}");
        let cases = [
            ("debian:12", 9, "m.net/hub", "m.net/hub/library/debian:12"),
            (
                "example.com/foo/app",
                15,
                "new.net/bar",
                "new.net/bar/app:latest",
            ),
            (&by_digest, 15, "new.net/bar", &moved),
            ("example.com/foo:1", 15, "new.net/bar", "new.net/bar:1"),
        ];
        for (reference, matched, location, want) in cases {
            let reference: Reference = reference.parse().unwrap();
            let location = Location::parse(location).unwrap();
            let got = location.rewrite(&reference, matched).unwrap();
            assert_eq!(got.to_string(), want);
        }
    }
}
