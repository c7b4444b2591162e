//! Events. `GET /api/v1/events/stream` serves the same query as server-sent events, each with its sequence as id.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::event::Event;

use crate::{Nothing, Page, operations};

/// Which events to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventListQuery {
    /// Only later ones, oldest first; without it the latest ones, newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_sequence: Option<i64>,
    /// Id of a node, super node, job or operation that the event is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// `info`, `warning` or `error`: this and worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// Items per page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Path of the server-sent event stream (role viewer, query [`EventListQuery`]).
pub const STREAM_PATH: &str = "/api/v1/events/stream";

operations! {
    EventList = "event_list" Get "/api/v1/events" 200 Viewer (EventListQuery, Nothing) -> Page<Event>, "List events.";
}
