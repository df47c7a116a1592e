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
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use kiln_domain::{Credentials, Secret};
use serde::Deserialize;

use crate::helper::Helpers;
use crate::search::{CredentialsError, Target};

/// The file of Docker before 1.7.
pub(crate) const LEGACY_NAME: &str = ".dockercfg";

/// Largest auth file, in bytes. One entry has about a hundred.
const MAX_BYTES: u64 = 1 << 20;

/// How Docker itself calls its registry in auth files and towards helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

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

impl AuthFile {
    /// Reads a file; nothing when there is none.
    pub(crate) fn read(path: &Path, form: Form) -> Result<Option<Self>, CredentialsError> {
        let unreadable = |source| CredentialsError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let mut bytes = Vec::new();
        let count = file
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        if count as u64 > MAX_BYTES {
            return Err(CredentialsError::TooLarge {
                path: path.to_owned(),
                limit_bytes: MAX_BYTES,
            });
        }
        let content = match form {
            Form::Current => serde_json::from_slice(&bytes),
            Form::Legacy => serde_json::from_slice(&bytes).map(|auths| Content {
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
        Ok(Some(Self {
            path: path.to_owned(),
            content,
        }))
    }

    /// Looks for credentials: a helper of the host, then the entry with the longest matching
    /// path, then the helper of all hosts.
    pub(crate) fn find(
        &self,
        target: Target<'_>,
        helpers: &Helpers<'_>,
    ) -> Result<Option<Credentials>, CredentialsError> {
        let host = target.host();
        if let Some(helper) = self.helper_of(host)
            && let Some(found) = self.ask(helper, host, helpers)?
        {
            return Ok(Some(found));
        }
        if let Some(found) = self.entry_of(target)? {
            return Ok(Some(found));
        }
        match self.content.creds_store.as_deref() {
            Some(helper) if !helper.is_empty() => self.ask(helper, host, helpers),
            _ => Ok(None),
        }
    }

    fn helper_of(&self, host: &str) -> Option<&str> {
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
    ) -> Result<Option<Credentials>, CredentialsError> {
        let server = if host == "docker.io" {
            DOCKER_HUB_KEY
        } else {
            host
        };
        helpers
            .get(helper, server)
            .map_err(|source| CredentialsError::Helper {
                path: self.path.clone(),
                source,
            })
    }

    fn entry_of(&self, target: Target<'_>) -> Result<Option<Credentials>, CredentialsError> {
        let Some(auths) = &self.content.auths else {
            return Ok(None);
        };
        for wanted in target.keys() {
            let exact = auths.get_key_value(&wanted).into_iter();
            let alike = auths.iter().filter(|(key, _)| normalised(key) == wanted);
            for (key, entry) in exact.chain(alike) {
                let found = entry.credentials().map_err(|_| CredentialsError::Entry {
                    path: self.path.clone(),
                    key: key.chars().take(255).collect(),
                })?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
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
fn normalised(key: &str) -> String {
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

    #[test]
    fn the_most_special_name_comes_first() {
        let reference = "reg.io/a/b/c:1".parse().unwrap();

        assert_eq!(
            Target::Repository(&reference).keys(),
            ["reg.io/a/b/c", "reg.io/a/b", "reg.io/a", "reg.io"]
        );
    }
}
