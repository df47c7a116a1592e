//! Boots a root filesystem and a kernel under QEMU and reads the serial console.
//!
//! The machine is `microvm` with one virtio disk, which is never written (`snapshot=on`), and no
//! network. Under software emulation it needs no rights and no `/dev/kvm`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::debs::CloudKernel;
use crate::fixtures::Fixtures;
use crate::initrd;
use crate::process;
use crate::tools;

/// Longest time the probe of an accelerator may take. Where KVM answers its API but cannot run
/// guests, they hang; a guest that runs is done within a second.
const PROBE_LIMIT: Duration = Duration::from_secs(8);

/// Kernel arguments of every boot. Under software emulation `tsc_early_khz` saves the kernel a
/// calibration that can hang there.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rw tsc_early_khz=2000000";

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The kernel's virtual machine.
    Kvm,
    /// Software emulation: slow, and everywhere.
    Tcg,
}

/// A machine to boot.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Kernel file: an ELF with a PVH note, or a bzImage.
    pub kernel: PathBuf,
    /// Initrd file, where the kernel needs one.
    pub initrd: Option<PathBuf>,
    /// Raw image of the root filesystem, where the guest has one.
    pub rootfs: Option<PathBuf>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// What executes it.
    pub accelerator: Accelerator,
}

/// How a boot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest turned the machine off.
    PoweredOff,
    /// The guest printed what was waited for, and the machine was stopped.
    MarkerSeen,
    /// Time was up, and the machine was killed.
    TimedOut,
}

/// What one boot showed.
#[derive(Clone, Debug)]
pub struct Boot {
    /// How it ended.
    pub ending: Ending,
    /// Everything the guest wrote to its serial console.
    pub console: String,
    /// Time from the start of QEMU to its end.
    pub elapsed: Duration,
}

/// What ends a boot early.
#[derive(Clone, Copy, Debug)]
pub enum Until<'a> {
    /// Nothing: the guest turns the machine off itself.
    PowerOff,
    /// This text on the console.
    Marker(&'a str),
}

impl Accelerator {
    /// Finds out by a real boot whether KVM can run guests here; the answer is kept until the
    /// host reboots.
    ///
    /// Opening `/dev/kvm`, even creating a machine through it, works on hosts whose guests hang.
    pub fn probe(fixtures: &Fixtures, kernel: &CloudKernel) -> Result<Self> {
        if !Path::new("/dev/kvm").exists() {
            return Ok(Self::Tcg);
        }
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("cannot tell one boot of this host from another")?;
        let initrd = initrd::for_probe(fixtures, kernel)?;
        let answer = fixtures.obtain("kvm", &format!("kvm 1 {boot_id}"), |folder| {
            let machine = Machine {
                kernel: kernel.kernel.clone(),
                initrd: Some(initrd.clone()),
                rootfs: None,
                memory_mib: 256,
                accelerator: Self::Kvm,
            };
            let marker = Until::Marker(initrd::PROBE_MARKER);
            let boot = machine.boot(marker, PROBE_LIMIT, &mut |_| ());
            // QEMU that cannot even start its machine has answered the question too.
            let works = boot.is_ok_and(|boot| boot.ending == Ending::MarkerSeen);
            fs::write(folder.join("answer"), if works { "kvm" } else { "tcg" })?;
            Ok(())
        })?;
        let answer = fs::read_to_string(answer.join("answer")).context("cannot read the probe")?;
        Ok(if answer == "kvm" {
            Self::Kvm
        } else {
            Self::Tcg
        })
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg", "-cpu", "max"],
        }
    }
}

impl Machine {
    /// Boots the machine and waits for its end, for a marker, or for `limit`.
    ///
    /// `watch` is called with each piece of console output as it arrives. Fails when QEMU cannot
    /// be started or ends with an error of its own; a guest that never gets anywhere is
    /// [`Ending::TimedOut`].
    pub fn boot(
        &self,
        until: Until<'_>,
        limit: Duration,
        watch: &mut dyn FnMut(&[u8]),
    ) -> Result<Boot> {
        let mut command = process::command(tools::require(tools::QEMU)?);
        let errors = tempfile::NamedTempFile::new().context("cannot make a file for output")?;
        command.args(self.words());
        command.stdout(Stdio::piped()).stderr(errors.reopen()?);

        let start = Instant::now();
        let mut running = process::start(command, "qemu-system-x86_64")?;
        let stdout = running.take_stdout().context("QEMU has no output")?;
        let (console, ending) = follow(&pieces(stdout), until, start + limit, watch);
        let status = if ending == Ending::PoweredOff {
            // Its output has ended, so it is about to.
            Some(running.wait(Duration::from_secs(10))?)
        } else {
            running.kill()?;
            None
        };
        if status.is_some_and(|status| !status.success()) {
            anyhow::bail!("QEMU failed:\n{}", process::log_tail(errors.path()));
        }
        Ok(Boot {
            ending,
            console: String::from_utf8_lossy(&console).into_owned(),
            elapsed: start.elapsed(),
        })
    }

    /// Returns the arguments QEMU is started with, for people who want to start it by hand.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let mut add = |these: &[&str]| words.extend(these.iter().map(|word| (*word).to_owned()));
        add(&["-M", "microvm"]);
        add(&self.accelerator.arguments());
        add(&["-m", &self.memory_mib.to_string()]);
        add(&["-nodefaults", "-no-user-config", "-no-reboot"]);
        add(&["-display", "none", "-serial", "stdio"]);
        add(&["-kernel", &self.kernel.display().to_string()]);
        if let Some(initrd) = &self.initrd {
            add(&["-initrd", &initrd.display().to_string()]);
        }
        if let Some(rootfs) = &self.rootfs {
            let file = rootfs.display().to_string().replace(',', ",,");
            let drive = format!("if=none,id=root,file={file},format=raw,snapshot=on");
            add(&["-drive", &drive, "-device", "virtio-blk-device,drive=root"]);
        }
        add(&["-append", KERNEL_ARGUMENTS]);
        words
    }
}

/// Sends what comes from a console, piece by piece, until it ends or nobody takes it.
pub fn pieces(mut stdout: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut buffer = [0_u8; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut buffer) {
            let piece = buffer.get(..length).unwrap_or_default().to_vec();
            if sender.send(piece).is_err() {
                break;
            }
        }
    });
    receiver
}

fn follow(
    pieces: &Receiver<Vec<u8>>,
    until: Until<'_>,
    deadline: Instant,
    watch: &mut dyn FnMut(&[u8]),
) -> (Vec<u8>, Ending) {
    let mut console = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match pieces.recv_timeout(left) {
            Ok(piece) => {
                watch(&piece);
                console.extend_from_slice(&piece);
            }
            Err(RecvTimeoutError::Timeout) => return (console, Ending::TimedOut),
            Err(RecvTimeoutError::Disconnected) => return (console, Ending::PoweredOff),
        }
        if let Until::Marker(marker) = until
            && String::from_utf8_lossy(&console).contains(marker)
        {
            return (console, Ending::MarkerSeen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_is_not_an_option_of_the_drive() {
        let machine = Machine {
            kernel: PathBuf::from("/k"),
            initrd: None,
            rootfs: Some(PathBuf::from("/a,b")),
            memory_mib: 512,
            accelerator: Accelerator::Tcg,
        };

        let arguments = machine.words();

        let drive = "if=none,id=root,file=/a,,b,format=raw,snapshot=on";
        assert!(arguments.iter().any(|word| word == drive), "{arguments:?}");
        assert!(!arguments.iter().any(|word| word == "-initrd"));
    }
}
