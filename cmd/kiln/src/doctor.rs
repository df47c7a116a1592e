//! `kiln doctor`: what is missing or broken on this host.
//!
//! ```text
//! doctor/connection.rs   the socket, the daemon behind it, its kernels
//! doctor/programs.rs     the runner, and the init that the daemon gives guests
//! doctor/storage.rs      space, staging, cloning
//! doctor/machine.rs      monitors on PATH, and whether KVM really runs a guest
//! ```
//! Every check says what it saw. What could not be looked at is doubtful, never well.

mod connection;
mod machine;
mod programs;
mod storage;

use std::borrow::Cow;

use kiln_api::Failure;
use serde::Serialize;

use crate::colour::Paint;
use crate::failure::CommandError;
use crate::output::{self, Format};
use crate::session::Session;
use crate::text::cell;

/// The exit code when a check failed.
const EXIT_FAILED: u8 = 1;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or it could not be looked at.
    Warn,
    /// Kiln cannot work like this.
    Fail,
}

/// What one check saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    check: Cow<'static, str>,
    /// How it came out.
    level: Level,
    /// What was seen.
    message: String,
    /// What helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

impl Finding {
    pub(crate) fn new(
        check: impl Into<Cow<'static, str>>,
        level: Level,
        message: impl Into<String>,
    ) -> Self {
        Self {
            check: check.into(),
            level,
            message: message.into(),
            command: None,
        }
    }

    /// Returns the same as it counts here.
    pub(crate) fn at(self, level: Level) -> Self {
        Self { level, ..self }
    }

    pub(crate) fn with_command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    pub(crate) fn from_failure(check: &'static str, failure: &Failure) -> Self {
        let causes = failure.cause.iter().map(String::as_str);
        let message = std::iter::once(failure.message.as_str()).chain(causes);
        Self {
            check: check.into(),
            level: Level::Fail,
            message: message.collect::<Vec<_>>().join(": "),
            command: failure.hint.as_ref().and_then(|hint| hint.command.clone()),
        }
    }
}

/// Checks everything and prints what was seen.
pub(crate) async fn run(session: &Session) -> Result<(), CommandError> {
    let (mut findings, info) = connection::check(session).await?;
    if let Some(info) = &info {
        findings.extend(storage::check(&info.places));
        findings.extend(programs::guest_init(&info.config));
    }
    findings.push(programs::runner(session.surroundings()));
    findings.extend(machine::check(session.surroundings()).await);
    report(&findings, session)
}

/// Prints what was seen; the exit code tells whether anything failed.
pub(crate) fn report(findings: &[Finding], session: &Session) -> Result<(), CommandError> {
    let output = session.output();
    match output.format {
        Format::Table => output::write(&lines(findings, session.stdout_paint()))?,
        Format::Ndjson => findings
            .iter()
            .try_for_each(|finding| output.value(finding))?,
        Format::Json | Format::Yaml => output.value(&findings)?,
    }
    match findings.iter().map(|finding| finding.level).max() {
        Some(Level::Fail) => Err(CommandError::Reported(EXIT_FAILED)),
        _ => Ok(()),
    }
}

fn lines(findings: &[Finding], paint: Paint) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max();
    let width = width.unwrap_or(0);
    let line = |finding: &Finding| {
        let level = match finding.level {
            Level::Ok => paint.good("ok  "),
            Level::Warn => paint.doubtful("warn"),
            Level::Fail => paint.bad("fail"),
        };
        let check = &finding.check;
        let line = format!("{level}  {check:<width$}  {}\n", cell(&finding.message));
        match &finding.command {
            Some(command) => format!("{line}      {:width$}  {}\n", "", cell(command)),
            None => line,
        }
    };
    findings.iter().map(line).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_is_a_line_and_its_command_stands_below() {
        let findings = [
            Finding::new("socket", Level::Ok, "kilnd answers"),
            Finding::new("kvm", Level::Warn, "it opens\u{1b}").with_command("sudo true"),
        ];

        assert_eq!(
            lines(&findings, Paint::Plain),
            "ok    socket  kilnd answers\nwarn  kvm     it opens\\u{1b}\n              sudo true\n"
        );
    }

    #[test]
    fn levels_grow_worse() {
        assert!(Level::Ok < Level::Warn && Level::Warn < Level::Fail);
    }
}
