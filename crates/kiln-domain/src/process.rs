//! Which process a number means: numbers are given again, beginnings are not.
//!
//! Reading `/proc` is not here.

use std::fmt;

/// When a process began, in clock ticks since its host booted: with it, a number that was given to
/// another process is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessStart(u64);

/// The text is not what the kernel writes about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state of a process has no start time where one is expected")]
pub struct ProcessStartError;

impl ProcessStart {
    /// Takes ticks that were read before.
    pub fn new(ticks: u64) -> Self {
        Self(ticks)
    }

    /// Returns the ticks.
    pub fn ticks(self) -> u64 {
        self.0
    }

    /// Reads the start time from a process's `stat`, its field 22 (`proc_pid_stat(5)`).
    ///
    /// The second field is the program's name in parentheses, which may itself have blanks and
    /// parentheses; nothing behind it has.
    pub fn from_stat(stat: &str) -> Result<Self, ProcessStartError> {
        let behind_name = stat.rsplit_once(')').ok_or(ProcessStartError)?.1;
        // Counted from the third field, the state.
        let field = behind_name.split_ascii_whitespace().nth(22 - 3);
        let ticks = field.and_then(|text| text.parse().ok());
        ticks.map(Self).ok_or(ProcessStartError)
    }
}

impl fmt::Display for ProcessStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_found_behind_any_name() {
        let fields = "S 1 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 77123 90 91";
        for name in ["sh", "a b", "x) S 1 (", ") 1 2 3 4 5 6 7 8 9"] {
            let stat = format!("9 ({name}) {fields}\n");
            let found = ProcessStart::from_stat(&stat);
            assert_eq!(found, Ok(ProcessStart::new(77_123)), "{name}");
        }
    }

    #[test]
    fn what_is_no_stat_is_refused() {
        for text in [
            "",
            "9 sh S 1",
            "9 (sh) S 1 2",
            "9 (sh) S 1 9 9 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 x",
        ] {
            assert_eq!(
                ProcessStart::from_stat(text),
                Err(ProcessStartError),
                "{text:?}"
            );
        }
    }
}
