//! Tokens: the answer to a `Bearer` challenge (distribution's token specification, and its
//! OAuth 2 variant for identity tokens).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_domain::{Credentials, Secret};
use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded::Serializer;

use crate::client::failure;
use crate::error::FetchError;
use crate::scope::Scope;
use crate::text::ServerText;
use crate::transport::{BodyFault, Transport};

/// Longest answer of a token endpoint, in bytes.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// How long a token is good for when the answer does not say (token specification).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);

/// Longest life believed, so that adding it to the clock cannot overflow.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How we are called where an OAuth 2 server asks.
const CLIENT_ID: &str = "kiln";

/// The value of an `Authorization` header and how long to use it.
#[derive(Clone, Debug)]
pub(crate) struct Authorization {
    /// Marked sensitive: its debug output shows nothing.
    pub(crate) header: HeaderValue,
    /// When to stop using it; passwords do not expire.
    pub(crate) expires: Option<Instant>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Authorization {
    /// Makes the header that carries a password.
    pub(crate) fn basic(username: &str, secret: &Secret) -> Option<Self> {
        let pair = format!("{username}:{}", secret.expose());
        Some(Self {
            header: sensitive(&format!("Basic {}", STANDARD.encode(pair)))?,
            expires: None,
        })
    }

    /// Says whether the header may still be used.
    pub(crate) fn is_fresh(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Fetches a token for `scope` from a realm that has been checked.
pub(crate) async fn fetch(
    transport: &Transport,
    realm: &Url,
    service: Option<&str>,
    scope: Scope<'_>,
    credentials: Option<&Credentials>,
) -> Result<Authorization, FetchError> {
    let scopes = scope.of_token();
    let response = match credentials {
        Some(Credentials::IdentityToken(token)) => {
            let form = refresh_form(token, service, &scopes);
            transport.ask_realm(realm, None, Some(form)).await?
        }
        Some(Credentials::Password { username, secret }) => {
            let url = with_query(realm, service, &scopes);
            let basic = Authorization::basic(username, secret);
            let header = basic.as_ref().map(|basic| &basic.header);
            transport.ask_realm(&url, header, None).await?
        }
        None => {
            let url = with_query(realm, service, &scopes);
            transport.ask_realm(&url, None, None).await?
        }
    };
    let asked_at = Instant::now();
    if response.status() != StatusCode::OK {
        return Err(refusal(transport, response, realm, scope, credentials).await);
    }
    let malformed = |problem| FetchError::TokenMalformed {
        host: transport.name_of(realm),
        problem,
    };
    let body = match transport
        .read_capped(response, MAX_ANSWER_BYTES, "a token")
        .await
    {
        Ok(body) => body,
        Err(BodyFault::TooLarge(_)) => return Err(malformed("the answer is larger than 1 MiB")),
        Err(BodyFault::Fetch(error)) => return Err(error),
    };
    parse(&body, asked_at).map_err(malformed)
}

/// Writes what an OAuth 2 server wants to exchange an identity token.
fn refresh_form(token: &Secret, service: Option<&str>, scopes: &[String]) -> String {
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token")
        .append_pair("client_id", CLIENT_ID);
    if !scopes.is_empty() {
        form.append_pair("scope", &scopes.join(" "));
    }
    form.append_pair("refresh_token", token.expose());
    if let Some(service) = service {
        form.append_pair("service", service);
    }
    form.finish()
}

fn with_query(realm: &Url, service: Option<&str>, scopes: &[String]) -> Url {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        for scope in scopes {
            query.append_pair("scope", scope);
        }
    }
    url
}

fn parse(body: &[u8], asked_at: Instant) -> Result<Authorization, &'static str> {
    let answer: TokenAnswer =
        serde_json::from_slice(body).map_err(|_| "the answer is not the JSON of a token")?;
    let token = answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty())
        .ok_or("the answer holds no token")?;
    let header =
        sensitive(&format!("Bearer {token}")).ok_or("the token holds control characters")?;
    let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
    // A quarter of its life is left for the request it is sent with.
    Ok(Authorization {
        header,
        expires: Some(asked_at + life.min(LONGEST_LIFE) * 3 / 4),
    })
}

/// Says what a token endpoint's refusal means.
async fn refusal(
    transport: &Transport,
    response: reqwest::Response,
    realm: &Url,
    scope: Scope<'_>,
    credentials: Option<&Credentials>,
) -> FetchError {
    let status = response.status();
    let host = transport.host().to_owned();
    let subject = scope.subject();
    let realm_host = transport.name_of(realm);
    let (message, error) = failure(transport, &realm_host, response).await;
    match status {
        // OAuth 2 servers refuse a bad identity token with 400 (RFC 6749, 5.2).
        StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST if credentials.is_some() => {
            FetchError::AuthFailed {
                host,
                subject,
                message,
            }
        }
        StatusCode::UNAUTHORIZED => auth_required(host, subject, message),
        StatusCode::FORBIDDEN => FetchError::Denied {
            host,
            subject,
            message,
        },
        _ => error,
    }
}

fn auth_required(host: String, subject: String, message: ServerText) -> FetchError {
    FetchError::AuthRequired {
        host,
        subject,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tokens_are_read_with_their_life() {
        let now = Instant::now();
        let cases = [
            (r#"{"token":"a","expires_in":400}"#, Ok(("Bearer a", 300))),
            (r#"{"access_token":"b"}"#, Ok(("Bearer b", 45))),
            (r#"{"token":"a","access_token":"b"}"#, Ok(("Bearer a", 45))),
            (
                r#"{"token":"a","expires_in":18446744073709551615}"#,
                Ok(("Bearer a", 18 * 3600)),
            ),
            (
                r#"{"token":"a","expires_in":-1}"#,
                Err("the answer is not the JSON of a token"),
            ),
            (r#"{"token":""}"#, Err("the answer holds no token")),
            (r"{}", Err("the answer holds no token")),
            ("x", Err("the answer is not the JSON of a token")),
            (
                r#"{"token":"a\r\nb"}"#,
                Err("the token holds control characters"),
            ),
        ];
        for (body, want) in cases {
            let got = parse(body.as_bytes(), now).map(|authorization| {
                let text = authorization.header.to_str().unwrap().to_owned();
                (text, (authorization.expires.unwrap() - now).as_secs())
            });
            let got = got.as_ref().map(|(text, life)| (text.as_str(), *life));
            assert_eq!(got.map_err(|problem| *problem), want, "reading {body}");
        }
    }

    #[test]
    fn no_header_shows_itself() {
        let secret = Secret::new("hunter2".to_owned());

        let basic = Authorization::basic("ada", &secret).unwrap();

        assert_eq!(basic.header.to_str().unwrap(), "Basic YWRhOmh1bnRlcjI=");
        assert_eq!(
            format!("{basic:?}"),
            "Authorization { header: Sensitive, expires: None }"
        );
    }
}
