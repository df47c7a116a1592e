//! Looking around in a registry.
//!
//! Not here: manifests and blobs, which pulls read too (`client`, `blob`).

mod diagnosis;
mod error;
mod link;
mod page;
mod rate_limit;
mod referrers;
#[cfg(test)]
mod tests;
mod turning;

use reqwest::StatusCode;
use reqwest::header::HeaderName;

use crate::client::Registry;
use crate::error::FetchError;
use crate::scope::Scope;
use crate::transport::Ask;

pub use diagnosis::{Answered, Deletes, Diagnosis};
pub use error::{BrowseError, CursorError};
pub use page::{Cursor, Page};
pub use rate_limit::{RateLimit, RateLimits};
pub use referrers::{Referrers, ReferrersKept};
pub use turning::Turning;

/// How a registry says which protocol it speaks.
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// A registry's sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// The root of its API.
    pub url: String,
    /// The protocol it says it speaks, such as `registry/2.0`; the specification demands nothing.
    pub api_version: Option<String>,
    /// Whether it asked who we are, and took our credentials. One that is open to everybody does
    /// not ask, and then nobody knows what they are worth.
    pub is_authenticated: bool,
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
            is_authenticated: self.knows_us(Scope::Root).await,
        })
    }
}
