//! Sending one blob to a registry.
//!
//! ```text
//! HEAD ── there ──▶ done
//!  └▶ POST (mount) ── 201 ──▶ done
//!      └ 202, Location ─▶ PATCH ─▶ PATCH ─▶ … ─▶ PUT ?digest=
//!                     small: └───────────────────▲ with all bytes
//! a break:   GET Location ─▶ how far the registry is ─▶ go on from there
//!            the upload is gone ─▶ POST
//! ```
//! A `Location` is followed as it is written, its query included. Where it leads to another host,
//! that host gets no credentials, and the rules of `trust` say whether it is spoken to at all.
//!
//! Dropping the future closes the connection; the registry forgets half an upload by itself.

use std::sync::Arc;
use std::time::Duration;

use kiln_domain::oci::Descriptor;
use kiln_domain::{Digest, Reference};
use reqwest::header::{HeaderMap, LOCATION, RANGE};
use reqwest::{Method, StatusCode};
use url::Url;

use crate::client::Registry;
use crate::content::{Content, ContentFault, Outgoing};
use crate::error::FetchError;
use crate::push::{What, content_digest};
use crate::retry::Attempts;
use crate::scope::Scope;
use crate::text::ServerText;
use crate::transport::{Answer, Ask, ROOM};
use crate::trust::Trust;

/// What is waited for, in messages.
const WHAT: &str = "an answer to a blob";

/// Blobs up to this many bytes are sent in one request.
const WHOLE_BYTES: u64 = 4 << 20;

/// The smallest part that is tried where a registry, or a proxy before it, takes no longer ones.
/// nginx takes 1 MiB unless it is told otherwise.
const MIN_CHUNK_BYTES: u64 = 1 << 19;

/// How often an upload is begun anew because the registry knows it no longer, or is elsewhere in
/// it than we are.
const MAX_RESTARTS: u32 = 4;

/// The slowest registry that is waited for when it closes an upload, in bytes per second: many
/// read the whole blob once more then, or copy it from one store to another.
const CLOSING_BYTES_PER_SECOND: u64 = 8 << 20;

/// How a blob came to be in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it over from another repository of its own.
    Mounted,
    /// It was sent.
    Sent,
}

impl Registry {
    /// Sends a blob to the repository of `reference`, unless it is there. Where `mount_from` is a
    /// repository of the same registry, the registry is asked to take it from there first.
    ///
    /// The content is read as often as needed, in pieces of bounded memory, and must have the
    /// blob's size and digest: bytes that have not are not sent to the last.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        content: Content,
        mount_from: Option<&Reference>,
    ) -> Result<Pushed, FetchError> {
        let scope = Scope::Push(reference.repository());
        let asking = self.blob_size_for(scope, reference, &blob.digest);
        let known = asking.await?;
        if known == Some(blob.size_bytes) {
            return Ok(Pushed::Existed);
        }
        self.send_blob(reference, blob, content, mount_from).await
    }

    /// Does what [`push_blob`](Self::push_blob) does for a blob that is known not to be there.
    pub async fn send_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        content: Content,
        mount_from: Option<&Reference>,
    ) -> Result<Pushed, FetchError> {
        if content.size_bytes() != blob.size_bytes {
            return Err(FetchError::SizeMismatch {
                digest: blob.digest,
                expected_bytes: blob.size_bytes,
                found_bytes: content.size_bytes(),
            });
        }
        let mut upload = Upload {
            registry: self,
            reference,
            blob,
            outgoing: Outgoing::new(content, blob.digest),
            scope: Scope::Push(reference.repository()),
            chunk_bytes: self.config().chunk_bytes,
            is_whole: blob.size_bytes <= WHOLE_BYTES.min(self.config().chunk_bytes),
            attempts: Attempts::sharing(self.patience()),
            restarts: 0,
        };
        let mounting = match mount_from.filter(|from| can_mount(from, reference)) {
            Some(from) => upload.mount(from.repository()).await?,
            None => None,
        };
        match mounting {
            Some(Opened::Mounted) => Ok(Pushed::Mounted),
            Some(Opened::Session(session)) => upload.run(session).await,
            None => {
                let session = upload.open().await?;
                upload.run(session).await
            }
        }
    }

    /// Asks the registry to take a blob over from another repository of its own; nothing is sent.
    /// Says whether it did, or had it already.
    pub async fn mount_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        from: &Reference,
    ) -> Result<bool, FetchError> {
        if !can_mount(from, reference) {
            return Ok(false);
        }
        let mut upload = Upload {
            registry: self,
            reference,
            blob,
            outgoing: Outgoing::new(Content::bytes(bytes::Bytes::new()), blob.digest),
            scope: Scope::Push(reference.repository()),
            chunk_bytes: self.config().chunk_bytes,
            is_whole: false,
            attempts: Attempts::sharing(self.patience()),
            restarts: 0,
        };
        match upload.mount(from.repository()).await? {
            Some(Opened::Mounted) => Ok(true),
            Some(Opened::Session(session)) => {
                upload.attempts.progress();
                upload.abandon(&session).await;
                Ok(false)
            }
            None => Ok(false),
        }
    }
}

/// One blob on its way.
struct Upload<'a> {
    registry: &'a Registry,
    reference: &'a Reference,
    blob: &'a Descriptor,
    outgoing: Arc<Outgoing>,
    scope: Scope<'a>,
    chunk_bytes: u64,
    /// Whether all bytes go with the closing request.
    is_whole: bool,
    attempts: Attempts,
    restarts: u32,
}

/// An upload that the registry has opened.
struct Session {
    /// Where the next request goes.
    url: Url,
    /// How many bytes the registry has.
    at: u64,
}

/// What a registry answers to the wish to send a blob.
enum Opened {
    /// It has the blob.
    Mounted,
    /// It wants the bytes.
    Session(Session),
}

/// Why a step of an upload failed, by what is to be done next.
enum Fault {
    /// The error decides by itself whether trying again helps.
    Error(FetchError),
    /// The registry knows the upload no longer, or has spoiled it.
    Lost(FetchError),
    /// The registry is elsewhere in the upload than we are.
    Offset(FetchError),
    /// The request is too long.
    TooLong(FetchError),
    /// The registry may take the blob as a whole only.
    NoChunks(FetchError),
}

/// What comes after a failed step.
enum Next {
    Finished,
    GoOn(Session),
}

impl From<FetchError> for Fault {
    fn from(error: FetchError) -> Self {
        Self::Error(error)
    }
}

fn closing_time(size_bytes: u64) -> Duration {
    Duration::from_secs(size_bytes / CLOSING_BYTES_PER_SECOND)
}

impl Upload<'_> {
    async fn run(mut self, mut session: Session) -> Result<Pushed, FetchError> {
        self.attempts.progress();
        loop {
            match self.step(&mut session).await {
                Ok(true) => return Ok(Pushed::Sent),
                Ok(false) => {
                    self.attempts.progress();
                    self.attempts.forgive();
                }
                Err(fault) => {
                    self.check_content()?;
                    // What went out was no time lost, however long it took.
                    if let Some(moment) = self.outgoing.sent_at() {
                        self.attempts.progress_until(moment);
                    }
                    // Unless it was so little that it does not count.
                    if let Fault::Error(FetchError::Timeout {
                        what: ROOM, after, ..
                    }) = &fault
                    {
                        self.attempts.no_progress_for(*after);
                    }
                    match self.recover(session, fault).await? {
                        Next::Finished => return Ok(Pushed::Sent),
                        Next::GoOn(next) => session = next,
                    }
                }
            }
        }
    }

    /// Opens an upload that takes the blob over from `from`, if the registry likes. One that does
    /// not let us read there may still take the bytes.
    async fn mount(&mut self, from: &str) -> Result<Option<Opened>, FetchError> {
        let into = self.reference.repository();
        let scope = Scope::Mount { from, into };
        let path = format!(
            "{into}/blobs/uploads/?mount={}&from={from}",
            self.blob.digest
        );
        let answer = match self.post(scope, &path).await {
            Ok(answer) => answer,
            // Nor need one that fails at this fail at taking them.
            Err(
                FetchError::AuthRequired { .. }
                | FetchError::AuthFailed { .. }
                | FetchError::Denied { .. }
                | FetchError::ServerError {
                    retry_after: None, ..
                },
            ) => return Ok(None),
            Err(error) => return Err(error),
        };
        match answer.response.status() {
            StatusCode::CREATED => Ok(Some(Opened::Mounted)),
            StatusCode::ACCEPTED => Ok(self.session_of(&answer).ok().map(Opened::Session)),
            // What is wrong with opening uploads is said by the plain request.
            _ => Ok(None),
        }
    }

    async fn open(&mut self) -> Result<Session, FetchError> {
        let path = format!("{}/blobs/uploads/", self.reference.repository());
        let answer = self.post(self.scope, &path).await?;
        if answer.response.status() == StatusCode::ACCEPTED {
            self.session_of(&answer)
        } else {
            Err(self.refusal(answer, What::Upload).await)
        }
    }

    /// Opens an upload. Doing it again leaves an empty one behind, which registries throw away.
    async fn post(&self, scope: Scope<'_>, path: &str) -> Result<Answer, FetchError> {
        let mut attempts = Attempts::sharing(self.registry.patience());
        loop {
            let ask = Ask::with(&Method::POST, WHAT);
            let asking = async {
                let answer = self.registry.ask(scope, path, ask).await?;
                if is_passing(answer.response.status()) {
                    return Err(self.refusal(answer, What::Upload).await);
                }
                Ok(answer)
            };
            let asked = attempts.attempt(self.registry.transport(), WHAT, asking);
            match asked.await {
                Ok(answer) => return Ok(answer),
                Err(error) => attempts.wait_after(error, self.registry.config()).await?,
            }
        }
    }

    fn session_of(&mut self, answer: &Answer) -> Result<Session, FetchError> {
        let headers = answer.response.headers();
        let minimum = headers.get("oci-chunk-min-length");
        let minimum: Option<u64> = minimum
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.trim().parse().ok());
        self.chunk_bytes = self.chunk_bytes.max(minimum.unwrap_or_default());
        let url = self.location(answer.response.url(), headers)?;
        let url = url.ok_or_else(|| self.unexpected(StatusCode::ACCEPTED, "no Location"))?;
        Ok(Session { url, at: 0 })
    }

    /// Sends the next part, or closes the upload. Says whether it is closed.
    async fn step(&mut self, session: &mut Session) -> Result<bool, Fault> {
        let size_bytes = self.outgoing.size_bytes();
        if self.is_whole || session.at >= size_bytes {
            return self.close(session).await.map(|()| true);
        }
        let end = session.at.saturating_add(self.chunk_bytes).min(size_bytes);
        let piece = self.outgoing.piece(session.at, end, true);
        let ask = Ask {
            piece: Some(&piece),
            patience_left: self.patience_left(),
            ..Ask::with(&Method::PATCH, WHAT)
        };
        let answer = self.ask(session, ask).await?;
        match answer.response.status() {
            StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::NO_CONTENT => {}
            status => return Err(self.fault(status, answer, session.at == 0).await),
        }
        let headers = answer.response.headers();
        if let Some(next) = self.location(&session.url, headers)? {
            session.url = next;
        }
        let held = received_bytes(headers).unwrap_or(end);
        if held <= session.at || held > end {
            let error = self.unexpected(StatusCode::ACCEPTED, "a range that was not sent");
            return Err(Fault::Lost(error));
        }
        // Whoever keeps next to nothing of each part would be sent parts for ever.
        let keeps_little = held - session.at < (end - session.at).div_ceil(2);
        session.at = held;
        if keeps_little {
            let error = self.unexpected(StatusCode::ACCEPTED, "less than half of a part was kept");
            self.count_restart(error)?;
        }
        Ok(false)
    }

    async fn close(&self, session: &Session) -> Result<(), Fault> {
        let mut url = session.url.clone();
        let digest = self.blob.digest.to_string();
        url.query_pairs_mut().append_pair("digest", &digest);
        let piece = self
            .outgoing
            .piece(session.at, self.outgoing.size_bytes(), false);
        let ask = Ask {
            piece: Some(&piece).filter(|piece| piece.len() > 0),
            // The registry may read and move the whole blob before it answers.
            extra_time: closing_time(self.outgoing.size_bytes()),
            patience_left: self.patience_left(),
            ..Ask::with(&Method::PUT, WHAT)
        };
        let answer = self.registry.ask_at(self.scope, &url, ask).await?;
        match answer.response.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => {}
            status => return Err(self.fault(status, answer, false).await),
        }
        match content_digest(answer.response.headers()) {
            Some(found) if found != self.blob.digest => {
                Err(Fault::Lost(self.digest_mismatch(found)))
            }
            _ => Ok(()),
        }
    }

    /// Tells how long the next request may take. What it took to get back to where something is sent
    /// is lost, although none of it failed.
    fn patience_left(&self) -> Duration {
        self.attempts.lose_since_progress();
        self.attempts.patience_left(self.registry.config())
    }

    async fn ask(&self, session: &Session, ask: Ask<'_>) -> Result<Answer, FetchError> {
        self.registry.ask_at(self.scope, &session.url, ask).await
    }

    /// Sorts an unhappy answer.
    async fn fault(&self, status: StatusCode, answer: Answer, is_first_part: bool) -> Fault {
        let error = self.refusal(answer, What::Part).await;
        match status.as_u16() {
            413 => Fault::TooLong(error),
            416 => Fault::Offset(error),
            400 | 405 | 411 | 415 | 501 if is_first_part => Fault::NoChunks(error),
            // 400 says that what arrived has another digest: what was sent has this one.
            400 | 404 => Fault::Lost(error),
            _ => Fault::Error(error),
        }
    }

    async fn recover(&mut self, session: Session, fault: Fault) -> Result<Next, FetchError> {
        match fault {
            Fault::Error(error) => {
                self.attempts
                    .wait_after(error, self.registry.config())
                    .await?;
                if self.is_there().await? {
                    return Ok(Next::Finished);
                }
                self.go_on(session).await
            }
            Fault::Offset(error) => {
                self.count_restart(error)?;
                let next = if self.is_whole {
                    None
                } else {
                    self.look(&session).await
                };
                match next {
                    Some(next) if next.at != session.at || next.url != session.url => {
                        Ok(Next::GoOn(next))
                    }
                    // It says what we did, and refused it: no question helps.
                    _ => {
                        self.abandon(&session).await;
                        Ok(Next::GoOn(self.open().await?))
                    }
                }
            }
            Fault::Lost(error) => self.restart(error).await,
            Fault::NoChunks(error) => {
                self.is_whole = true;
                self.restart(error).await
            }
            Fault::TooLong(error) => {
                let tried = if self.is_whole {
                    self.outgoing.size_bytes()
                } else {
                    self.chunk_bytes
                };
                self.chunk_bytes = (tried / 4).max(MIN_CHUNK_BYTES);
                if self.chunk_bytes >= tried {
                    return Err(error);
                }
                self.is_whole = false;
                self.abandon(&session).await;
                Ok(Next::GoOn(self.open().await?))
            }
        }
    }

    /// A closing request may have been heard although its answer was not.
    async fn is_there(&self) -> Result<bool, FetchError> {
        let registry = self.registry;
        let digest = &self.blob.digest;
        let asking = registry.blob_size_for(self.scope, self.reference, digest);
        let known = asking.await?;
        Ok(known == Some(self.blob.size_bytes))
    }

    /// Asks the registry how far the upload is and goes on from there, or begins anew.
    async fn go_on(&mut self, session: Session) -> Result<Next, FetchError> {
        if !self.is_whole
            && let Some(session) = self.look(&session).await
        {
            return Ok(Next::GoOn(session));
        }
        self.abandon(&session).await;
        Ok(Next::GoOn(self.open().await?))
    }

    /// Asks how far an upload is. Nothing where the registry does not say, or says what cannot be.
    async fn look(&self, session: &Session) -> Option<Session> {
        let ask = Ask {
            patience_left: self.patience_left(),
            ..Ask::get(WHAT)
        };
        let answer = self.ask(session, ask).await.ok()?;
        if !answer.response.status().is_success() {
            return None;
        }
        let headers = answer.response.headers();
        let at = received_bytes(headers)?;
        let next = self.location(&session.url, headers).ok()?;
        (at <= self.outgoing.size_bytes()).then(|| Session {
            url: next.unwrap_or_else(|| session.url.clone()),
            at,
        })
    }

    async fn restart(&mut self, error: FetchError) -> Result<Next, FetchError> {
        self.count_restart(error)?;
        Ok(Next::GoOn(self.open().await?))
    }

    fn count_restart(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.restarts += 1;
        if self.restarts > MAX_RESTARTS {
            return Err(error);
        }
        tracing::debug!(%error, restarts = self.restarts, "an upload begins anew");
        Ok(())
    }

    /// Tells the registry that no more comes; it forgets half an upload by itself too, so nobody
    /// cares what it answers.
    async fn abandon(&self, session: &Session) {
        let ask = Ask {
            patience_left: self.patience_left(),
            ..Ask::with(&Method::DELETE, WHAT)
        };
        if let Err(error) = self.ask(session, ask).await {
            tracing::debug!(%error, "an upload was left behind");
        }
    }

    async fn refusal(&self, answer: Answer, what: What) -> FetchError {
        self.registry.refusal(answer, self.reference, what).await
    }

    /// Fails where not the registry, but what we send is at fault.
    fn check_content(&self) -> Result<(), FetchError> {
        match self.outgoing.take_fault() {
            None => Ok(()),
            Some(ContentFault::Digest(found)) => Err(self.digest_mismatch(found)),
            Some(ContentFault::Io(source)) => Err(FetchError::Io {
                step: "read",
                path: self.blob.digest.to_string().into(),
                source,
            }),
        }
    }

    fn digest_mismatch(&self, found: Digest) -> FetchError {
        FetchError::DigestMismatch {
            what: "a blob that is sent".to_owned(),
            expected: self.blob.digest,
            found,
        }
    }

    fn unexpected(&self, status: StatusCode, said: &str) -> FetchError {
        FetchError::UnexpectedStatus {
            host: self.registry.transport().host().to_owned(),
            status: status.as_u16(),
            message: ServerText::new(said),
        }
    }

    /// Reads where the next request goes, seen from where the last one went.
    fn location(&self, from: &Url, headers: &HeaderMap) -> Result<Option<Url>, FetchError> {
        let Some(location) = headers.get(LOCATION).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let text = location.to_str().unwrap_or_default();
        match Trust::check_redirect(from, text) {
            Ok(url) => Ok(Some(url)),
            Err(reason) => Err(self.registry.transport().redirect_refused(text, reason)),
        }
    }
}

/// Says whether a blob may be taken over: from another repository of the same registry.
fn can_mount(from: &Reference, into: &Reference) -> bool {
    from.registry() == into.registry() && from.repository() != into.repository()
}

/// Says whether the same request may be answered otherwise a little later.
fn is_passing(status: StatusCode) -> bool {
    let is_early = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
    is_early || status.is_server_error()
}

/// Reads `Range: 0-<last>`: how many bytes the registry has. Registries write `0-0` for none, which
/// the specification would read as one byte; as no part is that short, it means none.
fn received_bytes(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RANGE)?.to_str().ok()?.trim();
    let text = text.strip_prefix("bytes=").unwrap_or(text);
    let last: u64 = text.strip_prefix("0-")?.trim().parse().ok()?;
    Some(if last == 0 { 0 } else { last.checked_add(1)? })
}

#[cfg(test)]
mod tests;
