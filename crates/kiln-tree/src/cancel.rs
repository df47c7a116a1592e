//! Stopping a long pass over entries: a flag that is looked at now and then.
//!
//! Who throws the flag, and how the caller hears of it, is not here.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Entries between two looks at the flag. Far fewer than a millisecond's work.
const INTERVAL: u32 = 1_000;

/// Looks at a cancel flag once in every 1,000 entries.
#[derive(Debug)]
pub struct CancelCheck<'a> {
    cancelled: &'a AtomicBool,
    passed: Cell<u32>,
}

/// The flag was thrown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled;

impl<'a> CancelCheck<'a> {
    /// Begins to count; the first entry is already a look.
    pub fn new(cancelled: &'a AtomicBool) -> Self {
        Self {
            cancelled,
            passed: Cell::new(0),
        }
    }

    /// Counts an entry; fails soon after the flag was thrown.
    pub fn entry(&self) -> Result<(), Cancelled> {
        let passed = self.passed.get();
        self.passed.set((passed + 1) % INTERVAL);
        if passed == 0 && self.cancelled.load(Ordering::Relaxed) {
            return Err(Cancelled);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thrown_flag_is_seen_within_a_thousand_entries() {
        let flag = AtomicBool::new(false);
        let check = CancelCheck::new(&flag);
        for _ in 0..1_500 {
            assert_eq!(check.entry(), Ok(()));
        }

        flag.store(true, Ordering::Relaxed);
        let seen_after = (1..=2_000).find(|_| check.entry() == Err(Cancelled));

        assert_eq!(seen_after, Some(501));
    }
}
