//! Agents, which are other daemons that this one sends work to: `agent.*`.

use kiln_domain::access::Role;
use kiln_domain::{AgentAddress, AgentName, PlainPath};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::daemon::ApiVersion;
use crate::failure::Failure;
use crate::method::method;
use crate::page::Page;

method! {
    /// See [`AddParams`].
    Add = "agent.add",
    "Enters another daemon, reached over a socket of this host or over SSH. It need not answer yet.",
    (AddParams) -> Agent, Administer,
    [codes::agent::ALREADY_EXISTS, codes::agent::TOO_MANY, codes::request::DENIED]
}

method! {
    /// See [`Agent`].
    List = "agent.list",
    "Lists other daemons in the order in which they were entered.",
    (ListParams) -> Page<Agent>, Oversee, [codes::request::DENIED]
}

method! {
    /// See [`Agent`].
    Get = "agent.get",
    "Tells about one other daemon and whether it answered when last asked.",
    (AgentParams) -> Agent, Oversee, [codes::agent::NOT_FOUND, codes::request::DENIED]
}

method! {
    /// See [`Agent`].
    Remove = "agent.remove",
    "Strikes another daemon off; nothing changes there.",
    (AgentParams) -> Agent, Administer, [codes::agent::NOT_FOUND, codes::request::DENIED]
}

method! {
    /// See [`Pong`].
    Ping = "agent.ping",
    "Asks another daemon who it is, and who this one is to it.",
    (AgentParams) -> Pong, Oversee,
    [codes::agent::NOT_FOUND, codes::request::DENIED] + codes::REACHING_AN_AGENT
}

/// How long an agent may take for one answer when the caller does not say, in seconds.
pub const DEFAULT_TIMEOUT_SECONDS: u64 = 30;

/// How long it may be given at most, in seconds: an hour.
pub const MAX_TIMEOUT_SECONDS: u64 = 3_600;

/// Most agents of one daemon.
pub const MAX_AGENTS: u64 = 256;

/// Which daemon to enter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddParams {
    /// What to call it here.
    #[schemars(with = "String")]
    pub name: AgentName,
    /// `unix:///PATH/kiln.sock`, or `ssh://[USER@]HOST[:PORT][/PATH/kiln.sock]`.
    #[schemars(with = "String")]
    pub address: AgentAddress,
    /// The private key to be known by there, a file that this daemon's user can read; with SSH only.
    /// That user's own keys and SSH agent when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub identity_path: Option<PlainPath>,
    /// The file of host keys that are trusted, in the form of sshd(8); with SSH only. The user's and
    /// the system's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub known_hosts_path: Option<PlainPath>,
    /// How long it may take to be reached, and for each answer, in seconds: 30 when left out, an
    /// hour at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
}

/// Which agents to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Which agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentParams {
    /// Its name.
    #[schemars(with = "String")]
    pub agent: AgentName,
}

/// Another daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    /// What it is called here.
    #[schemars(with = "String")]
    pub name: AgentName,
    /// Where it is.
    #[schemars(with = "String")]
    pub address: AgentAddress,
    /// The private key to be known by there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub identity_path: Option<PlainPath>,
    /// The file of host keys that are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub known_hosts_path: Option<PlainPath>,
    /// How long it may take to be reached, and for each answer, in seconds.
    pub timeout_seconds: u64,
    /// Whether it answered when it was last asked.
    pub state: AgentState,
    /// When it last answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<String>,
    /// When it last did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failed_at: Option<String>,
    /// Why, where it has not answered since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Failure>,
    /// The user who entered it.
    pub added_by_uid: u32,
    /// When.
    pub added_at: String,
}

/// What is known of whether an agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// It was not asked yet.
    Unknown,
    /// It answered.
    Online,
    /// It did not.
    Offline,
}

impl AgentState {
    /// Returns the word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }
}

/// What an agent answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pong {
    /// The agent as it stands now.
    pub agent: Agent,
    /// Its release.
    pub version: String,
    /// The version of its API.
    pub api: ApiVersion,
    /// The architecture of its host.
    pub architecture: String,
    /// The user id that this daemon has there.
    pub uid: u32,
    /// What that user is to it.
    #[schemars(with = "String")]
    pub role: Role,
    /// How long connection and answers took, in milliseconds.
    pub took_ms: u64,
}
