//! What fetching and decoding failed with, as the wire answers it.

use kiln_api::{Code, Failure, codes};
use kiln_bootable::{DiskError, Qcow2Error, RootError, UnpackError};
use kiln_cache::{CacheError, IngestError};
use kiln_domain::Source;
use kiln_domain::oci::DocumentError;
use kiln_domain::oci::bootable::BootableError;
use kiln_layers::DecodeError;
use kiln_registry::routes::ShortNameError;
use kiln_registry::{BrowseError, FetchError as SourceError};

use super::{full_or_failed, pool_failure, room_failure, storage_code};
use crate::fetch::{FetchError, ForeignError};
use crate::pulls::ProbeError;
use crate::remotes::NameError;

pub(crate) fn fetch_failure(error: &FetchError) -> Failure {
    match error {
        FetchError::Source(error) => source_failure(error),
        FetchError::Cache(cache) => Failure::from_error(cache_code(cache), error),
        FetchError::Blob(IngestError::SizeMismatch { .. }) | FetchError::TooLong(_) => {
            Failure::from_error(codes::source::SIZE_MISMATCH, error)
        }
        FetchError::Blob(IngestError::DigestMismatch { .. }) => {
            Failure::from_error(codes::source::DIGEST_MISMATCH, error)
        }
        FetchError::Blob(IngestError::Cache(cache)) => {
            Failure::from_error(cache_code(cache), error)
        }
        FetchError::Ingest { source, .. }
        | FetchError::Left { source, .. }
        | FetchError::PassedFile { source } => Failure::from_error(storage_code(source), error),
        FetchError::Decode { source, .. } => Failure::from_error(decode_code(source), error),
        FetchError::Bootable(bootable) => Failure::from_error(bootable_code(bootable), error),
        FetchError::Chunk { source, .. } => Failure::from_error(chunk_code(source), error),
        FetchError::Foreign { source, .. } => foreign_failure(source, error),
        FetchError::Disk(_) => Failure::from_error(codes::source::UNSUPPORTED, error).with_hint(
            "take the root filesystem out of it, and register that",
            Some("kiln register NAME --rootfs FILE".to_owned()),
        ),
        FetchError::Pack { .. } => Failure::from_error(codes::storage::FAILED, error),
        FetchError::MissingFile { .. } | FetchError::IndexTooLarge { .. } => {
            Failure::from_error(codes::source::UNREADABLE, error)
        }
        FetchError::NoRoom(room) => room_failure(room, error),
        FetchError::Pool(error) => pool_failure(error),
        FetchError::StandIn(_) => Failure::from_error(codes::registry::UNREACHABLE, error),
    }
}

/// Says of what came of a source of this host that another try changes nothing: its files are what
/// they are.
pub(crate) fn of_source(source: &Source, mut failure: Failure) -> Failure {
    let damage = [codes::source::DIGEST_MISMATCH, codes::source::SIZE_MISMATCH];
    let is_remote = matches!(source, Source::Registry(_));
    if is_remote || !damage.iter().any(|code| code.name == failure.code) {
        return failure;
    }
    let damaged = Failure::new(codes::source::DAMAGED, std::mem::take(&mut failure.message));
    Failure {
        cause: failure.cause,
        operation_id: failure.operation_id,
        ..damaged
    }
}

fn cache_code(error: &CacheError) -> Code {
    full_or_failed(error.is_no_space())
}

fn decode_code(error: &DecodeError) -> Code {
    match error {
        DecodeError::BrokenCompression { .. } => codes::layer::BROKEN_COMPRESSION,
        DecodeError::CompressionMismatch { .. } | DecodeError::UnsupportedCompression { .. } => {
            codes::source::UNSUPPORTED
        }
        DecodeError::Malformed { .. } | DecodeError::UnsupportedEntry { .. } => {
            codes::layer::MALFORMED
        }
        DecodeError::Limit { .. } | DecodeError::Index { .. } => codes::layer::LIMIT_EXCEEDED,
        DecodeError::DiffIdMismatch { .. } => codes::layer::DIFF_ID_MISMATCH,
        DecodeError::Input { source } | DecodeError::Output { source, .. } => storage_code(source),
        DecodeError::Cancelled => codes::operation::CANCELLED,
    }
}

fn bootable_code(error: &BootableError) -> Code {
    match error {
        BootableError::Format { .. }
        | BootableError::Filesystem { .. }
        | BootableError::Platform(_) => codes::source::UNSUPPORTED,
        BootableError::Ratio { .. } => codes::layer::LIMIT_EXCEEDED,
        BootableError::Config(_)
        | BootableError::Text { .. }
        | BootableError::RootfsSize { .. }
        | BootableError::Chunk { .. }
        | BootableError::Role { .. }
        | BootableError::TooLarge { .. } => codes::source::MALFORMED_MANIFEST,
    }
}

fn foreign_failure(foreign: &ForeignError, error: &FetchError) -> Failure {
    let code = match foreign {
        ForeignError::Probe(ProbeError::Io(source)) => storage_code(source),
        ForeignError::Probe(_) => codes::rootfs::NOT_EXT4,
        ForeignError::Disk(disk) => match disk {
            DiskError::Cancelled => codes::operation::CANCELLED,
            DiskError::Input { source } | DiskError::Output { source } => storage_code(source),
            DiskError::Broken { .. } => codes::layer::BROKEN_COMPRESSION,
            DiskError::Packed { .. } => codes::source::UNSUPPORTED,
            DiskError::TooLong => codes::layer::LIMIT_EXCEEDED,
        },
        ForeignError::Root(root) => root_code(root),
        ForeignError::NoRoom(room) => return room_failure(room, room),
    };
    let failure = Failure::from_error(code, error);
    match foreign {
        ForeignError::Probe(ProbeError::OtherFormat { .. } | ProbeError::Unknown)
        | ForeignError::Disk(DiskError::Packed { .. })
        | ForeignError::Root(
            RootError::Partitions(_) | RootError::Qcow2(Qcow2Error::Unsupported { .. }),
        ) => failure.with_hint(
            "fetch it, make its root filesystem a raw ext4 file (qemu-img convert -O raw, then the \
             partition alone), and register that",
            Some("kiln register NAME --rootfs FILE".to_owned()),
        ),
        _ => failure,
    }
}

fn root_code(error: &RootError) -> Code {
    match error {
        RootError::Cancelled => codes::operation::CANCELLED,
        RootError::Input { source } | RootError::Output { source } => storage_code(source),
        RootError::TooLong => codes::layer::LIMIT_EXCEEDED,
        RootError::Partitions(_) => codes::rootfs::NOT_EXT4,
        RootError::Qcow2(error) => match error {
            Qcow2Error::Read(source) => storage_code(source),
            Qcow2Error::Unsupported { .. } => codes::source::UNSUPPORTED,
            Qcow2Error::Unclean { .. } | Qcow2Error::Malformed { .. } => codes::layer::MALFORMED,
            Qcow2Error::TooLarge { .. } | Qcow2Error::Ratio => codes::layer::LIMIT_EXCEEDED,
            Qcow2Error::Cluster { .. } => codes::layer::BROKEN_COMPRESSION,
        },
    }
}

fn chunk_code(error: &UnpackError) -> Code {
    match error {
        UnpackError::Broken { .. } => codes::layer::BROKEN_COMPRESSION,
        UnpackError::TooLong { .. } | UnpackError::TooShort { .. } => codes::source::SIZE_MISMATCH,
        UnpackError::DigestMismatch { .. } => codes::source::DIGEST_MISMATCH,
        UnpackError::Input { source } | UnpackError::Output { source } => storage_code(source),
        UnpackError::Cancelled => codes::operation::CANCELLED,
    }
}

pub(crate) fn source_failure(error: &SourceError) -> Failure {
    let mut failure = Failure::from_error(source_code(error), error);
    failure.retry_after_seconds = error.retry_after().map(|wait| wait.as_secs());
    match error {
        SourceError::AuthRequired { host, .. } | SourceError::AuthFailed { host, .. } => {
            failure.with_hint("log in:", Some(format!("kiln login {host}")))
        }
        SourceError::NotHttps { .. } => failure.with_hint(
            "plain HTTP is not tried, because of --tls-verify, https:// in REGISTRY_URL or where the \
             registry lies; --tls-verify=false allows it to this call",
            None,
        ),
        _ => failure,
    }
}

fn source_code(error: &SourceError) -> Code {
    match error {
        SourceError::Unreachable { .. } => codes::registry::UNREACHABLE,
        SourceError::HostInvalid { .. } | SourceError::UrlRefused { .. } => {
            codes::source::INVALID_REFERENCE
        }
        SourceError::TooLarge { .. } => codes::file::TOO_LARGE,
        SourceError::Timeout { .. } => codes::registry::TIMED_OUT,
        SourceError::Tls { .. }
        | SourceError::NotHttps { .. }
        | SourceError::ExtraCertificate(_)
        | SourceError::NoCertificate
        | SourceError::ClientCertificate { .. }
        | SourceError::Header { .. }
        | SourceError::Setup(_) => codes::registry::TLS_FAILED,
        SourceError::AuthRequired { .. } => codes::registry::AUTH_REQUIRED,
        SourceError::AuthFailed { .. } => codes::registry::AUTH_FAILED,
        SourceError::Denied { .. } => codes::registry::DENIED,
        SourceError::ReadOnly { .. } => codes::registry::READ_ONLY,
        SourceError::ContentTooLarge { .. } => codes::registry::TOO_LARGE,
        SourceError::QuotaExceeded { .. } => codes::registry::QUOTA_EXCEEDED,
        SourceError::TagImmutable { .. } => codes::registry::TAG_IMMUTABLE,
        SourceError::PushRefused { .. } => codes::registry::PUSH_REFUSED,
        SourceError::RateLimited { .. } => codes::registry::RATE_LIMITED,
        SourceError::ServerError { .. } => codes::registry::SERVER_ERROR,
        SourceError::UnexpectedStatus { .. }
        | SourceError::ChallengeMalformed { .. }
        | SourceError::TokenMalformed { .. }
        | SourceError::RealmRefused { .. }
        | SourceError::RedirectRefused { .. }
        | SourceError::AddressRefused { .. }
        | SourceError::HeadersTooLarge { .. }
        | SourceError::NotHttp { .. } => codes::registry::UNEXPECTED_ANSWER,
        SourceError::ReferenceNotFound { .. }
        | SourceError::BlobNotFound { .. }
        | SourceError::TagMissing { .. } => codes::source::NOT_FOUND,
        SourceError::Document { source, .. } => document_code(source),
        SourceError::Layer(_) => codes::source::UNSUPPORTED,
        SourceError::PlatformNotFound(_) => codes::source::PLATFORM_NOT_FOUND,
        SourceError::TooNested { .. } => codes::source::MALFORMED_MANIFEST,
        SourceError::DigestMismatch { .. } => codes::source::DIGEST_MISMATCH,
        SourceError::SizeMismatch { .. } => codes::source::SIZE_MISMATCH,
        SourceError::PathNotFound { .. } => codes::file::NOT_FOUND,
        SourceError::NotASource { .. }
        | SourceError::ArchiveCompressed { .. }
        | SourceError::ArchiveMalformed { .. } => codes::source::UNREADABLE,
        SourceError::TagAmbiguous { .. } => codes::source::AMBIGUOUS,
        SourceError::Browse(error) => browse_code(error),
        SourceError::Io { source, .. } => storage_code(source),
        SourceError::Blocked { .. } => codes::registry::BLOCKED,
    }
}

fn browse_code(error: &BrowseError) -> Code {
    match error {
        BrowseError::NotOffered { .. } | BrowseError::TooManyTags { .. } => {
            codes::registry::UNSUPPORTED
        }
        BrowseError::AnswerMalformed { .. }
        | BrowseError::PageRefused { .. }
        | BrowseError::EndlessList { .. } => codes::registry::UNEXPECTED_ANSWER,
        BrowseError::TagMoved { .. } => codes::source::DIGEST_MISMATCH,
        BrowseError::TagLost { deletion, .. } => source_code(deletion),
    }
}

pub(crate) fn name_failure(error: &NameError) -> Failure {
    match error {
        NameError::Source(_) => Failure::from_error(codes::source::INVALID_REFERENCE, error),
        NameError::ShortName(error) => short_name_failure(error),
    }
}

pub(crate) fn short_name_failure(error: &ShortNameError) -> Failure {
    match error {
        ShortNameError::Reference(_) => {
            Failure::from_error(codes::source::INVALID_REFERENCE, error)
        }
        ShortNameError::Strict { name } => {
            Failure::from_error(codes::source::INVALID_REFERENCE, error).with_hint(
                format!("write it with its registry, such as docker.io/library/{name}"),
                None,
            )
        }
        ShortNameError::Ambiguous {
            name, registries, ..
        } => {
            let first = registries.first().map_or("docker.io", String::as_str);
            Failure::from_error(codes::source::AMBIGUOUS, error).with_hint(
                format!("write it with its registry, such as {first}/{name}"),
                None,
            )
        }
    }
}

/// Says why a document, which a reference or digest names, cannot be read.
pub(crate) fn document_failure(document: &str, error: &DocumentError) -> Failure {
    let mut failure = Failure::from_error(document_code(error), error);
    failure.message = kiln_api::failure::printable(&format!("{document} is refused"));
    failure
        .cause
        .insert(0, kiln_api::failure::printable(&error.to_string()));
    failure
}

fn document_code(error: &DocumentError) -> Code {
    match error {
        DocumentError::Schema1
        | DocumentError::SchemaVersion { .. }
        | DocumentError::UnknownMediaType { .. }
        | DocumentError::NotAnImage { .. }
        | DocumentError::RootfsType { .. } => codes::source::UNSUPPORTED,
        DocumentError::TooLarge { .. }
        | DocumentError::Malformed(_)
        | DocumentError::MediaTypesDisagree { .. }
        | DocumentError::Ambiguous { .. }
        | DocumentError::TooManyLayers { .. }
        | DocumentError::LayerTooLarge { .. }
        | DocumentError::LayerCount { .. } => codes::source::MALFORMED_MANIFEST,
    }
}
