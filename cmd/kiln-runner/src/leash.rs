//! A program that does not outlive who started it, however that ends: the monitor of a runner.
//!
//! ```text
//! kiln-runner ─fork, exec─▶ kiln-runner --on-leash PID PROGRAM … ─exec─▶ PROGRAM …
//!                           asks the kernel for a SIGKILL at the end of its parent
//! ```
//! `kiln demo` has its daemon and its machine tied to itself in the same way. The kernel keeps that wish across exec. It is asked for in a process of its own, since nothing
//! may run between fork and exec without unsafe code.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal};

/// The word that starts this program like that.
pub(crate) const FLAG: &str = "--on-leash";

/// Returns this program and the words after which another runs on a leash of the calling thread.
pub(crate) fn prefix() -> io::Result<[OsString; 3]> {
    let own = std::env::current_exe()?.into_os_string();
    let process = std::process::id().to_string();
    Ok([own, FLAG.into(), process.into()])
}

/// Becomes `program`, unless the process `parent` is gone already.
pub(crate) fn run(parent: &OsStr, program: &OsStr, arguments: &[&OsStr]) -> ExitCode {
    let tied = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if let Err(errno) = tied {
        return complain(&format!("cannot tie the program to who starts it: {errno}"));
    }
    // It may have ended before the wish was made.
    let living = rustix::process::getppid().map(Pid::as_raw_nonzero);
    let meant = parent.to_str().and_then(|text| text.parse().ok());
    if meant.is_none() || living != meant {
        return complain("who started this is gone");
    }
    let error = Command::new(program).args(arguments).exec();
    complain(&format!(
        "cannot start {}: {error}",
        program.to_string_lossy()
    ))
}

fn complain(text: &str) -> ExitCode {
    drop(writeln!(io::stderr(), "{text}"));
    ExitCode::FAILURE
}
