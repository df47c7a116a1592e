//! Child processes that never outlive their owner, whether it drops them, panics or is killed.
//!
//! Each child leads a process group, which is killed as a whole when its [`Running`] is dropped.
//! Should the parent be killed first, the kernel kills the child: `setpriv --pdeathsig KILL`
//! asks for that, and a line of shell after it makes sure that the parent was not gone before.
//! The kernel means the parent *thread*, so children are started by one thread that lives as
//! long as the process; a test that ends does not take a shared registry with it.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::tools;
use crate::wait;

/// How much of a failed command's output goes into the error, in bytes, from the end.
const QUOTED_BYTES: usize = 4096;

/// Runs its arguments in its place, unless the process `$0` is no longer its parent.
const IF_PARENT_LIVES: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;

/// Words of a command before the program it runs.
const LAUNCHER_WORDS: usize = 7;

/// A child process; dropping it kills its whole group and reaps it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    status: Option<ExitStatus>,
}

/// What a finished command wrote.
#[derive(Debug)]
pub struct Output {
    /// Bytes of its standard output.
    pub stdout: Vec<u8>,
    /// Bytes of its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Returns the standard output as text, without the line end that closes it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// Returns a command for `program` whose child dies with this process.
///
/// Its standard input is empty. `program` must exist: find it with [`tools::require`].
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = match tools::require(tools::SETPRIV) {
        Ok(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args([
                "--pdeathsig",
                "KILL",
                "--",
                "/bin/sh",
                "-c",
                IF_PARENT_LIVES,
            ]);
            command.arg(std::process::id().to_string()).arg(program);
            command
        }
        Err(_) => Command::new(program),
    };
    command.process_group(0).stdin(Stdio::null());
    command
}

/// Starts `command`; `name` is what errors call it.
pub fn start(command: Command, name: &str) -> Result<Running> {
    let child = spawn(command).with_context(|| format!("cannot start {name}"))?;
    Ok(Running {
        child,
        name: name.to_owned(),
        status: None,
    })
}

/// Runs `command` to its end and returns what it wrote.
///
/// Fails when it does not end with success within `limit`; the error quotes the end of its
/// output.
pub fn run(mut command: Command, limit: Duration) -> Result<Output> {
    let name = describe(&command);
    let mut stdout = tempfile::tempfile().context("cannot make a file for output")?;
    let mut stderr = tempfile::tempfile().context("cannot make a file for output")?;
    command
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?);

    let mut running = start(command, &name)?;
    let waited = running.wait(limit);
    let output = Output {
        stdout: rewound(&mut stdout)?,
        stderr: rewound(&mut stderr)?,
    };
    match waited {
        Ok(status) if status.success() => Ok(output),
        Ok(status) => bail!("{name} ended with {status}{}", quote(&output)),
        Err(error) => Err(error.context(quote(&output))),
    }
}

impl Running {
    /// Returns the process id, which is also the id of its group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Takes the standard output, where it was piped.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Returns how the process ended, or nothing while it runs.
    ///
    /// Once it has ended, what it left running in its group is killed.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        // Looks without reaping: until it is reaped, the group's id cannot belong to others.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = waitid(WaitId::Pid(self.pid()?), options)
            .with_context(|| format!("cannot wait for {}", self.name))?;
        if ended.is_some() {
            self.kill_and_reap()?;
        }
        Ok(self.status)
    }

    /// Waits until the process has ended; fails, and kills it, when `limit` passes first.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        match wait::until(&what, limit, || self.poll()) {
            Ok(status) => Ok(status),
            Err(error) => {
                self.kill_and_reap()?;
                Err(error)
            }
        }
    }

    /// Asks the process to end (SIGTERM), and kills it when `limit` passes first.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.poll()? {
            return Ok(status);
        }
        rustix::process::kill_process(self.pid()?, Signal::TERM)
            .with_context(|| format!("cannot signal {}", self.name))?;
        self.wait(limit)
    }

    /// Kills the process and its group at once (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        self.kill_and_reap()
    }

    fn pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .with_context(|| format!("{} has no process id", self.name))
    }

    fn kill_and_reap(&mut self) -> Result<()> {
        if self.status.is_none() {
            // Fails only when the whole group is gone already.
            let _ = kill_process_group(self.pid()?, Signal::KILL);
            let status = self.child.wait();
            self.status = Some(status.with_context(|| format!("cannot reap {}", self.name))?);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nobody can be told; the kernel ends the child with this process at the latest.
        drop(self.kill_and_reap());
    }
}

/// Reads a log that a child writes, as far as it has come.
pub fn log_so_far(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the last part of a log, for an error.
pub fn log_tail(path: &Path) -> String {
    let text = log_so_far(path);
    let mut start = text.len().saturating_sub(QUOTED_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.get(start..).unwrap_or_default().to_owned()
}

type Order = (Command, Sender<io::Result<Child>>);

fn spawn(command: Command) -> io::Result<Child> {
    static LAUNCHER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();

    let launcher = LAUNCHER.get_or_init(|| {
        let (orders, incoming) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in incoming {
                // Nobody listens when the thread that ordered has gone; the dropped handle
                // leaves a child that ends with this process.
                drop(reply.send(command.spawn()));
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = channel();
    launcher
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, reply))
        .map_err(io::Error::other)?;
    answer.recv().map_err(io::Error::other)?
}

fn describe(command: &Command) -> String {
    let mut words = command
        .get_args()
        .map(|word| word.to_string_lossy().into_owned());
    let program = command.get_program().to_string_lossy().into_owned();
    if program.ends_with("setpriv") {
        let words: Vec<String> = words.skip(LAUNCHER_WORDS).collect();
        return words.join(" ");
    }
    words.by_ref().fold(program, |mut text, word| {
        // Writing to a string cannot fail.
        let _ = write!(text, " {word}");
        text
    })
}

fn rewound(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .context("cannot rewind output")?;
    file.read_to_end(&mut bytes).context("cannot read output")?;
    Ok(bytes)
}

fn quote(output: &Output) -> String {
    let mut all = output.stdout.clone();
    all.extend_from_slice(&output.stderr);
    let start = all.len().saturating_sub(QUOTED_BYTES);
    let tail = String::from_utf8_lossy(all.get(start..).unwrap_or_default()).into_owned();
    if tail.trim().is_empty() {
        " and wrote nothing".to_owned()
    } else {
        format!("; it wrote:\n{}", tail.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = command("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn is_alive(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie is dead; who adopted it reaps it in its own time.
        !stat.is_empty() && !stat.contains(") Z ")
    }

    #[test]
    fn output_is_kept_apart() -> Result<()> {
        let output = run(shell("echo out; echo err >&2"), LIMIT)?;

        assert_eq!(output.text(), "out");
        assert_eq!(output.stderr, b"err\n");
        Ok(())
    }

    #[test]
    fn failure_quotes_what_was_written() {
        let error = run(shell("echo because >&2; exit 3"), LIMIT)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();

        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("because"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_killed_at_its_limit() {
        let result = run(shell("sleep 1000"), Duration::from_millis(50));

        let error = result.err().map(|error| format!("{error:#}"));
        assert!(error.unwrap_or_default().contains("within 50ms"));
    }

    #[test]
    fn dropping_kills_the_whole_group() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("pid");
        let script = format!(
            "sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait",
            file.display()
        );

        let running = start(shell(&script), "shell")?;
        let grandchild = wait::until("pid file", LIMIT, || Ok(fs::read_to_string(&file).ok()))?;
        drop(running);

        wait::until("end of the grandchild", LIMIT, || {
            Ok((!is_alive(grandchild.trim())).then_some(()))
        })
    }

    #[test]
    fn a_child_survives_the_thread_that_ordered_it() -> Result<()> {
        let ordered = thread::spawn(|| start(shell("sleep 1000"), "shell"));
        let Ok(running) = ordered.join() else {
            bail!("the thread panicked");
        };
        let mut running = running?;

        // Killed children would be seen at once: the kernel signals as the thread ends.
        assert_eq!(running.poll()?, None);
        let status = running.stop(LIMIT)?;
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(15)
        );
        Ok(())
    }
}
