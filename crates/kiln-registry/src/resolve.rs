//! From a source and a platform to one image: manifest, config and layers, all checked.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use kiln_domain::oci::{
    Descriptor, Document, DocumentError, ImageConfig, Index, LayerCompression, Manifest,
    PlatformNotFound, StatedMediaTypes,
};
use kiln_domain::{Digest, Platform, Reference};

use crate::client::{Fetched, MAX_DOCUMENT_BYTES};
use crate::error::FetchError;
use crate::source::ImageSource;

/// How deep indexes may lie in each other.
pub(crate) const MAX_DEPTH: usize = 4;

/// Most documents fetched to find one image.
pub(crate) const MAX_DOCUMENTS: usize = 64;

/// One image of one platform, ready to have its layers fetched.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The image's reference, pinned to the manifest's digest, where the source is a registry.
    pub reference: Option<Reference>,
    /// The document the tag points at, when that is an index.
    pub index_digest: Option<Digest>,
    /// The manifest's digest.
    pub manifest_digest: Digest,
    /// The manifest as it was sent.
    pub manifest_bytes: Bytes,
    /// The manifest.
    pub manifest: Manifest,
    /// The config as it was sent; its digest and size are in the manifest.
    pub config_bytes: Bytes,
    /// The config.
    pub config: ImageConfig,
    /// What the image is for, in the config's own words as far as it has any.
    pub platform: Platform,
    /// The layers, bottom first.
    pub layers: Vec<Layer>,
}

/// A layer and what its content must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The compressed blob.
    pub descriptor: Descriptor,
    /// How it is compressed.
    pub compression: LayerCompression,
    /// The digest of the plain tar.
    pub diff_id: Digest,
}

/// A config on its way.
pub type ConfigFuture<'a> = Pin<Box<dyn Future<Output = Result<Bytes, FetchError>> + Send + 'a>>;

/// Where configs come from: a caller that keeps them need not fetch one twice.
pub trait Configs: fmt::Debug + Send + Sync {
    /// Gives the bytes of a config, whose digest and size are those of `descriptor`; from
    /// `source` where they are not at hand.
    fn config<'a>(
        &'a self,
        source: &'a ImageSource,
        descriptor: &'a Descriptor,
    ) -> ConfigFuture<'a>;
}

/// Configs straight from the source.
#[derive(Debug)]
struct Fresh;

impl Configs for Fresh {
    fn config<'a>(
        &'a self,
        source: &'a ImageSource,
        descriptor: &'a Descriptor,
    ) -> ConfigFuture<'a> {
        Box::pin(async move { Ok(source.small_blob(descriptor).await?.bytes) })
    }
}

/// A document that still has to be looked at.
struct Candidate {
    descriptor: Descriptor,
    depth: usize,
}

/// Finds the image for `wanted` in `source` and fetches its manifest and config.
///
/// Indexes are walked four deep at most, and no more than 64 documents are fetched. When an index
/// names platforms, its best match counts; documents without a platform are opened in order
/// until one fits.
pub async fn resolve(source: &ImageSource, wanted: Platform) -> Result<Resolved, FetchError> {
    resolve_with(source, wanted, &Fresh).await
}

/// Does what [`resolve`] does, with configs from `configs`.
pub async fn resolve_with(
    source: &ImageSource,
    wanted: Platform,
    configs: &dyn Configs,
) -> Result<Resolved, FetchError> {
    let root = source.root().await?;
    let mut search = Search {
        source,
        configs,
        wanted,
        queue: VecDeque::new(),
        documents: 1,
        available: Vec::new(),
    };
    let stated = root.descriptor.as_ref();
    let is_named = stated.is_some_and(|descriptor| descriptor.platform.is_some());
    match search.parse(&root.fetched, stated)? {
        Document::Manifest(manifest) => {
            match search.image(root.fetched, manifest, is_named).await? {
                Some(resolved) => Ok(resolved),
                None => Err(search.not_found()),
            }
        }
        Document::Index(index) => {
            let mut resolved = search.walk(&index).await?;
            resolved.index_digest = Some(root.fetched.digest);
            Ok(resolved)
        }
    }
}

struct Search<'a> {
    source: &'a ImageSource,
    configs: &'a dyn Configs,
    wanted: Platform,
    queue: VecDeque<Candidate>,
    documents: usize,
    available: Vec<String>,
}

impl Search<'_> {
    async fn walk(&mut self, root: &Index) -> Result<Resolved, FetchError> {
        self.enqueue(root, 1);
        while let Some(candidate) = self.queue.pop_front() {
            self.documents += 1;
            if self.documents > MAX_DOCUMENTS {
                return Err(self.too_nested(MAX_DOCUMENTS, "manifests"));
            }
            let descriptor = &candidate.descriptor;
            let fetched = self.source.manifest(descriptor).await?;
            match self.parse(&fetched, Some(descriptor))? {
                Document::Index(_) if candidate.depth >= MAX_DEPTH => {
                    return Err(self.too_nested(MAX_DEPTH, "levels of indexes"));
                }
                Document::Index(index) => self.enqueue(&index, candidate.depth + 1),
                Document::Manifest(manifest) => {
                    let is_named = descriptor.platform.is_some();
                    if let Some(resolved) = self.image(fetched, manifest, is_named).await? {
                        return Ok(resolved);
                    }
                }
            }
        }
        Err(self.not_found())
    }

    /// Puts what may fit at the front: nested indexes are walked before their neighbours.
    fn enqueue(&mut self, index: &Index, depth: usize) {
        self.available.extend(index.available());
        for descriptor in index.candidates(self.wanted).into_iter().rev() {
            self.queue.push_front(Candidate {
                descriptor: descriptor.clone(),
                depth,
            });
        }
    }

    fn parse(
        &self,
        fetched: &Fetched,
        descriptor: Option<&Descriptor>,
    ) -> Result<Document, FetchError> {
        let stated = StatedMediaTypes {
            response: fetched.media_type.as_deref(),
            descriptor: descriptor.map(|descriptor| descriptor.media_type.as_str()),
        };
        Document::parse(&fetched.bytes, stated, MAX_DOCUMENT_BYTES)
            .map_err(|source| self.refused(fetched.digest, source))
    }

    /// Completes an image, or returns nothing when it is for another platform. What an index
    /// said about the platform is believed as far as the variant goes: configs often lack it.
    async fn image(
        &mut self,
        fetched: Fetched,
        manifest: Manifest,
        is_named: bool,
    ) -> Result<Option<Resolved>, FetchError> {
        let refused = |error| self.refused(fetched.digest, error);
        let compressions = manifest.compressions()?;
        let config = self.configs.config(self.source, &manifest.config).await?;
        let parsed = ImageConfig::parse(&config, manifest.layers.len(), MAX_DOCUMENT_BYTES)
            .map_err(refused)?;
        let fits = |platform: &Platform| {
            self.wanted.runs(*platform)
                || (is_named && platform.architecture() == self.wanted.architecture())
        };
        let Some(platform) = parsed.platform().ok().filter(fits) else {
            self.available.push(parsed.platform.to_string());
            return Ok(None);
        };
        let layers = manifest
            .layers
            .iter()
            .zip(compressions)
            .zip(parsed.diff_ids())
            .map(|((descriptor, compression), diff_id)| Layer {
                descriptor: descriptor.clone(),
                compression,
                diff_id: *diff_id,
            })
            .collect();
        let reference = self.source.reference();
        Ok(Some(Resolved {
            reference: reference.map(|reference| reference.with_digest(fetched.digest)),
            index_digest: None,
            manifest_digest: fetched.digest,
            manifest_bytes: fetched.bytes,
            manifest,
            config_bytes: config,
            config: parsed,
            platform,
            layers,
        }))
    }

    fn refused(&self, digest: Digest, source: DocumentError) -> FetchError {
        FetchError::Document {
            document: self.name(digest),
            source,
        }
    }

    fn name(&self, digest: Digest) -> String {
        match self.source.reference() {
            Some(reference) => reference.with_digest(digest).to_string(),
            None => digest.to_string(),
        }
    }

    fn too_nested(&self, limit: usize, of_what: &'static str) -> FetchError {
        FetchError::TooNested {
            reference: self
                .source
                .reference()
                .map_or_else(|| "the image".to_owned(), ToString::to_string),
            limit,
            of_what,
        }
    }

    fn not_found(&mut self) -> FetchError {
        let mut available = std::mem::take(&mut self.available);
        available.dedup();
        available.truncate(64);
        PlatformNotFound {
            wanted: self.wanted,
            available,
        }
        .into()
    }
}

#[cfg(test)]
mod tests;
