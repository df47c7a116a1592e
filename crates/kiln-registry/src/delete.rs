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
    /// that cannot be deleted, the tag is put back.
    pub async fn untag(
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
        self.push_manifest(reference, media_type, &stand_in).await?;
        if let Err(error) = self.delete_manifest(reference, &digest).await {
            let media_type = tagged.media_type.as_deref().unwrap_or(media_type);
            self.push_manifest(reference, media_type, &tagged.bytes)
                .await?;
            return Err(error);
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
