//! The registry as a process of this user's.
//!
//! It leads a session of its own, so neither the end of the client nor of its terminal ends it. The
//! note of it has its start time and the host's boot beside its number: a number that was given to
//! another process is nobody's.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kiln_api::{Failure, codes};
use kiln_domain::ProcessStart;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::place::{Place, Record, Started};
use super::ports;
use crate::failure::CommandError;
use crate::output;
use crate::surroundings::Surroundings;
use crate::text::cell;

/// How the distribution project's registry is called: by Debian, and by itself.
const NAMES: &[&str] = &["docker-registry", "registry"];

/// What its `--version` says, whatever it is called.
const VERSION_MARK: &str = "distribution";

/// How long it may take to say so.
const VERSION_LIMIT: Duration = Duration::from_secs(5);

/// Most bytes read of what it says.
const MAX_VERSION_BYTES: usize = 64 << 10;

/// How long it may take to listen, on a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How long it may take to end before it is killed: it finishes what it is answering.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Pause between two looks whether it listens.
const PAUSE: Duration = Duration::from_millis(20);

/// How long its answer to a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// How many lines of its log explain why it did not start.
const QUOTED_LINES: usize = 5;

/// A registry that was started.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Server {
    pub(super) program: PathBuf,
    pub(super) pid: u32,
    /// When it began, in ticks since the boot.
    started: u64,
    boot_id: String,
}

/// Finds the distribution project's registry on `PATH`.
pub(super) fn find_program(surroundings: &Surroundings) -> Option<PathBuf> {
    let path = surroundings.path.as_deref()?;
    let folders: Vec<PathBuf> = std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .collect();
    NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .filter(|program| program.is_file())
        .find(|program| {
            let is_it = is_distribution(program);
            if !is_it {
                output::note(&format!(
                    "{} is passed over: it does not say that it is the distribution project's registry\n",
                    cell(&program.display().to_string())
                ));
            }
            is_it
        })
}

/// Other things are called `registry` too, and may do anything when they are asked.
fn is_distribution(program: &Path) -> bool {
    let asked = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // What it starts ends with it.
        .process_group(0)
        .spawn();
    let Ok(mut child) = asked else {
        return false;
    };
    let said = child.stdout.take().map(|mut output| said(&mut output));
    // It has ended, or has had its time.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended already.
        let _ = kill_process_group(group, Signal::KILL);
    }
    drop(child.kill());
    drop(child.wait());
    said.is_some_and(|said| String::from_utf8_lossy(&said).contains(VERSION_MARK))
}

/// Reads what a program says, as far as it is short and comes soon.
fn said(output: &mut ChildStdout) -> Vec<u8> {
    let deadline = Instant::now() + VERSION_LIMIT;
    let mut said = Vec::new();
    let mut part = [0; 4096];
    while said.len() < MAX_VERSION_BYTES {
        let left = deadline.saturating_duration_since(Instant::now());
        if !is_readable(output.as_fd(), left) {
            break;
        }
        match output.read(&mut part) {
            Ok(count) if count > 0 => said.extend_from_slice(part.get(..count).unwrap_or_default()),
            _ => break,
        }
    }
    said
}

/// Makes this process the leader of a session and runs a program in its place; returns only why it
/// cannot.
pub(super) fn become_program(words: &[OsString]) -> CommandError {
    if let Err(error) = rustix::process::setsid() {
        return std::io::Error::from(error).into();
    }
    match words.split_first() {
        Some((program, arguments)) => Command::new(program).args(arguments).exec().into(),
        None => CommandError::new(codes::request::INVALID_PARAMS, "there is no program to run"),
    }
}

impl Server {
    /// Starts it, leaves a note of it, and waits until it listens: whoever does not wait that long
    /// can still stop it.
    pub(super) fn start(program: &Path, port: u16, place: &Place) -> Result<Record, CommandError> {
        place.configure(&configuration(port, &place.data()))?;
        let log = place.open_log()?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["registry", "dev", "become", "--"])
            .arg(program)
            .arg("serve")
            .arg(place.config())
            // Its own variables (`REGISTRY_…`) would override the file, and people set some for clients.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let started = Self::note(program, &child, port, place);
        let listening = match &started {
            Ok(_) => wait_until_it_listens(&mut child, port),
            Err(_) => Err("no note of the registry could be left".to_owned()),
        };
        let Err(message) = listening else {
            return started;
        };
        // It has ended, or ends now.
        drop(child.kill());
        drop(child.wait());
        started?;
        place.forget()?;
        let mut failure = Failure::new(codes::registry::NO_SERVER, message);
        let tail = place.log_tail(QUOTED_LINES)?;
        failure.cause = tail.lines().map(str::to_owned).collect();
        failure.hint = None;
        Err(failure.into())
    }

    /// Leaves a note of what has just been started. Its number and its beginning stay what they are
    /// when it becomes the program.
    fn note(
        program: &Path,
        child: &Child,
        port: u16,
        place: &Place,
    ) -> Result<Record, CommandError> {
        let pid = child.id();
        let started = start_of(pid).ok_or_else(|| {
            CommandError::new(codes::registry::NO_SERVER, "the registry ended at once")
        })?;
        let record = Record {
            port,
            started: Started::Server(Self {
                program: program.to_owned(),
                pid,
                started: started.ticks(),
                boot_id: boot_id(),
            }),
        };
        place.write(&record)?;
        Ok(record)
    }

    /// Finds a registry of this user's that serves the configuration of a directory, noted or not.
    pub(super) fn find(place: &Place) -> Option<Self> {
        let config = place.config();
        let user = rustix::process::geteuid().as_raw();
        let is_it = |words: &[&[u8]]| {
            matches!(words, [.., verb, file]
                if *verb == b"serve" && *file == config.as_os_str().as_bytes())
        };
        let entries = fs::read_dir("/proc").ok()?;
        let pids = entries.flatten().filter(|entry| {
            let found = entry.metadata();
            found.is_ok_and(|found| found.uid() == user)
        });
        pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .find_map(|pid| {
                // First its beginning, then its words: a number that was given on meanwhile is
                // noticed when it is to be stopped.
                let started = start_of(pid)?.ticks();
                let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let line = line.strip_suffix(b"\0").unwrap_or(&line);
                let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
                is_it(&words).then(|| Self {
                    program: PathBuf::from(OsStr::from_bytes(words.first().unwrap_or(&&b""[..]))),
                    pid,
                    started,
                    boot_id: boot_id(),
                })
            })
    }

    /// Opens its process; nothing when that has ended.
    pub(super) fn process(&self) -> Option<OwnedFd> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw)?;
        // First the descriptor, then the look: what began when it did is the one, and had its
        // number all the while.
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let is_it = self.boot_id == boot_id()
            && start_of(self.pid) == Some(ProcessStart::new(self.started))
            && !has_ended(&process, Duration::ZERO);
        is_it.then_some(process)
    }

    /// Says whether it listens and takes connections.
    pub(super) fn answers(&self, port: u16) -> bool {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpStream::connect_timeout(&address, CONNECT_LIMIT).is_ok()
            && ports::holder(port).is_none_or(|holder| holder.pid == self.pid)
    }

    /// Asks it to end, and kills it when it does not.
    pub(super) fn stop(&self) -> Result<(), CommandError> {
        let Some(process) = self.process() else {
            return Ok(());
        };
        for (signal, limit) in [(Signal::TERM, STOP_LIMIT), (Signal::KILL, STOP_LIMIT)] {
            match pidfd_send_signal(&process, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
            if has_ended(&process, limit) {
                return Ok(());
            }
        }
        let message = format!("the registry (pid {}) does not end", self.pid);
        Err(CommandError::new(codes::registry::NO_SERVER, message))
    }
}

/// Waits until a process has ended (`pidfd_open(2)`: its descriptor is readable then).
fn has_ended(process: &OwnedFd, limit: Duration) -> bool {
    is_readable(process.as_fd(), limit)
}

fn is_readable(descriptor: BorrowedFd<'_>, limit: Duration) -> bool {
    let mut looked = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    let limit = Timespec::try_from(limit).ok();
    // A signal to us cuts the wait short, which only makes us impatient.
    poll(&mut looked, limit.as_ref()).is_ok_and(|ready| ready > 0)
}

fn wait_until_it_listens(child: &mut Child, port: u16) -> Result<(), String> {
    let deadline = Instant::now() + START_LIMIT;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Err(format!("the registry ended with {status}")),
            Err(error) => return Err(format!("the registry cannot be waited for: {error}")),
            Ok(None) => {}
        }
        // Somebody else may have taken the port just now.
        if TcpStream::connect_timeout(&address, CONNECT_LIMIT).is_ok()
            && ports::holder(port).is_none_or(|holder| holder.pid == child.id())
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let seconds = START_LIMIT.as_secs();
            return Err(format!("the registry did not listen within {seconds} s"));
        }
        thread::sleep(PAUSE);
    }
}

/// Writes its configuration. JSON is YAML, which is what it reads.
fn configuration(port: u16, data: &Path) -> String {
    let configuration = json!({
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": false}},
        "storage": {
            "filesystem": {"rootdirectory": data},
            "delete": {"enabled": true},
        },
        "http": {
            // On loopback only: it has neither encryption nor logins.
            "addr": format!("127.0.0.1:{port}"),
            "headers": {"X-Content-Type-Options": ["nosniff"]},
        },
    });
    format!("{configuration:#}\n")
}

fn start_of(pid: u32) -> Option<ProcessStart> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    ProcessStart::from_stat(&String::from_utf8_lossy(&stat)).ok()
}

fn boot_id() -> String {
    // Without one, processes are told apart by number and start alone.
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_program_that_says_too_much_or_nothing_is_left_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, script: &str| {
            let path = folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let real = program("real", "echo registry github.com/docker/distribution 2.8");
        let other = program("other", "echo npm registry 1.0");
        let endless = program("endless", "while :; do echo npm registry 1.0; done");
        let silent = program("silent", "exec sleep 1000");
        let begin = Instant::now();

        assert!(is_distribution(&real));
        assert!(!is_distribution(&other));
        assert!(!is_distribution(&endless));
        assert!(!is_distribution(&silent));

        assert!(begin.elapsed() < 10 * VERSION_LIMIT, "{begin:?}");
    }
}
