//! One `ssh` at work: it listens on a socket of this host and forwards what comes to one of another.
//!
//! ```text
//! <agents>/<random>/   0700
//!   s                  the socket, made by ssh once it is let in over there
//!   pid                whom to end when a daemon before this one was killed
//! ```
//! `ssh` is killed when the value is dropped. A daemon that is killed leaves one behind, which the
//! next start ends ([`sweep`]).

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use kiln_client::{Client, ClientError, Host};
use kiln_domain::PlainPath;
use kiln_service::{AgentError, AgentPlace};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::words::{Forwarding, arguments, complaint};

/// Name of the socket in a tunnel's folder: short, because its path holds 107 bytes.
const SOCKET: &str = "s";

/// Name of the file with the number of the process.
const PID: &str = "pid";

/// How much is kept of what `ssh` says, in bytes: its longest complaint has about 1,000.
const SAID_MAX: usize = 8 << 10;

/// How often it is looked whether the socket is there.
const LOOK: Duration = Duration::from_millis(20);

/// How long `ssh` may take to say why a connection through it was refused.
const SAY: Duration = Duration::from_secs(1);

/// A running `ssh`.
#[derive(Debug)]
pub(crate) struct Tunnel {
    child: Child,
    said: watch::Receiver<String>,
    listener: AbortHandle,
    local: PlainPath,
    /// Goes after the process has been told to end.
    _folder: TempDir,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // The child is killed by its own drop.
        self.listener.abort();
    }
}

impl Tunnel {
    /// Starts `program` for a place behind SSH; whether it gets there is not known yet.
    pub(crate) async fn start(
        program: &str,
        folder: &Path,
        place: &AgentPlace,
        behind: &kiln_domain::SshPlace,
    ) -> Result<Self, AgentError> {
        let unreachable = |step: &str, error: io::Error| AgentError::Unreachable {
            why: format!("{step}: {error}"),
        };
        let folder = folder.to_owned();
        let own = aside(move || {
            let mut own = tempfile::Builder::new();
            let own = own
                .prefix("")
                .permissions(fs::Permissions::from_mode(0o700));
            own.tempdir_in(folder)
        });
        let own = own.await;
        let own = own.map_err(|error| unreachable("cannot make a folder for a socket", error))?;
        let local = own.path().join(SOCKET).display().to_string();
        let local: PlainPath = local.parse().map_err(|error| AgentError::Unreachable {
            why: format!("ssh cannot be told of a socket below the daemon's own: {error}"),
        })?;
        let forwarding = Forwarding {
            place: behind,
            identity: place.identity_path.as_ref(),
            known_hosts: place.known_hosts_path.as_ref(),
            timeout_seconds: place.timeout.as_secs(),
            local: &local,
        };
        let mut command = Command::new(program);
        command
            .args(arguments(&forwarding))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A signal of the terminal is the daemon's, which ends its work in order.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|error| unreachable("cannot start ssh", error))?;
        if let Some(pid) = child.id() {
            let path = own.path().join(PID);
            let written = aside(move || fs::write(path, pid.to_string())).await;
            written.map_err(|error| unreachable("cannot write down which ssh it is", error))?;
        }
        let (tell, said) = watch::channel(String::new());
        let stderr = child.stderr.take();
        let listener = tokio::spawn(async move {
            let Some(mut stderr) = stderr else { return };
            let mut chunk = [0; 1_024];
            while let Ok(length @ 1..) = stderr.read(&mut chunk).await {
                let text = String::from_utf8_lossy(&chunk[..length]);
                tell.send_modify(|said| {
                    // The beginning says why; what comes behind it is read and dropped.
                    let room = SAID_MAX.saturating_sub(said.len());
                    said.extend(text.chars().take(room));
                });
            }
        });
        Ok(Self {
            child,
            said,
            listener: listener.abort_handle(),
            local,
            _folder: own,
        })
    }

    /// Connects through it, as soon as it listens. Waits for as long as `ssh` tries.
    pub(crate) async fn connect(&mut self) -> Result<Client, AgentError> {
        let host = Host::at(self.local.as_str());
        loop {
            tokio::select! {
                ended = self.child.wait() => return Err(self.why_it_ended(ended).await),
                () = tokio::time::sleep(LOOK) => {}
            }
            match Client::connect(&host).await {
                Err(ClientError::Unreachable { source, .. }) if is_early(&source) => {}
                Ok(client) => return Ok(client),
                Err(error) => return Err(self.why_it_refused(&error).await),
            }
        }
    }

    /// Returns what `ssh` said last, where it said something.
    pub(crate) fn last_words(&self) -> Option<String> {
        let said = self.said.borrow();
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
        last.map(str::to_owned)
    }

    async fn why_it_ended(&mut self, ended: io::Result<std::process::ExitStatus>) -> AgentError {
        // The pipe closes with the process: what it said is whole then.
        let whole = async { while self.said.changed().await.is_ok() {} };
        if tokio::time::timeout(SAY, whole).await.is_err() {
            tracing::debug!("something else holds the output of ssh open");
        }
        tracing::debug!(?ended, "ssh ended");
        complaint(&self.said.borrow())
    }

    /// A connection that `ssh` took and closed again: the socket over there is not to be had, or
    /// nobody speaks behind it.
    async fn why_it_refused(&mut self, error: &ClientError) -> AgentError {
        let refused = |said: &String| said.contains("open failed");
        let said = tokio::time::timeout(SAY, self.said.wait_for(refused)).await;
        match said {
            Ok(Ok(said)) => complaint(&said),
            _ => crate::ways::connect_error(error),
        }
    }
}

/// Does something with the disk on a thread that may wait for it.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Tells whether the socket is not there yet, or not listened at.
fn is_early(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Makes the folder of tunnels, and ends what a daemon before this one left in it.
pub(crate) fn sweep(folder: &Path) -> io::Result<()> {
    let left = match fs::read_dir(folder) {
        Ok(left) => left,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return DirBuilder::new().mode(0o700).create(folder);
        }
        Err(error) => return Err(error),
    };
    for entry in left {
        let path = entry?.path();
        if let Some(pid) = left_behind(&path) {
            tracing::info!(
                pid = pid.as_raw_nonzero(),
                "ending an ssh of an earlier run"
            );
            if let Err(error) = kill_process(pid, Signal::TERM) {
                // One that has just ended is what was wanted.
                tracing::debug!(%error, "an ssh of an earlier run could not be told to end");
            }
        }
        fs::remove_dir_all(&path)?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// Returns the process that still serves a tunnel's folder: its number may be another's by now, so
/// its command line must name the folder.
fn left_behind(folder: &Path) -> Option<Pid> {
    let text = fs::read_to_string(folder.join(PID)).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok()?)?;
    let command = fs::read(format!("/proc/{text}/cmdline")).ok()?;
    let socket = folder.join(SOCKET).display().to_string();
    let words = command.split(|byte| *byte == 0);
    let serves = |word: &[u8]| word.starts_with(format!("{socket}:").as_bytes());
    words.into_iter().any(serves).then_some(pid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_sweep_ends_what_serves_a_folder_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("agents");
        sweep(&folder).unwrap();
        let start = |name: &str, word: &str| {
            let own = folder.join(name);
            fs::create_dir(&own).unwrap();
            let child = Command::new("sleep").arg0(word).arg("600").spawn();
            let child = child.unwrap();
            fs::write(own.join(PID), child.id().to_string()).unwrap();
            child
        };
        let own = format!("{}/a/s:/k.sock", folder.display());
        let mut left = start("a", &own);
        let mut other = start("b", "something else");

        sweep(&folder).unwrap();

        assert!(!left.wait().unwrap().success());
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        let mode = fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
