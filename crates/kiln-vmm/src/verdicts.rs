//! Whether KVM runs guests here, remembered: to find out costs up to eight seconds.
//!
//! ```text
//! <directory>/kvm-<boot id>-<program's time and size>            any guest
//! <directory>/kvm-<boot id>-<program's time and size>-<kernel>   one kernel, by its digest
//!     works             for as long as host and program stay as they are
//!     refused: WHY      likewise
//!     failed: WHY       for ten minutes: the host was busy, or out of memory
//! ```
//! How it is found out is not here.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_files::{Directory, FileError, at};

use crate::monitor::Accelerator;
use crate::probe::{Probe, ProbeError};

/// The device of the kernel's virtual machine.
pub const KVM: &str = "/dev/kvm";

/// Most bytes of a kept answer that are read.
const ANSWER_BYTES: u64 = 1024;

/// How long a failure that may pass is believed.
const FAILURE_LASTS: Duration = Duration::from_secs(600);

const WORKS: &str = "works";
const REFUSED: &str = "refused: ";
const FAILED: &str = "failed: ";

/// A kernel that is to run.
#[derive(Clone, Copy, Debug)]
pub struct ProbedKernel<'a> {
    /// The file, open.
    pub file: &'a File,
    /// Its digest, by which the answer is remembered.
    pub sha256: &'a str,
}

/// Answers that are kept in a directory that belongs to the caller alone.
#[derive(Clone, Debug)]
pub struct Verdicts {
    /// Nothing where there is no place for them.
    directory: Option<PathBuf>,
}

impl Verdicts {
    /// Keeps answers in a directory; it is made when there is none. One that is a link, or
    /// somebody else's, is neither read nor written.
    pub fn kept_in(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    /// Tells whether KVM runs a kernel, or why not, from memory or by trying; `leash` as in
    /// [`Probe`].
    ///
    /// Where `qemu` is missing there is nothing to try with: a device that opens has to do.
    pub fn kvm(
        &self,
        qemu: Option<&Path>,
        leash: &[OsString],
        kernel: &ProbedKernel<'_>,
    ) -> Result<(), String> {
        if let Err(error) = OpenOptions::new().read(true).write(true).open(KVM) {
            return Err(format!("cannot open {KVM}: {error}"));
        }
        let Some(qemu) = qemu.filter(|_| cfg!(target_arch = "x86_64")) else {
            return Ok(());
        };
        let probe = probe(qemu, leash);
        let any = self.remembered(key(qemu, None), || probe.run());
        any.map_err(|why| format!("{KVM} opens but runs no guest: {why}"))?;
        let this = self.remembered(key(qemu, Some(kernel.sha256)), || {
            let offset = 0;
            let file = kernel.file;
            probe.run_kernel(&mut FromStart { file, offset })
        });
        this.map_err(|why| format!("{KVM} opens but does not start this kernel: {why}"))
    }

    /// Remembers that KVM gave up on a kernel in the middle of a run.
    pub fn gave_up(&self, qemu: &Path, kernel_sha256: &str, words: &str) {
        let verdict = Err(ProbeError::Ended {
            words: words.to_owned(),
            is_passing: false,
        });
        self.remember(key(qemu, Some(kernel_sha256)), &verdict);
    }

    /// Tries KVM with the small guest, whatever is remembered, and remembers the answer.
    pub fn try_kvm(&self, qemu: &Path) -> Result<(), ProbeError> {
        let verdict = probe(qemu, &[]).run();
        self.remember(key(qemu, None), &verdict);
        verdict
    }

    /// Asks `try_it` unless the answer is known.
    fn remembered(
        &self,
        name: Option<String>,
        try_it: impl FnOnce() -> Result<(), ProbeError>,
    ) -> Result<(), String> {
        if let Some(known) = self.recall(name.as_deref()) {
            return known;
        }
        let verdict = try_it();
        self.remember(name, &verdict);
        verdict.map_err(|error| error.to_string())
    }

    fn recall(&self, name: Option<&str>) -> Option<Result<(), String>> {
        let name = name?;
        let directory = self.open()?;
        let file = directory.open_file(name.as_ref()).ok()??;
        let age = age(&directory, &file);
        let mut answer = String::new();
        file.take(ANSWER_BYTES).read_to_string(&mut answer).ok()?;
        understood(&answer, age)
    }

    fn remember(&self, name: Option<String>, verdict: &Result<(), ProbeError>) {
        let (Some(name), Some(directory)) = (name, self.open()) else {
            return;
        };
        let answer = match verdict {
            Ok(()) => WORKS.to_owned(),
            Err(error) if error.is_passing() => format!("{FAILED}{error}"),
            Err(error) => format!("{REFUSED}{error}"),
        };
        // Nobody needs to hear about it: the next one finds out as this one did.
        drop(keep(&directory, &name, &answer));
    }

    fn open(&self) -> Option<Directory> {
        Directory::open_or_create_private(self.directory.as_deref()?).ok()
    }
}

fn probe<'a>(qemu: &'a Path, leash: &'a [OsString]) -> Probe<'a> {
    Probe {
        qemu,
        accelerator: Accelerator::Kvm,
        leash,
    }
}

/// Reads a file from its start, wherever others who share it have come to.
struct FromStart<'a> {
    file: &'a File,
    offset: u64,
}

impl io::Read for FromStart<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(into, self.offset)?;
        let read = u64::try_from(length).unwrap_or(u64::MAX);
        self.offset = self.offset.saturating_add(read);
        Ok(length)
    }
}

/// Reads a kept answer; nothing when it is not to be believed any more.
fn understood(answer: &str, age: Option<Duration>) -> Option<Result<(), String>> {
    if answer == WORKS {
        return Some(Ok(()));
    }
    if let Some(why) = answer.strip_prefix(REFUSED) {
        return Some(Err(why.to_owned()));
    }
    let why = answer.strip_prefix(FAILED)?;
    let is_young = age.is_some_and(|age| age < FAILURE_LASTS);
    is_young.then(|| Err(why.to_owned()))
}

/// Tells how old a file is by the clock of its file system; nothing when its time is to come.
fn age(directory: &Directory, file: &File) -> Option<Duration> {
    let modified = |file: &File| file.metadata().ok()?.modified().ok();
    let now = modified(&directory.create_unnamed().ok()?)?;
    now.duration_since(modified(file)?).ok()
}

/// Writes an answer in place of another. A reader sees all of one or none.
fn keep(directory: &Directory, name: &str, answer: &str) -> Result<(), FileError> {
    let unfinished = format!("{name}.{}", std::process::id());
    directory.remove(unfinished.as_ref())?;
    let mut file: File = directory.create_file(unfinished.as_ref())?;
    let written = file.write_all(answer.as_bytes());
    written.map_err(at("write", directory.child_path(&unfinished)))?;
    directory.remove(name.as_ref())?;
    // Where another was quicker its answer stays.
    directory
        .rename(&unfinished, name)
        .or_else(|_| directory.remove(unfinished.as_ref()))
}

/// Names what an answer depends on: this boot of the host, this build of the program, and the
/// kernel it is about, where it is about one.
fn key(qemu: &Path, kernel: Option<&str>) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let facts = fs::metadata(qemu).ok()?;
    let (seconds, nanoseconds) = (facts.mtime(), facts.mtime_nsec());
    let boot = boot.trim();
    let any = format!("kvm-{boot}-{seconds}.{nanoseconds}-{}", facts.len());
    let Some(kernel) = kernel else {
        return Some(any);
    };
    let hex = kernel.strip_prefix("sha256:").unwrap_or(kernel);
    let is_hex = !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| format!("{any}-{hex}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn refused(words: &str) -> Result<(), ProbeError> {
        let words = words.to_owned();
        Err(ProbeError::Ended {
            words,
            is_passing: false,
        })
    }

    /// Asks, with what an attempt would say; tells whether it was attempted, too.
    fn ask(
        verdicts: &Verdicts,
        qemu: &Path,
        verdict: Result<(), ProbeError>,
    ) -> (bool, Result<(), String>) {
        let mut was_asked = false;
        let answer = verdicts.remembered(key(qemu, None), || {
            was_asked = true;
            verdict
        });
        (was_asked, answer)
    }

    fn program(folder: &Path) -> PathBuf {
        let qemu = folder.join("qemu");
        fs::write(&qemu, "#!/bin/sh\n").unwrap();
        qemu
    }

    #[test]
    fn an_answer_is_kept_until_the_program_changes() {
        let folder = tempfile::tempdir().unwrap();
        let qemu = program(folder.path());
        let verdicts = Verdicts::kept_in(Some(folder.path().join("a/kept")));
        let no_cpu = || Err("no such cpu".to_owned());
        let ask = |verdict| ask(&verdicts, &qemu, verdict);

        assert_eq!(ask(refused("no such cpu")), (true, no_cpu()));
        assert_eq!(ask(Ok(())), (false, no_cpu()));
        fs::write(&qemu, "#!/bin/sh\n# another build\n").unwrap();
        assert_eq!(ask(Ok(())), (true, Ok(())));
        assert_eq!(ask(refused("no such cpu")), (false, Ok(())));
        let kept = fs::read_dir(folder.path().join("a/kept")).unwrap();
        assert_eq!(kept.count(), 2);
    }

    #[test]
    fn a_failure_that_may_pass_is_believed_for_ten_minutes() {
        let folder = tempfile::tempdir().unwrap();
        let qemu = program(folder.path());
        let directory = folder.path().join("kept");
        let verdicts = Verdicts::kept_in(Some(directory.clone()));
        let silent = || Err(ProbeError::Silent.to_string());
        let ask = |verdict| ask(&verdicts, &qemu, verdict);

        assert_eq!(ask(Err(ProbeError::Silent)), (true, silent()));
        assert_eq!(ask(Ok(())), (false, silent()));
        let file = File::options()
            .write(true)
            .open(directory.join(key(&qemu, None).unwrap()))
            .unwrap();
        let written = file.metadata().unwrap().modified().unwrap();
        file.set_modified(written - FAILURE_LASTS).unwrap();
        assert_eq!(ask(Ok(())), (true, Ok(())));
        assert_eq!(ask(Err(ProbeError::Silent)), (false, Ok(())));
    }

    #[test]
    fn what_was_tried_anew_replaces_what_was_known() {
        let folder = tempfile::tempdir().unwrap();
        let qemu = program(folder.path());
        let verdicts = Verdicts::kept_in(Some(folder.path().join("kept")));

        let name = || key(&qemu, None);
        verdicts.remember(name(), &refused("no such cpu"));
        verdicts.remember(name(), &Ok(()));

        assert_eq!(verdicts.recall(name().as_deref()), Some(Ok(())));
    }

    #[test]
    fn what_a_run_has_shown_counts_for_its_kernel_alone() {
        let folder = tempfile::tempdir().unwrap();
        let qemu = program(folder.path());
        let verdicts = Verdicts::kept_in(Some(folder.path().join("kept")));
        let recall = |kernel| verdicts.recall(key(&qemu, kernel).as_deref());

        verdicts.gave_up(&qemu, "sha256:a1", "an instruction it cannot emulate");

        let words = "an instruction it cannot emulate".to_owned();
        assert_eq!(recall(Some("sha256:a1")), Some(Err(words)));
        assert_eq!(recall(Some("sha256:a2")), None);
        assert_eq!(recall(None), None);
        assert_eq!(key(&qemu, Some("sha256:../x")), None);
    }

    #[test]
    fn a_link_is_not_followed_and_what_cannot_be_kept_is_an_answer() {
        let folder = tempfile::tempdir().unwrap();
        let qemu = program(folder.path());
        let theirs = folder.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join(key(&qemu, None).unwrap()), WORKS).unwrap();
        let before = fs::metadata(&theirs).unwrap().mode();
        let link = folder.path().join("link");
        symlink(&theirs, &link).unwrap();

        for directory in [Some(link), Some(qemu.join("kept")), None] {
            let verdicts = Verdicts::kept_in(directory);
            let answer = ask(&verdicts, &qemu, refused("no"));
            assert_eq!(answer, (true, Err("no".to_owned())));
        }
        assert_eq!(fs::metadata(&theirs).unwrap().mode(), before);
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 1);
    }
}
