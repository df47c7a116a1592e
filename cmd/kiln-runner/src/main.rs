//! `kiln-runner`: runs one image in a virtual machine, as the user who asks for it.
//!
//! ```text
//! kiln run ─▶ order ─▶ image.get ─▶ instance.register ─▶ disk, initrd ─▶ monitor ─▶ instance.start
//!                                                                            │
//!   exit code ◀─ instance.finish ◀─ report line ◀─ console.log ◀─ terminal ◀─┘
//! ```
//! `kiln run` replaces itself by this program, so terminal, signals and exit code are its own. The
//! daemon starts no machine and needs no right to: it is told, and watches this process. Nothing
//! here is meant to be started by hand.

mod console;
mod console_log;
mod control;
mod error;
mod guest;
mod image;
mod keys;
mod leash;
mod machine;
mod monitor;
mod monitor_log;
mod output;
mod place;
mod run;
mod session;
mod surroundings;
mod terminal;

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use kiln_vmm::RunOrder;

use crate::error::RunError;
use crate::run::Told;
use crate::surroundings::Surroundings;

/// Exit code where the guest's program never ran, as with container runtimes, or nobody heard how
/// it ended.
const EXIT_NEVER_RAN: u8 = 125;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&OsStr> = words.iter().map(OsString::as_os_str).collect();
    match &words[..] {
        [flag, descriptor] if *flag == "--order" => run(descriptor),
        [flag, parent, program, arguments @ ..] if *flag == leash::FLAG => {
            leash::run(parent, program, arguments)
        }
        [flag] if *flag == "--version" => {
            let version = env!("CARGO_PKG_VERSION");
            drop(writeln!(io::stdout(), "kiln-runner {version}"));
            ExitCode::SUCCESS
        }
        _ => {
            let text = "kiln-runner is started by `kiln run`; see `kiln run --help`";
            drop(writeln!(io::stderr(), "{text}"));
            ExitCode::from(2)
        }
    }
}

fn run(descriptor: &OsStr) -> ExitCode {
    let order = match read_order(descriptor) {
        Ok(order) => order,
        Err(error) => {
            Told::ByPerson.failed(&error.to_failure());
            return ExitCode::from(EXIT_NEVER_RAN);
        }
    };
    let told = if order.detach {
        // Whoever closes the terminal does not mean this process.
        if let Err(errno) = rustix::process::setsid() {
            drop(writeln!(io::stderr(), "kiln-runner: no session: {errno}"));
        }
        Told::ByProgram
    } else {
        Told::ByPerson
    };
    // One thread: the kernel ends the monitor when the thread that started it ends.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(source) => {
            let error = RunError::host("start", source);
            told.failed(&error.to_failure());
            return ExitCode::from(EXIT_NEVER_RAN);
        }
    };
    let code = runtime.block_on(run::run(order, &Surroundings::read(), told));
    // A thread that waits for a key must not hold the exit up.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Takes the order out of the memory that came under this descriptor, and empties it: the monitor
/// inherits the descriptor, and has no business with what is in it.
fn read_order(descriptor: &OsStr) -> Result<RunOrder, RunError> {
    let number: u32 = descriptor
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or(RunError::NoOrder)?;
    let path = format!("/proc/self/fd/{number}");
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let mut file = opened.map_err(|source| RunError::host("open the order", source))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .and_then(|_| file.set_len(0))
        .map_err(|source| RunError::host("read the order", source))?;
    serde_json::from_slice(&bytes).map_err(|_| RunError::NoOrder)
}
