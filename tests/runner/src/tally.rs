//! Counts tests by what test programs print: `test result:` lines, and the testkit's `SKIPPED`.

use std::fmt;
use std::ops::AddAssign;

/// How many checks went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Tally {
    /// One check that passed.
    pub(crate) const PASSED: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };

    /// One check that failed.
    pub(crate) const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };

    /// One check that could not run.
    pub(crate) const SKIPPED: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    /// Returns the tally of one check.
    pub(crate) fn of_one(success: bool) -> Self {
        if success { Self::PASSED } else { Self::FAILED }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// What one test program has said so far.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    results: Tally,
    /// Tests that said that they cannot run here; the program itself counts them as passed.
    said_skipped: u32,
}

impl Listener {
    /// Takes note of a line of the program's output.
    pub(crate) fn hear(&mut self, line: &str) {
        // With one thread the program writes the test's name and the skip into one line.
        if line.starts_with("SKIPPED ") || line.contains("... SKIPPED ") {
            self.said_skipped += 1;
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            self.results += parse(rest);
        }
    }

    /// Returns the counts; a program that failed without saying which test did counts as one.
    pub(crate) fn finish(self, success: bool) -> Tally {
        let Self {
            mut results,
            said_skipped,
        } = self;
        let skipped = said_skipped.min(results.passed);
        results.passed -= skipped;
        results.skipped += skipped;
        if !success && results.failed == 0 {
            results.failed = 1;
        }
        results
    }
}

/// Parses `ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
fn parse(rest: &str) -> Tally {
    let mut tally = Tally::default();
    let counts = rest.split_once(". ").map_or(rest, |(_, counts)| counts);
    for part in counts.split("; ") {
        let Some((number, word)) = part.split_once(' ') else {
            continue;
        };
        let number = number.parse().unwrap_or(0);
        match word {
            "passed" => tally.passed += number,
            "failed" => tally.failed += number,
            "ignored" => tally.skipped += number,
            _ => {}
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], success: bool, want: (u32, u32, u32)) {
        let mut listener = Listener::default();
        for line in lines {
            listener.hear(line);
        }
        let Tally {
            passed,
            failed,
            skipped,
        } = listener.finish(success);
        assert_eq!((passed, failed, skipped), want, "{lines:?}");
    }

    #[test]
    fn results_are_added_up_and_skips_are_no_successes() {
        let four = "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        let bad = "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";

        check(&[], true, (0, 0, 0));
        check(&["test a ... ok", four], true, (4, 0, 1));
        check(
            &["SKIPPED a: no skopeo", "test b ... SKIPPED b: no", four],
            true,
            (2, 0, 3),
        );
        check(&[four, bad], false, (6, 3, 1));
    }

    #[test]
    fn a_program_that_dies_silently_has_failed_once() {
        check(&["thread 'main' panicked"], false, (0, 1, 0));
    }
}
