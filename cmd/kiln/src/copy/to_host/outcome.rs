//! What reading and writing places of this host failed with, as the wire would answer it.

use kiln_api::{Failure, codes};
use kiln_registry::{FetchError, OutgoingError};

use crate::checkout::file_failure;

/// Says why a place could not be written.
pub(super) fn failure(error: &OutgoingError) -> Failure {
    match error {
        OutgoingError::File(error) => file_failure(error),
        OutgoingError::Body { .. } => Failure::from_error(codes::storage::FAILED, error),
        OutgoingError::SizeMismatch { .. } => {
            Failure::from_error(codes::source::SIZE_MISMATCH, error)
        }
        OutgoingError::DigestMismatch { .. } => {
            Failure::from_error(codes::source::DIGEST_MISMATCH, error)
        }
        OutgoingError::Occupied { .. } => Failure::from_error(codes::file::ALREADY_EXISTS, error)
            .with_hint("choose another path, or empty the directory", None),
        OutgoingError::NotOneImage { .. } => Failure::from_error(codes::source::UNSUPPORTED, error)
            .with_hint("oci-archive:FILE and oci:DIR hold anything", None),
        OutgoingError::Compression { .. } => Failure::from_error(codes::source::UNSUPPORTED, error)
            .with_hint("oci-archive:FILE and oci:DIR keep layers as they are", None),
        OutgoingError::Document { .. } => {
            Failure::from_error(codes::source::MALFORMED_MANIFEST, error)
        }
        OutgoingError::Cancelled => Failure::from_error(codes::operation::CANCELLED, error)
            .with_hint(
                "the same command goes on with what oci: and dir: have",
                None,
            ),
    }
}

/// Says why a place of this host could not be read.
pub(super) fn source_failure(error: &FetchError) -> Failure {
    let code = match error {
        FetchError::PathNotFound { .. } => codes::file::NOT_FOUND,
        FetchError::TagMissing { .. } | FetchError::BlobNotFound { .. } => codes::source::NOT_FOUND,
        FetchError::TagAmbiguous { .. } => codes::source::AMBIGUOUS,
        FetchError::PlatformNotFound(_) => codes::source::PLATFORM_NOT_FOUND,
        FetchError::Document { .. } | FetchError::TooNested { .. } => {
            codes::source::MALFORMED_MANIFEST
        }
        FetchError::DigestMismatch { .. } => codes::source::DIGEST_MISMATCH,
        FetchError::SizeMismatch { .. } => codes::source::SIZE_MISMATCH,
        // The others are of registries, which are not read here.
        _ => codes::source::UNREADABLE,
    };
    Failure::from_error(code, error)
}
