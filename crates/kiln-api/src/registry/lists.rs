//! What registries list: repositories, tags, referrers; and how often they let themselves be asked.

use kiln_domain::RegistryName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::manifest::Pointer;
use crate::codes;
use crate::image::Credentials;
use crate::method::method;
use crate::registry::RegistryCredentials;

method! {
    /// See [`CatalogParams`].
    Catalog = "registry.catalog",
    "Lists the repositories of a registry, where it offers a catalogue.",
    (CatalogParams) -> Names, Read,
    [codes::registry::UNSUPPORTED] + codes::REACHING_A_REGISTRY
}

method! {
    /// See [`TagsParams`].
    Tags = "registry.tags",
    "Lists the tags of a repository.",
    (TagsParams) -> Names, Read,
    [
        codes::source::NOT_FOUND, codes::source::AMBIGUOUS, codes::registry::UNSUPPORTED,
    ] + codes::REACHING_A_REGISTRY
}

method! {
    /// See [`ReferrersParams`].
    Referrers = "registry.referrers",
    "Lists what refers to an image: signatures, lists of contents, attestations.",
    (ReferrersParams) -> ReferrersPage, Read,
    [
        codes::source::NOT_FOUND, codes::source::AMBIGUOUS, codes::source::MALFORMED_MANIFEST,
        codes::source::DIGEST_MISMATCH,
    ] + codes::REACHING_A_REGISTRY
}

method! {
    /// See [`RateLimitParams`].
    RateLimit = "registry.ratelimit",
    "Tells how often a registry lets itself be asked, as far as it says so.",
    (RateLimitParams) -> RateLimits, Read,
    [codes::source::NOT_FOUND, codes::source::AMBIGUOUS] + codes::REACHING_A_REGISTRY
}

/// Which registry's repositories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CatalogParams {
    /// Its host, with a port where it has one of its own.
    #[schemars(with = "String")]
    pub registry: RegistryName,
    /// Most names in the page: 100 when left out, at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Who to be there. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Whether it must have a certificate that can be trusted: with true it is spoken to in HTTPS
    /// alone, whatever is configured; with false plain HTTP will do, and any certificate, for this
    /// call. As configured when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
}

/// Which repository's tags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TagsParams {
    /// A reference to anything in the repository; a tag or digest in it says nothing.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Most names in the page: 100 when left out, at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Who to be there. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Who to be at the registry that the configuration moved it to. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror_credentials: Vec<RegistryCredentials>,
    /// Whether it must have a certificate that can be trusted: with true it is spoken to in HTTPS
    /// alone, whatever is configured; with false plain HTTP will do, and any certificate, for this
    /// call. As configured when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
}

/// One page of names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Names {
    /// The names, in the registry's order.
    pub items: Vec<String>,
    /// What to send as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What refers to which image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferrersParams {
    /// The image. A tag is looked up first.
    #[serde(rename = "ref")]
    pub reference: String,
    /// One kind of artifact, such as `application/spdx+json`; every kind when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Most of them in the page: 100 when left out, at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Who to be there. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Who to be at the registry that the configuration moved it to. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror_credentials: Vec<RegistryCredentials>,
    /// Whether it must have a certificate that can be trusted: with true it is spoken to in HTTPS
    /// alone, whatever is configured; with false plain HTTP will do, and any certificate, for this
    /// call. As configured when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
}

/// One page of what refers to an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReferrersPage {
    /// The digest of what they refer to.
    pub subject: String,
    /// Their manifests, in the registry's order.
    pub items: Vec<Pointer>,
    /// What to send as `after` for the next page; absent on the last one. A page may be empty and
    /// have a next one, where the registry does not filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Whether the registry keeps no such lists, and a tag was read that clients look after.
    #[serde(default)]
    pub under_tag: bool,
}

/// Which registry's limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitParams {
    /// Its host, with a port where it has one of its own.
    #[schemars(with = "String")]
    pub registry: RegistryName,
    /// An image of it to ask about, since limits may differ; when left out the registry is asked
    /// for nothing in particular, and the Docker Hub about the image it keeps for this.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Who to be there. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Whether it must have a certificate that can be trusted: with true it is spoken to in HTTPS
    /// alone, whatever is configured; with false plain HTTP will do, and any certificate, for this
    /// call. As configured when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
}

/// What a registry says of its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RateLimits {
    /// The registry.
    #[schemars(with = "String")]
    pub registry: RegistryName,
    /// The limits; empty where it says nothing of any.
    pub limits: Vec<Limit>,
    /// Whose requests are counted: an address, or an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limit {
    /// What the registry calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many requests it lets through in a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// How many are left of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
    /// The window's length in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<u64>,
    /// When the count begins anew, in seconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_seconds: Option<u64>,
}
