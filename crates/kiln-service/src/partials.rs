//! What downloads left half done, while the daemon runs: it goes after a day, and the oldest of it
//! when all takes more than its share of the disk.
//!
//! A start does the same; see [`crate::recover`].

use std::sync::Arc;
use std::time::Duration;

use kiln_cache::{Cache, Swept};
use tokio::sync::watch;

use crate::blocking::Pool;
use crate::clock::Clock;
use crate::spare::Spare;

/// How often the cache is looked through.
const LOOK: Duration = Duration::from_secs(3600);

/// Removes what nobody has gone on with.
#[derive(Clone, Debug)]
pub struct Partials {
    cache: Cache,
    clock: Arc<dyn Clock>,
    pool: Pool,
}

impl Partials {
    /// Makes the worker; it looks through the cache on `pool`.
    pub fn new(cache: Cache, clock: Arc<dyn Clock>, pool: Pool) -> Self {
        Self { cache, clock, pool }
    }

    /// Works until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let work = async {
            loop {
                tokio::time::sleep(LOOK).await;
                self.work_once().await;
            }
        };
        tokio::select! {
            () = work => {}
            _ = stop.wait_for(|stopped| *stopped) => {}
        }
    }

    async fn work_once(&self) {
        let (cache, now) = (self.cache.clone(), self.clock.now());
        let sweep = move || {
            let swept = cache.sweep_partials(now);
            Spare::new(cache).trim();
            swept
        };
        match self.pool.run(sweep).await {
            Ok(Ok(swept)) if swept == Swept::default() => {}
            Ok(Ok(swept)) => tracing::info!(?swept, "old partial downloads were removed"),
            Ok(Err(error)) => tracing::warn!(%error, "partial downloads could not be looked at"),
            Err(error) => tracing::warn!(%error, "partial downloads could not be looked at"),
        }
    }
}
