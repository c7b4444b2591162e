//! What commands that change something have in common: keys, preconditions, deadlines, pairs.

use std::collections::BTreeMap;
use std::time::Duration;

use supernode_client::CallOptions;

/// Makes a change safe to repeat.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct KeyOption {
    /// The same key with the same request has one effect, however often it is sent
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
}

impl KeyOption {
    pub(crate) fn call(&self) -> CallOptions {
        CallOptions {
            idempotency_key: self.idempotency_key.clone(),
            if_match: None,
        }
    }
}

/// Makes a change conditional.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Precondition {
    #[command(flatten)]
    pub(crate) key: KeyOption,
    /// Change only if the object has this generation
    #[arg(long, value_name = "N")]
    pub(crate) if_generation: Option<i64>,
}

impl Precondition {
    pub(crate) fn call(&self) -> CallOptions {
        CallOptions {
            if_match: self.if_generation,
            ..self.key.call()
        }
    }
}

/// Waits for the operation that was started.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct WaitOption {
    /// Wait until the operation has ended; exit code 1 and the reason if it failed
    #[arg(long)]
    pub(crate) wait: bool,
}

/// Limits the time of an operation.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct DeadlineOption {
    /// Give the operation up after this time, for example 30m [default: 15m]
    #[arg(long, value_name = "TIME", value_parser = supernode_types::time::parse_duration)]
    pub(crate) deadline: Option<Duration>,
}

impl DeadlineOption {
    pub(crate) fn seconds(self) -> Option<u64> {
        self.deadline.map(whole_seconds)
    }
}

/// Seconds, rounded up: half a second of grace is not none.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0))
}

/// [`whole_seconds`] for the smaller fields of the contract.
pub(crate) fn whole_seconds_u32(duration: Duration) -> u32 {
    u32::try_from(whole_seconds(duration)).unwrap_or(u32::MAX)
}

/// Reads `KEY=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

/// A change of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelChange {
    /// `KEY=VALUE`
    Set(String, String),
    /// `KEY-`
    Remove(String),
}

/// Reads `KEY=VALUE` or `KEY-`.
pub(crate) fn label_change(text: &str) -> Result<LabelChange, String> {
    if let Ok((key, value)) = pair(text) {
        return Ok(LabelChange::Set(key, value));
    }
    match text.strip_suffix('-') {
        Some(key) if !key.is_empty() && !text.contains('=') => {
            Ok(LabelChange::Remove(key.to_owned()))
        }
        _ => Err(format!(
            "`{text}` is neither KEY=VALUE nor KEY- (which removes a label)"
        )),
    }
}

/// The labels after the changes, in their order.
pub(crate) fn apply_labels(
    mut labels: BTreeMap<String, String>,
    changes: &[LabelChange],
) -> BTreeMap<String, String> {
    for change in changes {
        match change {
            LabelChange::Set(key, value) => {
                labels.insert(key.clone(), value.clone());
            }
            LabelChange::Remove(key) => {
                labels.remove(key);
            }
        }
    }
    labels
}

/// How often a read-change-write is tried when others change the same object.
pub(crate) const TRIES: u32 = 5;

/// Whether a read-change-write that failed may simply be done again: somebody else was faster, and the caller fixed neither the
/// generation nor the request's identity.
pub(crate) fn lost_race(
    error: &supernode_client::ClientError,
    precondition: &Precondition,
    tries: u32,
) -> bool {
    error.code() == Some(supernode_api::ErrorCode::PreconditionFailed)
        && precondition.if_generation.is_none()
        && precondition.key.idempotency_key.is_none()
        && tries < TRIES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed() {
        let changes: Vec<LabelChange> = ["a=1=2", "b-", "c="]
            .into_iter()
            .map(|text| label_change(text).expect("valid"))
            .collect();
        let labels = apply_labels(
            [
                ("b".to_owned(), "x".to_owned()),
                ("d".to_owned(), "y".to_owned()),
            ]
            .into(),
            &changes,
        );
        let expected = [("a", "1=2"), ("c", ""), ("d", "y")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(labels, expected.into());
        for bad in ["", "a", "-", "=x", "=-"] {
            assert!(label_change(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_of_a_second_are_not_lost() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(30)), 30);
        assert_eq!(whole_seconds_u32(Duration::MAX), u32::MAX);
    }
}
