//! When super nodes test themselves, and how many nodes at a time.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Item, Tier};
use crate::{Generation, Name, OperationId, StressPlanId, SuperNodeId, Timestamp};

/// When and how a super node tests itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StressPlan {
    /// Its id.
    pub id: StressPlanId,
    /// The super node.
    pub super_node: SuperNodeId,
    /// What it does each time.
    #[serde(flatten)]
    pub terms: StressTerms,
    /// No run begins while it is paused; slots that pass meanwhile are neither run nor missed.
    pub paused: bool,
    /// Every slot until here was run, or recorded as missed.
    pub settled: Timestamp,
    /// When it has to be looked at again: its next run begins then. Absent while it is paused.
    pub next_due: Option<Timestamp>,
    /// The run that it began last.
    pub last_run: Option<OperationId>,
    /// How many slots passed without a run: the server was away, or the run before was not over.
    pub missed: u64,
    /// Who made it.
    pub actor: String,
    /// Increases with every change of this record.
    pub generation: Generation,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What a plan does each time, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StressTerms {
    /// Five fields: minute, hour, day of the month, month, day of the week.
    pub cron: String,
    /// The name of a time zone, for example `Asia/Shanghai`.
    pub timezone: String,
    /// How much is tested.
    pub tier: Tier,
    /// What is tested.
    pub items: Vec<Item>,
    /// How many nodes are tested at a time.
    pub max_nodes: Share,
    /// How long after its time a run may begin, and how long it waits for busy nodes.
    pub window_seconds: u64,
    /// By how many seconds at most a run is put off, so that not all plans begin at once.
    pub jitter_seconds: u64,
    /// How old the last proof of a node may be until its test no longer gives way to jobs.
    #[serde(default = "StressTerms::usual_max_age_seconds")]
    pub max_age_seconds: u64,
    /// Names of the channels that are told what was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<Name>,
}

impl StressTerms {
    /// 30 days: `max_age_seconds` when nobody says.
    pub const fn usual_max_age_seconds() -> u64 {
        30 * 24 * 3600
    }
}

/// How many of some nodes, as a number or as a share: `3`, `10%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Share {
    /// So many.
    Count(u32),
    /// So many of a hundred, and one at least.
    Percent(u32),
}

impl Share {
    /// All of them.
    pub const ALL: Self = Self::Percent(100);

    /// How many that are of `all`, one at least.
    pub fn of(self, all: usize) -> u32 {
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        match self {
            Self::Count(count) => count.min(all),
            Self::Percent(percent) => {
                u32::try_from(u64::from(all) * u64::from(percent) / 100).unwrap_or(u32::MAX)
            }
        }
        .max(1)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("`{text}` is no number of nodes; write for example 3, or 10% of them");
        let (number, percent) = match text.strip_suffix('%') {
            Some(number) => (number, true),
            None => (text, false),
        };
        let number: u32 = number.parse().map_err(|_| refuse())?;
        match (number, percent) {
            (1..=100, true) => Ok(Self::Percent(number)),
            (1.., false) => Ok(Self::Count(number)),
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(formatter, "{count}"),
            Self::Percent(percent) => write!(formatter, "{percent}%"),
        }
    }
}

impl TryFrom<String> for Share {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Share> for String {
    fn from(share: Share) -> Self {
        share.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_some_nodes_is_one_at_least() {
        let of = |text: &str, all| text.parse::<Share>().map(|share| share.of(all));
        assert_eq!(of("10%", 48), Ok(4));
        assert_eq!(of("10%", 3), Ok(1));
        assert_eq!(of("100%", 3), Ok(3));
        assert_eq!(of("5", 3), Ok(3));
        for bad in ["0", "0%", "101%", "-1", "%", "x"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }
}
