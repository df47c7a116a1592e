//! Registries, seen over the network: `registry.*`.

pub mod copy;
mod deletion;
mod lists;
pub mod logins;
mod manifest;

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

method! {
    /// See [`PingParams`].
    Ping = "registry.ping",
    "Asks whether a registry is there, speaks the protocol and knows the caller.",
    (PingParams) -> Pong,
    [
        codes::registry::UNREACHABLE, codes::registry::TIMED_OUT, codes::registry::TLS_FAILED,
        codes::registry::AUTH_REQUIRED, codes::registry::AUTH_FAILED, codes::registry::DENIED,
        codes::registry::RATE_LIMITED, codes::registry::SERVER_ERROR,
        codes::registry::UNEXPECTED_ANSWER,
    ]
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
