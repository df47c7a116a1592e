//! `registry.sync`: what is new in some repositories, copied by rule to others.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::failure::Failure;
use crate::image::push::PushForm;
use crate::image::{Credentials, Started};
use crate::method::method;

use super::RegistryCredentials;

method! {
    /// See [`SyncParams`].
    Sync = "registry.sync",
    "Copies what rules choose from registries, or of this host's images, to registries, as far as it is not there.",
    (SyncParams) -> SyncOutcome, Make costly,
    [
        codes::request::INVALID_PARAMS, codes::source::INVALID_PLATFORM,
        codes::source::AMBIGUOUS, codes::source::NOT_FOUND, codes::source::PLATFORM_NOT_FOUND,
        codes::source::MALFORMED_MANIFEST, codes::source::UNSUPPORTED,
        codes::source::DIGEST_MISMATCH, codes::source::SIZE_MISMATCH, codes::registry::UNSUPPORTED,
        codes::operation::CANCELLED, codes::storage::FULL, codes::storage::FAILED,
        codes::daemon::BUSY, codes::daemon::STOPPING,
    ] + codes::REACHING_A_REGISTRY + codes::WRITING_TO_A_REGISTRY
}

/// What to copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncParams {
    /// The rules, one after the other; 256 at most.
    pub rules: Vec<SyncRule>,
    /// Only tell what would be copied, and how many bytes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Answer with the operation at once and go on in the background.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
}

/// One rule: what it says of `from` or of `images` is brought to `into`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncRule {
    /// The repositories: one, such as `registry.example/team/app`, or with `*` and `?` all that the
    /// registry's catalogue lists of that form. With a pattern the registry is written out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// In place of `from`, images of this host by name, with `*` and `?`, as far as the caller sees
    /// them. Their tags are what `tags` and the others choose from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<String>,
    /// As what `images` are sent; the OCI images they were made from when left out.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub form: Option<PushForm>,
    /// The repository it goes to, its registry written out. Where `from` or `images` is a pattern,
    /// the namespace that the repositories go to, under the part of their names from the first one
    /// with a star on.
    pub into: String,
    /// Tags, with `*` and `?`; all when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Tags that are left out, with `*` and `?`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Only tags that are versions in this range, such as `>=1.2, <2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<String>,
    /// Only so many of the newest versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u32>,
    /// One platform; all of them, with their index, when left out. Of `images` those for it; the
    /// host's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// What refers to the images too: signatures, SBOMs.
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
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Synced {
    /// What the rules chose, or which rule chose nothing because it failed.
    pub items: Vec<SyncItem>,
    /// Rules that nothing matched, by what they choose from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmatched: Vec<String>,
    /// How many were copied, or would be.
    pub copied: u64,
    /// How many were there.
    pub up_to_date: u64,
    /// How many failed.
    pub failed: u64,
    /// Bytes of blobs that were sent, or would be.
    pub sent_bytes: u64,
    /// Whether nothing was done, only told.
    pub dry_run: bool,
}

/// One thing that a rule chose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SyncItem {
    /// The reference it comes from, or the image and its tag.
    pub item: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: SyncItemOutcome,
}

/// How it went with one thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SyncItemOutcome {
    /// Well.
    Ok(SyncedItem),
    /// Not well.
    Error(Box<Failure>),
}

/// One thing that is where it is to be, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SyncedItem {
    /// Where it goes.
    pub into: String,
    /// Its digest.
    pub digest: String,
    /// Whether it was there.
    pub is_up_to_date: bool,
    /// Bytes of blobs that were sent, or would be.
    pub sent_bytes: u64,
}

/// What a sync answers: what came of it, or with `detach` the operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SyncOutcome {
    /// The operation goes on in the background.
    Started(Box<Started>),
    /// It is done.
    Synced(Box<Synced>),
}
