//! `image.purge`: many images on many agents, side by side.
//!
//! ```text
//! call ──▶ understand (pure) ──▶ operation ──▶ each agent: reach ─▶ look up ─▶ purge ─▶ prune
//!                                              eight at a time          four at a time
//! ```
//! An agent that does not answer costs its own time and nobody else's. What went stays gone when
//! something else fails or the operation is cancelled; the same call again finds it gone.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_api::image::purge::{
    PurgeError, PurgeOutcome, PurgeParams, PurgedImage, PurgedOnAgent, PurgedOnAgents,
};
use kiln_api::operation::{AgentProgress, AgentWork, Operation, Stage};
use kiln_api::{Failure, codes};
use kiln_domain::access::Actor;
use kiln_domain::{AgentName, Architecture, OperationId, OperationKind, OperationState};
use kiln_store::StoreError;
use kiln_store::agents::{self, AgentRow};

use super::far::{self, How, Meant, What};
use super::keys::{Wanted, understand};
use super::reach::{Agent, AgentError};
use super::{Agents, AgentsError, administer, agent_failure, failure, place};
use crate::board::Running;
use crate::failures::store_failure;
use crate::pulls::{Attendance, Launched, Makes, Opening, cancelled, unless_cancelled};
use crate::transfers::{Ending, Happened};

/// How many agents are worked on side by side.
const AGENTS_AT_A_TIME: usize = 8;

/// How many things the subject of an operation names, and an event.
const NAMED: usize = 3;

/// What the job takes along.
struct Job {
    id: OperationId,
    actor: Actor,
    wanted: Vec<Wanted>,
    how: How,
    prunes: bool,
}

/// What came of one agent.
#[derive(Default)]
struct OnAgent {
    purged: Option<PurgedOnAgent>,
    errors: Vec<PurgeError>,
}

impl Agents {
    /// Removes images on agents; the work goes on when the caller hangs up.
    pub async fn purge(&self, actor: &Actor, params: PurgeParams) -> Result<PurgeOutcome, Failure> {
        administer(actor).map_err(|denied| failure(&AgentsError::Denied(denied)))?;
        let wanted = understand(&params)?;
        let recorded = serde_json::json!({
            "agents": wanted.iter().map(|one| &one.agent).collect::<Vec<_>>(),
            "images": wanted.iter().map(|one| one.images.len()).sum::<usize>(),
            "force": params.force, "noprune": params.noprune, "dry_run": params.dry_run,
        });
        let opening = Opening {
            kind: OperationKind::ImagePurge,
            actor: *actor,
            makes: Makes::Nothing,
            subject: kiln_api::failure::printable(&subject(&wanted)),
            params: recorded,
        };
        let (desk, actor) = (self.clone(), *actor);
        let how = How {
            force: params.force,
            dry_run: params.dry_run,
        };
        let prunes = !params.noprune && !params.dry_run;
        let run = move |id, running: Arc<Running>| async move {
            let job = Job {
                id,
                actor,
                wanted,
                how,
                prunes,
            };
            let done = desk.run_purge(job, running.clone()).await;
            done.map_err(|failure| unless_cancelled(&running, failure))
        };
        let attendance = Attendance::of(params.detach);
        match self.records.launch(opening, attendance, run).await? {
            Launched::Started(started) => Ok(PurgeOutcome::Started(Box::new(started))),
            Launched::Ended(operation) => ended(operation),
        }
    }

    async fn run_purge(self, job: Job, running: Arc<Running>) -> Result<(), Failure> {
        let rows = self.rows(&job.wanted).await?;
        running.enter(Stage::Purge);
        running.agents(job.wanted.iter().map(waiting).collect());
        let agents = job.wanted.iter().zip(rows).enumerate();
        let work = agents.map(|(index, (wanted, row))| {
            let lane = Lane {
                running: &running,
                index,
            };
            self.purge_on(&job, wanted, row, lane)
        });
        let done = tokio::select! {
            done = far::at_most(AGENTS_AT_A_TIME, work) => done,
            () = running.cancelled() => return Err(cancelled()),
        };
        let purged = summed(done, job.how.dry_run);
        let happened = Happened {
            kind: "image.purged_on_agents",
            object: None,
            data: serde_json::json!({
                "agents": job.wanted.iter().map(|one| &one.agent).collect::<Vec<_>>(),
                "purged": purged.purged, "failed": purged.errors.len(),
                "freed_bytes": purged.freed_bytes, "dry_run": purged.dry_run,
            }),
        };
        let ending = Ending {
            id: job.id,
            actor: job.actor,
            running,
        };
        let result = serde_json::to_value(&purged).unwrap_or_default();
        self.records.finish(ending, result, happened).await
    }

    /// Reads the agents that are named; those that are none are told apart later.
    async fn rows(&self, wanted: &[Wanted]) -> Result<Vec<Option<AgentRow>>, Failure> {
        let names: Vec<AgentName> = wanted.iter().map(|one| one.agent.clone()).collect();
        let rows = self.records.store.read(move |tx| {
            let names = names.iter();
            let rows: Result<Vec<_>, StoreError> =
                names.map(|name| agents::named(tx, name)).collect();
            rows
        });
        rows.await.map_err(|error| store_failure(&error))
    }

    async fn purge_on(
        &self,
        job: &Job,
        wanted: &Wanted,
        row: Option<AgentRow>,
        lane: Lane<'_>,
    ) -> OnAgent {
        let mut done = OnAgent::default();
        let Some(row) = row else {
            let name = wanted.agent.clone();
            let failure = failure(&AgentsError::NotFound { name });
            done.errors.push(whole(&wanted.agent, failure));
            lane.work(AgentWork::Failed);
            return done;
        };
        lane.work(AgentWork::Reaching);
        let lost = match self.ways.reach(&place(&row)).await {
            Ok(agent) => {
                lane.work(AgentWork::Purging);
                self.note_seen(&job.actor, &row).await;
                work_through(&*agent, job, wanted, &row, &lane, &mut done).await
            }
            Err(error) => {
                let failure = agent_failure(&row, &error);
                done.errors.push(whole(&row.name, failure.clone()));
                Some(failure)
            }
        };
        if let Some(failure) = lost {
            self.note_failed(&job.actor, &row, &failure).await;
        }
        lane.work(if done.errors.is_empty() {
            AgentWork::Done
        } else {
            AgentWork::Failed
        });
        done
    }
}

/// Looks up and removes what is wanted on an agent that was reached. Returns why it was lost, if it
/// was.
async fn work_through(
    agent: &dyn Agent,
    job: &Job,
    wanted: &Wanted,
    row: &AgentRow,
    lane: &Lane<'_>,
    done: &mut OnAgent,
) -> Option<Failure> {
    let meant = far::look_up(agent, &wanted.images).await;
    lane.items(0, meant.len() as u64);
    let count = AtomicU64::new(0);
    let total = meant.len() as u64;
    let each = meant.iter().map(async |one: &Meant| {
        let came = match &one.what {
            What::Image { id, .. } => far::purge(agent, *id, job.how).await,
            What::Nothing => Ok(None),
            What::Failed(error) => Err(error.clone()),
        };
        lane.items(count.fetch_add(1, Ordering::Relaxed) + 1, total);
        came
    });
    let came = far::side_by_side(each).await;
    let mut entry = PurgedOnAgent {
        agent_id: row.name.clone(),
        images: Vec::new(),
        freed_bytes: 0,
        pruned_bytes: None,
    };
    let mut lost = None;
    for (one, came) in meant.into_iter().zip(came) {
        match came {
            Ok(freed_bytes) => {
                entry.freed_bytes += freed_bytes.unwrap_or(0);
                entry.images.push(gone(one, freed_bytes));
            }
            Err(error) => {
                let failure = agent_failure(row, &error);
                lost = lost.or_else(|| is_lost(&error).then(|| failure.clone()));
                done.errors.push(of_item(&row.name, one, failure));
            }
        }
    }
    let has_purged = entry.images.iter().any(|image| !image.already_purged);
    if job.prunes && has_purged && lost.is_none() {
        match far::prune(agent).await {
            Ok(bytes) => entry.pruned_bytes = bytes,
            Err(error) => {
                let failure = agent_failure(row, &error);
                lost = is_lost(&error).then(|| failure.clone());
                done.errors.push(whole(&row.name, failure));
            }
        }
    }
    done.purged = Some(entry);
    lost
}

/// One agent's place in the progress.
struct Lane<'a> {
    running: &'a Running,
    index: usize,
}

impl Lane<'_> {
    fn work(&self, state: AgentWork) {
        self.running.agent(self.index, |agent| agent.state = state);
    }

    fn items(&self, done: u64, total: u64) {
        self.running.agent(self.index, |agent| {
            agent.items_done = done;
            agent.items_total = Some(total);
        });
    }
}

fn waiting(wanted: &Wanted) -> AgentProgress {
    AgentProgress {
        agent_id: wanted.agent.clone(),
        state: AgentWork::Waiting,
        items_done: 0,
        items_total: None,
    }
}

/// Tells whether an error says that the agent itself is not there, or not to be trusted.
fn is_lost(error: &AgentError) -> bool {
    error.refusal().is_none()
}

fn gone(meant: Meant, freed_bytes: Option<u64>) -> PurgedImage {
    let (image_id, name) = match meant.what {
        What::Image { id, name } => (Some(id), Some(name)),
        What::Nothing | What::Failed(_) => (None, None),
    };
    PurgedImage {
        item: meant.item,
        architecture: word(meant.architecture),
        image_id,
        name,
        freed_bytes: freed_bytes.unwrap_or(0),
        already_purged: freed_bytes.is_none(),
    }
}

fn of_item(agent: &AgentName, meant: Meant, error: Failure) -> PurgeError {
    PurgeError {
        agent_id: agent.clone(),
        item: Some(meant.item),
        architecture: word(meant.architecture),
        image_id: match meant.what {
            What::Image { id, .. } => Some(id),
            What::Nothing | What::Failed(_) => None,
        },
        error,
    }
}

fn whole(agent: &AgentName, error: Failure) -> PurgeError {
    PurgeError {
        agent_id: agent.clone(),
        item: None,
        architecture: None,
        image_id: None,
        error,
    }
}

fn word(architecture: Option<Architecture>) -> Option<String> {
    architecture.map(|known| known.as_str().to_owned())
}

fn summed(done: Vec<OnAgent>, is_dry_run: bool) -> PurgedOnAgents {
    let mut all = PurgedOnAgents {
        dry_run: is_dry_run,
        ..PurgedOnAgents::default()
    };
    for one in done {
        all.errors.extend(one.errors);
        let Some(entry) = one.purged else { continue };
        let already = entry.images.iter().filter(|image| image.already_purged);
        let already = already.count() as u64;
        all.already_purged += already;
        all.purged += entry.images.len() as u64 - already;
        all.freed_bytes += entry.freed_bytes + entry.pruned_bytes.unwrap_or(0);
        all.purged_images.push(entry);
    }
    all
}

/// Says in a line what is to go where: `app:old, cache:old on agent-1, agent-2`.
fn subject(wanted: &[Wanted]) -> String {
    let mut seen = HashSet::new();
    let images = wanted.iter().flat_map(|one| one.images.iter());
    let images = images.filter(|image| seen.insert(image.item.as_str()));
    let images = few(images.map(|image| image.item.clone()).collect());
    let agents = few(wanted.iter().map(|one| one.agent.to_string()).collect());
    format!("{images} on {agents}")
}

fn few(names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let first = names.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if more == 0 {
        first
    } else {
        format!("{first} and {more} more")
    }
}

fn ended(operation: Operation) -> Result<PurgeOutcome, Failure> {
    match (operation.state, operation.purged, operation.error) {
        (OperationState::Succeeded, Some(purged), _) => Ok(PurgeOutcome::Purged(purged)),
        (_, _, Some(failure)) => Err(failure),
        (state, ..) => {
            let message = format!("operation {} is {state} and says no more", operation.id);
            Err(Failure::new(codes::daemon::INTERNAL, message).with_operation(operation.id))
        }
    }
}
