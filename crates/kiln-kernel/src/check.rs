//! Says which virtual machine monitors boot a kernel as far as its root file system, and why.
//!
//! ```text
//! format and entry point ─▶ can the monitor start it?
//! transport of virtio    ─▶ does it see devices?        QEMU microvm, Firecracker: virtio-mmio
//! virtio-blk, ext4       ─▶ does it reach the root?     QEMU q35, Cloud Hypervisor: virtio-pci
//! initrd                 ─▶ can what is a module come?
//! ```
//!
//! A verdict is worked out from what is known and starts nothing: an answer of `Yes` is no boot.
//! Where neither configuration nor modules tell, the verdict says so. Reading those is not here.

mod format;

use std::fmt;

use crate::config::{Feature, KernelConfig};
use crate::facts::{Architecture, KernelFacts};
use crate::module_tree::{ModuleNames, Presence};

/// A virtual machine monitor, with the machine it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// QEMU with `-M microvm`.
    QemuMicrovm,
    /// QEMU with `-M q35`.
    QemuQ35,
    /// Firecracker.
    Firecracker,
    /// Cloud Hypervisor.
    CloudHypervisor,
}

/// A kernel with everything that is known about it.
#[derive(Clone, Copy, Debug)]
pub struct KnownKernel<'a> {
    /// What its file is.
    pub facts: &'a KernelFacts,
    /// How it was configured, when that is known.
    pub config: Option<&'a KernelConfig>,
    /// Its modules, when it came with some.
    pub modules: Option<&'a ModuleNames>,
}

/// Whether a monitor boots a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boots {
    /// It does, without an initrd, too.
    Yes,
    /// It does with an initrd that has the modules of the verdict.
    WithInitrd,
    /// It does not.
    No,
    /// Nothing speaks against it, and something that decides is not known.
    Unknown,
}

/// Whether a monitor boots a kernel, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which monitor.
    pub monitor: Monitor,
    /// Whether it boots the kernel.
    pub boots: Boots,
    /// Why, and what else to know; what decides comes first.
    pub reasons: Vec<Reason>,
    /// Modules that the initrd must have, without those they need.
    pub modules: Vec<&'static str>,
}

/// One thing to know about a kernel and a monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What follows from it.
    pub weight: Weight,
    /// What it is: a sentence without a full stop.
    pub text: String,
}

/// What follows from a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The kernel does not boot.
    Blocks,
    /// Whether it boots cannot be told.
    Unknown,
    /// It boots with an initrd only.
    NeedsModule,
    /// It boots; this is good to know.
    Note,
}

/// A driver between a kernel and its root file system.
struct Driver {
    what: &'static str,
    module: &'static str,
    option: &'static str,
}

const VIRTIO_MMIO: Driver = Driver {
    what: "virtio-mmio, by which this monitor has its devices",
    module: "virtio_mmio",
    option: "VIRTIO_MMIO",
};
const VIRTIO_PCI: Driver = Driver {
    what: "virtio-pci, by which this monitor has its devices",
    module: "virtio_pci",
    option: "VIRTIO_PCI",
};
const VIRTIO_BLK: Driver = Driver {
    what: "virtio-blk, the driver of the root disk",
    module: "virtio_blk",
    option: "VIRTIO_BLK",
};
const EXT4: Driver = Driver {
    what: "ext4, the root file system",
    module: "ext4",
    option: "EXT4_FS",
};

/// Where a kernel has a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    BuiltIn,
    Module,
    /// It was built as a module, which is not among the modules.
    LostModule,
    Nowhere,
    Unknown,
}

impl Monitor {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [
        Self::QemuMicrovm,
        Self::QemuQ35,
        Self::Firecracker,
        Self::CloudHypervisor,
    ];

    fn transport(self) -> Driver {
        match self {
            Self::QemuMicrovm | Self::Firecracker => VIRTIO_MMIO,
            Self::QemuQ35 | Self::CloudHypervisor => VIRTIO_PCI,
        }
    }
}

impl Monitor {
    /// Returns its name for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QemuMicrovm => "qemu-microvm",
            Self::QemuQ35 => "qemu-q35",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }
}

impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QemuMicrovm => "QEMU microvm",
            Self::QemuQ35 => "QEMU q35",
            Self::Firecracker => "Firecracker",
            Self::CloudHypervisor => "Cloud Hypervisor",
        })
    }
}

/// Says whether a monitor boots a kernel.
pub fn check(kernel: KnownKernel<'_>, monitor: Monitor) -> Verdict {
    let mut reasons = format::reasons(kernel.facts, monitor);
    let mut modules = Vec::new();
    if !reasons.iter().any(|reason| reason.weight == Weight::Blocks) {
        let transport = monitor.transport();
        for driver in [&transport, &VIRTIO_BLK, &EXT4] {
            let place = kernel.place(driver);
            if place == Place::Module {
                modules.push(driver.module);
            }
            reasons.extend(driver_reason(driver, place));
        }
        reasons.extend(announcement(kernel, monitor));
        reasons.extend(initrd(kernel, &modules));
        reasons.extend(serial_console(kernel, monitor));
    }
    // Stable: within one weight they stay in the order of a boot.
    reasons.sort_by_key(|reason| reason.weight);
    let boots = match reasons.first().map(|reason| reason.weight) {
        Some(Weight::Blocks) => Boots::No,
        Some(Weight::Unknown) => Boots::Unknown,
        Some(Weight::NeedsModule) => Boots::WithInitrd,
        Some(Weight::Note) | None => Boots::Yes,
    };
    if boots == Boots::No {
        modules.clear();
    }
    Verdict {
        monitor,
        boots,
        reasons,
        modules,
    }
}

impl KnownKernel<'_> {
    fn place(&self, driver: &Driver) -> Place {
        let configured = self.config.map(|config| config.feature(driver.option));
        let present = self.modules.map(|names| names.presence(driver.module));
        match (configured, present) {
            (Some(Feature::BuiltIn), _) | (_, Some(Presence::BuiltIn)) => Place::BuiltIn,
            (_, Some(Presence::File(_))) | (Some(Feature::Module), None) => Place::Module,
            (Some(Feature::Module), Some(Presence::Absent)) => Place::LostModule,
            (Some(Feature::Off), _) | (None, Some(Presence::Absent)) => Place::Nowhere,
            (None, None) => Place::Unknown,
        }
    }

    fn is_built_in(&self, option: &str) -> Option<bool> {
        let feature = self.config?.feature(option);
        Some(feature == Feature::BuiltIn)
    }
}

fn driver_reason(driver: &Driver, place: Place) -> Option<Reason> {
    let Driver {
        what,
        module,
        option,
    } = driver;
    Some(match place {
        Place::BuiltIn => return None,
        Place::Module => needs_module(format!("{what}, is the module {module}")),
        Place::LostModule => blocks(format!(
            "{what}, is the module {module}, which is not among its modules"
        )),
        Place::Nowhere => blocks(format!("it lacks {what} ({option})")),
        Place::Unknown => unknown(format!(
            "no configuration tells whether it has {what} ({option})"
        )),
    })
}

/// How the kernel hears of memory-mapped devices: by ACPI, or by `virtio_mmio.device=` on its
/// command line. On arm64 the device tree tells.
fn announcement(kernel: KnownKernel<'_>, monitor: Monitor) -> Option<Reason> {
    let is_arm = kernel.facts.architecture == Architecture::Aarch64;
    let place = kernel.place(&VIRTIO_MMIO);
    let is_there = matches!(place, Place::BuiltIn | Place::Module);
    if monitor.transport().module != VIRTIO_MMIO.module || is_arm || !is_there {
        return None;
    }
    let by_acpi = kernel.is_built_in("ACPI");
    let by_command_line = kernel.is_built_in("VIRTIO_MMIO_CMDLINE_DEVICES");
    match (by_acpi, by_command_line) {
        (Some(true), Some(false)) if monitor == Monitor::Firecracker => Some(note(
            "it finds its devices by ACPI only, which Firecracker has from 1.8 on",
        )),
        // The kernel gives its command line to what is built in; modprobe to modules, too.
        (Some(false), Some(true)) if place == Place::Module => Some(unknown(
            "it finds its devices by its command line only, which the init of the initrd must pass \
             on to the module virtio_mmio (ACPI)",
        )),
        (Some(true), _) | (Some(false), Some(true)) => None,
        (Some(false), _) => Some(blocks(
            "nothing tells it of memory-mapped devices (ACPI, VIRTIO_MMIO_CMDLINE_DEVICES)",
        )),
        (None, _) => Some(unknown(
            "no configuration tells how it finds its devices (ACPI, VIRTIO_MMIO_CMDLINE_DEVICES)",
        )),
    }
}

fn initrd(kernel: KnownKernel<'_>, modules: &[&str]) -> Option<Reason> {
    if modules.is_empty() {
        return None;
    }
    match (kernel.is_built_in("BLK_DEV_INITRD"), kernel.modules) {
        (Some(false), _) => Some(blocks(
            "what is a module cannot be loaded: it takes no initrd (BLK_DEV_INITRD)",
        )),
        (None, _) => Some(unknown(
            "no configuration tells whether it takes an initrd (BLK_DEV_INITRD)",
        )),
        (Some(true), None) => Some(note(
            "it came without modules: the initrd must be one that has them",
        )),
        (Some(true), Some(_)) => None,
    }
}

/// Without a console the guest runs, and nobody sees it.
fn serial_console(kernel: KnownKernel<'_>, monitor: Monitor) -> Option<Reason> {
    let option = match (kernel.facts.architecture, monitor) {
        (Architecture::Aarch64, Monitor::CloudHypervisor) => "SERIAL_AMBA_PL011_CONSOLE",
        _ => "SERIAL_8250_CONSOLE",
    };
    match kernel.is_built_in(option) {
        Some(true) => None,
        Some(false) => Some(note(format!(
            "it prints nothing on the serial console ({option})"
        ))),
        None => Some(note(format!(
            "no configuration tells whether it prints on the serial console ({option})"
        ))),
    }
}

fn blocks(text: impl Into<String>) -> Reason {
    reason(Weight::Blocks, text)
}

fn unknown(text: impl Into<String>) -> Reason {
    reason(Weight::Unknown, text)
}

fn needs_module(text: impl Into<String>) -> Reason {
    reason(Weight::NeedsModule, text)
}

fn note(text: impl Into<String>) -> Reason {
    reason(Weight::Note, text)
}

fn reason(weight: Weight, text: impl Into<String>) -> Reason {
    let text = text.into();
    Reason { weight, text }
}

#[cfg(test)]
mod tests;
