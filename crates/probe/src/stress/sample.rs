//! What a kernel says: raw samples, distributions, wrong results, remarks. Never a verdict; that is a pure function over stored
//! samples, so that it can be taken again later with better judgement.

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;

/// What was measured. The unit is part of the meaning, see [`Metric::unit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

impl std::fmt::Display for Part {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What.
    pub metric: Metric,
    /// Where.
    pub part: Part,
    /// How much, in the metric's unit.
    pub value: f64,
    /// When, in seconds since the kernel began.
    pub at_seconds: f64,
}

/// A result that is not what it has to be: the evidence of corruption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrong {
    /// Where.
    pub part: Part,
    /// What was computed, written or sent.
    pub what: String,
    /// What it has to be.
    pub expected: String,
    /// What it was.
    pub got: String,
}

/// One line of a kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A measurement.
    Sample(Sample),
    /// Many measurements of one kind, too many to be said one by one.
    Distribution {
        /// What.
        metric: Metric,
        /// Where.
        part: Part,
        /// How much.
        histogram: Histogram,
    },
    /// A wrong result.
    Wrong(Wrong),
    /// Something that a reader of the numbers has to know.
    Remark(String),
    /// The address that a listener waits on.
    Listening(std::net::SocketAddr),
    /// What the kernel used.
    Used {
        /// Processor time of all its threads.
        cpu_seconds: f64,
        /// Time on the clock.
        seconds: f64,
    },
    /// The kernel came to its end.
    End(Ended),
}

/// How a kernel ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It did all that was asked.
    Complete,
    /// It was stopped or cut short; what it said so far is neither a pass nor a failure.
    Incomplete(String),
    /// It could not run here; that is no fault of the part it was to test.
    CouldNotRun(String),
}

/// Why a kernel gave no complete result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was told to stop.
    #[error("stopped before its end")]
    Stopped,
    /// It cannot run here.
    #[error("{0}")]
    CouldNotRun(String),
}

impl Refusal {
    /// Says what could not be done, with the error of the system.
    pub(crate) fn because(what: &str, error: impl std::fmt::Display) -> Self {
        Self::CouldNotRun(format!("{what}: {error}"))
    }
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Stopped => Self::Incomplete(refusal.to_string()),
            Refusal::CouldNotRun(why) => Self::CouldNotRun(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_pipe() {
        let events = [
            Event::Sample(Sample {
                metric: Metric::GemmF32,
                part: Part::CorePair(1, 2),
                value: 1.5,
                at_seconds: 0.25,
            }),
            Event::Wrong(Wrong {
                part: Part::Directory("/data".into()),
                what: "block 7".into(),
                expected: "1".into(),
                got: "2".into(),
            }),
            Event::End(Ended::CouldNotRun("no disk".into())),
        ];
        for event in events {
            let line = serde_json::to_string(&event).expect("plain data");
            assert!(!line.contains('\n'));
            assert_eq!(
                serde_json::from_str::<Event>(&line).expect("reads back"),
                event
            );
        }
    }

    #[test]
    fn a_metric_is_stored_by_name() {
        assert_eq!(Metric::GemmF32.name(), "gemm_f32");
        assert_eq!(
            (Metric::RoundTrip.unit(), Metric::RoundTrip.better()),
            ("us", Better::Less)
        );
    }
}
