//! Programs that do not outlive the demo, however that ends.
//!
//! The runner is what ties them: it asks the kernel for a SIGKILL at the end of its parent and
//! becomes the program (`kiln-runner/src/leash.rs`). The kernel means the thread that started it,
//! and the client has no other that does.

use std::ffi::OsStr;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

/// The word that makes the runner do that.
const FLAG: &str = "--on-leash";

/// Starts programs like that.
#[derive(Debug)]
pub(super) struct Leash {
    runner: PathBuf,
}

impl Leash {
    /// Takes the runner's path.
    pub(super) fn new(runner: PathBuf) -> Self {
        Self { runner }
    }

    /// Returns a command that runs `program`, in a process group of its own: signals of the
    /// terminal are for the demo, which decides what follows from them.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(&self.runner);
        command
            .arg(FLAG)
            .arg(std::process::id().to_string())
            .arg(program)
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// Asks a process to end.
pub(super) fn terminate(id: Option<u32>) {
    let id = id.and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = id.and_then(Pid::from_raw) {
        // One that has ended has nothing to be told.
        let _ = kill_process(pid, Signal::TERM);
    }
}
