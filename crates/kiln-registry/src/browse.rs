//! Looking around in a registry.
//!
//! Not here: manifests and blobs, which pulls read too (`client`, `blob`).

mod error;
mod link;
mod page;
mod rate_limit;
mod referrers;
#[cfg(test)]
mod tests;

use kiln_domain::{Digest, Reference};
use reqwest::header::{CONTENT_LENGTH, HeaderName};
use reqwest::{Method, StatusCode};

use crate::client::Registry;
use crate::error::FetchError;
use crate::scope::Scope;
use crate::transport::Ask;

pub use error::{BrowseError, CursorError};
pub use page::{Cursor, Page};
pub use rate_limit::{RateLimit, RateLimits};
pub use referrers::{Referrers, ReferrersKept};

/// How a registry says which protocol it speaks.
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// A registry's sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// The root of its API.
    pub url: String,
    /// The protocol it says it speaks, such as `registry/2.0`; the specification demands nothing.
    pub api_version: Option<String>,
}

impl Registry {
    /// Asks whether the registry is there, speaks the protocol and knows us.
    pub async fn ping(&self) -> Result<Pong, FetchError> {
        let answer = self.ask(Scope::Root, "", Ask::get("an answer")).await?;
        let answer = self.expect(StatusCode::OK, answer, Scope::Root).await?;
        let version = answer.response.headers().get(API_VERSION);
        let version = version.and_then(|value| value.to_str().ok());
        Ok(Pong {
            url: answer.response.url().to_string(),
            api_version: version.map(|text| text.chars().take(80).collect()),
        })
    }

    /// Asks how many bytes a blob of the repository of `reference` has.
    pub async fn blob_size(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<u64, FetchError> {
        let repository = reference.repository();
        let scope = Scope::Pull(repository);
        let path = format!("{repository}/blobs/{digest}");
        let ask = Ask::with(&Method::HEAD, "a blob's length");
        let answer = self.ask(scope, &path, ask).await?;
        if answer.response.status() == StatusCode::NOT_FOUND {
            return Err(FetchError::BlobNotFound {
                place: format!("{}/{repository}", reference.registry()),
                digest: *digest,
            });
        }
        let answer = self.expect(StatusCode::OK, answer, scope).await?;
        // Not the body's length: an answer to HEAD has none.
        let length = answer.response.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        length.ok_or_else(|| {
            BrowseError::AnswerMalformed {
                host: self.host().to_owned(),
                what: "a blob's length",
                problem: "it names none",
            }
            .into()
        })
    }
}
