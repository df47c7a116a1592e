//! What happened, in order: `event.*`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::method;
use crate::page::Page;

method! {
    /// See [`Event`].
    List = "event.list",
    "Lists what happened to images, kernels and operations, oldest first.",
    (ListParams) -> Page<Event>, Read, []
}

/// Which events to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// Only events behind this sequence number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only events whose kind starts so, such as `image.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only events of this object, by its id or its kernel name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_id: Option<String>,
}

/// One thing that happened. It was written in the transaction that made it so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its place in the order of all events.
    pub seq: u64,
    /// When, RFC 3339 with microseconds.
    pub at: String,
    /// Who did it: `unix:<uid>`, or `daemon`.
    pub actor: String,
    /// What happened, such as `image.created`.
    pub kind: String,
    /// What it happened to: `image`, `version`, `kernel`, `operation` or `daemon`.
    pub object_kind: String,
    /// Which one.
    pub object_id: String,
    /// More about it.
    pub data: serde_json::Value,
}
