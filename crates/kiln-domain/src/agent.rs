//! Other daemons: what they are called, and where they are.
//!
//! ```text
//! unix:///run/other/kiln.sock                      a daemon of this host
//! ssh://[user@]host[:port][/run/kiln/kiln.sock]    one of another host
//! ```
//! Every part becomes a word of a command line or a path there, so each has a grammar that no shell
//! and no program reads as anything else. How such a place is reached is not here.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::without_user_info;

/// Longest path of a socket, in bytes: `sun_path` of unix(7) without the zero at its end.
const SOCKET_PATH_MAX: usize = 107;

/// Longest path of a file, in bytes: `PATH_MAX` of Linux without the zero at its end.
const PATH_MAX: usize = 4_095;

/// Longest host name, in bytes (RFC 1035, section 2.3.4).
const HOST_MAX: usize = 253;

/// Longest user name, in bytes, as for users of this host.
const USER_MAX: usize = 64;

/// Where a system's daemon listens when the address does not say.
const SYSTEM_SOCKET: &str = "/run/kiln/kiln.sock";

/// The path of a file that another program is told of.
///
/// Invariant: absolute, 4,095 bytes at most, of letters, digits and `/._-+@,=` alone, without a part
/// that is `..`. Nothing that a shell, `ssh` or its configuration expands is in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlainPath(String);

/// Why a text is no [`PlainPath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlainPathError {
    /// It does not begin with a slash.
    #[error("the path {text:?} is not absolute")]
    Relative {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// It is too long for what it names.
    #[error("the path is {found} bytes long; at most {limit} are allowed")]
    TooLong {
        /// How long it is.
        found: usize,
        /// How long it may be.
        limit: usize,
    },
    /// It ends where a file has its name.
    #[error("the path {text:?} names a directory, not a socket")]
    NoFile {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// It has a character that something could read as more than itself, or a part that is `..`.
    #[error(
        "the path {text:?} is not made of letters, digits and / . _ - + @ , = alone, or leads through .."
    )]
    Character {
        /// The text, cut to 80 characters.
        text: String,
    },
}

impl PlainPath {
    /// Borrows the path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn socket(text: &str) -> Result<Self, PlainPathError> {
        let path = Self::up_to(text, SOCKET_PATH_MAX)?;
        if matches!(text.rsplit('/').next(), Some("" | ".")) {
            return Err(PlainPathError::NoFile { text: cut(text) });
        }
        Ok(path)
    }

    fn up_to(text: &str, limit: usize) -> Result<Self, PlainPathError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@,=".contains(&byte);
        if !text.starts_with('/') {
            return Err(PlainPathError::Relative { text: cut(text) });
        }
        if text.len() > limit {
            let found = text.len();
            return Err(PlainPathError::TooLong { found, limit });
        }
        if !text.bytes().all(is_plain) || text.split('/').any(|part| part == "..") {
            return Err(PlainPathError::Character { text: cut(text) });
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for PlainPath {
    type Err = PlainPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::up_to(text, PATH_MAX)
    }
}

impl fmt::Display for PlainPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

crate::text::serde_through_text!(PlainPath);

/// Where another daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AgentAddress {
    /// A socket of this host.
    Unix {
        /// Its path.
        socket: PlainPath,
    },
    /// A socket of another host, behind its SSH server.
    Ssh(SshPlace),
}

/// A socket of a host that is reached by SSH.
///
/// Invariant: user and host begin with a letter, a digit or `_` and hold no character but letters,
/// digits and `._-`; a host may be an IPv6 address instead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SshPlace {
    /// Who to be there; what SSH's own configuration says when left out.
    user: Option<String>,
    /// A name, an address, or an alias of SSH's configuration; an IPv6 address without brackets.
    host: String,
    /// The server's port; what SSH's own configuration says when left out.
    port: Option<u16>,
    /// The daemon's socket there.
    socket: PlainPath,
}

impl SshPlace {
    /// Returns who to be there.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Returns the host, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the server's port.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Returns the daemon's socket there.
    pub fn socket(&self) -> &PlainPath {
        &self.socket
    }
}

/// Why a text is not the address of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentAddressError {
    /// The scheme is another one, or there is none.
    #[error("{text:?} does not begin with unix:// or ssh://")]
    Scheme {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// The path of the socket is none.
    #[error(transparent)]
    Path(#[from] PlainPathError),
    /// A user name of SSH has a grammar.
    #[error(
        "the user {text:?} is not a letter, digit or '_', then letters, digits, '.', '_' and '-'; \
         a password is never part of an address"
    )]
    User {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// So has a host.
    #[error("the host {text:?} is no host name and no IP address")]
    Host {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// A port is a number from 1 to 65535.
    #[error("the port {text:?} is not a number from 1 to 65535")]
    Port {
        /// The text, cut to 80 characters.
        text: String,
    },
}

impl FromStr for AgentAddress {
    type Err = AgentAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix://") {
            let socket = PlainPath::socket(path)?;
            return Ok(Self::Unix { socket });
        }
        let Some(rest) = text.strip_prefix("ssh://") else {
            return Err(AgentAddressError::Scheme { text: cut(text) });
        };
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, place) = match authority.split_once('@') {
            Some((user, place)) => (Some(checked_user(user)?), place),
            None => (None, authority),
        };
        let (host, port) = host_and_port(place)?;
        let path = if path.len() > 1 { path } else { SYSTEM_SOCKET };
        Ok(Self::Ssh(SshPlace {
            user,
            host,
            port,
            socket: PlainPath::socket(path)?,
        }))
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { socket } => write!(f, "unix://{socket}"),
            Self::Ssh(place) => {
                f.write_str("ssh://")?;
                if let Some(user) = &place.user {
                    write!(f, "{user}@")?;
                }
                if place.host.contains(':') {
                    write!(f, "[{}]", place.host)?;
                } else {
                    f.write_str(&place.host)?;
                }
                if let Some(port) = place.port {
                    write!(f, ":{port}")?;
                }
                write!(f, "{}", place.socket)
            }
        }
    }
}

crate::text::serde_through_text!(AgentAddress);

fn checked_user(text: &str) -> Result<String, AgentAddressError> {
    if text.len() <= USER_MAX && is_word(text) {
        return Ok(text.to_owned());
    }
    // What stands behind a colon is a password.
    let name = text.split(':').next().unwrap_or_default();
    Err(AgentAddressError::User { text: cut(name) })
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), AgentAddressError> {
    let no_host = || AgentAddressError::Host { text: cut(text) };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, behind) = rest.split_once(']').ok_or_else(no_host)?;
            let address: Ipv6Addr = address.parse().map_err(|_| no_host())?;
            let port = match behind {
                "" => None,
                behind => Some(behind.strip_prefix(':').ok_or_else(no_host)?),
            };
            (address.to_string(), port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    if !host.contains(':') && (host.len() > HOST_MAX || !is_word(&host)) {
        return Err(no_host());
    }
    let port = match port {
        None => None,
        Some(digits) => Some(checked_port(digits)?),
    };
    Ok((host, port))
}

fn checked_port(digits: &str) -> Result<u16, AgentAddressError> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse::<u16>().ok().filter(|port| *port > 0);
    port.filter(|_| is_number)
        .ok_or_else(|| AgentAddressError::Port { text: cut(digits) })
}

/// Tells whether a text can be no option of a program and no word of a shell's.
fn is_word(text: &str) -> bool {
    let mut bytes = text.bytes();
    let starts = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    bytes.next().is_some_and(starts) && bytes.all(|byte| starts(byte) || b".-".contains(&byte))
}

/// Returns what may be shown of a text: people take the address of a registry for one of a daemon,
/// with the password in it.
fn cut(text: &str) -> String {
    without_user_info(text).chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AgentName;

    fn check(text: &str, want: Option<&str>) {
        let got = text.parse::<AgentAddress>();
        let shown = got.as_ref().ok().map(ToString::to_string);
        assert_eq!(shown.as_deref(), want, "{text:?}: {got:?}");
        if let Ok(address) = got {
            let shown = address.to_string();
            assert_eq!(shown.parse(), Ok(address), "{shown}");
        }
    }

    #[test]
    fn addresses_are_read_and_written_in_one_form() {
        let cases = [
            ("unix:///run/a/kiln.sock", "unix:///run/a/kiln.sock"),
            ("ssh://node-1", "ssh://node-1/run/kiln/kiln.sock"),
            ("ssh://node-1/", "ssh://node-1/run/kiln/kiln.sock"),
            (
                "ssh://kiln@node-1.example:2222/srv/k.sock",
                "ssh://kiln@node-1.example:2222/srv/k.sock",
            ),
            ("ssh://10.0.0.7:22", "ssh://10.0.0.7:22/run/kiln/kiln.sock"),
            ("ssh://root@[::1]:22/k.sock", "ssh://root@[::1]:22/k.sock"),
        ];
        for (text, want) in cases {
            check(text, Some(want));
        }
    }

    #[test]
    fn nothing_hostile_is_an_address() {
        let long = format!("unix:///{}", "a".repeat(107));
        let cases = [
            "",
            "/run/kiln/kiln.sock",
            "tcp://node:1",
            "https://node",
            "unix://run/kiln.sock",
            "unix:///",
            "unix:///run/",
            "unix:///run/.",
            "ssh://node//",
            "ssh://node/run/",
            "unix:///a b",
            "unix:///a/../b",
            "unix:///a\n",
            "unix:///$HOME/k.sock",
            "unix:///a:b",
            long.as_str(),
            "ssh://",
            "ssh:///k.sock",
            "ssh://-oProxyCommand=sh/k.sock",
            "ssh://-l@node",
            "ssh://user@-node",
            "ssh://us er@node",
            "ssh://user:secret@node",
            "ssh://user@node@other",
            "ssh://no de",
            "ssh://node;reboot",
            "ssh://$(reboot)",
            "ssh://node`id`",
            "ssh://node%h",
            "ssh://node\n",
            "ssh://node\0",
            "ssh://nöde",
            "ssh://node:0",
            "ssh://node:65536",
            "ssh://node:+22",
            "ssh://node:22:23",
            "ssh://node:",
            "ssh://[::1",
            "ssh://[::1]22",
            "ssh://[node]",
            "ssh://[::1%eth0]",
            "ssh://node/k.sock?x",
            "ssh://node/k sock",
            "ssh://node/%h",
            "ssh://node/~/k.sock",
            "ssh://node/a/../../k.sock",
        ];
        for text in cases {
            check(text, None);
        }
    }

    #[test]
    fn no_error_says_a_password_again() {
        for text in [
            "http://ada:s3cr3t@node",
            "ada:s3cr3t@node:22",
            "ssh://ada:s3cr3t@node",
            "ssh://ada:s3cr3t@node/k.sock",
        ] {
            let error = text.parse::<AgentAddress>().unwrap_err().to_string();
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }

    #[test]
    fn a_plain_path_is_nothing_but_itself() {
        for (text, good) in [
            ("/etc/kiln/id_ed25519", true),
            ("/home/a+b@c,d=e/.ssh/known_hosts", true),
            ("relative", false),
            ("-i/etc", false),
            ("~/.ssh/id", false),
            ("/a b", false),
            ("/a%h", false),
            ("/a${HOME}", false),
            ("/a\"b", false),
            ("/a/../b", false),
            ("/a..b", true),
            ("", false),
        ] {
            assert_eq!(text.parse::<PlainPath>().is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn agents_are_named_by_one_component() {
        for (text, good) in [
            ("agent-1", true),
            ("offline-agent", true),
            ("a/b", false),
            ("Agent", false),
            ("-x", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<AgentName>().is_ok(), good, "{text:?}");
        }
        "a".repeat(64).parse::<AgentName>().unwrap_err();
    }
}
