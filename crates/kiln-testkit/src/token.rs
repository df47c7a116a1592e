//! A token server for a registry: who asks with the right password gets a signed token.
//!
//! Tokens are RS256 JSON web tokens with the signer's certificate in their header (`x5c`), as the
//! distribution registry verifies them. Source: the distribution project's "Token Authentication
//! Specification".

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::certificates::Identity;
use crate::http;
use crate::process;
use crate::tools;

/// How long the registry accepts a token after the moment it says it ends.
///
/// Source: `registry/auth/token/token.go` of distribution 2.8, `Leeway`.
const REGISTRY_LEEWAY_SECONDS: u64 = 60;

/// How long a client may take to send its request.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// Longest time a signature may take.
const SIGN_LIMIT: Duration = Duration::from_secs(30);

/// Name the server signs under.
pub(crate) const ISSUER: &str = "kiln-tests";

/// Name of the registry the tokens are for.
pub(crate) const SERVICE: &str = "kiln-registry";

/// Who may do what.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The one account; it may do everything.
    pub user: String,
    /// Its password.
    pub password: String,
    /// What those without an account may do.
    pub strangers: Strangers,
    /// An account that may only pull, with the same password.
    pub reader: String,
}

/// What those without an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// Pull everything.
    MayPull,
    /// Nothing: their tokens are valid and allow nothing.
    MayNothing,
}

/// One request for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The account it named, if any.
    pub user: Option<String>,
    /// The scopes it asked for.
    pub scopes: Vec<String>,
    /// The status it got.
    pub status: u16,
}

/// A running token server; dropping it stops it.
#[derive(Debug)]
pub struct TokenServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    signer: Identity,
    rules: Rules,
    validity_seconds: AtomicU64,
    stopping: AtomicBool,
    requests: Mutex<Vec<TokenRequest>>,
}

impl TokenServer {
    /// Starts a server on a free loopback port that signs with `signer`.
    pub fn start(signer: Identity, rules: Rules) -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen for tokens")?;
        let address = listener.local_addr().context("cannot learn the port")?;
        let shared = Arc::new(Shared {
            signer,
            rules,
            validity_seconds: AtomicU64::new(300),
            stopping: AtomicBool::new(false),
            requests: Mutex::new(Vec::new()),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || serve(&listener, &shared))
        };
        Ok(Self {
            address,
            shared,
            thread: Some(thread),
        })
    }

    /// Returns where clients ask for tokens.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// Sets how long the registry really accepts the tokens issued from now on, in seconds.
    ///
    /// Clients are told 300 seconds whatever it is, so a shorter time is a token that fails in
    /// the middle of a pull.
    pub fn set_validity_seconds(&self, seconds: u64) {
        self.shared
            .validity_seconds
            .store(seconds, Ordering::SeqCst);
    }

    /// Returns the requests so far, oldest first.
    pub fn requests(&self) -> Vec<TokenRequest> {
        self.shared.log().clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread; when that fails, nobody can connect and it has ended already.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        // Ends by itself: reading has a limit, and so has signing.
        thread::spawn(move || drop(shared.answer(&stream)));
    }
}

impl Shared {
    fn log(&self) -> std::sync::MutexGuard<'_, Vec<TokenRequest>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, mut stream: &TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(READ_LIMIT))?;
        let request = http::receive(stream)?;
        let target = request.start.split(' ').nth(1).unwrap_or_default();
        let scopes = scopes(target);
        let account = request.field("authorization").map(account);
        let user = account.as_ref().map(|(user, _)| user.clone());
        let is_known = account.as_ref().is_some_and(|(user, password)| {
            let is_account = *user == self.rules.user || *user == self.rules.reader;
            is_account && *password == self.rules.password
        });

        let (status, response) = if account.is_some() && !is_known {
            (
                401,
                http::json_response("401 Unauthorized", r#"{"details":"wrong password"}"#),
            )
        } else {
            let access = self.access(&scopes, is_known.then_some(user.as_deref()).flatten());
            let token = self.token(user.as_deref().unwrap_or_default(), &access)?;
            let body = json!({"token": token, "access_token": token, "expires_in": 300});
            (200, http::json_response("200 OK", &body.to_string()))
        };
        // Logged first: who has the answer finds the request in the log.
        self.log().push(TokenRequest {
            user,
            scopes,
            status,
        });
        stream.write_all(&response).context("cannot answer")
    }

    fn access(&self, scopes: &[String], user: Option<&str>) -> Vec<Value> {
        let mut access = Vec::new();
        let may_all = user == Some(&self.rules.user);
        let may_pull = user.is_some() || self.rules.strangers == Strangers::MayPull;
        for scope in scopes {
            let mut parts = scope.splitn(2, ':');
            let kind = parts.next().unwrap_or_default();
            let rest = parts.next().unwrap_or_default();
            let (name, actions) = rest.rsplit_once(':').unwrap_or((rest, ""));
            let allowed: Vec<&str> = actions
                .split(',')
                .filter(|action| may_all || (may_pull && *action == "pull"))
                .collect();
            if !allowed.is_empty() {
                access.push(json!({"type": kind, "name": name, "actions": allowed}));
            }
        }
        access
    }

    fn token(&self, user: &str, access: &[Value]) -> Result<String> {
        let now = seconds_now()?;
        let validity = self.validity_seconds.load(Ordering::SeqCst);
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [self.certificate()?]});
        let claims = json!({
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": now + validity - REGISTRY_LEEWAY_SECONDS,
            "nbf": now - REGISTRY_LEEWAY_SECONDS,
            "iat": now,
            "jti": format!("{now}-{}", self.log().len()),
            "access": access,
        });
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The certificate's bytes in base 64: what stands between the marks of a PEM file.
    fn certificate(&self) -> Result<String> {
        let path = &self.signer.certificate;
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(text
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect())
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut message = tempfile::NamedTempFile::new().context("cannot make a file to sign")?;
        message
            .write_all(bytes)
            .context("cannot write what to sign")?;
        let mut command = process::command(tools::require(tools::OPENSSL)?);
        command.args(["dgst", "-sha256", "-sign"]);
        command.arg(&self.signer.key).arg(message.path());
        Ok(process::run(command, SIGN_LIMIT)?.stdout)
    }
}

fn scopes(target: &str) -> Vec<String> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("scope="))
        .map(percent_decoded)
        // Several scopes may share one parameter.
        .flat_map(|scopes| scopes.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(byte) = escaped {
            bytes.push(byte);
            rest = after.get(2..).unwrap_or_default();
        } else {
            bytes.push(if *first == b'+' { b' ' } else { *first });
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn account(authorization: &str) -> (String, String) {
    let encoded = authorization.strip_prefix("Basic ").unwrap_or_default();
    let decoded = STANDARD.decode(encoded).unwrap_or_default();
    let text = String::from_utf8_lossy(&decoded);
    let (user, password) = text.split_once(':').unwrap_or_default();
    (user.to_owned(), password.to_owned())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the registry is another program: it compares tokens with the real time"
)]
fn seconds_now() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(now.context("the clock is before 1970")?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_come_apart_and_lose_their_escapes() {
        let cases: &[(&str, &[&str])] = &[
            ("/token?service=x", &[]),
            (
                "/token?scope=repository%3Aa%2Fb%3Apull&service=x",
                &["repository:a/b:pull"],
            ),
            ("/token?scope=a:b:pull+c:d:push", &["a:b:pull", "c:d:push"]),
            (
                "/token?scope=a:b:pull&scope=c:d:push",
                &["a:b:pull", "c:d:push"],
            ),
            ("/token?scope=50%", &["50%"]),
        ];
        for (target, want) in cases {
            assert_eq!(scopes(target), *want, "{target}");
        }
    }

    #[test]
    fn a_password_may_hold_colons() {
        let header = format!("Basic {}", STANDARD.encode("user:pass:word"));

        assert_eq!(
            account(&header),
            ("user".to_owned(), "pass:word".to_owned())
        );
        assert_eq!(account("Bearer x"), (String::new(), String::new()));
    }
}
