//! How the guest's program ended, as the guest says it: one line on the console, and the JSON of
//! that line on vsock.
//!
//! ```text
//! kiln-init: exit {"exit":42}
//! kiln-init: exit {"signal":"SIGKILL","oom":true}
//! kiln-init: exit {"error":"/etc/passwd has no user \"app\"","exit":125}
//! ```

use serde::{Deserialize, Serialize};

use crate::signal::StopSignal;

/// What the line on the console starts with.
pub const REPORT_PREFIX: &str = "kiln-init: exit ";

/// Exit code that stands for a program that never ran, for a reason of the guest's.
pub const NEVER_RAN: u8 = 125;
/// Exit code that stands for a program that is there but cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit code that stands for a program that is not there.
pub const NOT_FOUND: u8 = 127;

/// How the program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Outcome {
    /// It never ran.
    #[serde(rename_all = "snake_case")]
    Failed {
        /// Why, in one line.
        error: String,
        /// The exit code that shells and container runtimes give such an end: [`NEVER_RAN`],
        /// [`NOT_EXECUTABLE`] or [`NOT_FOUND`].
        exit: u8,
    },
    /// It ended by itself.
    Exited {
        /// Its exit code.
        exit: u8,
    },
    /// A signal ended it.
    Signalled {
        /// Which one.
        signal: StopSignal,
        /// Whether the guest ran out of memory and the kernel killed for it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        oom: bool,
    },
}

impl Outcome {
    /// Returns the exit code that stands for this end: the program's own, or 128 and the number
    /// of the signal.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed { exit, .. } | Self::Exited { exit } => *exit,
            Self::Signalled { signal, .. } => {
                u8::try_from(128 + signal.number()).unwrap_or(u8::MAX)
            }
        }
    }

    /// Returns the JSON of the report, in one line without its end.
    pub fn to_json(&self) -> String {
        // A value of three known forms always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the JSON of a report.
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Reads the report from a line of a console, whatever stands before it on the line.
    pub fn from_console_line(line: &str) -> Option<Self> {
        let (_, json) = line.rsplit_once(REPORT_PREFIX)?;
        Self::from_json(json.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_back_as_it_was_written() {
        let killed = |oom| Outcome::Signalled {
            signal: StopSignal::KILL,
            oom,
        };
        let failed = Outcome::Failed {
            error: "no \"x\"\nhere".to_owned(),
            exit: 125,
        };
        let cases = [
            (Outcome::Exited { exit: 42 }, r#"{"exit":42}"#, 42),
            (killed(false), r#"{"signal":"SIGKILL"}"#, 137),
            (killed(true), r#"{"signal":"SIGKILL","oom":true}"#, 137),
            (failed, r#"{"error":"no \"x\"\nhere","exit":125}"#, 125),
        ];
        for (outcome, json, code) in cases {
            assert_eq!(outcome.to_json(), json);
            assert_eq!(outcome.exit_code(), code);
            let line = format!("noise {REPORT_PREFIX}{json}\r\n");
            assert_eq!(Outcome::from_console_line(&line), Some(outcome));
        }
    }

    #[test]
    fn what_a_program_prints_is_no_report() {
        for line in [
            "",
            "kiln-init: exit",
            "kiln-init: exit {}",
            "kiln-init: exit {\"exit\":256}",
            "kiln-init: exit {\"exit\":1,\"more\":1}",
            "kiln-init: exit {\"signal\":\"SIGNOPE\"}",
            "{\"exit\":1}",
        ] {
            assert_eq!(Outcome::from_console_line(line), None, "{line}");
        }
    }
}
