//! Which way an address leads: the seam that the desk of agents knows.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_client::{Client, ClientError, Host};
use kiln_domain::AgentAddress;
use kiln_service::{Agent, AgentError, AgentPlace, ReachAgents, SeamFuture};
use serde_json::Value;

use crate::ssh::{self, Tunnel};

/// The program that goes to other hosts, found on the daemon's `PATH`.
const SSH: &str = "ssh";

/// The ways to agents.
#[derive(Debug)]
pub struct Ways {
    folder: PathBuf,
}

/// Why the place for sockets towards other hosts could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot put {} in order", path.display())]
pub struct WaysError {
    path: PathBuf,
    source: io::Error,
}

/// An agent that was reached.
#[derive(Debug)]
struct Reached {
    client: Client,
    timeout: Duration,
    tunnel: Option<Tunnel>,
}

impl Ways {
    /// Prepares `folder`, which is this daemon's alone, for sockets towards other hosts, and ends
    /// what an earlier daemon left in it.
    pub fn open(folder: &Path) -> Result<Self, WaysError> {
        let path = folder.to_owned();
        match ssh::sweep(folder) {
            Ok(()) => Ok(Self { folder: path }),
            Err(source) => Err(WaysError { path, source }),
        }
    }

    async fn go(&self, place: &AgentPlace) -> Result<Reached, AgentError> {
        let (client, tunnel) = match &place.address {
            AgentAddress::Unix { socket } => {
                let client = Client::connect(&Host::at(socket.as_str())).await;
                (client.map_err(|error| connect_error(&error))?, None)
            }
            AgentAddress::Ssh(behind) => {
                let mut tunnel = Tunnel::start(SSH, &self.folder, place, behind).await?;
                (tunnel.connect().await?, Some(tunnel))
            }
        };
        Ok(Reached {
            client,
            timeout: place.timeout,
            tunnel,
        })
    }
}

impl ReachAgents for Ways {
    fn reach<'a>(
        &'a self,
        place: &'a AgentPlace,
    ) -> SeamFuture<'a, Result<Box<dyn Agent>, AgentError>> {
        Box::pin(async move {
            let reached = in_time(place.timeout, self.go(place)).await?;
            Ok(Box::new(reached) as Box<dyn Agent>)
        })
    }
}

impl Agent for Reached {
    fn call<'a>(
        &'a self,
        method: &'static str,
        params: Value,
    ) -> SeamFuture<'a, Result<Value, AgentError>> {
        Box::pin(in_time(self.timeout, async move {
            let answer = self.client.raw(method, params).await;
            answer.map_err(|error| self.call_error(&error))
        }))
    }
}

impl Reached {
    fn call_error(&self, error: &ClientError) -> AgentError {
        match error {
            ClientError::Disconnected { .. } | ClientError::Unreachable { .. } => {
                let said = self.tunnel.as_ref().and_then(Tunnel::last_words);
                AgentError::Lost {
                    why: said.unwrap_or_else(|| innermost(error)),
                }
            }
            error => connect_error(error),
        }
    }
}

/// Says what it means that a daemon could not be talked to.
pub(crate) fn connect_error(error: &ClientError) -> AgentError {
    match error {
        ClientError::Failed(failure) => AgentError::Refused(failure.clone()),
        ClientError::Unreachable { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
            AgentError::Incompatible {
                why: innermost(error),
            }
        }
        ClientError::Unreachable { .. } | ClientError::Disconnected { .. } => {
            AgentError::Unreachable {
                why: innermost(error),
            }
        }
        ClientError::TimedOut { seconds, .. } => AgentError::TimedOut { seconds: *seconds },
        ClientError::Incompatible { .. } | ClientError::Protocol { .. } => {
            let why = match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            AgentError::Incompatible { why }
        }
        ClientError::TooLarge { .. }
        | ClientError::File(_)
        | ClientError::Directory(_)
        | ClientError::Layout(_) => AgentError::Refused(Box::new(error.to_failure())),
    }
}

async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, AgentError>>,
) -> Result<T, AgentError> {
    let seconds = limit.as_secs();
    let done = tokio::time::timeout(limit, work).await;
    done.unwrap_or(Err(AgentError::TimedOut { seconds }))
}

/// The path of a socket says nothing to somebody who named an agent; what the system said does.
fn innermost(error: &ClientError) -> String {
    let mut last: &dyn Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    fn place(socket: &Path, seconds: u64) -> AgentPlace {
        AgentPlace {
            address: format!("unix://{}", socket.display()).parse().unwrap(),
            identity_path: None,
            known_hosts_path: None,
            timeout: Duration::from_secs(seconds),
        }
    }

    async fn refused(folder: &Path, socket: &str) -> AgentError {
        let ways = Ways::open(&folder.join("agents")).unwrap();
        let place = place(&folder.join(socket), 1);
        let reached = ways.reach(&place).await;
        reached.map(drop).unwrap_err()
    }

    #[tokio::test]
    async fn nobody_behind_a_socket_is_said_in_the_systems_words() {
        let folder = tempfile::tempdir().unwrap();

        let error = refused(folder.path(), "none").await;

        let why = "No such file or directory (os error 2)".to_owned();
        assert_eq!(error, AgentError::Unreachable { why });
    }

    #[tokio::test]
    async fn somebody_who_never_answers_costs_the_time_that_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(folder.path().join("silent")).unwrap();

        let error = refused(folder.path(), "silent").await;

        assert_eq!(error, AgentError::TimedOut { seconds: 1 });
    }
}
