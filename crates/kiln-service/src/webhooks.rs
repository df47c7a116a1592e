//! Pushes that registries tell of: each becomes an image, by rule.
//!
//! ```text
//! take: rules ──▶ one job per rule, repository, tag and digest, and an event   (one transaction)
//!        └── of no use: event
//! run:  job ──▶ the daemon's login ──▶ image.pull ──▶ job gone, event
//!        └── failed: again later, or for good: job gone, event
//! ```
//! What it did to images is on record like a caller's calls, in the transaction of that event.
//! A job outlives the daemon, and a push that is told of twice is one job and one image. What listens,
//! and how notifications look, is not here.

mod deeds;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kiln_api::image::{self, BootChoice, ForgetParams, GetParams, Image, ListParams, PullParams};
use kiln_api::{Failure, codes};
use kiln_domain::access::Actor;
use kiln_domain::{
    ImageName, KernelName, NameTemplate, PushAction, PushRule, Pushed, Reference, Timestamp,
};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::jobs::{self, JobRow, NewJob};
use kiln_store::{Object, ObjectKind, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use self::deeds::Deed;
use crate::clock::Clock;
use crate::failures::{login_failure, store_failure, with_causes};
use crate::images::Images;
use crate::pulls::{DEFAULT, Pulls};
use crate::system_logins::{SystemLogins, wire_credentials};

/// The kind of job this module does.
const JOB: &str = "webhook.pull";

/// Most jobs that wait. Whoever tells of more is asked to come again.
const MAX_WAITING: u64 = 10_000;

/// How many are pulled at a time: people's own pulls are to find room.
const AT_A_TIME: u32 = 2;

/// How often the store is asked for work that nobody announced: what is due again.
const LOOK: Duration = Duration::from_secs(2);

/// Attempts after which a push is given up: some four hours of pauses.
const MAX_ATTEMPTS: u32 = 14;

/// The first pause after a failure; it doubles from one to the next.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// Most images that one page of a list brings.
const PAGE: u32 = 1_000;

/// What became of pushes that were told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// How many wait to be pulled.
    pub accepted: usize,
    /// How many no rule is about.
    pub ignored: usize,
    /// How many a rule is about that nothing can be made of. They are told by an event, and not
    /// refused: a registry sends again what is refused, before anything else.
    pub failed: usize,
}

/// Takes pushes and pulls by rule.
#[derive(Clone, Debug)]
pub struct Webhooks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    clock: Arc<dyn Clock>,
    rules: Vec<PushRule>,
    logins: SystemLogins,
    pulls: Arc<Pulls>,
    images: Arc<Images>,
    /// Whose images they are: the daemon's own user.
    actor: Actor,
    wake: Notify,
}

/// One push to be pulled, as its job remembers it: rules may change meanwhile.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    reference: String,
    name: ImageName,
    kernel: Option<KernelName>,
    /// The template whose older images are to go.
    refreshes: Option<String>,
}

/// How a job came out.
enum Outcome {
    Pulled,
    Again(Failure),
    Failed(Failure),
}

impl Webhooks {
    /// Makes the worker, which pulls as `actor`.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        rules: Vec<PushRule>,
        logins: SystemLogins,
        desks: (Arc<Pulls>, Arc<Images>),
        actor: Actor,
    ) -> Self {
        let (pulls, images) = desks;
        Self {
            shared: Arc::new(Shared {
                store,
                clock,
                rules,
                logins,
                pulls,
                images,
                actor,
                wake: Notify::new(),
            }),
        }
    }

    /// Takes pushes that a registry told of: what a rule is about is remembered, durably, and pulled
    /// soon. The first rule that matches counts.
    pub async fn take(&self, pushes: Vec<Pushed>) -> Result<Taken, Failure> {
        let (mut orders, mut failed) = (Vec::new(), Vec::new());
        let mut taken = Taken::default();
        for pushed in pushes {
            let rules = self.shared.rules.iter();
            match rules.clone().find(|rule| rule.matches(&pushed)) {
                Some(rule) => match order(rule, &pushed) {
                    Ok(order) => {
                        orders.push(order);
                        taken.accepted += 1;
                    }
                    Err(failure) => {
                        failed.push(given_up(rule, &pushed, &failure));
                        taken.failed += 1;
                    }
                },
                None => taken.ignored += 1,
            }
        }
        if orders.is_empty() && failed.is_empty() {
            return Ok(taken);
        }
        let now = self.shared.clock.now();
        let written = self.shared.store.write(move |tx| {
            for order in &orders {
                // A push that is told of again while it waits is the same one.
                let waiting = jobs::get(tx, JOB, &order.reference)?;
                if waiting.as_ref().is_some_and(|job| job.due_at <= now) {
                    continue;
                }
                if waiting.is_none() && jobs::count_of(tx, JOB)? >= MAX_WAITING {
                    return Ok(false);
                }
                let job = NewJob {
                    kind: JOB,
                    key: &order.reference,
                    due_at: now,
                    payload: serde_json::to_value(order).unwrap_or(Value::Null),
                };
                jobs::put(tx, &job)?;
                // It was put off, and whoever tells of it again may be back.
                if waiting.is_some() {
                    continue;
                }
                let data = json!({"reference": order.reference, "name": order.name});
                append(tx, now, "webhook.accepted", data)?;
            }
            for data in failed {
                append(tx, now, "webhook.failed", data)?;
            }
            Ok::<_, StoreError>(true)
        });
        if !written.await.map_err(|error| store_failure(&error))? {
            let message = format!("{MAX_WAITING} pushes wait to be pulled already");
            return Err(Failure::new(codes::daemon::BUSY, message));
        }
        self.shared.wake.notify_one();
        Ok(taken)
    }

    /// Works until `stop` turns true. A pull that runs then is one of the daemon's operations and ends
    /// with them; its job stays.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let work = async {
            loop {
                match self.work_once().await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => {
                        tracing::error!(error = %with_causes(&error), "pushes have to wait");
                    }
                }
                tokio::select! {
                    () = self.shared.wake.notified() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        };
        tokio::select! {
            () = work => {}
            _ = stop.wait_for(|stopped| *stopped) => {}
        }
    }

    /// Does what is due, and tells whether there was anything.
    async fn work_once(&self) -> Result<bool, StoreError> {
        let now = self.shared.clock.now();
        let due = self
            .shared
            .store
            .read(move |tx| jobs::due_of(tx, JOB, now, AT_A_TIME));
        let due = due.await?;
        let did = !due.is_empty();
        let work = due.into_iter().map(|job| self.carry_out(job));
        for done in join_all(work).await {
            done?;
        }
        Ok(did)
    }

    async fn carry_out(&self, job: JobRow) -> Result<(), StoreError> {
        let mut deeds = Vec::new();
        let outcome = match serde_json::from_value::<Order>(job.payload.clone()) {
            Ok(order) => {
                let outcome = Box::pin(self.pull(&order, &mut deeds)).await;
                if let Outcome::Failed(failure) = &outcome
                    && deeds.is_empty()
                {
                    deeds.push(Deed::not_pulled(&order, failure));
                }
                outcome
            }
            Err(error) => Outcome::Failed(Failure::from_error(codes::daemon::INTERNAL, &error)),
        };
        let now = self.shared.clock.now();
        let (id, reference) = (job.id, job.key);
        match outcome {
            Outcome::Again(failure) if job.attempts + 1 < MAX_ATTEMPTS => {
                tracing::warn!(%reference, code = failure.code, "a push is pulled later: {failure}");
                let due_at = later(now, pause(job.attempts));
                let data = json!({
                    "reference": reference, "code": failure.code, "message": failure.message,
                    "attempts": job.attempts + 1, "again_at": due_at,
                });
                let putting_off = self.shared.store.write(move |tx| {
                    keep(tx, now, deeds)?;
                    if jobs::try_again_at(tx, id, due_at)? {
                        append(tx, now, "webhook.put_off", data)?;
                    }
                    Ok::<_, StoreError>(())
                });
                putting_off.await
            }
            Outcome::Again(failure) | Outcome::Failed(failure) => {
                tracing::warn!(%reference, code = failure.code, "a push is given up: {failure}");
                let data = json!({
                    "reference": reference, "code": failure.code, "message": failure.message,
                });
                self.end(id, now, deeds, ("webhook.failed", data)).await
            }
            Outcome::Pulled => {
                let data = json!({ "reference": reference });
                self.end(id, now, deeds, ("webhook.pulled", data)).await
            }
        }
    }

    async fn end(
        &self,
        job: i64,
        now: Timestamp,
        deeds: Vec<Deed>,
        (kind, data): (&'static str, Value),
    ) -> Result<(), StoreError> {
        let ending = self.shared.store.write(move |tx| {
            keep(tx, now, deeds)?;
            jobs::delete(tx, job)?;
            append(tx, now, kind, data)
        });
        ending.await
    }

    /// Carries an order out, and notes what it did to images.
    async fn pull(&self, order: &Order, deeds: &mut Vec<Deed>) -> Outcome {
        let image = match self.try_pull(order).await {
            Ok(image) => image,
            Err(failure) => match self.found(&failure, order).await {
                Some(image) => Some(image),
                None => return judged(failure),
            },
        };
        deeds.extend(image.as_ref().map(Deed::pulled));
        if let Err(failure) = self.forget_older(order, deeds).await {
            return judged(failure);
        }
        Outcome::Pulled
    }

    async fn try_pull(&self, order: &Order) -> Result<Option<Image>, Failure> {
        let reference = reference_of(order)?;
        let login = self.shared.logins.find(&reference).await;
        let login = login.map_err(|error| login_failure(&error))?;
        let default = DEFAULT.parse::<KernelName>().ok();
        let params = PullParams {
            reference: order.reference.clone(),
            name: Some(order.name.clone()),
            prefer_shipped_kernel: order.kernel.is_none(),
            kernel_ref: order.kernel.clone().or(default),
            kernel_path: None,
            initrd_path: None,
            modules_dir: None,
            boot: BootChoice::default(),
            size_bytes: None,
            platform: None,
            credentials: login.map(wire_credentials),
            mirror_credentials: Vec::new(),
            org: None,
            tls_verify: None,
            source_files: None,
            detach: false,
        };
        let pulled = self.shared.pulls.pull(&self.shared.actor, params).await?;
        Ok(match pulled {
            image::Outcome::Image(image) => Some(*image),
            image::Outcome::Started(_) => None,
        })
    }

    /// Finds the very image that was to be made, where its name is taken by it: the daemon may have ended
    /// between making it and saying so, and registries tell of one push several times.
    async fn found(&self, failure: &Failure, order: &Order) -> Option<Image> {
        if !failure.is(codes::image::ALREADY_EXISTS) {
            return None;
        }
        let params = GetParams {
            image: order.name.to_string(),
            architecture: None,
        };
        let found = self.shared.images.get(&self.shared.actor, params).await;
        let is_it = |image: &Image| image.source.reference == order.reference;
        found.ok().filter(is_it)
    }

    /// Forgets the images of earlier pushes of the same tag, where the rule says so. Those that
    /// machines run stay until the next push.
    async fn forget_older(&self, order: &Order, deeds: &mut Vec<Deed>) -> Result<(), Failure> {
        let Some(template) = &order.refreshes else {
            return Ok(());
        };
        let template = template
            .parse::<NameTemplate>()
            .map_err(|error| Failure::from_error(codes::daemon::INTERNAL, &error))?;
        let reference = reference_of(order)?;
        let Some(pushed) = pushed_of(&reference) else {
            return Ok(());
        };
        for older in self.named_like(&template, &pushed).await? {
            let is_other_push = older.name != order.name && is_of_tag(&older, &reference);
            if !is_other_push || !template.is_of(&older.name, &pushed) {
                continue;
            }
            let params = ForgetParams {
                image: older.id.to_string(),
                architecture: None,
                dry_run: false,
                force: false,
            };
            match self.shared.images.forget(&self.shared.actor, params).await {
                Ok(_) => deeds.push(Deed::forgot(&older)),
                Err(failure) if failure.is(codes::image::IN_USE) => {
                    tracing::info!(image = %older.name, "it is in use, so it stays: {failure}");
                    deeds.push(Deed::not_forgotten(&older, &failure));
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    async fn named_like(
        &self,
        template: &NameTemplate,
        pushed: &Pushed,
    ) -> Result<Vec<Image>, Failure> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let params = ListParams {
                after,
                limit: Some(PAGE),
                all: false,
                name: Some(template.common_part(pushed)).filter(|part| !part.is_empty()),
                ..ListParams::default()
            };
            let page = self.shared.images.list(&self.shared.actor, params).await?;
            found.extend(page.items);
            after = page.next;
            if after.is_none() {
                return Ok(found);
            }
        }
    }
}

/// Writes what is to be on record, once of what was made.
fn keep(
    tx: &kiln_store::WriteTransaction<'_>,
    at: Timestamp,
    deeds: Vec<Deed>,
) -> Result<(), StoreError> {
    for deed in deeds {
        if !deed.is_kept(tx)? {
            deed.keep(tx, at)?;
        }
    }
    Ok(())
}

fn order(rule: &PushRule, pushed: &Pushed) -> Result<Order, Failure> {
    let reference = rule.reference(pushed);
    let reference =
        reference.map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))?;
    let name = rule.name.name(pushed);
    Ok(Order {
        reference: reference.to_string(),
        name: name.map_err(|error| Failure::from_error(codes::image::NAME_INVALID, &error))?,
        kernel: rule.kernel.clone(),
        refreshes: match rule.action {
            PushAction::Pull => None,
            PushAction::Refresh => Some(rule.name.to_string()),
        },
    })
}

/// Says in the log, and for an event, that nothing can be made of a push.
fn given_up(rule: &PushRule, pushed: &Pushed, failure: &Failure) -> Value {
    let Pushed {
        repository,
        tag,
        digest,
    } = pushed;
    let reference = format!("{}/{repository}:{tag}@{digest}", rule.registry);
    tracing::warn!(%reference, code = failure.code, "a push is given up: {failure}");
    json!({"reference": reference, "code": failure.code, "message": failure.message})
}

fn reference_of(order: &Order) -> Result<Reference, Failure> {
    let reference = order.reference.parse();
    reference.map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))
}

fn pushed_of(reference: &Reference) -> Option<Pushed> {
    Some(Pushed {
        repository: reference.repository().to_owned(),
        tag: reference.written_tag()?.to_owned(),
        digest: *reference.digest()?,
    })
}

/// Says whether an image was pulled from the tag of a reference.
fn is_of_tag(image: &Image, reference: &Reference) -> bool {
    let source = image.source.reference.parse::<Reference>();
    source.is_ok_and(|source| {
        source.registry() == reference.registry()
            && source.repository() == reference.repository()
            && source.written_tag() == reference.written_tag()
    })
}

fn judged(failure: Failure) -> Outcome {
    // A name that is reserved is being made by somebody; a daemon that stops goes on after its start.
    let is_passing = failure.is(codes::image::NAME_RESERVED) || failure.is(codes::daemon::STOPPING);
    if failure.retryable || is_passing {
        Outcome::Again(failure)
    } else {
        Outcome::Failed(failure)
    }
}

fn append(
    tx: &kiln_store::WriteTransaction<'_>,
    at: Timestamp,
    kind: &str,
    data: Value,
) -> Result<(), StoreError> {
    let event = NewEvent {
        at,
        actor: EventActor::Daemon,
        kind,
        object: Object::new(ObjectKind::Daemon, "webhooks"),
        data,
    };
    events::append(tx, &event).map(drop)
}

fn pause(attempts: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << attempts.min(16))
        .min(LONGEST_PAUSE)
}

fn later(now: Timestamp, wait: Duration) -> Timestamp {
    let micros = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
    let later = Timestamp::from_micros(now.as_micros().saturating_add(micros));
    later.unwrap_or(Timestamp::LATEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_an_hour() {
        let seconds: Vec<u64> = [0, 1, 2, 9, 40]
            .map(|attempts| pause(attempts).as_secs())
            .to_vec();

        assert_eq!(seconds, [5, 10, 20, 2_560, 3_600]);
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        for (code, again) in [
            (codes::registry::UNREACHABLE, true),
            (codes::image::NAME_RESERVED, true),
            (codes::daemon::STOPPING, true),
            (codes::registry::AUTH_FAILED, false),
            (codes::image::ALREADY_EXISTS, false),
        ] {
            let outcome = judged(Failure::new(code, "x"));
            assert_eq!(matches!(outcome, Outcome::Again(_)), again, "{code}");
        }
    }
}
