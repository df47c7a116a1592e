//! What a stop means: one of the daemon, whose work goes on for a while and whose callers are told
//! how it ended, and one of a client that follows an operation.

use std::fs::{self, File};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::{process, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::operations::Tap;
use crate::stage::{KERNEL, LIMIT, Stage, pull, text};
use crate::websocket::WebSocket;

/// A run of `kiln` beside the story.
pub(crate) struct Client {
    running: process::Running,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How a run of `kiln` ended.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) exit: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Client {
    /// Starts `kiln` with `words`; `name` is of its output's files.
    pub(crate) fn start(stage: &Stage, name: &str, words: &[&str]) -> Result<Self> {
        let host = format!("unix://{}", stage.daemon.socket().display());
        let stdout = stage.path(&format!("{name}.out"));
        let stderr = stage.path(&format!("{name}.err"));
        let mut command = process::command(built("kiln")?);
        command.env("KILN_HOST", host).args(words);
        command.stdout(File::create(&stdout)?);
        command.stderr(File::create(&stderr)?);
        Ok(Self {
            running: process::start(command, name)?,
            stdout,
            stderr,
        })
    }

    /// Starts to pull what `tap` serves, and waits until it is in the middle of that.
    pub(crate) fn pulling(stage: &Stage, tap: &Tap) -> Result<Self> {
        let reference = tap.reference();
        let words = [
            "pull",
            &reference,
            "--name",
            "slow",
            "--kernel",
            KERNEL,
            "--progress",
            "json",
        ];
        let client = Self::start(stage, "pull", &words)?;
        tap.wait_for_request()?;
        client.wait_for_item()?;
        Ok(client)
    }

    /// Waits until it follows an operation: the first item of the progress is there.
    pub(crate) fn wait_for_item(&self) -> Result<()> {
        wait::until("progress", LIMIT, || {
            let told = fs::read_to_string(&self.stderr)?;
            Ok(told.contains("\"running\"").then_some(()))
        })
    }

    /// Presses Ctrl-C.
    pub(crate) fn interrupt(&self) -> Result<()> {
        signal(self.running.id(), Signal::INT)
    }

    /// Waits for its end.
    pub(crate) fn told(mut self) -> Result<Told> {
        Ok(Told {
            exit: self.running.wait(LIMIT)?.code(),
            stdout: fs::read_to_string(&self.stdout)?,
            stderr: fs::read_to_string(&self.stderr)?,
        })
    }
}

fn signal(id: u32, signal: Signal) -> Result<()> {
    let id = Pid::from_raw(i32::try_from(id)?).context("no process id")?;
    Ok(kill_process(id, signal)?)
}

/// Sends the first signal and waits until the daemon takes no new connection.
fn begin_to_stop(stage: &Stage) -> Result<()> {
    signal(stage.daemon.id(), Signal::TERM)?;
    wait::until("the socket's end", LIMIT, || {
        Ok((!stage.daemon.socket().exists()).then_some(()))
    })
}

#[test]
fn a_pull_whose_daemon_is_told_to_stop_is_followed_to_its_end() -> Result<()> {
    let mut stage = Stage::new()?;
    let tap = Tap::start()?;
    let client = Client::pulling(&stage, &tap)?;
    let id = text(&stage.last_operation()?, "id")?;
    let waiting = Client::start(&stage, "wait", &["op", "wait", &id, "--progress", "json"])?;
    waiting.wait_for_item()?;

    begin_to_stop(&stage)?;
    tap.open();
    let (pulled, waited) = (client.told()?, waiting.told()?);
    let status = stage.daemon.ended()?;

    assert_eq!(pulled.exit, Some(0), "{pulled:?}");
    assert!(pulled.stdout.contains("slow is ready"), "{pulled:?}");
    assert_eq!(waited.exit, Some(0), "{waited:?}");
    assert_eq!(status.code(), Some(0));
    stage.daemon.start_again()?;
    let image = stage.call("image.get", &json!({"image": "slow"}))?;
    assert_eq!(image["name"], "slow");
    Ok(())
}

#[test]
fn a_pull_that_outlasts_the_grace_of_a_stop_is_told_to_be_cancelled() -> Result<()> {
    let mut stage = Stage::with_config("[daemon]\nshutdown_grace_seconds = 1\n")?;
    let tap = Tap::start()?;
    let client = Client::pulling(&stage, &tap)?;

    begin_to_stop(&stage)?;
    let told = client.told()?;
    let status = stage.daemon.ended()?;

    assert_eq!(told.exit, Some(130), "{told:?}");
    assert!(told.stderr.contains("operation.cancelled"), "{told:?}");
    assert_eq!(status.code(), Some(0));
    stage.daemon.start_again()?;
    assert_eq!(stage.last_operation()?["state"], "cancelled");
    stage.assert_nothing_left()
}

#[test]
fn calls_that_wait_are_answered_during_a_stop_over_http_and_websocket() -> Result<()> {
    let mut stage = Stage::new()?;
    let tap = Tap::start()?;
    let id = stage.start(pull(&tap.reference(), "slow"))?;
    tap.wait_for_request()?;
    let wait = json!({"operation_id": id});
    let mut socket = WebSocket::connect(&stage.daemon.socket())?;
    let mut watching = WebSocket::connect(&stage.daemon.socket())?;
    watching.call("operation.watch", &wait)?;

    let (over_http, over_websocket) = thread::scope(|scope| {
        let over_http = scope.spawn(|| stage.call("operation.wait", &wait));
        let over_websocket = scope.spawn(|| socket.call("operation.wait", &wait));
        wait::until("both calls", LIMIT, || {
            let watched = stage.call("operation.get", &wait)?["watchers"].as_u64();
            Ok((watched == Some(3)).then_some(()))
        })?;
        begin_to_stop(&stage)?;
        tap.open();
        let joined = |thread: thread::ScopedJoinHandle<'_, Result<Value>>| {
            thread
                .join()
                .unwrap_or_else(|_| anyhow::bail!("a caller panicked"))
        };
        anyhow::Ok((joined(over_http)?, joined(over_websocket)?))
    })?;
    let mut last = Value::Null;
    while let Some(item) = watching.receive()? {
        last = item["params"]["result"]["state"].clone();
    }
    let status = stage.daemon.ended()?;

    assert_eq!(over_http["state"], "succeeded");
    assert_eq!(over_websocket["result"]["state"], "succeeded");
    assert_eq!(last, "succeeded");
    assert_eq!(status.code(), Some(0));
    Ok(())
}

#[test]
fn an_interrupted_pull_that_nobody_else_follows_is_cancelled() -> Result<()> {
    let stage = Stage::new()?;
    let tap = Tap::start()?;
    let client = Client::pulling(&stage, &tap)?;
    assert_eq!(stage.last_operation()?["watchers"], 1);

    client.interrupt()?;
    let told = client.told()?;

    assert_eq!(told.exit, Some(130), "{told:?}");
    assert!(told.stderr.contains("operation.cancelled"), "{told:?}");
    assert_eq!(stage.last_operation()?["state"], "cancelled");
    stage.assert_nothing_left()
}

#[test]
fn an_interrupted_pull_that_somebody_else_follows_goes_on() -> Result<()> {
    let stage = Stage::new()?;
    let tap = Tap::start()?;
    let client = Client::pulling(&stage, &tap)?;
    let id = text(&stage.last_operation()?, "id")?;
    let waiting = Client::start(&stage, "wait", &["op", "wait", &id, "--progress", "json"])?;
    waiting.wait_for_item()?;

    client.interrupt()?;
    let interrupted = client.told()?;
    let running = stage.last_operation()?;
    tap.open();
    let waited = waiting.told()?;

    assert_eq!(interrupted.exit, Some(130), "{interrupted:?}");
    let said = "detached: 1 other follows it, so it goes on";
    assert!(interrupted.stderr.contains(said), "{interrupted:?}");
    assert!(interrupted.stderr.contains(&format!("kiln op wait {id}")));
    assert_eq!(running["state"], "running");
    assert_eq!(waited.exit, Some(0), "{waited:?}");
    assert_eq!(stage.last_operation()?["state"], "succeeded");
    Ok(())
}
