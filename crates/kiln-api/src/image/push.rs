//! `image.push`: an image to a registry.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Credentials;
use crate::codes;
use crate::method::method;
use crate::registry::RegistryCredentials;
use crate::transfer::TransferOutcome;

method! {
    /// See [`PushParams`].
    Push = "image.push",
    "Sends an image to a registry.",
    (PushParams) -> TransferOutcome, Make costly,
    [
        codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::request::DENIED,
        codes::image::NO_OCI_SOURCE,
        codes::source::NOT_FOUND, codes::source::CHANGED, codes::source::INVALID_PLATFORM,
        codes::source::MALFORMED_MANIFEST, codes::source::UNSUPPORTED,
        codes::source::DIGEST_MISMATCH, codes::source::SIZE_MISMATCH,
        codes::source::DIGEST_CONFLICT, codes::operation::CANCELLED,
        codes::storage::FULL, codes::storage::FAILED, codes::daemon::BUSY, codes::daemon::STOPPING,
    ] + codes::REACHING_A_REGISTRY + codes::WRITING_TO_A_REGISTRY
}

/// What to push, and where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushParams {
    /// An id, a name with an optional tag or version, or a source reference.
    pub image: String,
    /// One architecture of it; the host's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Where to: an OCI reference that names its registry, such as `registry.example/team/app:1`.
    pub into: String,
    /// Further tags that it gets in the same repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// As what it is sent.
    #[serde(default, rename = "as", skip_serializing_if = "PushForm::is_oci")]
    pub form: PushForm,
    /// The whole index that the image was chosen from, not the one manifest alone. What this host
    /// has not is fetched from the image's source, whose tag must still name it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_platforms: bool,
    /// What refers to it at its source too: signatures, SBOMs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub referrers: bool,
    /// Who to be where the image came from, for what this host no longer has. Kept nowhere, logged nowhere.
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
    /// Answer with the operation at once and go on in the background.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
}

/// As what an image is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PushForm {
    /// The OCI image it was made from, byte for byte.
    #[default]
    Oci,
    /// The built image: root filesystem in chunks, kernel, initrd, modules. Another Kiln that pulls
    /// it builds nothing.
    Bootable,
    /// The root filesystem as a qcow2 disk in an OCI image of one layer, as KubeVirt takes it, with
    /// kernel and initrd beside it.
    Containerdisk,
}

impl PushForm {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde asks with a reference"
    )]
    fn is_oci(&self) -> bool {
        *self == Self::Oci
    }
}
