//! Boots a root filesystem and a kernel under QEMU and reads the serial console.
//!
//! The machine is `microvm` with one virtio disk, which is never written (`snapshot=on`), and no
//! network. It is emulated, which is slow, and needs no rights and no `/dev/kvm`.

use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process;
use crate::tools;

/// Kernel arguments of every boot. Under software emulation `tsc_early_khz` saves the kernel a
/// calibration that can hang there.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rw tsc_early_khz=2000000";

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
}

/// How a boot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest turned the machine off.
    PoweredOff,
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

impl Machine {
    /// Boots the machine and waits for its end, or for `limit`.
    ///
    /// `watch` is called with each piece of console output as it arrives. Fails when QEMU cannot
    /// be started or ends with an error of its own; a guest that never gets anywhere is
    /// [`Ending::TimedOut`].
    pub fn boot(&self, limit: Duration, watch: &mut dyn FnMut(&[u8])) -> Result<Boot> {
        let mut command = process::command(tools::require(tools::QEMU)?);
        let errors = tempfile::NamedTempFile::new().context("cannot make a file for output")?;
        command.args(self.words());
        command.stdout(Stdio::piped()).stderr(errors.reopen()?);

        let start = Instant::now();
        let mut running = process::start(command, "qemu-system-x86_64")?;
        let stdout = running.take_stdout().context("QEMU has no output")?;
        let (console, ending) = follow(&pieces(stdout), start + limit, watch);
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
        add(&["-accel", "tcg", "-cpu", "max"]);
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
        };

        let arguments = machine.words();

        let drive = "if=none,id=root,file=/a,,b,format=raw,snapshot=on";
        assert!(arguments.iter().any(|word| word == drive), "{arguments:?}");
        assert!(!arguments.iter().any(|word| word == "-initrd"));
    }
}
