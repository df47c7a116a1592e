//! What the client asks the runner to run: one document, handed over in memory.
//!
//! It never stands on a command line: values of the environment may be secrets.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::machine::Access;
use crate::monitor::{Accelerator, Monitor};

/// An image to run, and how.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunOrder {
    /// The daemon's address, such as `unix:///run/kiln/kiln.sock`.
    pub host: String,
    /// The image, in any form that `image.get` takes.
    pub image: String,
    /// The name of the instance; the daemon derives one otherwise.
    pub name: Option<String>,
    /// Processors of the machine; what the image is limited to otherwise.
    pub cpus: Option<u32>,
    /// Memory of the machine, in MiB; what the image is limited to otherwise.
    pub memory_mib: Option<u64>,
    /// Replaces the image's Cmd where it is not empty.
    pub command: Vec<String>,
    /// Replaces the image's Entrypoint; empty for none at all.
    pub entrypoint: Option<Vec<String>>,
    /// Entries after the image's own environment, each `NAME=value`.
    pub env: Vec<String>,
    /// Replaces the image's User.
    pub user: Option<String>,
    /// Replaces the image's `WorkingDir`.
    pub workdir: Option<String>,
    /// The root filesystem is the image itself, read-only.
    pub read_only: bool,
    /// Further raw disks.
    pub volumes: Vec<Volume>,
    /// Ports of the host that lead into the machine.
    pub ports: Vec<Forward>,
    /// The network; the best that the monitor has otherwise.
    pub network: Option<NetworkChoice>,
    /// The monitor; the first that works otherwise.
    pub monitor: Option<Monitor>,
    /// What executes the machine; KVM where it works otherwise.
    pub accelerator: Option<Accelerator>,
    /// Forget the instance, and its directory, when it has ended.
    pub remove: bool,
    /// Nobody waits at a terminal: say that it runs, and go on alone.
    pub detach: bool,
}

impl fmt::Debug for RunOrder {
    /// Leaves out what may be secret: the environment and the command.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOrder")
            .field("host", &self.host)
            .field("image", &self.image)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// How a run in the background begins: one line of JSON from the runner to the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Announcement<I, F> {
    /// The machine runs, as this instance.
    Started(I),
    /// It came to nothing, for this reason.
    Failed(F),
}

/// The network that a caller chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkChoice {
    /// None.
    None,
    /// QEMU's user network.
    User,
}

/// A raw disk that a caller brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// The file.
    pub path: PathBuf,
    /// The guest cannot write to it.
    pub read_only: bool,
}

impl Volume {
    /// Reads `FILE` or `FILE:ro`.
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix(":ro") {
            Some(path) => Self {
                path: PathBuf::from(path),
                read_only: true,
            },
            None => Self {
                path: PathBuf::from(text.strip_suffix(":rw").unwrap_or(text)),
                read_only: false,
            },
        }
    }

    /// Returns what may happen to its bytes.
    pub fn access(&self) -> Access {
        if self.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        }
    }
}

/// A TCP port of the host that leads to one of the machine; written `[ADDRESS:]PORT:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Where the host listens.
    pub host_address: Ipv4Addr,
    /// The host's port.
    pub host_port: u16,
    /// The machine's port.
    pub guest_port: u16,
}

/// Why a text is no forwarded port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a forwarded port such as 8080:80 or 0.0.0.0:8080:80")]
pub struct ForwardError {
    /// The text, cut to 80 characters.
    pub text: String,
}

impl FromStr for Forward {
    type Err = ForwardError;

    /// Without an address the host listens on loopback alone: what a guest serves is nobody's
    /// business until somebody says so.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ForwardError {
            text: text.chars().take(80).collect(),
        })
    }
}

fn parse(text: &str) -> Option<Forward> {
    let (rest, guest_port) = text.rsplit_once(':')?;
    let (host_address, host_port) = match rest.rsplit_once(':') {
        Some((address, port)) => (address.parse().ok()?, port),
        None => (Ipv4Addr::LOCALHOST, rest),
    };
    Some(Forward {
        host_address,
        host_port: port(host_port)?,
        guest_port: port(guest_port)?,
    })
}

fn port(text: &str) -> Option<u16> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_lead_from_loopback_unless_an_address_is_given() {
        let forward = |address: &str, host_port, guest_port| Forward {
            host_address: address.parse().unwrap(),
            host_port,
            guest_port,
        };
        let cases = [
            ("8080:80", Some(forward("127.0.0.1", 8080, 80))),
            ("0.0.0.0:1:65535", Some(forward("0.0.0.0", 1, 65535))),
            ("10.0.0.1:53:53", Some(forward("10.0.0.1", 53, 53))),
            ("80", None),
            ("80:", None),
            (":80", None),
            ("0:80", None),
            ("80:65536", None),
            ("+80:80", None),
            ("localhost:80:80", None),
            ("1:2:3:4", None),
            ("::1:80:80", None),
            ("80:80/udp", None),
            ("80:80,guestfwd=x", None),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<Forward>().ok(), want, "{text:?}");
        }
    }

    #[test]
    fn a_volume_may_be_for_reading_only() {
        let cases = [
            ("/a", ("/a", Access::ReadWrite)),
            ("/a:ro", ("/a", Access::ReadOnly)),
            ("/a:rw", ("/a", Access::ReadWrite)),
            ("/a:b", ("/a:b", Access::ReadWrite)),
        ];
        for (text, (path, access)) in cases {
            let volume = Volume::parse(text);
            assert_eq!(volume.path, PathBuf::from(path));
            assert_eq!(volume.access(), access);
        }
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        let order = RunOrder {
            host: "unix:///s".to_owned(),
            image: "web".to_owned(),
            name: None,
            cpus: Some(1),
            memory_mib: None,
            command: vec!["--password=hunter2".to_owned()],
            entrypoint: None,
            env: vec!["TOKEN=hunter2".to_owned()],
            user: None,
            workdir: None,
            read_only: false,
            volumes: Vec::new(),
            ports: Vec::new(),
            network: Some(NetworkChoice::None),
            monitor: Some(Monitor::QemuQ35),
            accelerator: Some(Accelerator::Tcg),
            remove: false,
            detach: false,
        };

        let json = serde_json::to_string(&order).unwrap();
        let read: RunOrder = serde_json::from_str(&json).unwrap();

        assert_eq!(read, order);
        assert_eq!(
            format!("{order:?}"),
            "RunOrder { host: \"unix:///s\", image: \"web\", name: None, .. }"
        );
    }
}
