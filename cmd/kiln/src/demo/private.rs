//! A daemon of the demo's own, in a folder that goes with it.
//!
//! ```text
//! FOLDER/root        its state, cache and sockets
//! FOLDER/kilnd.log   what it says
//! FOLDER/instances   files of the machine while it runs
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kiln_api::{Failure, codes};
use kiln_client::{Client, Host};
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use super::ends::Ends;
use super::leash::{Leash, terminate};
use super::missing;
use crate::failure::CommandError;
use crate::output;
use crate::programs;
use crate::session::Session;

/// The daemon's program.
const DAEMON: &str = "kilnd";

/// Name of its root in the folder.
pub(super) const ROOT: &str = "root";

/// Longest time it may take to answer, and to stop, on a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Pause between two looks whether it answers.
const PAUSE: Duration = Duration::from_millis(50);

/// How many lines of its log explain why it did not start.
const QUOTED_LINES: usize = 5;

/// It runs.
#[derive(Debug)]
pub(super) struct PrivateDaemon {
    child: Child,
    host: Host,
    instances: PathBuf,
}

impl PrivateDaemon {
    /// Starts it on a leash of this process, and waits until it answers.
    pub(super) async fn start(
        folder: &Path,
        session: &Session,
        leash: &Leash,
        ends: &mut Ends,
    ) -> Result<Self, CommandError> {
        let program = programs::find(DAEMON, session.surroundings())?;
        let program = program.ok_or_else(|| missing(DAEMON))?;
        let root = folder.join(ROOT);
        let log_path = folder.join("kilnd.log");
        let log = File::create(&log_path)?;
        output::note(&format!("$ kilnd --root {} &\n", root.display()));
        let child = leash
            .command(&program)
            .arg("--root")
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut daemon = Self {
            child,
            host: Host::at(root.join("kiln.sock")),
            instances: folder.join("instances"),
        };
        match ends.or(daemon.answers(&log_path)).await {
            Ok(()) => Ok(daemon),
            Err(error) => {
                // Its folder can be removed once it is gone.
                daemon.kill().await;
                Err(error)
            }
        }
    }

    /// Returns its address.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Returns where machines may have their files.
    pub(super) fn instances(&self) -> &Path {
        &self.instances
    }

    /// Kills it: nothing that it has on its disk stays.
    pub(super) async fn kill(mut self) {
        // It has ended already, or is reaped when this value goes.
        drop(self.child.kill().await);
    }

    /// Asks it to stop, and kills it when it does not.
    pub(super) async fn stop(mut self) {
        terminate(self.child.id());
        if timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            // It is reaped when this value goes.
            drop(self.child.start_kill());
        }
    }

    async fn answers(&mut self, log: &Path) -> Result<(), CommandError> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if Client::connect(&self.host).await.is_ok() {
                return Ok(());
            }
            let message = match self.child.try_wait()? {
                Some(status) => format!("{DAEMON} ended with {status}"),
                None if Instant::now() >= deadline => {
                    format!("{DAEMON} did not answer within {} s", START_LIMIT.as_secs())
                }
                None => {
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let mut failure = Failure::new(codes::daemon::UNREACHABLE, message);
            failure.cause = last_lines(&fs::read_to_string(log).unwrap_or_default());
            failure.hint = None;
            return Err(failure.into());
        }
    }
}

fn last_lines(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(QUOTED_LINES);
    lines.into_iter().skip(from).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_explains() {
        assert_eq!(last_lines("1\n2\n3\n4\n5\n6\n"), ["2", "3", "4", "5", "6"]);
        assert_eq!(last_lines(""), Vec::<String>::new());
    }
}
