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

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{NodeId, OperationId, Timestamp};

/// A component of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// Computing: speed and correctness.
    Compute,
    /// Memory: bandwidth and patterns.
    Memory,
    /// Links between processors and NUMA nodes.
    Links,
    /// Disks.
    Storage,
}

impl Item {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Compute, Self::Memory, Self::Links, Self::Storage];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Memory => "memory",
            Self::Links => "links",
            Self::Storage => "storage",
        }
    }
}

impl FromStr for Item {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|item| item.name() == text)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                format!("`{text}` is no item of a test; known are {names}")
            })
    }
}

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Two minutes at most: before a job, at admission.
    Quick,
    /// Twenty minutes at most: weekly.
    Standard,
}

impl Tier {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Standard => "standard",
        }
    }

    /// How long one round of it takes at most.
    pub fn limit(self) -> Duration {
        match self {
            Self::Quick => Duration::from_mins(5),
            Self::Standard => Duration::from_mins(40),
        }
    }
}

/// What was measured. The unit is part of the meaning, see [`Metric::unit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Speed of one multiplication of f32 matrices.
    GemmF32,
    /// Speed of one multiplication of f64 matrices.
    GemmF64,
    /// Speed of a device's matrix multiplication in half precision.
    DeviceGemmF16,
    /// Bandwidth of one pass of the STREAM triad.
    StreamTriad,
    /// Bandwidth of one pass of the memory pattern test.
    PatternBandwidth,
    /// Bandwidth inside a device's own memory.
    DeviceMemoryBandwidth,
    /// Bandwidth of a copy between two places of one node.
    CopyBandwidth,
    /// Time for one message between two places of one node.
    CopyLatency,
    /// Bandwidth from the host to a device.
    HostToDeviceBandwidth,
    /// Bandwidth from a device to the host.
    DeviceToHostBandwidth,
    /// Bandwidth of a stream to the peer.
    NetworkSend,
    /// Bandwidth of a stream from the peer.
    NetworkReceive,
    /// Round trip to the peer.
    RoundTrip,
    /// Share of datagrams that the peer did not get.
    LossOut,
    /// Share of answers that did not come back.
    LossIn,
    /// Bus bandwidth of a collective operation.
    BusBandwidth,
    /// Bandwidth of sequential writing.
    SequentialWrite,
    /// Bandwidth of sequential reading.
    SequentialRead,
    /// Random writes.
    RandomWrite,
    /// Random reads.
    RandomRead,
    /// Time of one random write.
    RandomWriteLatency,
    /// Time of one random read.
    RandomReadLatency,
    /// Time of one flush to the medium.
    FlushLatency,
    /// Share of the time in which a thread that wanted to run was running.
    CpuShare,
    /// Power that a device draws.
    Power,
    /// Temperature.
    Temperature,
}

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// More is better.
    More,
    /// Less is better.
    Less,
    /// Neither: it is context.
    Neither,
}

impl Metric {
    /// The unit of a value, as it is printed.
    pub fn unit(self) -> &'static str {
        match self {
            Self::GemmF32 | Self::GemmF64 | Self::DeviceGemmF16 => "GFLOP/s",
            Self::StreamTriad
            | Self::PatternBandwidth
            | Self::DeviceMemoryBandwidth
            | Self::CopyBandwidth
            | Self::HostToDeviceBandwidth
            | Self::DeviceToHostBandwidth
            | Self::BusBandwidth => "GB/s",
            Self::CopyLatency => "ns",
            Self::NetworkSend | Self::NetworkReceive => "Gbit/s",
            Self::RoundTrip
            | Self::RandomWriteLatency
            | Self::RandomReadLatency
            | Self::FlushLatency => "us",
            Self::LossOut | Self::LossIn | Self::CpuShare => "share",
            Self::SequentialWrite | Self::SequentialRead => "MB/s",
            Self::RandomWrite | Self::RandomRead => "IO/s",
            Self::Power => "W",
            Self::Temperature => "C",
        }
    }

    /// Which direction is good.
    pub fn better(self) -> Better {
        match self {
            Self::CopyLatency
            | Self::RoundTrip
            | Self::LossOut
            | Self::LossIn
            | Self::RandomWriteLatency
            | Self::RandomReadLatency
            | Self::FlushLatency => Better::Less,
            Self::CpuShare | Self::Power | Self::Temperature => Better::Neither,
            _ => Better::More,
        }
    }

    /// Its name, as it is stored.
    pub fn name(self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// The part of a node that a sample is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The node as a whole.
    Host,
    /// One logical processor.
    Core(u32),
    /// From one logical processor to another.
    CorePair(u32, u32),
    /// From the memory of one NUMA node to the processors of another.
    MemoryPair(u32, u32),
    /// One accelerator.
    Device(u32),
    /// From one accelerator to another.
    DevicePair(u32, u32),
    /// A directory on the disk that was tested.
    Directory(String),
    /// The link to a peer, as the caller names it.
    Peer(String),
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => write!(formatter, "host"),
            Self::Core(core) => write!(formatter, "core {core}"),
            Self::CorePair(from, to) => write!(formatter, "core {from} to {to}"),
            Self::MemoryPair(from, to) => write!(formatter, "memory {from} to node {to}"),
            Self::Device(device) => write!(formatter, "device {device}"),
            Self::DevicePair(from, to) => write!(formatter, "device {from} to {to}"),
            Self::Directory(path) => write!(formatter, "{path}"),
            Self::Peer(peer) => write!(formatter, "peer {peer}"),
        }
    }
}

/// What samples are worth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Validity {
    /// They may be judged.
    Valid,
    /// Somebody else used what was measured.
    Contended(String),
    /// Something held the part back: heat, power, or a limit of its control group.
    Throttled(String),
    /// The test did not come to its end.
    Incomplete(String),
    /// The test could not run.
    CouldNotRun(String),
}

/// All samples of one metric of one part in one round, summed up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measurement {
    /// What.
    pub metric: Metric,
    /// Where.
    pub part: Part,
    /// How many samples.
    pub samples: u64,
    /// The median, in the metric's unit.
    pub median: f64,
    /// What nineteen of twenty samples are better than.
    pub worse: f64,
    /// What the samples say of their part; absent for a metric without a good direction.
    pub shape: Option<Shape>,
}

/// Three numbers that a sick part changes in different ways; logarithms, "worse" downwards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Shape {
    /// The logarithm of the median.
    pub level: f64,
    /// The mean of the worst tenth against the median; zero where there are too few samples.
    pub tail: f64,
    /// The last third against the first; zero where there are too few samples.
    pub ramp: f64,
}

/// Everything that is kept of one kernel's run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepEvidence {
    /// The component.
    pub item: Item,
    /// What was done, in a few words.
    pub step: String,
    /// The kernel with its settings, as one text: runs with others are not compared.
    pub settings: String,
    /// The software that it ran with. Another one begins another history.
    pub fingerprint: String,
    /// How long it took.
    pub seconds: f64,
    /// Whether the samples may be judged.
    pub validity: Validity,
    /// What is plainly wrong, in words.
    pub failures: Vec<String>,
    /// What was measured.
    pub measurements: Vec<Measurement>,
    /// What a reader of the numbers has to know.
    pub remarks: Vec<String>,
}

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
    /// Counts the rounds from 1.
    pub round: u32,
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
    /// What the agent is told; nothing once it is over.
    pub fn wish(&self) -> Option<StressWish> {
        match self.progress {
            StressProgress::Told | StressProgress::Running { .. } => Some(StressWish {
                operation: self.operation.clone(),
                boot_id: self.boot_id.clone(),
                round: self.round,
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
        }
    }
}

/// One round of one run on a node. It is begun at most once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StressKey {
    /// The run.
    pub operation: OperationId,
    /// The round.
    pub round: u32,
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
    #[test]
    fn a_metric_is_stored_by_name() {
        assert_eq!(Metric::GemmF32.name(), "gemm_f32");
        assert_eq!(
            (Metric::RoundTrip.unit(), Metric::RoundTrip.better()),
            ("us", Better::Less)
        );
    }

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

    #[test]
    fn the_age_of_a_proof_is_said_in_words() {
        let now = Timestamp(0).plus(Duration::from_hours(80));
        let words = |last_passed| {
            NodeStress {
                last_passed,
                work: None,
            }
            .last_passed_words(now)
        };
        assert_eq!(words(None), "never proven");
        assert_eq!(words(Some(Timestamp(0))), "last proven 3 days ago");
        let minute = Timestamp(now.0 - 61_000_000);
        assert_eq!(words(Some(minute)), "last proven 1 minute ago");
    }
}
