//! What discovery needs of the machine besides files: a closed list of vendor tools, NVML, and the size of a file system.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::{Limits, Running, run};
pub use crate::command::{ToolError, ToolOutput};
use crate::nvidia::{NvmlReport, ask_nvml};

/// A program that discovery may run. There is no way to run another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Ascend's `npu-smi`, for queries only.
    NpuSmi,
    /// `nvcc --version` of the CUDA toolkit.
    Nvcc,
    /// `lsblk`, for block devices.
    Lsblk,
    /// `findmnt`, for mounted file systems.
    Findmnt,
    /// `sfdisk --json`, for partition tables.
    Sfdisk,
    /// `lvm pvs`, `lvm vgs` and `lvm lvs`.
    Lvm,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::NpuSmi => "npu-smi",
            Self::Nvcc => "nvcc",
            Self::Lsblk => "lsblk",
            Self::Findmnt => "findmnt",
            Self::Sfdisk => "sfdisk",
            Self::Lvm => "lvm",
        }
    }

    /// Where it is installed when it is not in `PATH`.
    fn usual_places(self) -> &'static [&'static str] {
        match self {
            Self::NpuSmi => &[
                "/usr/local/bin",
                "/usr/local/sbin",
                "/usr/local/Ascend/driver/tools",
                "/usr/local/Ascend/driver/bin",
                "/usr/bin",
            ],
            Self::Nvcc => &["/usr/local/cuda/bin", "/usr/bin"],
            Self::Lsblk | Self::Findmnt | Self::Sfdisk | Self::Lvm => SYSTEM_PLACES,
        }
    }
}

/// Where the system's own tools are.
const SYSTEM_PLACES: &[&str] = &["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The size and the used bytes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub size_bytes: u64,
    /// What is in use.
    pub used_bytes: u64,
}

/// What discovery needs of the machine besides files.
pub trait Tools {
    /// Runs a tool with an argument vector and waits for it, a bounded time.
    fn run(&self, tool: Tool, arguments: &[&str]) -> Result<ToolOutput, ToolError>;
    /// Asks the NVIDIA driver through its library; the error says why it cannot be asked.
    fn nvml(&self) -> Result<NvmlReport, String>;
    /// The size of the file system that a path is on.
    fn space(&self, path: &Path) -> Option<Space>;
    /// Whether one of the system's own programs is there. It is not run.
    fn installed(&self, program: &str) -> bool;
}

/// The tools of this machine. Keep one for the life of the agent: it remembers a call that hangs.
#[derive(Debug, Clone, Default)]
pub struct SystemTools {
    directories: Vec<PathBuf>,
    commands: Running,
    nvml: Running,
}

impl SystemTools {
    /// Looks for tools in these directories first.
    pub fn with_directories(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            ..Self::default()
        }
    }

    /// Where a program is: in the directories that were given, in `PATH`, or where it usually is.
    fn find(&self, name: &str, usual: &[&str]) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = self
            .directories
            .iter()
            .cloned()
            .chain(std::env::split_paths(&path))
            .chain(usual.iter().map(PathBuf::from));
        places
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(name))
            .find(|file| file.is_file())
    }

    /// Where one of the system's own programs is, for those who may run it.
    pub fn system_program(&self, name: &str) -> Option<PathBuf> {
        self.find(name, SYSTEM_PLACES)
    }
}

impl Tools for SystemTools {
    fn run(&self, tool: Tool, arguments: &[&str]) -> Result<ToolOutput, ToolError> {
        let program =
            self.find(tool.name(), tool.usual_places())
                .ok_or_else(|| ToolError::NotFound {
                    tool: tool.name().into(),
                })?;
        let environment = [
            ("LC_ALL", "C"),
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            // npu-smi needs the driver's libraries, which containers do not have in the loader's cache.
            (
                "LD_LIBRARY_PATH",
                "/usr/local/Ascend/driver/lib64/common:/usr/local/Ascend/driver/lib64/driver:/usr/local/Ascend/driver/lib64",
            ),
        ];
        let limits = Limits {
            time: Duration::from_secs(20),
            output_bytes: 256 * 1024,
        };
        run(&program, arguments, &environment, limits, &self.commands)
    }

    fn nvml(&self) -> Result<NvmlReport, String> {
        let limit = Duration::from_secs(20);
        let receiver = self.nvml.start(ask_nvml).ok_or(
            "an earlier call of NVML hangs in the driver; restart the driver or the machine",
        )?;
        receiver.recv_timeout(limit).unwrap_or_else(|_| {
            Err(format!(
                "NVML did not answer within {} s; look at the kernel log",
                limit.as_secs()
            ))
        })
    }

    fn installed(&self, program: &str) -> bool {
        self.system_program(program).is_some()
    }

    fn space(&self, path: &Path) -> Option<Space> {
        let found = rustix::fs::statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some(Space {
            size_bytes: bytes(found.f_blocks),
            used_bytes: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
        })
    }
}
