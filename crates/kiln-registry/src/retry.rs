//! Trying again: how often, and how long to wait in between.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::config::Config;
use crate::error::FetchError;

/// Longest wait that is not the server's own wish.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// Longest time one piece of work waits between its attempts, in all.
const MAX_WAITED: Duration = Duration::from_secs(90);

/// The failed attempts of one piece of work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempts {
    failures: u32,
    waited: Duration,
}

impl Attempts {
    /// Forgets the failures so far, because there was progress; the waiting counts on.
    pub(crate) fn forgive(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt, or gives the error back when another one would not help
    /// or there have been enough.
    pub(crate) async fn wait_after(
        &mut self,
        error: FetchError,
        config: &Config,
    ) -> Result<(), FetchError> {
        self.failures = self.failures.saturating_add(1);
        if !error.is_retryable() || self.failures >= config.attempts {
            return Err(error);
        }
        let wait = match &error {
            FetchError::RateLimited {
                retry_after: Some(wish),
                ..
            } if *wish > config.longest_retry_after => return Err(error),
            FetchError::RateLimited {
                retry_after: Some(wish),
                ..
            } => *wish,
            _ => self.backoff(config),
        };
        self.waited = self.waited.saturating_add(wait);
        if self.waited > MAX_WAITED {
            return Err(error);
        }
        tracing::debug!(%error, failures = self.failures, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Doubles from failure to failure; somewhere between half and all of that, so that many
    /// clients do not come back at once.
    fn backoff(self, config: &Config) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let full = config
            .backoff
            .saturating_mul(1 << doublings)
            .min(MAX_BACKOFF);
        // Every RandomState has fresh keys: enough chance for a jitter, without a dependency.
        let chance = RandomState::new().hash_one(self.failures) % 1024;
        let share = 512 + u32::try_from(chance / 2).unwrap_or(0);
        full * share / 1024
    }
}
