//! Deleting from a registry: manifests with all their tags, and single tags.
//!
//! ```text
//! DELETE manifests/<digest>   the manifest and every tag of it: all registries that delete
//! DELETE manifests/<tag>      the tag alone: OCI distribution spec 1.1; distribution 2 says 400
//! ```
//! Where the second is not known, a tag is first moved to a manifest that nothing else names, which
//! is then deleted with it.
//!
//! Not here: what may be deleted. Blobs and referrers stay; the registry's own garbage collection
//! frees what nothing names.

use bytes::Bytes;
use kiln_domain::oci::{Descriptor, DocumentType};
use kiln_domain::{Digest, Reference};
use reqwest::{Method, StatusCode};

use crate::browse::BrowseError;
use crate::client::{Fetched, Registry, failure};
use crate::content::Content;
use crate::error::FetchError;
use crate::scope::Scope;
use crate::transport::{Answer, Ask};

/// Most tags whose digests are asked for to find those of one manifest.
const MAX_TAGS: usize = 5_000;

/// The media type of a config that says nothing (OCI image spec, "Guidance for an Empty
/// Descriptor").
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";

/// What it holds.
const EMPTY: &[u8] = b"{}";

/// How a tag was taken off a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untagged {
    /// The registry deleted it.
    ByRegistry,
    /// It was moved to a manifest of its own, which was deleted.
    ByReplacement,
}

/// What a registry said to a deletion.
enum Deletion {
    Done,
    Absent(FetchError),
    NotOffered(FetchError),
}

impl Registry {
    /// Lists the tags of the repository of `reference` that name `digest`.
    ///
    /// Every tag is asked for with HEAD; more than 5,000 are too many to ask.
    pub async fn tags_of(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Vec<String>, FetchError> {
        let mut found = Vec::new();
        let mut seen = 0;
        let mut after = None;
        let mut turning = self.turning();
        loop {
            let page = self.tags(reference, Some(1_000), after.as_ref()).await?;
            for tag in page.items {
                seen += 1;
                if seen > MAX_TAGS {
                    return Err(BrowseError::TooManyTags {
                        repository: format!("{}/{}", reference.registry(), reference.repository()),
                        limit: MAX_TAGS,
                    }
                    .into());
                }
                // What is no tag by the grammar cannot be asked for, nor be a tag of anything.
                let Ok(at) = reference.with_tag(&tag) else {
                    continue;
                };
                if self.digest_of(&at).await? == Some(*digest) {
                    found.push(tag);
                }
            }
            after = turning.on(page.next)?;
            if after.is_none() {
                return Ok(found);
            }
        }
    }

    /// Finds the digest of a tag, from the manifest itself where the registry does not tell.
    async fn digest_of(&self, reference: &Reference) -> Result<Option<Digest>, FetchError> {
        if let Some(digest) = self.manifest_digest(reference).await? {
            return Ok(Some(digest));
        }
        match self.manifest(reference).await {
            Ok(fetched) => Ok(Some(fetched.digest)),
            Err(FetchError::ReferenceNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes the manifest of this digest from the repository of `reference`, and every tag of
    /// it.
    pub async fn delete_manifest(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<(), FetchError> {
        match self.delete(reference, &digest.to_string()).await? {
            Deletion::Done => Ok(()),
            Deletion::Absent(error) | Deletion::NotOffered(error) => Err(error),
        }
    }

    /// Takes the tag of `reference` off `tagged`, which it names, and leaves the manifest.
    ///
    /// `unique` makes the manifest that stands in for it, where one is needed, one of a kind. If
    /// that cannot be deleted, the tag is put back. Dropping the future stops nothing: the tag would
    /// be left on the stand-in.
    pub async fn untag(
        &self,
        reference: &Reference,
        tagged: &Fetched,
        unique: &str,
    ) -> Result<Untagged, FetchError> {
        let registry = self.clone();
        let (reference, tagged) = (reference.clone(), tagged.clone());
        let unique = unique.to_owned();
        let work = async move { registry.untag_here(&reference, &tagged, &unique).await };
        match tokio::spawn(work).await {
            Ok(done) => done,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            // The runtime ends, and we with it.
            Err(_) => std::future::pending().await,
        }
    }

    async fn untag_here(
        &self,
        reference: &Reference,
        tagged: &Fetched,
        unique: &str,
    ) -> Result<Untagged, FetchError> {
        let tag = reference.tag().unwrap_or_default();
        match self.delete(reference, tag).await? {
            Deletion::Done => return Ok(Untagged::ByRegistry),
            Deletion::Absent(error) => return Err(error),
            Deletion::NotOffered(_) => {}
        }
        let (media_type, stand_in) = stand_in(unique);
        let digest = Digest::of(&stand_in);
        // Asked first, about what cannot be there: a registry that deletes nothing would keep the
        // stand-in under the tag for ever.
        match self.delete(reference, &digest.to_string()).await? {
            Deletion::NotOffered(error) => return Err(error),
            Deletion::Absent(_) | Deletion::Done => {}
        }
        let empty = Descriptor::new(EMPTY_TYPE, Digest::of(EMPTY), EMPTY.len() as u64);
        let content = Content::bytes(Bytes::from_static(EMPTY));
        self.push_blob(reference, &empty, content, None).await?;
        // Registries know no condition for this: somebody may still come in between.
        if self.digest_of(reference).await? != Some(tagged.digest) {
            return Err(BrowseError::TagMoved {
                reference: reference.to_string(),
                digest: tagged.digest,
            }
            .into());
        }
        self.push_manifest(reference, media_type, &stand_in).await?;
        if let Err(error) = self.delete_manifest(reference, &digest).await {
            let media_type = tagged.media_type.as_deref().unwrap_or(media_type);
            let putting_back = self.push_manifest(reference, media_type, &tagged.bytes);
            return Err(match putting_back.await {
                Ok(_) => error,
                Err(put_back) => BrowseError::TagLost {
                    reference: reference.to_string(),
                    digest: tagged.digest,
                    deletion: Box::new(error),
                    put_back: Box::new(put_back),
                }
                .into(),
            });
        }
        Ok(Untagged::ByReplacement)
    }

    /// Asks once: whether a deletion whose answer was lost has happened, a second one would not
    /// tell.
    async fn delete(&self, reference: &Reference, wanted: &str) -> Result<Deletion, FetchError> {
        let repository = reference.repository();
        let scope = Scope::Delete(repository);
        let ask = Ask::with(&Method::DELETE, "an answer to a deletion");
        let path = format!("{repository}/manifests/{wanted}");
        let answer = self.ask(scope, &path, ask).await?;
        match answer.response.status() {
            StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(Deletion::Done),
            StatusCode::NOT_FOUND => {
                let (message, _) = self.said(answer).await;
                let separator = if wanted.contains(':') { '@' } else { ':' };
                let place = format!("{}/{repository}", reference.registry());
                Ok(Deletion::Absent(FetchError::ReferenceNotFound {
                    reference: format!("{place}{separator}{wanted}"),
                    message,
                }))
            }
            // Distribution 2 takes a tag for a broken digest; others know no such request.
            StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => {
                let (message, _) = self.said(answer).await;
                Ok(Deletion::NotOffered(
                    BrowseError::NotOffered {
                        host: self.host().to_owned(),
                        what: "deletion",
                        message,
                    }
                    .into(),
                ))
            }
            _ => {
                self.expect(StatusCode::ACCEPTED, answer, scope).await?;
                Ok(Deletion::Done)
            }
        }
    }

    async fn said(&self, answer: Answer) -> (crate::text::ServerText, FetchError) {
        failure(self.transport(), &answer.host, answer.response).await
    }
}

/// Makes a manifest that nobody else has.
fn stand_in(unique: &str) -> (&'static str, Bytes) {
    let media_type = DocumentType::OciManifest.as_str();
    let config = Descriptor::new(EMPTY_TYPE, Digest::of(EMPTY), EMPTY.len() as u64);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "artifactType": EMPTY_TYPE,
        "config": config,
        "layers": [config],
        "annotations": {"org.opencontainers.image.description": format!("untagged {unique}")},
    });
    (media_type, manifest.to_string().into())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::testing::{Asked, OCI_MANIFEST, Reply, Server, manifest};

    /// A registry that deletes as `deletes` says; what was put last is under the tag.
    async fn serving(
        deletes: impl Fn(&str) -> u16 + Send + Sync + 'static,
    ) -> (Server, Arc<Mutex<Vec<String>>>) {
        let puts = Arc::new(Mutex::new(Vec::new()));
        let seen = puts.clone();
        let server = Server::start(move |asked: &Asked, _| {
            let name = asked.target.rsplit('/').next().unwrap_or_default();
            match asked.method.as_str() {
                "DELETE" => Reply::status(deletes(name)),
                "PUT" => {
                    seen.lock().unwrap().push(asked.body.clone());
                    Reply::status(201)
                }
                "HEAD" if name == "1" => Reply::ok(manifest())
                    .with(
                        "docker-content-digest",
                        &Digest::of(manifest().as_bytes()).to_string(),
                    )
                    .cut_after(0),
                // The empty config is there.
                "HEAD" => Reply::ok("{}"),
                _ => Reply::ok(manifest()).with("content-type", OCI_MANIFEST),
            }
        })
        .await;
        (server, puts)
    }

    async fn untag(server: &Server) -> Result<Untagged, String> {
        let registry = server.registry(None);
        let reference = server.reference();
        let tagged = registry.manifest(&reference).await.unwrap();
        let done = registry.untag(&reference, &tagged, "one of a kind").await;
        done.map_err(|error| {
            let name = format!("{error:?}");
            let name = name.strip_prefix("Browse(").unwrap_or(&name);
            name.split([' ', '(', '{']).next().unwrap().to_owned()
        })
    }

    fn deleted(server: &Server) -> Vec<String> {
        let asked = server.asked().into_iter();
        let deletions = asked.filter(|asked| asked.method == "DELETE");
        deletions.map(|asked| asked.target).collect()
    }

    #[tokio::test]
    async fn a_registry_that_deletes_tags_does_it_by_itself() {
        let (server, puts) = serving(|_| 202).await;

        assert_eq!(untag(&server).await, Ok(Untagged::ByRegistry));

        assert_eq!(deleted(&server), ["/v2/app/manifests/1"]);
        assert_eq!(*puts.lock().unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn elsewhere_the_tag_goes_with_a_manifest_of_its_own() {
        let (server, puts) = serving(|name| if name == "1" { 400 } else { 202 }).await;

        assert_eq!(untag(&server).await, Ok(Untagged::ByReplacement));

        let (_, stand_in) = stand_in("one of a kind");
        let digest = Digest::of(&stand_in);
        let own = format!("/v2/app/manifests/{digest}");
        assert_eq!(deleted(&server), ["/v2/app/manifests/1", &own, &own]);
        let put = puts.lock().unwrap();
        assert_eq!(put.len(), 1);
        assert_eq!(put[0].as_bytes(), stand_in);
    }

    #[tokio::test]
    async fn a_registry_that_deletes_nothing_keeps_the_tag_as_it_is() {
        let (server, puts) = serving(|_| 405).await;

        assert_eq!(untag(&server).await, Err("NotOffered".to_owned()));

        assert_eq!(*puts.lock().unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_stand_in_that_cannot_be_deleted_gives_the_tag_back() {
        let deletions = Mutex::new(0);
        let (server, puts) = serving(move |_| {
            let mut count = deletions.lock().unwrap();
            *count += 1;
            [400, 404, 500][*count - 1]
        })
        .await;

        assert_eq!(untag(&server).await, Err("ServerError".to_owned()));

        let put = puts.lock().unwrap();
        assert_eq!(put.len(), 2);
        assert_eq!(put[1], manifest());
    }

    #[tokio::test]
    async fn a_tag_that_cannot_be_put_back_is_told_with_both_reasons() {
        let server = Server::start(|asked: &Asked, before| {
            let name = asked.target.rsplit('/').next().unwrap_or_default();
            match asked.method.as_str() {
                "DELETE" if name == "1" => Reply::status(400),
                "DELETE" if before == 0 => Reply::status(404),
                "DELETE" => Reply::status(500),
                "PUT" if asked.body == manifest() => Reply::status(403),
                "PUT" => Reply::status(201),
                "HEAD" if name != "1" => Reply::ok("{}"),
                "HEAD" => Reply::ok("").with(
                    "docker-content-digest",
                    &Digest::of(manifest().as_bytes()).to_string(),
                ),
                _ => Reply::ok(manifest()).with("content-type", OCI_MANIFEST),
            }
        })
        .await;
        let (registry, reference) = (server.registry(None), server.reference());
        let tagged = registry.manifest(&reference).await.unwrap();

        let error = registry
            .untag(&reference, &tagged, "one")
            .await
            .unwrap_err();

        let FetchError::Browse(BrowseError::TagLost {
            deletion, put_back, ..
        }) = error
        else {
            panic!("{error:?}");
        };
        assert!(matches!(*deletion, FetchError::ServerError { .. }));
        assert!(!matches!(*put_back, FetchError::ServerError { .. }));
    }

    #[tokio::test]
    async fn a_tag_that_somebody_moves_meanwhile_is_left_alone() {
        let (server, puts) = serving(|name| if name == "1" { 400 } else { 404 }).await;
        let (registry, reference) = (server.registry(None), server.reference());
        let mut tagged = registry.manifest(&reference).await.unwrap();
        tagged.digest = Digest::of(b"what it was before");

        let error = registry
            .untag(&reference, &tagged, "one")
            .await
            .unwrap_err();

        assert!(
            matches!(error, FetchError::Browse(BrowseError::TagMoved { .. })),
            "{error:?}"
        );
        assert_eq!(*puts.lock().unwrap(), Vec::<String>::new());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn who_hangs_up_leaves_no_tag_half_taken_off() {
        let (put, is_put) = tokio::sync::watch::channel(false);
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let gone = Mutex::new(gone);
        let (finished, mut is_finished) = tokio::sync::watch::channel(false);
        let (server, _) = serving(move |name| {
            if name == "1" {
                return 400;
            }
            // The first deletion asks whether there are any; the second is of the stand-in.
            if !put.send_replace(true) {
                let waiting = gone.lock().unwrap();
                waiting
                    .recv_timeout(std::time::Duration::from_secs(10))
                    .ok();
                return 404;
            }
            finished.send_replace(true);
            202
        })
        .await;
        let (registry, reference) = (server.registry(None), server.reference());
        let tagged = registry.manifest(&reference).await.unwrap();
        let mut is_put = is_put;

        let caller = tokio::spawn(async move {
            registry
                .untag(&reference, &tagged, "one of a kind")
                .await
                .map(drop)
        });
        is_put.wait_for(|is_put| *is_put).await.unwrap();
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        go.send(()).unwrap();

        let limit = std::time::Duration::from_secs(10);
        let done = tokio::time::timeout(limit, is_finished.wait_for(|done| *done)).await;
        done.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_is_not_there_is_said_so() {
        let (server, _) = serving(|_| 404).await;
        let registry = server.registry(None);
        let reference = server.reference();
        let digest = Digest::of(b"x");

        let error = registry.delete_manifest(&reference, &digest).await;

        let text = error.unwrap_err().to_string();
        let want = format!("{}/app@{digest} does not exist", server.authority());
        assert_eq!(text, want);
        assert_eq!(untag(&server).await, Err("ReferenceNotFound".to_owned()));
    }
}
