//! All logins that the search could find, without their secrets.

use crate::file::AuthFile;
use crate::search::{CredentialsError, Origin, Places, files};

/// One login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The registry, or a namespace in it.
    pub name: String,
    /// Who; none for an identity token.
    pub username: Option<String>,
    /// Where it is kept.
    pub origin: Origin,
}

/// The logins there are.
#[derive(Debug, Default)]
pub struct Logins {
    /// In the order of the search. Of two of one name the first counts.
    pub items: Vec<Login>,
    /// What could not be looked at.
    pub problems: Vec<CredentialsError>,
}

/// Lists the logins in all files of the search and in the helpers they name.
pub fn logins(places: &Places) -> Result<Logins, CredentialsError> {
    let mut logins = Logins::default();
    for (path, form) in files(places)? {
        let file = match AuthFile::read(&path, form) {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            Err(problem) => {
                logins.problems.push(problem);
                continue;
            }
        };
        let (listed, problems) = file.list(&places.helpers());
        logins.problems.extend(problems);
        logins.items.extend(listed.into_iter().map(|listed| Login {
            origin: Origin {
                file: path.clone(),
                key: listed.name.clone(),
                helper: listed.helper,
            },
            name: listed.name,
            username: listed.username,
        }));
    }
    Ok(logins)
}
