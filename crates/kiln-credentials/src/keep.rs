//! Logging in and out: where credentials are put, so that this user's other tools find them too.
//!
//! ```text
//! a file was named (--authfile, $REGISTRY_AUTH_FILE)   that file, made where it is missing
//! a file names a helper for the host                   that helper
//! else the first file that the search finds            its helper of all hosts, else an entry in it
//! else                                                 docker's file, which all tools read
//! ```
//! Helpers know hosts only: a namespace's login is an entry of a file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_domain::{Credentials, LoginScope};

use crate::document::Document;
use crate::file::{AuthFile, Form, normalised, server};
use crate::helper::HelperError;
use crate::search::{
    self, CredentialsError, DOCKER_NAME, Origin, Places, Target, files, form_of, locate, named,
};

/// Why a login could not be kept or forgotten. No variant quotes a file.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// A file could not be read.
    #[error(transparent)]
    Read(#[from] CredentialsError),
    /// There is no home directory and no other place.
    #[error("there is no place to keep a login: neither HOME nor DOCKER_CONFIG is set")]
    NoPlace,
    /// Another login holds the directory.
    #[error("another login has been writing in {} for {} seconds", path.display(), after.as_secs())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
    /// A helper that is configured for the host would be asked first, and knows no namespaces.
    #[error(
        "docker-credential-{helper} keeps the logins of {host} (as {} says), and helpers know no namespaces",
        path.display()
    )]
    Namespace {
        /// The host.
        host: String,
        /// The helper, without `docker-credential-`.
        helper: String,
        /// The file that names it.
        path: PathBuf,
    },
    /// A helper program did not do its work.
    #[error("the credential helper named in {} is of no use", path.display())]
    Helper {
        /// The file that names it.
        path: PathBuf,
        /// Why.
        #[source]
        source: HelperError,
    },
    /// A file could not be changed.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Where a login went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The place.
    pub origin: Origin,
    /// What the search finds before it, if anything: then the new login is without effect there.
    pub hidden_by: Option<Origin>,
}

impl Kept {
    /// Says whether the secret now stands in a file that everybody who reads it understands.
    pub fn is_plain(&self) -> bool {
        self.origin.helper.is_none()
    }
}

/// What was forgotten, and what could not be.
#[derive(Debug, Default)]
pub struct Forgotten {
    /// The places that had a login.
    pub origins: Vec<Origin>,
    /// What went wrong on the way; the other places were gone through all the same.
    pub problems: Vec<KeepError>,
}

/// Which logins to forget.
#[derive(Clone, Copy, Debug)]
pub enum Chosen<'a> {
    /// That of one registry or namespace.
    One(&'a LoginScope),
    /// Every one.
    All,
}

/// Keeps credentials for `scope`, in place of those it has there.
pub fn keep(
    scope: &LoginScope,
    credentials: &Credentials,
    places: &Places,
) -> Result<Kept, KeepError> {
    let place = choose(scope, places)?;
    let mut document = Document::open(&place.file, form_of(&place.file))?;
    let (key, is_changed) = match &place.helper {
        Some(helper) => {
            let host = scope.registry().as_str();
            let stored = places.helpers().store(helper, server(host), credentials);
            stored.map_err(|source| KeepError::Helper {
                path: place.file.clone(),
                source,
            })?;
            (host.to_owned(), document.set_elsewhere(scope))
        }
        None => (document.set(scope, credentials)?, true),
    };
    // A file that only names a helper may be one that nobody may write.
    if is_changed {
        document.save()?;
    }
    let origin = Origin {
        file: place.file,
        key,
        helper: place.helper,
    };
    // It is kept, whatever happens to the look whether it counts.
    let found = locate(Target::Scope(scope), places).ok().flatten();
    let hidden_by = found
        .map(|found| found.origin)
        .filter(|found| *found != origin);
    Ok(Kept { origin, hidden_by })
}

/// Forgets logins wherever the search would find them. Having none is no error.
pub fn forget(chosen: Chosen<'_>, places: &Places) -> Result<Forgotten, KeepError> {
    let mut forgotten = Forgotten::default();
    for (path, form) in files(places)? {
        // Only files that exist are opened: nothing is made by a logout.
        let outcome = match AuthFile::read(&path, form) {
            Ok(None) => continue,
            Ok(Some(_)) => forget_in(&path, form, chosen, places, &mut forgotten),
            Err(error) => Err(error.into()),
        };
        forgotten.problems.extend(outcome.err());
    }
    Ok(forgotten)
}

fn forget_in(
    path: &Path,
    form: Form,
    chosen: Chosen<'_>,
    places: &Places,
    forgotten: &mut Forgotten,
) -> Result<(), KeepError> {
    let mut document = Document::open(path, form)?;
    for (host, helper) in asked_helpers(path, document.read(), chosen, places, forgotten) {
        let erased = erase(&helper, &host, places).map_err(|source| KeepError::Helper {
            path: path.to_owned(),
            source,
        });
        match erased {
            Ok(false) => {}
            Ok(true) => forgotten.origins.push(Origin {
                file: path.to_owned(),
                key: host,
                helper: Some(helper),
            }),
            Err(problem) => forgotten.problems.push(problem),
        }
    }
    let removal = match chosen {
        Chosen::All => document.remove(|_| true),
        Chosen::One(scope) => {
            let wanted = scope.to_string();
            document.remove(|name| name == wanted)
        }
    };
    if !removal.is_change() {
        return Ok(());
    }
    document.save()?;
    let entries = removal.entries.into_iter().map(|key| Origin {
        file: path.to_owned(),
        key,
        helper: None,
    });
    forgotten.origins.extend(entries);
    Ok(())
}

/// Lists hosts and the helpers that may have logins of theirs.
fn asked_helpers(
    path: &Path,
    file: &AuthFile,
    chosen: Chosen<'_>,
    places: &Places,
    forgotten: &mut Forgotten,
) -> Vec<(String, String)> {
    let of_one = |scope: &LoginScope| {
        let host = scope.registry().as_str();
        let helpers = file.helper_of(host).into_iter().chain(file.common_helper());
        let mut asked: Vec<(String, String)> = helpers
            .map(|helper| (host.to_owned(), helper.to_owned()))
            .collect();
        asked.dedup();
        asked
    };
    match chosen {
        Chosen::One(scope) if scope.namespace().is_some() => return Vec::new(),
        Chosen::One(scope) => return of_one(scope),
        Chosen::All => {}
    }
    let mut asked: Vec<(String, String)> = file
        .host_helpers()
        .map(|(host, helper)| (normalised(host), helper.to_owned()))
        .collect();
    if let Some(helper) = file.common_helper() {
        match places.helpers().list(helper) {
            Ok(servers) => asked.extend(
                servers
                    .into_keys()
                    .map(|server| (normalised(&server), helper.to_owned())),
            ),
            Err(source) => forgotten.problems.push(KeepError::Helper {
                path: path.to_owned(),
                source,
            }),
        }
    }
    asked
}

/// Has a helper forget a host; says whether it had anything.
fn erase(helper: &str, host: &str, places: &Places) -> Result<bool, HelperError> {
    let helpers = places.helpers();
    if helpers.get(helper, server(host))?.is_none() {
        return Ok(false);
    }
    helpers.erase(helper, server(host)).map(|()| true)
}

/// Where a login is to go.
struct Place {
    file: PathBuf,
    helper: Option<String>,
}

fn choose(scope: &LoginScope, places: &Places) -> Result<Place, KeepError> {
    let host = scope.registry().as_str();
    let candidates = match named(places) {
        Some(path) => vec![(path.to_owned(), form_of(path))],
        None => files(places)?
            .into_iter()
            .filter(|(_, form)| *form == Form::Current)
            .collect(),
    };
    let mut existing = Vec::new();
    for (path, form) in candidates {
        if let Some(file) = AuthFile::read(&path, form)? {
            existing.push((path, file));
        }
    }
    let of_host = existing
        .iter()
        .find_map(|(path, file)| Some((path, file.helper_of(host)?)));
    if let Some((path, helper)) = of_host {
        if scope.namespace().is_some() {
            return Err(KeepError::Namespace {
                host: host.to_owned(),
                helper: helper.to_owned(),
                path: path.clone(),
            });
        }
        return Ok(Place {
            file: path.clone(),
            helper: Some(helper.to_owned()),
        });
    }
    if let Some((path, file)) = existing.first() {
        let helper = file.common_helper().filter(|_| scope.namespace().is_none());
        return Ok(Place {
            file: path.clone(),
            helper: helper.map(str::to_owned),
        });
    }
    let docker = || search::docker_directory(places).map(|directory| directory.join(DOCKER_NAME));
    let file = named(places).map(Path::to_owned).or_else(docker);
    Ok(Place {
        file: file.ok_or(KeepError::NoPlace)?,
        helper: None,
    })
}

#[cfg(test)]
mod tests;
