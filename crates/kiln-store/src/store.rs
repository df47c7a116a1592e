//! The store's door: closures that read or write go in, their values come out.
//!
//! ```text
//! write(closure) ──queue──▶ the writer's thread ── BEGIN IMMEDIATE · closure · COMMIT ──▶ answer
//! read(closure) ──permit──▶ a blocking thread ──── BEGIN · closure · end ───────────────▶ answer
//! ```
//! What closures ask is in the modules named after nouns.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::TransactionBehavior;
use tokio::sync::{mpsc, oneshot};
use tokio::task;

use crate::error::at;
use crate::health::Health;
use crate::open::{Opened, open_reader, open_writer};
use crate::readers::Readers;
use crate::snapshot;
use crate::writer::{self, Message};
use crate::{
    CallLine, OpenError, ReadTransaction, SnapshotError, StoreError, StoreOptions,
    WriteTransaction, meta,
};

/// The database of one daemon; clones share it.
///
/// Nothing else in the process may open the file while it is in use, not even to read it: closing
/// any descriptor of it drops the locks that SQLite holds (POSIX advisory locks belong to the
/// process). Call [`Store::close`] to end in good order; when the last clone is merely dropped,
/// what was sent is still written.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    opened: Opened,
    health: Arc<Health>,
    writer: mpsc::Sender<Message>,
    readers: Readers,
}

impl Store {
    /// Opens the database at `path`, creating it when there is none; blocks while it does.
    ///
    /// The folder must exist. An existing database is checked, and migrated when it is older
    /// than this build, after a copy of it was kept at `<path>.before-<n>`.
    pub fn open(path: &Path, options: &StoreOptions) -> Result<Self, OpenError> {
        let (connection, opened) = open_writer(path, options)?;
        let readers = (0..options.readers.get())
            .map(|_| open_reader(path, options))
            .collect::<Result<_, _>>()?;
        let health = Health::of(path).map_err(|source| OpenError::File {
            step: "look at",
            path: path.to_owned(),
            source,
        })?;
        let writer = writer::start(connection).map_err(|source| OpenError::Thread {
            path: path.to_owned(),
            source,
        })?;
        let shared = Shared {
            path: path.to_owned(),
            opened,
            health: Arc::new(health),
            writer,
            readers: Readers::new(readers),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Tells whether opening found a database, and of which schema.
    pub fn opened(&self) -> Opened {
        self.shared.opened
    }

    /// Tells whether there was no database before this opening: either the daemon is new, or
    /// its database was lost.
    pub fn opened_fresh(&self) -> bool {
        self.shared.opened == Opened::Fresh
    }

    /// Borrows the database file's path.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Runs `work` over one unchanging state of the store, beside other reads and writes.
    ///
    /// Must be awaited inside a Tokio runtime, whose blocking threads run it. It runs to its
    /// end even when the caller stops waiting.
    pub async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: FnOnce(&ReadTransaction<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let mut lease = self.shared.readers.lease().await?;
        let reading = task::spawn_blocking(move || {
            let connection = lease.connection()?;
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Deferred)
                .map_err(at("begin to read"))?;
            work(&ReadTransaction::over(&transaction))
        });
        finish(reading.await)
    }

    /// Runs `work` in a transaction of its own, after the writes asked for earlier.
    ///
    /// When it returns `Ok`, everything it did is durable before this returns, and so is the audit
    /// line of the call that this is part of, if there is one ([`CallLine`]); when it returns
    /// `Err` or panics, nothing of it stays. When the caller stops waiting, it runs all the same
    /// or was never begun; there is nothing between.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: FnOnce(&WriteTransaction<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let health = self.shared.health.clone();
        let line = CallLine::current();
        let job = Message::Run(Box::new(move |connection| {
            let outcome = writer::in_transaction(connection, &health, |tx| {
                let value = work(tx)?;
                if let Some(line) = &line {
                    line.ride(tx)?;
                }
                Ok(value)
            });
            if let Some(line) = &line {
                line.settle(outcome.is_ok());
            }
            // The caller may have stopped waiting; the outcome stands all the same.
            answer.send(outcome).ok();
        }));
        let sent = self.shared.writer.send(job).await;
        sent.map_err(|_| StoreError::Closed)?;
        answered
            .await
            .unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    /// Fails when the database cannot be written now. Something that was written within `age`, with
    /// no failure since, is proof enough that it can; else something is written that nobody reads.
    pub async fn check_writable(&self, age: Duration) -> Result<(), StoreError> {
        if self.shared.health.is_known_good(age) {
            return Ok(());
        }
        self.write(meta::probe).await
    }

    /// Writes a compact copy of the database to `target`, mode 0600, replacing what was there.
    ///
    /// It uses a reading connection, so that writes go on meanwhile; the copy is the state at
    /// the time it began. It is durable when this returns. [`crate::recovery`] finds it again
    /// when it is called `<path>.snapshot-<anything>`.
    pub async fn snapshot_to(&self, target: &Path) -> Result<(), SnapshotError> {
        let target = target.to_owned();
        if snapshot::is_same_file(self.path(), &target) {
            return Err(SnapshotError::Itself { path: target });
        }
        let mut lease = self.shared.readers.lease().await?;
        let copying = task::spawn_blocking(move || snapshot::write(lease.connection()?, &target));
        finish(copying.await)
    }

    /// Waits for what is running, then closes the database with an empty log beside it.
    ///
    /// Every other use, also of clones, fails with [`StoreError::Closed`] from now on; so does
    /// closing twice. A database whose file is gone leaves a snapshot, from which the next start
    /// goes on.
    pub async fn close(&self) -> Result<(), StoreError> {
        if !std::fs::exists(self.path()).unwrap_or(true) {
            // What is open here is the last that anybody has of it. If this fails, nothing is left.
            self.rotate_snapshots(NonZeroUsize::MAX).await.ok();
        }
        self.shared.readers.close().await;
        let (answer, answered) = oneshot::channel();
        let sent = self.shared.writer.send(Message::Close(answer)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// Turns the end of a blocking task into its value; a panic becomes an error.
fn finish<T, E: From<StoreError>>(ended: Result<Result<T, E>, task::JoinError>) -> Result<T, E> {
    ended.unwrap_or_else(|error| {
        let failure = match error.try_into_panic() {
            Ok(payload) => StoreError::panicked(&*payload),
            // Only a runtime that shuts down cancels a blocking task.
            Err(_) => StoreError::Closed,
        };
        Err(failure.into())
    })
}

#[cfg(test)]
mod tests;
