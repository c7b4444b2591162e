//! Who asks for a change, when, and with what at hand.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use supernode_types::node::Position;
use supernode_types::{Entropy, Name, Timestamp};

use crate::{Refusal, Settings};

/// What a change knows of its request.
#[derive(Debug, Clone)]
pub struct Intent {
    /// The caller's name.
    pub actor: String,
    /// Whether the caller may change other people's jobs.
    pub operator: bool,
    /// Whether the caller may allow root.
    pub admin: bool,
    /// The moment of the change.
    pub now: Timestamp,
    /// The generation that the object must have, if the caller named one.
    pub if_match: Option<i64>,
    /// Randomness for new ids.
    pub entropy: Arc<dyn Entropy>,
    /// The server's settings.
    pub settings: Arc<Settings>,
}

impl Intent {
    /// Refuses when the caller named another generation than the object has.
    pub fn check_generation(
        &self,
        kind: &'static str,
        name: &str,
        found: i64,
    ) -> Result<(), Refusal> {
        match self.if_match {
            Some(wanted) if wanted != found => Err(Refusal::PreconditionFailed {
                kind,
                name: name.to_owned(),
                wanted,
                found,
            }),
            _ => Ok(()),
        }
    }
}

/// Labels that are safe to show, to store and to use as metric labels.
pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if labels.len() > 64 {
        return Err(Refusal::Invalid(format!(
            "{} labels are too many; 64 is the most",
            labels.len()
        )));
    }
    for (key, value) in labels {
        let clean = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
        };
        if key.is_empty() || key.len() > 63 || value.len() > 63 || !clean(key) || !clean(value) {
            return Err(Refusal::Invalid(format!(
                "label `{}`: keys and values have at most 63 characters of letters, digits, `-`, `_`, `.` and `/`",
                key.chars().take(63).collect::<String>()
            )));
        }
    }
    Ok(())
}

/// Places that are safe to show and to store.
pub(crate) fn check_position(position: &Position) -> Result<(), Refusal> {
    let parts = [&position.hyperplane, &position.rack, &position.leaf];
    let clean =
        |part: &String| !part.is_empty() && part.len() <= 63 && !part.contains(char::is_control);
    if parts.into_iter().flatten().all(clean) {
        Ok(())
    } else {
        Err(Refusal::Invalid(
            "hyperplane, rack and leaf have 1 to 63 printable characters".into(),
        ))
    }
}

/// A name that could be taken for an id would hide the object with that id, or be hidden by it.
pub(crate) fn check_name<Id: FromStr>(name: &Name) -> Result<(), Refusal> {
    match name.as_str().parse::<Id>() {
        Ok(_) => Err(Refusal::Invalid(format!(
            "`{name}` looks like an id; choose another name"
        ))),
        Err(_) => Ok(()),
    }
}

/// Whether a text can be the address of a node: it goes into host files and command lines.
pub(crate) fn is_host(address: &str) -> bool {
    let clean = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
    !address.is_empty() && address.len() <= 255 && address.bytes().all(clean)
}
