//! `registry.sync`: rule after rule, four tags side by side, and nothing that is there already.
//!
//! ```text
//! rule ─▶ repositories (catalogue) ─▶ tags (list) ─▶ chosen ─▶ digest here = digest there?
//!      └▶ images of this host ─▶ their tags ────────────┘        │ no
//!                                                                ▼
//!                                                 copied, or pushed, like any other
//! ```
//! It is run again to go on: what has arrived is passed over by its digest. What fails is told and
//! stops nothing but itself. What came of each is told in the order of the rules and their lists.

mod choose;
mod image;
mod rules;
mod tag;

use std::sync::Arc;

use futures_util::stream::{FuturesOrdered, StreamExt as _};
use kiln_api::operation::{Operation, Stage};
use kiln_api::registry::sync::{
    SyncItem, SyncItemOutcome, SyncOutcome, SyncParams, SyncRule, Synced, SyncedItem,
};
use kiln_api::{Failure, codes};
use kiln_domain::access::Actor;
use kiln_domain::{OperationId, OperationKind, OperationState, Reference};

use self::choose::{Chosen, What};
use self::rules::{Rule, understand};
use super::Transfers;
use super::finish::{Ending, Happened};
use super::whereabouts::Counted;
use crate::board::Running;
use crate::pulls::{Attendance, Launched, Makes, Opening, cancelled, unless_cancelled};

/// Most rules of one sync.
const MAX_RULES: usize = 256;

/// Most things that one sync copies, or finds there: they are all told in its result.
const MAX_ITEMS: usize = 5_000;

/// How many tags are brought side by side: of those that are there already each costs two short
/// questions, which is mostly waiting.
const TAGS_AT_A_TIME: usize = 4;

/// What the job takes along.
struct Job {
    id: OperationId,
    actor: Actor,
    rules: Vec<Rule>,
    is_dry_run: bool,
    counted: Arc<Counted>,
}

impl Transfers {
    /// Copies by rule; the work goes on when the caller hangs up.
    pub async fn sync(&self, actor: &Actor, params: SyncParams) -> Result<SyncOutcome, Failure> {
        if params.rules.is_empty() || params.rules.len() > MAX_RULES {
            let message = format!("a sync has 1 to {MAX_RULES} rules");
            return Err(Failure::new(codes::request::INVALID_PARAMS, message));
        }
        let places = params.rules.iter();
        let recorded = serde_json::json!({
            "rules": places.map(|rule| [origin_of(rule), &rule.into]).collect::<Vec<_>>(),
            "dry_run": params.dry_run,
        });
        let subject = match params.rules.as_slice() {
            [rule] => format!("{} to {}", origin_of(rule), rule.into),
            rules => format!("{} rules", rules.len()),
        };
        let rules = params.rules.iter();
        let rules = rules.map(|rule| understand(rule, &self.remotes));
        let rules: Vec<Rule> = rules.collect::<Result<_, _>>()?;
        let opening = Opening {
            kind: OperationKind::RegistrySync,
            actor: *actor,
            makes: Makes::Nothing,
            subject: kiln_api::failure::printable(&subject),
            params: recorded,
        };
        let (desk, actor, is_dry_run) = (self.clone(), *actor, params.dry_run);
        let attendance = Attendance::of(params.detach);
        let run = move |id, running: Arc<Running>| async move {
            let job = Job {
                id,
                actor,
                rules,
                is_dry_run,
                counted: Arc::default(),
            };
            let done = desk.run_sync(job, running.clone()).await;
            done.map_err(|failure| unless_cancelled(&running, failure))
        };
        match self.records.launch(opening, attendance, run).await? {
            Launched::Started(started) => Ok(SyncOutcome::Started(Box::new(started))),
            Launched::Ended(operation) => ended(operation),
        }
    }

    async fn run_sync(self, job: Job, running: Arc<Running>) -> Result<(), Failure> {
        let mut synced = Synced {
            dry_run: job.is_dry_run,
            ..Synced::default()
        };
        tokio::select! {
            done = self.follow(&job, &running, &mut synced) => done?,
            () = running.cancelled() => return Err(cancelled()),
        }
        let happened = Happened {
            kind: "registry.synced",
            object: None,
            data: serde_json::json!({
                "copied": synced.copied, "up_to_date": synced.up_to_date,
                "failed": synced.failed, "sent_bytes": synced.sent_bytes,
                "dry_run": synced.dry_run,
            }),
        };
        let ending = Ending {
            id: job.id,
            actor: job.actor,
            running,
        };
        let result = serde_json::to_value(&synced).unwrap_or_default();
        self.finish(ending, result, happened).await
    }

    async fn follow(
        &self,
        job: &Job,
        running: &Arc<Running>,
        synced: &mut Synced,
    ) -> Result<(), Failure> {
        running.enter(Stage::Resolve);
        let chosen;
        (chosen, synced.unmatched) = self.choose(job).await?;
        let total = chosen.len() as u64;
        running.enter(Stage::Send);
        running.items(0, total);
        let mut waiting = chosen.into_iter();
        let mut brought = FuturesOrdered::new();
        loop {
            while brought.len() < TAGS_AT_A_TIME
                && let Some(one) = waiting.next()
            {
                brought.push_back(self.bring(job, one, running));
            }
            let Some((item, done)) = brought.next().await else {
                break;
            };
            if running.is_cancelled() {
                return Err(cancelled());
            }
            note(synced, item, done);
            running.items(synced.items.len() as u64, total);
        }
        Ok(())
    }

    /// Brings one thing to its place, unless it is there.
    async fn bring(
        &self,
        job: &Job,
        chosen: Chosen<'_>,
        running: &Arc<Running>,
    ) -> (String, Result<SyncedItem, Failure>) {
        // Dropping it stops what threads of it would still do, also when this one fails alone.
        let part = running.part();
        let done = match chosen.what {
            What::Tag { pair, tag } => self.bring_tag(job, &pair, &tag, part.running()).await,
            What::Image(image) => Box::pin(self.bring_image(job, &image, part.running())).await,
            What::Nothing(failure) => Err(failure),
        };
        (chosen.item, done)
    }
}

/// Returns what a rule chooses from, as it was written.
fn origin_of(rule: &SyncRule) -> &String {
    rule.images.as_ref().unwrap_or(&rule.from)
}

/// Notes what came of one thing.
fn note(synced: &mut Synced, item: String, done: Result<SyncedItem, Failure>) {
    let outcome = match done {
        Ok(done) => {
            synced.sent_bytes = synced.sent_bytes.saturating_add(done.sent_bytes);
            if done.is_up_to_date {
                synced.up_to_date += 1;
            } else {
                synced.copied += 1;
            }
            SyncItemOutcome::Ok(done)
        }
        Err(failure) => {
            synced.failed += 1;
            SyncItemOutcome::Error(Box::new(failure))
        }
    };
    synced.items.push(SyncItem { item, outcome });
}

fn repository_of(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

fn ended(operation: Operation) -> Result<SyncOutcome, Failure> {
    match (operation.state, operation.synced, operation.error) {
        (OperationState::Succeeded, Some(synced), _) => Ok(SyncOutcome::Synced(synced)),
        (_, _, Some(failure)) => Err(failure),
        (state, ..) => {
            let message = format!("operation {} is {state} and says no more", operation.id);
            Err(Failure::new(codes::daemon::INTERNAL, message).with_operation(operation.id))
        }
    }
}
