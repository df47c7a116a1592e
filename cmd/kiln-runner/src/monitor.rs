//! The monitor as a process: started on a leash, with its console in our hands.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use kiln_vmm::{Choice, Monitor};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::leash;
use crate::machine::Prepared;
use crate::monitor_log::MonitorLog;
use crate::place::{MONITOR_LOG, Place};
use crate::surroundings::Surroundings;

/// Longest time that a monitor may take to end once its console has ended.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Longest time that the last words of a monitor that has ended may take to come.
const WORDS_LIMIT: Duration = Duration::from_secs(1);

/// A monitor that runs. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Its last words, once it has closed its standard error.
    words: Option<JoinHandle<Vec<u8>>>,
}

/// The ends of a guest's console.
#[derive(Debug)]
pub(crate) struct ConsoleEnds {
    /// What the guest writes.
    pub(crate) from_guest: File,
    /// What the guest reads.
    pub(crate) to_guest: File,
}

/// Starts a monitor in the directory of the instance.
pub(crate) fn start(
    choice: &Choice,
    prepared: &Prepared,
    place: &Place,
    surroundings: &Surroundings,
) -> io::Result<(Running, ConsoleEnds)> {
    let (ends, stdin, stdout) = if choice.monitor == Monitor::CloudHypervisor {
        // It reads keys from a terminal only.
        terminal()?
    } else {
        pipes()?
    };
    let log = place
        .create_file(MONITOR_LOG)
        .map_err(|error| io::Error::other(error.to_string()))?;
    let [own, leash @ ..] = leash::prefix()?;
    let mut command = Command::new(own);
    command
        .args(leash)
        .arg(&choice.program)
        .args(&prepared.words)
        .current_dir(place.directory().path())
        // The environment of a user is nothing that a guest's monitor should have.
        .env_clear()
        // What QEMU keeps of a disk's changes goes here.
        .env("TMPDIR", place.directory().path())
        .envs(surroundings.path.iter().map(|path| ("PATH", path)))
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped())
        // Ctrl-C in a terminal means this process, not the monitor.
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let words = child.stderr.take().map(|stderr| {
        let log = MonitorLog::new(log);
        tokio::spawn(log.keep(stderr))
    });
    Ok((Running { child, words }, ends))
}

impl Running {
    /// Ends the machine at once.
    pub(crate) fn kill(&mut self) {
        // It fails where the monitor has ended.
        drop(self.child.start_kill());
    }

    /// Waits for the monitor's end, however long that takes.
    pub(crate) async fn over(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Waits for the end of a monitor whose console has ended, and kills it when that takes long.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        if let Ok(ended) = tokio::time::timeout(END_LIMIT, self.child.wait()).await {
            return ended;
        }
        self.kill();
        self.child.wait().await
    }

    /// Returns the last words of a monitor that has ended.
    pub(crate) async fn words(&mut self) -> String {
        let bytes = match self.words.take() {
            // A program that it started may hold the way open.
            Some(words) => tokio::time::timeout(WORDS_LIMIT, words).await,
            None => Ok(Ok(Vec::new())),
        };
        let bytes = bytes.map(Result::unwrap_or_default).unwrap_or_default();
        match String::from_utf8_lossy(&bytes).trim() {
            "" => "it said nothing".to_owned(),
            words => words.to_owned(),
        }
    }
}

fn pipes() -> io::Result<(ConsoleEnds, Stdio, Stdio)> {
    let (from_guest, stdout) = io::pipe()?;
    let (stdin, to_guest) = io::pipe()?;
    let ends = ConsoleEnds {
        from_guest: OwnedFd::from(from_guest).into(),
        to_guest: OwnedFd::from(to_guest).into(),
    };
    Ok((ends, stdin.into(), stdout.into()))
}

fn terminal() -> io::Result<(ConsoleEnds, Stdio, Stdio)> {
    let own = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&own)?;
    rustix::pty::unlockpt(&own)?;
    let name = rustix::pty::ptsname(&own, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(name, flags, Mode::empty())?;
    // Both directions pass bytes as they are; the guest has a terminal of its own.
    let mut modes = rustix::termios::tcgetattr(&theirs)?;
    modes.make_raw();
    rustix::termios::tcsetattr(&theirs, rustix::termios::OptionalActions::Now, &modes)?;
    let ends = ConsoleEnds {
        from_guest: File::from(own.try_clone()?),
        to_guest: File::from(own),
    };
    Ok((ends, theirs.try_clone()?.into(), theirs.into()))
}
