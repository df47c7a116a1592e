//! From a source to the manifest of any artifact for one platform.
//!
//! Not here: images, whose config and layers are checked with their manifest; see `resolve`.

use std::collections::VecDeque;

use bytes::Bytes;
use kiln_domain::oci::{Descriptor, Document, Manifest, PlatformNotFound, StatedMediaTypes};
use kiln_domain::{Digest, Platform};

use crate::client::{Fetched, MAX_DOCUMENT_BYTES};
use crate::error::FetchError;
use crate::resolve::{MAX_DEPTH, MAX_DOCUMENTS};
use crate::source::ImageSource;

/// A manifest that was found, of an image or of anything else.
#[derive(Clone, Debug)]
pub struct FoundManifest {
    /// Digest of its bytes.
    pub digest: Digest,
    /// How many they are.
    pub size_bytes: u64,
    /// What it says.
    pub manifest: Manifest,
    /// Its bytes.
    pub bytes: Bytes,
}

/// Finds the manifest for `wanted` in `source`: an index's best match, or its first manifest
/// where none names a platform. The limits are those of [`resolve`](crate::resolve).
pub async fn find_manifest(
    source: &ImageSource,
    wanted: Platform,
) -> Result<FoundManifest, FetchError> {
    let root = source.root().await?;
    let mut queue: VecDeque<(Descriptor, usize)> = VecDeque::new();
    let mut available = Vec::new();
    let (mut fetched, mut stated, mut depth) = (root.fetched, root.descriptor, 0);
    for _ in 0..MAX_DOCUMENTS {
        match parse(source, &fetched, stated.as_ref())? {
            Document::Manifest(manifest) => {
                return Ok(FoundManifest {
                    digest: fetched.digest,
                    size_bytes: fetched.bytes.len() as u64,
                    manifest,
                    bytes: fetched.bytes,
                });
            }
            Document::Index(_) if depth >= MAX_DEPTH => {
                return Err(too_nested(source, MAX_DEPTH, "levels of indexes"));
            }
            Document::Index(index) => {
                available.extend(index.available());
                for candidate in index.candidates(wanted).into_iter().rev() {
                    queue.push_front((candidate.clone(), depth + 1));
                }
            }
        }
        let Some((next, next_depth)) = queue.pop_front() else {
            return Err(PlatformNotFound { wanted, available }.into());
        };
        fetched = source.manifest(&next).await?;
        (stated, depth) = (Some(next), next_depth);
    }
    Err(too_nested(source, MAX_DOCUMENTS, "manifests"))
}

pub(crate) fn parse(
    source: &ImageSource,
    fetched: &Fetched,
    descriptor: Option<&Descriptor>,
) -> Result<Document, FetchError> {
    let stated = StatedMediaTypes {
        response: fetched.media_type.as_deref(),
        descriptor: descriptor.map(|descriptor| descriptor.media_type.as_str()),
    };
    Document::parse_any(&fetched.bytes, stated, MAX_DOCUMENT_BYTES).map_err(|error| {
        let digest = fetched.digest;
        FetchError::Document {
            document: match source.reference() {
                Some(reference) => reference.with_digest(digest).to_string(),
                None => digest.to_string(),
            },
            source: error,
        }
    })
}

pub(crate) fn too_nested(source: &ImageSource, limit: usize, of_what: &'static str) -> FetchError {
    FetchError::TooNested {
        reference: source
            .reference()
            .map_or_else(|| "the artifact".to_owned(), ToString::to_string),
        limit,
        of_what,
    }
}
