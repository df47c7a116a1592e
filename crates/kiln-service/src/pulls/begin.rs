//! The beginning and the end of every job: its record, its name, and the answer to its caller.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use kiln_api::image::{Image, Outcome, Started};
use kiln_api::operation::{Operation, Progress, WaitParams};
use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, may_see};
use kiln_domain::{
    ImageName, KernelName, NameError, OperationId, OperationKind, OperationState, Timestamp,
    VersionId,
};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::names::{self, NameHolder, NameTaken, ReserveError};
use kiln_store::operations::{self, NewOperation};
use kiln_store::{Object, StoreError, WriteTransaction, users};
use serde_json::Value;

use super::{Pulls, Records, new_operation_id};
use crate::board::{Admission, Running};
use crate::failures::{store_failure, with_causes};
use crate::operations::Operations;
use crate::watchers::ConnectionId;
use crate::wholly::wholly;

/// How long after a failure to record a job's end it is tried again.
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// Whether a caller waits for a job's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attendance {
    Waits,
    Detached,
}

impl Attendance {
    pub(crate) fn of(detach: bool) -> Self {
        if detach { Self::Detached } else { Self::Waits }
    }
}

/// What is known of a job before it starts.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) kind: OperationKind,
    pub(crate) actor: Actor,
    pub(crate) makes: Makes,
    /// What it works on, for people.
    pub(crate) subject: String,
    /// The call's parameters without secrets.
    pub(crate) params: Value,
}

/// What a job makes, should it succeed.
#[derive(Clone, Debug)]
pub(crate) enum Makes {
    /// The first version of an image.
    Version {
        /// The image's name, which is reserved.
        name: ImageName,
        /// Its directory is nobody's until the operation has succeeded.
        id: VersionId,
    },
    /// A kernel of the catalogue.
    Kernel(KernelName),
    /// Nothing on this host.
    Nothing,
}

/// How a launched job stands when its caller is answered.
pub(crate) enum Launched {
    /// It has ended, one way or another.
    Ended(Operation),
    /// It goes on.
    Started(Started),
}

impl Records {
    /// Refuses a taken name early, before files are looked at. The reservation decides.
    pub(super) async fn check_name(&self, name: &ImageName, actor: &Actor) -> Result<(), Failure> {
        name.refuse_id().map_err(|error| name_invalid(&error))?;
        let asked = name.clone();
        let holder = self
            .store
            .read(move |tx| names::holder_of(tx, &asked))
            .await;
        match holder.map_err(|error| store_failure(&error))? {
            None => Ok(()),
            Some(by) => {
                let name = name.clone();
                Err(taken(&NameTaken { name, by }, actor))
            }
        }
    }

    /// Records the operation and reserves the name, in one transaction: the store's unique index
    /// decides between two callers, and the loser has fetched nothing.
    async fn open(&self, id: OperationId, opening: Opening) -> Result<(), Failure> {
        let now = self.clock.now();
        let actor = opening.actor;
        let opened = self
            .store
            .write(move |tx| {
                users::see(tx, opening.actor.uid, now)?;
                let (name, object) = match &opening.makes {
                    Makes::Version { name, id } => {
                        (Some(name.as_str()), Some(Object::version(*id)))
                    }
                    Makes::Kernel(name) => (Some(name.as_str()), Some(Object::kernel(name))),
                    Makes::Nothing => (None, None),
                };
                let operation = NewOperation {
                    id,
                    kind: opening.kind,
                    owner_uid: opening.actor.uid,
                    object,
                    subject: opening.subject.clone(),
                    params: opening.params,
                    created_at: now,
                };
                operations::insert(tx, &operation)?;
                if let Makes::Version { name, .. } = &opening.makes {
                    names::reserve(tx, name, id, now)?;
                }
                let data = serde_json::json!({
                    "kind": opening.kind, "name": name, "subject": opening.subject,
                });
                let event = NewEvent {
                    at: now,
                    actor: EventActor::Unix(opening.actor.uid),
                    kind: "operation.started",
                    object: Object::operation(id),
                    data,
                };
                events::append(tx, &event)?;
                Ok::<_, ReserveError>(())
            })
            .await;
        opened.map_err(|error| match &error {
            ReserveError::Taken(name) => taken(name, &actor),
            ReserveError::Name(error) => name_invalid(error),
            ReserveError::Store(error) => store_failure(error),
        })
    }

    /// Records that a job came to nothing, as soon as the database lets it. Until then those who
    /// wait are told, and the name stays reserved.
    async fn record_end(&self, id: OperationId, actor: Actor, failure: Failure, running: &Running) {
        let failure = failure.with_operation(id);
        while let Err(error) = self.record_failure(id, actor, &failure, running).await {
            let is_first = running.unrecorded().is_none();
            if is_first {
                let error = with_causes(&error);
                tracing::error!(operation = %id, error, "cannot record that the operation failed");
                running.fail_unrecorded(failure.clone());
            }
            if matches!(error, StoreError::Closed) || self.board.is_stopping() {
                // The next start finds the row running and marks it interrupted.
                return;
            }
            tokio::time::sleep(RECORD_AGAIN).await;
        }
        if running.unrecorded().is_some() {
            tracing::info!(operation = %id, "the operation's end is recorded now");
        }
    }

    /// Records that a job came to nothing and gives its name back.
    async fn record_failure(
        &self,
        id: OperationId,
        actor: Actor,
        failure: &Failure,
        running: &Running,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let progress = running.progress();
        let failure = failure.clone();
        self.store
            .write(move |tx| {
                let cancelled = failure.is(codes::operation::CANCELLED);
                let error = serde_json::to_value(&failure).unwrap_or(Value::Null);
                let data = serde_json::json!({ "code": failure.code, "message": failure.message });
                let (outcome, kind) = if cancelled {
                    (
                        operations::Outcome::Cancelled { error },
                        "operation.cancelled",
                    )
                } else {
                    (operations::Outcome::Failed { error }, "operation.failed")
                };
                record_progress(tx, id, &progress, now)?;
                operations::finish(tx, id, &outcome, now)?;
                names::release_reservation(tx, id)?;
                let event = NewEvent {
                    at: now,
                    actor: EventActor::Unix(actor.uid),
                    kind,
                    object: Object::operation(id),
                    data,
                };
                events::append(tx, &event)?;
                Ok::<_, StoreError>(())
            })
            .await
    }
}

impl Pulls {
    /// Launches a job that makes an image.
    pub(super) async fn launch<J, F>(
        &self,
        opening: Opening,
        attendance: Attendance,
        job: J,
    ) -> Result<Outcome, Failure>
    where
        J: FnOnce(Pulls, OperationId, Arc<Running>) -> F + Send + 'static,
        F: Future<Output = Result<Image, Failure>> + Send + 'static,
    {
        let desk = self.clone();
        let job = move |id, running| job(desk, id, running);
        match self.records.launch(opening, attendance, job).await? {
            Launched::Started(started) => Ok(Outcome::Started(Box::new(started))),
            Launched::Ended(operation) => answer(operation),
        }
    }
}

impl Records {
    /// Starts a job as the daemon's own task and answers its caller: at once when detached,
    /// otherwise when it has ended. A caller that goes away only ends the waiting.
    pub(crate) async fn launch<T, J, F>(
        &self,
        opening: Opening,
        attendance: Attendance,
        job: J,
    ) -> Result<Launched, Failure>
    where
        J: FnOnce(OperationId, Arc<Running>) -> F + Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let admission = self.board.admit().map_err(crate::failures::board_failure)?;
        let id = new_operation_id();
        let actor = opening.actor;
        let records = self.clone();
        // A task of its own: a caller that hangs up between the record and the start must not
        // leave an operation that never runs.
        let started = wholly(async move {
            let subject = opening.subject.clone();
            records.open(id, opening).await?;
            records.start((id, subject), actor, admission, job);
            Ok(())
        });
        started.await??;
        match attendance {
            Attendance::Detached => {
                let operation = self.operations().get(&actor, id).await?;
                Ok(Launched::Started(Started {
                    operation_id: id,
                    operation,
                }))
            }
            Attendance::Waits => {
                let params = WaitParams {
                    operation_id: id,
                    timeout_ms: None,
                };
                let caller = ConnectionId::unique();
                let ended = self.operations().wait(&actor, caller, params).await?;
                Ok(Launched::Ended(ended))
            }
        }
    }
}

impl Records {
    fn operations(&self) -> Operations {
        Operations::new(self.store.clone(), self.board.clone())
    }

    /// Puts a recorded job on the board; whatever becomes of it is recorded.
    fn start<T, J, F>(
        &self,
        (id, subject): (OperationId, String),
        actor: Actor,
        admission: Admission,
        job: J,
    ) where
        J: FnOnce(OperationId, Arc<Running>) -> F,
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let records = self.clone();
        self.board.start(id, admission, |running| {
            let work = job(id, running.clone());
            async move {
                let ended = AssertUnwindSafe(work).catch_unwind().await;
                let ended = ended.unwrap_or_else(|_| {
                    // Nobody waits for its threads any more, and nothing else tells them.
                    running.abandon();
                    let message = "the operation's task panicked";
                    Err(Failure::new(codes::daemon::INTERNAL, message))
                });
                match ended {
                    Ok(_) => tracing::info!(operation = %id, %subject, "done"),
                    Err(failure) => {
                        let cause = failure.cause.join(": ");
                        tracing::warn!(operation = %id, code = failure.code, cause, "{failure}");
                        // Whoever reads the end, or takes the name, finds nothing half made.
                        running.threads_ended().await;
                        records.record_end(id, actor, failure, &running).await;
                    }
                }
            }
        });
    }
}

/// Turns an ended operation into its caller's answer.
fn answer(operation: Operation) -> Result<Outcome, Failure> {
    match (operation.state, operation.result, operation.error) {
        (OperationState::Succeeded, Some(image), _) => Ok(Outcome::Image(image)),
        (_, _, Some(failure)) => Err(failure),
        (state, ..) => {
            let message = format!("operation {} is {state} and says no more", operation.id);
            Err(Failure::new(codes::daemon::INTERNAL, message).with_operation(operation.id))
        }
    }
}

/// Keeps how far an operation came, which the board forgets when it ends.
pub(crate) fn record_progress(
    tx: &WriteTransaction<'_>,
    id: OperationId,
    progress: &Progress,
    now: Timestamp,
) -> Result<(), StoreError> {
    let value = serde_json::to_value(progress).unwrap_or(Value::Null);
    operations::set_progress(tx, id, &value, now)?;
    Ok(())
}

/// Says why a text is no name to give.
pub(crate) fn name_invalid(error: &NameError) -> Failure {
    let failure = Failure::from_error(codes::image::NAME_INVALID, error);
    match error {
        NameError::ReadsAsId { .. } => {
            failure.with_hint("choose a name that is no UUID: those are ids", None)
        }
        _ => failure,
    }
}

/// Says who has the name, as far as the caller may know.
pub(crate) fn taken(taken: &NameTaken, actor: &Actor) -> Failure {
    let name = &taken.name;
    let (code, is_known) = match &taken.by {
        NameHolder::Image { owner_uid, .. } => (
            codes::image::ALREADY_EXISTS,
            may_see(actor, *owner_uid).is_ok(),
        ),
        NameHolder::Reservation { owner_uid, .. } => (
            codes::image::NAME_RESERVED,
            owner_uid.is_some_and(|owner_uid| may_see(actor, owner_uid).is_ok()),
        ),
        // It tells no more than its name resolves to.
        NameHolder::Alias { .. } => (codes::image::ALREADY_EXISTS, true),
    };
    if !is_known {
        return Failure::new(code, format!("the name {name} is taken by another user"))
            .with_hint("choose another name with --name", None);
    }
    match &taken.by {
        NameHolder::Image {
            id,
            created_at,
            source_reference,
            ..
        } => {
            let source = source_reference.as_deref().unwrap_or("a file");
            let message = format!(
                "an image named {name} already exists (id {id}, made {created_at} from {source})"
            );
            Failure::new(codes::image::ALREADY_EXISTS, message).with_hint(
                "choose another name with --name, or forget the image that has it",
                Some(format!("kiln forget {name}")),
            )
        }
        NameHolder::Alias { target } => {
            let message = format!("the name {name} already exists as an alias of {target}");
            Failure::new(codes::image::ALREADY_EXISTS, message)
        }
        NameHolder::Reservation { operation_id, .. } => {
            let message = format!("operation {operation_id} is making an image named {name}");
            Failure::new(codes::image::NAME_RESERVED, message)
                .with_operation(*operation_id)
                .with_hint(
                    "wait for it, or choose another name with --name",
                    Some(format!("kiln op wait {operation_id}")),
                )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: u32 = 1000;

    fn actor(uid: u32) -> Actor {
        Actor::from_peer(uid, uid, None, 0)
    }

    #[test]
    fn only_who_may_see_the_holder_is_told_of_it() {
        let operation_id = OperationId::new(uuid::Uuid::from_u128(7));
        let by = NameHolder::Reservation {
            operation_id,
            owner_uid: Some(OWNER),
            since: Timestamp::from_micros(0).unwrap(),
        };
        let name = "web".parse().unwrap();
        let held = NameTaken { name, by };

        for (uid, is_told) in [(OWNER, true), (0, true), (OWNER + 1, false)] {
            let failure = taken(&held, &actor(uid));

            assert!(failure.is(codes::image::NAME_RESERVED), "{uid}");
            let text = serde_json::to_string(&failure).unwrap();
            assert_eq!(text.contains(&operation_id.to_string()), is_told, "{text}");
        }
    }
}
