//! Trying again: what is worth it, how long to wait in between, and when patience ends.
//!
//! ```text
//! attempt ──fails──▶ would another one help? are there attempts left? is there time left?
//!    ▲                   │ yes                      │ no: the error as it is
//!    └──── wait ◀────────┘
//! ```

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;
use crate::error::FetchError;
use crate::transport::Transport;

/// Longest wait that is not the server's own wish.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// Which part of the patience an attempt may take however little is left: five seconds of two
/// minutes.
const LAST_CHANCE_PART: u32 = 24;

/// After so long without a fault the time lost before is forgotten: work that takes hours, such as
/// copying many images, may meet a fault in each of them.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// The time that one pull has lost to faults, shared by everything it fetches.
///
/// Lost is what passed since the last progress when an attempt fails, and the waiting after it.
/// What several layers lose side by side counts once. Cheap to clone; clones share the time.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    lost: Arc<Mutex<Lost>>,
    /// Which part of the whole may be used up here, in thousandths.
    thousandths: u32,
}

#[derive(Debug, Default)]
struct Lost {
    total: Duration,
    /// The latest stretch that was counted.
    stretch: Option<(Instant, Instant)>,
}

impl Lost {
    /// Forgets what was lost long before a moment.
    fn forget_before(&mut self, moment: Instant) {
        let is_long_ago = |(_, end)| moment.saturating_duration_since(end) > FORGOTTEN_AFTER;
        if self.stretch.is_some_and(is_long_ago) {
            *self = Self::default();
        }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            lost: Arc::default(),
            thousandths: 1000,
        }
    }
}

impl Patience {
    /// Shares the time with the place `number` of `count`, which are asked one after the other:
    /// each leaves something for those behind it.
    pub(crate) fn of_place(&self, number: usize, count: usize) -> Self {
        let part = number.saturating_mul(1000) / count.max(1);
        Self {
            lost: self.lost.clone(),
            thousandths: u32::try_from(part).unwrap_or(1000).min(1000),
        }
    }

    /// Returns how much may still be lost before the last chance.
    pub(crate) fn left(&self, config: &Config) -> Duration {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.forget_before(Instant::now());
        let all = config.patience.saturating_sub(last_chance(config));
        let here = all * self.thousandths / 1000;
        here.saturating_sub(lost.total)
    }

    /// Counts what passed between two moments, unless it is counted already.
    fn lose(&self, from: Instant, to: Instant) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.forget_before(from);
        let Some((begin, end)) = lost.stretch.filter(|(_, end)| from <= *end) else {
            lost.total = lost.total.saturating_add(to.duration_since(from));
            lost.stretch = Some((from, to));
            return;
        };
        // What lies before the latest stretch may have been counted in an earlier one: too much
        // is counted then, never too little.
        let before = begin.saturating_duration_since(from);
        let behind = to.saturating_duration_since(end);
        lost.total = lost.total.saturating_add(before).saturating_add(behind);
        lost.stretch = Some((begin.min(from), end.max(to)));
    }
}

/// The failed attempts of one piece of work.
#[derive(Clone, Debug)]
pub(crate) struct Attempts {
    failures: u32,
    patience: Patience,
    /// When the attempt began, or made progress last.
    progress_at: Instant,
}

impl Default for Attempts {
    /// Work for itself, with patience of its own.
    fn default() -> Self {
        Self::sharing(&Patience::default())
    }
}

impl Attempts {
    /// Work that is part of something larger, whose patience it uses up.
    pub(crate) fn sharing(patience: &Patience) -> Self {
        Self {
            failures: 0,
            patience: patience.clone(),
            progress_at: Instant::now(),
        }
    }

    /// Forgets the failures so far, because there was much progress; the lost time counts on.
    pub(crate) fn forgive(&mut self) {
        self.failures = 0;
    }

    /// Notes that something arrived: time is not lost before now.
    pub(crate) fn progress(&mut self) {
        self.progress_at = Instant::now();
    }

    /// Notes that there was progress until some moment.
    pub(crate) fn progress_until(&mut self, moment: Instant) {
        self.progress_at = self.progress_at.max(moment);
    }

    /// Notes that what arrived in this time was too little to count.
    pub(crate) fn no_progress_for(&mut self, time: Duration) {
        if let Some(moment) = Instant::now().checked_sub(time) {
            self.progress_at = self.progress_at.min(moment);
        }
    }

    /// Makes one attempt, for as long as patience lasts; `what` it waits for stands in messages.
    pub(crate) async fn attempt<T>(
        &mut self,
        transport: &Transport,
        what: &'static str,
        work: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        self.progress();
        self.within_patience(transport, what, work).await
    }

    /// Waits for the next bytes of an attempt that began well, for as long as patience lasts.
    pub(crate) async fn within_patience<T>(
        &self,
        transport: &Transport,
        what: &'static str,
        work: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        let config = transport.config();
        let left = self.patience_left(config);
        // Boxed, since asking is a large future that would make all who wait for it as large.
        tokio::time::timeout(left, Box::pin(work))
            .await
            .unwrap_or_else(|_| Err(transport.timeout(what, left)))
    }

    /// Counts what passed since the last progress, though nothing has failed: what follows has that
    /// much less time.
    pub(crate) fn lose_since_progress(&self) {
        self.patience.lose(self.progress_at, Instant::now());
    }

    /// Tells how long an attempt may take without progress.
    pub(crate) fn patience_left(&self, config: &Config) -> Duration {
        // The wait before may have been longer than asked for, on a machine that is busy.
        self.patience.left(config).max(last_chance(config))
    }

    /// Waits before the next attempt, or gives the error back when another one would not help
    /// or there have been enough.
    pub(crate) async fn wait_after(
        &mut self,
        error: FetchError,
        config: &Config,
    ) -> Result<(), FetchError> {
        if error.is_retryable() {
            return self.wait_anyway(error, config).await;
        }
        Err(error)
    }

    /// Does what [`Attempts::wait_after`] does after an error that speaks for giving up, where
    /// the caller knows better.
    pub(crate) async fn wait_anyway(
        &mut self,
        error: FetchError,
        config: &Config,
    ) -> Result<(), FetchError> {
        self.failures = self.failures.saturating_add(1);
        let failed_at = Instant::now();
        self.patience.lose(self.progress_at, failed_at);
        if self.failures >= config.attempts {
            return Err(error);
        }
        let wait = match error.retry_after() {
            Some(wish) if wish > config.longest_retry_after => return Err(error),
            Some(wish) => wish,
            None => self.backoff(config),
        };
        if self.patience.left(config) < wait {
            return Err(error);
        }
        tracing::debug!(%error, failures = self.failures, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        self.progress();
        self.patience.lose(failed_at, self.progress_at);
        Ok(())
    }

    /// Full jitter: anything between the shortest wait and one that doubles from failure to
    /// failure, so that many clients do not come back at once.
    fn backoff(&self, config: &Config) -> Duration {
        let doublings = self.failures.min(16);
        let longest = config
            .backoff
            .saturating_mul(1 << doublings)
            .min(MAX_BACKOFF.max(config.backoff));
        // Every RandomState has fresh keys: enough chance for a jitter, without a dependency.
        let chance = RandomState::new().hash_one(self.failures) % 1024;
        let share = u32::try_from(chance).unwrap_or(0);
        config.backoff + longest.saturating_sub(config.backoff) * share / 1024
    }
}

/// The shortest time an attempt is given.
fn last_chance(config: &Config) -> Duration {
    config.patience / LAST_CHANCE_PART
}

#[cfg(test)]
mod tests;
