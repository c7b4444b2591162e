//! Tools of vendors: argument vectors to run them, and pure parsers of what they print.
//!
//! Every tool has traps: it prints its answer and fails, or fails and says success; it changes its words between releases; one rank says
//! success while another says failed. Each parser has a sample for each form and each trap in its tests. What a parser does not know is
//! [`CheckState::Unknown`], never a pass.
//!
//! Nothing here resets a device, changes a voltage or asks a question back: options that do are not in the vectors.

pub mod ascend_dmi;
pub mod dcgm;
pub mod hccl_test;
pub mod hccn_tool;
pub(crate) mod kernel;
pub mod nccl_tests;
pub mod npu_smi;
pub mod nvbandwidth;
pub mod nvidia_smi;
pub mod perftest;
mod run;

pub use kernel::{VendorTest, VendorWork, ascend_devices};
pub use run::{Command, installed, quick_checks, run};

use serde::{Deserialize, Serialize};

use super::sample::{Metric, Part};

/// A tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VendorTool {
    /// NVIDIA's driver tool.
    NvidiaSmi,
    /// NVIDIA's data center manager.
    Dcgmi,
    /// Ascend's toolbox.
    AscendDmi,
    /// Ascend's driver tool.
    NpuSmi,
    /// Ascend's network tool.
    HccnTool,
    /// Bandwidth over RDMA.
    IbWriteBw,
    /// Latency over RDMA.
    IbWriteLat,
}

impl VendorTool {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::NvidiaSmi,
        Self::Dcgmi,
        Self::AscendDmi,
        Self::NpuSmi,
        Self::HccnTool,
        Self::IbWriteBw,
        Self::IbWriteLat,
    ];

    /// The name of its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::NvidiaSmi => "nvidia-smi",
            Self::Dcgmi => "dcgmi",
            Self::AscendDmi => "ascend-dmi",
            Self::NpuSmi => "npu-smi",
            Self::HccnTool => "hccn_tool",
            Self::IbWriteBw => "ib_write_bw",
            Self::IbWriteLat => "ib_write_lat",
        }
    }
}

/// How one check of a tool ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// Good.
    Pass,
    /// Something that somebody should look at; the device works.
    Warning,
    /// Bad.
    Fail,
    /// Not done: neither good nor bad.
    Skipped,
    /// A word that we do not know: suspicious.
    Unknown(String),
}

impl CheckState {
    /// As people read it.
    pub fn word(&self) -> &str {
        match self {
            Self::Pass => "pass",
            Self::Warning => "warning",
            Self::Fail => "FAIL",
            Self::Skipped => "skipped",
            Self::Unknown(word) => word,
        }
    }
}

/// One check of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What the tool calls it.
    pub name: String,
    /// The device, where the tool says one.
    pub device: Option<u32>,
    /// How it ended.
    pub state: CheckState,
    /// What else the tool said.
    pub detail: String,
}

impl Check {
    fn new(name: impl Into<String>, state: CheckState) -> Self {
        Self {
            name: name.into(),
            device: None,
            state,
            detail: String::new(),
        }
    }

    fn of_device(self, device: Option<u32>) -> Self {
        Self { device, ..self }
    }

    fn with(self, detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            ..self
        }
    }
}

/// What a tool printed, understood.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Parsed {
    /// Checks.
    pub checks: Vec<Check>,
    /// Measurements.
    pub samples: Vec<(Metric, Part, f64)>,
}

/// Why output was not understood. The test could not run, as far as we can tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotUnderstood {
    /// The tool says that it failed.
    #[error("{0}")]
    Refused(String),
    /// It is nothing that we know.
    #[error("its output is in no known form: {0}")]
    Form(String),
}

impl NotUnderstood {
    /// The first line of something that we do not know.
    fn form(text: &str) -> Self {
        let line = text.lines().find(|line| !line.trim().is_empty());
        Self::Form(line.unwrap_or("nothing").trim().chars().take(120).collect())
    }
}

/// What came of running a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VendorResult {
    /// The tool is not installed.
    NotPresent,
    /// It did not run, or said nothing that we understand.
    CouldNotRun(String),
    /// It said this.
    Checks(Vec<Check>),
}

/// One run of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VendorAnswer {
    /// Which.
    pub tool: VendorTool,
    /// The command, as it was run.
    pub command: String,
    /// What came of it.
    pub result: VendorResult,
    /// Measurements.
    pub samples: Vec<(Metric, Part, f64)>,
    /// What it printed, as evidence; the first 64 KiB.
    pub output: String,
}

/// A number with anything around it: `432.413 W`, `528,124`, `198.9 GB/s`.
fn number(text: &str) -> Option<f64> {
    let digits: String = text
        .trim()
        .chars()
        .take_while(|letter| letter.is_ascii_digit() || matches!(letter, '.' | ',' | '-'))
        .filter(|letter| *letter != ',')
        .collect();
    digits.parse().ok().filter(|value: &f64| value.is_finite())
}
