//! The audit line of a call, written in the transaction of the call's first change: one commit for
//! both, so that neither is there without the other.
//!
//! ```text
//! waiting ──a write of the call──▶ riding ──committed──▶ written
//!    │  ▲                             │ undone
//!    │  └─────────────────────────────┘
//!    └──the call is given up──▶ abandoned: whoever gave it up writes the line
//! ```
//! A call is followed through its task; what it hands to another one takes the line along where it is
//! [`CallLine::carried`]. Which calls have a line is not decided here.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::audit::{self, LineRow, NewLine};
use crate::{Object, ObjectKind, StoreError, WriteTransaction};

tokio::task_local! {
    static CURRENT: Arc<CallLine>;
}

/// Makes the line of what a transaction's events are about.
type Make = Box<dyn Fn(&[Object]) -> NewLine + Send + Sync>;

/// The line of one call.
pub struct CallLine {
    make: Make,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Waiting,
    Riding(LineRow),
    Written(LineRow),
    Abandoned,
}

impl fmt::Debug for CallLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallLine")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl CallLine {
    /// Waits for a change; `make` is given what its events are about, and must not block.
    pub fn new(make: impl Fn(&[Object]) -> NewLine + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            make: Box::new(make),
            state: Mutex::new(State::Waiting),
        })
    }

    /// Follows a call: the first [`Store::write`](crate::Store::write) in it that commits writes the
    /// line, unless it begins or ends an operation, which says itself how it went.
    pub async fn follow<F: Future>(self: Arc<Self>, call: F) -> F::Output {
        CURRENT.scope(self, call).await
    }

    /// Follows what the call of this task hands to another one, as the call itself is followed.
    pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
        let line = Self::current();
        async move {
            match line {
                Some(line) => line.follow(work).await,
                None => work.await,
            }
        }
    }

    /// Returns the line when a change has taken it along.
    pub fn written(&self) -> Option<LineRow> {
        match &*self.lock() {
            State::Written(row) => Some(row.clone()),
            State::Waiting | State::Riding(_) | State::Abandoned => None,
        }
    }

    /// Keeps a change that comes later from taking the line along; says whether one has.
    pub fn abandon(&self) -> bool {
        let mut state = self.lock();
        if matches!(*state, State::Riding(_) | State::Written(_)) {
            return true;
        }
        *state = State::Abandoned;
        false
    }

    /// Returns the line of the call that this task makes.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Writes the line, if it waits still.
    pub(crate) fn ride(&self, tx: &WriteTransaction<'_>) -> Result<(), StoreError> {
        let objects = tx.told_of();
        if objects
            .iter()
            .any(|object| object.kind == ObjectKind::Operation)
        {
            return Ok(());
        }
        let mut state = self.lock();
        if matches!(*state, State::Waiting) {
            let line = (self.make)(&objects);
            let seq = audit::append(tx, &line)?;
            *state = State::Riding(LineRow { seq, line });
        }
        Ok(())
    }

    /// Says what became of the transaction that [`CallLine::ride`] was called in.
    pub(crate) fn settle(&self, is_committed: bool) {
        let mut state = self.lock();
        *state = match std::mem::replace(&mut *state, State::Waiting) {
            State::Riding(row) if is_committed => State::Written(row),
            State::Riding(_) => State::Waiting,
            other => other,
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use kiln_domain::access::Role;

    use super::*;
    use crate::audit::LineObject;
    use crate::events::{self, EventActor, NewEvent};
    use crate::testing::{image_id, operation_id, time};
    use crate::{Store, StoreOptions};

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("kiln.db"), &StoreOptions::default()).unwrap();
        (folder, store)
    }

    fn line() -> Arc<CallLine> {
        CallLine::new(|objects| NewLine {
            at: time(5),
            actor: EventActor::Unix(7),
            user_name: None,
            role: Role::User,
            method: "image.modify".to_owned(),
            object: LineObject {
                id: objects.first().map(|object| object.id.clone()),
                ..LineObject::default()
            },
            result: audit::OK.to_owned(),
            request_id: "r1".to_owned(),
            operation_id: None,
            unwritten: 0,
        })
    }

    async fn change(store: &Store, object: Object) -> Result<i64, StoreError> {
        let event = NewEvent {
            at: time(1),
            actor: EventActor::Unix(7),
            kind: "image.modified",
            object,
            data: serde_json::json!({}),
        };
        store.write(move |tx| events::append(tx, &event)).await
    }

    async fn lines(store: &Store) -> Vec<LineRow> {
        let filter = audit::LineFilter::default();
        let page = store.read(move |tx| audit::page(tx, 0, 10, &filter)).await;
        page.unwrap().rows
    }

    #[tokio::test]
    async fn the_first_change_of_a_call_takes_its_line_along() {
        let (_folder, store) = store();
        let line = line();
        let call = async {
            // One that is undone takes nothing along.
            let undone = store.write(|_| Err::<(), _>(StoreError::Closed)).await;
            undone.unwrap_err();
            assert_eq!(line.written(), None);
            change(&store, Object::image(image_id(1))).await.unwrap();
            change(&store, Object::image(image_id(2))).await.unwrap();
        };

        line.clone().follow(call).await;
        change(&store, Object::image(image_id(3))).await.unwrap();

        let found = lines(&store).await;
        assert_eq!(found.len(), 1);
        assert_eq!(line.written().as_ref(), Some(&found[0]));
        let id = image_id(1).to_string();
        assert_eq!(found[0].line.object.id.as_deref(), Some(id.as_str()));
        assert!(line.abandon());
    }

    #[tokio::test]
    async fn another_task_takes_it_along_where_it_is_carried() {
        for is_carried in [true, false] {
            let (_folder, store) = store();
            let (line, own) = (line(), store.clone());
            let work = async move { change(&own, Object::image(image_id(1))).await };
            let call = async {
                let task = if is_carried {
                    tokio::spawn(CallLine::carried(work))
                } else {
                    tokio::spawn(work)
                };
                task.await.unwrap().unwrap();
            };

            line.clone().follow(call).await;

            assert_eq!(line.written().is_some(), is_carried);
            assert_eq!(lines(&store).await.len(), usize::from(is_carried));
        }
    }

    #[tokio::test]
    async fn operations_and_calls_that_were_given_up_leave_it_to_others() {
        let (_folder, store) = store();
        let line = line();
        let operation = Object::operation(operation_id(1));
        let begun = line.clone().follow(change(&store, operation)).await;
        begun.unwrap();
        assert_eq!(line.written(), None);

        assert!(!line.abandon());
        let late = change(&store, Object::image(image_id(1)));
        line.clone().follow(late).await.unwrap();

        assert_eq!(line.written(), None);
        assert_eq!(lines(&store).await, []);
    }
}
