//! Running one vendor tool with a time limit and an output limit.
//!
//! A driver that hangs leaves its tool in an uninterruptible wait that even SIGKILL does not end. So the waiting happens in a
//! thread of its own, which is left behind in that case, and nothing more is started until it has ended: a broken driver
//! costs one stuck process, not one per discovery.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

/// How often somebody is asked whether to stop.
const TICK: Duration = Duration::from_millis(100);
/// How long a killed process may take to be gone.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// What a tool printed (both streams, as on a terminal) and whether it said that it succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutput {
    /// What it printed.
    pub text: String,
    /// Whether it ended with status 0. Some tools print their answer and fail all the same.
    pub success: bool,
}

/// Why a tool gave no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// It is not installed where it is looked for.
    #[error(
        "{tool} was not found in PATH or in its usual places; install the driver package that brings it"
    )]
    NotFound {
        /// The tool.
        tool: String,
    },
    /// The kernel did not start it.
    #[error("{tool} could not be started: {why}")]
    Start {
        /// The tool.
        tool: String,
        /// What the kernel said.
        why: String,
    },
    /// It took too long and was killed.
    #[error(
        "{tool} did not answer within {limit_seconds} s; the driver may hang, look at the kernel log"
    )]
    TimeLimit {
        /// The tool.
        tool: String,
        /// The limit.
        limit_seconds: u64,
    },
    /// It was killed because nobody wants its answer any more.
    #[error("{tool} was stopped")]
    Stopped {
        /// The tool.
        tool: String,
    },
    /// It printed too much and was killed.
    #[error("{tool} printed more than {limit_bytes} bytes")]
    OutputLimit {
        /// The tool.
        tool: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// An earlier call has not ended although it was killed.
    #[error(
        "an earlier call of {tool} hangs in the driver and cannot be killed; restart the driver or the machine"
    )]
    Stuck {
        /// The tool.
        tool: String,
    },
}

/// What may run and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) time: Duration,
    pub(crate) output_bytes: usize,
}

/// Counts the calls that have not ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running(Arc<AtomicU32>);

impl Running {
    /// Does something in a thread of its own. `None` while an earlier one has not ended.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Receiver<T>> {
        if self.0.fetch_add(1, Ordering::SeqCst) > 0 {
            self.0.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        let (sender, receiver) = channel();
        let running = self.0.clone();
        let started = std::thread::Builder::new()
            .name("probe".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                let result = work();
                running.fetch_sub(1, Ordering::SeqCst);
                // The caller may have given up waiting; then nobody wants the result.
                let _ = sender.send(result);
            });
        if started.is_err() {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
        started.ok().map(|_| receiver)
    }
}

pub(crate) fn run(
    program: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
    limits: Limits,
    running: &Running,
) -> Result<ToolOutput, ToolError> {
    run_until(program, arguments, environment, limits, running, &|| false)
}

/// The same; it is killed as soon as `told`, which is asked ten times a second, says so.
pub(crate) fn run_until(
    program: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
    limits: Limits,
    running: &Running,
    told: &dyn Fn() -> bool,
) -> Result<ToolOutput, ToolError> {
    let tool = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    let start_error = |error: std::io::Error| ToolError::Start {
        tool: tool.clone(),
        why: error.to_string(),
    };
    let (reader, writer) = std::io::pipe().map_err(start_error)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir("/")
        .process_group(0);
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(start_error)?)
        .stderr(writer);
    let (pid_sender, pid_receiver) = channel();
    let limit_bytes = limits.output_bytes;
    let receiver = running.start(move || {
        let mut child = command.spawn()?;
        // It holds the writing ends of the pipe, which must close for the reading to end.
        drop(command);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let _ = pid_sender.send(pid);
        let mut bytes = Vec::new();
        let read = reader.take(limit_bytes as u64 + 1).read_to_end(&mut bytes);
        if bytes.len() > limit_bytes {
            kill(pid);
        }
        let status = child.wait()?;
        read.map(|_| (bytes, status.success()))
    });
    let receiver = receiver.ok_or_else(|| ToolError::Stuck { tool: tool.clone() })?;
    let end = |why: ToolError| {
        kill(pid_receiver.try_recv().ok().flatten());
        let gone = receiver.recv_timeout(KILL_GRACE).is_ok();
        tracing::debug!(tool, gone, %why, "killed");
        why
    };
    let mut left = limits.time;
    let result = loop {
        let slice = left.min(TICK);
        match receiver.recv_timeout(slice) {
            Ok(result) => break result,
            Err(_) if told() => return Err(end(ToolError::Stopped { tool: tool.clone() })),
            Err(_) => left = left.saturating_sub(slice),
        }
        if left.is_zero() {
            return Err(end(ToolError::TimeLimit {
                tool: tool.clone(),
                limit_seconds: limits.time.as_secs(),
            }));
        }
    };
    let (bytes, success) = result.map_err(start_error)?;
    if bytes.len() > limit_bytes {
        return Err(ToolError::OutputLimit { tool, limit_bytes });
    }
    Ok(ToolOutput {
        text: String::from_utf8_lossy(&bytes).into_owned(),
        success,
    })
}

/// Kills a process and what it started.
fn kill(pid: Option<Pid>) {
    if let Some(pid) = pid {
        // Gone already is as good.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        time: Duration::from_secs(20),
        output_bytes: 1000,
    };

    fn shell(script: &str, limits: Limits, running: &Running) -> Result<ToolOutput, ToolError> {
        run(
            Path::new("/bin/sh"),
            &["-c", script],
            &[("LC_ALL", "C"), ("PATH", "/usr/bin:/bin")],
            limits,
            running,
        )
    }

    #[test]
    fn both_streams_and_the_status_come_back() {
        let output = shell(
            "echo out; echo err >&2; exit 3",
            LIMITS,
            &Running::default(),
        )
        .expect("sh runs");
        assert_eq!(
            output,
            ToolOutput {
                text: "out\nerr\n".into(),
                success: false
            }
        );
    }

    #[test]
    fn nothing_of_our_environment_reaches_it() {
        let output = shell("env", LIMITS, &Running::default()).expect("sh runs");
        assert!(output.text.lines().all(|line| {
            ["LC_ALL=", "PATH=", "PWD=", "_=", "SHLVL="]
                .iter()
                .any(|name| line.starts_with(name))
        }));
    }

    #[test]
    fn a_tool_that_hangs_is_killed_with_its_children_and_the_next_one_runs() {
        let running = Running::default();
        let limits = Limits {
            time: Duration::from_millis(100),
            ..LIMITS
        };
        let error =
            shell("sleep 600 & sleep 600", limits, &running).expect_err("it must be killed");
        assert_eq!(
            error,
            ToolError::TimeLimit {
                tool: "sh".into(),
                limit_seconds: 0
            }
        );
        assert_eq!(
            shell("echo again", LIMITS, &running)
                .expect("the first is gone")
                .text,
            "again\n"
        );
    }

    #[test]
    fn a_tool_that_never_stops_printing_is_killed() {
        let error = shell("while :; do echo yes; done", LIMITS, &Running::default())
            .expect_err("it must be killed");
        assert_eq!(
            error,
            ToolError::OutputLimit {
                tool: "sh".into(),
                limit_bytes: 1000
            }
        );
    }

    #[test]
    fn nothing_starts_while_an_earlier_call_has_not_ended() {
        let running = Running::default();
        let (release, wait) = channel::<()>();
        let stuck = running
            .start(move || wait.recv())
            .expect("the first starts");
        assert_eq!(
            shell("echo no", LIMITS, &running),
            Err(ToolError::Stuck { tool: "sh".into() })
        );
        release.send(()).expect("it waits for this");
        stuck.recv().expect("it ends").expect("it was released");
        assert!(shell("echo yes", LIMITS, &running).is_ok());
    }

    #[test]
    fn a_program_that_is_not_there_is_said_so() {
        let error = run(
            Path::new("/nowhere/npu-smi"),
            &[],
            &[],
            LIMITS,
            &Running::default(),
        )
        .expect_err("it is not there");
        assert!(matches!(error, ToolError::Start { tool, .. } if tool == "npu-smi"));
    }
}
