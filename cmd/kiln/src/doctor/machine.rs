//! The host as a home of virtual machines: monitors on PATH, and KVM.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use kiln_vmm::{Accelerator, Architecture, Installed, KVM, Probe, ProbeError, Verdicts};

use super::{Finding, Level};
use crate::surroundings::Surroundings;

/// Checks the host.
pub(super) async fn check(surroundings: &Surroundings) -> Vec<Finding> {
    let installed = match Architecture::HOST {
        Some(host) => Installed::look(surroundings.path.as_deref(), host),
        None => Installed::default(),
    };
    vec![
        monitors(&installed),
        kvm(
            installed.qemu().map(Path::to_owned),
            Verdicts::kept_in(surroundings.homes.probes()),
        )
        .await,
    ]
}

fn monitors(installed: &Installed) -> Finding {
    const CHECK: &str = "monitors";
    let mut paths: Vec<String> = installed
        .found()
        .iter()
        .map(|(_, path)| path.display().to_string())
        .collect();
    // Two monitors are one program.
    paths.dedup();
    if paths.is_empty() {
        let message = "none of QEMU, firecracker, cloud-hypervisor is on PATH";
        return Finding::new(CHECK, Level::Warn, message)
            .with_command("sudo apt install qemu-system-x86");
    }
    Finding::new(CHECK, Level::Ok, paths.join(", "))
}

/// Opening the device proves nothing: hosts exist whose device opens and whose guests die. So a
/// guest is run, whatever earlier runs have said; the next run goes by what is found now.
async fn kvm(qemu: Option<PathBuf>, verdicts: Verdicts) -> Finding {
    const CHECK: &str = "kvm";
    if let Err(error) = OpenOptions::new().read(true).write(true).open(KVM) {
        let finding = Finding::new(
            CHECK,
            Level::Warn,
            format!("cannot open {KVM}: {error}; guests run emulated, many times slower"),
        );
        return match error.kind() {
            io::ErrorKind::PermissionDenied => finding.with_command("sudo usermod -aG kvm $USER"),
            _ => finding,
        };
    }
    let Some(qemu) = qemu.filter(|_| cfg!(target_arch = "x86_64")) else {
        let message =
            format!("{KVM} opens; that a guest runs is not proven without qemu-system-x86_64");
        return Finding::new(CHECK, Level::Warn, message);
    };
    let program = qemu.clone();
    let Err(kvm) = run_guest(move || verdicts.try_kvm(&program)).await else {
        return Finding::new(CHECK, Level::Ok, "a guest ran and printed its word");
    };
    let emulated = move || {
        let probe = Probe {
            qemu: &qemu,
            accelerator: Accelerator::Tcg,
            leash: &[],
        };
        probe.run()
    };
    match run_guest(emulated).await {
        Ok(()) => Finding::new(
            CHECK,
            Level::Warn,
            format!(
                "{KVM} opens but runs no guest: {kvm}; emulation works (-accel tcg), many times slower"
            ),
        ),
        Err(emulation) => Finding::new(
            CHECK,
            Level::Warn,
            format!("{KVM} opens but runs no guest: {kvm}; neither does emulation: {emulation}"),
        ),
    }
}

/// Runs the smallest guest off the thread that answers Ctrl-C.
async fn run_guest(
    run: impl FnOnce() -> Result<(), ProbeError> + Send + 'static,
) -> Result<(), ProbeError> {
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => result,
        Err(error) => Err(ProbeError::Prepare {
            step: "run the guest",
            source: io::Error::other(error),
        }),
    }
}
