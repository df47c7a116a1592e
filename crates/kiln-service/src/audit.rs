//! What callers did and were refused: the desk that keeps the lines and lists them.
//!
//! ```text
//! the door ──Call──▶ follow ──▶ the line is written with the call's first change, in one transaction
//!                      └──▶ end ──▶ that line is right: nothing to do; else it is amended
//!                            └────▶ no change: flood guard ──▶ a line, before the caller is answered
//!                                        └────────▶ counted, and told of by the caller's next line
//! ```
//! Which calls are told of is decided here too: those whose right changes something, and those
//! that were denied. Retention is by age and by number.

mod flood;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_api::audit::{Line, ListParams};
use kiln_api::page::Page;
use kiln_api::{Code, Failure};
use kiln_domain::access::{Actor, Right, Role};
use kiln_domain::{OperationId, Timestamp};
use kiln_store::audit::{self, LineFilter, LineObject, LineResult, LineRow, NewLine, OK};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::{CallLine, Object, ObjectKind, Store, StoreError};
use tokio::sync::watch;

use self::flood::Floods;
use crate::clock::Clock;
use crate::events::{cursor, page_limit};
use crate::failures::{store_failure, with_causes};
use crate::reserve::Reserve;
use crate::users::{self, UserError};

/// How often what was held back is written and what is old goes.
const LOOK: Duration = Duration::from_secs(600);

/// Methods that free room on the disk, and what has to come before them.
const FREEING: &[&str] = &[
    "image.forget",
    "image.forget_by_id",
    "image.purge_by_id",
    "kernel.remove",
    "operation.cancel",
    "storage.prune",
];

/// How long after a write the database is taken to be writable still: calls that follow each other
/// must not each wait for the disk twice.
const KNOWN_GOOD: Duration = Duration::from_secs(1);

/// How many lines go in one transaction, so that no caller waits for a sweep.
const BATCH: u32 = 5_000;

/// Longest part of what a call named that is kept, in characters.
const NAME_MAX: usize = 200;

/// Microseconds of a day.
const DAY_MICROS: i64 = 86_400_000_000;

/// How long lines are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditRetention {
    /// For so many days.
    pub days: u32,
    /// And no more than so many, the newest.
    pub lines: u64,
}

/// A call as the door saw it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who called, in the role of then.
    pub actor: Actor,
    /// What the daemon called the user then.
    pub user_name: Option<String>,
    /// The method.
    pub method: &'static str,
    /// What it takes to call it.
    pub right: Right,
    /// What the call named, if anything: its noun and the text.
    pub object_kind: Option<&'static str>,
    /// The text it was named with.
    pub object_name: Option<String>,
    /// Its id, where the call or the answer told it.
    pub object_id: Option<String>,
    /// The operation that the answer told of.
    pub operation_id: Option<String>,
    /// The call's number in the log.
    pub request_id: String,
    /// Whether the call asked what would happen, and nothing more.
    pub is_dry_run: bool,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As the caller wanted.
    Well,
    /// With this code of an error.
    Failed {
        /// The code.
        code: String,
        /// Whether it says that the caller may not do this.
        is_denied: bool,
    },
    /// The caller had gone before it ended.
    Unknown,
}

/// A call that is followed, so that its first change takes its line along.
#[derive(Clone, Debug, Default)]
pub struct Followed(Option<Arc<CallLine>>);

impl Followed {
    /// Makes the call, in the task that awaits this.
    pub async fn call<F: Future>(&self, call: F) -> F::Output {
        match &self.0 {
            Some(line) => line.clone().follow(call).await,
            None => call.await,
        }
    }
}

/// Keeps and lists lines.
#[derive(Clone, Debug)]
pub struct Audit {
    store: Store,
    clock: Arc<dyn Clock>,
    retention: AuditRetention,
    floods: Arc<Mutex<Floods>>,
    reserve: Option<Reserve>,
}

impl Audit {
    /// Makes the desk.
    pub fn new(store: Store, clock: Arc<dyn Clock>, retention: AuditRetention) -> Self {
        Self {
            store,
            clock,
            retention,
            floods: Arc::default(),
            reserve: None,
        }
    }

    /// Keeps room back for calls that free some.
    #[must_use]
    pub fn with_reserve(self, reserve: Reserve) -> Self {
        Self {
            reserve: Some(reserve),
            ..self
        }
    }

    /// Begins to follow a call: where it is one to be told of, its first change takes its line along.
    /// One commit less for each change, and none without its line.
    pub fn follow(&self, call: &Call) -> Followed {
        if !call.right.changes() || call.is_dry_run {
            return Followed::default();
        }
        let (audit, call) = (self.clone(), call.clone());
        Followed(Some(CallLine::new(move |objects| {
            let mut call = call.clone();
            call.object_id = call.object_id.or_else(|| id_among(objects));
            audit.line(call, Ending::Well)
        })))
    }

    /// Tells of a call that was followed, before its caller is answered: only what its line does not
    /// say yet.
    pub async fn end(&self, followed: &Followed, call: Call, ending: Ending) {
        let has_freed = FREEING.contains(&call.method) && !call.is_dry_run;
        self.end_line(followed, call, ending).await;
        if has_freed {
            self.keep_reserve().await;
        }
    }

    async fn end_line(&self, followed: &Followed, call: Call, ending: Ending) {
        let Some(row) = followed.0.as_ref().and_then(|line| line.written()) else {
            return self.record(call, ending).await;
        };
        let uid = call.actor.uid;
        let line = self.line(call, ending);
        let is_well = line.result == OK;
        let line = NewLine {
            at: row.line.at,
            ..line
        };
        // What went well always passes, and tells of what was held back before it.
        let passed = is_well.then(|| self.floods().pass(uid, line.clone()));
        let line = passed.flatten().unwrap_or(line);
        if line == row.line {
            return;
        }
        let amended = LineRow { line, ..row };
        let write = amended.clone();
        let written = self.store.write(move |tx| audit::amend(tx, &write)).await;
        if let Err(error) = written {
            let cause = with_causes(&error);
            tracing::error!(cause, line = ?amended.line, "an audit line could not be amended");
        }
    }

    /// Tells of a call whose caller has gone before it ended, unless its change has told of it.
    pub async fn give_up(&self, followed: &Followed, call: Call) {
        if !followed.0.as_ref().is_some_and(|line| line.abandon()) {
            self.record(call, Ending::Unknown).await;
        }
    }

    /// Refuses a call that changes something while the database cannot be written: no line could tell
    /// of it, and its desk could not record it either. Nothing is begun then, also where the work
    /// is elsewhere, as in a registry. A full disk is no reason to refuse what frees some of it, as long
    /// as the room that was kept back for it lasts.
    pub async fn ready(&self, call: &Call) -> Result<(), Failure> {
        let mut ready = self.store.check_writable(KNOWN_GOOD).await;
        if matches!(ready, Err(StoreError::Full { .. }))
            && FREEING.contains(&call.method)
            && self.give_reserve_back().await
        {
            ready = self.store.check_writable(KNOWN_GOOD).await;
        }
        ready.map_err(|error| store_failure(&error))
    }

    async fn give_reserve_back(&self) -> bool {
        let Some(reserve) = self.reserve.clone() else {
            return false;
        };
        let given = tokio::task::spawn_blocking(move || reserve.give_back()).await;
        let had_some = matches!(given, Ok(Ok(true)));
        if had_some {
            tracing::warn!("the disk is full: the room kept back for freeing it is in use");
        }
        had_some
    }

    async fn keep_reserve(&self) {
        let Some(reserve) = self.reserve.clone() else {
            return;
        };
        let kept = tokio::task::spawn_blocking(move || reserve.keep()).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "no room is kept back for a full disk");
        }
    }

    /// Tells of a call, if it is one to be told of, before its caller is answered.
    ///
    /// The call is over when this is called, so the answer stands even when the line cannot be
    /// written: then the log tells of the call, loudly, and of why.
    pub async fn record(&self, call: Call, ending: Ending) {
        if !is_told(&call, &ending) {
            return;
        }
        let uid = call.actor.uid;
        let line = self.line(call, ending);
        let passed = self.floods().pass(uid, line);
        if let Some(line) = passed {
            self.write(line).await;
        }
    }

    /// Lists lines, oldest first: all for a superadmin, those of their own calls for others.
    pub async fn list(&self, actor: &Actor, params: ListParams) -> Result<Page<Line>, Failure> {
        let after = cursor(params.after)?;
        let limit = page_limit(params.limit)?;
        let actor = *actor;
        let page = self.store.read(move |tx| {
            let asked = match &params.user {
                Some(named) => Some(named_uid(tx, named)?),
                None => None,
            };
            let is_id = |text: &String| text.parse::<OperationId>().is_ok();
            let (object_id, object_name) = match params.object {
                Some(text) if is_id(&text) => (Some(text), None),
                named => (None, named),
            };
            let own = (actor.role != Role::Superadmin).then_some(actor.uid);
            // Nobody has made the calls of two users.
            if own.is_some() && asked.is_some() && own != asked {
                return Ok(Page {
                    items: Vec::new(),
                    next: None,
                });
            }
            let filter = LineFilter {
                actor: own.or(asked).map(EventActor::Unix),
                method_prefix: params.method,
                object_id,
                object_name,
                result: params.result.map(|text| match text.as_str() {
                    "failed" => LineResult::Failed,
                    _ => LineResult::Exactly(text),
                }),
                since: params.since,
                until: params.until,
            };
            let page = audit::page(tx, after, limit, &filter)?;
            Ok::<_, UserError>(Page {
                items: page.rows.into_iter().map(view).collect(),
                next: page.next_after.and_then(|seq| u64::try_from(seq).ok()),
            })
        });
        page.await.map_err(|error| users::failure(&error))
    }

    /// Sweeps until `stop` turns true; what was held back is written at the end too.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let work = async {
            loop {
                self.work_once().await;
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = work => {}
            _ = stop.wait_for(|stopped| *stopped) => {}
        }
        self.write_held().await;
    }

    async fn work_once(&self) {
        self.keep_reserve().await;
        self.write_held().await;
        match self.sweep().await {
            Ok(0) => {}
            Ok(lines) => tracing::info!(lines, "old audit lines were removed"),
            Err(error) => {
                tracing::warn!(
                    cause = with_causes(&error),
                    "audit lines could not be swept"
                );
            }
        }
    }

    /// Removes what is older than its retention, or too many; returns how many lines went.
    async fn sweep(&self) -> Result<u64, StoreError> {
        let now = self.clock.now();
        let kept = i64::from(self.retention.days).saturating_mul(DAY_MICROS);
        let oldest = Timestamp::from_micros(now.as_micros().saturating_sub(kept));
        let oldest = oldest.unwrap_or(Timestamp::EPOCH);
        let keep = self.retention.lines;
        let mut gone = 0;
        loop {
            let prune = self
                .store
                .write(move |tx| audit::prune(tx, oldest, keep, BATCH));
            let batch = prune.await?;
            gone += batch as u64;
            if batch == 0 {
                break;
            }
        }
        if gone > 0 {
            // A gap in the lines is told of: it was the retention, and nobody's hand.
            let event = move |tx: &kiln_store::WriteTransaction<'_>| {
                let event = NewEvent {
                    at: now,
                    actor: EventActor::Daemon,
                    kind: "audit.swept",
                    object: Object::new(ObjectKind::Daemon, "audit"),
                    data: serde_json::json!({ "lines": gone, "older_than": oldest, "kept": keep }),
                };
                events::append(tx, &event)
            };
            self.store.write(event).await?;
        }
        Ok(gone)
    }

    /// Writes what stands for the calls that got no line.
    async fn write_held(&self) {
        let held = self.floods().take_held();
        for line in held {
            self.write(line).await;
        }
    }

    async fn write(&self, line: NewLine) {
        let written = line.clone();
        let written = self
            .store
            .write(move |tx| audit::append(tx, &written))
            .await;
        if let Err(error) = written {
            let cause = with_causes(&error);
            tracing::error!(cause, ?line, "an audit line could not be written");
        }
    }

    fn line(&self, call: Call, ending: Ending) -> NewLine {
        NewLine {
            at: self.clock.now(),
            actor: EventActor::from(&call.actor),
            user_name: call.user_name,
            role: call.actor.role,
            method: call.method.to_owned(),
            object: LineObject {
                kind: call.object_kind.map(str::to_owned),
                name: call.object_name.as_deref().map(kept_of),
                id: call.object_id.as_deref().map(kept_of),
            },
            result: match ending {
                Ending::Well => OK.to_owned(),
                Ending::Failed { code, .. } => code,
                Ending::Unknown => "unknown".to_owned(),
            },
            request_id: call.request_id,
            operation_id: call.operation_id.as_deref().map(kept_of),
            unwritten: 0,
        }
    }

    fn floods(&self) -> MutexGuard<'_, Floods> {
        self.floods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Decides whether a call gets a line: what changes something does, however it ended, and so does
/// whatever was denied. What only asked what would happen changed nothing.
fn is_told(call: &Call, ending: &Ending) -> bool {
    let is_denied = matches!(
        ending,
        Ending::Failed {
            is_denied: true,
            ..
        }
    );
    is_denied || (call.right.changes() && !call.is_dry_run)
}

/// Finds the id of what a change is about, as its answer will show it.
fn id_among(objects: &[Object]) -> Option<String> {
    let shown = objects.iter().find(|object| {
        matches!(
            object.kind,
            ObjectKind::Image | ObjectKind::Instance | ObjectKind::Org | ObjectKind::User
        )
    });
    shown.map(|object| object.id.clone())
}

/// Cuts what a call named to what is kept of it: a line of print without the password of a URL.
fn kept_of(text: &str) -> String {
    let text: String = match (text.find("://"), text.find('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}://…{}", &text[..scheme], &text[at..])
        }
        _ => text.to_owned(),
    };
    let cut: String = text.chars().take(NAME_MAX).collect();
    kiln_api::failure::printable(&cut.replace(['\n', '\t'], " "))
}

/// Reads whose calls are asked for. A uid need not be known: users go, their lines stay.
fn named_uid(tx: &kiln_store::ReadTransaction<'_>, named: &str) -> Result<u32, UserError> {
    match named.parse() {
        Ok(uid) => Ok(uid),
        Err(_) => Ok(users::find(tx, named)?.uid),
    }
}

fn view(row: LineRow) -> Line {
    let LineRow { seq, line } = row;
    Line {
        seq: u64::try_from(seq).unwrap_or(0),
        at: line.at.to_string(),
        actor: line.actor.to_string(),
        user_name: line.user_name,
        role: line.role,
        method: line.method,
        object_kind: line.object.kind,
        object_name: line.object.name,
        object_id: line.object.id,
        result: line.result,
        request_id: line.request_id,
        operation_id: line.operation_id,
        unwritten: line.unwritten,
    }
}

impl Ending {
    /// A call that ended with this failure.
    pub fn failed(code: Code) -> Self {
        Self::Failed {
            code: code.name.to_owned(),
            is_denied: code.class == kiln_api::code::Class::Denied,
        }
    }
}

#[cfg(test)]
mod tests;
