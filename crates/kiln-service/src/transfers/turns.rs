//! Whose turn it is to send something that goes to several places: one sends it, the others wait
//! and find that they need not.
//!
//! ```text
//! take ── free ──▶ turn ── bytes pass ──▶ the others wait on
//!   └─ taken ──▶ wait ── none passed for ten seconds ──▶ each for itself
//! ```
//! Turns spare work, and are no promise that only one is at it: who holds one may be held up by a
//! place that hangs, and nobody else is to hang with it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

/// How long nothing may pass before those who wait go on by themselves: longer than a registry takes
/// for an answer, and short beside the two minutes that one which hangs is given.
const MAX_SILENCE: Duration = Duration::from_secs(10);

/// How often whoever holds a turn is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The turns of many things, by key.
#[derive(Debug)]
pub(super) struct Turns<K> {
    queues: Mutex<HashMap<K, Weak<Queue>>>,
}

/// Those who want to send one thing.
#[derive(Debug)]
struct Queue {
    lock: Arc<tokio::sync::Mutex<()>>,
    reached: Mutex<Reached>,
}

/// The farthest that anybody came, and when: who sends the same once more has not come farther.
#[derive(Debug)]
struct Reached {
    bytes: u64,
    at: Instant,
}

/// The right to send something, or leave to do so beside whoever has it. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct Turn {
    queue: Arc<Queue>,
    held: Option<OwnedMutexGuard<()>>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self {
            queues: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Waits for the turn, for as long as those before come on; `waits` is called when it is not to
    /// be had at once. Dropping the wait gives it up.
    pub(super) async fn take(&self, key: K, waits: impl FnOnce()) -> Turn {
        let queue = self.queue(key);
        if let Ok(held) = queue.lock.clone().try_lock_owned() {
            queue.begin();
            return Turn {
                queue,
                held: Some(held),
            };
        }
        waits();
        let mut coming = std::pin::pin!(queue.lock.clone().lock_owned());
        loop {
            let until = queue.moved_at() + MAX_SILENCE;
            if let Ok(held) = tokio::time::timeout_at(until, &mut coming).await {
                let held = Some(held);
                return Turn { queue, held };
            }
            if queue.moved_at() + MAX_SILENCE <= until {
                return Turn { queue, held: None };
            }
        }
    }

    fn queue(&self, key: K) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|_, queue| queue.strong_count() > 0);
        if let Some(queue) = queues.get(&key).and_then(Weak::upgrade) {
            return queue;
        }
        let queue = Arc::new(Queue {
            lock: Arc::default(),
            reached: Mutex::new(Reached {
                bytes: 0,
                at: Instant::now(),
            }),
        });
        queues.insert(key, Arc::downgrade(&queue));
        queue
    }
}

impl Turn {
    /// Does the work that the turn is for. `reached` tells how far it is, in bytes of any kind that
    /// grow: when it comes on, those behind wait on.
    pub(super) async fn spend<T>(
        &self,
        reached: impl Fn() -> u64,
        work: impl Future<Output = T>,
    ) -> T {
        // Boxed: sending is a large future, and this one would be as large once more.
        let mut work = Box::pin(work);
        loop {
            if let Ok(done) = tokio::time::timeout(LOOK_EVERY, &mut work).await {
                return done;
            }
            if self.held.is_some() {
                self.queue.come_to(reached());
            }
        }
    }
}

impl Queue {
    /// Forgets what was before: nobody waits, and somebody begins.
    fn begin(&self) {
        *self.reached() = Reached {
            bytes: 0,
            at: Instant::now(),
        };
    }

    fn come_to(&self, bytes: u64) {
        let mut reached = self.reached();
        if bytes > reached.bytes {
            *reached = Reached {
                bytes,
                at: Instant::now(),
            };
        }
    }

    fn moved_at(&self) -> Instant {
        self.reached().at
    }

    fn reached(&self) -> std::sync::MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    async fn taken_after(turns: &Turns<&'static str>, key: &'static str) -> (Duration, bool) {
        let began = Instant::now();
        let turn = turns.take(key, || {}).await;
        (began.elapsed(), turn.held.is_some())
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_excludes_itself_and_no_other() {
        let turns = Turns::default();
        let first = turns.take("a", || panic!("it waits")).await;
        let has_waited = AtomicBool::new(false);

        drop(turns.take("b", || panic!("it waits")).await);
        let second = turns.take("a", || has_waited.store(true, Ordering::Relaxed));
        let release = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(second, release);

        assert!(second.held.is_some());
        assert!(has_waited.load(Ordering::Relaxed));
        drop(second);
        drop(turns.take("c", || {}).await);
        assert_eq!(turns.queues.lock().unwrap().len(), 1);
    }

    /// However many wait, and whoever comes later: one that hangs costs ten seconds in all.
    #[tokio::test(start_paused = true)]
    async fn nobody_waits_long_for_one_that_hangs() {
        let turns = Turns::default();
        let hanging = turns.take("a", || {}).await;
        let hang = hanging.spend(|| 7, std::future::pending::<()>());
        let others = async {
            let waits = tokio::join!(taken_after(&turns, "a"), taken_after(&turns, "a"));
            (waits, taken_after(&turns, "a").await)
        };

        let (waits, late) = tokio::select! {
            () = hang => panic!("it ended"),
            waits = others => waits,
        };

        for (took, has_turn) in [waits.0, waits.1] {
            // The seven bytes are seen after the first second, and nothing later.
            assert!(!has_turn);
            assert!(took > MAX_SILENCE && took < MAX_SILENCE * 3 / 2, "{took:?}");
        }
        assert!(late.0 < LOOK_EVERY && !late.1, "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_on_is_waited_for() {
        let turns = Turns::default();
        let slow = turns.take("a", || {}).await;
        let bytes = AtomicU64::new(0);
        let work = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                bytes.fetch_add(1, Ordering::Relaxed);
            }
        };
        let sending = async {
            slow.spend(|| bytes.load(Ordering::Relaxed), work).await;
            drop(slow);
        };

        let ((), (took, has_turn)) = tokio::join!(sending, taken_after(&turns, "a"));

        assert!(has_turn);
        assert_eq!(took.as_secs(), 160);
    }

    /// Each of those before fails before its time is up, and all of them take more than that.
    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_are_no_progress() {
        let turns = Turns::default();
        let mut failing = tokio::task::JoinSet::new();
        let turns = Arc::new(turns);
        for _ in 0..5 {
            let turns = turns.clone();
            failing.spawn(async move {
                let turn = turns.take("a", || {}).await;
                let fail = tokio::time::sleep(Duration::from_secs(4));
                turn.spend(|| 0, fail).await;
            });
        }
        tokio::task::yield_now().await;

        let (took, has_turn) = taken_after(&turns, "a").await;

        assert!(!has_turn);
        assert_eq!(took.as_secs(), MAX_SILENCE.as_secs());
        failing.join_all().await;
    }
}
