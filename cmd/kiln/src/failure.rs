//! How a command fails: what is said on stderr, and the exit code.

use std::fmt::Write as _;
use std::io;

use kiln_api::failure::printable;
use kiln_api::{Failure, codes};
use kiln_client::{ClientError, HostError};

use crate::colour::Paint;
use crate::output::harmless;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// There is something to say about it.
    Failed(Box<Failure>),
    /// Everything was said; this is the exit code.
    Reported(u8),
    /// Whoever read our output went away.
    ReaderGone,
}

impl CommandError {
    /// Says what happened under a code.
    pub(crate) fn new(code: kiln_api::Code, message: impl Into<String>) -> Self {
        Failure::new(code, message).into()
    }

    /// Returns the exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(failure) => failure.exit_code,
            Self::Reported(code) => *code,
            Self::ReaderGone => 0,
        }
    }
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        error.to_failure().into()
    }
}

impl From<HostError> for CommandError {
    fn from(error: HostError) -> Self {
        Failure::from_error(codes::request::INVALID_PARAMS, &error)
            .with_hint(
                "name the daemon's socket by its absolute path:",
                Some("kiln --host unix:///run/kiln/kiln.sock info".to_owned()),
            )
            .into()
    }
}

/// Refuses an environment variable that names a daemon and is not UTF-8.
pub(crate) fn not_text(variable: &str) -> CommandError {
    Failure::new(
        codes::request::INVALID_PARAMS,
        format!("the environment variable {variable} is not UTF-8 text"),
    )
    .with_hint(
        "name the daemon's socket by its absolute path:",
        Some("kiln --host unix:///run/kiln/kiln.sock info".to_owned()),
    )
    .into()
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ReaderGone;
        }
        Failure::from_error(codes::storage::FAILED, &error).into()
    }
}

impl From<serde_json::Error> for CommandError {
    fn from(error: serde_json::Error) -> Self {
        io::Error::from(error).into()
    }
}

/// How much to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// What a person needs.
    Usual,
    /// With code and request id, to look it up in the daemon's log.
    Debug,
}

/// Writes a failure as it stands on stderr.
pub(crate) fn describe(failure: &Failure, paint: Paint, detail: Detail) -> String {
    let mut text = format!("{} {}\n", paint.bad("error:"), inline(&failure.message));
    // Writing to a String cannot fail.
    for cause in &failure.cause {
        let _ = writeln!(text, "  cause: {}", inline(cause));
    }
    if let Some(hint) = &failure.hint {
        let label = paint.advice("hint:");
        let _ = match &hint.command {
            Some(command) => writeln!(
                text,
                "  {label} {}  {}",
                inline(&hint.text),
                inline(command)
            ),
            None => writeln!(text, "  {label} {}", inline(&hint.text)),
        };
    }
    if detail == Detail::Debug {
        let _ = writeln!(text, "  code: {}", inline(&failure.code));
        if let Some(id) = &failure.operation_id {
            let _ = writeln!(text, "  operation: {}", inline(id));
        }
        if let Some(id) = &failure.request_id {
            let _ = writeln!(text, "  request: {}", inline(id));
        }
    }
    text
}

/// Writes a failure for programs: the error object of the wire, in one line.
pub(crate) fn document(failure: &Failure) -> String {
    // It is made of texts, numbers and truth values, which all have a form in JSON.
    let text = serde_json::to_string(failure).unwrap_or_default();
    harmless(&text) + "\n"
}

/// Escapes what could command a terminal; further lines are indented under the first.
fn inline(text: &str) -> String {
    printable(text.trim_end()).replace('\n', "\n         ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_block_of_message_causes_and_hint() {
        let mut failure = Failure::new(codes::image::ALREADY_EXISTS, "an image named web exists")
            .with_hint(
                "pull under another name:",
                Some("kiln pull debian --name web-2".into()),
            );
        failure.cause = vec!["it was pulled".to_owned(), "evil \u{1b}[2J".to_owned()];
        failure.request_id = Some("42".to_owned());

        assert_eq!(
            describe(&failure, Paint::Plain, Detail::Usual),
            "error: an image named web exists\n  cause: it was pulled\n  \
             cause: evil \\u{1b}[2J\n  hint: pull under another name:  kiln pull debian --name web-2\n"
        );
        let debug = describe(&failure, Paint::Plain, Detail::Debug);
        assert!(
            debug.ends_with("  code: image.already_exists\n  request: 42\n"),
            "{debug}"
        );
    }

    #[test]
    fn programs_get_the_object_of_the_wire_in_one_line() {
        let failure = Failure::new(codes::registry::RATE_LIMITED, "slow\n\u{9b}2J");
        let failure = Failure {
            retry_after_seconds: Some(30),
            ..failure
        };

        let text = document(&failure);

        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(!text.trim_end().contains(kiln_api::failure::is_hostile));
        let back: Failure = serde_json::from_str(&text).unwrap();
        assert_eq!(back, failure);
        assert!(back.retryable && text.contains("\"exit_code\":8"), "{text}");
    }

    #[test]
    fn exit_codes_follow_the_class() {
        let exit = |code| CommandError::new(code, "x").exit_code();

        assert_eq!(exit(codes::request::INVALID_PARAMS), 2);
        assert_eq!(exit(codes::image::NOT_FOUND), 3);
        assert_eq!(exit(codes::registry::AUTH_FAILED), 4);
        assert_eq!(exit(codes::image::ALREADY_EXISTS), 5);
        assert_eq!(exit(codes::registry::TIMED_OUT), 8);
        assert_eq!(exit(codes::operation::STILL_RUNNING), 124);
        assert_eq!(exit(codes::operation::CANCELLED), 130);
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let error = CommandError::from(io::Error::from(io::ErrorKind::BrokenPipe));

        assert_eq!(error.exit_code(), 0);
    }
}
