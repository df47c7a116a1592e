//! Whether KVM really runs guests here, found out by running one.
//!
//! ```text
//! <directory>/kvm-<boot id>-<program's time and size>    `works`, or why not
//! ```
//! Opening the device proves nothing: hosts exist whose device opens and whose guests hang. An
//! answer costs up to eight seconds, so it is kept for as long as host and program stay as they are.

mod guest;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::monitor::Accelerator;

/// The device of the kernel's virtual machine.
pub const KVM: &str = "/dev/kvm";

/// How long the guest may take to print. It takes 0.1 s where it runs.
const PATIENCE: Duration = Duration::from_secs(8);

/// Pause between two looks at whether it has ended.
const PAUSE: Duration = Duration::from_millis(10);

/// Most bytes of a kept answer that are read.
const ANSWER_BYTES: u64 = 1024;

/// What an answer says where KVM works.
const WORKS: &str = "works";

/// A way to find out whether a guest runs.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// QEMU for x86-64.
    pub qemu: &'a Path,
    /// What is to execute the guest.
    pub accelerator: Accelerator,
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
    /// The monitor ended; these are its own words.
    #[error("{0}")]
    Ended(String),
    /// The guest hung.
    #[error("nothing came within {} s", PATIENCE.as_secs())]
    Silent,
}

/// Answers that are kept in a directory that belongs to the caller alone.
#[derive(Clone, Debug)]
pub struct Verdicts {
    directory: PathBuf,
}

impl Probe<'_> {
    /// Runs the guest until it has printed its word, or says why it did not. It takes eight
    /// seconds at most.
    pub fn run(self) -> Result<(), ProbeError> {
        let at = |step| move |source| ProbeError::Prepare { step, source };
        let mut kernel = tempfile::NamedTempFile::new().map_err(at("make a file"))?;
        let written = kernel.write_all(&guest::kernel());
        written.map_err(at("write the guest"))?;
        let printed = tempfile::tempfile().map_err(at("make a file"))?;
        let complaint = tempfile::tempfile().map_err(at("make a file"))?;
        let copy = |file: &File| file.try_clone().map_err(at("copy a descriptor"));
        let mut child = Command::new(self.qemu)
            .args(arguments(self.accelerator))
            .arg("-kernel")
            .arg(kernel.path())
            .stdin(Stdio::null())
            .stdout(copy(&printed)?)
            .stderr(copy(&complaint)?)
            .spawn()
            .map_err(at("start QEMU"))?;
        let deadline = Instant::now() + PATIENCE;
        let has_ended = loop {
            if child.try_wait().map_err(at("wait for QEMU"))?.is_some() {
                break true;
            }
            if Instant::now() >= deadline {
                // Where it has just ended there is nothing to kill.
                drop(child.kill());
                child.wait().map_err(at("wait for QEMU"))?;
                break false;
            }
            thread::sleep(PAUSE);
        };
        let has_printed = text(printed).contains(guest::WORD);
        match has_ended {
            true if has_printed => Ok(()),
            true => Err(ProbeError::Ended(first_line(&text(complaint)))),
            false => Err(ProbeError::Silent),
        }
    }
}

impl Verdicts {
    /// Keeps answers in a directory; it is made when the first is written.
    pub fn kept_in(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// Tells whether KVM runs guests, or why not, from memory or by trying.
    ///
    /// Where `qemu` is missing there is nothing to try with: a device that opens has to do.
    pub fn kvm(&self, qemu: Option<&Path>) -> Result<(), String> {
        if let Err(error) = OpenOptions::new().read(true).write(true).open(KVM) {
            return Err(format!("cannot open {KVM}: {error}"));
        }
        let Some(qemu) = qemu.filter(|_| cfg!(target_arch = "x86_64")) else {
            return Ok(());
        };
        self.remembered(qemu, || {
            let accelerator = Accelerator::Kvm;
            let tried = Probe { qemu, accelerator }.run();
            tried.map_err(|error| format!("{KVM} opens but runs no guest: {error}"))
        })
    }

    /// Asks `try_it` unless the answer is known; an answer that cannot be kept is found anew.
    fn remembered(
        &self,
        qemu: &Path,
        try_it: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), String> {
        let file = key(qemu).map(|key| self.directory.join(key));
        if let Some(known) = file.as_deref().and_then(read_own) {
            return if known == WORKS { Ok(()) } else { Err(known) };
        }
        let verdict = try_it();
        if let Some(file) = file {
            let answer = verdict.as_ref().err().map_or(WORKS, String::as_str);
            // Nobody needs to hear about it: the next one finds out as this one did.
            drop(self.keep(&file, answer));
        }
        verdict
    }

    fn keep(&self, file: &Path, answer: &str) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        // A reader sees all of an answer or none.
        let mut written = tempfile::NamedTempFile::new_in(&self.directory)?;
        written.write_all(answer.as_bytes())?;
        written.persist(file)?;
        Ok(())
    }
}

/// Names what an answer depends on: this boot of the host, and this build of the program.
fn key(qemu: &Path) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let facts = fs::metadata(qemu).ok()?;
    let (seconds, nanoseconds) = (facts.mtime(), facts.mtime_nsec());
    let boot = boot.trim();
    Some(format!(
        "kvm-{boot}-{seconds}.{nanoseconds}-{}",
        facts.len()
    ))
}

/// Reads an answer that the caller's own user wrote.
fn read_own(file: &Path) -> Option<String> {
    let opened = File::open(file).ok()?;
    let owner = opened.metadata().ok()?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        return None;
    }
    let mut answer = String::new();
    opened
        .take(ANSWER_BYTES)
        .read_to_string(&mut answer)
        .ok()
        .filter(|length| *length > 0)?;
    Some(answer)
}

fn arguments(accelerator: Accelerator) -> Vec<String> {
    let accelerator = match accelerator {
        Accelerator::Kvm => "-accel kvm -cpu host",
        Accelerator::Tcg => "-accel tcg -cpu max",
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
        ] {
            let qemu = &program(directory.path(), script);
            let accelerator = Accelerator::Kvm;
            let result = Probe { qemu, accelerator }.run();
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

    #[test]
    fn an_answer_is_kept_until_the_program_changes() {
        let directory = tempfile::tempdir().unwrap();
        let qemu = program(directory.path(), "");
        let verdicts = Verdicts::kept_in(directory.path().join("kept"));
        let ask = |verdict: Result<(), String>| {
            let mut asked = 0;
            let answer = verdicts.remembered(&qemu, || {
                asked += 1;
                verdict
            });
            (asked, answer)
        };

        assert_eq!(
            ask(Err("it hung".to_owned())),
            (1, Err("it hung".to_owned()))
        );
        assert_eq!(ask(Ok(())), (0, Err("it hung".to_owned())));
        fs::write(&qemu, "#!/bin/sh\n# another build\n").unwrap();
        assert_eq!(ask(Ok(())), (1, Ok(())));
        assert_eq!(ask(Err("it hung".to_owned())), (0, Ok(())));
    }

    #[test]
    fn an_answer_that_cannot_be_kept_is_an_answer() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let verdicts = Verdicts::kept_in(file.join("kept"));
        let qemu = program(directory.path(), "");

        assert_eq!(verdicts.remembered(&qemu, || Ok(())), Ok(()));
    }
}
