//! Where an image would be asked for: `registry.explain`.

use kiln_domain::RegistryName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::method::method;

method! {
    /// See [`ExplainParams`].
    Explain = "registry.explain",
    "Tells which hosts would be asked for an image, in which order, how and why. Asks nobody.",
    (ExplainParams) -> Explanation, Read,
    [codes::source::INVALID_REFERENCE, codes::source::AMBIGUOUS]
}

/// Which image to explain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainParams {
    /// A reference as one would pull it.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Whether the registry that the reference names must have a certificate that can be trusted:
    /// with true it is spoken to in HTTPS alone, whatever is configured, and so are its mirrors;
    /// with false plain HTTP will do, and any certificate, for this call. As configured when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
}

/// The places that would be asked, and what decided for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// The reference in full, as images are found by it.
    pub reference: String,
    /// Why it is that one, where it was written without a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_name: Option<String>,
    /// The rule that holds for it: a file and a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The prefix of that rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Whether the rule forbids it.
    pub blocked: bool,
    /// The places, in the order in which they are asked; the image itself lies at the last.
    pub endpoints: Vec<Endpoint>,
    /// Mirrors of the rule that are not asked for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
}

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointRole {
    /// It has copies.
    Mirror,
    /// The image lies there.
    Location,
}

/// How a place is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointSecurity {
    /// HTTPS with a certificate that can be trusted.
    Https,
    /// The place is on this host: HTTP or HTTPS, whichever it speaks.
    Loopback,
    /// HTTP or HTTPS with any certificate.
    Insecure,
}

/// One place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// Its host.
    #[schemars(with = "String")]
    pub registry: RegistryName,
    /// What the image is called there.
    pub reference: String,
    /// What it is.
    pub role: EndpointRole,
    /// Why it is asked.
    pub reason: String,
    /// Whether it may say what a tag means.
    pub resolves_tags: bool,
    /// Why, or why not.
    pub tags_reason: String,
    /// How it is spoken to.
    pub security: EndpointSecurity,
    /// Files of certificate authorities that are trusted there and not everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorities: Vec<String>,
    /// The file of the client certificate that is shown there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// The proxy on the way, without its user name and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Whence the proxy comes, or why there is none.
    pub proxy_reason: String,
    /// Names of headers that are sent along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// How many downloads there are at a time at most, where that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
}

/// A mirror that is not asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PassedOver {
    /// Where it lies.
    pub location: String,
    /// Why.
    pub reason: String,
}
