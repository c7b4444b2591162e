//! What the server would answer, written in tests as JSON.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Read as the client reads it: reading it in another way would be compiled again for each type.
#[track_caller]
pub(crate) fn answer<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_slice(value.to_string().as_bytes()).expect("the sample is what it says")
}
