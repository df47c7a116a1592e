//! Images and the registries they came from: `image.scan`, `image.outdated`, `image.untag`.
//!
//! A scan looks at what a registry says; vulnerabilities are not here.

use std::collections::BTreeMap;

use kiln_domain::{ImageId, ImageName, KernelName, OperationId, RegistryName, TagName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Credentials, Image};
use crate::codes;
use crate::failure::Failure;
use crate::method::method;
use crate::page::Page;
use crate::registry::RegistryCredentials;

method! {
    /// See [`ScanParams`].
    Scan = "image.scan",
    "Asks the registry again what it has for one image and architecture, and keeps the answer.",
    (ScanParams) -> Scanned, Change costly,
    [
        codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::request::INVALID_ID, codes::image::SOURCE_GONE,
        codes::image::NO_REGISTRY, codes::source::INVALID_PLATFORM,
        codes::source::MALFORMED_MANIFEST, codes::source::UNSUPPORTED,
        codes::source::DIGEST_MISMATCH, codes::source::SIZE_MISMATCH, codes::request::DENIED,
        codes::image::ALREADY_EXISTS, codes::image::NAME_RESERVED, codes::image::NAME_INVALID,
        codes::kernel::NOT_FOUND, codes::kernel::NO_DEFAULT, codes::kernel::UNRECOGNISED,
        codes::daemon::BUSY,
    ] + codes::REACHING_A_REGISTRY
}

method! {
    /// See [`OutdatedParams`].
    Outdated = "image.outdated",
    "Tells which of the caller's images have something newer at their registries, without pulling.",
    (OutdatedParams) -> Page<Standing>, Read costly, []
}

method! {
    /// See [`UntagParams`].
    Untag = "image.untag",
    "Takes the tag an image came from off it in the registry, and nothing else.",
    (UntagParams) -> Untagged, Change,
    [
        codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::request::INVALID_ID, codes::image::NO_REGISTRY,
        codes::source::NOT_FOUND, codes::source::CHANGED, codes::source::INVALID_PLATFORM,
        codes::registry::UNSUPPORTED, codes::registry::READ_ONLY, codes::request::DENIED,
    ] + codes::REACHING_A_REGISTRY
}

/// Which image to ask about, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScanParams {
    /// An id, a name with an optional tag or version, or a source reference.
    pub image: String,
    /// One architecture of it; the host's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Who to be at the registry. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Who to be at its mirrors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror_credentials: Vec<RegistryCredentials>,
    /// Whether the registry must have a certificate that can be trusted: with true it is spoken to
    /// in HTTPS alone, whatever is configured, and so are its mirrors; with false plain HTTP will
    /// do, and any certificate, for this call. As configured when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
    /// Make an image of what the registry has now, where this host has none that was made of it:
    /// the tag moved, or another architecture was asked for. The image that was named stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub register: bool,
    /// With `register`: what to call the new image; its own name with the first twelve digits of the
    /// manifest behind it when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub name: Option<ImageName>,
    /// With `register`: the kernel of the catalogue to boot it with; when left out the one the image
    /// was made with, or the default where that was none of the catalogue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub kernel_ref: Option<KernelName>,
}

/// What a scan found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Scanned {
    /// The image, which stays what it is.
    pub image: Image,
    /// What the registry says now.
    pub remote: RemoteImage,
    /// Whether that is another manifest than the image was made from.
    pub is_newer: bool,
    /// Whether the registry says something else than when it was last asked, or than what was
    /// pulled if it never was.
    pub has_changed: bool,
    /// The image of what is newer, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered: Option<Registered>,
}

/// An image of what a scan found to be newer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Registered {
    /// Its name.
    #[schemars(with = "String")]
    pub name: ImageName,
    /// The operation that makes it; none where this host has it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub operation_id: Option<OperationId>,
}

/// What a registry says of an image for one architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemoteImage {
    /// The reference that was asked about, in full.
    pub reference: String,
    /// For which architecture.
    pub architecture: String,
    /// Digest of the platform's manifest.
    pub manifest_digest: String,
    /// All layers together, as they are sent.
    pub size_bytes: u64,
    /// The layers, bottom first.
    pub layers: Vec<RemoteLayer>,
    /// When it was made, in its config's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Labels of its config.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When the registry said so.
    pub seen_at: String,
}

/// A layer as a registry sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemoteLayer {
    /// Its digest.
    pub digest: String,
    /// Its length.
    pub size_bytes: u64,
    /// What it is.
    pub media_type: String,
}

/// Which images to ask about, and as whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutdatedParams {
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many images in a page; 50 when left out, 200 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// All images that the caller sees, not the caller's own alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Who to be at which registry. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<RegistryCredentials>,
}

/// How one architecture of an image stands against its registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Standing {
    /// The image.
    #[schemars(with = "String")]
    pub image_id: ImageId,
    /// Its name.
    pub name: String,
    /// Which architecture.
    pub architecture: String,
    /// What it came from, in full.
    pub reference: String,
    /// Whether there is something newer.
    pub state: Freshness,
    /// Digest of the manifest it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// Digest of the manifest the registry has now, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_digest: Option<String>,
    /// Why it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// Whether there is something newer than an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// The registry has what the image was made from.
    Current,
    /// The tag names another manifest now.
    Outdated,
    /// The registry no longer has it.
    Gone,
    /// The registry could not be asked.
    Unknown,
}

/// Which tag to take off which image, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UntagParams {
    /// An id, a name with an optional tag or version, or a source reference.
    pub image: String,
    /// One architecture of it; the host's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The registry; the one it came from when left out. The repository is the same there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub registry: Option<RegistryName>,
    /// The tag; the one it came from when left out. It must name what the image was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub tag: Option<TagName>,
    /// Only tell what would be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Who to be there. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Whether it must have a certificate that can be trusted: with true it is spoken to in HTTPS
    /// alone, whatever is configured; with false plain HTTP will do, and any certificate, for this
    /// call. As configured when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
}

/// What was untagged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Untagged {
    /// The image, which stays what it is.
    pub image: Image,
    /// The tag that is gone, with its registry and repository.
    pub reference: String,
    /// The digest of the manifest it named, which is still there.
    pub digest: String,
    /// Whether the registry deletes no tags, and this one was moved to a manifest of its own that
    /// was deleted.
    pub by_replacement: bool,
    /// Whether nothing was done.
    pub dry_run: bool,
}
