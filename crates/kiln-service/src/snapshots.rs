//! Snapshots of the database: one after a time, and one after so many events.
//!
//! ```text
//! no job ──▶ due ──snapshot──▶ due after the interval, or when enough events have happened
//!             └── failed ──▶ due after a while
//! ```
//! The job remembers the newest event of the last snapshot. Copies are made on a reading
//! connection, so that writes go on meanwhile.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use kiln_domain::Timestamp;
use kiln_store::jobs::{self, JobRow, NewJob};
use kiln_store::{SnapshotError, Store, StoreError, WriteTransaction, events};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::failures::with_causes;

/// The kind and key of the one job this module has.
const JOB: (&str, &str) = ("database.snapshot", "kiln.db");

/// How often the store is asked whether a snapshot is due.
const LOOK: Duration = Duration::from_secs(2);

/// How many snapshots are kept: should the newest be damaged as well, there are others.
const KEEP: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2);

/// How long after a failure a snapshot is tried again.
const RETRY: Duration = Duration::from_secs(600);

/// When snapshots are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSchedule {
    /// One after this time.
    pub interval: Duration,
    /// One after so many events, however soon.
    pub events: u32,
}

/// Makes snapshots when they are due.
#[derive(Clone, Debug)]
pub struct Snapshots {
    store: Store,
    clock: Arc<dyn Clock>,
    schedule: SnapshotSchedule,
}

impl Snapshots {
    /// Makes the worker.
    pub fn new(store: Store, clock: Arc<dyn Clock>, schedule: SnapshotSchedule) -> Self {
        Self {
            store,
            clock,
            schedule,
        }
    }

    /// Works until `stop` turns true. A copy that is being written then is finished by
    /// [`Store::close`], or is no snapshot yet.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let work = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if let Err(error) = self.work_once().await {
                    tracing::error!(error = %with_causes(&error), "the database has no new snapshot");
                }
            }
        };
        tokio::select! {
            () = work => {}
            _ = stop.wait_for(|stopped| *stopped) => {}
        }
    }

    /// Makes a snapshot if one is due, and tells whether it did.
    async fn work_once(&self) -> Result<bool, SnapshotError> {
        let now = self.clock.now();
        let (job, newest) = self
            .store
            .read(|tx| Ok::<_, StoreError>((jobs::get(tx, JOB.0, JOB.1)?, events::newest_seq(tx)?)))
            .await?;
        let Some(job) = job else {
            self.put(0, now).await?;
            return Ok(false);
        };
        if !self.is_due(&job, newest, now) {
            return Ok(false);
        }
        match self.store.rotate_snapshots(KEEP).await {
            Ok(made) => {
                tracing::debug!(?made, "made a snapshot of the database");
                let due_at = later(now, self.schedule.interval);
                self.put(made.seq, due_at).await?;
                Ok(true)
            }
            Err(error) => {
                let due_at = later(now, RETRY);
                let put_off =
                    move |tx: &WriteTransaction<'_>| jobs::try_again_at(tx, job.id, due_at);
                self.store.write(put_off).await?;
                Err(error)
            }
        }
    }

    fn is_due(&self, job: &JobRow, newest: i64, now: Timestamp) -> bool {
        // A due time further off than any this module sets comes from a clock that was wrong.
        let furthest = later(now, self.schedule.interval.max(RETRY));
        if job.due_at <= now || job.due_at > furthest {
            return true;
        }
        let last = job.payload["event_seq"].as_i64().unwrap_or(0);
        // After a failure only the time counts: trying at once would fail again.
        job.attempts == 0 && newest.saturating_sub(last) >= i64::from(self.schedule.events)
    }

    async fn put(&self, event_seq: i64, due_at: Timestamp) -> Result<(), StoreError> {
        let put = self.store.write(move |tx| {
            let job = NewJob {
                kind: JOB.0,
                key: JOB.1,
                due_at,
                payload: serde_json::json!({ "event_seq": event_seq }),
            };
            jobs::put(tx, &job)
        });
        put.await.map(drop)
    }
}

fn later(now: Timestamp, wait: Duration) -> Timestamp {
    let micros = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
    let later = Timestamp::from_micros(now.as_micros().saturating_add(micros));
    later.unwrap_or(Timestamp::LATEST)
}

#[cfg(test)]
mod tests;
