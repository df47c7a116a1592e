//! Registries, seen over the network: `registry.*`.

pub mod copy;
mod deletion;
pub mod doctor;
mod explain;
mod lists;
pub mod logins;
mod manifest;
pub mod sync;

pub use deletion::{Delete, DeleteParams, Deleted, Untag, UntagParams, Untagged};
pub use lists::{
    Catalog, CatalogParams, Limit, Names, RateLimit, RateLimitParams, RateLimits, Referrers,
    ReferrersPage, ReferrersParams, Tags, TagsParams,
};
pub use manifest::{
    Blob, BlobParams, DocumentKind, ImageConfig, Manifest, ManifestParams, ManifestView,
    OpenedBlob, Pointer,
};

use kiln_domain::RegistryName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::image::Credentials;
use crate::method::method;

pub use explain::{
    Endpoint, EndpointRole, EndpointSecurity, Explain, ExplainParams, Explanation, PassedOver,
};

method! {
    /// See [`PingParams`].
    Ping = "registry.ping",
    "Asks whether a registry is there, speaks the protocol and knows the caller.",
    (PingParams) -> Pong, Read,
    [] + codes::REACHING_A_REGISTRY
}

/// Which registry to ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PingParams {
    /// Its host, with a port where it has one of its own.
    #[schemars(with = "String")]
    pub registry: RegistryName,
    /// Who to be there. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Whether it must have a certificate that can be trusted: with true it is spoken to in HTTPS
    /// alone, whatever is configured; with false plain HTTP will do, and any certificate, for this
    /// call. As configured when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
}

/// Who to be at one registry of several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryCredentials {
    /// The registry. No other is told.
    #[schemars(with = "String")]
    pub registry: RegistryName,
    /// Who to be there. Kept nowhere, logged nowhere.
    pub credentials: Credentials,
}

/// A registry's sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pong {
    /// The registry.
    #[schemars(with = "String")]
    pub registry: RegistryName,
    /// The root of its API.
    pub url: String,
    /// The protocol it says it speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// The user name of the call's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Whether the registry asked who is calling, and took the credentials. An open one does not
    /// ask.
    #[serde(default)]
    pub authenticated: bool,
}
