//! What is wrong with a registry: `registry.doctor`.

use kiln_domain::RegistryName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::image::Credentials;
use crate::method::method;

method! {
    /// See [`DoctorParams`].
    Doctor = "registry.doctor",
    "Looks at everything between the daemon and a registry, step by step. What fails is a finding and no error.",
    (DoctorParams) -> Diagnosis, Read costly,
    [codes::source::INVALID_REFERENCE]
}

/// Which registry to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DoctorParams {
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

/// What was seen, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Diagnosis {
    /// The registry.
    #[schemars(with = "String")]
    pub registry: RegistryName,
    /// One finding per step.
    pub findings: Vec<Finding>,
}

/// How a step came out.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not for everything, or it could not be looked at.
    Warn,
    /// The registry cannot be used like this.
    Fail,
}

/// What one step saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// `name`, `connection`, `proxy`, `answer`, `protocol`, `login`, `clock` or `deletion`.
    pub check: String,
    /// How it came out.
    pub level: Level,
    /// What was seen.
    pub message: String,
    /// A command that helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}
