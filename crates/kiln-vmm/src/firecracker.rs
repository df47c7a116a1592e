//! Firecracker's configuration file and command line.
//!
//! The file is what `--config-file` reads: one object per resource of its API, as
//! `src/firecracker/swagger/firecracker.yaml` of Firecracker 1.15 describes them under
//! `FullVmConfiguration`. Members that are not needed are left out.

use std::path::Path;

use serde::Serialize;

use crate::machine::{self, Access, Machine, MachineError, Network};
use crate::monitor::Monitor;

const MONITOR: Monitor = Monitor::Firecracker;

/// The configuration of one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Configuration {
    boot_source: BootSource,
    drives: Vec<Drive>,
    machine_config: MachineConfig,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    network_interfaces: Vec<NetworkInterface>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logger: Option<Logger>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct BootSource {
    kernel_image_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    initrd_path: Option<String>,
    boot_args: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are Firecracker's")]
struct Drive {
    drive_id: String,
    path_on_host: String,
    is_root_device: bool,
    is_read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct MachineConfig {
    vcpu_count: u32,
    mem_size_mib: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct NetworkInterface {
    iface_id: String,
    host_dev_name: String,
    guest_mac: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Logger {
    log_path: String,
    level: &'static str,
}

/// How Firecracker is held once it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held<'a> {
    /// By its standard input and output alone.
    ByPerson,
    /// By a program too, which speaks to its API through a socket at this path.
    ByProgram {
        /// Where the socket is made.
        api_socket: &'a Path,
    },
}

/// Describes a machine. `log` takes Firecracker's own messages, which stand on the guest's console
/// otherwise.
pub fn configuration(machine: &Machine, log: Option<&Path>) -> Result<Configuration, MachineError> {
    machine.check(MONITOR)?;
    let initrd = machine.initrd.as_deref();
    let initrd = initrd.map(|path| machine::text(path, MONITOR, &[]));
    let log = log.map(|path| machine::text(path, MONITOR, &[]));
    Ok(Configuration {
        boot_source: BootSource {
            kernel_image_path: machine::text(&machine.kernel, MONITOR, &[])?,
            initrd_path: initrd.transpose()?,
            boot_args: machine.kernel_arguments.clone(),
        },
        drives: drives(machine)?,
        machine_config: MachineConfig {
            vcpu_count: machine.cpus,
            mem_size_mib: machine.memory_mib,
        },
        network_interfaces: interfaces(&machine.network)?,
        logger: log.transpose()?.map(|log_path| Logger {
            log_path,
            level: "Warning",
        }),
    })
}

impl Configuration {
    /// Returns the bytes of the file.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }
}

/// Returns the words after the name of the program.
pub fn words(configuration: &Path, held: Held<'_>) -> Result<Vec<String>, MachineError> {
    let file = machine::text(configuration, MONITOR, &[])?;
    let mut words = match held {
        Held::ByPerson => vec!["--no-api".to_owned()],
        Held::ByProgram { api_socket } => vec![
            "--api-sock".to_owned(),
            machine::text(api_socket, MONITOR, &[])?,
        ],
    };
    words.extend(["--config-file".to_owned(), file]);
    Ok(words)
}

fn drives(machine: &Machine) -> Result<Vec<Drive>, MachineError> {
    let drive = |(number, disk): (usize, &machine::Disk)| {
        Ok(Drive {
            drive_id: format!("disk{number}"),
            path_on_host: machine::text(disk.path(MONITOR)?, MONITOR, &[])?,
            is_root_device: number == 0,
            is_read_only: disk.access == Access::ReadOnly,
        })
    };
    machine.disks.iter().enumerate().map(drive).collect()
}

fn interfaces(network: &Network) -> Result<Vec<NetworkInterface>, MachineError> {
    match network {
        Network::None => Ok(Vec::new()),
        Network::User { .. } => Err(MachineError::Lacks {
            monitor: MONITOR,
            what: "network without a tap device of the host",
        }),
        Network::Tap { device } => Ok(vec![NetworkInterface {
            iface_id: "eth0".to_owned(),
            host_dev_name: device.clone(),
            guest_mac: machine::MAC.to_owned(),
        }]),
    }
}

#[cfg(test)]
mod tests;
