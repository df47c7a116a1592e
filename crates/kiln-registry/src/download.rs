//! One file by its URL: over HTTPS only, without credentials, bounded in size and time.
//!
//! Redirects are followed as a registry's are: a few, never away from HTTPS, and never from a
//! public host into a private network. Comparing the digest is the caller's, and so is trying
//! again.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::StatusCode;
use tokio::time::Instant;
use url::Url;

use crate::client::failure;
use crate::config::Config;
use crate::error::FetchError;
use crate::text::ServerText;
use crate::transport::{Answer, Ask, Transport};

/// What is waited for, in messages.
const WHAT: &str = "a file";

/// A file that is being downloaded. Dropping it closes the connection.
#[derive(Debug)]
pub struct Download {
    transport: Transport,
    answer: Answer,
    url: String,
    limit_bytes: u64,
    seen_bytes: u64,
    window_began: Instant,
    window_bytes: u64,
}

impl Download {
    /// Asks for the file at `url`, of at most `limit_bytes`.
    pub async fn open(
        url: &str,
        limit_bytes: u64,
        config: Arc<Config>,
    ) -> Result<Self, FetchError> {
        let refused = |reason| FetchError::UrlRefused {
            url: ServerText::new(&shown(url)),
            reason,
        };
        let target = Url::parse(url).map_err(|_| refused("it is not a URL"))?;
        if target.scheme() != "https" {
            return Err(refused("only https is fetched"));
        }
        if !target.username().is_empty() || target.password().is_some() {
            return Err(refused("it carries a user name or password"));
        }
        let host = target.host().ok_or_else(|| refused("it names no host"))?;
        let name = target.host_str().unwrap_or_default();
        let transport = Transport::new(name, host.to_owned(), config)?;
        let answer = transport.ask(&target, Ask::get(WHAT), None).await?;
        let url = shown(url);
        let answer = expect_ok(&transport, answer, &url).await?;
        let announced = answer.response.content_length();
        if announced.is_some_and(|length| length > limit_bytes) {
            return Err(FetchError::TooLarge { url, limit_bytes });
        }
        Ok(Self {
            transport,
            answer,
            url,
            limit_bytes,
            seen_bytes: 0,
            window_began: Instant::now(),
            window_bytes: 0,
        })
    }

    /// Returns the length the server announces.
    pub fn size_bytes(&self) -> Option<u64> {
        self.answer.response.content_length()
    }

    /// Returns the next bytes, never empty, or nothing after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let chunk = self
                .transport
                .next_chunk(&mut self.answer.response, WHAT)
                .await?;
            let Some(chunk) = chunk else {
                return Ok(None);
            };
            let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            self.seen_bytes = self.seen_bytes.saturating_add(length);
            if self.seen_bytes > self.limit_bytes {
                return Err(FetchError::TooLarge {
                    url: self.url.clone(),
                    limit_bytes: self.limit_bytes,
                });
            }
            self.watch_rate(length)?;
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    /// Gives up on a server that drips: it would hold the operation for ever.
    fn watch_rate(&mut self, length: u64) -> Result<(), FetchError> {
        let slowest = self.transport.config().slowest;
        self.window_bytes = self.window_bytes.saturating_add(length);
        if self.window_began.elapsed() < slowest.window {
            return Ok(());
        }
        if self.window_bytes < slowest.bytes {
            return Err(self.transport.timeout(WHAT, slowest.window));
        }
        self.window_began = Instant::now();
        self.window_bytes = 0;
        Ok(())
    }
}

async fn expect_ok(transport: &Transport, answer: Answer, url: &str) -> Result<Answer, FetchError> {
    let status = answer.response.status();
    if status == StatusCode::OK {
        return Ok(answer);
    }
    let (message, error) = failure(transport, &answer.host, answer.response).await;
    if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        return Err(FetchError::ReferenceNotFound {
            reference: url.to_owned(),
            message,
        });
    }
    Err(error)
}

/// Query strings may be signatures, and user names come with passwords: neither is ever shown.
fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    if scheme.is_empty() {
        format!("{host}{path}")
    } else {
        format!("{scheme}://{host}{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_url_has_no_secrets() {
        let cases = [
            ("https://a.example/k?sig=s#x", "https://a.example/k"),
            ("https://ann:secret@a.example:8/k", "https://a.example:8/k"),
            ("https://a.example/k@v1", "https://a.example/k@v1"),
            ("/boot/vmlinux", "/boot/vmlinux"),
            ("https://", "https://"),
        ];
        for (url, want) in cases {
            assert_eq!(shown(url), want, "{url}");
        }
    }
}
