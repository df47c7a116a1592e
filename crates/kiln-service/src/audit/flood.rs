//! Keeps failed calls from filling the disk: so many lines of a user and a method at once, then one in
//! a while; the rest is counted. By method, so that nobody hides a refusal behind a thousand others.
//!
//! Calls that end well are always written: each has changed something that takes more room than its
//! line.

use std::collections::HashMap;

use kiln_domain::Timestamp;
use kiln_store::audit::{NewLine, OK};

/// How many failed calls of a method by one user get a line each before they are counted.
pub(super) const BURST: u32 = 100;

/// After how long one more of them gets a line, in microseconds: 8,640 lines a day at most.
pub(super) const REFILL_MICROS: i64 = 10_000_000;

/// Users and methods that are remembered although they have nothing held back.
const IDLE_MAX: usize = 4_096;

/// How much each user has left for each method.
#[derive(Debug, Default)]
pub(super) struct Floods {
    by: HashMap<(u32, String), Allowance>,
}

#[derive(Debug)]
struct Allowance {
    lines: u32,
    refilled_at: Timestamp,
    /// The newest call that got no line, and how many did not before it.
    held: Option<(NewLine, u64)>,
}

impl Floods {
    /// Decides what becomes of a line of a user: it is returned to be written, and tells how many
    /// were not, or is only counted.
    pub(super) fn pass(&mut self, uid: u32, line: NewLine) -> Option<NewLine> {
        if self.by.len() >= IDLE_MAX {
            self.by.retain(|_, allowance| !allowance.is_idle(line.at));
        }
        let key = (uid, line.method.clone());
        let allowance = self.by.entry(key).or_insert(Allowance {
            lines: BURST,
            refilled_at: line.at,
            held: None,
        });
        allowance.refill(line.at);
        if line.result != OK {
            if allowance.lines == 0 {
                let before = allowance.held.take().map_or(0, |(_, count)| count + 1);
                allowance.held = Some((line, before));
                return None;
            }
            allowance.lines -= 1;
        }
        let unwritten = allowance.held.take().map_or(0, |(_, count)| count + 1);
        Some(NewLine { unwritten, ..line })
    }

    /// Takes the newest of the calls that got no line, of each user; it tells of those before it.
    pub(super) fn take_held(&mut self) -> Vec<NewLine> {
        let held = self.by.values_mut().filter_map(|one| one.held.take());
        held.map(|(line, unwritten)| NewLine { unwritten, ..line })
            .collect()
    }
}

impl Allowance {
    fn refill(&mut self, now: Timestamp) {
        let passed = now.as_micros().saturating_sub(self.refilled_at.as_micros());
        let more = passed / REFILL_MICROS;
        if more > 0 {
            let more = u32::try_from(more).unwrap_or(BURST);
            self.lines = self.lines.saturating_add(more).min(BURST);
            self.refilled_at = now;
        } else if passed < 0 {
            // The clock was set back; nobody waits for it to catch up.
            self.refilled_at = now;
        }
    }

    fn is_idle(&self, now: Timestamp) -> bool {
        let passed = now.as_micros().saturating_sub(self.refilled_at.as_micros());
        self.held.is_none() && passed / REFILL_MICROS >= i64::from(BURST - self.lines)
    }
}
