//! Leases, with which a process keeps an image while it needs it: `image.lease`, `image.renew_lease`
//! and `image.release`.

use kiln_domain::{ImageId, LeaseId, VersionId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::method::method;

method! {
    /// See [`Lease`].
    Take = "image.lease",
    "Keeps an image from being forgotten and removed until the lease ends.",
    (TakeParams) -> Lease, Make,
    [
        codes::image::NOT_FOUND, codes::image::AMBIGUOUS, codes::lease::TOO_MANY,
        codes::source::INVALID_PLATFORM, codes::request::DENIED,
    ]
}

method! {
    /// See [`Lease`].
    Renew = "image.renew_lease",
    "Moves the end of a lease that has not ended.",
    (RenewParams) -> Lease, Change, [codes::lease::NOT_FOUND, codes::request::INVALID_ID]
}

method! {
    /// See [`Lease`].
    Release = "image.release",
    "Ends a lease before its time.",
    (ReleaseParams) -> Lease, Change, [codes::lease::NOT_FOUND, codes::request::INVALID_ID]
}

/// How long a lease lasts when the caller does not say, in seconds: ten minutes.
pub const DEFAULT_TTL_SECONDS: u64 = 600;

/// How long a lease lasts at most without being renewed, in seconds: a week.
pub const MAX_TTL_SECONDS: u64 = 7 * 86_400;

/// Most leases of one user at a time.
pub const MAX_PER_USER: u64 = 256;

/// Longest purpose, in bytes.
pub const PURPOSE_MAX: usize = 200;

/// Which image to keep, for how long and what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeParams {
    /// An id, a name with an optional tag or version, or a source reference.
    pub image: String,
    /// One architecture of it; the host's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// For how long, in seconds: 600 when left out, at most a week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// What for, in a few words for people: 1 to 200 bytes.
    pub purpose: String,
}

/// Which lease to renew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewParams {
    /// The lease's id.
    pub lease_id: String,
    /// For how long from now, in seconds: 600 when left out, at most a week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

/// Which lease to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseParams {
    /// The lease's id.
    pub lease_id: String,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    /// Its id.
    #[schemars(with = "String")]
    pub id: LeaseId,
    /// The image it keeps.
    #[schemars(with = "String")]
    pub image_id: ImageId,
    /// The version of it that was meant.
    #[schemars(with = "String")]
    pub version_id: VersionId,
    /// The uid of who took it.
    pub owner_uid: u32,
    /// What for.
    pub purpose: String,
    /// When it was taken.
    pub created_at: String,
    /// When it ends, unless it is renewed.
    pub expires_at: String,
}
