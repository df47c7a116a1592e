//! OCI references: which registry, which repository, which tag or digest.
//!
//! Not here: where else an image may come from (`source`), and how a registry is reached.
//!
//! ```text
//! [registry[:port]/]repository[:tag][@digest]
//! debian                        docker.io/library/debian:latest
//! ghcr.io/some/image:v2         ghcr.io/some/image:v2
//! localhost:5000/app@sha256:…   localhost:5000/app@sha256:…
//! ```

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The registry that short names belong to.
pub(crate) const DEFAULT_REGISTRY: &str = "docker.io";

/// The namespace of the default registry's one-part names.
const DEFAULT_NAMESPACE: &str = "library";

/// The tag a reference means when it names neither a tag nor a digest.
const DEFAULT_TAG: &str = "latest";

/// Longest accepted registry or repository, in bytes (distribution's
/// `RepositoryNameTotalLengthMax`).
const MAX_NAME_LEN: usize = 255;

/// Longest accepted tag, in bytes (OCI distribution spec, "Pulling manifests").
const MAX_TAG_LEN: usize = 128;

/// Longest derived image name, in bytes: what an image name may have.
const MAX_DERIVED_LEN: usize = 128;

/// An OCI reference in its full form, such as `docker.io/library/debian:bookworm`.
///
/// Invariant: registry, repository and tag obey the grammar of the distribution project and its
/// length limits, so they need no escaping in a URL path. Short names are spelled out when the
/// text is parsed. Two references are equal when they name the same thing: `debian` equals
/// `docker.io/library/debian:latest`.
#[derive(Clone)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// There is no text.
    #[error("a reference must not be empty")]
    Empty,
    /// The text begins with a scheme such as `https://`.
    #[error("{text:?} is a URL, a reference has no scheme in front")]
    Url {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// It begins as paths do.
    #[error(
        "{text:?} is a path; a place on this host has its kind in front: oci:DIR, oci-archive:FILE, \
         docker-archive:FILE or dir:DIR"
    )]
    Path {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// There is a user name in it, and perhaps a password, so nothing of it is shown.
    #[error(
        "names of registries and images carry no user name and no password; `kiln login` keeps them"
    )]
    UserInfo,
    /// The part in front of the first slash is no host with an optional port.
    #[error("{registry:?} is not a registry host with an optional port")]
    Registry {
        /// That part, cut to 80 characters.
        registry: String,
    },
    /// A part of the repository has upper-case letters.
    #[error("{component:?} has upper-case letters, a repository is lower case")]
    Uppercase {
        /// The part, cut to 80 characters.
        component: String,
    },
    /// A part of the repository breaks the grammar.
    #[error(
        "{component:?} is not a repository part: lower-case letters and digits, joined by a \
         dot, one or two underscores, or hyphens"
    )]
    Repository {
        /// The part, cut to 80 characters.
        component: String,
    },
    /// The repository is 64 hexadecimal digits, which is how an image id looks.
    #[error("{repository:?} looks like an image id, write name@sha256:... to pull by digest")]
    ImageId {
        /// The 64 digits.
        repository: String,
    },
    /// The registry or the repository is too long.
    #[error("the {part} has {len} bytes, {max} are allowed")]
    TooLong {
        /// `registry`, `repository` or `tag`.
        part: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The text behind the colon is no tag.
    #[error(
        "{tag:?} is not a tag: letters, digits, underscores, dots and hyphens, not beginning \
         with a dot or hyphen"
    )]
    Tag {
        /// The text, cut to 80 characters.
        tag: String,
    },
    /// The text behind the `@` is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Says whether a text has no registry in front, so that what it names depends on who reads it.
    pub fn is_short(text: &str) -> bool {
        match text.split_once('/') {
            Some((first, _)) => !is_registry(first),
            None => true,
        }
    }

    /// Returns the registry's host with its port when one was written, in lower case:
    /// `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository inside the registry: `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag this reference asks for: the written one, `latest` when neither a tag nor
    /// a digest was written, and none when only a digest was.
    pub fn tag(&self) -> Option<&str> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag),
            (None, None) => Some(DEFAULT_TAG),
            (None, Some(_)) => None,
        }
    }

    /// Returns the tag only when it was written.
    pub fn written_tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest when one was written. It decides what is fetched; a tag beside it is
    /// for people.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the same reference pinned to `digest`.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// Returns the same repository's `tag`, without a digest.
    ///
    /// # Errors
    /// The text is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        check_tag(tag)?;
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// Returns the tag of the same repository under which clients keep what refers to `subject`,
    /// where the registry does not (OCI distribution spec, "Referrers Tag Schema").
    #[must_use]
    pub fn referrers_tag(&self, subject: &Digest) -> Self {
        Self {
            tag: Some(format!("sha256-{}", subject.to_hex())),
            digest: None,
            ..self.clone()
        }
    }

    /// Returns the name an image gets when the caller names none: the last part of the
    /// repository, then a hyphen and the tag, or the first 12 digits of the digest.
    ///
    /// `latest` adds nothing, written or not. The result has at most 128 bytes and ends with a
    /// letter or digit, so it is always an acceptable image name.
    pub fn derived_image_name(&self) -> String {
        let base = self.repository.rsplit('/').next().unwrap_or_default();
        let tag = self.tag.as_deref().filter(|tag| *tag != DEFAULT_TAG);
        match (tag, &self.digest) {
            (Some(tag), _) => derived_name(base, Some(tag)),
            (None, Some(digest)) => derived_name(base, Some(&digest.to_short_hex())),
            (None, None) => derived_name(base, None),
        }
    }

    /// What equality and hashing look at.
    fn key(&self) -> (&str, &str, Option<&str>, Option<&Digest>) {
        (
            &self.registry,
            &self.repository,
            self.tag(),
            self.digest.as_ref(),
        )
    }
}

/// Joins a name that obeys the repository grammar with a suffix of any characters; cuts the
/// result to the length of an image name.
pub(crate) fn derived_name(base: &str, suffix: Option<&str>) -> String {
    let mut name = base.to_owned();
    if let Some(suffix) = suffix {
        name.push('-');
        name.push_str(&hyphenated(suffix));
    }
    name.truncate(MAX_DERIVED_LEN);
    name.truncate(name.trim_end_matches(['-', '.', '_']).len());
    name
}

/// Lower-cases `text` and turns every character outside `a-z`, `0-9` and `-` into a hyphen.
pub(crate) fn hyphenated(text: &str) -> String {
    text.chars()
        .map(|letter| match letter.to_ascii_lowercase() {
            kept @ ('a'..='z' | '0'..='9') => kept,
            _ => '-',
        })
        .collect()
}

impl PartialEq for Reference {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Reference {}

impl Hash for Reference {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl fmt::Display for Reference {
    /// Writes the canonical form, with the registry and the tag spelled out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = self.tag() {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reference({self})")
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.starts_with(['/', '~']) || matches!(text.split('/').next(), Some("." | "..")) {
            return Err(ReferenceError::Path {
                text: shown(&without_user_info(text)),
            });
        }
        if has_user_info(text) {
            return Err(ReferenceError::UserInfo);
        }
        if text.contains("://") {
            return Err(ReferenceError::Url { text: shown(text) });
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let (registry, repository) = split_registry(name)?;
        check_repository(&repository)?;
        Ok(Self {
            registry,
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// Names of hashes that a digest may begin with. Anything else in front of a colon is a host's name,
/// with its port behind it.
const HASHES: &[&str] = &[
    "md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b", "blake3",
];

/// Says whether a text begins as URLs with a user name do, `ada:secret@host:5000`; what stands behind
/// the one `@` of a reference is a digest.
pub(crate) fn has_user_info(text: &str) -> bool {
    text.split_once('@').is_some_and(|(before, behind)| {
        let is_digest = match behind.split_once(':') {
            Some((hash, rest)) => HASHES.contains(&hash) && !rest.contains(['/', '@']),
            None => false,
        };
        before.contains("://") || (before.contains(':') && !is_digest)
    })
}

/// Returns what may be shown of a text that should have named a registry or an image: the user name
/// and the password in front of a host are not.
pub fn without_user_info(text: &str) -> String {
    let Some(at) = text.rfind('@').filter(|_| has_user_info(text)) else {
        return text.to_owned();
    };
    let scheme = text.find("://").filter(|end| *end < at);
    let scheme = scheme.map_or("", |end| text.get(..end + 3).unwrap_or_default());
    format!("{scheme}***{}", text.get(at..).unwrap_or_default())
}

/// Splits at the colon of the tag: one behind the last slash. A colon before it is a port's.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let last_part = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[last_part..].split_once(':') {
        Some((base, tag)) => (&text[..last_part + base.len()], Some(tag)),
        None => (text, None),
    }
}

/// Spells a short name out: the first part is a registry only when it could not be a
/// namespace, that is, when it has a dot or a colon or is `localhost`.
fn split_registry(name: &str) -> Result<(String, String), ReferenceError> {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => {
            check_registry(first)?;
            (first.to_ascii_lowercase(), rest.to_owned())
        }
        _ => (DEFAULT_REGISTRY.to_owned(), name.to_owned()),
    };
    if !is_default_registry(&registry) {
        return Ok((registry, repository));
    }
    let repository = if repository.contains('/') || repository.is_empty() {
        repository
    } else {
        format!("{DEFAULT_NAMESPACE}/{repository}")
    };
    Ok((DEFAULT_REGISTRY.to_owned(), repository))
}

/// Says whether the first part of a name is a registry: one that could not be a namespace.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':', '[']) || first == "localhost"
}

/// Says whether a name in lower case is one of the Docker Hub's.
pub(crate) fn is_default_registry(name: &str) -> bool {
    matches!(
        name,
        DEFAULT_REGISTRY | "index.docker.io" | "registry-1.docker.io"
    )
}

pub(crate) fn check_registry(registry: &str) -> Result<(), ReferenceError> {
    check_len("registry", registry, MAX_NAME_LEN)?;
    let is_good = match registry.strip_prefix('[') {
        Some(rest) => rest.split_once(']').is_some_and(|(address, port)| {
            address.parse::<std::net::Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        }),
        None => match registry.split_once(':') {
            Some((host, port)) => is_host(host) && is_port(port),
            None => is_host(registry),
        },
    };
    if is_good {
        Ok(())
    } else {
        Err(ReferenceError::Registry {
            registry: shown(registry),
        })
    }
}

fn is_host(host: &str) -> bool {
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|number| number > 0)
}

pub(crate) fn check_repository(repository: &str) -> Result<(), ReferenceError> {
    check_len("repository", repository, MAX_NAME_LEN)?;
    for component in repository.split('/') {
        if component.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase {
                component: shown(component),
            });
        }
        if !is_component(component) {
            return Err(ReferenceError::Repository {
                component: shown(component),
            });
        }
    }
    let short = repository
        .strip_prefix("library/")
        .unwrap_or(repository)
        .as_bytes();
    if short.len() == 64 && short.iter().all(u8::is_ascii_hexdigit) {
        return Err(ReferenceError::ImageId {
            repository: shown(repository.strip_prefix("library/").unwrap_or(repository)),
        });
    }
    Ok(())
}

/// Says whether `text` is `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_are_words =
        bytes.first().copied().is_some_and(is_word) && bytes.last().copied().is_some_and(is_word);
    let joints_are_good = bytes
        .split(|byte| is_word(*byte))
        .filter(|joint| !joint.is_empty())
        .all(|joint| {
            matches!(joint, b"." | b"_" | b"__") || joint.iter().all(|byte| *byte == b'-')
        });
    ends_are_words && joints_are_good
}

/// Checks the grammar `[A-Za-z0-9_][A-Za-z0-9_.-]*`, at most 128 bytes.
pub(crate) fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    check_len("tag", tag, MAX_TAG_LEN)?;
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    if bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
    {
        Ok(())
    } else {
        Err(ReferenceError::Tag { tag: shown(tag) })
    }
}

fn check_len(part: &'static str, text: &str, max: usize) -> Result<(), ReferenceError> {
    if text.len() > max {
        return Err(ReferenceError::TooLong {
            part,
            len: text.len(),
            max,
        });
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

crate::text::serde_through_text!(Reference);

#[cfg(test)]
mod tests;
