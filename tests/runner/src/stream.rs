//! Runs a command with its output passed on line by line as it comes, and looked at meanwhile.

use std::io::{self, BufRead, BufReader, PipeReader};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kiln_testkit::process;

use crate::console;

/// Pause between two looks at a command that writes nothing.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long output is still read after a command has ended. Only what it left running, and what
/// left its process group, can hold the output open that long.
const AFTER_THE_END: Duration = Duration::from_secs(2);

/// Whether a line is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// It is.
    Show,
    /// It was for the runner only.
    Hide,
}

/// Runs `command` to its end; `observe` sees each line of its standard output and error, which
/// are one stream, without the line end.
///
/// A command that does not end within `limit` is killed with its process group, and that is an
/// error. `command` comes from [`process::command`], so it dies with the runner.
pub(crate) fn run(
    mut command: Command,
    name: &str,
    limit: Duration,
    observe: &mut dyn FnMut(&str) -> Echo,
) -> Result<ExitStatus> {
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    let second = writer.try_clone().context("cannot make a pipe")?;
    command.stdout(writer).stderr(second);
    let deadline = Instant::now() + limit;
    let mut running = process::start(command, name)?;
    let lines = lines_of(reader);

    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        match lines.recv_timeout(LOOK_EVERY) {
            Ok(line) => {
                let text = String::from_utf8_lossy(&line);
                if observe(text.trim_end_matches(['\r', '\n'])) == Echo::Show {
                    console::bytes(&line);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if ended.is_none() {
            ended = running.poll()?.map(|status| (status, Instant::now()));
        }
        match ended {
            Some((_, at)) if at.elapsed() > AFTER_THE_END => break,
            None if Instant::now() > deadline => {
                running.kill()?;
                bail!("{name} did not end within {limit:?}");
            }
            _ => {}
        }
    }
    running.wait(deadline.saturating_duration_since(Instant::now()))
}

fn lines_of(reader: PipeReader) -> Receiver<Vec<u8>> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        loop {
            let mut line = Vec::new();
            let read = reader.read_until(b'\n', &mut line);
            if !matches!(read, Ok(1..)) || sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = process::command("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn seen(script: &str, limit: Duration) -> (Vec<String>, Result<ExitStatus>) {
        let mut lines = Vec::new();
        let status = run(shell(script), "shell", limit, &mut |line| {
            lines.push(line.to_owned());
            Echo::Hide
        });
        (lines, status)
    }

    #[test]
    fn both_streams_are_seen_in_order() -> Result<()> {
        let (lines, status) = seen(
            "echo a; echo b >&2; printf c; exit 3",
            Duration::from_secs(20),
        );

        assert_eq!(lines, ["a", "b", "c"]);
        assert_eq!(status?.code(), Some(3));
        Ok(())
    }

    #[test]
    fn what_hangs_is_killed_at_its_limit() {
        let (lines, status) = seen("echo a; sleep 1000", Duration::from_millis(200));

        let error = status
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert_eq!(lines, ["a"]);
        assert_eq!(error, "shell did not end within 200ms");
    }

    #[test]
    fn what_a_command_leaves_running_does_not_hold_its_end_up() -> Result<()> {
        let start = Instant::now();

        let (lines, status) = seen("sleep 1000 & echo a", Duration::from_secs(100));

        assert_eq!(lines, ["a"]);
        assert!(status?.success());
        assert!(start.elapsed() < Duration::from_secs(50));
        Ok(())
    }
}
