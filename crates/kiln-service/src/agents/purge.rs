//! `image.purge`: many images on many agents, side by side.
//!
//! ```text
//! call ──▶ understand (pure) ──▶ operation ──▶ each agent: reach ─▶ look up ─▶ purge ─▶ prune
//!                                              eight at a time          four at a time
//! ```
//! An agent that does not answer costs its own time and nobody else's. What went stays gone when
//! something else fails or the operation is cancelled, and is told then too; the same call again
//! finds it gone.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;
use kiln_api::image::purge::{PurgeOutcome, PurgeParams, PurgedOnAgents};
use kiln_api::operation::{AgentProgress, AgentWork, Operation, Stage};
use kiln_api::{Failure, codes};
use kiln_domain::access::Actor;
use kiln_domain::{AgentName, ImagePattern, OperationId, OperationKind, OperationState};
use kiln_store::StoreError;
use kiln_store::agents::{self, AgentRow};

use super::far::{self, How, Meant, What};
use super::keys::{Wanted, understand};
use super::reach::{Agent, AgentError};
use super::sheet::{Sheet, summed};
use super::{Agents, AgentsError, administer, agent_failure, failure, image_failure, place};
use crate::board::{Kept, Running};
use crate::failures::store_failure;
use crate::pulls::{Attendance, Launched, Makes, Opening, cancelled, unless_cancelled};
use crate::transfers::{Ending, Happened};

/// How many agents are worked on side by side.
const AGENTS_AT_A_TIME: usize = 8;

/// How many things the subject of an operation names, and an event.
const NAMED: usize = 3;

/// The event that tells of a purge, whole or in part.
const PURGED: &str = "image.purged_on_agents";

/// What the job takes along.
struct Job {
    id: OperationId,
    actor: Actor,
    wanted: Vec<Wanted>,
    how: How,
    prunes: bool,
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
            done.map_err(|failure| ended_early(id, &running, unless_cancelled(&running, failure)))
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
        let sheets = job.wanted.iter().map(|one| Sheet::of(one.agent.clone()));
        let sheets: Vec<Sheet> = sheets.collect();
        let agents = job.wanted.iter().zip(&sheets).zip(rows).enumerate();
        let work = agents.map(|(index, ((wanted, sheet), row))| {
            let lane = Lane {
                running: &running,
                sheet,
                index,
            };
            self.purge_on(&job, wanted, row, lane)
        });
        let done = tokio::select! {
            _ = far::at_most(AGENTS_AT_A_TIME, work) => Ok(()),
            () = running.cancelled() => Err(cancelled()),
        };
        let purged = summed(sheets, job.how.dry_run);
        let result = serde_json::to_value(&purged).unwrap_or_default();
        let data = told(&job, &purged);
        running.keep(Kept {
            result: result.clone(),
            event: PURGED,
            data: data.clone(),
        });
        done?;
        let happened = Happened {
            kind: PURGED,
            object: None,
            data,
        };
        let ending = Ending {
            id: job.id,
            actor: job.actor,
            running,
        };
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

    /// Removes what is wanted on one agent. What comes of it stands on its sheet, whatever breaks.
    async fn purge_on(&self, job: &Job, wanted: &Wanted, row: Option<AgentRow>, lane: Lane<'_>) {
        let work = AssertUnwindSafe(self.work_on(job, wanted, row, &lane));
        if work.catch_unwind().await.is_err() {
            let message = format!("agent {}: the work there panicked", wanted.agent);
            tracing::error!(operation = %job.id, "{message}");
            lane.sheet
                .failed(Failure::new(codes::daemon::INTERNAL, message));
        }
        lane.sheet.over();
        lane.work(if lane.sheet.has_failed() {
            AgentWork::Failed
        } else {
            AgentWork::Done
        });
    }

    async fn work_on(&self, job: &Job, wanted: &Wanted, row: Option<AgentRow>, lane: &Lane<'_>) {
        let Some(row) = row else {
            let name = wanted.agent.clone();
            lane.sheet.failed(failure(&AgentsError::NotFound { name }));
            return;
        };
        lane.work(AgentWork::Reaching);
        let lost = match self.ways.reach(&place(&row)).await {
            Ok(agent) => {
                lane.work(AgentWork::Purging);
                self.note_seen(&job.actor, &row).await;
                work_through(&*agent, job, wanted, &row, lane).await
            }
            Err(error) => {
                let failure = agent_failure(&row, &error);
                lane.sheet.failed(failure.clone());
                Some(failure)
            }
        };
        if let Some(failure) = lost {
            self.note_failed(&job.actor, &row, &failure).await;
        }
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
) -> Option<Failure> {
    let meant = far::look_up(agent, &wanted.images).await;
    lane.sheet.looked_up(&meant);
    let total = meant.len() as u64;
    lane.items(0, total);
    let count = AtomicU64::new(0);
    let each = meant.iter().enumerate().map(async |(index, one)| {
        let came = match &one.what {
            What::Image { id, .. } => far::purge(agent, *id, job.how).await,
            What::Nothing => Ok(None),
            What::Failed(error) => Err(error.clone()),
        };
        let is_lost = came.as_ref().is_err_and(is_lost);
        let end = came.map_err(|error| image_failure(row, called(one), &error));
        let lost = end.as_ref().err().filter(|_| is_lost).cloned();
        lane.sheet.ended(index, end);
        lane.items(count.fetch_add(1, Ordering::Relaxed) + 1, total);
        lost
    });
    let lost = far::side_by_side(each).await;
    let lost = lost.into_iter().flatten().next();
    if !job.prunes || lost.is_some() || !lane.sheet.has_purged() {
        return lost;
    }
    match far::prune(agent).await {
        Ok(bytes) => {
            lane.sheet.pruned(bytes);
            None
        }
        Err(error) => {
            let failure = agent_failure(row, &error);
            lane.sheet.failed(failure.clone());
            is_lost(&error).then_some(failure)
        }
    }
}

/// One agent's place in the progress, and its sheet.
struct Lane<'a> {
    running: &'a Running,
    sheet: &'a Sheet,
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

/// Returns what an image is called where something is said of it: as the call named it, or by its
/// name where a pattern chose it.
fn called(meant: &Meant) -> &str {
    match &meant.what {
        What::Image { name, .. } if ImagePattern::is_meant_by(&meant.item) => name.as_str(),
        _ => &meant.item,
    }
}

/// Says of an operation that did not succeed where what it has done is told.
fn ended_early(id: OperationId, running: &Running, failure: Failure) -> Failure {
    if running.kept().is_none() {
        return failure;
    }
    failure.with_hint(
        "what was removed by then stays gone, and is told by:",
        Some(format!("kiln op show {id}")),
    )
}

/// What an event says of a purge.
fn told(job: &Job, purged: &PurgedOnAgents) -> serde_json::Value {
    serde_json::json!({
        "agents": job.wanted.iter().map(|one| &one.agent).collect::<Vec<_>>(),
        "purged": purged.purged, "failed": purged.errors.len(),
        "freed_bytes": purged.freed_bytes, "dry_run": purged.dry_run,
    })
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
