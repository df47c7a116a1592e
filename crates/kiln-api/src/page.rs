//! Lists come in pages: a cursor in, a cursor out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rows in a page when the caller does not say.
pub const DEFAULT_LIMIT: u32 = 100;

/// Most rows in a page: a page of image views stays below a megabyte.
pub const MAX_LIMIT: u32 = 1_000;

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    /// The rows, in the order of their making.
    pub items: Vec<T>,
    /// What to send as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}
