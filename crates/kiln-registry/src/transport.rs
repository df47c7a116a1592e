//! One request and its redirects over HTTP, with every wait bounded.
//!
//! Not here: what a status means (`client`) and who we are (`token`).

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap,
    HeaderName, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Method, Proxy, Response, StatusCode};
use rustls::{AlertDescription, InvalidMessage};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use url::{Host, Url};

use crate::authorities::check_client;
use crate::config::Config;
use crate::content::Piece;
use crate::error::FetchError;
use crate::text::{ServerText, shown};
use crate::trust::{GuardedResolver, OutOfReach, Reach, Trust, is_loopback, shares_origin};

/// What is waited for while a part of a blob is sent.
pub(crate) const ROOM: &str = "room for more of a blob";

/// Most redirects followed in one request.
const MAX_REDIRECTS: usize = 5;

/// Speaks HTTP on behalf of one registry.
#[derive(Debug)]
pub(crate) struct Transport {
    /// The registry, as references name it: for messages.
    host: String,
    trust: Trust,
    /// The registry's port, where its name has one.
    port: Option<u16>,
    config: Arc<Config>,
    /// For the registry's own host: it alone sees our certificate and the configured headers.
    home: Client,
    /// For hosts the configuration trusts, and for those behind a proxy; made when first needed.
    trusted: OnceCell<Client>,
    /// For hosts the registry sent us to; made when first needed.
    away: OnceCell<(Reach, Client)>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    /// What is to be done.
    pub(crate) method: &'a Method,
    /// The `Accept` header.
    pub(crate) accept: Option<&'a str>,
    /// The first byte wanted.
    pub(crate) start: u64,
    /// Whether caches on the way may answer.
    pub(crate) caches: Caches,
    /// What is sent along.
    pub(crate) body: Option<Body<'a>>,
    /// The part of a blob that is sent along instead.
    pub(crate) piece: Option<&'a Piece>,
    /// How much longer than usual the answer may take.
    pub(crate) extra_time: Duration,
    /// The longest silence that there is patience left for; less than usual where it is shorter.
    /// For requests that take as long as their bytes do: what is short as a whole ends with the
    /// patience of [`Attempts::attempt`](crate::retry::Attempts::attempt).
    pub(crate) patience_left: Duration,
    /// What is waited for: for messages.
    pub(crate) what: &'static str,
}

/// Whether caches on the way, proxies and mirrors, may answer in the place of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caches {
    /// They may.
    Welcome,
    /// What came last was wrong: they are to fetch it again.
    PassedBy,
}

/// A small document that goes with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a> {
    /// Its `Content-Type`.
    pub(crate) media_type: &'a str,
    /// Its bytes.
    pub(crate) bytes: &'a Bytes,
}

impl<'a> Ask<'a> {
    /// Asks to read something; `what` it is stands in messages.
    pub(crate) fn get(what: &'static str) -> Self {
        Self::with(&Method::GET, what)
    }

    /// Asks for something to be done; `what` is waited for stands in messages.
    pub(crate) fn with(method: &'a Method, what: &'static str) -> Self {
        Self {
            method,
            accept: None,
            start: 0,
            caches: Caches::Welcome,
            body: None,
            piece: None,
            extra_time: Duration::ZERO,
            patience_left: Duration::MAX,
            what,
        }
    }
}

/// An answer, and who gave it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// The host that answered, with its port; the registry's name when it did so itself.
    pub(crate) host: String,
    /// Whether who was asked answered, not somebody it redirected to.
    pub(crate) is_home: bool,
}

impl Answer {
    /// Returns where in the whole a partial answer begins, when it says so.
    pub(crate) fn range_start(&self) -> Option<u64> {
        let range = self.response.headers().get(CONTENT_RANGE)?;
        let bytes = range.to_str().ok()?.strip_prefix("bytes ")?;
        bytes.split('-').next()?.trim().parse().ok()
    }
}

/// Why a body was not read to its end.
#[derive(Debug)]
pub(crate) enum BodyFault {
    /// It is larger than allowed; this many bytes were seen or announced.
    TooLarge(u64),
    /// It did not arrive.
    Fetch(FetchError),
}

impl Transport {
    pub(crate) fn new(
        host: &str,
        endpoint_host: Host<String>,
        config: Arc<Config>,
    ) -> Result<Self, FetchError> {
        let is_insecure = config.is_insecure(host);
        let home = build_client(&config, For::Home { is_insecure })?;
        Ok(Self {
            host: host.to_owned(),
            trust: Trust {
                host: endpoint_host,
                trusted_hosts: config.trusted_hosts.clone(),
                is_insecure,
                https_only: config.https_only,
            },
            // Only what stands in the name: the port of the scheme is that of the registry, too.
            port: Url::parse(&format!("https://{host}/"))
                .ok()
                .and_then(|url| url.port()),
            config,
            home,
            trusted: OnceCell::new(),
            away: OnceCell::new(),
        })
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Returns what messages call the host of a URL: the registry's own name, or host and port.
    pub(crate) fn name_of(&self, url: &Url) -> String {
        if self.trust.is_own_host(url) && url.port() == self.port {
            return self.host.clone();
        }
        let host = url.host_str().unwrap_or_default();
        match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Asks `url`. `authorization` is dropped for good at the first change of scheme, host or
    /// port. Redirects are followed where something is only read: what is sent or deleted is for
    /// the registry alone.
    pub(crate) async fn ask(
        &self,
        url: &Url,
        ask: Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, FetchError> {
        let mut target = url.clone();
        let mut authorization = authorization;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask_once(&target, ask, authorization).await?;
            if !is_redirect(response.status()) {
                let is_home = shares_origin(url, &target);
                let host = self.name_of(&target);
                return Ok(Answer {
                    response,
                    host,
                    is_home,
                });
            }
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            if !matches!(*ask.method, Method::GET | Method::HEAD) {
                let reason = "only what is read may lie elsewhere";
                return Err(self.redirect_refused(location.unwrap_or_default(), reason));
            }
            let next = location
                .ok_or("it names no target")
                .and_then(|location| Trust::check_redirect(&target, location))
                .map_err(|reason| self.redirect_refused(location.unwrap_or_default(), reason))?;
            if !shares_origin(&target, &next) {
                authorization = None;
            }
            target = next;
        }
        Err(self.redirect_refused(target.as_str(), "there are more than 5 in a row"))
    }

    async fn ask_once(
        &self,
        url: &Url,
        ask: Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, FetchError> {
        let client = self.client_for(url).await?;
        let mut request = client.request(ask.method.clone(), url.clone());
        if let Some(body) = ask.body {
            request = request
                .header(CONTENT_TYPE, body.media_type)
                .body(body.bytes.clone());
        } else if ask.piece.is_none() && !is_reading(ask.method) {
            // Some servers refuse a request without a body that does not say so (status 411).
            request = request.header(CONTENT_LENGTH, 0);
        }
        if let Some(accept) = ask.accept {
            request = request.header(ACCEPT, accept);
        }
        if ask.start > 0 {
            request = request.header(RANGE, format!("bytes={}-", ask.start));
        }
        if ask.caches == Caches::PassedBy {
            request = request.header(CACHE_CONTROL, "no-cache");
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(piece) = ask.piece {
            // Boxed: every request would carry the room for it.
            return Box::pin(self.send_piece(request, piece, ask)).await;
        }
        let silence = self.config.stall_timeout.min(ask.patience_left);
        self.send_within(request, ask.what, silence + ask.extra_time)
            .await
    }

    /// Sends a part of a blob. The wait for the connection to take more is bounded, and so is
    /// that for the answer behind the last byte, when the server may have much to do.
    async fn send_piece(
        &self,
        request: reqwest::RequestBuilder,
        piece: &Piece,
        ask: Ask<'_>,
    ) -> Result<Response, FetchError> {
        let what = ask.what;
        let mut request = request
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, piece.len());
        if piece.is_ranged {
            let last = piece.end.saturating_sub(1);
            request = request.header(CONTENT_RANGE, format!("{}-{last}", piece.start));
        }
        let sending = request.body(reqwest::Body::wrap(piece.body())).send();
        let mut sending = std::pin::pin!(sending);
        let stall = self.config.stall_timeout.min(ask.patience_left);
        let for_answer = self.config.document_timeout.min(ask.patience_left) + ask.extra_time;
        let slowest = self.config.slowest.within(ask.patience_left);
        let tick = stall.min(slowest.window) / 8;
        let (mut seen, mut moved_at) = (piece.start, Instant::now());
        let (mut window_start, mut window_began) = (piece.start, Instant::now());
        loop {
            let limit = if seen == piece.end { for_answer } else { stall };
            // Not a tick longer than the limit: what is lost here is counted.
            let look = tick.min(limit.saturating_sub(moved_at.elapsed()));
            if let Ok(sent) = tokio::time::timeout(look, &mut sending).await {
                return sent.map_err(|error| self.classify(error, what));
            }
            let sent = piece.sent();
            if sent != seen {
                (seen, moved_at) = (sent, piece.sent_at().unwrap_or_else(Instant::now));
            }
            if sent == piece.end {
                if moved_at.elapsed() >= for_answer {
                    return Err(self.timeout(what, for_answer));
                }
                continue;
            }
            if moved_at.elapsed() >= stall {
                return Err(self.timeout(ROOM, stall));
            }
            if window_began.elapsed() >= slowest.window {
                if sent - window_start < slowest.bytes {
                    return Err(self.timeout(ROOM, slowest.window));
                }
                (window_start, window_began) = (sent, Instant::now());
            }
        }
    }

    /// Asks a token realm, by GET or, with a form, by POST. Redirects are not followed: nobody
    /// needs them there, and the request carries credentials.
    pub(crate) async fn ask_realm(
        &self,
        realm: &Url,
        authorization: Option<&HeaderValue>,
        form: Option<String>,
    ) -> Result<Response, FetchError> {
        let method = if form.is_some() {
            Method::POST
        } else {
            Method::GET
        };
        let mut request = self.client_for(realm).await?.request(method, realm.clone());
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(form) = form {
            request = request
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form);
        }
        let response = self.send(request, "a token").await?;
        if is_redirect(response.status()) {
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            return Err(self.redirect_refused(
                location.unwrap_or_default(),
                "token endpoints must not redirect",
            ));
        }
        Ok(response)
    }

    /// Asks once without redirects and credentials and returns the answer, whatever it is.
    pub(crate) async fn probe(&self, url: &Url) -> Result<Response, FetchError> {
        let request = self.home.get(url.clone());
        self.send(request, "an answer").await
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        what: &'static str,
    ) -> Result<Response, FetchError> {
        let silence = self.config.stall_timeout;
        self.send_within(request, what, silence).await
    }

    async fn send_within(
        &self,
        request: reqwest::RequestBuilder,
        what: &'static str,
        stall: Duration,
    ) -> Result<Response, FetchError> {
        match tokio::time::timeout(stall, request.send()).await {
            Err(_) => Err(self.timeout(what, stall)),
            Ok(sent) => sent.map_err(|error| self.classify(error, what)),
        }
    }

    /// Returns the next piece of a body, or nothing at its end.
    pub(crate) async fn next_chunk(
        &self,
        response: &mut Response,
        what: &'static str,
    ) -> Result<Option<Bytes>, FetchError> {
        let stall = self.config.stall_timeout;
        match tokio::time::timeout(stall, response.chunk()).await {
            Err(_) => Err(self.timeout(what, stall)),
            Ok(chunk) => chunk.map_err(|error| self.classify(error, what)),
        }
    }

    /// Reads a body of at most `limit_bytes`, within the time for documents. Nothing is
    /// allocated because a header announces it.
    pub(crate) async fn read_capped(
        &self,
        mut response: Response,
        limit_bytes: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, BodyFault> {
        if let Some(announced) = response.content_length().filter(|size| *size > limit_bytes) {
            return Err(BodyFault::TooLarge(announced));
        }
        let read = async {
            let mut body = Vec::new();
            while let Some(chunk) = self.next_chunk(&mut response, what).await? {
                body.extend_from_slice(&chunk);
                if length(&body) > limit_bytes {
                    return Err(BodyFault::TooLarge(length(&body)));
                }
            }
            Ok(body)
        };
        let limit = self.config.document_timeout;
        tokio::time::timeout(limit, read)
            .await
            .unwrap_or_else(|_| Err(self.timeout(what, limit).into()))
    }

    pub(crate) fn timeout(&self, what: &'static str, after: Duration) -> FetchError {
        FetchError::Timeout {
            host: self.host.clone(),
            what,
            after,
        }
    }

    pub(crate) fn redirect_refused(&self, target: &str, reason: &'static str) -> FetchError {
        FetchError::RedirectRefused {
            host: self.host.clone(),
            target: ServerText::new(&shown(target)),
            reason,
        }
    }

    /// Chooses the client whose resolver fits the host.
    async fn client_for(&self, url: &Url) -> Result<&Client, FetchError> {
        // Another port of the host may be another's: it gets neither headers nor a certificate.
        if self.trust.is_own_host(url) && url.port() == self.port {
            return Ok(&self.home);
        }
        // Behind a proxy it is the proxy that resolves names; addresses are seen here all the same.
        let is_proxied = self.config.proxies.of_url(url).is_some();
        if is_proxied && !self.trust.is_home(url) && !self.reach().await.includes_literal(url) {
            return Err(FetchError::AddressRefused {
                host: url.host_str().unwrap_or_default().to_owned(),
            });
        }
        if self.trust.is_home(url) || is_proxied {
            let build = || async { build_client(&self.config, For::Trusted) };
            return self.trusted.get_or_try_init(build).await;
        }
        let (reach, client) = self
            .away
            .get_or_try_init(|| async {
                let reach = self.reach().await;
                build_client(&self.config, For::Strangers(reach)).map(|client| (reach, client))
            })
            .await?;
        if reach.includes_literal(url) {
            Ok(client)
        } else {
            Err(FetchError::AddressRefused {
                host: url.host_str().unwrap_or_default().to_owned(),
            })
        }
    }

    /// Finds out where the registry itself lies.
    async fn reach(&self) -> Reach {
        let host = &self.trust.host;
        if is_loopback(host) {
            return Reach::Loopback;
        }
        let addresses = match host {
            Host::Ipv4(address) => vec![(*address, 0).into()],
            Host::Ipv6(address) => vec![(*address, 0).into()],
            Host::Domain(name) => match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(found) => found.collect(),
                Err(_) => Vec::new(),
            },
        };
        Reach::of(&addresses)
    }

    /// Sorts the transport's errors by what the caller can do.
    fn classify(&self, error: reqwest::Error, what: &'static str) -> FetchError {
        let asked = error.url().cloned();
        let source = error.without_url();
        if source.is_timeout() {
            return self.timeout(what, self.config.connect_timeout);
        }
        if find::<OutOfReach>(&source).is_some() {
            let host = asked.as_ref().and_then(|url| url.host_str());
            return FetchError::AddressRefused {
                host: host.unwrap_or_default().to_owned(),
            };
        }
        let host = match &asked {
            Some(url) => self.name_of(url),
            None => self.host.clone(),
        };
        match find::<rustls::Error>(&source) {
            // What came instead of a greeting is of no kind that TLS has: an answer in HTTP.
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                return FetchError::NotHttps { host };
            }
            Some(rustls::Error::AlertReceived(alert)) if is_about_us(*alert) => {
                let sent = self.config.client_pem.as_ref();
                let sent = sent.filter(|_| host == self.host);
                let sent = sent.map(|file| file.path.clone());
                return FetchError::ClientCertificateWanted { host, sent, source };
            }
            Some(_) => return FetchError::Tls { host, source },
            None => {}
        }
        match find::<hyper::Error>(&source) {
            Some(error) if error.is_parse_too_large() => {
                FetchError::HeadersTooLarge { host, source }
            }
            Some(error) if error.is_parse() => FetchError::NotHttp { host, source },
            _ => FetchError::Unreachable { host, source },
        }
    }
}

impl From<FetchError> for BodyFault {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

fn length(body: &[u8]) -> u64 {
    u64::try_from(body.len()).unwrap_or(u64::MAX)
}

fn is_reading(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::DELETE)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Tells the alerts of a server that looked at a client's certificate, or found none (RFC 8446, 6.2):
/// servers check nobody else's.
fn is_about_us(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateRequired
    )
}

/// Whom a client is to speak to.
#[derive(Clone, Copy, Debug)]
enum For {
    /// The registry itself.
    Home {
        /// Whether any certificate of it will do.
        is_insecure: bool,
    },
    /// Hosts that may be anywhere.
    Trusted,
    /// Hosts that somebody named.
    Strangers(Reach),
}

/// Builds a client that follows nothing by itself and takes nothing from the environment.
fn build_client(config: &Config, whom: For) -> Result<Client, FetchError> {
    let mut builder = ClientBuilder::new()
        .user_agent(config.user_agent.as_str())
        .connect_timeout(config.connect_timeout)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // One connection per layer: the transfer is bulk, and HTTP/2 would share one window.
        .http1_only()
        .no_proxy();
    let proxies = config.proxies.clone();
    builder = builder.proxy(Proxy::custom(move |url| {
        proxies.of_url(url).map(|proxy| proxy.expose().clone())
    }));
    for pem in &config.extra_ca_pem {
        let certificates =
            Certificate::from_pem_bundle(pem).map_err(FetchError::ExtraCertificate)?;
        builder = builder.tls_certs_merge(certificates);
    }
    match whom {
        For::Home { is_insecure } => {
            builder = builder.default_headers(headers(config)?);
            if let Some(file) = &config.client_pem {
                let identity = Identity::from_pem(&file.pem);
                let unusable = |source| FetchError::ClientCertificate {
                    path: file.path.clone(),
                    source,
                };
                builder = builder.identity(identity.map_err(unusable)?);
            }
            if is_insecure && config.insecure_may_be_https {
                builder = builder.tls_danger_accept_invalid_certs(true);
            }
        }
        For::Trusted => {}
        For::Strangers(reach) => builder = builder.dns_resolver(GuardedResolver(reach)),
    }
    builder.build().map_err(|source| match &config.client_pem {
        Some(file) if check_client(&file.pem).is_err() => FetchError::ClientCertificate {
            path: file.path.clone(),
            source,
        },
        _ => FetchError::Setup(source),
    })
}

/// Makes the configured headers; their values are not shown anywhere.
fn headers(config: &Config) -> Result<HeaderMap, FetchError> {
    let mut headers = HeaderMap::new();
    for (name, value) in config.headers.iter() {
        let refused = || FetchError::Header {
            name: name.to_owned(),
        };
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| refused())?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

/// Finds an error of type `T` among the sources of `error`; looks into I/O errors, which hide
/// what they wrap.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref::<T>() {
            return Some(found);
        }
        if let Some(inner) = current
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            && let Some(found) = find::<T>(inner)
        {
            return Some(found);
        }
        next = current.source();
    }
    None
}

#[cfg(test)]
mod tests;
