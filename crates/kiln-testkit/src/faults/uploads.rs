//! The side of a fault registry that takes content: one repository, empty at first.
//!
//! It is a strict one. A part must go on where the last one ended and come to the `Location` that was
//! given last, what is closed must have its digest, and a manifest is taken when what it names is
//! there.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::fault::{Place, Ranges};
use super::image::{OddImage, digest_of};
use super::misbehave::Good;
use crate::http::Message;

/// Name of the repository that content is sent to.
pub(super) const REPOSITORY: &str = "into/app";

/// Everything that was sent and taken.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    kept: Mutex<Kept>,
}

/// What one repository has.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Blobs by digest.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Manifests and indexes by digest.
    pub documents: BTreeMap<String, Vec<u8>>,
    /// What each tag names.
    pub tags: BTreeMap<String, String>,
    /// What arrived of uploads that are open.
    sessions: BTreeMap<u64, Vec<u8>>,
    opened: u64,
}

impl Kept {
    /// Tells whether everything that a document names is there.
    pub fn is_whole(&self, digest: &str) -> bool {
        let bytes = self.documents.get(digest);
        bytes.is_some_and(|bytes| self.lacking(bytes).is_none())
    }

    /// Finds the first blob that a manifest names and that is not there.
    fn lacking(&self, manifest: &[u8]) -> Option<String> {
        let manifest: Value = serde_json::from_slice(manifest).unwrap_or_default();
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        let named = layers.iter().chain(manifest.get("config"));
        let mut digests = named.filter_map(|one| one["digest"].as_str());
        digests
            .find(|digest| !self.blobs.contains_key(*digest))
            .map(str::to_owned)
    }
}

/// Tells which step of a push a request is.
pub(super) fn place_of(method: &str, target: &str) -> Place {
    let is_upload = target.contains("/blobs/uploads/");
    match method {
        "HEAD" | "GET" if target.contains("/manifests/") => Place::Everywhere,
        "HEAD" => Place::Look,
        "POST" if target.contains("mount=") => Place::Mount,
        "POST" => Place::Open,
        "PATCH" => Place::Part,
        "GET" if is_upload => Place::Standing,
        "PUT" if is_upload => Place::Close,
        "PUT" => Place::Publish,
        _ => Place::Everywhere,
    }
}

impl Uploads {
    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a request wants, and returns what a good registry answers. `manner` is how it tells how
    /// far an upload is, and `image` what it may take over from its other repository.
    pub(super) fn good(
        &self,
        (method, target): (&str, &str),
        request: &Message,
        manner: Ranges,
        image: &OddImage,
    ) -> Good {
        let mut kept = self.kept();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let name = path.rsplit('/').next().unwrap_or_default();
        let asked = |key: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let found = pairs.find(|(name, _)| *name == key);
            found.map(|(_, value)| value.replace("%3A", ":"))
        };
        match place_of(method, target) {
            Place::Look => match kept.blobs.get(name) {
                Some(bytes) => Good::new(200, bytes.clone()),
                None => refused(404, "BLOB_UNKNOWN"),
            },
            Place::Mount => {
                let digest = asked("mount").unwrap_or_default();
                match image.blob(&digest) {
                    Some(bytes) => {
                        kept.blobs.insert(digest, bytes.clone());
                        Good::new(201, "")
                    }
                    None => kept.open(),
                }
            }
            Place::Open => kept.open(),
            Place::Publish => kept.publish(name, &request.body),
            Place::Part | Place::Standing | Place::Close => {
                let id = name.parse().unwrap_or_default();
                let Some(held) = kept.sessions.get(&id).map(Vec::len) else {
                    return refused(404, "BLOB_UPLOAD_UNKNOWN");
                };
                match place_of(method, target) {
                    Place::Standing => Kept::told(id, held, 204, manner),
                    // Whoever follows an older Location would write somewhere else.
                    _ if asked("_state") != Some(held.to_string()) => {
                        refused(416, "BLOB_UPLOAD_INVALID")
                    }
                    Place::Part => kept.part(id, request, manner),
                    _ => kept.close(id, &request.body, &asked("digest").unwrap_or_default()),
                }
            }
            _ if target.contains("/manifests/") => {
                let digest = kept.tags.get(name).map_or(name, String::as_str);
                match kept.documents.get(digest) {
                    None => refused(404, "MANIFEST_UNKNOWN"),
                    Some(bytes) => {
                        Good::new(200, bytes.clone()).with("docker-content-digest", digest)
                    }
                }
            }
            _ if method == "DELETE" => {
                kept.sessions.remove(&name.parse().unwrap_or_default());
                Good::new(204, "")
            }
            _ => refused(404, "UNSUPPORTED"),
        }
    }
}

impl Kept {
    fn open(&mut self) -> Good {
        self.opened += 1;
        self.sessions.insert(self.opened, Vec::new());
        Self::told(self.opened, 0, 202, Ranges::Good)
    }

    /// Tells how far an upload is.
    fn told(id: u64, held: usize, status: u16, manner: Ranges) -> Good {
        let location = format!("/v2/{REPOSITORY}/blobs/uploads/{id}?_state={held}");
        let last = match manner {
            Ranges::Unsaid => return Good::new(status, "").with("location", &location),
            Ranges::Refused => return refused(404, "BLOB_UPLOAD_UNKNOWN"),
            Ranges::Lying => held + (1 << 40),
            Ranges::Elsewhere => held / 2,
            Ranges::Good | Ranges::Ignored | Ranges::Creeping => held.saturating_sub(1),
        };
        Good::new(status, "")
            .with("location", &location)
            .with("range", &format!("0-{last}"))
    }

    fn part(&mut self, id: u64, request: &Message, manner: Ranges) -> Good {
        let held = self.sessions.entry(id).or_default();
        let range = request.field("content-range").unwrap_or_default();
        let first = range.split('-').next().and_then(|text| text.parse().ok());
        if first.is_some_and(|first: usize| first != held.len()) {
            return refused(416, "RANGE_INVALID");
        }
        let creeps = manner == Ranges::Creeping;
        let taken = request.body.get(..1).filter(|_| creeps);
        held.extend_from_slice(taken.unwrap_or(&request.body));
        Self::told(id, held.len(), 202, Ranges::Good)
    }

    fn close(&mut self, id: u64, rest: &[u8], digest: &str) -> Good {
        let mut bytes = self.sessions.remove(&id).unwrap_or_default();
        bytes.extend_from_slice(rest);
        if digest_of(&bytes) != digest {
            return refused(400, "DIGEST_INVALID");
        }
        self.blobs.insert(digest.to_owned(), bytes);
        Good::new(201, "").with("docker-content-digest", digest)
    }

    fn publish(&mut self, name: &str, bytes: &[u8]) -> Good {
        let digest = digest_of(bytes);
        if name.contains(':') && name != digest {
            return refused(400, "DIGEST_INVALID");
        }
        if self.lacking(bytes).is_some() {
            return refused(404, "MANIFEST_BLOB_UNKNOWN");
        }
        self.documents.insert(digest.clone(), bytes.to_vec());
        if !name.contains(':') {
            self.tags.insert(name.to_owned(), digest.clone());
        }
        Good::new(201, "").with("docker-content-digest", &digest)
    }
}

fn refused(status: u16, code: &str) -> Good {
    Good::json(status, format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#))
}
