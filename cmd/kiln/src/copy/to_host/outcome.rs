//! What reading and writing places of this host failed with, as the wire would answer it.

use kiln_api::{Failure, codes};
use kiln_domain::Source;
use kiln_registry::{FetchError, OutgoingError};

use crate::checkout::file_failure;
use crate::failure::CommandError;

/// Says why a place could not be written.
pub(super) fn failure(error: &OutgoingError) -> Failure {
    match error {
        OutgoingError::File(error) => file_failure(error),
        OutgoingError::Body { .. } => Failure::from_error(codes::storage::FAILED, error),
        // What a registry sends was checked by the daemon.
        OutgoingError::SizeMismatch { .. } | OutgoingError::DigestMismatch { .. } => {
            Failure::from_error(codes::source::DAMAGED, error)
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

/// Says what stays of a copy that failed at its place: archives have one name, which they get at the
/// end, and directories keep every blob that is whole.
pub(super) fn at_place(into: &Source, error: CommandError) -> CommandError {
    let keeps = matches!(into, Source::OciLayout { .. } | Source::Directory { .. });
    let CommandError::Failed(failure) = error else {
        return error;
    };
    let next = match failure.code.as_str() {
        code if code == codes::storage::FULL.name => "free some space",
        code if code == codes::storage::FAILED.name => "look at the cause",
        _ => return CommandError::Failed(failure),
    };
    if !keeps {
        return CommandError::Failed(failure);
    }
    let hint = format!(
        "{next}, and run it again: whole blobs stay in {into}, and the copy goes on with them; the \
         image gets its name there at the end"
    );
    failure.with_hint(hint, None).into()
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
        FetchError::DigestMismatch { .. } | FetchError::SizeMismatch { .. } => {
            codes::source::DAMAGED
        }
        // The others are of registries, which are not read here.
        _ => codes::source::UNREADABLE,
    };
    Failure::from_error(code, error)
}
