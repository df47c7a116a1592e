//! What refers to an image: signatures, lists of contents, attestations.
//!
//! Registries of the distribution specification 1.1 answer with an index. Where one does not know
//! the request, whoever pushes a referrer keeps that index under a tag made of the digest ("Referrers
//! Tag Schema").

use kiln_domain::oci::{Descriptor, Document, DocumentType, StatedMediaTypes};
use kiln_domain::{Digest, Reference};
use reqwest::StatusCode;
use reqwest::header::HeaderName;

use super::error::BrowseError;
use super::page::{Cursor, Page, cut, with_query};
use crate::client::{MAX_DOCUMENT_BYTES, Registry};
use crate::error::FetchError;
use crate::retry::Attempts;
use crate::scope::Scope;
use crate::transport::{Answer, Ask};

/// Says which filters a registry has applied.
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

const WHAT: &str = "a list of referrers";

/// Who keeps a list of referrers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferrersKept {
    /// The registry itself.
    ByRegistry,
    /// A tag made of the digest, which clients look after.
    UnderTag,
}

/// What refers to one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrers {
    /// Their manifests.
    pub page: Page<Descriptor>,
    /// Where the list is kept.
    pub kept: ReferrersKept,
}

impl Registry {
    /// Lists what refers to `subject` in the repository of `reference`, of one kind of artifact
    /// where `artifact_type` is given: at most `limit` where one is given, from `after` on.
    ///
    /// A page may be shorter than asked for and still have a next one, where the registry leaves
    /// filtering to us.
    pub async fn referrers(
        &self,
        reference: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
        limit: Option<u32>,
        after: Option<&Cursor>,
    ) -> Result<Referrers, FetchError> {
        let search = Search {
            reference,
            subject,
            artifact_type,
        };
        let mut attempts = Attempts::default();
        loop {
            let asking = Box::pin(self.referrers_once(&search, limit, after));
            match attempts.attempt(self.transport(), WHAT, asking).await {
                Ok(referrers) => return Ok(referrers),
                Err(error) => attempts.wait_after(error, self.config()).await?,
            }
        }
    }

    async fn referrers_once(
        &self,
        search: &Search<'_>,
        limit: Option<u32>,
        after: Option<&Cursor>,
    ) -> Result<Referrers, FetchError> {
        let query = match after.and_then(Cursor::query) {
            Some(query) => Some(query.to_owned()),
            None => search.query(),
        };
        let repository = search.reference.repository();
        let path = format!("{repository}/referrers/{}", search.subject);
        let ask = Ask {
            accept: Some(DocumentType::OciIndex.as_str()),
            ..Ask::get(WHAT)
        };
        let scope = Scope::Pull(repository);
        let path = with_query(&path, query.as_deref());
        let answer = self.ask(scope, &path, ask).await?;
        let unknown = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
        if unknown.contains(&answer.response.status()) {
            drop(answer);
            let found = self.referrers_under_tag(search).await?;
            return Ok(Referrers {
                page: cut(found, |entry| entry.digest, limit, after, None, None),
                kept: ReferrersKept::UnderTag,
            });
        }
        let answer = self.expect(StatusCode::OK, answer, scope).await?;
        let is_filtered = applied_filters(&answer).any(|filter| filter == "artifactType");
        let next = self.next_page(&answer, query.as_deref())?;
        let bytes = self.read_list(answer, WHAT).await?;
        let mut found = self.entries(&bytes)?;
        if !is_filtered {
            search.keep_wanted(&mut found);
        }
        Ok(Referrers {
            page: cut(found, |entry| entry.digest, limit, after, query, next),
            kept: ReferrersKept::ByRegistry,
        })
    }

    /// Reads the index that clients keep where the registry does not.
    async fn referrers_under_tag(
        &self,
        search: &Search<'_>,
    ) -> Result<Vec<Descriptor>, FetchError> {
        let at = search.reference.referrers_tag(search.subject);
        let fetched = match self.manifest(&at).await {
            Ok(fetched) => fetched,
            Err(FetchError::ReferenceNotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = self.entries(&fetched.bytes)?;
        search.keep_wanted(&mut found);
        Ok(found)
    }

    fn entries(&self, bytes: &[u8]) -> Result<Vec<Descriptor>, FetchError> {
        match Document::parse_any(bytes, StatedMediaTypes::default(), MAX_DOCUMENT_BYTES) {
            Ok(Document::Index(index)) => Ok(index.manifests),
            Ok(Document::Manifest(_)) => Err(BrowseError::AnswerMalformed {
                host: self.host().to_owned(),
                what: WHAT,
                problem: "it is a manifest, no index",
            }
            .into()),
            Err(source) => Err(FetchError::Document {
                document: WHAT.to_owned(),
                source,
            }),
        }
    }
}

struct Search<'a> {
    reference: &'a Reference,
    subject: &'a Digest,
    artifact_type: Option<&'a str>,
}

impl Search<'_> {
    fn query(&self) -> Option<String> {
        let artifact_type = self.artifact_type?;
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("artifactType", artifact_type);
        Some(query.finish())
    }

    fn keep_wanted(&self, found: &mut Vec<Descriptor>) {
        if let Some(wanted) = self.artifact_type {
            found.retain(|entry| entry.artifact_type.as_deref() == Some(wanted));
        }
    }
}

fn applied_filters(answer: &Answer) -> impl Iterator<Item = &str> {
    let headers = answer.response.headers().get_all(FILTERS_APPLIED);
    headers
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}
