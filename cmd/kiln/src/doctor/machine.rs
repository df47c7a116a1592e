//! The host as a home of virtual machines: monitors on PATH, and KVM.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::guest;
use super::{Finding, Level};
use crate::surroundings::Surroundings;

/// The monitors whose command lines Kiln's images are made for.
const MONITORS: &[&str] = &["qemu-system-x86_64", "firecracker", "cloud-hypervisor"];

/// How long the guest may take to print. It takes 0.1 s where it runs.
const PATIENCE: Duration = Duration::from_secs(8);

const KVM: &str = "/dev/kvm";

/// What makes the guest run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accelerator {
    Kvm,
    Emulation,
}

/// Why no guest ran.
#[derive(Debug, thiserror::Error)]
enum GuestError {
    #[error("cannot {step}: {source}")]
    Prepare {
        step: &'static str,
        source: io::Error,
    },
    /// The monitor's own words.
    #[error("{0}")]
    Ended(String),
    #[error("nothing came within {} s", PATIENCE.as_secs())]
    Silent,
}

/// Checks the host.
pub(super) async fn check(surroundings: &Surroundings) -> Vec<Finding> {
    let found: Vec<(&str, PathBuf)> = MONITORS
        .iter()
        .filter_map(|name| Some((*name, on_path(surroundings.path.as_deref(), name)?)))
        .collect();
    let qemu = found.iter().find(|(name, _)| name.starts_with("qemu"));
    let qemu = qemu.map(|(_, path)| path.as_path());
    vec![monitors(&found), kvm(qemu).await]
}

fn monitors(found: &[(&str, PathBuf)]) -> Finding {
    const CHECK: &str = "monitors";
    if found.is_empty() {
        let message = format!("none of {} is on PATH", MONITORS.join(", "));
        return Finding::new(CHECK, Level::Warn, message)
            .with_command("sudo apt install qemu-system-x86");
    }
    let paths: Vec<String> = found
        .iter()
        .map(|(_, path)| path.display().to_string())
        .collect();
    Finding::new(CHECK, Level::Ok, paths.join(", "))
}

/// Opening the device proves nothing: hosts exist whose device opens and whose guests die. So a
/// guest is run.
async fn kvm(qemu: Option<&Path>) -> Finding {
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
    let Err(kvm) = run_guest(qemu, Accelerator::Kvm).await else {
        return Finding::new(CHECK, Level::Ok, "a guest ran and printed its word");
    };
    match run_guest(qemu, Accelerator::Emulation).await {
        Ok(()) => Finding::new(
            CHECK,
            Level::Warn,
            format!("{KVM} opens but runs no guest: {kvm}; emulation works, many times slower"),
        )
        .with_command("qemu-system-x86_64 -accel tcg -cpu max …"),
        Err(emulation) => Finding::new(
            CHECK,
            Level::Warn,
            format!("{KVM} opens but runs no guest: {kvm}; neither does emulation: {emulation}"),
        ),
    }
}

/// Runs the guest until it has printed its word, or says why it did not.
async fn run_guest(qemu: &Path, accelerator: Accelerator) -> Result<(), GuestError> {
    let at = |step| move |source| GuestError::Prepare { step, source };
    let mut kernel = tempfile::NamedTempFile::new().map_err(at("make a file"))?;
    let written = kernel.write_all(&guest::kernel());
    written.map_err(at("write the guest"))?;
    let mut child = Command::new(qemu)
        .args(arguments(accelerator))
        .arg("-kernel")
        .arg(kernel.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(at("start QEMU"))?;
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(at("read from QEMU")(io::ErrorKind::BrokenPipe.into()));
    };
    let mut printed = Vec::new();
    let mut complaint = Vec::new();
    let finished = tokio::time::timeout(PATIENCE, async {
        tokio::join!(
            stdout.read_to_end(&mut printed),
            stderr.read_to_end(&mut complaint),
            child.wait(),
        )
    })
    .await;
    let has_printed = String::from_utf8_lossy(&printed).contains(guest::WORD);
    match finished {
        Ok(_) if has_printed => Ok(()),
        Ok(_) => Err(GuestError::Ended(first_line(&complaint))),
        Err(_) => Err(GuestError::Silent),
    }
}

fn arguments(accelerator: Accelerator) -> Vec<String> {
    let accelerator = match accelerator {
        Accelerator::Kvm => "-accel kvm -cpu host",
        Accelerator::Emulation => "-accel tcg -cpu max",
    };
    let port = guest::EXIT_PORT;
    format!(
        "-M microvm {accelerator} -m 64 -nodefaults -no-user-config -display none -serial stdio \
         -no-reboot -device isa-debug-exit,iobase={port:#x},iosize=1"
    )
    .split(' ')
    .map(str::to_owned)
    .collect()
}

fn first_line(complaint: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaint);
    let line = text.lines().find(|line| !line.trim().is_empty());
    let line = line.unwrap_or("it ended without a word");
    line.chars().take(200).collect()
}

/// Finds a program that may be run.
fn on_path(path: Option<&OsStr>, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path?)
        .map(|directory| directory.join(name))
        .find(|candidate| {
            let metadata = candidate.metadata();
            metadata.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A stand-in for QEMU.
    fn program(directory: &Path, script: &str) -> PathBuf {
        let path = directory.join("qemu-system-x86_64");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn only_the_guests_own_word_counts() {
        let directory = tempfile::tempdir().unwrap();
        let mut results = Vec::new();
        for script in [
            "echo KILN; exit 33",
            "echo no such cpu >&2; exit 1",
            "exit 0",
        ] {
            let qemu = program(directory.path(), script);
            let result = run_guest(&qemu, Accelerator::Kvm).await;
            results.push(result.map_err(|error| error.to_string()));
        }

        assert_eq!(
            results,
            [
                Ok(()),
                Err("no such cpu".to_owned()),
                Err("it ended without a word".to_owned()),
            ]
        );
    }

    #[test]
    fn programs_that_may_not_be_run_are_not_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = program(directory.path(), "");
        let found = || on_path(Some(directory.path().as_os_str()), "qemu-system-x86_64");

        assert_eq!(found(), Some(path.clone()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(found(), None);
        assert_eq!(on_path(None, "sh"), None);
    }
}
