//! Which kernel files a monitor can start.
//!
//! Sources: `docs/system/i386/microvm.rst` and `hw/i386/x86-common.c` of QEMU,
//! `docs/getting-started.md` and `docs/kernel-policy.md` of Firecracker, the README of Cloud
//! Hypervisor. Drivers are not here.

use super::{Monitor, Reason, blocks, note};
use crate::facts::{Architecture, KernelFacts, KernelFormat};

/// Returns what speaks against starting the file, or is good to know.
pub(super) fn reasons(facts: &KernelFacts, monitor: Monitor) -> Vec<Reason> {
    let reason = match facts.architecture {
        Architecture::X86_64 => x86(facts, monitor),
        Architecture::Aarch64 => arm64(facts, monitor),
    };
    reason.into_iter().collect()
}

fn x86(facts: &KernelFacts, monitor: Monitor) -> Option<Reason> {
    match (monitor, facts.format) {
        (_, KernelFormat::Arm64Image) => Some(blocks("an arm64 Image is not for x86-64")),
        (Monitor::QemuMicrovm | Monitor::QemuQ35, KernelFormat::Elf) if !facts.has_pvh_note => {
            Some(blocks(
                "QEMU starts an ELF file by its PVH note, which this one lacks (PVH)",
            ))
        }
        (Monitor::CloudHypervisor, _) if !facts.has_pvh_note => Some(blocks(
            "Cloud Hypervisor starts an ELF file by its PVH note, which this one lacks (PVH)",
        )),
        (Monitor::Firecracker, KernelFormat::BzImage) => Some(note(
            "every Firecracker takes the ELF file inside; only the newest take a bzImage",
        )),
        (Monitor::CloudHypervisor, KernelFormat::BzImage) => Some(note(
            "Cloud Hypervisor is given the ELF file inside, which has the PVH note",
        )),
        (Monitor::QemuMicrovm | Monitor::QemuQ35, KernelFormat::BzImage)
        | (_, KernelFormat::Elf) => None,
    }
}

fn arm64(facts: &KernelFacts, monitor: Monitor) -> Option<Reason> {
    match (monitor, facts.format) {
        (Monitor::QemuMicrovm | Monitor::QemuQ35, _) => Some(blocks(format!(
            "{monitor} is an x86-64 machine, and this kernel is for aarch64"
        ))),
        (_, KernelFormat::Elf | KernelFormat::BzImage) => Some(blocks(format!(
            "on aarch64 {monitor} starts an Image, and this is of the format {}",
            facts.format
        ))),
        (_, KernelFormat::Arm64Image) => facts.compression.map(|compression| {
            blocks(format!(
                "{monitor} starts an Image as it is, and this one is compressed with {compression}"
            ))
        }),
    }
}
