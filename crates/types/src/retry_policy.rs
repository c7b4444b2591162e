//! Operator-level re-execution: what an operator wants, what a job gets of it, and what stands in its way.
//!
//! A broken link ends a collective operator. Libraries can repeat the operator instead of ending the job, if they are told so in the same
//! words on every rank. A [`RetryPolicy`] says it once for a super node. What its numbers mean for one library is worked out in `plan`.
//!
//! A policy cannot be built whose waits do not fit into its own timeout ([`RetrySettings::new`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The retries when a request does not say.
pub const DEFAULT_MAXIMUM_RETRIES: u32 = 3;
/// The wait before the first retry when a request does not say.
pub const DEFAULT_HOLD_MILLISECONDS: u32 = 5000;
/// The wait between two retries when a request does not say.
pub const DEFAULT_INTERVAL_MILLISECONDS: u32 = 1000;
/// The timeout when a request does not say.
pub const DEFAULT_RETRY_TIMEOUT_SECONDS: u32 = 300;

const MOST_RETRIES: u32 = 10;
const LONGEST_WAIT_MILLISECONDS: u32 = 60_000;
const LONGEST_TIMEOUT_SECONDS: u32 = 7200;

/// What is wanted of a super node's jobs when a link breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum RetryPolicy {
    /// Nothing is repeated, said aloud: some libraries repeat by default.
    Disabled,
    /// Operators are repeated.
    Enabled(RetrySettings),
}

impl RetryPolicy {
    /// The settings, where it is enabled.
    pub fn settings(&self) -> Option<&RetrySettings> {
        match self {
            Self::Disabled => None,
            Self::Enabled(settings) => Some(settings),
        }
    }
}

/// Between what operators are repeated.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum RetryLevel {
    /// Between servers.
    L1,
    /// Between super pods, and onto the lane of the sibling die.
    L2,
}

impl std::str::FromStr for RetryLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "L1" | "l1" => Ok(Self::L1),
            "L2" | "l2" => Ok(Self::L2),
            _ => Err(format!(
                "`{text}` is no level; L1 is between servers, L2 between super pods"
            )),
        }
    }
}

impl fmt::Display for RetryLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::L1 => "L1",
            Self::L2 => "L2",
        })
    }
}

/// The numbers of an enabled policy, as a request says them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryWish {
    /// How often one operator is repeated: 1 to 10, 3 if absent.
    #[serde(default = "default_maximum_retries")]
    pub max_retries: u32,
    /// The wait before the first retry: at most 60,000, 5000 if absent.
    #[serde(default = "default_hold")]
    pub hold_milliseconds: u32,
    /// The wait before each further one: at most 60,000, 1000 if absent.
    #[serde(default = "default_interval")]
    pub interval_milliseconds: u32,
    /// Wall time for all of it: at most 7200, 300 if absent.
    #[serde(default = "default_timeout")]
    pub retry_timeout_seconds: u32,
    /// Between what; L1 if absent.
    #[serde(default = "default_levels")]
    pub levels: BTreeSet<RetryLevel>,
}

fn default_maximum_retries() -> u32 {
    DEFAULT_MAXIMUM_RETRIES
}

fn default_hold() -> u32 {
    DEFAULT_HOLD_MILLISECONDS
}

fn default_interval() -> u32 {
    DEFAULT_INTERVAL_MILLISECONDS
}

fn default_timeout() -> u32 {
    DEFAULT_RETRY_TIMEOUT_SECONDS
}

fn default_levels() -> BTreeSet<RetryLevel> {
    BTreeSet::from([RetryLevel::L1])
}

impl Default for RetryWish {
    /// What a request without any number means.
    fn default() -> Self {
        Self {
            max_retries: DEFAULT_MAXIMUM_RETRIES,
            hold_milliseconds: DEFAULT_HOLD_MILLISECONDS,
            interval_milliseconds: DEFAULT_INTERVAL_MILLISECONDS,
            retry_timeout_seconds: DEFAULT_RETRY_TIMEOUT_SECONDS,
            levels: default_levels(),
        }
    }
}

/// Numbers that fit together; the same fields as [`RetryWish`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "RetryWish")]
pub struct RetrySettings {
    max_retries: u32,
    hold_milliseconds: u32,
    interval_milliseconds: u32,
    retry_timeout_seconds: u32,
    levels: BTreeSet<RetryLevel>,
}

/// Why numbers make no policy. Each says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRetry {
    /// Too few or too many.
    #[error("max retries is {0}; 1 to {MOST_RETRIES} are possible")]
    Retries(u32),
    /// A wait is too long for any library.
    #[error("{wait} is {} s; {} s is the most, give more retries instead", Seconds(*.milliseconds), LONGEST_WAIT_MILLISECONDS / 1000)]
    Wait {
        /// `hold` or `interval`.
        wait: &'static str,
        /// How long.
        milliseconds: u32,
    },
    /// None, or longer than a library can wait.
    #[error("retry timeout is {0} s; 1 s to {LONGEST_TIMEOUT_SECONDS} s are possible")]
    Timeout(u32),
    /// The waits alone take longer than the timeout.
    #[error("retry timeout {timeout_seconds} s does not cover hold {} s + {retries} x interval {} s = {} s; {advice}", Seconds(*.hold), Seconds(*.interval), Seconds(*.needed))]
    Budget {
        /// The timeout.
        timeout_seconds: u32,
        /// The hold, in milliseconds.
        hold: u32,
        /// The retries.
        retries: u32,
        /// The interval, in milliseconds.
        interval: u32,
        /// What they take together, in milliseconds.
        needed: u32,
        /// What would be accepted.
        advice: String,
    },
    /// No level is on.
    #[error(
        "no level is given; L1 is between servers, L2 between super pods. To repeat nothing, disable the policy"
    )]
    Levels,
}

/// Milliseconds as seconds, without superfluous digits.
struct Seconds(u32);

impl fmt::Display for Seconds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(formatter, "{whole}");
        }
        let digits = format!("{rest:03}");
        write!(formatter, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl RetrySettings {
    /// Checks each number, and that the waits fit into the timeout.
    pub fn new(wish: RetryWish) -> Result<Self, InvalidRetry> {
        let RetryWish {
            max_retries,
            hold_milliseconds,
            interval_milliseconds,
            retry_timeout_seconds,
            levels,
        } = wish;
        if !(1..=MOST_RETRIES).contains(&max_retries) {
            return Err(InvalidRetry::Retries(max_retries));
        }
        for (wait, milliseconds) in [
            ("hold", hold_milliseconds),
            ("interval", interval_milliseconds),
        ] {
            if milliseconds > LONGEST_WAIT_MILLISECONDS {
                return Err(InvalidRetry::Wait { wait, milliseconds });
            }
        }
        if !(1..=LONGEST_TIMEOUT_SECONDS).contains(&retry_timeout_seconds) {
            return Err(InvalidRetry::Timeout(retry_timeout_seconds));
        }
        let needed = hold_milliseconds + max_retries * interval_milliseconds;
        let timeout = retry_timeout_seconds * 1000;
        if needed > timeout {
            let enough = needed.div_ceil(1000);
            let fewer = timeout
                .checked_sub(hold_milliseconds)
                .map_or(0, |left| left / interval_milliseconds.max(1));
            let advice = match fewer {
                0 => format!("give a timeout of {enough} s or more, or shorter waits"),
                1 => format!("give a timeout of {enough} s or more, or 1 retry"),
                _ => format!("give a timeout of {enough} s or more, or at most {fewer} retries"),
            };
            return Err(InvalidRetry::Budget {
                timeout_seconds: retry_timeout_seconds,
                hold: hold_milliseconds,
                retries: max_retries,
                interval: interval_milliseconds,
                needed,
                advice,
            });
        }
        if levels.is_empty() {
            return Err(InvalidRetry::Levels);
        }
        Ok(Self {
            max_retries,
            hold_milliseconds,
            interval_milliseconds,
            retry_timeout_seconds,
            levels,
        })
    }

    /// How often one operator is repeated.
    pub fn max_retries(&self) -> u32 {
        self.max_retries
    }

    /// The wait before the first retry.
    pub fn hold_milliseconds(&self) -> u32 {
        self.hold_milliseconds
    }

    /// The wait before each further one.
    pub fn interval_milliseconds(&self) -> u32 {
        self.interval_milliseconds
    }

    /// Wall time for all of it.
    pub fn retry_timeout_seconds(&self) -> u32 {
        self.retry_timeout_seconds
    }

    /// Whether operators between such parties are repeated.
    pub fn covers(&self, level: RetryLevel) -> bool {
        self.levels.contains(&level)
    }

    /// The levels, in order.
    pub fn levels(&self) -> impl Iterator<Item = RetryLevel> + '_ {
        self.levels.iter().copied()
    }
}

impl TryFrom<RetryWish> for RetrySettings {
    type Error = InvalidRetry;

    fn try_from(wish: RetryWish) -> Result<Self, InvalidRetry> {
        Self::new(wish)
    }
}

/// The library that repeats, which the accelerators decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryLibrary {
    /// Ascend: HCCL.
    Hccl,
    /// NVIDIA: NCCL.
    Nccl,
    /// Plain hosts: `supernode-collectives`.
    Collectives,
}

impl fmt::Display for RetryLibrary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Hccl => "HCCL",
            Self::Nccl => "NCCL",
            Self::Collectives => "supernode-collectives",
        })
    }
}

/// Who set a variable that the policy would have set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverriddenBy {
    /// The job itself.
    Job,
    /// The environment of the super node.
    Environment,
}

impl fmt::Display for OverriddenBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Job => "the job",
            Self::Environment => "the super node's environment",
        })
    }
}

/// A variable of the policy that somebody else's value replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetryOverride {
    /// Its name.
    pub variable: String,
    /// The value that the policy would have given it.
    pub policy_value: String,
    /// Whose value it has.
    pub by: OverriddenBy,
}

/// What one attempt of a job got from the policy; decided at its start and never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttemptRetry {
    /// The policy.
    pub policy: RetryPolicy,
    /// The library that it was said to.
    pub library: RetryLibrary,
    /// The variables that every rank got.
    pub variables: BTreeMap<String, String>,
    /// Those that it did not get, because somebody else had set them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overridden: Vec<RetryOverride>,
}

/// A time that follows from the policy for one library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetryTime {
    /// What takes so long, in words.
    pub what: String,
    /// How long, in milliseconds.
    pub milliseconds: u64,
}

/// What a finding means for re-execution.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RetryEffect {
    /// No operator, or none of the usual ones, will be repeated.
    Prevents,
    /// Some will not.
    Limits,
    /// It cannot be known from here.
    Unknown,
}

impl fmt::Display for RetryEffect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Prevents => "prevents",
            Self::Limits => "limits",
            Self::Unknown => "unknown",
        })
    }
}

/// The conditions under which re-execution silently does not happen.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RetryFindingKind {
    /// The accelerator cannot do it, or is not known.
    Product,
    /// Accelerators of different models.
    MixedProducts,
    /// The toolkit is too old, or its version is not known.
    ToolkitVersion,
    /// Nodes with different toolkits.
    MixedToolkitVersions,
    /// The driver is too old, or its version is not known.
    DriverVersion,
    /// One node, and operators are repeated between nodes only.
    SingleServer,
    /// The levels do not fit the super pods.
    Levels,
    /// The expansion mode is not the one that can repeat.
    ExpansionMode,
    /// A variable that was set by hand switches it off, or cannot be read.
    OverriddenVariable,
    /// A rank table will have no usable host address.
    HostAddress,
    /// Rank tables lack addresses of sibling dies.
    BackupLane,
    /// Zero-copy buffers are overwritten by the operator.
    ZeroCopy,
    /// In-place operators overwrite their input.
    InPlaceOperators,
    /// Many communicators cost memory and time.
    Communicators,
    /// Other super nodes have other levels.
    OtherSuperNodes,
    /// The ports of the negotiation can be taken by others.
    ReservedPorts,
    /// The library has no such thing; the next best was set.
    NoReExecution,
}

/// Something that stands in the way of re-execution, or may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetryFinding {
    /// What.
    pub kind: RetryFindingKind,
    /// What it means.
    pub effect: RetryEffect,
    /// One sentence: what, where, and what to do.
    pub message: String,
}

/// What became of a fault that a library wrote into its log.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RetryOutcome {
    /// A path failed.
    PathFailed,
    /// The library began to repeat.
    Started,
    /// Another lane carries the data from now on.
    LaneSwitched,
    /// An operator was repeated, and ended.
    Succeeded,
    /// It could not be repeated.
    Refused,
    /// Re-execution is off, although it was asked for.
    SwitchedOff,
}

impl RetryOutcome {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::PathFailed,
        Self::Started,
        Self::LaneSwitched,
        Self::Succeeded,
        Self::Refused,
        Self::SwitchedOff,
    ];

    /// The word for it, in the database and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::PathFailed => "path_failed",
            Self::Started => "started",
            Self::LaneSwitched => "lane_switched",
            Self::Succeeded => "succeeded",
            Self::Refused => "refused",
            Self::SwitchedOff => "switched_off",
        }
    }

    /// The outcome with this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.word() == word)
    }
}

impl fmt::Display for RetryOutcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// What the log of one rank says of one link: how often, and the last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetrySighting {
    /// What happened.
    pub outcome: RetryOutcome,
    /// Between whom, as the library names them; empty where it does not say.
    pub link: String,
    /// How often, since the rank began.
    pub count: u64,
    /// The last such line, shortened.
    pub line: String,
}

/// A sighting with its place, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetryEvidence {
    /// The rank that wrote it.
    pub rank: u32,
    /// What it wrote.
    #[serde(flatten)]
    pub sighting: RetrySighting,
    /// When it was seen first.
    pub first_at: Timestamp,
    /// When it was seen last.
    pub last_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(change: impl FnOnce(&mut RetryWish)) -> String {
        let mut wish = RetryWish::default();
        change(&mut wish);
        RetrySettings::new(wish)
            .expect_err("it does not fit")
            .to_string()
    }

    #[test]
    fn refusals_say_what_would_be_accepted() {
        for (refusal, expected) in [
            (
                refused(|wish| wish.max_retries = 11),
                "max retries is 11; 1 to 10 are possible",
            ),
            (
                refused(|wish| wish.max_retries = 0),
                "max retries is 0; 1 to 10 are possible",
            ),
            (
                refused(|wish| wish.hold_milliseconds = 60_500),
                "hold is 60.5 s; 60 s is the most, give more retries instead",
            ),
            (
                refused(|wish| wish.retry_timeout_seconds = 7201),
                "retry timeout is 7201 s; 1 s to 7200 s are possible",
            ),
            (
                refused(|wish| {
                    wish.retry_timeout_seconds = 10;
                    wish.max_retries = 8;
                }),
                "retry timeout 10 s does not cover hold 5 s + 8 x interval 1 s = 13 s; give a timeout of 13 s or more, or at most 5 retries",
            ),
            (
                refused(|wish| wish.retry_timeout_seconds = 2),
                "retry timeout 2 s does not cover hold 5 s + 3 x interval 1 s = 8 s; give a timeout of 8 s or more, or shorter waits",
            ),
            (
                refused(|wish| wish.levels.clear()),
                "no level is given; L1 is between servers, L2 between super pods. To repeat nothing, disable the policy",
            ),
        ] {
            assert_eq!(refusal, expected);
        }
    }

    #[test]
    fn a_stored_policy_is_checked_when_it_is_read() {
        let policy: RetryPolicy =
            serde_json::from_str(r#"{"mode":"enabled"}"#).expect("all numbers have defaults");
        let settings = policy.settings().expect("it is enabled");
        assert_eq!(
            (settings.max_retries(), settings.retry_timeout_seconds()),
            (3, 300)
        );
        assert!(settings.covers(RetryLevel::L1) && !settings.covers(RetryLevel::L2));
        let text = serde_json::to_string(&policy).expect("plain data");
        assert_eq!(
            serde_json::from_str::<RetryPolicy>(&text).ok(),
            Some(policy)
        );
        let error = serde_json::from_str::<RetryPolicy>(r#"{"mode":"enabled","max_retries":99}"#)
            .expect_err("no library repeats so often");
        assert!(error.to_string().contains("max retries is 99"), "{error}");
    }

    proptest! {
        /// What is accepted fits; what is refused for its budget is accepted with the timeout that the refusal names.
        #[test]
        fn the_waits_always_fit_into_the_timeout(
            max_retries in 0_u32..14, hold_milliseconds in 0_u32..70_000, interval_milliseconds in 0_u32..70_000,
            retry_timeout_seconds in 0_u32..800, both in any::<bool>(),
        ) {
            let mut levels = default_levels();
            if both {
                levels.insert(RetryLevel::L2);
            }
            let wish = RetryWish { max_retries, hold_milliseconds, interval_milliseconds, retry_timeout_seconds, levels };
            match RetrySettings::new(wish.clone()) {
                Ok(settings) => {
                    prop_assert!((1..=10).contains(&settings.max_retries()));
                    prop_assert!(hold_milliseconds + max_retries * interval_milliseconds <= retry_timeout_seconds * 1000);
                }
                Err(InvalidRetry::Budget { needed, .. }) => {
                    let enough = RetryWish { retry_timeout_seconds: needed.div_ceil(1000), ..wish };
                    prop_assert!(RetrySettings::new(enough).is_ok());
                }
                Err(_) => {}
            }
        }
    }
}
