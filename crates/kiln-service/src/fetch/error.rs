//! Why an image could not be fetched.

use std::io;

use kiln_bootable::UnpackError;
use kiln_cache::{CacheError, IngestError, TooLong};
use kiln_domain::Digest;
use kiln_domain::oci::DiskLayersError;
use kiln_domain::oci::bootable::BootableError;
use kiln_layers::{DecodeError, PackError};

use super::disk::ForeignError;
use crate::blocking::PoolError;
use crate::space::NoRoom;

/// Why an image could not be fetched or decoded.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The registry or the local source failed.
    #[error(transparent)]
    Source(#[from] kiln_registry::FetchError),
    /// The cache failed.
    #[error("the cache failed")]
    Cache(#[from] CacheError),
    /// A blob is not what its descriptor says, or the cache could not keep it.
    #[error(transparent)]
    Blob(#[from] IngestError),
    /// A blob could not be written to the cache.
    #[error("cannot keep the blob {digest}")]
    Ingest {
        /// The blob.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// What an earlier download left of a blob cannot be read back.
    #[error("what an earlier download left of {digest} cannot be read")]
    Left {
        /// The blob.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// More bytes of a blob came than its descriptor says.
    #[error(transparent)]
    TooLong(TooLong),
    /// A layer could not be decoded.
    #[error("layer {digest} cannot be decoded")]
    Decode {
        /// The layer's blob.
        digest: Digest,
        /// Why.
        source: DecodeError,
    },
    /// An artifact is not as a bootable one has to be.
    #[error(transparent)]
    Bootable(#[from] BootableError),
    /// A chunk of a root filesystem is not what the artifact says.
    #[error("layer {digest} of the bootable artifact cannot be used")]
    Chunk {
        /// The chunk's blob.
        digest: Digest,
        /// Why.
        source: UnpackError,
    },
    /// A disk that somebody else made is none that can be used.
    #[error("layer {digest} of the artifact cannot be used")]
    Foreign {
        /// The disk's blob.
        digest: Digest,
        /// Why.
        source: ForeignError,
    },
    /// It cannot be told which layer of an artifact is the disk.
    #[error(transparent)]
    Disk(#[from] DiskLayersError),
    /// A pack that was just written could not be opened.
    #[error("the decoded layer {digest} cannot be read back")]
    Pack {
        /// The layer's blob.
        digest: Digest,
        /// Why.
        source: PackError,
    },
    /// The caller did not pass a file the source consists of.
    #[error("the file {name:?} of the source was not passed")]
    MissingFile {
        /// Its name inside the source.
        name: String,
    },
    /// A file of the source could not be read.
    #[error("cannot read a file of the source")]
    PassedFile {
        /// What the system said.
        source: io::Error,
    },
    /// The index of a layout is longer than any.
    #[error("index.json is longer than {limit_bytes} bytes")]
    IndexTooLarge {
        /// The longest taken.
        limit_bytes: u64,
    },
    /// The disk has less room than a blob needs.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// No thread, or a defect.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A stand-in for the network failed; production code never makes this.
    #[error(transparent)]
    StandIn(Box<dyn std::error::Error + Send + Sync>),
}

impl FetchError {
    /// Says whether the cause is a full disk or an exceeded quota.
    pub(super) fn is_no_space(&self) -> bool {
        match self {
            Self::Cache(error) => error.is_no_space(),
            Self::Blob(error) => error.is_no_space(),
            Self::Ingest { source, .. }
            | Self::Chunk {
                source: UnpackError::Output { source },
                ..
            }
            | Self::Decode {
                source: DecodeError::Output { source, .. },
                ..
            } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }
}
