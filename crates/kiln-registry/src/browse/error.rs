//! Why a registry could not be looked around in, beyond what fetching fails with.

use crate::text::ServerText;

/// What only those meet who look around in a registry.
#[derive(Debug, thiserror::Error)]
pub enum BrowseError {
    /// The registry is there and does not do this.
    #[error("{host} does not offer {what}{}", said(message))]
    NotOffered {
        /// The registry.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// What the server said.
        message: ServerText,
    },
    /// The answer is not of the form the specification has.
    #[error("{host} answered with something that is not {what}: {problem}")]
    AnswerMalformed {
        /// The registry.
        host: String,
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// A repository has more tags than are asked for one by one.
    #[error("{repository} has more than {limit} tags, too many to ask which manifest each names")]
    TooManyTags {
        /// Registry and repository.
        repository: String,
        /// The limit.
        limit: usize,
    },
    /// The registry names a next page that is none of its own, or the page it has just given.
    #[error("{host} names {link} as the next page, which is refused: {reason}")]
    PageRefused {
        /// The registry.
        host: String,
        /// The link, without its query.
        link: ServerText,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// The pages of a list come again, or are too many.
    #[error("a list of {host} has no end: its pages come again, or are more than {limit}")]
    EndlessList {
        /// The registry.
        host: String,
        /// The limit.
        limit: usize,
    },
}

/// A text is no place in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not the cursor of a page that a registry's list was given in")]
pub struct CursorError;

fn said(message: &ServerText) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(" ({message})")
    }
}
