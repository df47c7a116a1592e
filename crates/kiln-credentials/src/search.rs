//! The order in which files are asked (containers-auth.json(5), then Docker's).
//!
//! ```text
//! a file the caller names           alone, and it must exist
//! $REGISTRY_AUTH_FILE               alone
//! $XDG_RUNTIME_DIR/containers/auth.json
//! $XDG_CONFIG_HOME/containers/auth.json      else ~/.config/containers/auth.json
//! $DOCKER_CONFIG/config.json                 else ~/.docker/config.json
//! ~/.dockercfg
//! ```

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_domain::{Credentials, Reference, RegistryName};

use crate::file::{self, AuthFile, Form};
use crate::helper::{HelperError, Helpers};

/// How long a credential helper may take; it may have to ask a person to unlock something.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// What credentials are wanted for.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A repository: what is known about it, or about what it lies in.
    Repository(&'a Reference),
    /// A registry as a whole.
    Registry(&'a RegistryName),
}

impl Target<'_> {
    /// Returns the registry's host.
    pub(crate) fn host(&self) -> &str {
        match self {
            Self::Repository(reference) => reference.registry(),
            Self::Registry(name) => name.as_str(),
        }
    }

    /// Lists what an entry may be called, the most special first.
    pub(crate) fn keys(&self) -> Vec<String> {
        let Self::Repository(reference) = self else {
            return vec![self.host().to_owned()];
        };
        let mut key = format!("{}/{}", reference.registry(), reference.repository());
        let mut keys = vec![key.clone()];
        while let Some(slash) = key.rfind('/') {
            key.truncate(slash);
            keys.push(key.clone());
        }
        keys
    }
}

/// Where to look: values of environment variables and of one option, as the caller found them.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The file of an `--authfile` option.
    pub auth_file: Option<PathBuf>,
    /// `$REGISTRY_AUTH_FILE`.
    pub registry_auth_file: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// `$DOCKER_CONFIG`, a directory.
    pub docker_config: Option<PathBuf>,
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// `$PATH`, where helper programs are looked for.
    pub path: Option<OsString>,
}

/// Why the search cannot say whether there are credentials. No variant quotes a file.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file the caller named is not there.
    #[error("the auth file {} does not exist", path.display())]
    AuthFileMissing {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is larger than any auth file is.
    #[error("{} is larger than {limit_bytes} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// A file is not the JSON of an auth file.
    #[error("{} is not an auth file: line {line}, column {column}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line at which reading stopped.
        line: usize,
        /// The column.
        column: usize,
    },
    /// An entry's `auth` is not base64 of `user:password`.
    #[error("the entry {key:?} in {} is not base64 of user:password", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
    },
    /// A helper program named in a file did not do its work.
    #[error("the credential helper named in {} is of no use", path.display())]
    Helper {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: HelperError,
    },
}

/// Finds the credentials for `target`.
///
/// Files are asked in order until one has an answer. A file or helper that fails does not end
/// the search; its error is returned when nobody else has an answer, and the caller may well go
/// on without credentials then. Nothing found is no error.
pub fn find(target: Target<'_>, places: &Places) -> Result<Option<Credentials>, CredentialsError> {
    let helpers = Helpers {
        path: places.path.as_deref(),
        timeout: HELPER_TIMEOUT,
    };
    let mut first_problem = None;
    for (path, form) in files(places)? {
        let found = AuthFile::read(&path, form)
            .and_then(|file| file.map_or(Ok(None), |file| file.find(target, &helpers)));
        match found {
            Ok(Some(credentials)) => return Ok(Some(credentials)),
            Ok(None) => {}
            Err(problem) => first_problem = first_problem.or(Some(problem)),
        }
    }
    first_problem.map_or(Ok(None), Err)
}

/// Lists the files to ask, in order.
fn files(places: &Places) -> Result<Vec<(PathBuf, Form)>, CredentialsError> {
    if let Some(path) = &places.auth_file {
        if !path.exists() {
            return Err(CredentialsError::AuthFileMissing { path: path.clone() });
        }
        return Ok(vec![(path.clone(), form_of(path))]);
    }
    if let Some(path) = set(places.registry_auth_file.as_deref()) {
        return Ok(vec![(path.to_owned(), form_of(path))]);
    }
    let home = set(places.home.as_deref());
    let below_home = |name: &str| home.map(|home| home.join(name));
    let directory = |value: &Option<PathBuf>| set(value.as_deref()).map(Path::to_owned);
    let config_home = directory(&places.config_home).or_else(|| below_home(".config"));
    let docker = directory(&places.docker_config).or_else(|| below_home(".docker"));
    let candidates = [
        (directory(&places.runtime_dir), "containers/auth.json"),
        (config_home, "containers/auth.json"),
        (docker, "config.json"),
        (home.map(Path::to_owned), file::LEGACY_NAME),
    ];
    Ok(candidates
        .into_iter()
        .filter_map(|(directory, name)| Some(directory?.join(name)))
        .map(|path| {
            let form = form_of(&path);
            (path, form)
        })
        .collect())
}

/// A variable that is set to nothing counts as not set.
fn set(value: Option<&Path>) -> Option<&Path> {
    value.filter(|path| !path.as_os_str().is_empty())
}

fn form_of(path: &Path) -> Form {
    if path
        .file_name()
        .is_some_and(|name| name == file::LEGACY_NAME)
    {
        Form::Legacy
    } else {
        Form::Current
    }
}

#[cfg(test)]
mod tests;
