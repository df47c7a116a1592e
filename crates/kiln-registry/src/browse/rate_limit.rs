//! How often a registry lets itself be asked, as far as it says so.
//!
//! ```text
//! ratelimit-limit: 100;w=21600          Docker Hub, and drafts before 07 of the IETF's
//! ratelimit-remaining: 76;w=21600
//! docker-ratelimit-source: 203.0.113.7
//! ratelimit-policy: "hour";q=100;w=3600     the IETF's later drafts
//! ratelimit: "hour";r=50;t=30
//! x-ratelimit-limit: 5000                   GitHub and others
//! ```
//! A manifest is asked for with HEAD, which the Docker Hub does not count.

use kiln_domain::Reference;
use kiln_domain::oci::document_media_types;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};

use crate::client::Registry;
use crate::error::FetchError;
use crate::scope::Scope;
use crate::text::ServerText;
use crate::transport::Ask;

/// Most limits that are read of one answer.
const MAX_LIMITS: usize = 8;

/// One limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// What the registry calls it.
    pub name: Option<ServerText>,
    /// How many requests it lets through in a window.
    pub limit: Option<u64>,
    /// How many are left of them.
    pub remaining: Option<u64>,
    /// The window's length in seconds.
    pub window_seconds: Option<u64>,
    /// When the count begins anew, in seconds from now.
    pub reset_seconds: Option<u64>,
}

/// What a registry says of its limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// The limits; empty where it says nothing.
    pub limits: Vec<RateLimit>,
    /// Whose requests are counted: an address, or an account.
    pub source: Option<ServerText>,
}

impl Registry {
    /// Asks what the registry says of its limits: for the manifest of `reference`, or where none
    /// is given for the registry's root.
    pub async fn rate_limits(
        &self,
        reference: Option<&Reference>,
    ) -> Result<RateLimits, FetchError> {
        let accept = document_media_types().join(", ");
        let what = "an answer";
        let (scope, path, ask) = match reference {
            None => (Scope::Root, String::new(), Ask::get(what)),
            Some(reference) => {
                let repository = reference.repository();
                let wanted = match reference.digest() {
                    Some(digest) => digest.to_string(),
                    None => reference.tag().unwrap_or_default().to_owned(),
                };
                let ask = Ask {
                    accept: Some(&accept),
                    ..Ask::with(&Method::HEAD, what)
                };
                let path = format!("{repository}/manifests/{wanted}");
                (Scope::Pull(repository), path, ask)
            }
        };
        let answer = self.ask(scope, &path, ask).await?;
        let limits = of_headers(answer.response.headers());
        let status = answer.response.status();
        // Who has none left is told so, and that is what was asked.
        if status == StatusCode::TOO_MANY_REQUESTS && !limits.limits.is_empty() {
            return Ok(limits);
        }
        if let (StatusCode::NOT_FOUND, Some(reference)) = (status, reference) {
            return Err(FetchError::ReferenceNotFound {
                reference: reference.to_string(),
                message: ServerText::default(),
            });
        }
        self.expect(StatusCode::OK, answer, scope).await?;
        Ok(limits)
    }
}

fn of_headers(headers: &HeaderMap) -> RateLimits {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let source = text("docker-ratelimit-source").map(ServerText::new);
    let mut limits = by_policy(text("ratelimit-policy"), text("ratelimit"));
    if limits.is_empty() {
        limits = ["ratelimit", "x-ratelimit"]
            .iter()
            .filter_map(|prefix| {
                let of = |what: &str| text(&format!("{prefix}-{what}"));
                by_number(of("limit"), of("remaining"), of("reset"))
            })
            .take(1)
            .collect();
    }
    RateLimits { limits, source }
}

/// Reads the three numbers; the first may carry its window: `100;w=21600`.
fn by_number(
    limit: Option<&str>,
    remaining: Option<&str>,
    reset: Option<&str>,
) -> Option<RateLimit> {
    let limit = limit.map(item);
    let number = |item: Option<Item<'_>>| item.and_then(|item| item.value.parse().ok());
    let found = RateLimit {
        name: None,
        window_seconds: limit.as_ref().and_then(|limit| limit.parameter("w")),
        limit: number(limit),
        remaining: number(remaining.map(item)),
        // GitHub gives the second of the epoch, which is no time from now.
        reset_seconds: number(reset.map(item)).filter(|seconds| *seconds < 1_000_000_000),
    };
    (found.limit.is_some() || found.remaining.is_some()).then_some(found)
}

/// Reads the two lists, whose items belong together by name.
fn by_policy(policies: Option<&str>, states: Option<&str>) -> Vec<RateLimit> {
    let items = |list: Option<&str>| -> Vec<(String, RateLimit)> {
        let list = list.unwrap_or_default().split(',').take(MAX_LIMITS);
        list.map(item)
            .filter(|item| !item.value.is_empty())
            .map(|item| {
                let limit = RateLimit {
                    name: Some(ServerText::new(item.value)),
                    limit: item.parameter("q"),
                    remaining: item.parameter("r"),
                    window_seconds: item.parameter("w"),
                    reset_seconds: item.parameter("t"),
                };
                (item.value.to_owned(), limit)
            })
            .collect()
    };
    let mut limits = items(policies);
    for (name, state) in items(states) {
        match limits.iter_mut().find(|(known, _)| *known == name) {
            Some((_, limit)) => {
                limit.remaining = state.remaining;
                limit.reset_seconds = state.reset_seconds;
            }
            None => limits.push((name, state)),
        }
    }
    let says_something = |limit: &RateLimit| limit.limit.is_some() || limit.remaining.is_some();
    let limits = limits.into_iter().map(|(_, limit)| limit);
    limits.filter(says_something).collect()
}

/// An item of a structured header: `"name";key=1;other=2`.
struct Item<'a> {
    value: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Item<'_> {
    fn parameter(&self, name: &str) -> Option<u64> {
        let found = self.parameters.iter().find(|(key, _)| *key == name);
        found.and_then(|(_, value)| value.parse().ok())
    }
}

fn item(text: &str) -> Item<'_> {
    // Drafts before 07 list several limits in one header; the first is the one in force.
    let text = text.split(',').next().unwrap_or_default();
    let mut words = text.split(';').map(str::trim);
    Item {
        value: words.next().unwrap_or_default().trim_matches('"'),
        parameters: words.filter_map(|word| word.split_once('=')).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &str)]) -> Vec<String> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let name = reqwest::header::HeaderName::from_static(name);
                (name, value.parse().unwrap())
            })
            .collect();
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |found| found.to_string());
        let told = of_headers(&headers);
        let lines = told.limits.iter().map(|limit| {
            let name = limit.name.as_ref().map(ToString::to_string);
            format!(
                "{} {}/{} in {} anew in {}",
                name.unwrap_or_default(),
                number(limit.remaining),
                number(limit.limit),
                number(limit.window_seconds),
                number(limit.reset_seconds)
            )
        });
        let source = told.source.map(|source| format!("of {source}"));
        lines.chain(source).collect()
    }

    #[test]
    fn limits_are_read_in_every_form_they_come_in() {
        let hub = check(&[
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "76;w=21600"),
            ("docker-ratelimit-source", "203.0.113.7"),
        ]);
        assert_eq!(hub, [" 76/100 in 21600 anew in -", "of 203.0.113.7"]);
        let draft = check(&[
            (
                "ratelimit-policy",
                r#""burst";q=100;w=60,"day";q=1000;w=86400"#,
            ),
            ("ratelimit", r#""day";r=999;t=4000"#),
        ]);
        let want = [
            "burst -/100 in 60 anew in -",
            "day 999/1000 in 86400 anew in 4000",
        ];
        assert_eq!(draft, want);
        let github = check(&[
            ("x-ratelimit-limit", "5000"),
            ("x-ratelimit-remaining", "4999"),
            ("x-ratelimit-reset", "1796083200"),
        ]);
        assert_eq!(github, [" 4999/5000 in - anew in -"]);
        let old = check(&[("ratelimit-limit", "10, 10;w=1"), ("ratelimit-reset", "7")]);
        assert_eq!(old, [" -/10 in - anew in 7"]);
        let none: [&str; 0] = [];
        assert_eq!(check(&[]), none);
        assert_eq!(
            check(&[("ratelimit-limit", "many"), ("ratelimit", ";;,\"")]),
            none
        );
    }
}
