//! Who asks for a change, when, and with what at hand.

use std::sync::Arc;

use supernode_types::{Entropy, Timestamp};

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
    pub fn check_generation(&self, kind: &'static str, name: &str, found: i64) -> Result<(), Refusal> {
        match self.if_match {
            Some(wanted) if wanted != found => Err(Refusal::PreconditionFailed { kind, name: name.to_owned(), wanted, found }),
            _ => Ok(()),
        }
    }
}

/// Labels that are safe to show, to store and to use as metric labels.
pub(crate) fn check_labels(labels: &std::collections::BTreeMap<String, String>) -> Result<(), Refusal> {
    if labels.len() > 64 {
        return Err(Refusal::Invalid(format!("{} labels are too many; 64 is the most", labels.len())));
    }
    for (key, value) in labels {
        let clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
        if key.is_empty() || key.len() > 63 || value.len() > 63 || !clean(key) || !clean(value) {
            return Err(Refusal::Invalid(format!(
                "label `{}`: keys and values have at most 63 characters of letters, digits, `-`, `_`, `.` and `/`",
                key.chars().take(63).collect::<String>()
            )));
        }
    }
    Ok(())
}
