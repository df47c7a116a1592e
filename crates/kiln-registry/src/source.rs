//! Registries, layouts and archives behind one face, so that the pull does not care.

use std::io::Read as _;

use kiln_domain::oci::Descriptor;
use kiln_domain::{Digest, Reference};

use crate::blob::BlobBody;
use crate::client::{Fetched, MAX_DOCUMENT_BYTES};
use crate::docker_archive::DockerArchive;
use crate::error::FetchError;
use crate::layout::{Layout, Referrer};
use crate::remote::Remote;

/// One image's source, opened. Cheap to clone.
#[derive(Clone, Debug)]
pub enum ImageSource {
    /// A registry over the network.
    Registry {
        /// The registry and its mirrors, seen by the caller.
        registry: Remote,
        /// Which image.
        reference: Reference,
    },
    /// An OCI image layout on this host.
    Layout(Layout),
    /// An archive of `docker save` on this host.
    DockerArchive(DockerArchive),
}

/// The document an image begins with, and what the pointer to it said, if there was one.
pub(crate) struct Root {
    pub(crate) fetched: Fetched,
    pub(crate) descriptor: Option<Descriptor>,
}

impl ImageSource {
    /// Returns the reference, where the source is a registry.
    pub fn reference(&self) -> Option<&Reference> {
        match self {
            Self::Registry { reference, .. } => Some(reference),
            Self::Layout(_) | Self::DockerArchive(_) => None,
        }
    }

    /// Fetches the manifest or index that the source's tag or digest names.
    pub(crate) async fn root(&self) -> Result<Root, FetchError> {
        match self {
            Self::Registry {
                registry,
                reference,
            } => Ok(Root {
                fetched: registry.manifest(reference).await?,
                descriptor: None,
            }),
            Self::Layout(layout) => {
                let layout = layout.clone();
                let (fetched, descriptor) = blocking(move || layout.root()).await?;
                Ok(Root {
                    fetched,
                    descriptor,
                })
            }
            Self::DockerArchive(archive) => Ok(Root {
                fetched: archive.root(),
                descriptor: None,
            }),
        }
    }

    /// Fetches a manifest or index by its descriptor: digest and size are as it says.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Fetched, FetchError> {
        let fetched = match self {
            Self::Registry {
                registry,
                reference,
            } => {
                let pinned = reference.with_digest(descriptor.digest);
                registry.manifest(&pinned).await?
            }
            Self::Layout(layout) => {
                let (layout, descriptor) = (layout.clone(), descriptor.clone());
                blocking(move || layout.document(&descriptor)).await?
            }
            Self::DockerArchive(archive) => archive.document(descriptor)?,
        };
        check_size(&fetched, descriptor)?;
        Ok(fetched)
    }

    /// Says whether somebody else than who served a blob last may have it.
    pub fn has_others(&self, digest: &Digest) -> bool {
        match self {
            Self::Registry { registry, .. } => registry.has_others(digest),
            Self::Layout(_) | Self::DockerArchive(_) => false,
        }
    }

    /// Fetches a small blob, such as a config, whole; at most 4 MiB, digest and size checked.
    /// Wrong bytes are fetched from whoever else has them, and at last once more, past the caches on
    /// the way.
    pub async fn small_blob(&self, descriptor: &Descriptor) -> Result<Fetched, FetchError> {
        check_limit(descriptor)?;
        let fetched = match self {
            Self::DockerArchive(archive) => archive.document(descriptor)?,
            Self::Registry { .. } | Self::Layout(_) => self.whole_blob(descriptor).await?,
        };
        if fetched.digest != descriptor.digest {
            return Err(FetchError::DigestMismatch {
                what: "a blob".to_owned(),
                expected: descriptor.digest,
                found: fetched.digest,
            });
        }
        check_size(&fetched, descriptor)?;
        Ok(fetched)
    }

    async fn whole_blob(&self, descriptor: &Descriptor) -> Result<Fetched, FetchError> {
        let mut body = self.blob(descriptor, 0).await?;
        let mut may_ask_again = self.is_remote();
        loop {
            let fetched = read_whole(body).await?;
            if fetched.digest == descriptor.digest || !may_ask_again {
                return Ok(fetched);
            }
            may_ask_again = self.has_others(&descriptor.digest);
            body = self.blob_anew(descriptor).await?;
        }
    }

    /// Opens a blob at byte `start`. It delivers as many bytes as the descriptor says or an error;
    /// the digest is for the caller to check.
    pub async fn blob(&self, descriptor: &Descriptor, start: u64) -> Result<BlobBody, FetchError> {
        let range = match self {
            Self::Registry {
                registry,
                reference,
            } => {
                let stream = registry.blob(reference, descriptor, start).await?;
                return Ok(BlobBody::Stream(Box::new(stream)));
            }
            Self::Layout(layout) => {
                let (layout, descriptor) = (layout.clone(), descriptor.clone());
                blocking(move || layout.blob(&descriptor)).await?
            }
            Self::DockerArchive(archive) => archive.blob(descriptor)?,
        };
        let mut range = range;
        range.skip_bytes(start);
        Ok(BlobBody::File(range))
    }

    /// Opens a blob whose bytes were wrong the last time: from its start, at whoever else has it, or
    /// past the caches on the way where nobody has.
    pub async fn blob_anew(&self, descriptor: &Descriptor) -> Result<BlobBody, FetchError> {
        match self {
            Self::Registry {
                registry,
                reference,
            } => {
                let stream = registry.blob_anew(reference, descriptor).await?;
                Ok(BlobBody::Stream(Box::new(stream)))
            }
            Self::Layout(_) | Self::DockerArchive(_) => self.blob(descriptor, 0).await,
        }
    }

    /// Lists what refers to something, where the source is a layout: registries are asked, and other
    /// places have nothing of the kind.
    pub(crate) async fn referrers(&self) -> Result<Vec<Referrer>, FetchError> {
        match self {
            Self::Layout(layout) => {
                let layout = layout.clone();
                blocking(move || layout.referrers()).await
            }
            Self::Registry { .. } | Self::DockerArchive(_) => Ok(Vec::new()),
        }
    }

    /// Says whether bytes come over the network, so that the same question may have another
    /// answer.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Registry { .. })
    }
}

async fn read_whole(body: BlobBody) -> Result<Fetched, FetchError> {
    let bytes = read_bytes(body).await?;
    Ok(Fetched {
        digest: Digest::of(&bytes),
        bytes: bytes.into(),
        media_type: None,
    })
}

async fn read_bytes(body: BlobBody) -> Result<Vec<u8>, FetchError> {
    match body {
        BlobBody::Stream(mut stream) => {
            let mut bytes = Vec::new();
            while let Some(chunk) = stream.next().await? {
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        }
        BlobBody::File(mut range) => {
            blocking(move || {
                let mut bytes = Vec::new();
                range
                    .read_to_end(&mut bytes)
                    .map_err(|source| FetchError::Io {
                        step: "read",
                        path: "a blob of the layout".into(),
                        source,
                    })?;
                Ok(bytes)
            })
            .await
        }
    }
}

fn check_limit(descriptor: &Descriptor) -> Result<(), FetchError> {
    if descriptor.size_bytes > MAX_DOCUMENT_BYTES {
        return Err(FetchError::Document {
            document: descriptor.digest.to_string(),
            source: kiln_domain::oci::DocumentError::TooLarge {
                size_bytes: descriptor.size_bytes,
                limit_bytes: MAX_DOCUMENT_BYTES,
            },
        });
    }
    Ok(())
}

fn check_size(fetched: &Fetched, descriptor: &Descriptor) -> Result<(), FetchError> {
    let found_bytes = fetched.bytes.len() as u64;
    if found_bytes != descriptor.size_bytes {
        return Err(FetchError::SizeMismatch {
            digest: descriptor.digest,
            expected_bytes: descriptor.size_bytes,
            found_bytes,
        });
    }
    Ok(())
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The runtime is shutting down, or the work panicked and goes on doing so here.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(FetchError::Io {
                step: "finish reading, because the daemon stops,",
                path: "the layout".into(),
                source: cancelled.into(),
            }),
        },
    }
}
