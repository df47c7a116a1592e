//! Agents: the desk of other daemons that this one sends work to.
//!
//! ```text
//! agent.add ──▶ unknown ──answers──▶ online ◀──────▶ offline    (ping, and every purge)
//! ```
//! Whether one answers is written down when it is asked, and told by an event when it changes.
//! Nobody asks in the background. Removing images there is in [`purge`].

mod far;
mod keys;
mod purge;
mod reach;
mod sheet;

use std::sync::Arc;
use std::time::Duration;

use kiln_api::agent::{
    self, AddParams, AgentParams, AgentState, DEFAULT_TIMEOUT_SECONDS, ListParams, MAX_AGENTS,
    MAX_TIMEOUT_SECONDS, Pong,
};
use kiln_api::daemon::{ApiVersion, GetInfo, InfoParams};
use kiln_api::failure::printable;
use kiln_api::page::Page;
use kiln_api::user::{GetWhoami, WhoamiParams};
use kiln_api::{Failure, Hint, codes};
use kiln_domain::access::{Actor, Administer, Belongs, Denied, Grant, Oversee, Role, permit};
use kiln_domain::{AgentAddress, AgentName, Timestamp};
use kiln_store::agents::{self, AgentRow, InsertAgentError};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::{Object, ObjectKind, StoreError, WriteTransaction};
use serde::Deserialize;
use tokio::time::Instant;

pub use self::reach::{Agent, AgentError, AgentPlace, ReachAgents};
use crate::events::{cursor, page_limit};
use crate::failures::store_failure;
use crate::pulls::Records;

/// Looks after agents, and removes images on them.
#[derive(Clone, Debug)]
pub struct Agents {
    records: Records,
    ways: Arc<dyn ReachAgents>,
}

/// Why an agent could not be found, entered or struck off.
#[derive(Debug, thiserror::Error)]
enum AgentsError {
    #[error("there is no agent {name}")]
    NotFound { name: AgentName },
    #[error("there are {MAX_AGENTS} agents, the most one daemon may have")]
    TooMany,
    #[error(transparent)]
    Insert(#[from] InsertAgentError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What this reads of `daemon.info`.
#[derive(Deserialize)]
struct Info {
    version: String,
    api: ApiVersion,
    architecture: String,
}

/// What this reads of `user.whoami`.
#[derive(Deserialize)]
struct Whoami {
    uid: u32,
    role: Role,
}

impl Agents {
    /// Makes the desk, which goes the `ways` to agents.
    pub fn new(records: Records, ways: Arc<dyn ReachAgents>) -> Self {
        Self { records, ways }
    }

    /// Enters an agent. It is not asked anything.
    pub async fn add(&self, actor: &Actor, params: AddParams) -> Result<agent::Agent, Failure> {
        let row = self.entry(actor, params)?;
        let actor = *actor;
        let added = self.records.store.write(move |tx| {
            let grant = administer(&actor)?;
            if agents::count(tx)? >= MAX_AGENTS {
                return Err(AgentsError::TooMany);
            }
            insert(tx, grant, &row)?;
            let data = serde_json::json!({ "address": row.address });
            note(tx, &actor, row.added_at, "agent.added", &row.name, data)?;
            find(tx, &row.name)
        });
        added.await.map(view).map_err(|error| failure(&error))
    }

    /// Lists agents.
    pub async fn list(
        &self,
        actor: &Actor,
        params: ListParams,
    ) -> Result<Page<agent::Agent>, Failure> {
        let after = cursor(params.after)?;
        let limit = page_limit(params.limit)?;
        let actor = *actor;
        let page = self.records.store.read(move |tx| {
            oversee(&actor)?;
            Ok::<_, AgentsError>(agents::page(tx, after, limit)?)
        });
        let page = page.await.map_err(|error| failure(&error))?;
        Ok(Page {
            next: page.next_after.and_then(|seq| u64::try_from(seq).ok()),
            items: page.rows.into_iter().map(view).collect(),
        })
    }

    /// Tells about one agent.
    pub async fn get(&self, actor: &Actor, params: AgentParams) -> Result<agent::Agent, Failure> {
        self.look(actor, params.agent).await.map(view)
    }

    /// Strikes an agent off.
    pub async fn remove(
        &self,
        actor: &Actor,
        params: AgentParams,
    ) -> Result<agent::Agent, Failure> {
        let (actor, now) = (*actor, self.records.clock.now());
        let removed = self.records.store.write(move |tx| {
            let grant = administer(&actor)?;
            let row = find(tx, &params.agent)?;
            delete(tx, grant, &row.name)?;
            let data = serde_json::json!({ "address": row.address });
            note(tx, &actor, now, "agent.removed", &row.name, data)?;
            Ok::<_, AgentsError>(row)
        });
        removed.await.map(view).map_err(|error| failure(&error))
    }

    /// Asks an agent who it is, and notes whether it answered.
    pub async fn ping(&self, actor: &Actor, params: AgentParams) -> Result<Pong, Failure> {
        let row = self.look(actor, params.agent).await?;
        let begun = Instant::now();
        let asked = self.ask(&row).await;
        let took = begun.elapsed();
        let (info, whoami) = match asked {
            Ok(answers) => answers,
            Err(error) => {
                let failure = agent_failure(&row, &error);
                self.note_failed(actor, &row, &failure).await;
                return Err(failure);
            }
        };
        self.note_seen(actor, &row).await;
        let params = AgentParams { agent: row.name };
        Ok(Pong {
            agent: self.get(actor, params).await?,
            version: info.version,
            api: info.api,
            architecture: info.architecture,
            uid: whoami.uid,
            role: whoami.role,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        })
    }

    async fn ask(&self, row: &AgentRow) -> Result<(Info, Whoami), AgentError> {
        let place = place(row);
        let agent = self.ways.reach(&place).await?;
        let info = reach::call::<GetInfo, _>(&*agent, &InfoParams {}).await?;
        let whoami = reach::call::<GetWhoami, _>(&*agent, &WhoamiParams {}).await?;
        Ok((info, whoami))
    }

    /// Reads what is to be entered.
    fn entry(&self, actor: &Actor, params: AddParams) -> Result<AgentRow, Failure> {
        let timeout_seconds = params.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        if !(1..=MAX_TIMEOUT_SECONDS).contains(&timeout_seconds) {
            let message =
                format!("timeout_seconds is 1 to {MAX_TIMEOUT_SECONDS}, not {timeout_seconds}");
            return Err(Failure::new(codes::request::INVALID_PARAMS, message));
        }
        let has_files = params.identity_path.is_some() || params.known_hosts_path.is_some();
        if has_files && !matches!(params.address, AgentAddress::Ssh(_)) {
            let message = format!(
                "{} is not reached by SSH: no identity_path and no known_hosts_path belong to it",
                params.address
            );
            return Err(Failure::new(codes::request::INVALID_PARAMS, message));
        }
        Ok(AgentRow {
            seq: 0,
            name: params.name,
            address: params.address,
            identity_path: params.identity_path,
            known_hosts_path: params.known_hosts_path,
            timeout_seconds,
            added_by: actor.uid,
            added_at: self.records.clock.now(),
            last_seen_at: None,
            last_failed_at: None,
            last_error: None,
        })
    }

    async fn look(&self, actor: &Actor, name: AgentName) -> Result<AgentRow, Failure> {
        let actor = *actor;
        let found = self.records.store.read(move |tx| {
            oversee(&actor)?;
            find(tx, &name)
        });
        found.await.map_err(|error| failure(&error))
    }

    /// Notes that an agent answered.
    async fn note_seen(&self, actor: &Actor, row: &AgentRow) {
        let (actor, now, asked) = (*actor, self.records.clock.now(), row.clone());
        let noted = self.records.store.write(move |tx| {
            let Some(before) = as_it_was_asked(tx, &asked)? else {
                return Ok(());
            };
            agents::seen(tx, asked.seq, now)?;
            if state_of(&before) != AgentState::Online {
                let data = serde_json::json!({});
                note(tx, &actor, now, "agent.online", &asked.name, data)?;
            }
            Ok::<_, StoreError>(())
        });
        if let Err(error) = noted.await {
            // What it answered stands all the same; the next answer is noted again.
            tracing::warn!(agent = %row.name, %error, "cannot note that an agent answered");
        }
    }

    /// Notes that an agent did not answer.
    async fn note_failed(&self, actor: &Actor, row: &AgentRow, failure: &Failure) {
        let (actor, now, asked) = (*actor, self.records.clock.now(), row.clone());
        let code = failure.code.clone();
        let error = serde_json::to_value(failure).unwrap_or_default();
        let noted = self.records.store.write(move |tx| {
            let Some(before) = as_it_was_asked(tx, &asked)? else {
                return Ok(());
            };
            agents::failed(tx, asked.seq, now, &error)?;
            if state_of(&before) != AgentState::Offline {
                let data = serde_json::json!({ "code": code });
                note(tx, &actor, now, "agent.offline", &asked.name, data)?;
            }
            Ok::<_, StoreError>(())
        });
        if let Err(error) = noted.await {
            // The caller is told of the failure itself.
            tracing::warn!(agent = %row.name, %error, "cannot note that an agent did not answer");
        }
    }
}

/// Returns the agent that was asked, unless it was removed or entered anew meanwhile.
fn as_it_was_asked(
    tx: &WriteTransaction<'_>,
    asked: &AgentRow,
) -> Result<Option<AgentRow>, StoreError> {
    let found = agents::named(tx, &asked.name)?;
    Ok(found.filter(|row| row.seq == asked.seq))
}

fn administer(actor: &Actor) -> Result<Grant<Administer>, Denied> {
    permit(actor, &Belongs::TO_THE_DAEMON)
}

fn oversee(actor: &Actor) -> Result<Grant<Oversee>, Denied> {
    permit(actor, &Belongs::TO_THE_DAEMON)
}

fn insert(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Administer>,
    row: &AgentRow,
) -> Result<(), AgentsError> {
    Ok(agents::insert(tx, row)?)
}

fn delete(
    tx: &WriteTransaction<'_>,
    _grant: Grant<Administer>,
    name: &AgentName,
) -> Result<(), AgentsError> {
    agents::delete(tx, name)?;
    Ok(())
}

fn find(tx: &kiln_store::ReadTransaction<'_>, name: &AgentName) -> Result<AgentRow, AgentsError> {
    agents::named(tx, name)?.ok_or_else(|| AgentsError::NotFound { name: name.clone() })
}

fn note(
    tx: &WriteTransaction<'_>,
    actor: &Actor,
    at: Timestamp,
    kind: &str,
    name: &AgentName,
    data: serde_json::Value,
) -> Result<(), StoreError> {
    let event = NewEvent {
        at,
        actor: EventActor::from(actor),
        kind,
        object: Object::new(ObjectKind::Agent, name),
        data,
    };
    events::append(tx, &event).map(drop)
}

fn place(row: &AgentRow) -> AgentPlace {
    AgentPlace {
        address: row.address.clone(),
        identity_path: row.identity_path.clone(),
        known_hosts_path: row.known_hosts_path.clone(),
        timeout: Duration::from_secs(row.timeout_seconds),
    }
}

fn state_of(row: &AgentRow) -> AgentState {
    match (&row.last_error, row.last_seen_at) {
        (Some(_), _) => AgentState::Offline,
        (None, Some(_)) => AgentState::Online,
        (None, None) => AgentState::Unknown,
    }
}

fn view(row: AgentRow) -> agent::Agent {
    agent::Agent {
        state: state_of(&row),
        name: row.name,
        address: row.address,
        identity_path: row.identity_path,
        known_hosts_path: row.known_hosts_path,
        timeout_seconds: row.timeout_seconds,
        last_seen_at: row.last_seen_at.map(|at| at.to_string()),
        last_failed_at: row.last_failed_at.map(|at| at.to_string()),
        // A failure that an older daemon wrote differently is left out, not made up.
        last_error: row
            .last_error
            .and_then(|error| serde_json::from_value(error).ok()),
        added_by_uid: row.added_by,
        added_at: row.added_at.to_string(),
    }
}

fn failure(error: &AgentsError) -> Failure {
    match error {
        AgentsError::NotFound { .. } => Failure::from_error(codes::agent::NOT_FOUND, error),
        AgentsError::TooMany => Failure::from_error(codes::agent::TOO_MANY, error),
        AgentsError::Insert(InsertAgentError::Taken { .. }) => {
            Failure::from_error(codes::agent::ALREADY_EXISTS, error)
        }
        AgentsError::Denied(denied) => Failure::from_error(codes::request::DENIED, denied),
        AgentsError::Insert(InsertAgentError::Store(error)) | AgentsError::Store(error) => {
            store_failure(error)
        }
    }
}

/// Says what is wrong with an agent, with its name and place; its own errors pass as they are.
fn agent_failure(row: &AgentRow, error: &AgentError) -> Failure {
    let of = format!("agent {} at {}", row.name, row.address);
    said(&of, row, error)
}

/// Says what is wrong with an image on an agent.
fn image_failure(row: &AgentRow, image: &str, error: &AgentError) -> Failure {
    let of = format!("{image:?} on agent {} at {}", row.name, row.address);
    said(&of, row, error)
}

fn said(of: &str, row: &AgentRow, error: &AgentError) -> Failure {
    let code = match error {
        AgentError::Refused(failure) => return passed_on(of, row, failure),
        AgentError::Unreachable { .. } | AgentError::TimedOut { .. } | AgentError::Lost { .. } => {
            codes::agent::UNREACHABLE
        }
        AgentError::UnknownHost { .. } | AgentError::ChangedHost { .. } => codes::agent::UNTRUSTED,
        AgentError::AuthFailed { .. } | AgentError::KeyUnusable { .. } => codes::agent::AUTH_FAILED,
        AgentError::Incompatible { .. } => codes::agent::INCOMPATIBLE,
    };
    let failure = Failure::new(code, format!("{of}: {error}"));
    match error {
        AgentError::ChangedHost { .. } => failure.with_hint(
            "somebody may stand in between: compare the key with its host's own before you replace \
             the known one",
            None,
        ),
        AgentError::KeyUnusable { .. } => failure.with_hint(
            "see on this daemon's host that the private key is there, that the daemon's user can \
             read it and nobody else, and that it has no passphrase",
            None,
        ),
        _ => failure,
    }
}

/// Passes an agent's own error on. Its next step is one for the agent's host.
fn passed_on(of: &str, row: &AgentRow, failure: &Failure) -> Failure {
    let there = |hint: &Hint| Hint {
        text: format!("on the host of {}: {}", row.name, hint.text),
        command: hint.command.clone(),
    };
    Failure {
        message: printable(&format!("{of}: {failure}")),
        hint: failure.hint.as_ref().map(there),
        ..failure.clone()
    }
}
