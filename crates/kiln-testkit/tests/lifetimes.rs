//! A daemon is started, called, killed, started again and stopped, and leaves no process; a
//! parent that is killed takes its children along.
//!
//! Both are this program itself: with `--root DIR` it answers calls on `DIR/kiln.sock`, with
//! `--parent` it starts a child, prints its id and waits.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kiln_testkit::daemon::{Daemon, Start};
use kiln_testkit::{process, wait};
use serde_json::{Value, json};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("--root") => play(Path::new(arguments.get(2).context("no root")?)),
        Some("--parent") => be_parent(),
        _ => {
            check_daemon()?;
            check_orphan()
        }
    }
}

/// Starts a child that would outlast everything, and waits for the end.
fn be_parent() -> Result<()> {
    let mut command = process::command("/bin/sleep");
    command.arg("1000");
    let mut child = process::start(command, "sleep")?;
    writeln!(std::io::stdout(), "{}", child.id())?;
    child.wait(Duration::from_secs(1000))?;
    Ok(())
}

fn check_orphan() -> Result<()> {
    let mut command = process::command(env::current_exe()?);
    command.arg("--parent").stdout(Stdio::piped());
    let mut parent = process::start(command, "parent")?;
    let stdout = parent.take_stdout().context("no output")?;
    let mut child = String::new();
    BufReader::new(stdout).read_line(&mut child)?;
    let stat = format!("/proc/{}/stat", child.trim());
    wait::until("child", Duration::from_secs(10), || {
        let text = fs::read_to_string(&stat).unwrap_or_default();
        Ok(text.contains("(sleep)").then_some(()))
    })?;

    // The child leads a group of its own, so this kills the parent alone.
    parent.kill()?;

    wait::until("end of the orphan", Duration::from_secs(10), || {
        let text = fs::read_to_string(&stat).unwrap_or_default();
        Ok((text.is_empty() || text.contains(") Z ")).then_some(()))
    })?;
    writeln!(
        std::io::stdout(),
        "a killed parent takes its children along ... ok"
    )?;
    Ok(())
}

fn check_daemon() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    let start = Start {
        arguments: vec!["--extra".to_owned()],
        environment: vec![("KILN_TEST".to_owned(), "yes".to_owned())],
    };
    let mut daemon = Daemon::start_program(&env::current_exe()?, &root, start)?;

    let echoed = daemon.call("echo", &json!({"a": [1, 2]}))?;
    ensure!(echoed["params"] == json!({"a": [1, 2]}), "{echoed}");
    ensure!(echoed["arguments"] == json!(["--extra"]), "{echoed}");
    ensure!(echoed["environment"] == "yes", "{echoed}");
    let refused = daemon.call("fail", &json!({})).err().context("no error")?;
    let refused = refused.refused()?;
    ensure!(refused.name() == Some("test.refused"), "{refused}");

    let first = daemon.id();
    daemon.kill()?;
    daemon.start_again()?;
    ensure!(daemon.id() != first, "the same process");
    daemon.call("echo", &json!({}))?;
    let status = daemon.stop()?;
    ensure!(status.signal() == Some(15), "{status}");
    daemon.start_again()?;
    let last = daemon.id();
    let log = fs::read_to_string(daemon.log())?;
    ensure!(log.lines().count() == 3, "every start is logged: {log}");
    drop(daemon);

    for id in [first, last] {
        ensure!(
            !Path::new(&format!("/proc/{id}")).exists(),
            "{id} still runs"
        );
    }
    ensure!(root.exists(), "a root that was given stays");
    let missing = Daemon::start_program(Path::new("/bin/false"), &root, Start::default());
    let error = missing
        .err()
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    ensure!(error.contains("kilnd ended with exit status: 1"), "{error}");
    writeln!(
        std::io::stdout(),
        "a daemon starts, answers, restarts and stops ... ok"
    )?;
    Ok(())
}

fn play(root: &Path) -> Result<()> {
    writeln!(std::io::stderr(), "started")?;
    fs::create_dir_all(root)?;
    let socket = root.join("kiln.sock");
    drop(fs::remove_file(&socket));
    let listener = UnixListener::bind(&socket)?;
    for stream in listener.incoming() {
        answer(&stream?)?;
    }
    Ok(())
}

fn answer(mut stream: &UnixStream) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let call: Value = serde_json::from_slice(&body)?;
    let mut answer = json!({"jsonrpc": "2.0", "id": call["id"]});
    if call["method"] == "fail" {
        answer["error"] =
            json!({"code": -32000, "message": "no", "data": {"code": "test.refused"}});
    } else {
        let arguments: Vec<String> = env::args().skip(3).collect();
        let environment = env::var("KILN_TEST").unwrap_or_default();
        answer["result"] = json!({
            "params": call["params"],
            "arguments": arguments,
            "environment": environment,
        });
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{answer}"
    )?;
    Ok(())
}
