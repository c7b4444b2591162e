//! What is tested and measured, and what is kept of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A component of a node.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// Computing: speed and correctness.
    Compute,
    /// Memory: bandwidth and patterns.
    Memory,
    /// Links between processors and NUMA nodes.
    Links,
    /// The network to other nodes: needs a partner.
    Network,
    /// Disks.
    Storage,
}

impl Item {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Compute,
        Self::Memory,
        Self::Links,
        Self::Network,
        Self::Storage,
    ];
    /// Those that a node tests by itself.
    pub const OF_ONE_NODE: [Self; 4] = [Self::Compute, Self::Memory, Self::Links, Self::Storage];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Memory => "memory",
            Self::Links => "links",
            Self::Network => "network",
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
    /// Hours: heat, and errors that are rare.
    Deep,
}

impl Tier {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Standard => "standard",
            Self::Deep => "deep",
        }
    }

    /// How long each of the three kernels of a pair runs: datagrams, one direction, the other.
    pub fn pair_seconds(self) -> u32 {
        match self {
            Self::Quick => 5,
            Self::Standard => 20,
            Self::Deep => 60,
        }
    }

    /// How long one round of it takes at most.
    pub fn limit(self) -> Duration {
        match self {
            Self::Quick => Duration::from_mins(5),
            Self::Standard => Duration::from_mins(40),
            Self::Deep => Duration::from_hours(8),
        }
    }
}

/// What was measured. The unit is part of the meaning, see [`Metric::unit`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Speed of one multiplication of f32 matrices.
    GemmF32,
    /// Speed of one multiplication of f64 matrices.
    GemmF64,
    /// Speed of a device's matrix multiplication in 32 bits.
    DeviceGemmF32,
    /// The same on its matrix units, with 19 of the 32 bits.
    DeviceGemmTf32,
    /// Speed of a device's matrix multiplication in 16 bits with the exponent of 32.
    DeviceGemmBf16,
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
    /// Share of the bytes that a disk moved which were the test's own.
    DiskShare,
    /// Power that a device draws.
    Power,
    /// Temperature.
    Temperature,
    /// Clock of a device's processors.
    DeviceClock,
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
            Self::GemmF32
            | Self::GemmF64
            | Self::DeviceGemmF32
            | Self::DeviceGemmTf32
            | Self::DeviceGemmBf16
            | Self::DeviceGemmF16 => "GFLOP/s",
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
            Self::LossOut | Self::LossIn | Self::CpuShare | Self::DiskShare => "share",
            Self::SequentialWrite | Self::SequentialRead => "MB/s",
            Self::RandomWrite | Self::RandomRead => "IO/s",
            Self::Power => "W",
            Self::Temperature => "C",
            Self::DeviceClock => "MHz",
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
            Self::CpuShare
            | Self::DiskShare
            | Self::Power
            | Self::Temperature
            | Self::DeviceClock => Better::Neither,
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
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
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
}
