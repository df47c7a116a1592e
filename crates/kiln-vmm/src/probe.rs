//! Whether a guest really runs here, found out by running one: of 1 KiB, or a kernel itself.
//!
//! Opening a device proves nothing: hosts exist whose device opens and whose guests hang. Nor does
//! the small guest prove that a kernel gets through: hosts exist that emulate what they cannot
//! execute, and give up in the middle of a start. What is done with the answer is not here.

mod guest;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::monitor::Accelerator;

/// How long the guest may take to print. The small one takes 0.1 s where it runs, a kernel less
/// than a second.
const PATIENCE: Duration = Duration::from_secs(8);

/// Pause between two looks at whether it has ended.
const PAUSE: Duration = Duration::from_millis(10);

/// The signal that ends a program whatever it does.
const SIGKILL: i32 = 9;

/// What a monitor says where another attempt may well succeed, in the words of the C locale.
const PASSING: [&str; 3] = [
    "Device or resource busy",
    "Cannot allocate memory",
    "Resource temporarily unavailable",
];

/// What a kernel prints that has started and finds no root filesystem (`panic` in the kernel's
/// kernel/panic.c).
const PANIC: &str = "Kernel panic";

/// Memory of the two guests, in MiB: a kernel of a distribution does not start in the small one's.
const SMALL_MIB: u32 = 64;
const KERNEL_MIB: u32 = 256;

/// A way to find out whether a guest runs.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// QEMU for x86-64.
    pub qemu: &'a Path,
    /// What is to execute the guest.
    pub accelerator: Accelerator,
    /// A program and its words that run `qemu`, so that it does not outlive the caller; may be
    /// none.
    pub leash: &'a [OsString],
}

/// Why no guest ran.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The attempt failed before there was a guest.
    #[error("cannot {step}")]
    Prepare {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The monitor ended.
    #[error("{words}")]
    Ended {
        /// Its own words.
        words: String,
        /// Another attempt may well succeed.
        is_passing: bool,
    },
    /// The guest hung.
    #[error("nothing came within {} s", PATIENCE.as_secs())]
    Silent,
}

impl ProbeError {
    /// Tells whether the next attempt may well succeed: the host was busy, or out of memory.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Prepare { .. } | Self::Silent => true,
            Self::Ended { is_passing, .. } => *is_passing,
        }
    }
}

impl Probe<'_> {
    /// Runs the small guest until it has printed its word, or says why it did not. It takes eight
    /// seconds at most.
    pub fn run(self) -> Result<(), ProbeError> {
        let port = guest::EXIT_PORT;
        let words = format!("-m {SMALL_MIB} -device isa-debug-exit,iobase={port:#x},iosize=1");
        let words: Vec<_> = words.split(' ').collect();
        self.run_guest(&mut io::Cursor::new(guest::kernel()), &words, guest::WORD)
    }

    /// Starts a kernel without a root filesystem until it says that it has none, or tells why it did
    /// not come so far. It takes eight seconds at most.
    pub fn run_kernel(self, kernel: &mut dyn io::Read) -> Result<(), ProbeError> {
        // The kernel resets the machine once it has said so, which ends QEMU.
        let arguments = "console=ttyS0 quiet panic=-1 reboot=t";
        let memory = KERNEL_MIB.to_string();
        self.run_guest(kernel, &["-m", &memory, "-append", arguments], PANIC)
    }

    fn run_guest(
        self,
        guest: &mut dyn io::Read,
        words: &[&str],
        said: &str,
    ) -> Result<(), ProbeError> {
        let at = |step| move |source| ProbeError::Prepare { step, source };
        let mut kernel = tempfile::NamedTempFile::new().map_err(at("make a file"))?;
        io::copy(guest, &mut kernel).map_err(at("write the guest"))?;
        let printed = tempfile::tempfile().map_err(at("make a file"))?;
        let complaint = tempfile::tempfile().map_err(at("make a file"))?;
        let copy = |file: &File| file.try_clone().map_err(at("copy a descriptor"));
        let mut child = self
            .command()
            .args(arguments(self.accelerator))
            .args(words)
            .arg("-kernel")
            .arg(kernel.path())
            .stdin(Stdio::null())
            .stdout(copy(&printed)?)
            .stderr(copy(&complaint)?)
            // Its complaint is read.
            .env("LC_ALL", "C")
            .spawn()
            .map_err(at("start QEMU"))?;
        let deadline = Instant::now() + PATIENCE;
        let ended = loop {
            if let Some(status) = child.try_wait().map_err(at("wait for QEMU"))? {
                break Some(status);
            }
            if Instant::now() >= deadline {
                // Where it has just ended there is nothing to kill.
                drop(child.kill());
                child.wait().map_err(at("wait for QEMU"))?;
                break None;
            }
            thread::sleep(PAUSE);
        };
        let has_printed = text(printed).contains(said);
        match ended {
            Some(_) if has_printed => Ok(()),
            Some(status) => Err(complained(&text(complaint), status)),
            None => Err(ProbeError::Silent),
        }
    }

    fn command(self) -> Command {
        match self.leash {
            [] => Command::new(self.qemu),
            [program, words @ ..] => {
                let mut command = Command::new(program);
                command.args(words).arg(self.qemu);
                command
            }
        }
    }
}

fn arguments(accelerator: Accelerator) -> Vec<String> {
    let accelerator = match accelerator {
        Accelerator::Kvm => "-accel kvm -cpu host",
        Accelerator::Tcg => "-accel tcg -cpu max",
    };
    format!(
        "-M microvm {accelerator} -nodefaults -no-user-config -display none -serial stdio -no-reboot"
    )
    .split(' ')
    .map(str::to_owned)
    .collect()
}

/// Reads what a child wrote, from the start.
fn text(mut file: File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read was not printed, as far as anybody can tell.
    let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    read.map_or_else(
        |_| String::new(),
        |_| String::from_utf8_lossy(&bytes).into_owned(),
    )
}

fn complained(complaint: &str, status: ExitStatus) -> ProbeError {
    // The kernel, most likely, when memory was short.
    let was_killed = status.signal() == Some(SIGKILL);
    ProbeError::Ended {
        words: first_line(complaint),
        is_passing: was_killed || PASSING.iter().any(|words| complaint.contains(words)),
    }
}

fn first_line(complaint: &str) -> String {
    let line = complaint.lines().find(|line| !line.trim().is_empty());
    let line = line.unwrap_or("it ended without a word");
    line.chars().take(200).collect()
}

/// Finds a program that may be run in the directories of a `PATH`.
pub(crate) fn on_path(path: Option<&OsStr>, name: &str) -> Option<PathBuf> {
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

    #[test]
    fn only_the_guests_own_word_counts() {
        let directory = tempfile::tempdir().unwrap();
        let mut results = Vec::new();
        for script in [
            "echo KILN; exit 33",
            "echo no such cpu >&2; exit 1",
            "exit 0",
            "echo could not start: Device or resource busy >&2; exit 1",
            "kill -9 $$",
            "kill -6 $$",
        ] {
            let qemu = &program(directory.path(), script);
            let probe = Probe {
                qemu,
                accelerator: Accelerator::Kvm,
                leash: &[],
            };
            let result = probe.run();
            results.push(result.map_err(|error| (error.to_string(), error.is_passing())));
        }

        let ended = |words: &str, is_passing| Err((words.to_owned(), is_passing));
        assert_eq!(
            results,
            [
                Ok(()),
                ended("no such cpu", false),
                ended("it ended without a word", false),
                ended("could not start: Device or resource busy", true),
                ended("it ended without a word", true),
                ended("it ended without a word", false),
            ]
        );
        // A program that was just written is not run by two threads: one of them may hold it open.
        let qemu = &program(directory.path(), "test \"$LEASH\" = held && echo KILN");
        let leash = ["env", "LEASH=held"].map(OsString::from);
        let accelerator = Accelerator::Kvm;
        let run = |leash| {
            let probe = Probe {
                qemu,
                accelerator,
                leash,
            };
            probe.run().is_ok()
        };
        assert!(run(&leash));
        assert!(!run(&[]));
    }

    #[test]
    fn a_kernel_is_started_as_it_is_and_has_to_come_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        // The guest is named last.
        let script = "for word; do kernel=$word; done; cat \"$kernel\"";
        let qemu = &program(directory.path(), script);
        let probe = Probe {
            qemu,
            accelerator: Accelerator::Kvm,
            leash: &[],
        };

        let ran = probe.run_kernel(&mut &b"[    0.4] Kernel panic - not syncing: VFS"[..]);
        let hung = probe.run_kernel(&mut &b"[    0.1] a bug"[..]);

        assert!(ran.is_ok(), "{ran:?}");
        assert!(matches!(hung, Err(ProbeError::Ended { .. })), "{hung:?}");
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
