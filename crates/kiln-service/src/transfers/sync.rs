//! `registry.sync`: rule after rule, tag after tag, and nothing that is there already.
//!
//! ```text
//! rule ─▶ repositories (catalogue) ─▶ tags (list) ─▶ chosen ─▶ digest here = digest there?
//!                                                              │ no
//!                                                              ▼
//!                                                             copied like any other
//! ```
//! It is run again to go on: what has arrived is passed over by its digest. What fails is told and
//! stops nothing but itself.

mod rules;

use std::pin::Pin;
use std::sync::Arc;

use kiln_api::operation::{Operation, Stage};
use kiln_api::registry::sync::{
    SyncItem, SyncItemOutcome, SyncOutcome, SyncParams, Synced, SyncedItem,
};
use kiln_api::{Failure, codes};
use kiln_domain::access::Actor;
use kiln_domain::{OperationId, OperationKind, OperationState, Reference};
use kiln_registry::{Breadth, Graph, ImageSource, Registry, Remote, read_graph};

use self::rules::{End, Rule, understand};
use super::copy::cached_for;
use super::finish::{Ending, Happened};
use super::shipment::Shipment;
use super::{Destination, Transfers};
use crate::board::Running;
use crate::failures::source_failure;
use crate::pulls::{Attendance, Launched, Makes, Opening, cancelled, unless_cancelled};

/// Most rules of one sync.
const MAX_RULES: usize = 256;

/// Most things that one sync copies, or finds there: they are all told in its result.
const MAX_ITEMS: usize = 5_000;

/// Most names that are read of one list of a registry's.
const MAX_NAMES: usize = 100_000;

/// What the job takes along.
struct Job {
    actor: Actor,
    rules: Vec<Rule>,
    is_dry_run: bool,
}

/// One repository that a rule chose, on both sides.
struct Pair<'a> {
    rule: &'a Rule,
    /// The source's registry with its mirrors; each tag is work of its own there.
    from: Remote,
    into: Registry,
    source: Reference,
    target: Reference,
}

/// A list of a registry's.
#[derive(Clone, Copy)]
enum List<'a> {
    Repositories,
    Tags(&'a Reference),
}

type Names<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, Failure>> + Send + 'a>>;

impl Transfers {
    /// Copies by rule; the work goes on when the caller hangs up.
    pub async fn sync(&self, actor: &Actor, params: SyncParams) -> Result<SyncOutcome, Failure> {
        if params.rules.is_empty() || params.rules.len() > MAX_RULES {
            let message = format!("a sync has 1 to {MAX_RULES} rules");
            return Err(Failure::new(codes::request::INVALID_PARAMS, message));
        }
        let places = params.rules.iter();
        let recorded = serde_json::json!({
            "rules": places.map(|rule| [&rule.from, &rule.into]).collect::<Vec<_>>(),
            "dry_run": params.dry_run,
        });
        let subject = match params.rules.as_slice() {
            [rule] => format!("{} to {}", rule.from, rule.into),
            rules => format!("{} rules", rules.len()),
        };
        let rules = params.rules.iter();
        let rules = rules.map(|rule| understand(rule, &self.remotes));
        let job = Job {
            actor: *actor,
            rules: rules.collect::<Result<_, _>>()?,
            is_dry_run: params.dry_run,
        };
        let opening = Opening {
            kind: OperationKind::RegistrySync,
            actor: *actor,
            makes: Makes::Nothing,
            subject: kiln_api::failure::printable(&subject),
            params: recorded,
        };
        let desk = self.clone();
        let attendance = Attendance::of(params.detach);
        let run = |id, running: Arc<Running>| async move {
            let done = desk.run_sync(id, job, running.clone()).await;
            done.map_err(|failure| unless_cancelled(&running, failure))
        };
        match self.records.launch(opening, attendance, run).await? {
            Launched::Started(started) => Ok(SyncOutcome::Started(Box::new(started))),
            Launched::Ended(operation) => ended(operation),
        }
    }

    async fn run_sync(
        self,
        id: OperationId,
        job: Job,
        running: Arc<Running>,
    ) -> Result<(), Failure> {
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
            id,
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
        for rule in &job.rules {
            running.enter(Stage::Resolve);
            let pairs = match self.pairs_of(rule).await {
                Ok(pairs) => pairs,
                Err(failure) => {
                    note(synced, rule.from_text.clone(), Err(failure))?;
                    continue;
                }
            };
            for pair in pairs {
                self.follow_pair(job, &pair, running, synced).await?;
            }
        }
        Ok(())
    }

    /// Finds the repositories that a rule means.
    async fn pairs_of<'a>(&self, rule: &'a Rule) -> Result<Vec<Pair<'a>>, Failure> {
        let open = |end: &End| {
            let credentials = end.credentials.clone();
            let opened = self
                .remotes
                .registry_with(&end.registry, credentials, end.tls);
            opened.map_err(|error| source_failure(&error))
        };
        let into = open(&rule.into)?;
        let names = if let Some(name) = rule.repository() {
            vec![name.to_owned()]
        } else {
            let from = open(&rule.from)?;
            let listed = all_names(&from, List::Repositories).await?;
            let wanted = |name: &String| rule.means(name);
            listed.into_iter().filter(wanted).collect()
        };
        let pair = |name: String| {
            let (source, target) = rule.places(&name)?;
            let from = self
                .remotes
                .remote(&source, &rule.identities, rule.from.tls);
            Ok(Pair {
                rule,
                from: from.map_err(|error| source_failure(&error))?,
                into: into.clone(),
                source,
                target,
            })
        };
        names.into_iter().map(pair).collect()
    }

    async fn follow_pair(
        &self,
        job: &Job,
        pair: &Pair<'_>,
        running: &Arc<Running>,
        synced: &mut Synced,
    ) -> Result<(), Failure> {
        let tags = if let Some(tags) = pair.rule.literal_tags() {
            tags
        } else {
            let (registry, reference) = pair.from.location(&pair.source);
            match all_names(registry, List::Tags(&reference)).await {
                Ok(tags) => pair.rule.choose(tags),
                Err(failure) => return note(synced, repository_of(&pair.source), Err(failure)),
            }
        };
        for tag in tags {
            running.enter(Stage::Resolve);
            let item = format!("{}:{tag}", repository_of(&pair.source));
            let done = self.follow_tag(job, pair, &tag, running).await;
            if running.is_cancelled() {
                return Err(cancelled());
            }
            note(synced, item, done)?;
        }
        Ok(())
    }

    async fn follow_tag(
        &self,
        job: &Job,
        pair: &Pair<'_>,
        tag: &str,
        running: &Arc<Running>,
    ) -> Result<SyncedItem, Failure> {
        let invalid = |error: kiln_domain::ReferenceError| {
            Failure::from_error(codes::source::INVALID_REFERENCE, &error)
        };
        let source = pair.source.with_tag(tag).map_err(invalid)?;
        // What one tag lost to faults is not missing for those behind it.
        let from = pair.from.for_other_work();
        let target = pair.target.with_tag(tag).map_err(invalid)?;
        let item = |digest: String, sent_bytes, is_up_to_date| SyncedItem {
            into: target.to_string(),
            digest,
            is_up_to_date,
            sent_bytes,
        };
        // A platform of an index has another digest than its tag; referrers change without it.
        if pair.rule.breadth == Breadth::Everything && !pair.rule.has_referrers {
            let (registry, located) = from.location(&source);
            let here = registry.manifest_digest(&located).await;
            let here = here.map_err(|error| source_failure(&error))?;
            if let Some(here) = here {
                let there = pair.into.manifest_digest(&target).await;
                if there.map_err(|error| source_failure(&error))? == Some(here) {
                    return Ok(item(here.to_string(), 0, true));
                }
            }
        }
        let opened = ImageSource::Registry {
            registry: from,
            reference: source.clone(),
        };
        let graph = read_graph(&opened, pair.rule.breadth).await;
        let mut graph = graph.map_err(|error| source_failure(&error))?;
        let referrers = if pair.rule.has_referrers {
            self.add_referrers(&opened, &mut graph).await?
        } else {
            0
        };
        if job.is_dry_run {
            let missing = missing_bytes(&pair.into, &target, &graph).await?;
            let there = pair.into.manifest_digest(&target).await;
            let there = there.map_err(|error| source_failure(&error))?;
            let is_there = there == Some(graph.root) && referrers == 0;
            return Ok(item(graph.root.to_string(), missing, is_there));
        }
        let destination = Destination {
            registry: pair.into.clone(),
            reference: target.clone(),
            tags: vec![target.clone()],
        };
        let shipment = Shipment {
            desk: self,
            source: Some(&opened),
            mount_from: Some(&source),
            cached: cached_for(&job.actor),
            into: &destination,
            running,
        };
        let done = shipment.send(&graph, referrers).await?;
        Ok(item(done.digest, done.sent.bytes, done.is_up_to_date))
    }
}

/// Adds up what of a graph is not at its destination.
async fn missing_bytes(
    registry: &Registry,
    target: &Reference,
    graph: &Graph,
) -> Result<u64, Failure> {
    let mut missing: u64 = 0;
    for blob in &graph.blobs {
        let found = registry.blob_size(target, &blob.digest).await;
        if found.map_err(|error| source_failure(&error))? != Some(blob.size_bytes) {
            missing = missing.saturating_add(blob.size_bytes);
        }
    }
    Ok(missing)
}

/// Reads a list of a registry's, page after page.
fn all_names<'a>(registry: &'a Registry, list: List<'a>) -> Names<'a> {
    // Boxed: the compiler does not see through the lifetimes of what it awaits otherwise.
    Box::pin(async move {
        let mut names = Vec::new();
        let mut after = None;
        let mut turning = registry.turning();
        loop {
            let page = match list {
                List::Repositories => registry.catalog(None, after.as_ref()).await,
                List::Tags(reference) => registry.tags(reference, None, after.as_ref()).await,
            };
            let page = page.map_err(|error| source_failure(&error))?;
            names.extend(page.items);
            let next = turning.on(page.next);
            after = next.map_err(|error| source_failure(&error.into()))?;
            if after.is_none() {
                return Ok(names);
            }
            if names.len() > MAX_NAMES {
                let message = format!("a registry's list has more than {MAX_NAMES} names");
                return Err(Failure::new(codes::source::UNSUPPORTED, message));
            }
        }
    })
}

/// Notes what came of one thing; fails when there are too many to be told.
fn note(
    synced: &mut Synced,
    item: String,
    done: Result<SyncedItem, Failure>,
) -> Result<(), Failure> {
    if synced.items.len() >= MAX_ITEMS {
        let message = format!("the rules choose more than {MAX_ITEMS} tags");
        return Err(Failure::new(codes::request::INVALID_PARAMS, message)
            .with_hint("write more rules of fewer tags, in several files", None));
    }
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
    Ok(())
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
