//! Which daemon to talk to: addresses, and the order in which they are looked for.
//!
//! Reading the environment is not here; it is handed in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The system daemon's socket.
const SYSTEM_SOCKET: &str = "/run/kiln/kiln.sock";

/// The socket's place below `$XDG_RUNTIME_DIR`.
const USER_SOCKET: &str = "kiln/kiln.sock";

/// The address of a daemon: `unix://` and the absolute path of its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    socket: PathBuf,
}

/// Why a text is not the address of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The scheme is another one, or there is none.
    #[error("{text:?} is not an address such as unix:///run/kiln/kiln.sock")]
    Scheme {
        /// The text, cut to 200 characters.
        text: String,
    },
    /// The path is relative: then it would depend on who reads it.
    #[error("{text:?} does not name an absolute path behind unix://")]
    Relative {
        /// The text, cut to 200 characters.
        text: String,
    },
}

/// What the search for a daemon depends on beside the file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The address the caller named.
    pub named: Option<String>,
    /// `KILN_HOST`.
    pub kiln_host: Option<String>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
}

/// What decided for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostOrigin {
    /// The caller named it.
    Named,
    /// `KILN_HOST` named it.
    Environment,
    /// The user's own daemon has a socket.
    User,
    /// Nothing else did.
    System,
}

impl Host {
    /// Takes the path of a socket.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Looks for the daemon: the named address, `KILN_HOST`, the user's socket if it is present,
    /// the system's socket. `is_present` tells whether a path exists. An empty text counts as
    /// absent, as everywhere in the environment.
    pub fn discover(
        surroundings: &Surroundings,
        is_present: impl Fn(&Path) -> bool,
    ) -> Result<(Self, HostOrigin), HostError> {
        let stated = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(text) = stated(&surroundings.named) {
            return Ok((text.parse()?, HostOrigin::Named));
        }
        if let Some(text) = stated(&surroundings.kiln_host) {
            return Ok((text.parse()?, HostOrigin::Environment));
        }
        let user = surroundings
            .xdg_runtime_dir
            .as_ref()
            // The XDG specification: a relative path here is to be ignored.
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(USER_SOCKET));
        match user.filter(|path| is_present(path)) {
            Some(path) => Ok((Self::at(path), HostOrigin::User)),
            None => Ok((Self::at(SYSTEM_SOCKET), HostOrigin::System)),
        }
    }

    /// Returns the path of the socket calls go through.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the path of the socket descriptors go through: the sibling of the first.
    pub fn files_socket(&self) -> PathBuf {
        self.socket.with_file_name("kiln-files.sock")
    }
}

impl HostOrigin {
    /// Says in words what decided.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Named => "--host",
            Self::Environment => "KILN_HOST",
            Self::User => "XDG_RUNTIME_DIR",
            Self::System => "the system's default",
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.socket.display())
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(200).collect();
        let Some(path) = text.strip_prefix("unix://") else {
            return Err(HostError::Scheme { text: shown() });
        };
        if !path.starts_with('/') || path.contains('\0') {
            return Err(HostError::Relative { text: shown() });
        }
        Ok(Self::at(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_unix_addresses_are_hosts() {
        let scheme = |text: &str| HostError::Scheme { text: text.into() };
        let relative = |text: &str| HostError::Relative { text: text.into() };
        let cases = [
            ("unix:///run/kiln/kiln.sock", Ok("/run/kiln/kiln.sock")),
            (
                "unix://run/kiln.sock",
                Err(relative("unix://run/kiln.sock")),
            ),
            ("unix://", Err(relative("unix://"))),
            ("/run/kiln/kiln.sock", Err(scheme("/run/kiln/kiln.sock"))),
            ("tcp://localhost:1", Err(scheme("tcp://localhost:1"))),
        ];
        for (text, want) in cases {
            let got = text.parse::<Host>();

            assert_eq!(got, want.map(Host::at), "parsing {text:?}");
        }
    }

    #[test]
    fn the_search_goes_from_the_nearest_word_to_the_farthest() {
        let user = "/run/user/7/kiln/kiln.sock";
        let find = |named: Option<&str>, env: Option<&str>, xdg: Option<&str>, present: bool| {
            let surroundings = Surroundings {
                named: named.map(str::to_owned),
                kiln_host: env.map(str::to_owned),
                xdg_runtime_dir: xdg.map(PathBuf::from),
            };
            let found = Host::discover(&surroundings, |path| present && path == Path::new(user));
            found.map(|(host, origin)| (host.to_string(), origin))
        };
        let a = Some("unix:///a");
        let b = Some("unix:///b");
        let xdg = Some("/run/user/7");
        let system = ("unix:///run/kiln/kiln.sock".to_owned(), HostOrigin::System);

        let found = |path: &str, origin| Ok((format!("unix://{path}"), origin));
        assert_eq!(find(a, b, xdg, true), found("/a", HostOrigin::Named));
        assert_eq!(
            find(None, b, xdg, true),
            found("/b", HostOrigin::Environment)
        );
        assert_eq!(
            find(Some(""), Some(""), xdg, true),
            found(user, HostOrigin::User)
        );
        assert_eq!(find(None, None, xdg, false), Ok(system.clone()));
        assert_eq!(find(None, None, None, true), Ok(system.clone()));
        assert_eq!(find(None, None, Some("run/user/7"), true), Ok(system));
        assert!(matches!(
            find(None, Some("tcp://x"), xdg, true),
            Err(HostError::Scheme { .. })
        ));
    }

    #[test]
    fn descriptors_go_through_the_sibling() {
        assert_eq!(
            Host::at("/d/kiln.sock").files_socket(),
            Path::new("/d/kiln-files.sock")
        );
    }
}
