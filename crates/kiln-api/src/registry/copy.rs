//! `registry.copy`: an image, or anything else, from one place to a registry, without building.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::host_file::HostFile;
use crate::image::Credentials;
use crate::method::method;
use crate::transfer::TransferOutcome;

use super::RegistryCredentials;

method! {
    /// See [`CopyParams`].
    Copy = "registry.copy",
    "Copies an image from a registry, a layout or an archive to a registry, byte for byte.",
    (CopyParams) -> TransferOutcome, Make costly,
    [
        codes::source::NOT_FOUND, codes::source::AMBIGUOUS, codes::source::UNREADABLE,
        codes::source::INVALID_PLATFORM, codes::source::PLATFORM_NOT_FOUND,
        codes::source::MALFORMED_MANIFEST, codes::source::UNSUPPORTED,
        codes::source::DIGEST_MISMATCH, codes::source::SIZE_MISMATCH, codes::source::DAMAGED,
        codes::source::DIGEST_CONFLICT, codes::file::NOT_FOUND,
        codes::file::WRONG_KIND, codes::file::UNREADABLE, codes::file::PATH_NOT_ALLOWED,
        codes::file::HANDLE_UNKNOWN, codes::operation::CANCELLED, codes::storage::FULL,
        codes::storage::FAILED, codes::daemon::BUSY, codes::daemon::STOPPING,
    ] + codes::REACHING_A_REGISTRY + codes::WRITING_TO_A_REGISTRY
}

/// What to copy, and where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyParams {
    /// An OCI reference, or `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`,
    /// `docker-archive:FILE[:TAG]`, `dir:DIR`.
    pub from: String,
    /// Where to: an OCI reference that names its registry. One with a digest must be that of what
    /// is copied.
    pub into: String,
    /// Further tags that it gets in the same repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// One platform of it; all of them, with their index, when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// What refers to it at its source too: signatures, SBOMs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub referrers: bool,
    /// Who to be where it comes from. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_credentials: Option<Credentials>,
    /// Who to be at the mirrors of where it comes from, and where its names have been moved to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from_mirror_credentials: Vec<RegistryCredentials>,
    /// Whether the registry that it comes from must have a certificate that can be trusted: with
    /// true it is spoken to in HTTPS alone, whatever is configured, and so are its mirrors; with
    /// false plain HTTP will do, and any certificate, for this call. As configured when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_tls_verify: Option<bool>,
    /// Who to be where it goes. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into_credentials: Option<Credentials>,
    /// Whether the registry that it goes to must have a certificate that can be trusted: with true
    /// it is spoken to in HTTPS alone, whatever is configured; with false plain HTTP will do, and
    /// any certificate, for this call. As configured when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into_tls_verify: Option<bool>,
    /// Files of an `oci:` or archive source that the client opened: `index.json` and
    /// `blobs/sha256/<hex>`, or `archive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_files: Option<BTreeMap<String, HostFile>>,
    /// Answer with the operation at once and go on in the background.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
}
