//! Retention: forgotten images go for good when their time is over, unless something uses them.

use std::time::Duration;

use kiln_domain::access::Actor;
use kiln_store::events::EventActor;
use kiln_store::images::{self, ImageRow};
use kiln_store::{WriteTransaction, holders, leases};
use tokio::sync::watch;

use super::{OnBehalfOf, PurgeError, Purges};

/// How often the store is asked for images whose time is over.
const LOOK: Duration = Duration::from_secs(600);

/// Most images that one query brings.
const BATCH: u32 = 100;

/// What one sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionSwept {
    /// Images that are gone.
    pub purged: u64,
    /// Images whose time is over and that something uses.
    pub in_use: u64,
    /// Bytes that their files took on the disk.
    pub freed_bytes: u64,
}

/// Purges what was forgotten long enough ago.
#[derive(Clone, Debug)]
pub struct Retention {
    purges: Purges,
    /// The daemon's own user.
    own: Actor,
}

impl Retention {
    /// Makes the worker, which purges as `own`.
    pub fn new(purges: Purges, own: Actor) -> Self {
        Self { purges, own }
    }

    /// Works until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let work = async {
            loop {
                match self.sweep().await {
                    Ok(swept) if swept == RetentionSwept::default() => {}
                    Ok(swept) => tracing::info!(?swept, "the retention of images was looked after"),
                    Err(error) => tracing::warn!(
                        error = crate::failures::with_causes(&error),
                        "the retention of images could not be looked after"
                    ),
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = work => {}
            _ = stop.wait_for(|stopped| *stopped) => {}
        }
    }

    /// Purges every image whose time is over by the clock and that nothing uses, and drops what is
    /// left of leases that have ended.
    pub async fn sweep(&self) -> Result<RetentionSwept, PurgeError> {
        let now = self.purges.clock.now();
        let mut swept = RetentionSwept::default();
        let mut after = None;
        loop {
            let due = self
                .purges
                .store
                .read(move |tx| images::to_purge(tx, now, after, BATCH))
                .await?;
            let Some(last) = due.last() else { break };
            after = last.purge_after.map(|ended| (ended, last.seq));
            for row in due {
                let whom = OnBehalfOf {
                    actor: self.own,
                    event: EventActor::Daemon,
                };
                let is_over = move |_: &WriteTransaction<'_>, row: &ImageRow| {
                    Ok(row.purge_after.is_some_and(|ended| ended <= now))
                };
                let remover = self.purges.remover();
                match remover.purge_forgotten(row.id, whom, now, is_over).await? {
                    Some(freed_bytes) => {
                        swept.purged += 1;
                        swept.freed_bytes += freed_bytes;
                    }
                    None => swept.in_use += 1,
                }
            }
        }
        self.purges
            .store
            .write(move |tx| {
                holders::drop_expired(tx, now)?;
                leases::drop_expired(tx, now)
            })
            .await?;
        Ok(swept)
    }
}
