//! The board of running operations: who is at work, how far, and how to stop them.
//!
//! It holds what is only true while this process lives. What outlives it, an operation's state,
//! result and error, is in the store, and is written there before the board lets go.

mod part;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kiln_api::Failure;
use kiln_api::operation::{AgentProgress, AgentWork, LayerProgress, LayerState, Progress, Stage};
use kiln_domain::OperationId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::part::{Lanes, Whole};
use crate::cancel::Cancel;
use crate::needs::{Need, Needed, Needs};
use crate::watchers::Watchers;

/// How long cancelled operations may take to clean up at a stop. A running system call must
/// return first.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// Running operations, by id.
#[derive(Debug)]
pub struct Board {
    running: Mutex<HashMap<OperationId, Arc<Running>>>,
    slots: Arc<Semaphore>,
    stopping: AtomicBool,
    max_operations: u32,
}

/// A place on the board, taken before the operation exists.
#[derive(Debug)]
pub struct Admission {
    _slot: OwnedSemaphorePermit,
}

/// One running operation.
#[derive(Debug)]
pub struct Running {
    id: OperationId,
    cancel: Cancel,
    /// Thrown with `cancel`, and alone when the work is given up: what its threads poll.
    work: Cancel,
    /// Threads that outlive the waiting for them.
    threads: TaskTracker,
    progress: watch::Sender<Progress>,
    watchers: Arc<Watchers>,
    ended: CancellationToken,
    /// How it failed, while that cannot be recorded.
    unrecorded: OnceLock<Failure>,
    /// What stays done although it does not succeed.
    kept: OnceLock<Kept>,
    /// What its parts are at.
    lanes: Lanes,
    /// What it is a part of.
    whole: Option<Whole>,
    /// What must stay on the disk until it has ended.
    needs: Mutex<Vec<Need>>,
}

/// What an operation has done that stays done although it does not succeed.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// In place of the result.
    pub(crate) result: serde_json::Value,
    /// The event that tells of it.
    pub(crate) event: &'static str,
    /// What the event says.
    pub(crate) data: serde_json::Value,
}

/// Why no further operation can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// As many run as may.
    #[error("{running} operations are running, as many as this daemon allows")]
    Busy {
        /// How many.
        running: u32,
    },
    /// The daemon is going down.
    #[error("the daemon is stopping and takes no new work")]
    Stopping,
}

impl Board {
    /// Makes an empty board for at most `max_operations` at a time.
    pub fn new(max_operations: u32) -> Self {
        // A semaphore holds fewer permits than a u32 counts only where usize is smaller.
        let slots = usize::try_from(max_operations).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            running: Mutex::default(),
            slots: Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS))),
            stopping: AtomicBool::new(false),
            max_operations,
        }
    }

    /// Takes a place for one more operation, or tells why there is none.
    pub fn admit(&self) -> Result<Admission, BoardError> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(BoardError::Stopping);
        }
        match self.slots.clone().try_acquire_owned() {
            Ok(slot) => Ok(Admission { _slot: slot }),
            Err(TryAcquireError::NoPermits) => Err(BoardError::Busy {
                running: self.max_operations,
            }),
            Err(TryAcquireError::Closed) => Err(BoardError::Stopping),
        }
    }

    /// Starts an operation's work as a task of the daemon's own.
    ///
    /// The work gets the operation's entry; when it ends, and not before it has recorded how, the
    /// entry leaves the board and whoever waits is told.
    pub fn start<W, F>(self: &Arc<Self>, id: OperationId, admission: Admission, work: W)
    where
        W: FnOnce(Arc<Running>) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let entry = Arc::new(Running {
            id,
            cancel: Cancel::default(),
            work: Cancel::default(),
            threads: TaskTracker::new(),
            progress: watch::Sender::new(Progress::default()),
            watchers: Arc::default(),
            ended: CancellationToken::new(),
            unrecorded: OnceLock::new(),
            kept: OnceLock::new(),
            lanes: Lanes::default(),
            whole: None,
            needs: Mutex::default(),
        });
        self.lock().insert(id, entry.clone());
        let guard = Entry {
            board: self.clone(),
            id,
            running: entry.clone(),
            _admission: admission,
        };
        let work = work(entry);
        tokio::spawn(async move {
            let _guard = guard;
            work.await;
        });
    }

    /// Finds a running operation.
    pub fn find(&self, id: OperationId) -> Option<Arc<Running>> {
        self.lock().get(&id).cloned()
    }

    /// Tells whether the daemon is going down.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Counts running operations.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Tells whether nothing is running.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes no new work, lets what runs end for at most `grace`, then cancels it and waits until
    /// it has cleaned up.
    pub async fn stop(&self, grace: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        // Every place back: those of operations that were admitted and not started yet, too.
        let all_ended = || async { drop(self.slots.acquire_many(self.max_operations).await) };
        if tokio::time::timeout(grace, all_ended()).await.is_ok() {
            return;
        }
        let left: Vec<_> = self.lock().values().cloned().collect();
        tracing::info!(operations = left.len(), "cancelling what still runs");
        for running in left {
            running.cancel();
        }
        if tokio::time::timeout(CANCEL_GRACE, all_ended())
            .await
            .is_err()
        {
            tracing::warn!("some operations did not stop; the next start cleans up after them");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OperationId, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an operation off the board however its task ends.
struct Entry {
    board: Arc<Board>,
    id: OperationId,
    running: Arc<Running>,
    _admission: Admission,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.board.lock().remove(&self.id);
        self.running.let_go();
        self.running.ended.cancel();
    }
}

impl Running {
    /// Stops the operation: its caller wants it so.
    pub fn cancel(&self) {
        self.cancel.cancel();
        self.work.cancel();
    }

    /// Tells whether a caller stopped it.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Waits until a caller stops it.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Gives the work up without a caller's wish: one part of it has failed, and what the other
    /// parts would still do is of no use.
    pub fn abandon(&self) {
        self.work.cancel();
    }

    /// Returns a token that a thread keeps for as long as it works for the operation.
    pub fn at_work(&self) -> TaskTrackerToken {
        self.threads.token()
    }

    /// Waits until no thread works for the operation any more, but not for ever: one may be held
    /// up in a system call.
    ///
    /// A waiting that was dropped leaves its thread at work until it sees the switch, and what the
    /// thread had half made is there until then: no end is recorded before this.
    pub async fn threads_ended(&self) {
        self.threads.close();
        let ended = tokio::time::timeout(CANCEL_GRACE, self.threads.wait());
        if ended.await.is_err() {
            tracing::warn!(operation = %self.id, "a thread is held up in a system call");
        }
    }

    /// Keeps something on the disk until the operation, or the part of it, has ended: those who
    /// follow it may keep its entry for longer.
    pub(crate) fn hold(&self, needs: &Needs, things: impl IntoIterator<Item = Needed>) {
        let need = needs.note(self.id, things);
        let mut needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
        needs.push(need);
    }

    fn let_go(&self) {
        let mut needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
        needs.clear();
    }

    /// Borrows the switch that the work's threads poll: thrown when it is cancelled or given up.
    pub fn work(&self) -> &Cancel {
        &self.work
    }

    /// Subscribes to its progress; the newest value is there at once.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Returns its progress now.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Borrows who follows it.
    pub(crate) fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    /// Tells those who wait that it has failed, and how, though the store does not know yet.
    pub(crate) fn fail_unrecorded(&self, failure: Failure) {
        // The first word on it stands: it has ended once.
        self.unrecorded.get_or_init(|| failure);
        self.ended.cancel();
    }

    /// Returns how it failed when the store does not know yet.
    pub(crate) fn unrecorded(&self) -> Option<&Failure> {
        self.unrecorded.get()
    }

    /// Says what stays done should it not succeed from here on; the first word stands.
    pub(crate) fn keep(&self, kept: Kept) {
        self.kept.get_or_init(|| kept);
    }

    /// Returns what stays done although it does not succeed.
    pub(crate) fn kept(&self) -> Option<&Kept> {
        self.kept.get()
    }

    /// Waits until it has ended and its end is in the store, or cannot be recorded for now.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Enters a step; its counters start anew, those of the whole operation go on.
    pub fn enter(&self, stage: Stage) {
        self.progress.send_modify(|progress| {
            progress.stage = stage;
            progress.bytes_done = 0;
            progress.bytes_total = None;
            progress.items_done = 0;
            progress.items_total = None;
        });
    }

    /// Tells how many bytes of the step are done.
    pub fn bytes(&self, done: u64, total: u64) {
        self.progress.send_modify(|progress| {
            progress.bytes_done = done;
            progress.bytes_total = Some(total);
        });
    }

    /// Lists the layers before any of them is touched.
    pub fn layers(&self, layers: Vec<LayerProgress>) {
        self.progress.send_modify(|progress| {
            progress.bytes_total = Some(layers.iter().map(|layer| layer.bytes_total).sum());
            progress.items_total = u64::try_from(layers.len()).ok();
            progress.layers = layers;
        });
        self.tell_whole();
    }

    /// Tells how many of the things are done that the step is about.
    pub fn items(&self, done: u64, total: u64) {
        self.progress.send_modify(|progress| {
            progress.items_done = done;
            progress.items_total = Some(total);
        });
    }

    /// Lists the agents before any of them is asked.
    pub fn agents(&self, agents: Vec<AgentProgress>) {
        self.progress.send_modify(|progress| {
            progress.items_total = u64::try_from(agents.len()).ok();
            progress.agents = agents;
        });
    }

    /// Tells where one agent stands.
    pub fn agent(&self, index: usize, change: impl FnOnce(&mut AgentProgress)) {
        self.progress.send_modify(|progress| {
            let Some(agent) = progress.agents.get_mut(index) else {
                return;
            };
            change(agent);
            let is_over =
                |agent: &&AgentProgress| matches!(agent.state, AgentWork::Done | AgentWork::Failed);
            progress.items_done = progress.agents.iter().filter(is_over).count() as u64;
        });
    }

    /// Tells where one layer stands.
    pub fn layer(&self, index: usize, state: LayerState) {
        self.update_layer(index, |layer| {
            layer.state = state;
            if state == LayerState::Fetching {
                // Again, perhaps: wrong bytes are fetched once more.
                layer.bytes_done = 0;
            }
            if matches!(state, LayerState::Done | LayerState::Cached) {
                layer.bytes_done = layer.bytes_total;
            }
        });
    }

    /// Adds bytes read of one layer; `fetched` of them came over the network or from the source.
    pub fn layer_bytes(&self, index: usize, read: u64, fetched: u64) {
        self.progress
            .send_modify(|progress| progress.fetched_bytes += fetched);
        if let Some(whole) = &self.whole {
            whole.count(fetched, 0);
        }
        self.update_layer(index, |layer| layer.bytes_done += read);
    }

    /// Tells how much of one layer a registry has taken. An upload that begins anew goes back.
    pub fn layer_sent(&self, index: usize, bytes: u64) {
        self.update_layer(index, |layer| layer.bytes_done = bytes);
    }

    /// Returns how far one layer is on its way through, fetching and sending counted alike: only
    /// good for comparing it with itself.
    pub fn layer_reached(&self, index: usize) -> u64 {
        let progress = self.progress.borrow();
        let Some(layer) = progress.layers.get(index) else {
            return 0;
        };
        match layer.state {
            LayerState::Waiting => 0,
            LayerState::Fetching | LayerState::Decoding => layer.bytes_done,
            LayerState::Sending | LayerState::Done | LayerState::Cached => {
                layer.bytes_total.saturating_add(layer.bytes_done)
            }
        }
    }

    /// Counts bytes that a registry has taken for good.
    pub fn sent(&self, bytes: u64) {
        self.progress
            .send_modify(|progress| progress.sent_bytes += bytes);
        if let Some(whole) = &self.whole {
            whole.count(0, bytes);
        }
    }

    fn update_layer(&self, index: usize, change: impl FnOnce(&mut LayerProgress)) {
        self.progress.send_modify(|progress| {
            let Some(layer) = progress.layers.get_mut(index) else {
                return;
            };
            change(layer);
            let is_done = |layer: &&LayerProgress| {
                matches!(layer.state, LayerState::Done | LayerState::Cached)
            };
            progress.bytes_done = progress.layers.iter().map(|layer| layer.bytes_done).sum();
            progress.items_done = progress.layers.iter().filter(is_done).count() as u64;
        });
        self.tell_whole();
    }

    fn tell_whole(&self) {
        if let Some(whole) = &self.whole {
            whole.show(self.progress.borrow().layers.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> OperationId {
        OperationId::new(uuid::Uuid::new_v4())
    }

    #[tokio::test]
    async fn an_operation_leaves_the_board_when_its_work_ends() {
        let board = Arc::new(Board::new(1));
        let id = id();

        let admission = board.admit().unwrap();
        board.start(id, admission, |_| async {});
        let running = board.find(id);
        if let Some(running) = running {
            running.ended().await;
        }

        assert!(board.find(id).is_none());
    }

    #[tokio::test]
    async fn a_full_board_and_a_stopping_one_refuse() {
        let board = Arc::new(Board::new(1));
        let admission = board.admit().unwrap();
        board.start(id(), admission, |running| async move {
            running.cancelled().await;
        });

        let refused = board.admit().unwrap_err();
        assert_eq!(refused, BoardError::Busy { running: 1 });
        board.stop(Duration::ZERO).await;
        assert_eq!(board.admit().unwrap_err(), BoardError::Stopping);
        assert!(board.is_empty());
    }

    #[tokio::test]
    async fn a_panicking_task_leaves_the_board_too() {
        let board = Arc::new(Board::new(1));
        let id = id();

        let admission = board.admit().unwrap();
        board.start(id, admission, |_| async { panic!("on purpose") });
        board.stop(Duration::from_secs(5)).await;

        assert!(board.is_empty());
    }
}
