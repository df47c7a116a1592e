//! A built `kilnd` with a root of its own, and calls to it over its socket.
//!
//! The calls are plain HTTP and JSON written here, not the client library: what passes is what
//! `curl --unix-socket` would see.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixtures::profile_folder;
use crate::guest_programs;
use crate::http::{self, Request};
use crate::process::{self, Running};
use crate::wait;

/// Name of the log in the daemon's own temporary folder.
const LOG: &str = "kilnd.log";

/// Longest time the daemon may take to answer its first call.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Longest time the daemon may take to stop when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Longest time one call may take, pulls of large images in debug builds included.
const CALL_LIMIT: Duration = Duration::from_secs(900);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The daemon answered with an error.
    #[error(transparent)]
    Refused(RpcError),
    /// The daemon did not answer.
    #[error("no answer from the daemon: {0:#}")]
    NoAnswer(anyhow::Error),
}

/// The error object of an answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message} ({code}): {data}")]
pub struct RpcError {
    /// The number JSON-RPC gives it.
    pub code: i64,
    /// What happened, for people.
    pub message: String,
    /// What happened, for programs; null where there is nothing.
    pub data: Value,
}

impl RpcError {
    /// Returns the stable name of the error, such as `image.already_exists`.
    pub fn name(&self) -> Option<&str> {
        self.data.get("code").and_then(Value::as_str)
    }
}

impl CallError {
    /// Returns the error the daemon answered with; anything else is a failure of the test.
    pub fn refused(self) -> Result<RpcError> {
        match self {
            Self::Refused(error) => Ok(error),
            Self::NoAnswer(error) => Err(error),
        }
    }
}

/// How to start a daemon.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Arguments after `--root DIR`.
    pub arguments: Vec<String>,
    /// Environment variables set for it.
    pub environment: Vec<(String, String)>,
}

/// A running daemon; dropping it asks it to stop, waits, and kills it if it does not.
///
/// When a test panics meanwhile, the end of the daemon's log goes to standard error.
#[derive(Debug)]
pub struct Daemon {
    running: Running,
    start: Start,
    program: PathBuf,
    root: PathBuf,
    /// Holds the log, and the root where nobody named one; goes after the daemon has stopped.
    folder: TempDir,
    next_id: AtomicU64,
}

impl Daemon {
    /// Starts the built daemon in a temporary folder, which goes with it.
    pub fn start() -> Result<Self> {
        let folder = folder()?;
        let root = folder.path().join("root");
        Self::launch(built("kilnd")?, root, Start::default(), folder)
    }

    /// Starts the built daemon in `root`, which stays.
    pub fn start_in(root: &Path, start: Start) -> Result<Self> {
        Self::launch(built("kilnd")?, root.to_owned(), start, folder()?)
    }

    /// Starts any program that takes the arguments and calls of a daemon.
    pub fn start_program(program: &Path, root: &Path, start: Start) -> Result<Self> {
        Self::launch(program.to_owned(), root.to_owned(), start, folder()?)
    }

    fn launch(program: PathBuf, root: PathBuf, start: Start, folder: TempDir) -> Result<Self> {
        Ok(Self {
            running: launch(&program, &root, &start, &folder.path().join(LOG))?,
            start,
            program,
            root,
            folder,
            next_id: AtomicU64::new(1),
        })
    }

    /// Returns its root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("kiln.sock")
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// Returns the path of its log, which every start of it adds to.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join(LOG)
    }

    /// Calls `method` and returns its result.
    pub fn call(&self, method: &str, params: &Value) -> Result<Value, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        call(&self.socket(), id, method, params)
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let stopped = self.running.stop(STOP_LIMIT);
        stopped.with_context(|| process::log_tail(&self.log()))
    }

    /// Waits until it has ended after a signal that somebody else sent.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        let ended = self.running.wait(STOP_LIMIT);
        ended.with_context(|| process::log_tail(&self.log()))
    }

    /// Kills it (SIGKILL), as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.running.kill()
    }

    /// Starts it again in the same root, after [`Daemon::stop`] or [`Daemon::kill`].
    pub fn start_again(&mut self) -> Result<()> {
        self.running = launch(&self.program, &self.root, &self.start, &self.log())?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nobody can be told; what does not stop is killed with its group.
        drop(self.running.stop(STOP_LIMIT));
        if std::thread::panicking() {
            let tail = process::log_tail(&self.log());
            drop(writeln!(io::stderr(), "the end of kilnd's log:\n{tail}"));
        }
    }
}

/// Calls `method` of the daemon behind `socket` and returns its result.
pub fn call(socket: &Path, id: u64, method: &str, params: &Value) -> Result<Value, CallError> {
    let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
    let answer = post(socket, body.as_bytes()).map_err(CallError::NoAnswer)?;
    let fields = answer.as_object();
    if let Some(error) = fields.and_then(|fields| fields.get("error")) {
        return Err(CallError::Refused(RpcError {
            code: error["code"].as_i64().unwrap_or_default(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
            data: error["data"].clone(),
        }));
    }
    match fields.and_then(|fields| fields.get("result")) {
        Some(result) if answer["id"] == json!(id) => Ok(result.clone()),
        _ => Err(CallError::NoAnswer(anyhow::anyhow!(
            "an answer to something else: {answer}"
        ))),
    }
}

/// Posts `body` to the daemon behind `socket` and returns its answer, for tests of bad requests.
pub fn post(socket: &Path, body: &[u8]) -> Result<Value> {
    let message = post_raw(socket, body)?;
    serde_json::from_slice(&message.body).with_context(|| format!("{} with no JSON", message.start))
}

/// Posts `body` to the daemon behind `socket` and returns the whole HTTP response.
pub fn post_raw(socket: &Path, body: &[u8]) -> Result<http::Message> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(CALL_LIMIT))?;
    let request = Request {
        method: "POST",
        target: "/",
        fields: &[("content-type", "application/json")],
        body,
    };
    http::exchange(&mut stream, "localhost", request)
}

/// Returns the path of a built program of this workspace, such as `kilnd` or `kiln`.
///
/// It is what the environment variable of its name in capitals says (`KILND`, `KILN`), else what
/// cargo built beside the running program.
pub fn built(name: &str) -> Result<PathBuf> {
    let variable = name.to_ascii_uppercase();
    let path = match env::var_os(&variable) {
        Some(path) => PathBuf::from(path),
        None => profile_folder()?.join(name),
    };
    if !path.is_file() {
        bail!(
            "there is no {}: run cargo build, or set {variable}",
            path.display()
        );
    }
    Ok(path)
}

/// Makes a folder with a short path, whatever `TMPDIR` is: a socket's path holds 107 bytes.
fn folder() -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let folder = builder.prefix("kiln-").tempdir_in("/tmp");
    folder.context("cannot make a folder for the daemon")
}

fn launch(program: &Path, root: &Path, start: &Start, log_path: &Path) -> Result<Running> {
    let log = File::options().create(true).append(true).open(log_path);
    let log = log.with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut command = process::command(program);
    command.arg("--root").arg(root).args(&start.arguments);
    // The init beside a daemon in a build's folder is not the one that is shipped.
    command.env("KILN_GUEST_INIT", &guest_programs::built()?.init);
    command.envs(start.environment.iter().map(|(name, value)| (name, value)));
    command.stdout(log.try_clone()?).stderr(log);
    let mut running = process::start(command, "kilnd")?;

    let socket = root.join("kiln.sock");
    let ready = wait::until("answer from kilnd", START_LIMIT, || {
        if let Some(status) = running.poll()? {
            bail!("kilnd ended with {status}");
        }
        Ok(call(&socket, 0, "daemon.info", &json!({})).ok())
    });
    ready.with_context(|| process::log_tail(log_path))?;
    Ok(running)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Answers one request on a socket in `folder` and returns the socket's path.
    fn answering(folder: &Path, answer: &'static str) -> Result<PathBuf> {
        let socket = folder.join("s");
        let listener = UnixListener::bind(&socket)?;
        thread::spawn(move || -> Result<()> {
            let (stream, _) = listener.accept()?;
            let mut reader = BufReader::new(&stream);
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
            reader.read_exact(&mut vec![0; length])?;
            (&stream).write_all(&http::json_response("200 OK", answer))?;
            Ok(())
        });
        Ok(socket)
    }

    #[test]
    fn answers_become_results_or_errors() -> Result<()> {
        let cases = [
            (
                r#"{"jsonrpc":"2.0","id":7,"result":{"a":1}}"#,
                r#"Ok(Object {"a": Number(1)})"#,
            ),
            (r#"{"jsonrpc":"2.0","id":7,"result":null}"#, "Ok(Null)"),
            (
                r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"taken","data":{"code":"image.already_exists"}}}"#,
                "Err(\"taken (-32000): {\\\"code\\\":\\\"image.already_exists\\\"}\")",
            ),
            (
                r#"{"jsonrpc":"2.0","id":8,"result":1}"#,
                "Err(\"no answer from the daemon: an answer to something else: \
                 {\\\"jsonrpc\\\":\\\"2.0\\\",\\\"id\\\":8,\\\"result\\\":1}\")",
            ),
        ];
        for (answer, want) in cases {
            let folder = tempfile::tempdir()?;
            let socket = answering(folder.path(), answer)?;

            let got = call(&socket, 7, "some.method", &json!({}));

            let got = got.map_err(|error| error.to_string());
            assert_eq!(format!("{got:?}"), want);
        }
        Ok(())
    }

    #[test]
    fn an_error_has_a_stable_name() {
        let error = RpcError {
            code: -32000,
            message: String::new(),
            data: json!({"code": "image.already_exists"}),
        };

        assert_eq!(error.name(), Some("image.already_exists"));
    }

    #[test]
    fn nobody_behind_the_socket_is_no_answer() -> Result<()> {
        let folder = tempfile::tempdir()?;

        let got = call(&folder.path().join("s"), 1, "some.method", &json!({}));

        let text = got.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            text.starts_with("no answer from the daemon: cannot connect to"),
            "{text}"
        );
        Ok(())
    }
}
