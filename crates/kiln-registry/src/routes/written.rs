//! The two forms in which rules are written, key by key. What the keys mean is in `rules`.
//!
//! Nothing here has a `Debug`: the values of headers and the URLs of proxies may hold secrets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_domain::without_user_info;
use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

/// What is wrong with a TOML text: where, and why, in one line. The text itself is not shown: it may
/// hold passwords.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", place(*at))]
pub struct TomlProblem {
    /// Line and column, from one on, where they are known.
    at: Option<(usize, usize)>,
    problem: String,
}

impl TomlProblem {
    /// Takes what the reader says of `text`.
    pub fn of(text: &str, error: &toml::de::Error) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start));
        let at = before.map(|before| {
            let line = before.matches('\n').count() + 1;
            let begun = before.rsplit('\n').next().unwrap_or_default();
            (line, begun.chars().count() + 1)
        });
        // Values of the wrong kind are quoted.
        let pieces = error.message().split('"').map(without_user_info);
        let problem = pieces.collect::<Vec<_>>().join("\"").replace('\n', "; ");
        let problem = problem.replace(char::is_control, " ");
        let problem = match before.and_then(key_before) {
            Some(key) => format!("{key}: {problem}"),
            None => problem,
        };
        Self { at, problem }
    }
}

/// Finds the key whose value begins behind a text; one in quotes is not shown.
fn key_before(text: &str) -> Option<&str> {
    let line = text.rsplit('\n').next()?;
    let key = line.trim_end().strip_suffix('=')?.trim();
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (!key.is_empty() && key.bytes().all(is_bare)).then_some(key)
}

fn place(at: Option<(usize, usize)>) -> String {
    at.map_or_else(String::new, |(line, column)| {
        format!("line {line}, column {column}: ")
    })
}

/// A text, as far as it is ours to read.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Written {
    pub(super) registry: Vec<Spanned<WrittenRegistry>>,
    /// The table of the format's first version.
    pub(super) registries: Option<IgnoredAny>,
    pub(super) aliases: BTreeMap<String, String>,
    #[serde(rename = "unqualified-search-registries")]
    pub(super) search: Option<Vec<String>>,
    #[serde(rename = "short-name-mode")]
    pub(super) mode: Option<String>,
}

#[derive(Default)]
pub(super) struct WrittenRegistry {
    pub(super) prefix: Option<String>,
    pub(super) location: Option<String>,
    pub(super) insecure: Option<bool>,
    pub(super) blocked: Option<bool>,
    pub(super) mirror_by_digest_only: Option<bool>,
    pub(super) mirror: Vec<WrittenMirror>,
    pub(super) resolve: Option<bool>,
    pub(super) ways: WrittenWays,
}

#[derive(Default)]
pub(super) struct WrittenMirror {
    pub(super) location: String,
    pub(super) insecure: Option<bool>,
    pub(super) pull_from_mirror: Option<String>,
    pub(super) resolve: Option<bool>,
    pub(super) ways: WrittenWays,
}

#[derive(Default)]
pub(super) struct WrittenWays {
    pub(super) proxy: Option<String>,
    pub(super) ca: Option<PathBuf>,
    pub(super) client_cert: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) concurrency: Option<usize>,
    pub(super) timeout: Option<u64>,
}

/// Reads a `registries.conf`.
pub(super) fn containers(text: &str) -> Result<Written, toml::de::Error> {
    toml::from_str(text)
}

/// Reads the rules of our own configuration, whose other keys are read elsewhere.
pub(super) fn own(text: &str) -> Result<Written, toml::de::Error> {
    let own: Own = toml::from_str(text)?;
    let registry = own.registry.into_iter().map(|rule| {
        let span = rule.span();
        Spanned::new(span, rule.into_inner().into())
    });
    Ok(Written {
        registry: registry.collect(),
        ..Written::default()
    })
}

impl<'de> Deserialize<'de> for WrittenRegistry {
    /// Reads what the containers' tools read; whatever else stands there is passed over.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "kebab-case")]
        struct Theirs {
            prefix: Option<String>,
            location: Option<String>,
            insecure: Option<bool>,
            blocked: Option<bool>,
            mirror_by_digest_only: Option<bool>,
            mirror: Vec<TheirMirror>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct TheirMirror {
            location: String,
            insecure: Option<bool>,
            pull_from_mirror: Option<String>,
        }
        let theirs = Theirs::deserialize(deserializer)?;
        let mirror = theirs.mirror.into_iter().map(|mirror| WrittenMirror {
            location: mirror.location,
            insecure: mirror.insecure,
            pull_from_mirror: mirror.pull_from_mirror,
            ..WrittenMirror::default()
        });
        Ok(Self {
            prefix: theirs.prefix,
            location: theirs.location,
            insecure: theirs.insecure,
            blocked: theirs.blocked,
            mirror_by_digest_only: theirs.mirror_by_digest_only,
            mirror: mirror.collect(),
            ..Self::default()
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Own {
    registry: Vec<Spanned<OwnRegistry>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OwnRegistry {
    prefix: Option<String>,
    location: Option<String>,
    insecure: Option<bool>,
    blocked: Option<bool>,
    #[serde(rename = "mirror-by-digest-only")]
    mirror_by_digest_only: Option<bool>,
    mirror: Vec<OwnMirror>,
    resolve: Option<bool>,
    proxy: Option<String>,
    ca: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    headers: BTreeMap<String, String>,
    concurrency: Option<usize>,
    timeout: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnMirror {
    location: String,
    insecure: Option<bool>,
    #[serde(rename = "pull-from-mirror")]
    pull_from_mirror: Option<String>,
    resolve: Option<bool>,
    proxy: Option<String>,
    ca: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    concurrency: Option<usize>,
    timeout: Option<u64>,
}

impl From<OwnRegistry> for WrittenRegistry {
    fn from(own: OwnRegistry) -> Self {
        Self {
            prefix: own.prefix,
            location: own.location,
            insecure: own.insecure,
            blocked: own.blocked,
            mirror_by_digest_only: own.mirror_by_digest_only,
            mirror: own.mirror.into_iter().map(Into::into).collect(),
            resolve: own.resolve,
            ways: WrittenWays {
                proxy: own.proxy,
                ca: own.ca,
                client_cert: own.client_cert,
                client_key: own.client_key,
                headers: own.headers,
                concurrency: own.concurrency,
                timeout: own.timeout,
            },
        }
    }
}

impl From<OwnMirror> for WrittenMirror {
    fn from(own: OwnMirror) -> Self {
        Self {
            location: own.location,
            insecure: own.insecure,
            pull_from_mirror: own.pull_from_mirror,
            resolve: own.resolve,
            ways: WrittenWays {
                proxy: own.proxy,
                ca: own.ca,
                client_cert: own.client_cert,
                client_key: own.client_key,
                headers: own.headers,
                concurrency: own.concurrency,
                timeout: own.timeout,
            },
        }
    }
}
