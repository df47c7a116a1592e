//! Why a registry could not be looked around in, beyond what fetching fails with.

use kiln_domain::Digest;

use crate::error::FetchError;
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
    /// A tag was moved by somebody else while it was to be taken off.
    #[error("{reference} names no longer {digest}: somebody has moved it, and it is left alone")]
    TagMoved {
        /// The tag.
        reference: String,
        /// What it named.
        digest: Digest,
    },
    /// A tag was moved to a stand-in, which could neither be deleted nor undone.
    #[error("{reference} is left on an empty manifest instead of {digest}: {deletion}")]
    TagLost {
        /// The tag.
        reference: String,
        /// What it named.
        digest: Digest,
        /// Why the stand-in could not be deleted.
        deletion: Box<FetchError>,
        /// Why the tag could not be put back.
        #[source]
        put_back: Box<FetchError>,
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
