//! A machine to run, in words that no monitor owns.

use std::path::{Path, PathBuf};

use crate::monitor::{Accelerator, Architecture, Monitor};
use crate::order::Forward;

/// Most processors of a machine: what a PC's interrupt controllers can tell apart, and more than
/// a host gives one guest.
pub const CPUS_MAX: u32 = 255;

/// Most processors under Firecracker (`vcpu_count` of its API).
const FIRECRACKER_CPUS_MAX: u32 = 32;

/// Least memory of a machine, in MiB. Less does not even hold a kernel and its initrd.
pub const MEMORY_MIN_MIB: u64 = 64;

/// Most memory of a machine, in MiB: 1 TiB. It is a guard against slips of the keyboard; whether
/// the host has it is the host's to say.
pub const MEMORY_MAX_MIB: u64 = 1 << 20;

/// Most disks: a microvm has eight places for devices, and one is the network's.
const DISKS_MAX: usize = 7;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its processor.
    pub architecture: Architecture,
    /// What executes it.
    pub accelerator: Accelerator,
    /// How many processors it has.
    pub cpus: u32,
    /// How much memory it has, in MiB.
    pub memory_mib: u64,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial ramdisk, where there is one.
    pub initrd: Option<PathBuf>,
    /// What the kernel is told.
    pub kernel_arguments: String,
    /// Raw disks: the root filesystem first, which is `/dev/vda`, then `/dev/vdb` and so on.
    pub disks: Vec<Disk>,
    /// The network.
    pub network: Network,
}

/// A raw disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Where its bytes are.
    pub source: DiskSource,
    /// What may happen to them.
    pub access: Access,
}

/// Where a disk's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskSource {
    /// In a file that the monitor opens.
    Path(PathBuf),
    /// In a file that the monitor inherits under this number. QEMU takes it.
    Descriptor(i32),
}

/// What may happen to the bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The guest cannot write.
    ReadOnly,
    /// What the guest writes is there afterwards.
    ReadWrite,
    /// The guest can write, and the file stays as it is. QEMU can do that.
    Discarded,
}

/// The network of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// None.
    None,
    /// What QEMU has without any rights: the guest reaches out as the user who runs it.
    User {
        /// Ports of the host that lead into the guest.
        ports: Vec<Forward>,
    },
    /// A tap device of the host.
    Tap {
        /// Its name.
        device: String,
    },
}

/// Why a monitor cannot be told to run a machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// Too few or too many processors.
    #[error("{cpus} processors cannot be; {monitor} takes 1 to {most}")]
    Cpus {
        /// How many were asked for.
        cpus: u32,
        /// By whom.
        monitor: Monitor,
        /// How many it takes.
        most: u32,
    },
    /// Too little or too much memory.
    #[error(
        "{memory_mib} MiB of memory cannot be; a machine has {MEMORY_MIN_MIB} to {MEMORY_MAX_MIB} MiB"
    )]
    Memory {
        /// How much was asked for.
        memory_mib: u64,
    },
    /// No disk, or too many.
    #[error(
        "{count} disks cannot be; a machine has 1 to {DISKS_MAX}, the root filesystem among them"
    )]
    Disks {
        /// How many were asked for.
        count: usize,
    },
    /// A path that a configuration or a command line cannot hold.
    #[error("{} cannot be told to {monitor}: {why}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// To whom.
        monitor: Monitor,
        /// Why not.
        why: &'static str,
    },
    /// Something that this monitor does not have.
    #[error("{monitor} has no {what}")]
    Lacks {
        /// The monitor.
        monitor: Monitor,
        /// What it lacks.
        what: &'static str,
    },
}

impl Machine {
    /// Checks what holds for every monitor, and the limits of this one.
    pub(crate) fn check(&self, monitor: Monitor) -> Result<(), MachineError> {
        let most = match monitor {
            Monitor::Firecracker => FIRECRACKER_CPUS_MAX,
            _ => CPUS_MAX,
        };
        let cpus = self.cpus;
        if !(1..=most).contains(&cpus) {
            return Err(MachineError::Cpus {
                cpus,
                monitor,
                most,
            });
        }
        let memory_mib = self.memory_mib;
        if !(MEMORY_MIN_MIB..=MEMORY_MAX_MIB).contains(&memory_mib) {
            return Err(MachineError::Memory { memory_mib });
        }
        let count = self.disks.len();
        if !(1..=DISKS_MAX).contains(&count) {
            return Err(MachineError::Disks { count });
        }
        if !monitor.is_qemu() && self.accelerator == Accelerator::Tcg {
            let what = "emulation; it needs KVM";
            return Err(MachineError::Lacks { monitor, what });
        }
        Ok(())
    }
}

impl Disk {
    /// Returns the path of a disk for a monitor that takes nothing else, and refuses what that
    /// one cannot do.
    pub(crate) fn path(&self, monitor: Monitor) -> Result<&Path, MachineError> {
        let lacks = |what| Err(MachineError::Lacks { monitor, what });
        match (&self.source, self.access) {
            (_, Access::Discarded) => lacks("disk whose writes are dropped"),
            (DiskSource::Descriptor(_), _) => lacks("disk that is handed over open"),
            (DiskSource::Path(path), _) => Ok(path),
        }
    }
}

/// Returns a path as text without `forbidden`.
pub(crate) fn text(
    path: &Path,
    monitor: Monitor,
    forbidden: &[char],
) -> Result<String, MachineError> {
    let refused = |why| {
        Err(MachineError::Path {
            path: path.to_owned(),
            monitor,
            why,
        })
    };
    match path.to_str() {
        None => refused("it is not UTF-8 text"),
        Some(text) if text.contains(forbidden) => {
            refused("it has a character that separates options")
        }
        Some(text) => Ok(text.to_owned()),
    }
}

/// The hardware address of a machine's only interface. It is seen by nobody but QEMU's own
/// network, or by a tap device that the user made for one machine.
pub(crate) const MAC: &str = "52:54:00:12:34:56";

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A machine with a root filesystem and everything else usual.
    pub(crate) fn machine() -> Machine {
        Machine {
            architecture: Architecture::Amd64,
            accelerator: Accelerator::Kvm,
            cpus: 2,
            memory_mib: 512,
            kernel: PathBuf::from("/i/kernel"),
            initrd: Some(PathBuf::from("/i/initrd.img")),
            kernel_arguments: "console=ttyS0 quiet".to_owned(),
            disks: vec![disk("/i/rootfs.ext4", Access::ReadWrite)],
            network: Network::None,
        }
    }

    pub(crate) fn disk(path: &str, access: Access) -> Disk {
        Disk {
            source: DiskSource::Path(PathBuf::from(path)),
            access,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{disk, machine};
    use super::*;

    #[test]
    fn limits_are_told_with_the_number_that_broke_them() {
        type Change = fn(&mut Machine);
        let cases: &[(Monitor, Change, Option<&str>)] = &[
            (Monitor::QemuMicrovm, |_| {}, None),
            (Monitor::Firecracker, |machine| machine.cpus = 32, None),
            (
                Monitor::Firecracker,
                |machine| machine.cpus = 33,
                Some("33 processors cannot be; firecracker takes 1 to 32"),
            ),
            (
                Monitor::QemuQ35,
                |machine| machine.cpus = 0,
                Some("0 processors cannot be; qemu-q35 takes 1 to 255"),
            ),
            (
                Monitor::QemuQ35,
                |machine| machine.memory_mib = 63,
                Some("63 MiB of memory cannot be; a machine has 64 to 1048576 MiB"),
            ),
            (
                Monitor::QemuQ35,
                |machine| machine.memory_mib = (1 << 20) + 1,
                Some("1048577 MiB of memory cannot be; a machine has 64 to 1048576 MiB"),
            ),
            (
                Monitor::QemuQ35,
                |machine| machine.disks.clear(),
                Some("0 disks cannot be; a machine has 1 to 7, the root filesystem among them"),
            ),
            (
                Monitor::QemuQ35,
                |machine| machine.disks = vec![disk("/x", Access::ReadOnly); 8],
                Some("8 disks cannot be; a machine has 1 to 7, the root filesystem among them"),
            ),
            (
                Monitor::CloudHypervisor,
                |machine| machine.accelerator = Accelerator::Tcg,
                Some("cloud-hypervisor has no emulation; it needs KVM"),
            ),
        ];
        for (monitor, change, want) in cases {
            let mut machine = machine();
            change(&mut machine);
            let got = machine.check(*monitor).err().map(|error| error.to_string());
            assert_eq!(got.as_deref(), *want);
        }
    }
}
