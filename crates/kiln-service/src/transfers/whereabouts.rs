//! Where in a registry blobs were seen, so that a repository that lacks one may take it over from
//! another in place of having it sent again.
//!
//! It is a hint and no more: the registry decides whether it mounts, by the rights of whoever asks.
//! Nobody is told what another saw: the memory is by user and login. It lasts as long as the daemon
//! runs, and what it loses costs a blob that is sent twice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_domain::{Digest, Reference};
use kiln_registry::Registry;

use super::turns::{Turn, Turns};

/// Most blobs that are remembered: a few hundred bytes each, and more than a sync of thousands of
/// tags brings.
const MAX_BLOBS: usize = 50_000;

/// Who writes to a registry, as whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Writer {
    uid: u32,
    registry: String,
    login: Option<String>,
}

/// A blob in a registry, as one writer sees it.
type Key = (Writer, Digest);

/// What is remembered, and whose turn it is to send something.
#[derive(Debug, Default)]
pub(super) struct Whereabouts {
    seen: Mutex<Seen>,
    /// Blobs on their way, by registry: what goes to several of its repositories is sent to one, and
    /// taken over by the others.
    sending: Turns<Key>,
}

/// Blobs that a dry run has counted, by registry: what goes to several repositories is sent once.
#[derive(Debug, Default)]
pub(super) struct Counted {
    blobs: Mutex<HashSet<(String, Digest)>>,
}

impl Counted {
    /// Says whether a blob is counted for the first time.
    pub(super) fn counts(&self, into: &Reference, blob: Digest) -> bool {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.insert((into.registry().to_owned(), blob))
    }
}

#[derive(Debug, Default)]
struct Seen {
    repositories: HashMap<Key, Arc<str>>,
    /// In the order in which they came, the oldest first.
    order: VecDeque<Key>,
}

impl Writer {
    pub(super) fn new(uid: u32, registry: &Registry, into: &Reference) -> Self {
        Self {
            uid,
            registry: into.registry().to_owned(),
            login: registry.username().map(str::to_owned),
        }
    }
}

impl Whereabouts {
    /// Waits until the writer sends the blob to nowhere else in the registry, or what sends it
    /// there has come to a stop. `waits` is called when that is not at once.
    pub(super) async fn turn(&self, writer: &Writer, blob: Digest, waits: impl FnOnce()) -> Turn {
        self.sending.take((writer.clone(), blob), waits).await
    }

    /// Remembers that the repository of `reference` has the blob.
    pub(super) fn note(&self, writer: &Writer, blob: Digest, reference: &Reference) {
        self.seen()
            .note((writer.clone(), blob), reference.repository());
    }

    /// Says where else in the registry of `into` the blob may be taken over from.
    pub(super) fn elsewhere(
        &self,
        writer: &Writer,
        blob: Digest,
        into: &Reference,
    ) -> Option<Reference> {
        let seen = self.seen();
        let repository = seen.repositories.get(&(writer.clone(), blob))?;
        let other = **repository != *into.repository();
        let text = other.then(|| format!("{}/{repository}", into.registry()))?;
        text.parse().ok()
    }

    /// Forgets where a blob was: it is there no longer, or not for this writer.
    pub(super) fn forget(&self, writer: &Writer, blob: Digest) {
        self.seen().repositories.remove(&(writer.clone(), blob));
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Keeps the first place that is known: it is more likely to stay than a later one.
    fn note(&mut self, key: Key, repository: &str) {
        if self.repositories.contains_key(&key) {
            return;
        }
        while self.order.len() >= MAX_BLOBS {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            self.repositories.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.repositories.insert(key, repository.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(uid: u32, login: Option<&str>) -> Writer {
        Writer {
            uid,
            registry: "registry.example".to_owned(),
            login: login.map(str::to_owned),
        }
    }

    fn reference(repository: &str) -> Reference {
        format!("registry.example/{repository}:1").parse().unwrap()
    }

    #[test]
    fn a_blob_is_taken_over_from_elsewhere_only() {
        let whereabouts = Whereabouts::default();
        let (ada, blob) = (writer(1, Some("ada")), Digest::of(b"blob"));
        whereabouts.note(&ada, blob, &reference("one"));
        whereabouts.note(&ada, blob, &reference("two"));

        let found = |who: &Writer, blob, into: &str| {
            let found = whereabouts.elsewhere(who, blob, &reference(into));
            found.map(|found| found.repository().to_owned())
        };
        assert_eq!(found(&ada, blob, "two").as_deref(), Some("one"));
        assert_eq!(found(&ada, blob, "one"), None);
        assert_eq!(found(&ada, Digest::of(b"other"), "two"), None);
        // What one saw is nothing to another, nor to the same user as somebody else.
        for other in [
            writer(2, Some("ada")),
            writer(1, Some("bob")),
            writer(1, None),
        ] {
            assert_eq!(found(&other, blob, "two"), None, "{other:?}");
        }

        whereabouts.forget(&ada, blob);
        assert_eq!(found(&ada, blob, "two"), None);
        whereabouts.note(&ada, blob, &reference("two"));
        assert_eq!(found(&ada, blob, "one").as_deref(), Some("two"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::default();
        let key = |number: usize| (writer(1, None), Digest::of(&number.to_le_bytes()));
        for number in 0..MAX_BLOBS + 7 {
            seen.note(key(number), "one");
        }

        assert_eq!(seen.order.len(), MAX_BLOBS);
        assert_eq!(seen.repositories.len(), MAX_BLOBS);
        assert!(!seen.repositories.contains_key(&key(6)));
        assert!(seen.repositories.contains_key(&key(7)));
    }
}
