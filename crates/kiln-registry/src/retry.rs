//! Trying again: how often, and how long to wait in between.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::config::Config;
use crate::error::FetchError;

/// Longest wait that is not the server's own wish.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// The attempts of one request.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    config: &'a Config,
    failures: u32,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(config: &'a Config) -> Self {
        Self::after(config, 0)
    }

    /// Goes on counting after earlier failures of the same piece of work.
    pub(crate) fn after(config: &'a Config, failures: u32) -> Self {
        Self { config, failures }
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Waits before the next attempt, or gives the error back when another one would not help
    /// or there have been enough.
    pub(crate) async fn wait_after(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.failures = self.failures.saturating_add(1);
        if !error.is_retryable() || self.failures >= self.config.attempts {
            return Err(error);
        }
        let wait = match &error {
            FetchError::RateLimited {
                retry_after: Some(wish),
                ..
            } if *wish > self.config.longest_retry_after => return Err(error),
            FetchError::RateLimited {
                retry_after: Some(wish),
                ..
            } => *wish,
            _ => self.backoff(),
        };
        tracing::debug!(%error, failures = self.failures, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Doubles from failure to failure; somewhere between half and all of that, so that many
    /// clients do not come back at once.
    fn backoff(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let full = self
            .config
            .backoff
            .saturating_mul(1 << doublings)
            .min(MAX_BACKOFF);
        // Every RandomState has fresh keys: enough chance for a jitter, without a dependency.
        let chance = RandomState::new().hash_one(self.failures) % 1024;
        let share = 512 + u32::try_from(chance / 2).unwrap_or(0);
        full * share / 1024
    }
}
