//! Everything below a tag: its index, the manifests, and which blobs they name. What a copy sends.
//!
//! Not here: the blobs' bytes, and what a registry says refers to a manifest from outside.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use kiln_domain::oci::{Descriptor, Document, DocumentError, Manifest, StatedMediaTypes};
use kiln_domain::{Digest, Platform};

use crate::artifact::{find_manifest, parse, too_nested};
use crate::client::{Fetched, MAX_DOCUMENT_BYTES};
use crate::error::FetchError;
use crate::resolve::MAX_DEPTH;
use crate::source::ImageSource;

/// Most manifests and indexes of one graph: an index of fifty platforms, each with an attestation,
/// has a hundred.
const MAX_DOCUMENTS: usize = 512;

/// Most bytes of all documents of one graph, which are held in memory.
const MAX_BYTES: usize = 64 << 20;

/// How much of an index is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breadth {
    /// All of it.
    Everything,
    /// The one manifest that fits.
    Platform(Platform),
}

/// Documents with what they name.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The one on top.
    pub root: Digest,
    /// All of them, what is named before what names it; the root is the last.
    pub documents: Vec<GraphDocument>,
    /// The blobs that manifests name, each once. Layers that no registry distributes are not
    /// among them.
    pub blobs: Vec<Descriptor>,
}

/// One manifest or index, byte for byte.
#[derive(Clone, Debug)]
pub struct GraphDocument {
    /// What its bytes hash to.
    pub digest: Digest,
    /// What it is.
    pub media_type: &'static str,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Graph {
    /// Takes a single manifest, of an image or of anything else, that is at hand.
    pub fn of_manifest(bytes: Bytes) -> Result<Self, FetchError> {
        let digest = Digest::of(&bytes);
        let fetched = Fetched {
            bytes,
            media_type: None,
            digest,
        };
        let stated = StatedMediaTypes::default();
        let refused = |source| FetchError::Document {
            document: digest.to_string(),
            source,
        };
        let document = Document::parse_any(&fetched.bytes, stated, MAX_DOCUMENT_BYTES);
        match document.map_err(refused)? {
            Document::Manifest(manifest) => {
                let mut growing = Growing::default();
                growing.add_manifest(fetched, &manifest);
                Ok(growing.finish(digest))
            }
            Document::Index(_) => Err(refused(DocumentError::Ambiguous {
                expected: "a manifest",
            })),
        }
    }

    /// Adds what another graph has and this one has not, in front of the root.
    pub fn absorb(&mut self, other: Self) {
        let known: HashSet<Digest> = self.documents.iter().map(|known| known.digest).collect();
        let fresh = other
            .documents
            .into_iter()
            .filter(|document| !known.contains(&document.digest));
        let at = self.documents.len().saturating_sub(1);
        self.documents.splice(at..at, fresh.collect::<Vec<_>>());
        let known: HashSet<Digest> = self.blobs.iter().map(|known| known.digest).collect();
        let fresh = other.blobs.into_iter();
        let fresh = fresh.filter(|blob| !known.contains(&blob.digest));
        self.blobs.extend(fresh.collect::<Vec<_>>());
    }

    /// Returns the size of all blobs, in bytes.
    pub fn blob_bytes(&self) -> u64 {
        self.blobs
            .iter()
            .fold(0, |sum: u64, blob| sum.saturating_add(blob.size_bytes))
    }

    /// Says whether a document is part of it.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.documents
            .iter()
            .any(|document| document.digest == *digest)
    }
}

/// Reads the documents of what `source` names. Their number, size and nesting are bounded.
pub async fn read_graph(source: &ImageSource, breadth: Breadth) -> Result<Graph, FetchError> {
    match breadth {
        Breadth::Platform(platform) => {
            let found = find_manifest(source, platform).await?;
            Graph::of_manifest(found.bytes)
        }
        Breadth::Everything => {
            let root = source.root().await?;
            let digest = root.fetched.digest;
            let mut growing = Growing::default();
            growing
                .visit(source, root.fetched, root.descriptor.as_ref(), 0)
                .await?;
            Ok(growing.finish(digest))
        }
    }
}

/// Adds to a graph of a layout everything in the layout that refers to one of its documents, and what
/// refers to that. Returns what was added, of which there is one more than `limit` at most.
pub async fn absorb_referrers(
    source: &ImageSource,
    graph: &mut Graph,
    limit: usize,
) -> Result<Vec<Descriptor>, FetchError> {
    let listed = source.referrers().await?;
    let mut added = Vec::new();
    let mut subjects: VecDeque<Digest> = graph.documents.iter().map(|one| one.digest).collect();
    while let Some(subject) = subjects.pop_front() {
        for referrer in listed.iter().filter(|one| one.subject == subject) {
            let descriptor = &referrer.descriptor;
            if graph.contains(&descriptor.digest) {
                continue;
            }
            added.push(descriptor.clone());
            if added.len() > limit {
                return Ok(added);
            }
            let fetched = source.manifest(descriptor).await?;
            let digest = fetched.digest;
            let mut growing = Growing::default();
            growing.visit(source, fetched, Some(descriptor), 0).await?;
            graph.absorb(growing.finish(digest));
            subjects.push_back(digest);
        }
    }
    Ok(added)
}

/// A graph that is being read.
#[derive(Default)]
struct Growing {
    documents: Vec<GraphDocument>,
    blobs: Vec<Descriptor>,
    seen: HashSet<Digest>,
    named: HashSet<Digest>,
    /// Documents that were begun: those whose children are being read count too.
    begun: usize,
    bytes: usize,
}

type Visit<'a> = Pin<Box<dyn Future<Output = Result<(), FetchError>> + Send + 'a>>;

impl Growing {
    /// Takes a document behind everything it names. A document cannot name itself: that would be
    /// a loop in SHA-256.
    fn visit<'a>(
        &'a mut self,
        source: &'a ImageSource,
        fetched: Fetched,
        stated: Option<&'a Descriptor>,
        depth: usize,
    ) -> Visit<'a> {
        Box::pin(async move {
            if self.seen.contains(&fetched.digest) {
                return Ok(());
            }
            self.begun += 1;
            self.bytes = self.bytes.saturating_add(fetched.bytes.len());
            if self.begun > MAX_DOCUMENTS || self.bytes > MAX_BYTES {
                return Err(too_nested(source, MAX_DOCUMENTS, "manifests"));
            }
            match parse(source, &fetched, stated)? {
                Document::Manifest(manifest) => self.add_manifest(fetched, &manifest),
                Document::Index(_) if depth >= MAX_DEPTH => {
                    return Err(too_nested(source, MAX_DEPTH, "levels of indexes"));
                }
                Document::Index(index) => {
                    for child in &index.manifests {
                        if self.seen.contains(&child.digest) {
                            continue;
                        }
                        let below = source.manifest(child).await?;
                        self.visit(source, below, Some(child), depth + 1).await?;
                    }
                    self.add(fetched, index.document_type.as_str());
                }
            }
            Ok(())
        })
    }

    fn add(&mut self, fetched: Fetched, media_type: &'static str) {
        self.seen.insert(fetched.digest);
        self.documents.push(GraphDocument {
            digest: fetched.digest,
            media_type,
            bytes: fetched.bytes,
        });
    }

    fn add_manifest(&mut self, fetched: Fetched, manifest: &Manifest) {
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            if is_distributed(blob) && self.named.insert(blob.digest) {
                self.blobs.push(blob.clone());
            }
        }
        self.add(fetched, manifest.document_type.as_str());
    }

    fn finish(self, root: Digest) -> Graph {
        Graph {
            root,
            documents: self.documents,
            blobs: self.blobs,
        }
    }
}

/// Layers with licences that forbid passing them on lie at their makers', not in registries (OCI
/// image spec, "Non-Distributable Layers").
fn is_distributed(blob: &Descriptor) -> bool {
    let name = blob.media_type.as_str();
    !name.contains(".nondistributable.") && !name.contains(".foreign.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Content, OCI_INDEX};

    /// Two platforms that share their config's text and an index of an index around one of them.
    fn content() -> (Content, Descriptor, [Descriptor; 2]) {
        let mut content = Content::default();
        let amd64 = content.image("linux/amd64", "one");
        let arm64 = content.image("linux/arm64", "two");
        let inner = content.index(&[(amd64.clone(), None)]);
        let root = content.index(&[
            (amd64.clone(), Some("linux/amd64")),
            (arm64.clone(), Some("linux/arm64")),
            (inner, None),
        ]);
        (content, root, [amd64, arm64])
    }

    #[tokio::test]
    async fn what_is_named_comes_before_what_names_it() {
        let (content, root, [amd64, arm64]) = content();
        let server = content.serve(&root).await;
        let source = ImageSource::Registry {
            registry: server.registry(None).into(),
            reference: server.reference(),
        };

        let graph = read_graph(&source, Breadth::Everything).await.unwrap();

        assert_eq!(graph.root, root.digest);
        let order: Vec<Digest> = graph.documents.iter().map(|one| one.digest).collect();
        assert_eq!(order[..2], [amd64.digest, arm64.digest]);
        assert_eq!(order.len(), 4);
        assert_eq!(order[3], root.digest);
        assert_eq!(graph.documents[3].media_type, OCI_INDEX);
        assert_eq!(graph.blobs.len(), 4, "two configs and two layers");
    }

    #[tokio::test]
    async fn one_platform_is_its_manifest_alone() {
        let (content, root, [_, arm64]) = content();
        let server = content.serve(&root).await;
        let source = ImageSource::Registry {
            registry: server.registry(None).into(),
            reference: server.reference(),
        };
        let breadth = Breadth::Platform("linux/arm64".parse().unwrap());

        let graph = read_graph(&source, breadth).await.unwrap();

        assert_eq!(graph.root, arm64.digest);
        assert_eq!((graph.documents.len(), graph.blobs.len()), (1, 2));
    }

    #[tokio::test]
    async fn indexes_lie_four_deep_at_most() {
        let mut content = Content::default();
        let mut root = content.image("linux/amd64", "deep");
        for _ in 0..6 {
            root = content.index(&[(root, None)]);
        }
        let server = content.serve(&root).await;
        let source = ImageSource::Registry {
            registry: server.registry(None).into(),
            reference: server.reference(),
        };

        let error = read_graph(&source, Breadth::Everything).await.unwrap_err();

        assert!(matches!(error, FetchError::TooNested { .. }), "{error:?}");
    }

    #[test]
    fn layers_that_no_registry_has_are_left_out() {
        let config = format!(
            r#"{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}}"#,
            Digest::of(b"{}")
        );
        let layer = |kind: &str| {
            let digest = Digest::of(kind.as_bytes());
            format!(
                r#"{{"mediaType":"application/vnd.{kind}","digest":"{digest}","size":2,"urls":["https://a.example/"]}}"#
            )
        };
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{},{},{}]}}"#,
            layer("docker.image.rootfs.foreign.diff.tar.gzip"),
            layer("oci.image.layer.nondistributable.v1.tar"),
            layer("oci.image.layer.v1.tar"),
        );

        let graph = Graph::of_manifest(manifest.into()).unwrap();

        assert_eq!(graph.blobs.len(), 2);
    }
}
