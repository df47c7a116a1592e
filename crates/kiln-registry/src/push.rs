//! Writing to a registry: what is there already, and manifests.
//!
//! Not here: the bytes of blobs (`upload`), and in which order an image is sent: blobs first,
//! then what names them, tags last.

use bytes::Bytes;
use kiln_domain::oci::DocumentError;
use kiln_domain::{Digest, Reference};
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use crate::client::{MAX_DOCUMENT_BYTES, Registry, failure};
use crate::error::FetchError;
use crate::retry::Attempts;
use crate::scope::Scope;
use crate::text::ServerText;
use crate::transport::{Answer, Ask, Body};

/// How a registry says that it has listed a manifest at its subject (OCI distribution spec,
/// "Pushing Manifests with Subject").
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// How a registry says what it has stored.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What is waited for, in messages.
const OF_BLOB: &str = "an answer about a blob";
const OF_MANIFEST: &str = "an answer about a manifest";
const TO_MANIFEST: &str = "an answer to a manifest";

/// Words by which registries say that a tag may not move: ECR's, Harbor's, Azure's, GitLab's.
const IMMUTABLE_WORDS: &[&str] = &[
    "immutable",
    "immutability",
    "locked",
    "cannot be overwritten",
];

/// What a manifest says about what it belongs to.
#[derive(Deserialize)]
struct WithSubject {
    subject: Option<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: Digest,
}

/// What a registry tells of a blob without sending it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is not there.
    Absent,
    /// It is there and has so many bytes.
    OfBytes(u64),
    /// It may well be there: how long it is, is not told.
    Untold,
}

impl Registry {
    /// Says whether the repository of `reference` has the blob.
    pub async fn has_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<bool, FetchError> {
        let size = self.blob_size(reference, digest).await?;
        Ok(size.is_some())
    }

    /// Returns the size of a blob in the repository of `reference`, in bytes, or nothing where it
    /// is not there. A registry that does not say how long the blob is counts as one that has
    /// none.
    pub async fn blob_size(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Option<u64>, FetchError> {
        let scope = Scope::Pull(reference.repository());
        self.blob_size_for(scope, reference, digest).await
    }

    /// Asks whether a blob is there, and how long it is: other than [`blob_size`](Self::blob_size)
    /// it tells a blob that is not there from one whose length nobody says.
    pub async fn blob_presence(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Presence, FetchError> {
        let scope = Scope::Pull(reference.repository());
        self.blob_presence_for(scope, reference, digest).await
    }

    pub(crate) async fn blob_size_for(
        &self,
        scope: Scope<'_>,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Option<u64>, FetchError> {
        let asking = self.blob_presence_for(scope, reference, digest);
        match asking.await? {
            Presence::OfBytes(size_bytes) => Ok(Some(size_bytes)),
            Presence::Absent | Presence::Untold => Ok(None),
        }
    }

    async fn blob_presence_for(
        &self,
        scope: Scope<'_>,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Presence, FetchError> {
        let path = format!("{}/blobs/{digest}", reference.repository());
        let mut attempts = Attempts::sharing(self.patience());
        loop {
            let asking = self.blob_presence_once(scope, &path);
            match attempts.attempt(self.transport(), OF_BLOB, asking).await {
                Ok(found) => return Ok(found),
                Err(error) => attempts.wait_after(error, self.config()).await?,
            }
        }
    }

    async fn blob_presence_once(
        &self,
        scope: Scope<'_>,
        path: &str,
    ) -> Result<Presence, FetchError> {
        let ask = Ask::with(&Method::HEAD, OF_BLOB);
        let answer = self.ask(scope, path, ask).await?;
        let status = answer.response.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(Presence::Absent);
        }
        // A place that blobs are redirected to may sign for reading only; then it says nothing.
        if !answer.is_home && status.is_client_error() {
            return Ok(Presence::Untold);
        }
        let answer = self.expect(StatusCode::OK, answer, scope).await?;
        let length = answer.response.headers().get("content-length");
        let length = length.and_then(|value| value.to_str().ok());
        let length = length.and_then(|text| text.trim().parse().ok());
        Ok(length.map_or(Presence::Untold, Presence::OfBytes))
    }

    /// Asks for the digest of the manifest or index of `reference`, without fetching it. Nothing
    /// where it does not exist, and where the registry does not tell digests.
    pub async fn manifest_digest(
        &self,
        reference: &Reference,
    ) -> Result<Option<Digest>, FetchError> {
        let mut attempts = Attempts::sharing(self.patience());
        loop {
            let asking = self.manifest_digest_once(reference);
            let asked = attempts.attempt(self.transport(), OF_MANIFEST, asking);
            match asked.await {
                Ok(digest) => return Ok(digest),
                Err(error) => attempts.wait_after(error, self.config()).await?,
            }
        }
    }

    async fn manifest_digest_once(
        &self,
        reference: &Reference,
    ) -> Result<Option<Digest>, FetchError> {
        let accept = kiln_domain::oci::document_media_types().join(", ");
        let ask = Ask {
            accept: Some(&accept),
            ..Ask::with(&Method::HEAD, OF_MANIFEST)
        };
        let scope = Scope::Pull(reference.repository());
        let answer = self.ask(scope, &manifest_path(reference), ask).await?;
        if answer.response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = self.expect(StatusCode::OK, answer, scope).await?;
        Ok(content_digest(answer.response.headers()))
    }

    /// Puts a manifest or index into the repository of `reference`, byte for byte: under its
    /// digest when the reference has one, else under its tag. What it names must be there.
    ///
    /// Doing it twice changes nothing. Where the manifest belongs to another and the registry
    /// keeps no list of such, the list that stands in for it is updated: an index under the tag
    /// `sha256-<hex of the subject>` (OCI distribution spec, "Referrers Tag Schema").
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<Digest, FetchError> {
        let (digest, is_listed) = self.put_manifest(reference, media_type, bytes).await?;
        let belonging: Option<WithSubject> = serde_json::from_slice(bytes).ok();
        let subject = belonging.and_then(|document| document.subject);
        if let Some(subject) = subject.filter(|_| !is_listed) {
            self.list_referrer(reference, &subject.digest, media_type, bytes)
                .await?;
        }
        Ok(digest)
    }

    /// Returns the digest, and whether the registry has listed the manifest at its subject.
    pub(crate) async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<(Digest, bool), FetchError> {
        let size_bytes = bytes.len() as u64;
        if size_bytes > MAX_DOCUMENT_BYTES {
            return Err(FetchError::Document {
                document: reference.to_string(),
                source: DocumentError::TooLarge {
                    size_bytes,
                    limit_bytes: MAX_DOCUMENT_BYTES,
                },
            });
        }
        let digest = Digest::of(bytes);
        check_digest(reference, reference.digest().copied(), digest)?;
        let mut attempts = Attempts::sharing(self.patience());
        loop {
            let putting = self.put_once(reference, media_type, bytes);
            let put = attempts.attempt(self.transport(), TO_MANIFEST, putting);
            match put.await {
                Ok((status, headers)) => {
                    let told = content_digest(&headers);
                    check_digest(reference, told, digest)?;
                    if status != StatusCode::CREATED && told.is_none() {
                        self.check_kept(reference, status, digest).await?;
                    }
                    return Ok((digest, headers.contains_key(OCI_SUBJECT)));
                }
                Err(error) => attempts.wait_after(error, self.config()).await?,
            }
        }
    }

    async fn put_once(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<(StatusCode, HeaderMap), FetchError> {
        let ask = Ask {
            body: Some(Body { media_type, bytes }),
            ..Ask::with(&Method::PUT, TO_MANIFEST)
        };
        let scope = Scope::Push(reference.repository());
        let answer = self.ask(scope, &manifest_path(reference), ask).await?;
        match answer.response.status() {
            status @ (StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED) => {
                Ok((status, answer.response.headers().clone()))
            }
            _ => Err(self.refusal(answer, reference, What::Manifest).await),
        }
    }

    /// Asks whether a manifest is there that somebody answered to in other words than a registry: a
    /// proxy that wants people to log in says 200 to everything.
    async fn check_kept(
        &self,
        reference: &Reference,
        status: StatusCode,
        digest: Digest,
    ) -> Result<(), FetchError> {
        if self.manifest_digest(reference).await? == Some(digest) {
            return Ok(());
        }
        Err(FetchError::UnexpectedStatus {
            host: self.transport().host().to_owned(),
            status: status.as_u16(),
            message: ServerText::new("the manifest is not there afterwards"),
        })
    }

    /// Says what the refusal of something that was sent means.
    pub(crate) async fn refusal(
        &self,
        answer: Answer,
        reference: &Reference,
        what: What,
    ) -> FetchError {
        let status = answer.response.status();
        let host = answer.host;
        let (message, error) = failure(self.transport(), &host, answer.response).await;
        let said = message.to_string().to_ascii_lowercase();
        let is_tag = what == What::Manifest && reference.digest().is_none();
        let subject = Scope::Push(reference.repository()).subject();
        if is_tag
            && status.is_client_error()
            && IMMUTABLE_WORDS.iter().any(|word| said.contains(word))
        {
            return FetchError::TagImmutable {
                reference: reference.to_string(),
                message,
            };
        }
        match status.as_u16() {
            // The same may be taken a little later.
            408 | 429 => error,
            507 => FetchError::QuotaExceeded { host, message },
            400..=499 if said.contains("quota") => FetchError::QuotaExceeded { host, message },
            403 => FetchError::Denied {
                host,
                subject,
                message,
            },
            status @ 400..=499 if is_own_fault(status, what, &said) => FetchError::ServerError {
                host,
                status,
                retry_after: None,
                message,
            },
            404 => FetchError::ReferenceNotFound {
                reference: format!("{}/{}", reference.registry(), reference.repository()),
                message,
            },
            405 => FetchError::ReadOnly {
                host,
                subject,
                message,
            },
            413 => FetchError::ContentTooLarge { host, message },
            status @ 400..=499 => FetchError::PushRefused {
                host,
                subject,
                status,
                message,
            },
            _ => error,
        }
    }
}

/// What was sent and refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The wish to send a blob.
    Upload,
    /// Bytes of a blob, to where the registry wants them.
    Part,
    /// A manifest.
    Manifest,
}

/// Says whether a registry that blames the request is at fault itself: it has lost an upload that it
/// opened or a blob that it took, or finds other bytes than those that were sent and hashed.
fn is_own_fault(status: u16, what: What, said: &str) -> bool {
    match what {
        What::Part => matches!(status, 404 | 416) || said.contains("digest_invalid"),
        What::Manifest => said.contains("blob_unknown"),
        What::Upload => false,
    }
}

/// Where the manifest of a reference lies: under its digest when it has one, else under its tag.
fn manifest_path(reference: &Reference) -> String {
    let repository = reference.repository();
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{repository}/manifests/{digest}"),
        (None, tag) => format!("{repository}/manifests/{}", tag.unwrap_or_default()),
    }
}

pub(crate) fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    let value = headers.get(CONTENT_DIGEST)?;
    value.to_str().ok()?.parse().ok()
}

fn check_digest(
    reference: &Reference,
    expected: Option<Digest>,
    found: Digest,
) -> Result<(), FetchError> {
    match expected.filter(|expected| *expected != found) {
        Some(expected) => Err(FetchError::DigestMismatch {
            what: reference.to_string(),
            expected,
            found,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
