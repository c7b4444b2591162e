//! Stress testing of nodes: what is tested, what a node is told, what it reports, and what is said of it.
//!
//! A run is an operation whose targets are nodes. A node is tested in *rounds*: the first round tests everything that was asked for,
//! a second one repeats what looked bad or could not be judged, because nothing bad is said of a part that was tested once.
//!
//! ```text
//!  Told --the agent begins (agent)--> Running --evidence (agent)--> judged (control): Retest --> Told, or an outcome
//!   \--------------- stopped, restarted, lost (agent | loop) ---------------------------------> Incomplete
//! ```
//! What was measured is kept as [`StepEvidence`]: everything that a verdict needs, in a bounded size.
//!
//! The network between nodes is tested when they were tested alone: by pairs, see [`StressPair`] and [`StressNetwork`].

mod evidence;
mod network;
mod pair;
mod plan;

pub use evidence::{Better, Item, Measurement, Metric, Part, Shape, StepEvidence, Tier, Validity};
pub use network::{
    Certainty, NetworkFault, NetworkFinding, NetworkPlace, NetworkState, NetworkVerdict,
    StressNetwork,
};
pub use pair::{
    PairNumbers, PairOutcome, PairPlace, PairSide, PairState, PairTask, PairWish, StressPair,
};
pub use plan::{Share, StressPlan, StressTerms};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Name, NodeId, OperationId, StressPlanId, Timestamp};

/// What a run is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StressRun {
    /// How much is tested.
    pub tier: Tier,
    /// What is tested.
    pub items: Vec<Item>,
    /// How long each kernel runs; the tier's own times when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_seconds: Option<u32>,
    /// How many nodes are tested at a time.
    pub parallel: u32,
    /// Until when a busy node is waited for.
    pub window_ends: Timestamp,
    /// How old the last proof of a node may be until its test no longer gives way to jobs; absent when it never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u64>,
    /// The plan that began it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<StressPlanId>,
    /// Names of the channels that are told what was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<Name>,
}

impl StressRun {
    /// Whether the network between the nodes is tested.
    pub fn tests_network(&self) -> bool {
        self.items.contains(&Item::Network)
    }

    /// What each node tests by itself.
    pub fn own_items(&self) -> Vec<Item> {
        let own = |item: &Item| *item != Item::Network;
        self.items.iter().copied().filter(own).collect()
    }

    /// Whether the test of a node leaves the node to a job that needs it.
    pub fn gives_way(&self, stress: &NodeStress, now: Timestamp) -> bool {
        let age = |at| now.since(at).as_secs();
        match (self.max_age_seconds, stress.last_passed) {
            (Some(maximum), Some(at)) => age(at) < maximum,
            _ => false,
        }
    }
}

/// The test that a node is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StressWork {
    /// The run.
    pub operation: OperationId,
    /// The boot that it began in; what another boot says is not of this test.
    pub boot_id: String,
    /// When it began.
    pub began_at: Timestamp,
    /// Counts the rounds from 1; of a pair, its tries.
    pub round: u32,
    /// The pair that it is in; absent while it is tested alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<PairTask>,
    /// How much is tested.
    pub tier: Tier,
    /// What this round tests.
    pub items: Vec<Item>,
    /// How long each kernel runs; the tier's own times when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_seconds: Option<u32>,
    /// Why its agent was told to stop, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// How far it is.
    pub progress: StressProgress,
}

/// How far the test of a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "progress", rename_all = "snake_case")]
pub enum StressProgress {
    /// Its agent was told.
    Told,
    /// Its agent tests.
    Running {
        /// What, in a few words.
        step: String,
    },
    /// It is over.
    Judged {
        /// What came of it.
        outcome: StressOutcome,
    },
}

impl StressWork {
    /// What the agent is told; nothing once it is over. With a partner, `pair` says what only the two of them know.
    pub fn wish(&self, pair: Option<PairWish>) -> Option<StressWish> {
        match self.progress {
            StressProgress::Told | StressProgress::Running { .. } => Some(StressWish {
                operation: self.operation.clone(),
                boot_id: self.boot_id.clone(),
                round: self.round,
                pair,
                tier: self.tier,
                items: self.items.clone(),
                kernel_seconds: self.kernel_seconds,
                stop: self.stop.clone(),
            }),
            StressProgress::Judged { .. } => None,
        }
    }
}

/// What testing has to do with a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NodeStress {
    /// The test that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work: Option<StressWork>,
    /// When it passed a test last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_passed: Option<Timestamp>,
    /// The run whose network test pointed at it, until one that does not, or until an operator answers for it. A test of the node alone
    /// says nothing against that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_doubt: Option<OperationId>,
    /// What became of the last try to put a spare in its place; absent while none was made since it was quarantined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacement: Option<ReplacementTry>,
}

/// What became of a try to put a spare in the place of a quarantined member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "try", rename_all = "snake_case")]
pub enum ReplacementTry {
    /// There was no spare that fits, and people were told; it is begun as soon as there is one.
    NoSpare,
    /// No spare joined.
    Failed {
        /// When the next try may begin.
        again_at: Timestamp,
    },
    /// A spare joined, and the member did not leave: no other one joins for it.
    Joined {
        /// The operation.
        operation: OperationId,
    },
}

impl ReplacementTry {
    /// What it means for the node, in words.
    pub fn words(&self) -> String {
        match self {
            Self::NoSpare => "no spare can take its place".into(),
            Self::Failed { again_at } => {
                format!("no spare took its place; the next try may begin at {again_at}")
            }
            Self::Joined { operation } => format!(
                "{operation} put a spare in its place, but it did not leave; scale down with --node when it may"
            ),
        }
    }
}

impl NodeStress {
    /// Whether there is nothing to say, so that the record of such a node is not longer for it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `last proven 3 days ago`, `never proven`.
    pub fn last_passed_words(&self, now: Timestamp) -> String {
        let Some(at) = self.last_passed else {
            return "never proven".into();
        };
        let seconds = now.since(at).as_secs();
        let (number, unit) = match seconds {
            0..60 => (seconds, "second"),
            60..3600 => (seconds / 60, "minute"),
            3600..86400 => (seconds / 3600, "hour"),
            _ => (seconds / 86400, "day"),
        };
        let plural = if number == 1 { "" } else { "s" };
        format!("last proven {number} {unit}{plural} ago")
    }
}

/// What an agent is told to test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StressWish {
    /// The run.
    pub operation: OperationId,
    /// The boot to test in; in another one, nothing is begun.
    pub boot_id: String,
    /// Of this round.
    pub round: u32,
    /// With a partner; absent when the node is tested alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<PairWish>,
    /// How much.
    pub tier: Tier,
    /// What.
    pub items: Vec<Item>,
    /// How long each kernel runs; the tier's own times when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_seconds: Option<u32>,
    /// Stop, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
}

impl StressWish {
    /// What it is, apart from whether it is to stop.
    pub fn key(&self) -> StressKey {
        StressKey {
            operation: self.operation.clone(),
            round: self.round,
            pair: self.pair.as_ref().map(|pair| pair.number),
        }
    }
}

/// One round of one run on a node, or one try of one pair. It is begun at most once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StressKey {
    /// The run.
    pub operation: OperationId,
    /// The round, or the try.
    pub round: u32,
    /// The number of the pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<u32>,
}

/// What an agent says of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StressReport {
    /// Which one.
    #[serde(flatten)]
    pub key: StressKey,
    /// How it stands.
    pub state: StressReportState,
}

/// How a round stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StressReportState {
    /// A kernel runs.
    Running {
        /// Which, in a few words.
        step: String,
    },
    /// It waits for its partner.
    Listening {
        /// On this port of the node's address.
        port: u16,
    },
    /// All kernels have ended.
    Ended {
        /// What they said.
        evidence: Vec<StepEvidence>,
    },
    /// It was cut short: neither a pass nor a failure.
    Incomplete {
        /// Why.
        why: String,
        /// What the kernels said until then.
        evidence: Vec<StepEvidence>,
    },
}

/// What came of testing a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum StressOutcome {
    /// Tested, and nothing bad was found.
    Passed,
    /// Something is wrong beyond doubt.
    Failed {
        /// The worst of it, in one line.
        finding: String,
    },
    /// Something looks wrong, and it is not certain yet.
    Suspect {
        /// What, in one line.
        finding: String,
    },
    /// What was measured cannot be judged: somebody else used the machine, something held it back, or nothing could run.
    Undecided {
        /// Why.
        why: String,
    },
    /// Cut short: neither a pass nor a failure.
    Incomplete {
        /// Why.
        why: String,
    },
    /// Not tested.
    Skipped {
        /// Why.
        why: String,
    },
}

impl StressOutcome {
    /// The word for this outcome, as the API and the database say it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed { .. } => "failed",
            Self::Suspect { .. } => "suspect",
            Self::Undecided { .. } => "undecided",
            Self::Incomplete { .. } => "incomplete",
            Self::Skipped { .. } => "skipped",
        }
    }

    /// The one-line detail, if there is one.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Passed => None,
            Self::Failed { finding } | Self::Suspect { finding } => Some(finding),
            Self::Undecided { why } | Self::Incomplete { why } | Self::Skipped { why } => Some(why),
        }
    }

    /// Whether the node was tested to the end.
    pub fn tested(&self) -> bool {
        !matches!(self, Self::Incomplete { .. } | Self::Skipped { .. })
    }
}

/// One thing that is wrong, with its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The component.
    pub item: Item,
    /// What and where, in one line.
    pub words: String,
    /// How it was found.
    pub kind: FindingKind,
    /// How sure it is that a sound part would not show this, 0 to 1.
    pub confidence: f64,
}

/// How something was found to be wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FindingKind {
    /// Plainly: a wrong result, an error counter that grew.
    Hard,
    /// Worse than its own past, in this round and again in the next.
    Confirmed(Slower),
    /// Worse than its own past once, and not again.
    Doubtful(Slower),
    /// The network between nodes: which explanation the flows have.
    Network(Box<NetworkFinding>),
}

/// By how much a part is worse than it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Slower {
    /// What was measured.
    pub metric: Metric,
    /// Where.
    pub part: Part,
    /// In which way: `level`, `tail`, `ramp`.
    pub feature: String,
    /// By how much worse: 0.02 is two percent.
    pub worse: f64,
    /// In spreads of a sound part's run.
    pub z: f64,
    /// What it was: the median of its past, in the metric's unit.
    pub baseline: f64,
    /// How many runs that is known from.
    pub baseline_runs: u64,
}

/// What came of testing one node in one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StressResult {
    /// The run.
    pub run: OperationId,
    /// The node.
    pub node: NodeId,
    /// How much was tested.
    pub tier: Tier,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: StressOutcome,
    /// Everything that was found.
    pub findings: Vec<Finding>,
    /// What could not be judged, one line for each step.
    pub undecided: Vec<String>,
    /// How many rounds it took.
    pub rounds: u32,
    /// When it began; absent for a node that was not tested.
    pub began_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    #[test]
    fn the_age_of_a_proof_is_said_in_words() {
        let now = Timestamp(0).plus(Duration::from_hours(80));
        let words = |last_passed| {
            NodeStress {
                last_passed,
                ..NodeStress::default()
            }
            .last_passed_words(now)
        };
        assert_eq!(words(None), "never proven");
        assert_eq!(words(Some(Timestamp(0))), "last proven 3 days ago");
        let minute = Timestamp(now.0 - 61_000_000);
        assert_eq!(words(Some(minute)), "last proven 1 minute ago");
    }
}
