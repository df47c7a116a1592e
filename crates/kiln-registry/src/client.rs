//! One registry over the network, for one caller: manifests and blobs of the distribution
//! specification.
//!
//! Not here: which manifest fits a platform (`resolve`), and checking a blob's digest: that is
//! done by whoever stores it.
//!
//! A [`Registry`] belongs to one host and one identity. Callers with different credentials must
//! not share one, because it remembers tokens.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kiln_domain::oci::{Descriptor, DocumentError, document_media_types};
use kiln_domain::{Credentials, Digest, Reference, RegistryName};
use reqwest::StatusCode;
use reqwest::header::{
    CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::sync::{Mutex, OnceCell};
use url::{Host, Url};

use crate::blob::BlobStream;
use crate::challenge::{self, Challenge};
use crate::config::Config;
use crate::error::FetchError;
use crate::retry::{Attempts, Patience};
use crate::routes::Endpoint;
use crate::scope::Scope;
use crate::text::{ServerText, shown};
use crate::token::{self, Authorization};
use crate::transport::{Answer, Ask, BodyFault, Caches, Transport};
use crate::trust::{is_loopback, shares_origin};

/// Largest manifest, index or config, in bytes.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// How much of an error body is read at most, in bytes.
const MAX_ERROR_BYTES: u64 = 64 * 1024;

/// What is waited for, in messages.
const MANIFEST: &str = "a manifest";

/// How often one request may be answered with 401.
const MAX_UNAUTHORIZED: u32 = 2;

/// A document as the source sent it; its digest is that of the bytes, whatever anybody says.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The bytes.
    pub bytes: Bytes,
    /// The `Content-Type`, where the source is a server and sent one.
    pub media_type: Option<String>,
    /// What the bytes hash to.
    pub digest: Digest,
}

/// One registry, seen by one caller. Cheap to clone; clones share connections, tokens and the
/// patience with faults.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
    patience: Patience,
}

struct Shared {
    /// The registry as references name it.
    host: String,
    /// `host:port` of its API.
    authority: String,
    scheme: Scheme,
    /// The root of its API, once the scheme is known.
    base: OnceCell<Url>,
    credentials: Option<Credentials>,
    transport: Transport,
    /// By the scopes of their tokens. Held while a token is fetched, so that parallel layers fetch
    /// one.
    authorizations: Mutex<HashMap<Vec<String>, Authorization>>,
}

#[derive(Clone, Copy)]
enum Scheme {
    Https,
    /// Loopback, where plain HTTP is usual and was forbidden.
    HttpsHere,
    Http,
    /// Configured or asked to be insecure: whichever the server speaks, at the port it speaks at.
    Insecure,
    /// Loopback: whichever the server speaks.
    Probed,
}

impl Registry {
    /// Prepares to speak to the registry of `reference`, as the owner of `credentials` or as
    /// nobody. Nothing is sent yet.
    pub fn new(
        reference: &Reference,
        credentials: Option<Credentials>,
        config: Arc<Config>,
    ) -> Result<Self, FetchError> {
        Self::named(&RegistryName::of(reference), credentials, config)
    }

    /// Prepares to speak to a registry, as the owner of `credentials` or as nobody. Nothing is
    /// sent yet.
    pub fn named(
        name: &RegistryName,
        credentials: Option<Credentials>,
        config: Arc<Config>,
    ) -> Result<Self, FetchError> {
        let host = name.as_str();
        let authority = match host {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        // Parsed as the authority of a URL, so that 127.1 and 0x7f.1 are seen for what they are.
        let endpoint: Host<String> = Url::parse(&format!("https://{authority}/"))
            .ok()
            .and_then(|url| url.host().map(|host| host.to_owned()))
            .ok_or_else(|| FetchError::HostInvalid {
                host: host.to_owned(),
            })?;
        let scheme = match config.is_insecure(host) {
            true if config.insecure_may_be_https => Scheme::Insecure,
            true => Scheme::Http,
            false if is_loopback(&endpoint) && config.https_only => Scheme::HttpsHere,
            false if is_loopback(&endpoint) => Scheme::Probed,
            false => Scheme::Https,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                host: host.to_owned(),
                authority: authority.to_owned(),
                scheme,
                base: OnceCell::new(),
                credentials,
                transport: Transport::new(host, endpoint, config)?,
                authorizations: Mutex::new(HashMap::new()),
            }),
            patience: Patience::default(),
        })
    }

    /// Prepares to speak to one place of a route, as the owner of `credentials` or as nobody.
    /// Nothing is sent yet.
    pub fn at(endpoint: &Endpoint, credentials: Option<Credentials>) -> Result<Self, FetchError> {
        if let Some(problem) = &endpoint.client_problem {
            return Err(FetchError::ClientFiles {
                host: endpoint.registry.to_string(),
                problem: problem.clone(),
            });
        }
        Self::named(&endpoint.registry, credentials, endpoint.config.clone())
    }

    /// Fetches the manifest or index of `reference`: by its digest when it has one, else by tag.
    ///
    /// At most 4 MiB. What is asked for by digest has that digest; what is asked for by tag has
    /// the digest the registry announces, when it announces one. Wrong bytes are fetched once
    /// more, past the caches on the way.
    pub async fn manifest(&self, reference: &Reference) -> Result<Fetched, FetchError> {
        let mut attempts = Attempts::sharing(&self.patience);
        let mut caches = Caches::Welcome;
        loop {
            let fetching = self.manifest_once(reference, caches);
            match attempts.attempt(self.transport(), MANIFEST, fetching).await {
                Ok(fetched) => return Ok(fetched),
                Err(error @ FetchError::DigestMismatch { .. }) if caches == Caches::Welcome => {
                    caches = Caches::PassedBy;
                    attempts.wait_anyway(error, self.config()).await?;
                }
                Err(error) => attempts.wait_after(error, self.config()).await?,
            }
        }
    }

    /// Opens a blob of the repository of `reference` at byte `start`.
    ///
    /// The stream delivers exactly the bytes from `start` to the descriptor's size, or an error;
    /// it goes on by itself where a connection broke. Whether they match the digest is for the
    /// caller to check. A `start` at the end asks nobody.
    pub async fn blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        start: u64,
    ) -> Result<BlobStream, FetchError> {
        BlobStream::open(self.clone(), reference.clone(), blob.clone(), start).await
    }

    /// Opens a blob whose bytes were wrong the last time: from its start, and past the caches on
    /// the way.
    pub async fn blob_anew(
        &self,
        reference: &Reference,
        blob: &Descriptor,
    ) -> Result<BlobStream, FetchError> {
        BlobStream::open_anew(self.clone(), reference.clone(), blob.clone()).await
    }

    /// Returns the registry as references name it.
    /// Returns the name of the user that it is asked as; none for nobody, and for who shows a token.
    pub fn username(&self) -> Option<&str> {
        match self.shared.credentials.as_ref()? {
            Credentials::Password { username, .. } => Some(username),
            Credentials::IdentityToken(_) => None,
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.shared.host
    }

    /// Returns the host of its API, with the port where that is written.
    pub(crate) fn authority(&self) -> &str {
        &self.shared.authority
    }

    pub(crate) fn config(&self) -> &Config {
        self.shared.transport.config()
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    /// Is the same registry for another piece of work, which has all its patience. Connections and
    /// tokens are shared.
    #[must_use]
    pub fn for_other_work(&self) -> Self {
        self.clone().with_patience(Patience::default())
    }

    /// Is the same registry, whose faults use up this patience.
    pub(crate) fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.patience
    }

    async fn manifest_once(
        &self,
        reference: &Reference,
        caches: Caches,
    ) -> Result<Fetched, FetchError> {
        let wanted = match reference.digest() {
            Some(digest) => digest.to_string(),
            None => reference.tag().unwrap_or_default().to_owned(),
        };
        let accept = document_media_types().join(", ");
        let ask = Ask {
            accept: Some(&accept),
            caches,
            ..Ask::get(MANIFEST)
        };
        let repository = reference.repository();
        let path = format!("{repository}/manifests/{wanted}");
        let scope = Scope::Pull(repository);
        let answer = self.ask(scope, &path, ask).await?;
        let host = answer.host.clone();
        if answer.response.status() == StatusCode::NOT_FOUND {
            let (message, _) = failure(self.transport(), &host, answer.response).await;
            return Err(FetchError::ReferenceNotFound {
                reference: reference.to_string(),
                message,
            });
        }
        let response = self.expect(StatusCode::OK, answer, scope).await?.response;
        let header = |name| {
            let value = response.headers().get(name);
            value.and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let media_type = header(CONTENT_TYPE.as_str()).map(str::to_owned);
        let announced = header("docker-content-digest").and_then(|text| text.parse().ok());
        let bytes = self.read_document(response, reference).await?;
        if is_page(media_type.as_deref(), &bytes) {
            return Err(FetchError::UnexpectedStatus {
                host,
                status: StatusCode::OK.as_u16(),
                message: ServerText::new("a page of HTML, no manifest"),
            });
        }
        let digest = Digest::of(&bytes);
        for expected in reference.digest().copied().into_iter().chain(announced) {
            if expected != digest {
                return Err(FetchError::DigestMismatch {
                    what: reference.to_string(),
                    expected,
                    found: digest,
                });
            }
        }
        Ok(Fetched {
            bytes: bytes.into(),
            media_type,
            digest,
        })
    }

    async fn read_document(
        &self,
        response: reqwest::Response,
        reference: &Reference,
    ) -> Result<Vec<u8>, FetchError> {
        let transport = self.transport();
        match transport
            .read_capped(response, MAX_DOCUMENT_BYTES, MANIFEST)
            .await
        {
            Ok(bytes) => Ok(bytes),
            Err(BodyFault::Fetch(error)) => Err(error),
            Err(BodyFault::TooLarge(size_bytes)) => Err(FetchError::Document {
                document: reference.to_string(),
                source: DocumentError::TooLarge {
                    size_bytes,
                    limit_bytes: MAX_DOCUMENT_BYTES,
                },
            }),
        }
    }

    /// Asks for `path`, which is relative to `/v2/`, proving who we are when that is demanded.
    /// Returns any answer but the registry's own 401.
    pub(crate) async fn ask(
        &self,
        scope: Scope<'_>,
        path: &str,
        ask: Ask<'_>,
    ) -> Result<Answer, FetchError> {
        let url = self.url(path).await?;
        self.ask_at(scope, &url, ask).await
    }

    /// Does what [`Registry::ask`] does for a URL, which may lie elsewhere: then it is asked
    /// without credentials.
    pub(crate) async fn ask_at(
        &self,
        scope: Scope<'_>,
        url: &Url,
        ask: Ask<'_>,
    ) -> Result<Answer, FetchError> {
        let is_own = shares_origin(self.base().await?, url);
        let mut sent = if is_own {
            self.remembered(scope).await
        } else {
            None
        };
        let mut round = 0;
        loop {
            round += 1;
            let answer = self.transport().ask(url, ask, sent.as_ref()).await?;
            let is_refused = answer.response.status() == StatusCode::UNAUTHORIZED;
            if !is_refused || !answer.is_home || !is_own {
                return Ok(answer);
            }
            // The first 401 may only mean that nothing, or a token past its time, was sent.
            let is_basic_again = sent
                .as_ref()
                .is_some_and(|header| header.as_bytes().starts_with(b"Basic "));
            if round == MAX_UNAUTHORIZED || is_basic_again {
                return Err(self.unauthorized(scope, answer.response).await);
            }
            sent = Some(
                self.authorize(scope, answer.response, sent.as_ref())
                    .await?,
            );
        }
    }

    /// Turns an answer of another status into the error it means.
    pub(crate) async fn expect(
        &self,
        status: StatusCode,
        answer: Answer,
        scope: Scope<'_>,
    ) -> Result<Answer, FetchError> {
        let found = answer.response.status();
        if found == status {
            return Ok(answer);
        }
        let (message, error) = failure(self.transport(), &answer.host, answer.response).await;
        if found == StatusCode::FORBIDDEN && answer.is_home {
            return Err(FetchError::Denied {
                host: self.shared.host.clone(),
                subject: scope.subject(),
                message,
            });
        }
        Err(error)
    }

    async fn unauthorized(&self, scope: Scope<'_>, response: reqwest::Response) -> FetchError {
        let host = self.shared.host.clone();
        let subject = scope.subject();
        let challenges = challenges(&response);
        let is_known = challenge::is_scope_insufficient(challenges.iter().map(String::as_str));
        let (message, _) = failure(self.transport(), &host, response).await;
        if self.shared.credentials.is_some() && is_known {
            // The token's giver took the credentials: they are right, and may not do this.
            FetchError::Denied {
                host,
                subject,
                message,
            }
        } else if self.shared.credentials.is_some() {
            FetchError::AuthFailed {
                host,
                subject,
                message,
            }
        } else {
            FetchError::AuthRequired {
                host,
                subject,
                message,
            }
        }
    }

    async fn remembered(&self, scope: Scope<'_>) -> Option<HeaderValue> {
        let authorizations = self.shared.authorizations.lock().await;
        authorizations
            .get(&scope.of_token())
            .filter(|authorization| authorization.is_fresh())
            .map(|authorization| authorization.header.clone())
    }

    /// Says whether the registry asked who we are and took what we said. Nobody is asked for it.
    pub(crate) async fn knows_us(&self, scope: Scope<'_>) -> bool {
        let authorizations = self.shared.authorizations.lock().await;
        self.shared.credentials.is_some() && authorizations.contains_key(&scope.of_token())
    }

    /// Answers the challenge of a 401. `refused` is what was sent with the request.
    async fn authorize(
        &self,
        scope: Scope<'_>,
        response: reqwest::Response,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, FetchError> {
        let mut authorizations = self.shared.authorizations.lock().await;
        if let Some(other) = authorizations
            .get(&scope.of_token())
            .filter(|other| other.is_fresh() && Some(&other.header) != refused)
        {
            // Another request of ours was faster.
            return Ok(other.header.clone());
        }
        let authorization = self.answer_challenge(scope, response).await?;
        let header = authorization.header.clone();
        authorizations.insert(scope.of_token(), authorization);
        Ok(header)
    }

    async fn answer_challenge(
        &self,
        scope: Scope<'_>,
        response: reqwest::Response,
    ) -> Result<Authorization, FetchError> {
        let host = || self.shared.host.clone();
        let challenges = challenges(&response);
        match challenge::choose(challenges.iter().map(String::as_str)) {
            None => Err(FetchError::ChallengeMalformed {
                host: host(),
                challenge: ServerText::new(&challenges.join(", ")),
            }),
            Some(Challenge::Basic) => {
                let Some(Credentials::Password { username, secret }) = &self.shared.credentials
                else {
                    return Err(self.unauthorized(scope, response).await);
                };
                match Authorization::basic(username, secret) {
                    Some(authorization) => Ok(authorization),
                    None => Err(self.unauthorized(scope, response).await),
                }
            }
            Some(Challenge::Bearer { realm, service }) => {
                let trust = self.transport().trust();
                let url = trust
                    .check_realm(&realm)
                    .map_err(|reason| FetchError::RealmRefused {
                        host: host(),
                        realm: ServerText::new(&shown(&realm)),
                        reason,
                    })?;
                token::fetch(
                    self.transport(),
                    &url,
                    service.as_deref(),
                    scope,
                    self.shared.credentials.as_ref(),
                )
                .await
            }
        }
    }

    async fn url(&self, path: &str) -> Result<Url, FetchError> {
        let mut url = self.base().await?.clone();
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        // Repository, tag and digest obey grammars without characters special in a path.
        url.set_path(&format!("/v2/{path}"));
        url.set_query(query);
        Ok(url)
    }

    async fn base(&self) -> Result<&Url, FetchError> {
        self.shared.base.get_or_try_init(|| self.find_base()).await
    }

    /// Decides between HTTPS and HTTP.
    ///
    /// A registry that may speak either is asked in plain HTTP first, without credentials: a TLS
    /// server answers that at once, with an alert or status 400, while a plain server may wait for
    /// ever for the end of the line it takes a TLS greeting to be.
    async fn find_base(&self) -> Result<Url, FetchError> {
        let root = |scheme: &str| {
            let text = format!("{scheme}://{}/v2/", self.shared.authority);
            Url::parse(&text).map_err(|_| FetchError::HostInvalid {
                host: self.shared.host.clone(),
            })
        };
        let is_insecure = match self.shared.scheme {
            Scheme::Https => return root("https"),
            Scheme::HttpsHere => return self.greeted(root("https")?).await,
            Scheme::Http => return root("http"),
            Scheme::Insecure => true,
            Scheme::Probed => false,
        };
        let plain = root("http")?;
        match self.transport().probe(&plain).await {
            // Servers of TLS answer a plain request so, or with an alert, which is no HTTP.
            Ok(answer) if answer.status() == StatusCode::BAD_REQUEST => root("https"),
            Err(FetchError::NotHttp { .. }) => root("https"),
            // A server of port 80 that only says where the real one is.
            Ok(answer) if is_insecure && leads_to(&root("https")?, &answer) => root("https"),
            Ok(_) => Ok(plain),
            Err(FetchError::Unreachable { source, .. })
                if source.is_connect() && is_insecure && plain.port().is_none() =>
            {
                root("https")
            }
            Err(FetchError::Unreachable { host, source }) if !source.is_connect() => {
                // Servers of TLS may also hang up, as may any that has a bad moment.
                let encrypted = root("https")?;
                match self.transport().probe(&encrypted).await {
                    Ok(_)
                    | Err(FetchError::Tls { .. } | FetchError::ClientCertificateWanted { .. }) => {
                        Ok(encrypted)
                    }
                    Err(_) => Err(FetchError::Unreachable { host, source }),
                }
            }
            Err(error) => Err(error),
        }
    }
}

impl Registry {
    /// Returns the root of an API on this host once it has answered a greeting of TLS. A server of
    /// plain HTTP may wait for ever for the end of what it takes for a line; on this host nothing
    /// else keeps an answer back, and asking again would not help.
    async fn greeted(&self, root: Url) -> Result<Url, FetchError> {
        match self.transport().probe(&root).await {
            Ok(_) => Ok(root),
            Err(FetchError::Timeout { host, .. }) => Err(FetchError::NotHttps { host }),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("host", &self.shared.host)
            .field("credentials", &self.shared.credentials)
            .finish_non_exhaustive()
    }
}

/// Says whether an answer is a redirect to somewhere of this origin.
fn leads_to(origin: &Url, answer: &reqwest::Response) -> bool {
    let location = answer.headers().get(LOCATION);
    let location = location.and_then(|value| Url::parse(value.to_str().ok()?).ok());
    answer.status().is_redirection()
        && location.is_some_and(|location| shares_origin(origin, &location))
}

/// Says whether what came is a page for people, such as one to log in at. The header alone says
/// little: plain servers of files put it before everything whose name has no ending.
fn is_page(media_type: Option<&str>, bytes: &[u8]) -> bool {
    media_type.is_some_and(|media_type| media_type.starts_with("text/html"))
        && bytes.trim_ascii_start().starts_with(b"<")
}

/// Reads an unhappy answer: what the server said, and the error its status means wherever no
/// more special rule applies.
pub(crate) async fn failure(
    transport: &Transport,
    host: &str,
    response: reqwest::Response,
) -> (ServerText, FetchError) {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    // A body that is too large, or breaks off, says nothing; the status is what counts.
    let body = transport
        .read_capped(response, MAX_ERROR_BYTES, "an error")
        .await;
    let message = body.map_or_else(
        |_| ServerText::default(),
        |body| ServerText::of_error_body(&body),
    );
    let host = host.to_owned();
    let said = message.clone();
    let error = match status.as_u16() {
        429 => FetchError::RateLimited {
            host,
            retry_after,
            message,
        },
        status @ (408 | 500..) => FetchError::ServerError {
            host,
            status,
            retry_after,
            message,
        },
        status => FetchError::UnexpectedStatus {
            host,
            status,
            message,
        },
    };
    (said, error)
}

/// Reads `Retry-After`: seconds, or a date, which counts from the server's own `Date` (RFC 9110,
/// 10.2.3), so that nobody's clock matters.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let wish = text(RETRY_AFTER)?.trim();
    if let Ok(seconds) = wish.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| OffsetDateTime::parse(text, &Rfc2822).ok();
    let wait = date(wish)? - date(text(DATE)?.trim())?;
    // A date that has passed means that the time has come.
    Some(wait.try_into().unwrap_or(Duration::ZERO))
}

/// Reads what an answer demands.
fn challenges(response: &reqwest::Response) -> Vec<String> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
    let texts = headers.filter_map(|value| value.to_str().ok());
    texts.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
