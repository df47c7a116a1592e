//! Documents and blobs of a registry, as they are.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::host_file::HandleId;
use crate::image::Credentials;
use crate::method::method;
use crate::registry::RegistryCredentials;

method! {
    /// See [`ManifestParams`].
    Manifest = "registry.manifest",
    "Fetches a manifest or index, to the byte, and tells what it says.",
    (ManifestParams) -> ManifestView, Read,
    [
        codes::source::NOT_FOUND, codes::source::AMBIGUOUS, codes::source::INVALID_PLATFORM,
        codes::source::PLATFORM_NOT_FOUND, codes::source::MALFORMED_MANIFEST,
        codes::source::UNSUPPORTED, codes::source::DIGEST_MISMATCH, codes::source::SIZE_MISMATCH,
    ] + codes::REACHING_A_REGISTRY
}

method! {
    /// See [`BlobParams`].
    Blob = "registry.blob",
    "Fetches a blob and lays it out, its digest checked, for the caller to take at the second socket.",
    (BlobParams) -> OpenedBlob, Read,
    [
        codes::source::NOT_FOUND, codes::source::AMBIGUOUS, codes::source::DIGEST_MISMATCH,
        codes::source::SIZE_MISMATCH, codes::storage::FULL, codes::storage::FAILED,
        codes::daemon::BUSY,
    ] + codes::REACHING_A_REGISTRY
}

/// Which document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManifestParams {
    /// The image or artifact, by tag or digest.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The manifest for this platform, such as `linux/arm64`, where the reference names an index;
    /// the index itself when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Who to be there. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Who to be at other registries that the configuration leads to: mirrors, and where it was moved
    /// to. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror_credentials: Vec<RegistryCredentials>,
    /// Whether it must have a certificate that can be trusted: with true it is spoken to in HTTPS
    /// alone, whatever is configured, and so are its mirrors; with false plain HTTP will do, and
    /// any certificate, for this call. As configured when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
}

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DocumentKind {
    /// A list of documents, usually one per platform.
    Index,
    /// An image of one platform.
    Image,
    /// Anything else that is stored like an image.
    Artifact,
}

/// A document of a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ManifestView {
    /// The reference, pinned to the document's digest.
    pub reference: String,
    /// What its bytes hash to.
    pub digest: String,
    /// What it is said to be.
    pub media_type: String,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// What it is.
    pub kind: DocumentKind,
    /// What kind of artifact it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Pointer>,
    /// The documents of an index, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Pointer>,
    /// The config of an image or artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Pointer>,
    /// Its layers, bottom first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Pointer>,
    /// Notes on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What the config of an image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageConfig>,
    /// The document itself, byte for byte.
    pub content: String,
}

/// What points at a document or blob: a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pointer {
    /// What the content is said to be.
    pub media_type: String,
    /// What its bytes hash to.
    pub digest: String,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// Which platform it is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// What kind of artifact it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Notes on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What the config of an image says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageConfig {
    /// What the image runs on.
    pub platform: String,
    /// When it was made, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What is run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// What is run with it, or alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Its environment, `NAME=value` each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Who runs it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Notes in the config.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Which blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlobParams {
    /// The repository with the blob's digest, such as `ghcr.io/org/app@sha256:…`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// How long it is, where a manifest said so; the registry is asked when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Who to be there. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Who to be at other registries that the configuration leads to: mirrors, and where it was moved
    /// to. Kept nowhere, logged nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror_credentials: Vec<RegistryCredentials>,
    /// Whether it must have a certificate that can be trusted: with true it is spoken to in HTTPS
    /// alone, whatever is configured, and so are its mirrors; with false plain HTTP will do, and
    /// any certificate, for this call. As configured when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
}

/// A blob that was fetched, for one caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OpenedBlob {
    /// What its bytes hash to.
    pub digest: String,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// What its descriptor is taken by at the second socket: once, within a minute.
    pub handle: HandleId,
}
