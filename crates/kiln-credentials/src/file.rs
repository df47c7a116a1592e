//! One auth file: what it says about a repository.
//!
//! ```text
//! {"auths": {"host/namespace": {"auth": base64("user:password")},
//!            "host": {"identitytoken": "..."}},
//!  "credHelpers": {"host": "name"},          docker-credential-name, for this host
//!  "credsStore": "name"}                     docker-credential-name, for all others
//! ```
//!
//! `~/.dockercfg` holds the content of `auths` alone.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use kiln_domain::{Credentials, Secret};
use kiln_files::{KeptError, read_kept};
use serde::Deserialize;

use crate::helper::Helpers;
use crate::search::{CredentialsError, Target};

/// The file of Docker before 1.7.
pub(crate) const LEGACY_NAME: &str = ".dockercfg";

/// Largest auth file, in bytes. One entry has about a hundred.
const MAX_BYTES: u64 = 1 << 20;

/// How Docker itself calls its registry in auth files and towards helpers.
pub(crate) const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// With `auths` and helpers.
    Current,
    /// The entries alone.
    Legacy,
}

/// An auth file that has been read. Not `Debug`: it is full of passwords.
pub(crate) struct AuthFile {
    path: PathBuf,
    content: Content,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Content {
    auths: Option<BTreeMap<String, Entry>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// Something a file, or a helper named in it, has.
pub(crate) struct Hit {
    pub(crate) credentials: Credentials,
    /// The name of the entry; towards a helper the host.
    pub(crate) key: String,
    pub(crate) helper: Option<String>,
}

/// One login that a file has or leads to, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The entry's name in the form of `normalised`.
    pub(crate) name: String,
    pub(crate) username: Option<String>,
    pub(crate) helper: Option<String>,
}

/// Reads the bytes of a file; nothing when there is none.
pub(crate) fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>, CredentialsError> {
    match read_kept(path, MAX_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(KeptError::Io(error)) if is_absent(&error) => Ok(None),
        Err(KeptError::Io(error)) if is_circle(&error) => Err(CredentialsError::Circle {
            path: path.to_owned(),
        }),
        Err(KeptError::TooLarge { limit_bytes }) => Err(CredentialsError::TooLarge {
            path: path.to_owned(),
            limit_bytes,
        }),
        Err(source) => Err(CredentialsError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

impl AuthFile {
    /// Reads a file; nothing when there is none.
    pub(crate) fn read(path: &Path, form: Form) -> Result<Option<Self>, CredentialsError> {
        read_bytes(path)?
            .map(|bytes| Self::parse(path, form, &bytes))
            .transpose()
    }

    /// Reads the content of a file. An empty one has nothing in it: `mktemp` makes such files for
    /// scripts that log in.
    pub(crate) fn parse(path: &Path, form: Form, bytes: &[u8]) -> Result<Self, CredentialsError> {
        // A list would pass for an object whose members come in order, and say nothing of any registry.
        let begin = bytes.trim_ascii_start();
        if begin.first().is_some_and(|first| *first != b'{') {
            let before = bytes.get(..bytes.len() - begin.len()).unwrap_or_default();
            let lines: Vec<&[u8]> = before.split(|byte| *byte == b'\n').collect();
            return Err(CredentialsError::Malformed {
                path: path.to_owned(),
                line: lines.len(),
                column: lines.last().map_or(0, |line| line.len()) + 1,
            });
        }
        let content = match form {
            _ if bytes.trim_ascii().is_empty() => Ok(Content::default()),
            Form::Current => serde_json::from_slice(bytes),
            Form::Legacy => serde_json::from_slice(bytes).map(|auths| Content {
                auths: Some(auths),
                ..Content::default()
            }),
        };
        // The error's own text quotes values, which are passwords here.
        let content = content.map_err(|error| CredentialsError::Malformed {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            content,
        })
    }

    /// Looks for credentials: a helper of the host, then the entry with the longest matching
    /// path, then the helper of all hosts.
    pub(crate) fn find(
        &self,
        target: Target<'_>,
        helpers: &Helpers<'_>,
    ) -> Result<Option<Hit>, CredentialsError> {
        let host = target.host();
        if let Some(helper) = self.helper_of(host)
            && let Some(found) = self.ask(helper, host, helpers)?
        {
            return Ok(Some(found));
        }
        if let Some(found) = self.entry_of(target)? {
            return Ok(Some(found));
        }
        match self.common_helper() {
            Some(helper) => self.ask(helper, host, helpers),
            None => Ok(None),
        }
    }

    /// Lists what the file has and what its helpers say they have. A helper that fails costs its
    /// own logins only.
    pub(crate) fn list(&self, helpers: &Helpers<'_>) -> (Vec<Listed>, Vec<CredentialsError>) {
        let (mut found, mut problems) = (Vec::new(), Vec::new());
        for (key, entry) in self.content.auths.iter().flatten() {
            match entry.credentials() {
                Ok(None) => {}
                Ok(Some(credentials)) => found.push(Listed {
                    name: normalised(key),
                    username: username(credentials),
                    helper: None,
                }),
                Err(NotBase64) => problems.push(self.broken_entry(key)),
            }
        }
        for (host, helper) in self.host_helpers() {
            let known = match self.listed_by(helper, helpers) {
                Ok(known) => known,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            let name = normalised(host);
            let known = known
                .into_iter()
                .find(|(server, _)| normalised(server) == name);
            found.extend(known.map(|(_, username)| Listed {
                name,
                username: Some(username),
                helper: Some(helper.to_owned()),
            }));
        }
        if let Some(helper) = self.common_helper() {
            match self.listed_by(helper, helpers) {
                Err(problem) => problems.push(problem),
                Ok(known) => found.extend(known.into_iter().map(|(server, username)| Listed {
                    name: normalised(&server),
                    username: Some(username),
                    helper: Some(helper.to_owned()),
                })),
            }
        }
        (found, problems)
    }

    /// Lists the hosts that have a helper of their own.
    pub(crate) fn host_helpers(&self) -> impl Iterator<Item = (&str, &str)> {
        let configured = self.content.cred_helpers.iter().flatten();
        configured
            .map(|(host, helper)| (host.as_str(), helper.as_str()))
            .filter(|(_, helper)| !helper.is_empty())
    }

    /// Returns the helper of all hosts that have none of their own.
    pub(crate) fn common_helper(&self) -> Option<&str> {
        let helper = self.content.creds_store.as_deref();
        helper.filter(|helper| !helper.is_empty())
    }

    fn listed_by(
        &self,
        helper: &str,
        helpers: &Helpers<'_>,
    ) -> Result<BTreeMap<String, String>, CredentialsError> {
        helpers
            .list(helper)
            .map_err(|source| CredentialsError::Helper {
                path: self.path.clone(),
                source,
            })
    }

    fn broken_entry(&self, key: &str) -> CredentialsError {
        CredentialsError::Entry {
            path: self.path.clone(),
            key: key.chars().take(255).collect(),
        }
    }

    /// Returns the helper of a host, in the form of `normalised`.
    pub(crate) fn helper_of(&self, host: &str) -> Option<&str> {
        let configured = self.content.cred_helpers.as_ref()?;
        let exact = configured.get_key_value(host);
        let found = exact.or_else(|| configured.iter().find(|(key, _)| normalised(key) == host));
        found
            .map(|(_, helper)| helper.as_str())
            .filter(|helper| !helper.is_empty())
    }

    fn ask(
        &self,
        helper: &str,
        host: &str,
        helpers: &Helpers<'_>,
    ) -> Result<Option<Hit>, CredentialsError> {
        let found = helpers.get(helper, server(host));
        let found = found.map_err(|source| CredentialsError::Helper {
            path: self.path.clone(),
            source,
        })?;
        Ok(found.map(|credentials| Hit {
            credentials,
            key: host.to_owned(),
            helper: Some(helper.to_owned()),
        }))
    }

    fn entry_of(&self, target: Target<'_>) -> Result<Option<Hit>, CredentialsError> {
        let Some(auths) = &self.content.auths else {
            return Ok(None);
        };
        for wanted in target.keys() {
            let exact = auths.get_key_value(&wanted).into_iter();
            let alike = auths.iter().filter(|(key, _)| normalised(key) == wanted);
            for (key, entry) in exact.chain(alike) {
                let found = entry.credentials().map_err(|_| self.broken_entry(key))?;
                if let Some(credentials) = found {
                    return Ok(Some(Hit {
                        credentials,
                        key: key.clone(),
                        helper: None,
                    }));
                }
            }
        }
        Ok(None)
    }
}

/// How a host is called towards helpers.
pub(crate) fn server(host: &str) -> &str {
    if host == "docker.io" {
        DOCKER_HUB_KEY
    } else {
        host
    }
}

fn username(credentials: Credentials) -> Option<String> {
    match credentials {
        Credentials::Password { username, .. } => Some(username),
        Credentials::IdentityToken(_) => None,
    }
}

/// An `auth` value breaks the form.
struct NotBase64;

impl Entry {
    /// Reads an entry. One without a secret only says that a helper has it.
    fn credentials(&self) -> Result<Option<Credentials>, NotBase64> {
        let filled = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken(Secret::new(token))));
        }
        if let Some(auth) = filled(&self.auth) {
            return decode(&auth).map(Some);
        }
        Ok(filled(&self.username)
            .zip(filled(&self.password))
            .map(|(username, password)| Credentials::Password {
                username,
                secret: Secret::new(password),
            }))
    }
}

fn decode(auth: &str) -> Result<Credentials, NotBase64> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, config)
        .decode(auth.trim())
        .map_err(|_| NotBase64)?;
    let text = String::from_utf8(bytes).map_err(|_| NotBase64)?;
    let (username, password) = text.split_once(':').ok_or(NotBase64)?;
    Ok(Credentials::Password {
        username: username.to_owned(),
        // Old versions of Docker padded the password with NUL.
        secret: Secret::new(password.trim_end_matches('\0').to_owned()),
    })
}

/// Brings an entry's name into the form of [`Target::keys`]. With a scheme it is a URL, of which the
/// host counts; without one it may be a host with namespaces.
pub(crate) fn normalised(key: &str) -> String {
    let without_scheme = ["https://", "http://"]
        .iter()
        .find_map(|scheme| key.strip_prefix(scheme));
    let (host, path) = match without_scheme {
        Some(rest) => (rest.split('/').next().unwrap_or_default(), ""),
        None => key.split_once('/').unwrap_or((key, "")),
    };
    let host = match host.to_ascii_lowercase() {
        hub if hub == "index.docker.io" || hub == "registry-1.docker.io" => "docker.io".to_owned(),
        host => host,
    };
    match path.trim_end_matches('/') {
        "" | "v1" | "v2" => host,
        path => format!("{host}/{path}"),
    }
}

/// Says whether symbolic links lead back to themselves, or too far to follow.
pub(crate) fn is_circle(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_entries_meet_in_one_form() {
        let cases = [
            ("https://index.docker.io/v1/", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("docker.io/library", "docker.io/library"),
            ("https://ghcr.io", "ghcr.io"),
            ("https://ghcr.io/v2/", "ghcr.io"),
            ("ghcr.io/v1/", "ghcr.io"),
            ("GHCR.io/some/", "ghcr.io/some"),
            ("http://localhost:5000", "localhost:5000"),
            ("", ""),
        ];
        for (key, want) in cases {
            assert_eq!(normalised(key), want, "reading {key:?}");
        }
    }
}
