//! How many costly calls one user may make: so many at once, then one in a while.
//!
//! Each user has one moment: when all of the allowance will be back. A call moves it on by the time that
//! one call takes to come back, and is refused where that would be further ahead than the whole
//! allowance takes (the generic cell rate algorithm, ITU-T I.371).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kiln_api::{Failure, codes};

/// Users that are remembered although their allowance is back.
const IDLE_MAX: usize = 4_096;

const MINUTE: Duration = Duration::from_secs(60);

/// How many costly calls one user may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// At once; at least one.
    pub burst: u32,
    /// Then, in a minute; at least one.
    pub per_minute: u32,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            burst: 60,
            per_minute: 60,
        }
    }
}

impl RateLimit {
    /// After how long one more call is let in.
    fn interval(self) -> Duration {
        MINUTE / self.per_minute.max(1)
    }

    /// After how long all of the allowance is back.
    fn whole(self) -> Duration {
        self.interval() * self.burst.max(1)
    }
}

/// What users have left. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    limit: RateLimit,
    /// When all of a user's allowance is back.
    full_at: HashMap<u32, Instant>,
}

impl Rates {
    /// Begins with this limit, and nobody has called.
    pub fn new(limit: RateLimit) -> Self {
        let rates = Self::default();
        rates.set(limit);
        rates
    }

    /// Takes another limit from now on.
    pub fn set(&self, limit: RateLimit) {
        self.lock().limit = limit;
    }

    /// Counts a costly call of a user, or tells after how long one will be let in.
    pub(crate) fn pass(&self, uid: u32, now: Instant) -> Result<(), Duration> {
        let mut shared = self.lock();
        if shared.full_at.len() >= IDLE_MAX {
            shared.full_at.retain(|_, full_at| *full_at > now);
        }
        let limit = shared.limit;
        let full_at = shared.full_at.entry(uid).or_insert(now);
        // A limit that was lowered meanwhile makes nobody wait for longer than a whole allowance.
        let left = full_at.saturating_duration_since(now).min(limit.whole());
        let ahead = left + limit.interval();
        let passes = ahead <= limit.whole();
        *full_at = now + if passes { ahead } else { left };
        if passes {
            Ok(())
        } else {
            Err(ahead.saturating_sub(limit.whole()))
        }
    }

    /// Refuses a call whose user has nothing left.
    pub(crate) fn admit(&self, uid: u32, method: &str, now: Instant) -> Result<(), Failure> {
        let Err(wait) = self.pass(uid, now) else {
            return Ok(());
        };
        let RateLimit { burst, per_minute } = self.lock().limit;
        let seconds = wait.as_millis().div_ceil(1_000);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX).max(1);
        let message = format!(
            "user {uid} has made as many costly calls as one may, {burst} at once and {per_minute} a \
             minute, and {method} is one"
        );
        let failure = Failure::new(codes::request::RATE_LIMITED, message);
        let hint = format!("call again in {seconds} s");
        Err(Failure {
            retry_after_seconds: Some(seconds),
            ..failure.with_hint(hint, None)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: u32 = 1;
    const BOB: u32 = 2;

    fn rates(burst: u32, per_minute: u32) -> Rates {
        Rates::new(RateLimit { burst, per_minute })
    }

    fn passed(rates: &Rates, uid: u32, now: Instant, calls: u32) -> u32 {
        let passed = (0..calls).filter(|_| rates.pass(uid, now).is_ok());
        u32::try_from(passed.count()).unwrap()
    }

    #[test]
    fn a_flood_is_cut_to_the_allowance_and_hurts_nobody_else() {
        let (rates, begin) = (rates(5, 60), Instant::now());

        assert_eq!(passed(&rates, ALICE, begin, 100), 5);
        assert_eq!(rates.pass(ALICE, begin), Err(Duration::from_secs(1)));
        assert_eq!(passed(&rates, BOB, begin, 3), 3);
        let failure = rates.admit(ALICE, "image.pull", begin).unwrap_err();
        assert!(failure.is(codes::request::RATE_LIMITED) && failure.retryable);
        assert_eq!(failure.retry_after_seconds, Some(1));
    }

    #[test]
    fn the_allowance_comes_back_one_by_one_and_no_further() {
        let (rates, begin) = (rates(5, 30), Instant::now());
        let after = |millis| begin + Duration::from_millis(millis);
        passed(&rates, ALICE, begin, 5);

        assert_eq!(passed(&rates, ALICE, after(1_999), 9), 0);
        assert_eq!(passed(&rates, ALICE, after(2_000), 9), 1);
        assert_eq!(passed(&rates, ALICE, after(8_000), 9), 3);
        assert_eq!(passed(&rates, ALICE, after(3_600_000), 9), 5);
        // What is refused costs nothing.
        assert_eq!(
            rates.pass(ALICE, after(3_600_000)),
            Err(Duration::from_secs(2))
        );
    }

    #[test]
    fn another_limit_holds_at_once() {
        let (rates, begin) = (rates(100, 1), Instant::now());
        assert_eq!(passed(&rates, ALICE, begin, 100), 100);

        rates.set(RateLimit {
            burst: 2,
            per_minute: 60,
        });

        let wait = rates.pass(ALICE, begin).unwrap_err();
        assert_eq!(wait, Duration::from_secs(1));
        assert_eq!(passed(&rates, BOB, begin, 9), 2);
    }

    #[test]
    fn who_has_all_of_it_back_is_forgotten() {
        let (rates, begin) = (rates(1, 60), Instant::now());
        for uid in 0..u32::try_from(IDLE_MAX).unwrap() {
            rates.pass(uid, begin).unwrap();
        }

        rates.pass(9_999, begin + Duration::from_secs(1)).unwrap();

        assert_eq!(rates.lock().full_at.len(), 1);
    }
}
