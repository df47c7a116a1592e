//! The listener: one POST at a time per connection, the secret before the body, short answers.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use kiln_api::Failure;
use kiln_domain::{Pushed, Secret};
use kiln_service::Taken;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::envelopes::pushes;

/// How a bearer token begins.
const SCHEME: &[u8] = b"Bearer ";

/// Longest notification, in bytes. One of a thousand events has half of that.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Most connections at a time: registries send from one queue.
const MAX_CONNECTIONS: usize = 64;

/// How long a head, and then a body, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long accepting rests after an error: there may be no descriptor left.
const REST: Duration = Duration::from_millis(100);

/// Fewest bytes of a secret that whoever may connect cannot guess.
const MIN_SECRET_BYTES: usize = 16;

/// Where notifications are posted to.
const PATHS: &[&str] = &["/", "/webhooks"];

/// What notifications prove themselves with.
#[derive(Clone, Debug)]
pub struct SharedSecret(Secret);

/// The secret could be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shared secret has {found} bytes, {MIN_SECRET_BYTES} at least are needed")]
pub struct WeakSecret {
    found: usize,
}

impl SharedSecret {
    /// Takes the content of a secret's file, without the line end that closes it.
    pub fn new(text: &str) -> Result<Self, WeakSecret> {
        let text = text.trim_end_matches(['\n', '\r']);
        if text.len() < MIN_SECRET_BYTES {
            return Err(WeakSecret { found: text.len() });
        }
        Ok(Self(Secret::new(text.to_owned())))
    }

    /// Says whether the one `Authorization` header carries it: as a bearer token, as distribution is
    /// configured to send it, or as it is, as Harbor sends it. Of two, whoever is on the way may
    /// believe the other one, so neither counts.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(given), None) = (given.next(), given.next()) else {
            return false;
        };
        let given = given.as_bytes();
        // The name of the scheme is read in any case (RFC 9110, 11.1).
        let token = match given.split_at_checked(SCHEME.len()) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(SCHEME) => token,
            _ => given,
        };
        kiln_vault::are_equal(token, self.0.expose().as_bytes())
    }
}

/// A port that registries notify.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    secret: SharedSecret,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.address)
    }
}

impl Listener {
    /// Listens; nobody is answered yet.
    pub async fn bind(address: SocketAddr, secret: SharedSecret) -> std::io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        Ok(Self {
            address: socket.local_addr()?,
            socket,
            secret,
        })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` turns true, then lets what is being answered end. `take` remembers pushes.
    pub async fn serve<T, F>(self, take: T, mut stop: watch::Receiver<bool>)
    where
        T: Fn(Vec<Pushed>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Taken, Failure>> + Send,
    {
        let connections = TaskTracker::new();
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let secret = Arc::new(self.secret);
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                _ = stop.wait_for(|stopped| *stopped) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a notification's connection");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            // One too many is closed at once; registries try again.
            let Ok(permit) = room.clone().try_acquire_owned() else {
                continue;
            };
            let (take, secret, stop) = (take.clone(), secret.clone(), stop.clone());
            connections.spawn(async move {
                answer_all(stream, take, secret, stop).await;
                drop(permit);
            });
        }
        connections.close();
        connections.wait().await;
    }
}

async fn answer_all<T, F>(
    stream: TcpStream,
    take: T,
    secret: Arc<SharedSecret>,
    mut stop: watch::Receiver<bool>,
) where
    T: Fn(Vec<Pushed>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Taken, Failure>> + Send,
{
    let service = service_fn(move |request| {
        let (take, secret) = (take.clone(), secret.clone());
        async move { Ok::<_, Infallible>(answer(request, &take, &secret).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a notification's connection ended early");
    }
}

/// Waits until it is time to stop, or nobody is left who could say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stopped| *stopped).await);
}

async fn answer<T, F>(
    request: Request<Incoming>,
    take: &T,
    secret: &SharedSecret,
) -> Response<Full<Bytes>>
where
    T: Fn(Vec<Pushed>) -> F,
    F: Future<Output = Result<Taken, Failure>>,
{
    if !secret.is_in(request.headers()) {
        tracing::warn!("a notification without the shared secret was refused");
        let mut refusal = said(
            StatusCode::UNAUTHORIZED,
            "the shared secret is missing or wrong",
        );
        let bearer = HeaderValue::from_static("Bearer");
        refusal.headers_mut().insert(WWW_AUTHENTICATE, bearer);
        return refusal;
    }
    if !PATHS.contains(&request.uri().path()) {
        return said(
            StatusCode::NOT_FOUND,
            "notifications are posted to /webhooks",
        );
    }
    if request.method() != Method::POST {
        let mut refusal = said(StatusCode::METHOD_NOT_ALLOWED, "notifications are posted");
        let post = HeaderValue::from_static("POST");
        refusal.headers_mut().insert(ALLOW, post);
        return refusal;
    }
    let event_type = cloud_event_type(&request);
    let reading = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let body = match timeout(PATIENCE, reading).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return said(
                StatusCode::PAYLOAD_TOO_LARGE,
                "a notification has 1 MiB at most",
            );
        }
        Ok(Err(_)) => return said(StatusCode::BAD_REQUEST, "the notification broke off"),
        Err(_) => {
            return said(
                StatusCode::REQUEST_TIMEOUT,
                "the notification took too long",
            );
        }
    };
    let notified = match pushes(event_type.as_deref(), &body) {
        Ok(notified) => notified,
        Err(error) => return said(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match take(notified.pushes).await {
        Ok(taken) => {
            let counts = json!({
                "accepted": taken.accepted, "ignored": taken.ignored + notified.others,
                "failed": taken.failed,
            });
            respond(StatusCode::ACCEPTED, &counts)
        }
        Err(failure) => {
            tracing::warn!(
                code = failure.code,
                "a notification was not taken: {failure}"
            );
            let status = StatusCode::from_u16(failure.http_status);
            let body = json!({"code": failure.code, "message": failure.message});
            respond(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &body)
        }
    }
}

/// Returns the type of a CloudEvent in binary mode, whose data are the body.
fn cloud_event_type(request: &Request<Incoming>) -> Option<String> {
    let header = |name: &str| request.headers().get(name)?.to_str().ok();
    header("ce-specversion")?;
    Some(header("ce-type").unwrap_or_default().to_owned())
}

fn said(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    respond(status, &json!({ "message": message }))
}

fn respond(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests;
