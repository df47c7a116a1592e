//! What a guest's kernel is told on its command line.

use crate::machine::Access;
use crate::monitor::{Accelerator, Architecture, Monitor};

/// How much of the kernel's own talk goes to the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// Warnings and errors, as a person who boots an image by hand wants it.
    Quiet,
    /// Nothing but a panic: the console belongs to the program. Even `reboot: Power down`, which
    /// the kernel says at the level of an emergency, is left out.
    Silent,
}

/// What the kernel's command line depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelWords {
    /// Who boots it.
    pub monitor: Monitor,
    /// What executes it.
    pub accelerator: Accelerator,
    /// Its processor.
    pub architecture: Architecture,
    /// Whether the root filesystem can be written.
    pub root: Access,
    /// How much it says.
    pub console: Console,
}

/// Returns the command line for a kernel under a certain monitor.
pub fn kernel_arguments(words: KernelWords) -> String {
    let mut line = vec![match (words.architecture, words.monitor) {
        // Firecracker has the serial port of a PC on both.
        (Architecture::Amd64, _) | (Architecture::Arm64, Monitor::Firecracker) => "console=ttyS0",
        (Architecture::Arm64, _) => "console=ttyAMA0",
    }];
    line.push("quiet");
    if words.console == Console::Silent {
        line.push("loglevel=0");
    }
    if words.monitor == Monitor::Firecracker {
        // Its getting-started guide: a reset by the keyboard controller ends it, and it has no
        // PCI unless asked for. It writes `root=/dev/vda` and ro or rw itself. It cannot be switched
        // off, so our init is told to reset it.
        line.extend(["reboot=k", "panic=1", "pci=off", "kiln.end=reboot"]);
    } else {
        line.extend(["panic=-1", "reboot=t", "root=/dev/vda", mount(words.root)]);
    }
    let is_emulated_microvm =
        words.monitor == Monitor::QemuMicrovm && words.accelerator == Accelerator::Tcg;
    if is_emulated_microvm && words.architecture == Architecture::Amd64 {
        // Without it the kernel calibrates its clock against timers that this machine lacks, and
        // one boot in four hung.
        line.push("tsc_early_khz=2000000");
    }
    line.join(" ")
}

/// Returns the command line that does no harm under any monitor: what an image's record shows to
/// those who bring their own.
pub fn generic_kernel_arguments(architecture: Architecture) -> String {
    kernel_arguments(KernelWords {
        monitor: Monitor::QemuQ35,
        accelerator: Accelerator::Kvm,
        architecture,
        root: Access::ReadWrite,
        console: Console::Quiet,
    })
}

fn mount(root: Access) -> &'static str {
    match root {
        Access::ReadOnly => "ro",
        Access::ReadWrite | Access::Discarded => "rw",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_monitor_has_its_line() {
        use Accelerator::{Kvm, Tcg};
        use Architecture::{Amd64, Arm64};
        let cases = [
            (
                (Monitor::QemuMicrovm, Tcg, Amd64, Access::ReadWrite),
                "console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rw tsc_early_khz=2000000",
            ),
            (
                (Monitor::QemuMicrovm, Kvm, Amd64, Access::Discarded),
                "console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rw",
            ),
            (
                (Monitor::QemuQ35, Tcg, Amd64, Access::ReadOnly),
                "console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda ro",
            ),
            (
                (Monitor::QemuMicrovm, Tcg, Arm64, Access::ReadWrite),
                "console=ttyAMA0 quiet panic=-1 reboot=t root=/dev/vda rw",
            ),
            (
                (Monitor::Firecracker, Kvm, Amd64, Access::ReadWrite),
                "console=ttyS0 quiet reboot=k panic=1 pci=off kiln.end=reboot",
            ),
            (
                (Monitor::Firecracker, Kvm, Arm64, Access::ReadWrite),
                "console=ttyS0 quiet reboot=k panic=1 pci=off kiln.end=reboot",
            ),
            (
                (Monitor::CloudHypervisor, Kvm, Amd64, Access::ReadWrite),
                "console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rw",
            ),
        ];
        for ((monitor, accelerator, architecture, root), want) in cases {
            let words = KernelWords {
                monitor,
                accelerator,
                architecture,
                root,
                console: Console::Quiet,
            };
            assert_eq!(kernel_arguments(words), want, "{words:?}");
            let console = Console::Silent;
            let silent = kernel_arguments(KernelWords { console, ..words });
            assert_eq!(silent, want.replace("quiet", "quiet loglevel=0"));
        }
    }

    #[test]
    fn the_generic_line_is_the_usual_one() {
        assert_eq!(
            generic_kernel_arguments(Architecture::Amd64),
            "console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rw"
        );
        assert_eq!(
            generic_kernel_arguments(Architecture::Arm64),
            "console=ttyAMA0 quiet panic=-1 reboot=t root=/dev/vda rw"
        );
    }
}
