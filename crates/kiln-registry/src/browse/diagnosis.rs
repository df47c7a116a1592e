//! What is wrong with a registry: step by step, as far as one comes.
//!
//! ```text
//! name ──▶ addresses ──▶ connection ──▶ TLS and answer ──▶ who we are ──▶ may it delete
//! ```
//! Nothing is changed there: the one manifest that is asked to be deleted does not exist.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::header::{DATE, HeaderValue};
use reqwest::{Method, StatusCode};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::{API_VERSION, Pong};
use crate::client::Registry;
use crate::error::FetchError;
use crate::scope::Scope;
use crate::transport::Ask;

/// How long a name, and then a connection, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;

/// A repository that nobody has.
const NOBODYS: &str = "kiln-doctor/nothing";

/// What was seen of a registry.
#[derive(Debug)]
pub struct Diagnosis {
    /// The addresses of its name, or why there are none.
    pub addresses: Result<Vec<SocketAddr>, String>,
    /// Addresses that were tried, and what came of it.
    pub connections: Vec<(SocketAddr, Result<(), String>)>,
    /// What it answered.
    pub answer: Result<Answered, FetchError>,
    /// Whether it deletes what it is asked to.
    pub deletes: Deletes,
}

/// An answer of the registry.
#[derive(Clone, Debug)]
pub struct Answered {
    /// As of a ping.
    pub pong: Pong,
    /// Its clock, in seconds since 1970, where it told.
    pub date_seconds: Option<i64>,
}

/// Whether a registry deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    /// It would have.
    Yes,
    /// It does not, or not for anybody.
    No,
    /// It would have to know better who asks.
    NotForUs,
    /// It gave no answer that tells.
    Unknown,
}

impl Registry {
    /// Looks at everything between here and the registry, in order.
    pub async fn diagnose(&self) -> Diagnosis {
        let addresses = self.look_up().await;
        let mut connections = Vec::new();
        for address in addresses.iter().flatten().take(MAX_ADDRESSES) {
            let outcome = match timeout(PATIENCE, TcpStream::connect(*address)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            };
            connections.push((*address, outcome));
        }
        let answer = self.answer().await;
        let deletes = match &answer {
            Ok(_) => self.deletes().await,
            Err(_) => Deletes::Unknown,
        };
        Diagnosis {
            addresses,
            connections,
            answer,
            deletes,
        }
    }

    async fn look_up(&self) -> Result<Vec<SocketAddr>, String> {
        let authority = self.authority();
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let place = if has_port {
            authority.to_owned()
        } else {
            format!("{authority}:443")
        };
        match timeout(PATIENCE, lookup_host(place)).await {
            Ok(Ok(found)) => Ok(found.collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    async fn answer(&self) -> Result<Answered, FetchError> {
        let answer = self.ask(Scope::Root, "", Ask::get("an answer")).await?;
        let answer = self.expect(StatusCode::OK, answer, Scope::Root).await?;
        let header = |name| {
            let value: Option<&HeaderValue> = answer.response.headers().get(name);
            value.and_then(|value| value.to_str().ok())
        };
        let version = header(API_VERSION).map(|text| text.chars().take(80).collect());
        let date = header(DATE).and_then(|text| OffsetDateTime::parse(text, &Rfc2822).ok());
        Ok(Answered {
            date_seconds: date.map(OffsetDateTime::unix_timestamp),
            pong: Pong {
                url: answer.response.url().to_string(),
                api_version: version,
                is_authenticated: self.knows_us(Scope::Root).await,
            },
        })
    }

    async fn deletes(&self) -> Deletes {
        let path = format!("{NOBODYS}/manifests/sha256:{}", "0".repeat(64));
        let ask = Ask::with(&Method::DELETE, "an answer");
        match self.ask(Scope::Delete(NOBODYS), &path, ask).await {
            Ok(answer) => match answer.response.status() {
                // distribution says 405 before it looks for the manifest.
                StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Deletes::No,
                StatusCode::NOT_FOUND | StatusCode::ACCEPTED => Deletes::Yes,
                StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Deletes::NotForUs,
                _ => Deletes::Unknown,
            },
            Err(
                FetchError::AuthRequired { .. }
                | FetchError::AuthFailed { .. }
                | FetchError::Denied { .. },
            ) => Deletes::NotForUs,
            Err(_) => Deletes::Unknown,
        }
    }
}
