//! The order in which files are asked (containers-auth.json(5), then Docker's).
//!
//! ```text
//! a file the caller names           alone, and it must exist
//! $REGISTRY_AUTH_FILE               alone
//! $XDG_RUNTIME_DIR/containers/auth.json      else /run/containers/UID/auth.json
//! $XDG_CONFIG_HOME/containers/auth.json      else ~/.config/containers/auth.json
//! $DOCKER_CONFIG/config.json                 else ~/.docker/config.json
//! ~/.dockercfg
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_domain::{Credentials, LoginScope, Reference, RegistryName};
use kiln_files::KeptError;

use crate::file::{self, AuthFile, Form};
use crate::helper::{HelperError, Helpers};

/// How long a credential helper may take; it may have to ask a person to unlock something.
pub(crate) const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// Name of docker's file.
pub(crate) const DOCKER_NAME: &str = "config.json";

/// What credentials are wanted for.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A repository: what is known about it, or about what it lies in.
    Repository(&'a Reference),
    /// A registry as a whole.
    Registry(&'a RegistryName),
    /// A registry, or a namespace in it.
    Scope(&'a LoginScope),
}

impl Target<'_> {
    /// Returns the registry's host.
    pub(crate) fn host(&self) -> &str {
        match self {
            Self::Repository(reference) => reference.registry(),
            Self::Registry(name) => name.as_str(),
            Self::Scope(scope) => scope.registry().as_str(),
        }
    }

    /// Lists what an entry may be called, the most special first.
    pub(crate) fn keys(&self) -> Vec<String> {
        match self {
            Self::Repository(reference) => LoginScope::from(*reference).names(),
            Self::Registry(name) => vec![name.to_string()],
            Self::Scope(scope) => scope.names(),
        }
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
    /// Where podman and skopeo keep logins of users who have no `$XDG_RUNTIME_DIR`, such as root:
    /// `/run/containers/UID`.
    pub user_run_dir: Option<PathBuf>,
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
        /// Why.
        #[source]
        source: KeptError,
    },
    /// A symbolic link in the way leads back to itself.
    #[error("{} is, or lies behind, symbolic links that lead in a circle", path.display())]
    Circle {
        /// The file.
        path: PathBuf,
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

/// Credentials, and where they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The credentials.
    pub credentials: Credentials,
    /// Where they were.
    pub origin: Origin,
}

/// Where credentials are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file that has them, or that names their helper.
    pub file: PathBuf,
    /// The name of the entry; towards a helper the host.
    pub key: String,
    /// The helper that has them, without `docker-credential-`.
    pub helper: Option<String>,
}

impl Places {
    pub(crate) fn helpers(&self) -> Helpers<'_> {
        Helpers {
            path: self.path.as_deref(),
            timeout: HELPER_TIMEOUT,
        }
    }
}

/// Finds the credentials for `target`.
///
/// Files are asked in order until one has an answer. A file or helper that fails does not end
/// the search; its error is returned when nobody else has an answer, and the caller may well go
/// on without credentials then. Nothing found is no error.
pub fn find(target: Target<'_>, places: &Places) -> Result<Option<Credentials>, CredentialsError> {
    Ok(locate(target, places)?.map(|found| found.credentials))
}

/// Does what [`find`] does, and says where the credentials were.
pub fn locate(target: Target<'_>, places: &Places) -> Result<Option<Found>, CredentialsError> {
    let mut first_problem = None;
    for (path, form) in files(places)? {
        let found = AuthFile::read(&path, form)
            .and_then(|file| file.map_or(Ok(None), |file| file.find(target, &places.helpers())));
        match found {
            Ok(Some(hit)) => {
                return Ok(Some(Found {
                    credentials: hit.credentials,
                    origin: Origin {
                        file: path,
                        key: hit.key,
                        helper: hit.helper,
                    },
                }));
            }
            Ok(None) => {}
            Err(problem) => first_problem = first_problem.or(Some(problem)),
        }
    }
    first_problem.map_or(Ok(None), Err)
}

/// Lists the files to ask, in order.
pub(crate) fn files(places: &Places) -> Result<Vec<(PathBuf, Form)>, CredentialsError> {
    if let Some(path) = &places.auth_file
        && !path.exists()
    {
        return Err(CredentialsError::AuthFileMissing { path: path.clone() });
    }
    if let Some(path) = named(places) {
        return Ok(vec![(path.to_owned(), form_of(path))]);
    }
    let home = set(places.home.as_deref());
    let below_home = |name: &str| home.map(|home| home.join(name));
    let directory = |value: &Option<PathBuf>| set(value.as_deref()).map(Path::to_owned);
    let config_home = directory(&places.config_home).or_else(|| below_home(".config"));
    let docker = docker_directory(places);
    let run = match directory(&places.runtime_dir) {
        Some(run) => Some(run.join("containers")),
        None => directory(&places.user_run_dir),
    };
    let candidates = [
        (run, "auth.json"),
        (config_home, "containers/auth.json"),
        (docker, DOCKER_NAME),
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

/// Returns the one file that counts, where one was named.
pub(crate) fn named(places: &Places) -> Option<&Path> {
    let option = places.auth_file.as_deref();
    option.or_else(|| set(places.registry_auth_file.as_deref()))
}

/// Returns the directory of docker's file.
pub(crate) fn docker_directory(places: &Places) -> Option<PathBuf> {
    let stated = set(places.docker_config.as_deref()).map(Path::to_owned);
    stated.or_else(|| set(places.home.as_deref()).map(|home| home.join(".docker")))
}

/// A variable that is set to nothing counts as not set.
fn set(value: Option<&Path>) -> Option<&Path> {
    value.filter(|path| !path.as_os_str().is_empty())
}

pub(crate) fn form_of(path: &Path) -> Form {
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
