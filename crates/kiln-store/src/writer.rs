//! The one thread that owns the writing connection and runs what it is sent, in order.
//!
//! What a closure does is not here. A caller that stops waiting cannot tear a transaction: once
//! taken from the queue, it commits or rolls back by itself.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::error::at;
use crate::health::Health;
use crate::{StoreError, WriteTransaction};

/// Writes that may wait for their turn before callers wait to be queued.
const QUEUE_LENGTH: usize = 64;

/// One piece of work for the writing connection; it answers its caller itself and never panics.
pub(crate) type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// What the writer is sent.
pub(crate) enum Message {
    /// Run this.
    Run(Job),
    /// Take nothing new, run what waits, put the database in order, close it and answer.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// Starts the writer; it ends after [`Message::Close`], or when every sender is gone.
pub(crate) fn start(connection: Connection) -> io::Result<mpsc::Sender<Message>> {
    let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
    thread::Builder::new()
        .name("kiln-store".to_owned())
        .spawn(move || serve(connection, receiver))?;
    Ok(sender)
}

/// Runs `work` in an immediate transaction: committed when it returns `Ok`, undone otherwise. What
/// the database made of it is noted in `health`.
pub(crate) fn in_transaction<T, E, F>(
    connection: &mut Connection,
    health: &Health,
    work: F,
) -> Result<T, E>
where
    E: From<StoreError>,
    F: FnOnce(&WriteTransaction<'_>) -> Result<T, E>,
{
    // The connection is sound after a panic: unwinding rolled the transaction back.
    catch_unwind(AssertUnwindSafe(|| transact(connection, health, work)))
        .unwrap_or_else(|payload| Err(StoreError::panicked(&*payload).into()))
}

fn transact<T, E, F>(connection: &mut Connection, health: &Health, work: F) -> Result<T, E>
where
    E: From<StoreError>,
    F: FnOnce(&WriteTransaction<'_>) -> Result<T, E>,
{
    health.check_files()?;
    let changes = connection.total_changes();
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(at("begin a transaction"))
        .inspect_err(|_| health.failed())?;
    let value = work(&WriteTransaction::over(&transaction))?;
    // A full disk makes SQLite roll back by itself; a closure that ignored that error must not
    // hear "done". Committing without a transaction is an error.
    let committed = transaction.commit().map_err(at("commit"));
    committed.inspect_err(|_| health.failed())?;
    // A transaction that changed no row wrote nothing, and tells nothing.
    if connection.total_changes() > changes {
        health.written();
    }
    Ok(value)
}

fn serve(mut connection: Connection, mut receiver: mpsc::Receiver<Message>) {
    let mut closing = None;
    while let Some(message) = receiver.blocking_recv() {
        match message {
            Message::Run(job) => run(job, &mut connection),
            Message::Close(answer) => {
                receiver.close();
                closing.get_or_insert(answer);
            }
        }
    }
    let closed = put_in_order(connection);
    if let Some(answer) = closing {
        // Whoever asked may have stopped waiting; the database is closed all the same.
        answer.send(closed).ok();
    }
}

/// Runs a job; one that panics, in spite of its promise, must not end the writer.
fn run(job: Job, connection: &mut Connection) {
    let outcome: Result<(), Box<dyn Any + Send>> =
        catch_unwind(AssertUnwindSafe(|| job(connection)));
    // Its answer was dropped while unwinding, so the caller hears of it there.
    drop(outcome);
}

/// Refreshes the planner's statistics, empties the log into the database and closes it.
fn put_in_order(connection: Connection) -> Result<(), StoreError> {
    let optimized = connection
        .execute_batch("PRAGMA optimize")
        .map_err(at("optimize"));
    let emptied = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .map_err(at("empty the write-ahead log"));
    let closed = connection
        .close()
        .map_err(|(_, error)| at("close the database")(error));
    optimized.and(emptied).and(closed)
}
