//! Long work: the desk that lists, shows, waits for and cancels operations.
//!
//! Starting one is not here; the desk whose work it is does that.

use std::sync::Arc;
use std::time::Duration;

use kiln_api::operation::{ListParams, Operation, Progress, WaitParams};
use kiln_api::page::Page;
use kiln_api::{Failure, codes};
use kiln_domain::OperationId;
use kiln_domain::access::{Actor, Role, may_see};
use kiln_store::Store;
use kiln_store::operations::{self, OperationFilter, OperationRow};
use tokio::sync::watch;

use crate::board::{Board, Running};
use crate::events::{cursor, page_limit};
use crate::failures::store_failure;
use crate::views;
use crate::watchers::{ConnectionId, Watching};

/// How often a watcher is told at most: what changes in between is seen with the next item.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Lists, shows, waits for and cancels operations.
#[derive(Clone, Debug)]
pub struct Operations {
    store: Store,
    board: Arc<Board>,
}

impl Operations {
    /// Makes the desk.
    pub fn new(store: Store, board: Arc<Board>) -> Self {
        Self { store, board }
    }

    /// Lists operations in the order of their making: the caller's own, or all for a superadmin.
    pub async fn list(
        &self,
        actor: &Actor,
        params: ListParams,
    ) -> Result<Page<Operation>, Failure> {
        let after = cursor(params.after)?;
        let limit = page_limit(params.limit)?;
        let owner_uid = (actor.role != Role::Superadmin).then_some(actor.uid);
        let filter = OperationFilter {
            state: params.state,
            owner_uid,
        };
        let page = self
            .store
            .read(move |tx| operations::page(tx, after, limit, &filter))
            .await
            .map_err(|error| store_failure(&error))?;
        let next = page.next_after.and_then(|seq| u64::try_from(seq).ok());
        Ok(Page {
            items: page.rows.into_iter().map(|row| self.view(row)).collect(),
            next,
        })
    }

    /// Shows one operation.
    pub async fn get(&self, actor: &Actor, id: OperationId) -> Result<Operation, Failure> {
        Ok(self.view(self.find(actor, id).await?))
    }

    /// Waits until an operation has ended. The caller counts as a watcher meanwhile.
    pub async fn wait(
        &self,
        actor: &Actor,
        connection: ConnectionId,
        params: WaitParams,
    ) -> Result<Operation, Failure> {
        let id = params.operation_id;
        // The board is asked first: an operation that ends in between is then found ended.
        let running = self.board.find(id);
        let row = self.find(actor, id).await?;
        let Some(running) = running.filter(|_| !row.state.is_final()) else {
            return Ok(self.view(row));
        };
        let _watching = running.watchers().enter(connection);
        let Some(timeout_ms) = params.timeout_ms else {
            running.ended().await;
            return self.get(actor, id).await;
        };
        if tokio::time::timeout(Duration::from_millis(timeout_ms), running.ended())
            .await
            .is_ok()
        {
            return self.get(actor, id).await;
        }
        let message = format!("operation {id} is still running after {timeout_ms} ms");
        Err(Failure::new(codes::operation::STILL_RUNNING, message).with_operation(id))
    }

    /// Stops a running operation and waits until it has cleaned up.
    pub async fn cancel(&self, actor: &Actor, id: OperationId) -> Result<Operation, Failure> {
        let running = self.stoppable(actor, id).await?;
        running.cancel();
        running.ended().await;
        self.get(actor, id).await
    }

    /// Does what [`cancel`](Self::cancel) does, unless anybody but `connection` follows the
    /// operation: then it goes on, and is shown as it stands.
    pub async fn cancel_unless_watched(
        &self,
        actor: &Actor,
        connection: ConnectionId,
        id: OperationId,
    ) -> Result<Operation, Failure> {
        let running = self.stoppable(actor, id).await?;
        if running.watchers().has_others_than(connection) {
            return self.get(actor, id).await;
        }
        running.cancel();
        running.ended().await;
        self.get(actor, id).await
    }

    async fn stoppable(&self, actor: &Actor, id: OperationId) -> Result<Arc<Running>, Failure> {
        let running = self.board.find(id);
        let row = self.find(actor, id).await?;
        let Some(running) = running.filter(|_| !row.state.is_final()) else {
            let message = format!("operation {id} has {} already", row.state);
            return Err(
                Failure::new(codes::operation::ALREADY_FINISHED, message).with_operation(id)
            );
        };
        Ok(running)
    }

    /// Starts to watch an operation. The caller counts as a watcher until the stream is dropped.
    pub async fn watch(
        &self,
        actor: &Actor,
        connection: ConnectionId,
        id: OperationId,
    ) -> Result<Watcher, Failure> {
        let running = self.board.find(id);
        let row = self.find(actor, id).await?;
        let progress = running.as_ref().map(|running| running.watch());
        let watching = running
            .as_ref()
            .map(|running| running.watchers().enter(connection));
        let desk = self.clone();
        Ok(Watcher {
            desk,
            actor: *actor,
            id,
            running,
            progress,
            _watching: watching,
            first: Some(row),
            is_over: false,
        })
    }

    async fn find(&self, actor: &Actor, id: OperationId) -> Result<OperationRow, Failure> {
        let row = self.store.read(move |tx| operations::get(tx, id)).await;
        let row = row.map_err(|error| store_failure(&error))?;
        // Whose it is stays untold: another user's operation does not exist.
        row.filter(|row| may_see(actor, row.owner_uid).is_ok())
            .ok_or_else(|| {
                Failure::new(
                    codes::operation::NOT_FOUND,
                    format!("there is no operation {id}"),
                )
            })
    }

    fn view(&self, row: OperationRow) -> Operation {
        let live = self.board.find(row.id).filter(|_| !row.state.is_final());
        views::operation(row, live.as_deref())
    }
}

/// A stream of one operation's states; the last one is final.
#[derive(Debug)]
pub struct Watcher {
    desk: Operations,
    actor: Actor,
    id: OperationId,
    running: Option<Arc<Running>>,
    progress: Option<watch::Receiver<Progress>>,
    _watching: Option<Watching>,
    first: Option<OperationRow>,
    is_over: bool,
}

impl Watcher {
    /// Waits for the next state; `None` comes behind the final one.
    pub async fn next(&mut self) -> Option<Operation> {
        if self.is_over {
            return None;
        }
        if let Some(row) = self.first.take() {
            let operation = self.desk.view(row);
            self.is_over = operation.state.is_final();
            return Some(operation);
        }
        if let (Some(running), Some(progress)) = (self.running.clone(), &mut self.progress) {
            tokio::select! {
                // What is read next is the end, whatever it says.
                () = running.ended() => self.running = None,
                () = next_change(progress) => {}
            }
        }
        // A store that cannot be read ends the stream: the client sees it close without an end
        // and asks anew.
        let operation = self.desk.get(&self.actor, self.id).await.ok()?;
        self.is_over = operation.state.is_final() || self.running.is_none();
        Some(operation)
    }
}

async fn next_change(progress: &mut watch::Receiver<Progress>) {
    tokio::time::sleep(WATCH_INTERVAL).await;
    if progress.changed().await.is_err() {
        // The sender lives as long as the entry, whose end is awaited beside this.
        std::future::pending::<()>().await;
    }
}
