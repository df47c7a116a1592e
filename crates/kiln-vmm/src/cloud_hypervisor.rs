//! Cloud Hypervisor's command line.
//!
//! Options are those of `cloud-hypervisor --help` from version 51 on. Every disk states its image
//! type: since 51 a raw disk whose type was guessed cannot be written at its first sector, where an
//! ext4 filesystem has its superblock, and later versions guess no more. Versions before 51 do not
//! know the word.

use std::path::Path;

use crate::machine::{self, Access, Machine, MachineError, Network};
use crate::monitor::Monitor;

const MONITOR: Monitor = Monitor::CloudHypervisor;

/// What separates and quotes the values of an option.
const SEPARATORS: &[char] = &[',', '"', '[', ']'];

/// How Cloud Hypervisor is held once it runs.
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

/// Returns the words after the name of the program.
pub fn words(machine: &Machine, held: Held<'_>) -> Result<Vec<String>, MachineError> {
    machine.check(MONITOR)?;
    let mut words = Vec::new();
    let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
    if let Held::ByProgram { api_socket } = held {
        let socket = machine::text(api_socket, MONITOR, SEPARATORS)?;
        add("--api-socket", format!("path={socket}"));
    }
    add("--kernel", machine::text(&machine.kernel, MONITOR, &[])?);
    if let Some(initrd) = &machine.initrd {
        add("--initramfs", machine::text(initrd, MONITOR, &[])?);
    }
    add("--cmdline", machine.kernel_arguments.clone());
    add("--cpus", format!("boot={}", machine.cpus));
    add("--memory", format!("size={}M", machine.memory_mib));
    // One option with all of them: repeating it is an error to old versions.
    words.push("--disk".to_owned());
    for disk in &machine.disks {
        let path = machine::text(disk.path(MONITOR)?, MONITOR, SEPARATORS)?;
        let readonly = if disk.access == Access::ReadOnly {
            "on"
        } else {
            "off"
        };
        words.push(format!("path={path},image_type=raw,readonly={readonly}"));
    }
    match &machine.network {
        Network::None => {}
        Network::User { .. } => {
            return Err(MachineError::Lacks {
                monitor: MONITOR,
                what: "network without a tap device of the host",
            });
        }
        Network::Tap { device } => {
            let device = machine::text(device.as_ref(), MONITOR, SEPARATORS)?;
            let mac = machine::MAC;
            words.extend(["--net".to_owned(), format!("tap={device},mac={mac}")]);
        }
    }
    words.extend(["--serial", "tty", "--console", "off"].map(str::to_owned));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::testing::{disk, machine};

    #[test]
    fn a_machine_is_told_in_these_words() {
        let mut machine = machine();
        machine.disks.push(disk("/v/data", Access::ReadOnly));
        machine.network = Network::Tap {
            device: "tap0".to_owned(),
        };
        let api_socket = Path::new("/i/api.sock");

        assert_eq!(
            words(&machine, Held::ByProgram { api_socket })
                .unwrap()
                .join(" "),
            "--api-socket path=/i/api.sock --kernel /i/kernel --initramfs /i/initrd.img \
             --cmdline console=ttyS0 quiet --cpus boot=2 --memory size=512M \
             --disk path=/i/rootfs.ext4,image_type=raw,readonly=off \
             path=/v/data,image_type=raw,readonly=on --net tap=tap0,mac=52:54:00:12:34:56 \
             --serial tty --console off"
        );
    }

    #[test]
    fn without_initrd_network_and_program_there_is_less_to_say() {
        let mut machine = machine();
        machine.initrd = None;

        assert_eq!(
            words(&machine, Held::ByPerson).unwrap().join(" "),
            "--kernel /i/kernel --cmdline console=ttyS0 quiet --cpus boot=2 --memory size=512M \
             --disk path=/i/rootfs.ext4,image_type=raw,readonly=off --serial tty --console off"
        );
    }

    #[test]
    fn what_it_cannot_be_told_is_refused() {
        type Change = fn(&mut Machine);
        let cases: &[(Change, &str)] = &[
            (
                |machine| machine.disks[0] = disk("/a,readonly=on", Access::ReadWrite),
                "/a,readonly=on cannot be told to cloud-hypervisor: it has a character that \
                 separates options",
            ),
            (
                |machine| machine.network = Network::User { ports: Vec::new() },
                "cloud-hypervisor has no network without a tap device of the host",
            ),
            (
                |machine| machine.disks[0].access = Access::Discarded,
                "cloud-hypervisor has no disk whose writes are dropped",
            ),
        ];
        for (change, want) in cases {
            let mut machine = machine();
            change(&mut machine);
            let got = words(&machine, Held::ByPerson).unwrap_err();
            assert_eq!(got.to_string(), *want);
        }
    }
}
