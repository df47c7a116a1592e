//! A registry and its mirrors, walked in the order of a route.
//!
//! ```text
//! manifest by tag ─▶ mirrors that may resolve tags, in order ─▶ the location
//! by digest, blob ─▶ all mirrors, in order ───────────────────▶ the location
//! ```
//! Whatever goes wrong at one place leads to the next; the last one's error is the one that
//! counts. What a place gives for a digest is checked, so it cannot deceive; one that tried is
//! not asked for that digest again ([`Remote::blob_anew`]).
//!
//! Each place is spoken to as nobody, or with the credentials that are its own: those of one host
//! never reach another.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kiln_domain::oci::{Descriptor, Document, DocumentError, StatedMediaTypes};
use kiln_domain::{Credentials, Digest, Reference, RegistryName};
use tokio::sync::OwnedSemaphorePermit;

use crate::blob::BlobStream;
use crate::client::{Fetched, MAX_DOCUMENT_BYTES, Registry};
use crate::error::FetchError;
use crate::retry::Patience;
use crate::routes::{Endpoint, Route, same_place};

/// Who the caller is, registry by registry.
#[derive(Clone, Debug, Default)]
pub struct Identities(Vec<(RegistryName, Credentials)>);

impl Identities {
    /// Is somebody at one registry, and nobody elsewhere.
    pub fn at(registry: RegistryName, credentials: Option<Credentials>) -> Self {
        let known = credentials.map(|credentials| (registry, credentials));
        Self(known.into_iter().collect())
    }

    /// Adds credentials for a registry. The first ones of a registry count.
    pub fn add(&mut self, registry: RegistryName, credentials: Credentials) {
        self.0.push((registry, credentials));
    }

    /// Returns the credentials for a registry.
    pub fn of(&self, registry: &RegistryName) -> Option<&Credentials> {
        let found = self.0.iter().find(|(name, _)| name == registry);
        found.map(|(_, credentials)| credentials)
    }
}

/// A registry with its mirrors, seen by one caller. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<Shared>,
}

struct Shared {
    mirrors: Vec<Stop>,
    location: Stop,
    /// The stop at which each digest is asked for first: those before gave something else.
    begins: Mutex<HashMap<Digest, usize>>,
    /// The stop that served each digest last.
    served: Mutex<HashMap<Digest, usize>>,
}

struct Stop {
    registry: Registry,
    /// The place that is asked; none asks under the reference's own name.
    endpoint: Option<Endpoint>,
    /// It did not answer, and is not asked again in this piece of work.
    is_out: AtomicBool,
}

/// What is asked for, as far as it matters who may answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    Tag,
    Digest,
}

impl Remote {
    /// Prepares to walk a route. Nothing is sent yet.
    pub fn new(route: Route, identities: &Identities) -> Result<Self, FetchError> {
        let route = route.unless_blocked()?;
        let count = route.mirrors.len() + 1;
        let patience = Patience::default();
        let stop = |number, endpoint: Endpoint| {
            let credentials = identities.of(&endpoint.registry).cloned();
            let registry = Registry::at(&endpoint, credentials)?;
            Ok(Stop {
                registry: registry.with_patience(patience.of_place(number, count)),
                endpoint: Some(endpoint),
                is_out: AtomicBool::new(false),
            })
        };
        let mirrors = (1..).zip(route.mirrors);
        let mirrors = mirrors
            .map(|(number, mirror)| stop(number, mirror))
            .collect::<Result<_, FetchError>>()?;
        Ok(Self::of(mirrors, stop(count, route.location)?))
    }

    fn of(mirrors: Vec<Stop>, location: Stop) -> Self {
        Self {
            shared: Arc::new(Shared {
                mirrors,
                location,
                begins: Mutex::default(),
                served: Mutex::default(),
            }),
        }
    }

    /// Is the same registry with the same mirrors for another piece of work: it has all its
    /// patience, and asks again who did not answer before. Connections and tokens are shared.
    #[must_use]
    pub fn for_other_work(&self) -> Self {
        let count = self.shared.mirrors.len() + 1;
        let patience = Patience::default();
        let stop = |number, stop: &Stop| Stop {
            registry: stop
                .registry
                .clone()
                .with_patience(patience.of_place(number, count)),
            endpoint: stop.endpoint.clone(),
            is_out: AtomicBool::new(false),
        };
        let mirrors = (1..).zip(&self.shared.mirrors);
        let mirrors = mirrors.map(|(number, mirror)| stop(number, mirror));
        Self::of(mirrors.collect(), stop(count, &self.shared.location))
    }

    /// Fetches the manifest or index of `reference`, as [`Registry::manifest`] does.
    pub async fn manifest(&self, reference: &Reference) -> Result<Fetched, FetchError> {
        let question = match reference.digest() {
            Some(_) => Question::Digest,
            None => Question::Tag,
        };
        let mut at = 0;
        loop {
            let (found, stop) = self.next_stop(at, question);
            let asked = stop.reference(reference);
            match stop.registry.manifest(&asked).await {
                Ok(fetched) => match malformed(&fetched) {
                    // Somebody before the mirror answers in its place, with a page to log in perhaps.
                    Some(source) if found < self.shared.mirrors.len() => {
                        let document = asked.to_string();
                        at = self.after(found, stop, FetchError::Document { document, source })?;
                    }
                    // Whoever reads it says what is wrong with it.
                    _ => return Ok(fetched),
                },
                Err(error) => at = self.after(found, stop, error)?,
            }
        }
    }

    /// Opens a blob at byte `start`, as [`Registry::blob`] does.
    pub async fn blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        start: u64,
    ) -> Result<RemoteBlob, FetchError> {
        let at = self.begin_of(&blob.digest);
        let mut opened = RemoteBlob::new(self, reference, blob, at);
        opened.open(start).await?;
        Ok(opened)
    }

    /// Opens a blob whose bytes were wrong the last time: from its start, at the next place where there
    /// is one, and else, as [`Registry::blob_anew`] does, at the registry itself. Who gave wrong bytes
    /// for a digest is not asked for it again, and where several gave some, none of the mirrors.
    pub async fn blob_anew(
        &self,
        reference: &Reference,
        blob: &Descriptor,
    ) -> Result<RemoteBlob, FetchError> {
        if let Some(mirror) = self.shared.mirrors.get(self.served(&blob.digest)) {
            let (mirror, digest) = (mirror.registry.host(), &blob.digest);
            tracing::warn!(%mirror, %digest, "it gave wrong bytes: asking the next registry");
            let next = self.served(&blob.digest) + 1;
            locked(&self.shared.begins).insert(blob.digest, next);
            return self.blob(reference, blob, 0).await;
        }
        let (at, stop) = (self.shared.mirrors.len(), &self.shared.location);
        let asked = stop.reference(reference);
        let mut opened = RemoteBlob::new(self, reference, blob, at);
        opened.take_turn(stop).await;
        opened.stream = Some(stop.registry.blob_anew(&asked, blob).await?);
        Ok(opened)
    }

    /// Says whether there is a place to ask behind the one that served a digest last.
    pub fn has_others(&self, digest: &Digest) -> bool {
        self.served(digest) < self.shared.mirrors.len()
    }

    /// Returns the registry in which the image itself lies, and what `reference` is called there.
    pub fn location(&self, reference: &Reference) -> (&Registry, Reference) {
        let location = &self.shared.location;
        (&location.registry, location.reference(reference))
    }

    fn served(&self, digest: &Digest) -> usize {
        let served = locked(&self.shared.served).get(digest).copied();
        served.unwrap_or_default()
    }

    fn begin_of(&self, digest: &Digest) -> usize {
        locked(&self.shared.begins)
            .get(digest)
            .copied()
            .unwrap_or(0)
    }

    /// Finds the next place that may answer, from `at` on. The last one always may.
    fn next_stop(&self, at: usize, question: Question) -> (usize, &Stop) {
        let mirrors = self.shared.mirrors.iter().enumerate().skip(at);
        let mut fitting = mirrors.filter(|(_, stop)| stop.may_answer(question));
        let location = (self.shared.mirrors.len(), &self.shared.location);
        fitting.next().unwrap_or(location)
    }

    /// Goes on to the place after one that failed, or gives its error back when it is the last.
    fn after(&self, index: usize, stop: &Stop, error: FetchError) -> Result<usize, FetchError> {
        if index >= self.shared.mirrors.len() {
            return Err(error);
        }
        tracing::warn!(
            mirror = %stop.registry.host(),
            error = %with_causes(&error),
            "asking the next registry"
        );
        if is_about_the_host(&error) {
            stop.is_out.store(true, Ordering::Relaxed);
        }
        Ok(index + 1)
    }
}

impl From<Registry> for Remote {
    /// A registry without mirrors, asked under its own name.
    fn from(registry: Registry) -> Self {
        let location = Stop {
            registry,
            endpoint: None,
            is_out: AtomicBool::new(false),
        };
        Self::of(Vec::new(), location)
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mirrors = self.shared.mirrors.iter();
        let registries = mirrors.chain([&self.shared.location]);
        let registries = registries.map(|stop| &stop.registry);
        f.debug_list().entries(registries).finish()
    }
}

impl Stop {
    fn may_answer(&self, question: Question) -> bool {
        let resolves = |endpoint: &Endpoint| endpoint.resolves_tags || question == Question::Digest;
        !self.is_out.load(Ordering::Relaxed) && self.endpoint.as_ref().is_none_or(resolves)
    }

    /// Says what a reference is called here.
    fn reference(&self, asked: &Reference) -> Reference {
        let place = self.endpoint.as_ref();
        let place = place.and_then(|endpoint| endpoint.reference.as_ref());
        // The place was made from a reference of the same repository; only its end differs.
        place
            .and_then(|place| same_place(place, asked))
            .unwrap_or_else(|| asked.clone())
    }
}

/// A blob that is being downloaded, from whichever place has it.
///
/// Dropping it closes the connection.
pub struct RemoteBlob {
    remote: Remote,
    reference: Reference,
    blob: Descriptor,
    at: usize,
    stream: Option<BlobStream>,
    position: u64,
    /// Our turn, where the place limits how many download at a time.
    permit: Option<OwnedSemaphorePermit>,
}

impl RemoteBlob {
    fn new(remote: &Remote, reference: &Reference, blob: &Descriptor, at: usize) -> Self {
        Self {
            remote: remote.clone(),
            reference: reference.clone(),
            blob: blob.clone(),
            at,
            stream: None,
            position: 0,
            permit: None,
        }
    }

    /// Returns the next bytes, never empty, or nothing after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let Some(stream) = &mut self.stream else {
                return Ok(None);
            };
            match stream.next().await {
                Ok(bytes) => {
                    self.position = stream.position();
                    return Ok(bytes);
                }
                Err(error) => self.go_on(error).await?,
            }
        }
    }

    /// Returns the position of the next byte in the blob.
    pub fn position(&self) -> u64 {
        self.position
    }

    async fn go_on(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.stream = None;
        self.permit = None;
        let remote = self.remote.clone();
        let mirrors = &remote.shared.mirrors;
        let stop = mirrors.get(self.at).unwrap_or(&remote.shared.location);
        self.at = remote.after(self.at, stop, error)?;
        self.open(self.position).await
    }

    async fn take_turn(&mut self, stop: &Stop) {
        let endpoint = stop.endpoint.as_ref();
        self.permit = match endpoint.and_then(|endpoint| endpoint.permits.clone()) {
            // Nobody closes them; without a turn the download would still be right.
            Some(permits) => permits.acquire_owned().await.ok(),
            None => None,
        };
    }

    async fn open(&mut self, start: u64) -> Result<(), FetchError> {
        loop {
            let remote = self.remote.clone();
            let (found, stop) = remote.next_stop(self.at, Question::Digest);
            self.at = found;
            self.take_turn(stop).await;
            let asked = stop.reference(&self.reference);
            match stop.registry.blob(&asked, &self.blob, start).await {
                Ok(stream) => {
                    locked(&remote.shared.served).insert(self.blob.digest, found);
                    self.stream = Some(stream);
                    return Ok(());
                }
                Err(error) => {
                    self.permit = None;
                    self.at = remote.after(found, stop, error)?;
                }
            }
        }
    }
}

impl fmt::Debug for RemoteBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBlob")
            .field("blob", &self.blob.digest)
            .field("at", &self.at)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// Says why something is no manifest or index of any kind.
fn malformed(fetched: &Fetched) -> Option<DocumentError> {
    let stated = StatedMediaTypes::default();
    match Document::parse_any(&fetched.bytes, stated, MAX_DOCUMENT_BYTES) {
        Err(error @ DocumentError::Malformed(_)) => Some(error),
        _ => None,
    }
}

/// Says whether an error is one that every other request to that host would meet too.
fn is_about_the_host(error: &FetchError) -> bool {
    matches!(
        error,
        FetchError::Unreachable { .. }
            | FetchError::NotHttp { .. }
            | FetchError::Timeout { .. }
            | FetchError::NotHttps { .. }
            | FetchError::Tls { .. }
            | FetchError::RateLimited { .. }
    )
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The maps are only added to, so one that a panic left behind is as good as any.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
