//! What the guest is told about this one run: the caller's words over the image's.
//!
//! Values become values here; files and monitors are elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use kiln_boot::{
    BOOT_FILE, Boot, BootChoice, CommandWords, Container, End, Instance, Mode, Network, RootMount,
    Stdin, choose_mode, compose_argv,
};
use kiln_kernel::{CpioLimits, CpioNode, read_initramfs};
use kiln_vmm::RunOrder;
use serde_json::Value;

use crate::error::RunError;

/// Longest host name, in bytes (RFC 1035).
const HOSTNAME_BYTES: usize = 63;

/// What starts when the kernel is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    /// Our init, which is told this.
    Ours(Box<Boot>),
    /// What somebody else put into the initrd or the root filesystem.
    Foreign,
}

impl Guest {
    /// Looks into an image's initrd.
    ///
    /// One that cannot be read as an archive is not ours: the kernel may know formats that are
    /// unknown here.
    pub(crate) fn of(initrd: Option<&[u8]>) -> Result<Self, RunError> {
        let Some(initrd) = initrd else {
            return Ok(Self::Foreign);
        };
        let Ok(entries) = read_initramfs(initrd, CpioLimits::default()) else {
            return Ok(Self::Foreign);
        };
        let file = Path::new(BOOT_FILE.trim_start_matches('/'));
        // Of several the kernel keeps the last.
        let found = entries.iter().rev().find(|entry| entry.path == file);
        match found.map(|entry| &entry.node) {
            Some(CpioNode::File(content)) => Ok(Self::Ours(Box::new(Boot::parse(content)?))),
            _ => Ok(Self::Foreign),
        }
    }

    /// Returns how long the guest's program may take to stop, in seconds.
    pub(crate) fn stop_grace_seconds(&self) -> u32 {
        match self {
            Self::Ours(boot) => boot.stop_grace_seconds,
            // What systemd gives a service.
            Self::Foreign => 90,
        }
    }

    /// Tells whether our init stays process 1, and reports how the program ended.
    pub(crate) fn reports(&self, instance: Option<&Instance>) -> bool {
        let Self::Ours(boot) = self else { return false };
        let mode = instance.and_then(|instance| instance.mode.as_ref());
        *mode.unwrap_or(&boot.mode) == Mode::Entrypoint
    }

    /// Returns what the guest's init is told; nothing where it is not ours, and then the order
    /// must not hold words for it.
    pub(crate) fn instance(
        &self,
        order: &RunOrder,
        config: Option<&Value>,
        told: Told<'_>,
    ) -> Result<Option<Instance>, RunError> {
        match self {
            Self::Ours(boot) => instance(boot, order, config, told).map(Some),
            Self::Foreign => refuse_words(order).map(|()| None),
        }
    }
}

/// What the runner, not the caller, has to say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    /// The instance's name.
    pub(crate) name: &'a str,
    /// Whether the machine has a network.
    pub(crate) has_network: bool,
    /// How the machine ends.
    pub(crate) end: End,
    /// Whether somebody types on the console.
    pub(crate) is_typed: bool,
}

fn instance(
    boot: &Boot,
    order: &RunOrder,
    config: Option<&Value>,
    told: Told<'_>,
) -> Result<Instance, RunError> {
    let mut instance = Instance {
        env: order.env.clone(),
        user: order.user.clone(),
        workdir: order.workdir.clone(),
        root_mount: order.read_only.then_some(RootMount::Ro),
        network: Some(if told.has_network {
            Network::Dhcp
        } else {
            Network::None
        }),
        end: Some(told.end),
        // A program that reads a console on which nobody types would wait for ever.
        stdin: (!told.is_typed).then_some(Stdin::None),
        ..Instance::default()
    };
    if order.name.is_some() || boot.hostname.is_none() {
        instance.hostname = Some(hostname(told.name));
    }
    if let Some(argv) = command(boot, order, config) {
        // Another command may be another kind of thing: a shell in an image with an init.
        let container = Container {
            argv: &argv,
            labels: &BTreeMap::new(),
        };
        instance.mode = choose_mode(BootChoice::Auto, container)?.mode;
        instance.argv = Some(argv);
    }
    Ok(instance)
}

/// Returns the command, where the caller says something about it.
fn command(boot: &Boot, order: &RunOrder, config: Option<&Value>) -> Option<Vec<String>> {
    if order.command.is_empty() && order.entrypoint.is_none() {
        return None;
    }
    let (entrypoint, cmd) = match config {
        Some(config) => (words(config, "Entrypoint"), words(config, "Cmd")),
        None => (Vec::new(), boot.argv.clone()),
    };
    let said = CommandWords {
        entrypoint: order.entrypoint.as_deref(),
        cmd: Some(&order.command[..]).filter(|command| !command.is_empty()),
    };
    Some(compose_argv(&entrypoint, &cmd, said))
}

fn words(config: &Value, member: &str) -> Vec<String> {
    let list = config.get(member).and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

fn refuse_words(order: &RunOrder) -> Result<(), RunError> {
    let flags = [
        ("a command", !order.command.is_empty()),
        ("--entrypoint", order.entrypoint.is_some()),
        ("--env", !order.env.is_empty()),
        ("--user", order.user.is_some()),
        ("--workdir", order.workdir.is_some()),
    ];
    match flags.into_iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(RunError::NoInit { flag }),
        None => Ok(()),
    }
}

/// Makes a host name of an instance's name, which may hold other characters.
fn hostname(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let mut hostname: String = name.chars().map(plain).take(HOSTNAME_BYTES).collect();
    while hostname.ends_with('-') {
        hostname.pop();
    }
    let hostname = hostname.trim_start_matches('-');
    if hostname.is_empty() {
        "kiln".to_owned()
    } else {
        hostname.to_owned()
    }
}

#[cfg(test)]
mod tests;
