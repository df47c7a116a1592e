//! The good end of work beyond this host: its result, its event, and the operation's end in one
//! transaction.

use std::sync::Arc;

use kiln_api::Failure;
use kiln_api::transfer::Transfer;
use kiln_domain::OperationId;
use kiln_domain::access::Actor;
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::{Object, StoreError, operations};

use super::Transfers;
use crate::board::Running;
use crate::failures::store_failure;
use crate::pulls::{Records, cancelled, record_progress};

/// Whose work has ended.
pub(crate) struct Ending {
    pub(crate) id: OperationId,
    pub(crate) actor: Actor,
    pub(crate) running: Arc<Running>,
}

/// What happened, as an event tells it.
pub(crate) struct Happened {
    pub(crate) kind: &'static str,
    /// What it happened to; the operation where it is nothing of this host's.
    pub(crate) object: Option<Object>,
    pub(crate) data: serde_json::Value,
}

/// Why an end could not be recorded.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("cancelled before the end was recorded")]
    Cancelled,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Happened {
    /// Tells of a transfer from one place to another.
    pub(super) fn sent(
        kind: &'static str,
        object: Option<Object>,
        from: &str,
        done: &Transfer,
    ) -> Self {
        Self {
            kind,
            object,
            data: serde_json::json!({
                "from": from, "reference": done.reference, "tags": done.tags,
                "sent_bytes": done.sent.bytes, "is_up_to_date": done.is_up_to_date,
            }),
        }
    }
}

impl Transfers {
    /// Records that a transfer has succeeded, unless it was cancelled up to now.
    pub(super) async fn finish(
        &self,
        ending: Ending,
        result: serde_json::Value,
        happened: Happened,
    ) -> Result<(), Failure> {
        self.records.finish(ending, result, happened).await
    }
}

impl Records {
    /// Records that work has succeeded, unless it was cancelled up to now.
    pub(crate) async fn finish(
        &self,
        ending: Ending,
        result: serde_json::Value,
        happened: Happened,
    ) -> Result<(), Failure> {
        let now = self.clock.now();
        let recorded = self
            .store
            .write(move |tx| {
                if ending.running.is_cancelled() {
                    return Err(RecordError::Cancelled);
                }
                let (id, actor) = (ending.id, EventActor::Unix(ending.actor.uid));
                record_progress(tx, id, &ending.running.progress(), now)?;
                operations::finish(tx, id, &operations::Outcome::Succeeded { result }, now)?;
                let event = NewEvent {
                    at: now,
                    actor,
                    kind: happened.kind,
                    object: happened.object.unwrap_or_else(|| Object::operation(id)),
                    data: happened.data,
                };
                events::append(tx, &event)?;
                let succeeded = NewEvent {
                    at: now,
                    actor,
                    kind: "operation.succeeded",
                    object: Object::operation(id),
                    data: serde_json::json!({}),
                };
                events::append(tx, &succeeded)?;
                Ok(())
            })
            .await;
        recorded.map_err(|error| match error {
            RecordError::Cancelled => cancelled(),
            RecordError::Store(error) => store_failure(&error),
        })
    }
}
