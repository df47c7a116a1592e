//! Why an image could not be written to a place of this host.

use std::io;
use std::path::PathBuf;

use kiln_domain::Digest;
use kiln_domain::oci::DocumentError;
use kiln_files::FileError;

/// Why an image could not be written to a place of this host.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    /// A file could not be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// A blob could not be read.
    #[error("cannot read the blob {digest}")]
    Body {
        /// The blob.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// A blob is not as long as it should be.
    #[error("{digest} has {found_bytes} bytes or more, not {expected_bytes}")]
    SizeMismatch {
        /// The blob.
        digest: Digest,
        /// What its descriptor says.
        expected_bytes: u64,
        /// What came.
        found_bytes: u64,
    },
    /// A blob is another one.
    #[error("a blob has the digest {found}, not {expected}")]
    DigestMismatch {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// There is something else in the directory.
    #[error("{} holds something else than {expected}", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// What may be there.
        expected: &'static str,
    },
    /// The archive holds one image, and this is something else.
    #[error("a docker archive holds one image of one platform, not {found}")]
    NotOneImage {
        /// What it is.
        found: &'static str,
    },
    /// A layer is compressed in a way that the archive's readers do not know.
    #[error("the layer {digest} is compressed with {with}, which is not unpacked here")]
    Compression {
        /// The layer.
        digest: Digest,
        /// The format.
        with: &'static str,
    },
    /// A document is not what it should be.
    #[error("{digest} is refused")]
    Document {
        /// Its digest.
        digest: Digest,
        /// Which rule it breaks.
        source: DocumentError,
    },
    /// Nobody wants it any more.
    #[error("the copy was cancelled")]
    Cancelled,
}
