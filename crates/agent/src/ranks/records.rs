//! What is written in a rank directory, as types. The protocol (who writes which file, and when) is told in [`crate::supervisor`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use supernode_types::job::RankEnd;

/// Written by the agent before the supervisor is started: everything needed to run the rank.
pub const LAUNCH: &str = "launch.json";
/// Created by the supervisor before the rank is started, and never removed: the rank is started at most once.
pub const STARTED: &str = "started.json";
/// Written by the agent: how the rank is to be stopped.
pub const STOP: &str = "stop.json";
/// Written as the last thing: how the rank ended.
pub const EXIT: &str = "exit.json";
/// Held locked by the supervisor for as long as it lives.
pub const LOCK: &str = "lock";
/// Standard output and error of the rank.
pub const OUTPUT: &str = "output.log";
/// Which part of the output is kept; see [`OutputWindow`].
pub const OUTPUT_START: &str = "output.start";
/// The environment variable that every process of a rank has, with the rank directory as its value.
pub const MARKER: &str = "SUPERNODE_RANK_DIR";

/// The most bytes that any of the JSON files may have.
pub const RECORD_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// The smallest log that can be asked for.
pub const SMALLEST_LOG_CAP_BYTES: u64 = 64 * 1024;

/// A user to run a rank as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// Supplementary groups, for example those that may open an accelerator.
    #[serde(default)]
    pub groups: Vec<u32>,
}

/// What to run, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The attempt that the rank belongs to.
    pub attempt: String,
    /// Its number in the attempt.
    pub rank: u32,
    /// Program and arguments. A program without `/` is looked for in the `PATH` of `env`; no shell is involved.
    pub argv: Vec<String>,
    /// The whole environment; the rank gets this and [`MARKER`], nothing of the agent's.
    pub env: BTreeMap<String, String>,
    /// Absolute path of the directory to start in.
    pub workdir: String,
    /// The user to run as; `None` keeps the agent's own.
    pub user: Option<User>,
    /// How many bytes of output are kept; the oldest go first.
    pub log_cap_bytes: u64,
    /// Whatever the caller wants to find again.
    #[serde(default)]
    pub tag: String,
}

/// [`LAUNCH`] as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchRecord {
    /// The boot in which it was written; it is never acted on in another.
    pub boot_id: String,
    /// What to run.
    pub launch: Launch,
}

/// [`STARTED`]: who supervises the rank, and what was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedRecord {
    /// The supervisor's process id.
    pub supervisor: i32,
    /// When that process began, in clock ticks since boot: tells it from a later process of the same id.
    pub supervisor_began: u64,
    /// The rank's process id, once there is one. It is also the id of the rank's session.
    pub rank: Option<i32>,
    /// When the rank was started, microseconds since 1970.
    pub started_at_micros: i64,
    /// The control group made for the rank, where that was possible.
    pub cgroup: Option<String>,
}

/// [`STOP`]: how the rank is to be stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRecord {
    /// The signal for every process of the rank.
    pub signal: i32,
    /// How long they have before they are killed.
    pub grace_milliseconds: u64,
    /// Why, for people.
    pub why: String,
}

/// [`EXIT`]: how a rank ended. Once it is there, nothing of the rank runs any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankExit {
    /// How.
    pub end: RankEnd,
    /// Why it was stopped, if it was.
    pub stop_why: Option<String>,
    /// When it was started, microseconds since 1970; `None` if it never was.
    pub started_at_micros: Option<i64>,
    /// When its last process was gone, microseconds since 1970.
    pub ended_at_micros: i64,
    /// The end of its output: at most 20 lines and 4 KiB.
    pub last_lines: Vec<String>,
}

/// [`OUTPUT_START`]: which part of a rank's output is still there. Offsets count from the first byte that the rank ever wrote and
/// never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OutputWindow {
    /// The offset of the first byte that is kept.
    pub start: u64,
    /// The offset that byte 0 of the file stands for: not 0 once the file had to be truncated.
    pub base: u64,
}

/// The id of the running kernel's boot; empty if the kernel does not tell.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Wall time in microseconds since 1970.
///
/// Read directly and not through a `Clock`: these records are written by a process of its own, and only shown to people.
pub fn wall_micros() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec
        .saturating_mul(1_000_000)
        .saturating_add(time.tv_nsec / 1_000)
}
