//! Deleting from registries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::image::Credentials;
use crate::method::method;

method! {
    /// See [`DeleteParams`].
    Delete = "registry.delete",
    "Deletes a manifest from a registry, with every tag of it.",
    (DeleteParams) -> Deleted, Change,
    [
        codes::source::NOT_FOUND, codes::source::DIGEST_MISMATCH, codes::registry::TAGS_SHARED,
        codes::registry::UNSUPPORTED,
    ] + codes::REACHING_A_REGISTRY
}

method! {
    /// See [`UntagParams`].
    Untag = "registry.untag",
    "Takes a tag off a manifest of a registry and leaves the manifest.",
    (UntagParams) -> Untagged, Change,
    [
        codes::source::NOT_FOUND, codes::source::DIGEST_MISMATCH, codes::registry::UNSUPPORTED,
    ] + codes::REACHING_A_REGISTRY
}

/// Which manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteParams {
    /// The image or artifact, by tag or digest; its registry is written out.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Whether other tags than the one named may go with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Only tell what would go.
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

/// What was deleted. What refers to the manifest and its blobs stay, until the registry's own
/// garbage collection frees them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deleted {
    /// The reference, pinned to the manifest's digest.
    pub reference: String,
    /// The manifest's digest.
    pub digest: String,
    /// Every tag that named it, all gone with it.
    pub tags: Vec<String>,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// Which tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UntagParams {
    /// The image or artifact with the tag; both registry and tag are written out.
    #[serde(rename = "ref")]
    pub reference: String,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Untagged {
    /// The reference with its tag.
    pub reference: String,
    /// The digest of the manifest, which is still there.
    pub digest: String,
    /// Whether the registry deletes no tags, and this one was moved to a manifest of its own that
    /// was deleted.
    pub by_replacement: bool,
    /// Whether nothing was done.
    pub dry_run: bool,
}
