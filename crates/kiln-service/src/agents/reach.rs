//! The seam behind which other daemons are: reaching one, and calling it.
//!
//! How an address is followed is not here: sockets, SSH, and what else may come. Nothing in these
//! traits knows of either.

use std::fmt;
use std::time::Duration;

use kiln_api::{Failure, Method};
use kiln_domain::{AgentAddress, PlainPath};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::seams::SeamFuture;

/// Where an agent is, and what it takes to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPlace {
    /// The address.
    pub address: AgentAddress,
    /// The private key to be known by; the daemon user's own where there is none.
    pub identity_path: Option<PlainPath>,
    /// The file of host keys that are trusted; the user's and the system's where there is none.
    pub known_hosts_path: Option<PlainPath>,
    /// How long reaching it may take, and each call.
    pub timeout: Duration,
}

/// Whoever finds the way to agents.
pub trait ReachAgents: fmt::Debug + Send + Sync {
    /// Connects to an agent and makes sure that it speaks this API's major version, within the
    /// place's time. Dropping the future, or the agent, ends the connection.
    fn reach<'a>(
        &'a self,
        place: &'a AgentPlace,
    ) -> SeamFuture<'a, Result<Box<dyn Agent>, AgentError>>;
}

/// A connection to an agent. Calls may go on side by side.
pub trait Agent: fmt::Debug + Send + Sync {
    /// Calls a method, as who this daemon is there, within the place's time.
    fn call<'a>(
        &'a self,
        method: &'static str,
        params: Value,
    ) -> SeamFuture<'a, Result<Value, AgentError>>;
}

/// Why an agent gave no answer, or not the one that was hoped for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// There is no way to it, or nobody at its end.
    #[error("it cannot be reached: {why}")]
    Unreachable {
        /// What the system or the program on the way said.
        why: String,
    },
    /// It took longer than it may.
    #[error("no answer came within {seconds} seconds")]
    TimedOut {
        /// How long it may take.
        seconds: u64,
    },
    /// It went away before its answer; what it was doing may be done.
    #[error("the connection was lost before the answer: {why}")]
    Lost {
        /// What the system or the program on the way said.
        why: String,
    },
    /// Its host key is not known.
    #[error("the key of its host is not known: {why}")]
    UnknownHost {
        /// What SSH said.
        why: String,
    },
    /// Its host key is another one than is known. Somebody may be in between.
    #[error("the key of its host is not the one that is known: {why}")]
    ChangedHost {
        /// What SSH said.
        why: String,
    },
    /// Its host does not accept who this daemon is.
    #[error("its host does not accept who this daemon is: {why}")]
    AuthFailed {
        /// What SSH said.
        why: String,
    },
    /// The key to be known by there cannot be used here.
    #[error("this daemon cannot use its own key: {why}")]
    KeyUnusable {
        /// What SSH said.
        why: String,
    },
    /// It is no daemon of this API's major version.
    #[error("what answers is no daemon that this one can talk to: {why}")]
    Incompatible {
        /// What it answered.
        why: String,
    },
    /// It answered with an error of its own.
    #[error(transparent)]
    Refused(Box<Failure>),
}

impl AgentError {
    /// Returns the agent's own error, where it answered with one.
    pub fn refusal(&self) -> Option<&Failure> {
        match self {
            Self::Refused(failure) => Some(failure),
            _ => None,
        }
    }
}

/// Calls a method and reads of its answer what `T` has: an agent of a newer release tells more.
pub(super) async fn call<M: Method, T: DeserializeOwned>(
    agent: &dyn Agent,
    params: &M::Params,
) -> Result<T, AgentError> {
    let misread = |error: serde_json::Error| AgentError::Incompatible {
        why: format!("{}: {error}", M::NAME),
    };
    let params = serde_json::to_value(params).map_err(misread)?;
    let answer = agent.call(M::NAME, params).await?;
    serde_json::from_value(answer).map_err(misread)
}
