//! What lists and watches have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// No query, no body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Pass as `cursor` to get the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Query of a single object: with `after_generation`, the answer waits until the object's generation is larger or the time is over.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Answer once the generation is larger than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_generation: Option<i64>,
    /// The longest wait; at most 30,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_milliseconds: Option<u64>,
}

/// How many items a page has when the request does not say.
pub const DEFAULT_LIMIT: u32 = 100;
/// The most items that a page has.
pub const MAXIMUM_LIMIT: u32 = 1000;
