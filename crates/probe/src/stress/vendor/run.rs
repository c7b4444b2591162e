//! Running a tool of a vendor: found in known places, with a time and an output limit, one at a time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ascend_dmi::Way;
use super::{
    NotUnderstood, Parsed, VendorAnswer, VendorResult, VendorTool, ascend_dmi, dcgm, npu_smi,
    nvidia_smi,
};
use crate::command::{self, Limits, Running};

/// A tool with its arguments and how to understand it.
#[derive(Debug, Clone)]
pub struct Command {
    /// The tool.
    pub tool: VendorTool,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// After so long it is killed.
    pub limit: Duration,
    /// Understands what it prints.
    pub parser: Parser,
}

/// What understands the output of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parser {
    /// `nvidia-smi -q -x`.
    NvidiaSmi,
    /// `dcgmi diag -j`.
    Dcgm,
    /// `ascend-dmi`, with what a table of bandwidths is about.
    AscendDmi(Option<Way>),
    /// `npu-smi info -t …` about this device.
    NpuSmi(u32),
}

impl Parser {
    fn parse(self, text: &str) -> Result<Parsed, NotUnderstood> {
        match self {
            Self::NvidiaSmi => nvidia_smi::parse(text),
            Self::Dcgm => dcgm::parse(text),
            Self::AscendDmi(way) => ascend_dmi::parse(text, way),
            Self::NpuSmi(device) => npu_smi::parse(device, text),
        }
    }
}

impl Command {
    pub(super) fn new(
        tool: VendorTool,
        arguments: Vec<String>,
        seconds: u64,
        parser: Parser,
    ) -> Self {
        Self {
            tool,
            arguments,
            limit: Duration::from_secs(seconds),
            parser,
        }
    }
}

/// Bytes of output at most: a whole server of GPUs in XML is about half of it.
const MOST_OUTPUT: usize = 4 << 20;
/// Bytes that are kept as evidence.
const MOST_EVIDENCE: usize = 64 * 1024;
/// Where vendors put their tools, beside PATH.
const PLACES: [&str; 7] = [
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/Ascend/driver/tools",
    "/usr/local/Ascend/toolbox/latest/Ascend-DMI/bin",
    "/usr/local/Ascend/ascend-toolkit/latest/bin",
];

/// The checks that take seconds and stress nothing, of every tool that can make one by itself.
pub fn quick_checks() -> Vec<Command> {
    vec![
        Command::new(
            VendorTool::NvidiaSmi,
            nvidia_smi::arguments(),
            60,
            Parser::NvidiaSmi,
        ),
        Command::new(VendorTool::Dcgmi, dcgm::arguments(1), 300, Parser::Dcgm),
        Command::new(
            VendorTool::AscendDmi,
            ascend_dmi::diagnosis(&["driver", "cann", "device", "network", "hbm"]),
            300,
            Parser::AscendDmi(None),
        ),
    ]
}

/// Whether a tool is there.
pub fn installed(tool: VendorTool) -> bool {
    path_of(tool).is_some()
}

fn path_of(tool: VendorTool) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    find(tool.program(), std::env::split_paths(&path))
}

/// Runs it, if it is there.
pub fn run(command: &Command) -> VendorAnswer {
    run_until(command, &|| false)
}

/// The same; a tool is killed as soon as `told` says so.
pub(super) fn run_until(command: &Command, told: &dyn Fn() -> bool) -> VendorAnswer {
    let program = command.tool.program();
    let mut answer = VendorAnswer {
        tool: command.tool,
        command: format!("{program} {}", command.arguments.join(" ")),
        result: VendorResult::NotPresent,
        samples: Vec::new(),
        output: String::new(),
    };
    let Some(program) = path_of(command.tool) else {
        return answer;
    };
    let arguments: Vec<&str> = command.arguments.iter().map(String::as_str).collect();
    let environment = [
        ("LC_ALL", "C"),
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        (
            "LD_LIBRARY_PATH",
            "/usr/local/Ascend/driver/lib64/common:/usr/local/Ascend/driver/lib64/driver:/usr/local/Ascend/driver/lib64",
        ),
    ];
    let limits = Limits {
        time: command.limit,
        output_bytes: MOST_OUTPUT,
    };
    match command::run_until(
        &program,
        &arguments,
        &environment,
        limits,
        &Running::default(),
        told,
    ) {
        Err(error) => answer.result = VendorResult::CouldNotRun(error.to_string()),
        Ok(output) => {
            answer.output = output.text.chars().take(MOST_EVIDENCE).collect();
            // The status is not asked: a tool that found something bad fails too.
            match command.parser.parse(&output.text) {
                Ok(parsed) => {
                    answer.samples = parsed.samples;
                    answer.result = VendorResult::Checks(parsed.checks);
                }
                Err(error) => answer.result = VendorResult::CouldNotRun(error.to_string()),
            }
        }
    }
    answer
}

fn find(program: &str, path: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    path.chain(PLACES.iter().map(PathBuf::from))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|file: &PathBuf| Path::is_file(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_not_there_is_not_present() {
        assert_eq!(find("no-such-tool", std::iter::empty()), None);
        assert!(find("sh", ["/bin".into(), "relative".into()].into_iter()).is_some());
    }

    #[test]
    fn every_tool_has_a_name_and_quick_checks_are_quick() {
        for tool in VendorTool::ALL {
            assert!(!tool.program().is_empty());
        }
        for command in quick_checks() {
            assert!(command.limit <= Duration::from_mins(5), "{command:?}");
        }
    }
}
