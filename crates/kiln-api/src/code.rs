//! What an error code is: a stable name, and the class that decides how it is answered.
//!
//! The codes themselves are in [`codes`](crate::codes), grouped by noun.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The family a code belongs to. It alone decides the JSON-RPC number, the HTTP status and the
/// exit code of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The request can never succeed as it stands.
    Invalid,
    /// Something named in the request does not exist.
    NotFound,
    /// Who is calling could not be established, here or at a registry.
    Auth,
    /// Who is calling may not do this.
    Denied,
    /// The state of things forbids it: taken, in use, over quota.
    Conflict,
    /// A policy refuses it.
    Policy,
    /// The network or a registry failed; trying again may help.
    Network,
    /// The daemon cannot serve it now; trying again may help.
    Unavailable,
    /// Part of a batch failed.
    Partial,
    /// A caller stopped it.
    Cancelled,
    /// It took longer than the caller wanted to wait.
    Timeout,
    /// Kiln or the machine below it failed.
    Internal,
}

impl Class {
    /// Every class, in the order of the documentation.
    pub const ALL: &'static [Self] = &[
        Self::Invalid,
        Self::NotFound,
        Self::Auth,
        Self::Denied,
        Self::Conflict,
        Self::Policy,
        Self::Network,
        Self::Unavailable,
        Self::Partial,
        Self::Cancelled,
        Self::Timeout,
        Self::Internal,
    ];

    /// Returns the client's exit code for this class.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Auth | Self::Denied => 4,
            Self::Conflict => 5,
            Self::Policy => 6,
            Self::Network | Self::Unavailable => 8,
            Self::Partial => 9,
            Self::Timeout => 124,
            Self::Cancelled => 130,
        }
    }

    /// Returns the HTTP status that says the same.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Auth => 401,
            Self::Denied | Self::Policy => 403,
            Self::Conflict => 409,
            Self::Network => 502,
            Self::Unavailable => 503,
            Self::Partial => 207,
            Self::Cancelled => 499,
            Self::Timeout => 504,
            Self::Internal => 500,
        }
    }

    /// Returns the JSON-RPC error number, in the range the specification leaves to servers
    /// (JSON-RPC 2.0, section 5.1). The identity of an error is its code, not this number.
    pub fn rpc_number(self) -> i32 {
        match self {
            Self::Internal => -32_000,
            Self::Invalid => -32_001,
            Self::NotFound => -32_002,
            Self::Auth => -32_003,
            Self::Denied => -32_004,
            Self::Conflict => -32_005,
            Self::Policy => -32_006,
            // -32007 and -32009 are jsonrpsee's own (oversized request, server busy).
            Self::Network => -32_010,
            Self::Unavailable => -32_011,
            Self::Partial => -32_012,
            Self::Cancelled => -32_013,
            Self::Timeout => -32_014,
        }
    }

    /// Returns the word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Auth => "auth",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::Policy => "policy",
            Self::Network => "network",
            Self::Unavailable => "unavailable",
            Self::Partial => "partial",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }
}

/// One stable error code, such as `image.already_exists`.
///
/// A code is never renamed or given another class within a major version of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `noun.what_happened`, lower case.
    pub name: &'static str,
    /// Decides numbers and exit codes.
    pub class: Class,
    /// Tells whether the same call may succeed later without the caller changing anything.
    pub retryable: bool,
    /// What it means, one sentence for the reference.
    pub meaning: &'static str,
    /// What to do about it, one sentence for the reference.
    pub next_step: &'static str,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
