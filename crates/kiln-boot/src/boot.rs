//! `boot.json`: what an image is and how it boots, in words of the OCI image specification where
//! it has them.
//!
//! ```text
//! { "format": 1, "mode": "entrypoint", "argv": ["nginx"], "env": ["A=1"], "user": "app",
//!   "workdir": "/srv", "stop_signal": "SIGQUIT", "root": { "device": "/dev/vda", "mount": "ro" },
//!   "modules": ["/lib/modules/6.1.0/kernel/drivers/block/virtio_blk.ko"] }
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::DEFAULT_REPORT_PORT;
use crate::names::{self, Host, Resolv};
use crate::network::{self, Network};
use crate::read::{self, ReadError, check};
use crate::signal::StopSignal;

/// The format that is written, and the newest that is read.
pub const BOOT_FORMAT: u32 = 1;

/// Most words of a command, and most entries of an environment.
const MAX_WORDS: usize = 4096;
/// Longest word, in bytes: the kernel's own limit for one string of a command.
const MAX_WORD_BYTES: usize = 131_071;
/// Most of anything else that is listed.
const MAX_LISTED: usize = 1024;
/// Longest path, in bytes: the kernel's limit without its end.
const MAX_PATH_BYTES: usize = 4095;
/// Longest times that may be waited, in seconds.
const MAX_SECONDS: u32 = 86_400;

/// What a guest does from its first instruction to its last.
///
/// Invariant of a value that was read: every path is absolute, no text holds a zero byte, lists
/// and texts keep within the limits above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Number of the format: [`BOOT_FORMAT`].
    pub format: u32,
    /// Whose program is process 1 after the start.
    pub mode: Mode,
    /// The command: program and arguments. Of an image's own init: what it is told.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Environment entries in order, each `NAME=value`; see [`crate::Environment`].
    #[serde(default)]
    pub env: Vec<String>,
    /// The image's User: `name|uid[:group|gid]`; empty means root.
    #[serde(default)]
    pub user: String,
    /// Where the program starts; made where it is missing.
    #[serde(default = "top")]
    pub workdir: String,
    /// What asks the program to stop.
    #[serde(default = "term")]
    pub stop_signal: StopSignal,
    /// Seconds after which a program that was asked to stop is killed.
    #[serde(default = "ten_seconds")]
    pub stop_grace_seconds: u32,
    /// The root filesystem.
    #[serde(default)]
    pub root: Root,
    /// Directories that must be writable whatever the root is: the image's Volumes.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// The guest's name; left as it is when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Further lines of `/etc/hosts`.
    #[serde(default)]
    pub hosts: Vec<Host>,
    /// `/etc/resolv.conf`; where it says nothing, what DHCP says, and else the image's own file.
    #[serde(default)]
    pub resolv: Resolv,
    /// The network.
    #[serde(default)]
    pub network: Network,
    /// Port of the host's vsock that is told how the program ended; nobody is when it is null.
    #[serde(default = "report_port")]
    pub report_port: Option<u32>,
    /// How the machine ends.
    #[serde(default)]
    pub end: End,
    /// What the program reads as its standard input.
    #[serde(default, skip_serializing_if = "Stdin::is_console")]
    pub stdin: Stdin,
    /// Kernel modules in load order, as paths in the initrd, besides those of its base
    /// ([`crate::MODULES_FILE`]), which come first.
    #[serde(default)]
    pub modules: Vec<String>,
}

/// Whose program is process 1 once the root filesystem stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mode {
    /// Ours, and the image's command is its child.
    Entrypoint,
    /// The image's own.
    Init {
        /// Its path in the image.
        path: String,
    },
}

/// The root filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Root {
    /// The block device it lies on.
    pub device: String,
    /// Its kind, as the kernel calls it.
    pub filesystem: String,
    /// How it is mounted.
    pub mount: RootMount,
    /// Seconds to wait for a device.
    pub wait_seconds: u32,
}

/// How the root filesystem is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RootMount {
    /// Read-write; it grows to the size of its device where it can.
    #[default]
    Rw,
    /// Read-only, with memory where programs must write: `/run`, `/tmp`, `/dev/shm`, volumes.
    Ro,
    /// Read-only, and what is written goes elsewhere.
    Overlay {
        /// The block device, with an ext4 filesystem, that takes what is written; memory does
        /// where none is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upper: Option<String>,
    },
}

/// How the machine ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It is switched off.
    #[default]
    Poweroff,
    /// It is reset: what ends Firecracker, which cannot be switched off.
    Reboot,
}

/// What the program reads as its standard input; an init of the image's own always has the console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// The console.
    #[default]
    Console,
    /// Nothing: nobody types on the console.
    None,
}

impl Stdin {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_console(&self) -> bool {
        *self == Self::Console
    }
}

fn top() -> String {
    "/".to_owned()
}

fn term() -> StopSignal {
    StopSignal::TERM
}

fn ten_seconds() -> u32 {
    10
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "it is the default of an optional member"
)]
fn report_port() -> Option<u32> {
    Some(DEFAULT_REPORT_PORT)
}

impl Default for Root {
    fn default() -> Self {
        Self {
            device: "/dev/vda".to_owned(),
            filesystem: "ext4".to_owned(),
            mount: RootMount::Rw,
            wait_seconds: 30,
        }
    }
}

impl Boot {
    /// Describes a guest that runs nothing yet: `mode`, and for the rest what an image means
    /// that says nothing.
    pub fn new(mode: Mode) -> Self {
        Self {
            format: BOOT_FORMAT,
            mode,
            argv: Vec::new(),
            env: Vec::new(),
            user: String::new(),
            workdir: top(),
            stop_signal: term(),
            stop_grace_seconds: ten_seconds(),
            root: Root::default(),
            volumes: Vec::new(),
            hostname: None,
            hosts: Vec::new(),
            resolv: Resolv::default(),
            network: Network::default(),
            report_port: report_port(),
            end: End::default(),
            stdin: Stdin::default(),
            modules: Vec::new(),
        }
    }

    /// Reads `boot.json`. Strict: members that are not known are errors.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        let boot: Self = read::document(bytes, BOOT_FORMAT)?;
        boot.validate()?;
        Ok(boot)
    }

    /// Returns the bytes of `boot.json`; equal values give equal bytes. What could not be read
    /// again is an error.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ReadError> {
        self.validate()?;
        read::to_bytes(self)
    }

    /// Returns the text of `/etc/hosts`, with the guest's name at `own` where it has an address.
    pub fn hosts_text(&self, own: Option<IpAddr>) -> String {
        names::hosts_text(self.hostname.as_deref(), own, &self.hosts)
    }

    /// Checks what the types do not: limits, absolute paths, names.
    pub(crate) fn validate(&self) -> Result<(), ReadError> {
        if let Mode::Init { path } = &self.mode {
            path_is_absolute("mode.init.path", path)?;
        }
        words("argv", &self.argv)?;
        words("env", &self.env)?;
        words("user", std::slice::from_ref(&self.user))?;
        path_is_absolute("workdir", &self.workdir)?;
        seconds("stop_grace_seconds", self.stop_grace_seconds)?;
        self.root.validate()?;
        paths("volumes", &self.volumes)?;
        paths("modules", &self.modules)?;
        if let Some(hostname) = &self.hostname {
            check("hostname", names::is_hostname(hostname), "is no host name")?;
        }
        hosts(&self.hosts)?;
        resolv(&self.resolv)?;
        interfaces(&self.network)
    }
}

impl Root {
    fn validate(&self) -> Result<(), ReadError> {
        path_is_absolute("root.device", &self.device)?;
        let is_word = names::is_word(&self.filesystem);
        check("root.filesystem", is_word, "is no kind of filesystem")?;
        seconds("root.wait_seconds", self.wait_seconds)?;
        match &self.mount {
            RootMount::Overlay { upper: Some(upper) } => {
                path_is_absolute("root.mount.overlay.upper", upper)
            }
            _ => Ok(()),
        }
    }
}

fn words(member: &'static str, words: &[String]) -> Result<(), ReadError> {
    check(member, words.len() <= MAX_WORDS, "is too long a list")?;
    let are_short = words.iter().all(|word| word.len() <= MAX_WORD_BYTES);
    check(member, are_short, "holds too long a text")?;
    let are_plain = words.iter().all(|word| !word.contains('\0'));
    check(member, are_plain, "holds a zero byte")
}

fn paths(member: &'static str, paths: &[String]) -> Result<(), ReadError> {
    check(member, paths.len() <= MAX_LISTED, "is too long a list")?;
    paths
        .iter()
        .try_for_each(|path| path_is_absolute(member, path))
}

fn path_is_absolute(member: &'static str, path: &str) -> Result<(), ReadError> {
    let is_path = path.starts_with('/') && path.len() <= MAX_PATH_BYTES && !path.contains('\0');
    check(member, is_path, "is no absolute path")?;
    let is_straight = path.split('/').all(|part| part != "..");
    check(member, is_straight, "has a part that leads up")
}

fn seconds(member: &'static str, seconds: u32) -> Result<(), ReadError> {
    check(member, seconds <= MAX_SECONDS, "is more than a day")
}

fn hosts(hosts: &[Host]) -> Result<(), ReadError> {
    let is_short = hosts.len() <= MAX_LISTED;
    check("hosts", is_short, "is too long a list")?;
    let are_named = |host: &Host| {
        (1..=32).contains(&host.names.len()) && host.names.iter().all(|name| names::is_word(name))
    };
    check(
        "hosts",
        hosts.iter().all(are_named),
        "holds a name that is none",
    )
}

fn resolv(resolv: &Resolv) -> Result<(), ReadError> {
    let are_few = resolv.nameservers.len() <= 16 && resolv.search.len() <= 32;
    check("resolv", are_few, "is too long a list")?;
    let are_words = resolv.search.iter().all(|domain| names::is_word(domain));
    check("resolv.search", are_words, "holds a domain that is none")
}

fn interfaces(network: &Network) -> Result<(), ReadError> {
    let Network::Static(addresses) = network else {
        return Ok(());
    };
    check(
        "network.static",
        addresses.len() <= 64,
        "is too long a list",
    )?;
    let are_named = addresses
        .iter()
        .all(|one| network::is_interface(&one.interface));
    check(
        "network.static",
        are_named,
        "names an interface that cannot be",
    )
}

#[cfg(test)]
#[path = "boot/tests.rs"]
mod tests;
