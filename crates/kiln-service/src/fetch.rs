//! The real fetching step: registry or layout → cache → packs.
//!
//! ```text
//! network ─chunks─▶ channel ─▶ decoding thread: ingest (hash, write) ─▶ inflate ─▶ pack
//! ```
//! A blob streams into the cache and through the decoder at once; both digests must match before
//! either file gets a name. Layers run side by side; one layer of one source is worked on by one
//! operation at a time, whoever else wants it from there waits and then finds it.

mod bootable;
mod chunk;
mod disk;
mod documents;
mod error;
mod feed;
mod kernel;
mod layer;
mod needs;
mod outgoing;
mod passage;
mod whole;
mod withheld;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::try_join_all;
use kiln_api::operation::{LayerProgress, LayerState};
use kiln_cache::Cache;
use kiln_domain::oci::Descriptor;
use kiln_domain::{Digest, Platform, Source};
use kiln_layers::Pack;
use kiln_registry::routes::TlsVerify;
use kiln_registry::{DockerArchive, FetchError as SourceError, Identities, ImageSource, Layout};
use kiln_store::version_blobs::BlobRole;

pub use disk::ForeignError;
pub(crate) use disk::{RootPlace, root_of};
pub use error::FetchError;
pub(crate) use kernel::{FetchedKernel, KernelFetchError, MAX_FILE_BYTES};
pub use kiln_layers::Limits as LayerLimits;
pub use kiln_registry::{Config as RegistryConfig, MinimumRate};
pub(crate) use layer::Hasher;
pub(crate) use outgoing::{Origin, Passing, Shelf};
use passage::Passages;

use self::documents::Documents;
use crate::blocking::Pool;
use crate::board::Running;
use crate::keyed_lock::KeyedLock;
use crate::needs::{Needed, Needs};
use crate::remotes::Remotes;
use crate::seams::{
    Bootable, BootableFiles, BootableTarget, FetchTree, Found, Resolved, SeamFuture, SourceBlob,
};
use crate::space::{FetchNeeds, InFlight};
use crate::spare::Spare;

/// Longest `index.json` taken, in bytes.
const MAX_INDEX_BYTES: u64 = 4 << 20;

/// How many threads look into the cache at a time. They wait for the disk, not for a processor.
const LOOKS_AT_A_TIME: usize = 4;

/// How many blobs are fetched for callers at a time.
const WITHHELD_AT_A_TIME: usize = 8;

/// What to fetch, as whom.
#[derive(Debug)]
pub struct FetchRequest {
    /// The source, as the caller named it.
    pub source: Source,
    /// Its files, for a local one.
    pub files: SourceFiles,
    /// Which platform of it.
    pub platform: Platform,
    /// Who to be at the registry, and at each of its mirrors.
    pub identities: Identities,
    /// What the caller says about certificates.
    pub tls: TlsVerify,
}

/// The files of a local source.
#[derive(Debug)]
pub enum SourceFiles {
    /// The source is no local one.
    None,
    /// The daemon opens them itself: the caller shares its rights.
    Named,
    /// The caller opened them: `index.json` and `blobs/sha256/<hex>`, or `archive`.
    Passed(BTreeMap<String, File>),
}

/// Fetches from registries and local sources into the cache.
#[derive(Debug)]
pub struct Fetcher {
    cache: Cache,
    remotes: Arc<Remotes>,
    /// Threads that decode. One that decodes a download waits for it, however slow it is.
    pool: Pool,
    /// Threads that look what the cache has and keep small documents, so that who fetches nothing
    /// never waits for a download of somebody else's.
    looks: Pool,
    /// Threads that write blobs for one caller each; every one waits for a download.
    withheld: Pool,
    limits: LayerLimits,
    /// By what is fetched (a layer's diff id, a config's digest) and from where: a source that drips
    /// must not hold up the others.
    locks: KeyedLock<(String, Digest)>,
    in_flight: InFlight,
    /// What operations need of the cache.
    needs: Needs,
    /// Room for blobs that are on their way to somewhere else.
    passages: Arc<Passages>,
}

impl Fetcher {
    /// Makes a fetcher whose decoders run on `pool`.
    pub fn new(cache: Cache, remotes: Arc<Remotes>, pool: Pool, limits: LayerLimits) -> Self {
        Self {
            cache,
            remotes,
            pool,
            looks: Pool::new("cache", LOOKS_AT_A_TIME),
            withheld: Pool::new("withheld", WITHHELD_AT_A_TIME),
            limits,
            locks: KeyedLock::default(),
            in_flight: InFlight::default(),
            needs: Needs::default(),
            passages: Arc::default(),
        }
    }

    /// Returns what operations need on the disk, for who removes something from there.
    pub fn needs(&self) -> Needs {
        self.needs.clone()
    }

    pub(crate) async fn open(&self, request: &FetchRequest) -> Result<ImageSource, FetchError> {
        if let Source::Registry(reference) = &request.source {
            let registry = self
                .remotes
                .remote(reference, &request.identities, request.tls)?;
            return Ok(ImageSource::Registry {
                registry,
                reference: reference.clone(),
            });
        }
        let source = request.source.clone();
        let files = request.files.duplicate()?;
        self.looks.run(move || open_local(&source, files)).await?
    }

    /// Finds the image in an open source. What the source itself refuses is apart: it may have
    /// something else.
    async fn resolve_image(
        &self,
        source: &ImageSource,
        request: &FetchRequest,
        running: &Running,
    ) -> Result<Result<Resolved, SourceError>, FetchError> {
        let documents = Documents {
            fetcher: self,
            running,
        };
        let platform = request.platform;
        let resolved = match kiln_registry::resolve_with(source, platform, &documents).await {
            Ok(resolved) => resolved,
            Err(refused) => return Ok(Err(refused)),
        };
        let manifest = SourceBlob {
            digest: resolved.manifest_digest,
            role: BlobRole::Manifest,
            size_bytes: resolved.manifest_bytes.len() as u64,
            diff_id: None,
        };
        let config = SourceBlob {
            digest: resolved.manifest.config.digest,
            role: BlobRole::Config,
            size_bytes: resolved.manifest.config.size_bytes,
            diff_id: None,
        };
        let layers = resolved.layers.iter().map(|layer| SourceBlob {
            digest: layer.descriptor.digest,
            role: BlobRole::Layer,
            size_bytes: layer.descriptor.size_bytes,
            diff_id: Some(layer.diff_id),
        });
        let blobs: Vec<SourceBlob> = [manifest, config].into_iter().chain(layers).collect();
        // Before anybody looks what the cache has of it.
        let contents = blobs
            .iter()
            .flat_map(|blob| [Some(blob.digest), blob.diff_id])
            .flatten();
        running.hold(&self.needs, contents.map(Needed::Content));
        documents.keep_all(&resolved).await?;
        Ok(Ok(Resolved {
            source_kind: source_kind(&request.source),
            source_reference: request.source.to_string(),
            platform: resolved.platform,
            manifest_digest: resolved.manifest_digest,
            config: resolved.config,
            blobs,
            layers: resolved.layers,
            source: Some(source.clone()),
        }))
    }
}

impl SourceFiles {
    fn duplicate(&self) -> Result<Self, FetchError> {
        let duplicate = |file: &File| {
            file.try_clone()
                .map_err(|source| FetchError::PassedFile { source })
        };
        Ok(match self {
            Self::None => Self::None,
            Self::Named => Self::Named,
            Self::Passed(files) => Self::Passed(
                files
                    .iter()
                    .map(|(name, file)| Ok((name.clone(), duplicate(file)?)))
                    .collect::<Result<_, FetchError>>()?,
            ),
        })
    }

    /// Takes the archive the caller passed, or opens it by its path.
    fn archive(self, path: &str) -> Result<File, FetchError> {
        match self {
            Self::Passed(mut files) => files.remove("archive").ok_or(FetchError::MissingFile {
                name: "archive".to_owned(),
            }),
            Self::None | Self::Named => {
                File::open(path).map_err(|source| FetchError::PassedFile { source })
            }
        }
    }
}

fn open_local(source: &Source, files: SourceFiles) -> Result<ImageSource, FetchError> {
    match source {
        Source::Registry(_) => Err(FetchError::MissingFile {
            name: source.to_string(),
        }),
        Source::OciLayout { path, tag } => {
            let layout = match files {
                SourceFiles::Passed(files) => passed_layout(files, path, tag.as_deref())?,
                _ => Layout::open_directory(Path::new(path), tag.as_deref())?,
            };
            Ok(ImageSource::Layout(layout))
        }
        Source::OciArchive { path, tag } => {
            let file = files.archive(path)?;
            Ok(ImageSource::Layout(Layout::open_archive(
                file,
                Path::new(path),
                tag.as_deref(),
            )?))
        }
        Source::DockerArchive { path, reference } => {
            let file = files.archive(path)?;
            let archive = DockerArchive::open(file, Path::new(path), reference.as_ref())?;
            Ok(ImageSource::DockerArchive(archive))
        }
        Source::Directory { path } => {
            let layout = match files {
                SourceFiles::Passed(files) => passed_flat(files, path)?,
                _ => Layout::open_flat_directory(Path::new(path))?,
            };
            Ok(ImageSource::Layout(layout))
        }
    }
}

fn passed_layout(
    mut files: BTreeMap<String, File>,
    path: &str,
    tag: Option<&str>,
) -> Result<Layout, FetchError> {
    const INDEX: &str = "index.json";
    let Some(index) = files.remove(INDEX) else {
        return Err(FetchError::MissingFile {
            name: INDEX.to_owned(),
        });
    };
    let mut bytes = Vec::new();
    index
        .take(MAX_INDEX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| FetchError::PassedFile { source })?;
    if bytes.len() as u64 > MAX_INDEX_BYTES {
        return Err(FetchError::IndexTooLarge {
            limit_bytes: MAX_INDEX_BYTES,
        });
    }
    let blobs = passed_blobs(files)?;
    Ok(Layout::from_files(bytes, blobs, Path::new(path), tag))
}

fn passed_flat(mut files: BTreeMap<String, File>, path: &str) -> Result<Layout, FetchError> {
    const MANIFEST: &str = "manifest.json";
    let Some(manifest) = files.remove(MANIFEST) else {
        return Err(FetchError::MissingFile {
            name: MANIFEST.to_owned(),
        });
    };
    let blobs = passed_blobs(files)?;
    Ok(Layout::from_flat_files(manifest, blobs, Path::new(path))?)
}

fn passed_blobs(files: BTreeMap<String, File>) -> Result<Vec<(Digest, File)>, FetchError> {
    let blobs = files.into_iter().map(|(name, file)| {
        let digest = name
            .strip_prefix("blobs/sha256/")
            .map(|hex| format!("sha256:{hex}"));
        let digest = digest.and_then(|text| text.parse().ok());
        digest
            .map(|digest| (digest, file))
            .ok_or(FetchError::MissingFile { name })
    });
    blobs.collect()
}

impl FetchTree for Fetcher {
    fn resolve<'a>(
        &'a self,
        request: &'a FetchRequest,
        running: &'a Running,
    ) -> SeamFuture<'a, Result<Found, FetchError>> {
        Box::pin(async move {
            let source = self.open(request).await?;
            let refused = match self.resolve_image(&source, request, running).await? {
                Ok(resolved) => return Ok(Found::Image(Box::new(resolved))),
                Err(refused) => refused,
            };
            if !bootable::is_artifact(&refused) {
                return Err(refused.into());
            }
            let bootable = self.find_bootable(source, request, refused).await?;
            Ok(Found::Bootable(Box::new(bootable)))
        })
    }

    fn bootable<'a>(
        &'a self,
        bootable: &'a Bootable,
        target: BootableTarget,
        running: &'a Arc<Running>,
    ) -> SeamFuture<'a, Result<BootableFiles, FetchError>> {
        Box::pin(self.bootable_parts(bootable, target, running))
    }

    fn check<'a>(
        &'a self,
        bootable: &'a Bootable,
        blobs: &'a [Descriptor],
        running: &'a Arc<Running>,
    ) -> SeamFuture<'a, Result<(), FetchError>> {
        Box::pin(self.check_blobs(bootable, blobs, running))
    }

    fn bootable_needs<'a>(
        &'a self,
        bootable: &'a Bootable,
    ) -> SeamFuture<'a, Result<FetchNeeds, FetchError>> {
        Box::pin(self.needs_of_bootable(bootable))
    }

    fn drop_chunks<'a>(&'a self, bootable: &'a Bootable) -> SeamFuture<'a, ()> {
        Box::pin(self.discard_chunks(bootable))
    }

    fn knows<'a>(&'a self, resolved: &'a Resolved) -> SeamFuture<'a, Result<bool, FetchError>> {
        let cache = self.cache.clone();
        let layers = resolved.layers.clone();
        let look = move || {
            for layer in layers {
                if !layer::is_known(&cache, &layer)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        Box::pin(async move { self.looks.run(look).await? })
    }

    fn needs<'a>(
        &'a self,
        resolved: &'a Resolved,
    ) -> SeamFuture<'a, Result<FetchNeeds, FetchError>> {
        let (cache, in_flight) = (self.cache.clone(), self.in_flight.clone());
        let layers = resolved.layers.clone();
        let look = move || {
            let around = needs::Surroundings {
                spare: &Spare::new(cache.clone()),
                in_flight: &in_flight,
            };
            needs::of_layers(&cache, &around, &layers)
        };
        Box::pin(async move { self.looks.run(look).await? })
    }

    fn layers<'a>(
        &'a self,
        _request: &'a FetchRequest,
        resolved: &'a Resolved,
        running: &'a Arc<Running>,
    ) -> SeamFuture<'a, Result<Vec<Pack>, FetchError>> {
        Box::pin(async move {
            let Some(source) = &resolved.source else {
                return Err(FetchError::MissingFile {
                    name: resolved.source_reference.clone(),
                });
            };
            let listed = resolved.layers.iter().map(|layer| LayerProgress {
                digest: layer.descriptor.digest.to_string(),
                state: LayerState::Waiting,
                bytes_done: 0,
                bytes_total: layer.descriptor.size_bytes,
            });
            running.layers(listed.collect());
            let disk = Arc::default();
            let work = resolved.layers.iter().enumerate().map(|(index, layer)| {
                let job = layer::Job {
                    fetcher: self,
                    source,
                    layer,
                    index,
                    running,
                    disk: &disk,
                };
                job.pack()
            });
            let packs = try_join_all(work).await;
            if packs.is_err() {
                // The other layers' decoders would work on for nothing.
                running.abandon();
            }
            packs
        })
    }
}

/// Names where blobs are fetched from, as far as one place may hold up another.
fn place(source: &ImageSource) -> String {
    match source.reference() {
        Some(reference) => format!("{}/{}", reference.registry(), reference.repository()),
        None => "this host".to_owned(),
    }
}

fn source_kind(source: &Source) -> &'static str {
    match source {
        Source::Registry(_) => "registry",
        Source::OciLayout { .. } => "oci",
        Source::OciArchive { .. } => "oci-archive",
        Source::DockerArchive { .. } => "docker-archive",
        Source::Directory { .. } => "dir",
    }
}
