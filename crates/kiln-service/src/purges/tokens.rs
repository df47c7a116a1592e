//! Tokens that say a caller has seen what a forced purge would do.
//!
//! A token is bound to the caller, the image and its revision, serves once, and is kept in memory:
//! after a restart another dry run is asked for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_domain::{ImageId, Timestamp};
use uuid::Uuid;

/// How long a token counts, in microseconds: five minutes.
const LIFE_MICROS: i64 = 5 * 60 * 1_000_000;

/// Most tokens that are kept. When there are more, those that end first make way.
const KEPT_MAX: usize = 1_000;

/// What a token is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) uid: u32,
    pub(super) image: ImageId,
    pub(super) revision: u64,
}

/// The tokens that were given out.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    given: Mutex<HashMap<String, (Seen, Timestamp)>>,
}

impl Tokens {
    /// Gives out a token: 122 random bits.
    pub(super) fn give(&self, seen: Seen, now: Timestamp) -> String {
        let mut given = self.lock();
        given.retain(|_, (_, at)| !has_ended(*at, now));
        while given.len() >= KEPT_MAX {
            let oldest = given.iter().min_by_key(|(_, (_, at))| *at);
            let Some(oldest) = oldest.map(|(token, _)| token.clone()) else {
                break;
            };
            given.remove(&oldest);
        }
        let token = Uuid::new_v4().simple().to_string();
        given.insert(token.clone(), (seen, now));
        token
    }

    /// Takes a token back, and tells whether it was given for this and counts still.
    pub(super) fn take(&self, token: &str, seen: Seen, now: Timestamp) -> bool {
        let mut given = self.lock();
        let counts = given
            .get(token)
            .is_some_and(|(bound, at)| *bound == seen && !has_ended(*at, now));
        if counts {
            given.remove(token);
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Seen, Timestamp)>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_ended(given_at: Timestamp, now: Timestamp) -> bool {
    let age = now.as_micros().saturating_sub(given_at.as_micros());
    // A clock that was put back makes no token live longer.
    !(0..LIFE_MICROS).contains(&age)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000).unwrap()
    }

    fn seen() -> Seen {
        Seen {
            uid: 7,
            image: ImageId::new(Uuid::from_u128(1)),
            revision: 3,
        }
    }

    #[test]
    fn a_token_counts_once_for_who_saw_what_it_is_about() {
        let tokens = Tokens::default();
        let token = tokens.give(seen(), at(1_000));
        let others = [
            Seen { uid: 8, ..seen() },
            Seen {
                revision: 4,
                ..seen()
            },
            Seen {
                image: ImageId::new(Uuid::from_u128(2)),
                ..seen()
            },
        ];
        for other in others {
            assert!(!tokens.take(&token, other, at(1_001)), "{other:?}");
        }
        assert!(!tokens.take("", seen(), at(1_001)));

        assert!(tokens.take(&token, seen(), at(1_001)));
        assert!(!tokens.take(&token, seen(), at(1_001)));
    }

    #[test]
    fn a_token_ends_by_the_clock() {
        for (now, counts) in [(999, false), (1_000, true), (1_299, true), (1_300, false)] {
            let tokens = Tokens::default();
            let token = tokens.give(seen(), at(1_000));
            assert_eq!(tokens.take(&token, seen(), at(now)), counts, "at {now}");
        }
    }

    #[test]
    fn of_too_many_tokens_the_oldest_make_way() {
        let tokens = Tokens::default();
        let first = tokens.give(seen(), at(1_000));
        let second = tokens.give(seen(), at(1_001));
        for _ in 0..KEPT_MAX - 1 {
            tokens.give(seen(), at(1_002));
        }

        assert!(!tokens.take(&first, seen(), at(1_003)));
        assert!(tokens.take(&second, seen(), at(1_003)));
        assert!(tokens.lock().len() < KEPT_MAX);
    }
}
