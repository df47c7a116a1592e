//! What is copied: the manifests, and which blobs they name; from a registry through the daemon, or
//! from this host.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::pin::Pin;

use kiln_api::registry::{
    Blob, BlobParams, Manifest, ManifestParams, ManifestView, Pointer, Referrers, ReferrersParams,
};
use kiln_api::{Failure, codes};
use kiln_client::Client;
use kiln_domain::oci::Descriptor;
use kiln_domain::{Digest, Platform, Reference, Source};
use kiln_registry::{
    BlobBody, Breadth, DockerArchive, FetchError, FileRange, ImageSource, Layout, OutgoingDocument,
    absorb_referrers, read_graph,
};

use super::super::Arguments;
use super::outcome::source_failure;
use crate::failure::CommandError;
use crate::reach::Reach;
use crate::session::Session;

/// How deep indexes may lie in each other.
const MAX_DEPTH: usize = 4;

/// Most manifests and indexes of one copy; the daemon's own copies have the same limit.
const MAX_DOCUMENTS: usize = 512;

/// Most referrers of one copy; the daemon's own copies have the same limit.
const MAX_REFERRERS: usize = 256;

/// Where it comes from.
pub(super) enum Origin {
    /// A registry; the daemon asks it.
    Registry {
        client: Box<Client>,
        reference: Reference,
        reach: Reach,
    },
    /// A layout, an archive or a directory of this host.
    Host(ImageSource),
}

/// The bytes of a blob.
pub(super) enum Body {
    /// A descriptor that the daemon gave.
    Taken(File),
    /// A part of a file of this host.
    Range(FileRange),
    /// A document.
    Document(Cursor<Vec<u8>>),
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Taken(file) => file.read(buffer),
            Self::Range(range) => range.read(buffer),
            Self::Document(bytes) => bytes.read(buffer),
        }
    }
}

/// Everything that is copied but the bytes of blobs.
pub(super) struct Content {
    /// The document on top.
    pub(super) root: OutgoingDocument,
    /// The others; what is named stands before what names it.
    pub(super) below: Vec<OutgoingDocument>,
    /// Each once.
    pub(super) blobs: Vec<Descriptor>,
    /// Those of the documents that refer to others.
    pub(super) referrers: Vec<Descriptor>,
}

/// How much is copied.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// One platform, or all of them.
    pub(super) platform: Option<Platform>,
    /// Whether what refers to it comes along.
    pub(super) has_referrers: bool,
}

impl Origin {
    /// Opens a source.
    pub(super) async fn open(
        source: &Source,
        arguments: &Arguments,
        session: &Session,
    ) -> Result<Self, CommandError> {
        if let Source::Registry(_) = source {
            let flags = arguments.source_flags();
            let caller = flags.caller(session)?;
            let client = Box::new(session.connect().await?);
            let (reference, reach) = caller.for_fetching(&arguments.from, &client).await?;
            return Ok(Self::Registry {
                client,
                reference,
                reach,
            });
        }
        let opened = open_local(source).map_err(|error| source_failure(&error))?;
        Ok(Self::Host(opened))
    }

    /// Opens a blob.
    pub(super) async fn blob(
        &self,
        blob: &Descriptor,
        session: &Session,
    ) -> Result<Body, CommandError> {
        match self {
            Self::Host(source) => match source.blob(blob, 0).await {
                Ok(BlobBody::File(range)) => Ok(Body::Range(range)),
                Ok(BlobBody::Stream(_)) => {
                    let text = "a place of this host gave a stream";
                    Err(CommandError::new(codes::daemon::INTERNAL, text))
                }
                // The config of an archive of Docker's is a document there.
                Err(FetchError::BlobNotFound { .. }) => {
                    let document = source.small_blob(blob).await;
                    let document = document.map_err(|error| source_failure(&error))?;
                    Ok(Body::Document(Cursor::new(document.bytes.to_vec())))
                }
                Err(error) => Err(source_failure(&error).into()),
            },
            Self::Registry {
                client,
                reference,
                reach,
            } => {
                let params = BlobParams {
                    reference: reference.with_digest(blob.digest).to_string(),
                    size_bytes: Some(blob.size_bytes),
                    credentials: reach.credentials.clone(),
                    mirror_credentials: reach.mirror_credentials.clone(),
                    tls_verify: reach.tls_verify,
                };
                let opened = session.call::<Blob>(client, &params).await?;
                let taken = client.files().take(&[opened.handle]).await?;
                taken.into_iter().next().map(Body::Taken).ok_or_else(|| {
                    let text = "the daemon gave no descriptor of a blob";
                    CommandError::new(codes::daemon::INTERNAL, text)
                })
            }
        }
    }
}

fn open_local(source: &Source) -> Result<ImageSource, FetchError> {
    let open = |path: &str| {
        File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FetchError::PathNotFound { path: path.into() },
            _ => FetchError::Io {
                step: "open",
                path: path.into(),
                source: error,
            },
        })
    };
    Ok(match source {
        Source::Registry(reference) => {
            return Err(FetchError::NotASource {
                path: reference.repository().into(),
                expected: "a place of this host",
            });
        }
        Source::OciLayout { path, tag } => {
            ImageSource::Layout(Layout::open_directory(Path::new(path), tag.as_deref())?)
        }
        Source::OciArchive { path, tag } => {
            let (file, path) = (open(path)?, Path::new(path));
            ImageSource::Layout(Layout::open_archive(file, path, tag.as_deref())?)
        }
        Source::DockerArchive { path, reference } => {
            let (file, path) = (open(path)?, Path::new(path));
            ImageSource::DockerArchive(DockerArchive::open(file, path, reference.as_ref())?)
        }
        Source::Directory { path } => {
            ImageSource::Layout(Layout::open_flat_directory(Path::new(path))?)
        }
    })
}

impl Content {
    /// Reads the manifests of one platform, or of all.
    pub(super) async fn read(
        from: &Origin,
        wanted: Wanted,
        session: &Session,
    ) -> Result<Self, CommandError> {
        let platform = wanted.platform;
        match from {
            Origin::Host(source) => {
                let breadth = platform.map_or(Breadth::Everything, Breadth::Platform);
                let graph = read_graph(source, breadth).await;
                let mut graph = graph.map_err(|error| source_failure(&error))?;
                let mut referrers = Vec::new();
                if wanted.has_referrers {
                    let added = absorb_referrers(source, &mut graph, MAX_REFERRERS).await;
                    referrers = added.map_err(|error| source_failure(&error))?;
                    refuse_many(&referrers)?;
                }
                let mut documents: Vec<OutgoingDocument> = graph
                    .documents
                    .into_iter()
                    .map(|document| OutgoingDocument {
                        descriptor: Descriptor::new(
                            document.media_type,
                            document.digest,
                            document.bytes.len() as u64,
                        ),
                        bytes: document.bytes,
                    })
                    .collect();
                let root = documents.pop().ok_or_else(malformed)?;
                Ok(Self {
                    root,
                    below: documents,
                    blobs: graph.blobs,
                    referrers,
                })
            }
            Origin::Registry {
                client,
                reference,
                reach,
            } => {
                let mut walk = Walk {
                    client,
                    reach,
                    session,
                    documents: Vec::new(),
                    blobs: Vec::new(),
                    seen: HashSet::new(),
                    begun: 0,
                };
                walk.visit(reference.clone(), platform, 0).await?;
                let root = walk.documents.pop().ok_or_else(malformed)?;
                let mut referrers = Vec::new();
                if wanted.has_referrers {
                    let top = root.descriptor.digest;
                    referrers = walk.visit_referrers(reference, top).await?;
                }
                Ok(Self {
                    root,
                    below: walk.documents,
                    blobs: walk.blobs,
                    referrers,
                })
            }
        }
    }
}

/// The manifests of a registry, as they are asked for one after the other.
struct Walk<'a> {
    client: &'a Client,
    reach: &'a Reach,
    session: &'a Session,
    documents: Vec<OutgoingDocument>,
    blobs: Vec<Descriptor>,
    seen: HashSet<Digest>,
    begun: usize,
}

type Visit<'a> = Pin<Box<dyn Future<Output = Result<(), CommandError>> + 'a>>;

impl Walk<'_> {
    /// Takes a document behind everything it names.
    fn visit(&mut self, at: Reference, platform: Option<Platform>, depth: usize) -> Visit<'_> {
        Box::pin(async move {
            self.begun += 1;
            if self.begun > MAX_DOCUMENTS || depth > MAX_DEPTH {
                return Err(malformed().into());
            }
            let params = ManifestParams {
                reference: at.to_string(),
                platform: platform.map(|platform| platform.to_string()),
                credentials: self.reach.credentials.clone(),
                mirror_credentials: self.reach.mirror_credentials.clone(),
                tls_verify: self.reach.tls_verify,
            };
            let view = self.session.call::<Manifest>(self.client, &params).await?;
            for child in &view.manifests {
                let child = descriptor(child)?;
                if !self.seen.contains(&child.digest) {
                    let below = at.with_digest(child.digest);
                    self.visit(below, None, depth + 1).await?;
                }
            }
            for blob in view.config.iter().chain(&view.layers) {
                let blob = descriptor(blob)?;
                // Layers that no registry distributes stay where they are.
                let is_foreign = ["nondistributable", "foreign"]
                    .iter()
                    .any(|word| blob.media_type.contains(word));
                if !is_foreign && self.seen.insert(blob.digest) {
                    self.blobs.push(blob);
                }
            }
            let document = checked(view)?;
            if self.seen.insert(document.descriptor.digest) {
                self.documents.push(document);
            }
            Ok(())
        })
    }
}

impl Walk<'_> {
    /// Takes everything that refers to a document, and what refers to that. Returns what those are,
    /// as the registry lists them.
    async fn visit_referrers(
        &mut self,
        reference: &Reference,
        top: Digest,
    ) -> Result<Vec<Descriptor>, CommandError> {
        let below = self.documents.iter();
        let mut subjects: VecDeque<Digest> =
            below.map(|document| document.descriptor.digest).collect();
        subjects.push_back(top);
        let mut found = Vec::new();
        while let Some(subject) = subjects.pop_front() {
            for referrer in self.referrers_of(reference, subject).await? {
                if referrer.digest == top || self.seen.contains(&referrer.digest) {
                    continue;
                }
                let at = reference.with_digest(referrer.digest);
                subjects.push_back(referrer.digest);
                found.push(referrer);
                refuse_many(&found)?;
                self.visit(at, None, 0).await?;
            }
        }
        Ok(found)
    }

    async fn referrers_of(
        &self,
        reference: &Reference,
        subject: Digest,
    ) -> Result<Vec<Descriptor>, CommandError> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let params = ReferrersParams {
                reference: reference.with_digest(subject).to_string(),
                artifact_type: None,
                limit: None,
                after,
                credentials: self.reach.credentials.clone(),
                mirror_credentials: self.reach.mirror_credentials.clone(),
                tls_verify: self.reach.tls_verify,
            };
            let page = self.session.call::<Referrers>(self.client, &params).await?;
            for item in &page.items {
                let mut referrer = descriptor(item)?;
                referrer.artifact_type.clone_from(&item.artifact_type);
                referrer.annotations.clone_from(&item.annotations);
                found.push(referrer);
            }
            refuse_many(&found)?;
            if page.next.is_none() {
                return Ok(found);
            }
            after = page.next;
        }
    }
}

fn refuse_many(referrers: &[Descriptor]) -> Result<(), Failure> {
    if referrers.len() <= MAX_REFERRERS {
        return Ok(());
    }
    let text = format!("more than {MAX_REFERRERS} referrers belong to the image");
    Err(Failure::new(codes::source::UNSUPPORTED, text)
        .with_hint("copy it without --referrers", None))
}

/// Takes a document whose bytes have the digest that the daemon says.
fn checked(view: ManifestView) -> Result<OutgoingDocument, CommandError> {
    let digest: Digest = view.digest.parse().map_err(|_| malformed())?;
    if Digest::of(view.content.as_bytes()) != digest {
        let text = format!("{} does not have the digest it should have", view.reference);
        return Err(CommandError::new(codes::source::DIGEST_MISMATCH, text));
    }
    Ok(OutgoingDocument {
        descriptor: Descriptor::new(&view.media_type, digest, view.content.len() as u64),
        bytes: view.content.into_bytes().into(),
    })
}

fn descriptor(pointer: &Pointer) -> Result<Descriptor, CommandError> {
    let digest = pointer.digest.parse().map_err(|_| malformed())?;
    Ok(Descriptor::new(
        &pointer.media_type,
        digest,
        pointer.size_bytes,
    ))
}

fn malformed() -> Failure {
    let text = "the manifests of the source do not hang together, or are too many";
    Failure::new(codes::source::MALFORMED_MANIFEST, text)
}
