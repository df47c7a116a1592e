//! The error object every failed call answers with.
//!
//! The classes' numbers are in [`code`](crate::code); who decides which code is not here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::code::{Class, Code};

/// A failed call, as it stands in `error.data` of the answer, in an operation's `error`, and
/// behind the client's `error:` line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The stable name of what happened, such as `image.already_exists`.
    pub code: String,
    /// The family of the code.
    pub class: Class,
    /// What happened, with the nouns in it.
    pub message: String,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cause: Vec<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Hint>,
    /// Whether the same call may succeed later without a change.
    pub retryable: bool,
    /// How long to wait before the call is made again, where the daemon, or a registry, says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
    /// The HTTP status that says the same.
    pub http_status: u16,
    /// The exit code of the client.
    pub exit_code: u8,
    /// The operation that failed, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
    /// The request's number in the daemon's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// A next step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hint {
    /// The step in words.
    pub text: String,
    /// A command that takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl Failure {
    /// Says what happened under a code; the code's own next step becomes the hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: code.name.to_owned(),
            class: code.class,
            message: printable(&message.into()),
            cause: Vec::new(),
            hint: Some(Hint {
                text: code.next_step.to_owned(),
                command: None,
            }),
            retryable: code.retryable,
            retry_after_seconds: None,
            http_status: code.class.http_status(),
            exit_code: code.class.exit_code(),
            operation_id: None,
            request_id: None,
        }
    }

    /// Says what happened from an error and the chain of its sources.
    pub fn from_error(code: Code, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut failure = Self::new(code, error.to_string());
        let mut source = error.source();
        while let Some(error) = source {
            let text = printable(&error.to_string());
            // Some libraries repeat their source's text in their own.
            if failure.cause.last() != Some(&text) && failure.message != text {
                failure.cause.push(text);
            }
            source = error.source();
        }
        failure
    }

    /// Replaces the hint by a better one.
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>, command: Option<String>) -> Self {
        self.hint = Some(Hint {
            text: printable(&text.into()),
            command,
        });
        self
    }

    /// Names the operation that failed.
    #[must_use]
    pub fn with_operation(mut self, id: kiln_domain::OperationId) -> Self {
        self.operation_id = Some(id.to_string());
        self
    }

    /// Tells whether the failure has this code.
    pub fn is(&self, code: Code) -> bool {
        self.code == code.name
    }
}

/// Tells whether a character commands a terminal instead of showing on it: all control characters
/// but the end of a line and the tabulator, and what turns the direction of text.
pub fn is_hostile(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes control characters and bidirectional overrides, so that text from outside can reach a
/// terminal or a log line without commanding it.
pub fn printable(text: &str) -> String {
    if !text.contains(is_hostile) {
        return text.to_owned();
    }
    text.chars()
        .fold(String::with_capacity(text.len() + 16), |mut shown, c| {
            if is_hostile(c) {
                shown.extend(c.escape_unicode());
            } else {
                shown.push(c);
            }
            shown
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot publish")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("disk is full")]
    struct Inner;

    #[test]
    fn the_chain_of_sources_becomes_the_cause() {
        let failure = Failure::from_error(codes::storage::FULL, &Outer(Inner));

        assert_eq!(failure.message, "cannot publish");
        assert_eq!(failure.cause, ["disk is full"]);
        assert_eq!(
            (failure.exit_code, failure.http_status, failure.retryable),
            (8, 503, true)
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        let failure = Failure::new(codes::image::NOT_FOUND, "no image \u{1b}[31mred\u{202e}");

        assert_eq!(failure.message, "no image \\u{1b}[31mred\\u{202e}");
    }
}
