//! The time, handed in: a seam, so that tests hold it.

use std::fmt;

use kiln_domain::Timestamp;

/// Tells the time of day.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the present.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // A clock before 1970 or past the year 9999 is a broken clock; the epoch says so.
        since
            .ok()
            .and_then(|since| i64::try_from(since.as_micros()).ok())
            .and_then(|micros| Timestamp::from_micros(micros).ok())
            .unwrap_or(Timestamp::EPOCH)
    }
}
