//! What callers did and were refused: `audit.*`.

use kiln_domain::Timestamp;
use kiln_domain::access::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::method;
use crate::page::Page;

method! {
    /// See [`Line`].
    List = "audit.list",
    "Lists the calls that changed something or were refused, oldest first: the caller's own, or all for a superadmin.",
    (ListParams) -> Page<Line>, Read, [crate::codes::user::NOT_FOUND]
}

/// Which lines to list. What is given must all be so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// Only lines behind this sequence number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only calls of this user: a uid, or what the daemon calls the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Only methods that begin so, such as `image.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only calls about this: a UUID is taken for an id, anything else for what calls named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Only calls that ended so: `ok`, `failed` for all that did not end well, or a code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Only calls that ended then or later, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub since: Option<Timestamp>,
    /// Only calls that ended before, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub until: Option<Timestamp>,
}

/// One call. It has no secret in it, and outlives what it tells of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// Its place in the order of all lines.
    pub seq: u64,
    /// When the call ended, RFC 3339 with microseconds.
    pub at: String,
    /// Who called: `unix:<uid>`.
    pub actor: String,
    /// What the daemon called the user then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// What the user was to the daemon then.
    #[schemars(with = "String")]
    pub role: Role,
    /// The method.
    pub method: String,
    /// The noun of what the call was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_kind: Option<String>,
    /// What the call named it, cut to 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_name: Option<String>,
    /// Its id, where the call or the answer told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_id: Option<String>,
    /// `ok`, or the code of the failure; `unknown` when the caller had gone before the end.
    pub result: String,
    /// The call's number in the daemon's log.
    pub request_id: String,
    /// The operation that the answer told of, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
    /// How many failed calls of this caller have no line of their own, since the caller's line
    /// before: a flood is counted, not written.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unwritten: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
