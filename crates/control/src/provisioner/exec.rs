//! The `exec` provisioner: a user's command, one JSON request on its standard input, one JSON answer on its standard output.
//!
//! Exit code 0 means that there is an answer, 2 that the request is refused and would be again; anything else is a failure that is
//! tried again. Reasons are taken from standard error. The command runs in a process group of its own, which is killed when its
//! time is up. `examples/provisioner/` is a working example with the contract in words.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

use super::{DiskAnswer, ProvisionAction, ProvisionAnswer, ProvisionRequest};

/// The most bytes that an answer may have.
const MAXIMUM_ANSWER_BYTES: usize = 64 * 1024;
/// How much of the end of standard error is kept.
const MAXIMUM_REASON_BYTES: usize = 4 * 1024;
/// The most characters of a message or reason that are shown.
const MAXIMUM_SHOWN_CHARACTERS: usize = 500;
/// The exit code of a command that will not do it, however often it is asked.
const REFUSED_CODE: i32 = 2;

#[derive(Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    restart: bool,
}

/// Why there is no answer.
enum Failure {
    Retry(String),
    Refused(String),
}

impl From<Failure> for ProvisionAnswer {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Retry(why) => Self::Retry(why),
            Failure::Refused(why) => Self::Refused(why),
        }
    }
}

/// Calls the command once.
pub async fn call(
    command: &[String],
    time_limit: Duration,
    request: &ProvisionRequest,
) -> ProvisionAnswer {
    match ask(command, time_limit, request).await {
        Ok(answer) => judge(request.action, &answer),
        Err(failure) => failure.into(),
    }
}

/// Calls the command once for a disk.
pub async fn grow_disk(
    command: &[String],
    time_limit: Duration,
    request: &ProvisionRequest,
) -> DiskAnswer {
    match ask(command, time_limit, request).await {
        Ok(answer) => match judge(request.action, &answer) {
            ProvisionAnswer::Done if answer.restart => DiskAnswer::GrownAfterRestart,
            plain => DiskAnswer::Plain(plain),
        },
        Err(failure) => DiskAnswer::Plain(failure.into()),
    }
}

async fn ask(
    command: &[String],
    time_limit: Duration,
    request: &ProvisionRequest,
) -> Result<Answer, Failure> {
    let answer = tokio::time::timeout(time_limit, exchange(command, request)).await;
    answer.unwrap_or_else(|_| {
        Err(Failure::Retry(format!(
            "the command did not answer within {} s and was killed",
            time_limit.as_secs_f64()
        )))
    })
}

/// A running command; dropping it kills all of its process group.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // After it was waited for there is no id, and its number may belong to somebody else.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn exchange(command: &[String], request: &ProvisionRequest) -> Result<Answer, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::Refused(
            "the provisioner's command is empty".into(),
        ));
    };
    let body = serde_json::to_vec(request).expect("a request is plain data");
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut running = Running(
        child.map_err(|error| Failure::Retry(format!("{program} cannot be started: {error}")))?,
    );
    let child = &mut running.0;
    let input = child.stdin.take().expect("standard input is piped");
    let output = child.stdout.take().expect("standard output is piped");
    let errors = child.stderr.take().expect("standard error is piped");
    let ((), answer, reason) =
        tokio::join!(write(input, &body), read_answer(output), read_end(errors));
    let status = child.wait().await;
    let status = status
        .map_err(|error| Failure::Retry(format!("{program} cannot be waited for: {error}")))?;
    if !status.success() {
        return Err(failure(program, status, &reason));
    }
    if answer.len() > MAXIMUM_ANSWER_BYTES {
        return Err(Failure::Retry(format!(
            "the answer of {program} has more than {MAXIMUM_ANSWER_BYTES} bytes"
        )));
    }
    serde_json::from_slice(&answer).map_err(|error| {
        Failure::Retry(format!(
            "the answer of {program} is not the JSON that was asked for: {error}"
        ))
    })
}

async fn write(mut input: ChildStdin, body: &[u8]) {
    // A command that answers without reading its input is its own business.
    let _ = input.write_all(body).await;
}

/// Reads to the end, so that the command can end, and keeps a little more than an answer may have.
async fn read_answer(mut output: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut answer = Vec::new();
    let limit = u64::try_from(MAXIMUM_ANSWER_BYTES + 1).expect("a small number");
    let _ = (&mut output).take(limit).read_to_end(&mut answer).await;
    let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    answer
}

/// Reads to the end and keeps the last bytes.
async fn read_end(mut errors: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = errors.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..count]);
        let surplus = kept.len().saturating_sub(MAXIMUM_REASON_BYTES);
        kept.drain(..surplus);
    }
    kept
}

fn failure(program: &str, status: ExitStatus, reason: &[u8]) -> Failure {
    let reason = String::from_utf8_lossy(reason);
    let last = reason
        .trim()
        .lines()
        .last()
        .map_or_else(|| "no reason given".into(), shown);
    if status.code() == Some(REFUSED_CODE) {
        Failure::Refused(format!("{program} refused it: {last}"))
    } else {
        Failure::Retry(format!("{program} ended with {status}: {last}"))
    }
}

fn shown(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(MAXIMUM_SHOWN_CHARACTERS).collect()
}

fn judge(action: ProvisionAction, answer: &Answer) -> ProvisionAnswer {
    let message = shown(&answer.message);
    match (action, answer.status.as_str()) {
        (ProvisionAction::Create, "created" | "exists")
        | (ProvisionAction::Delete, "deleted" | "absent")
        | (ProvisionAction::GrowDisk, "grown" | "exists") => ProvisionAnswer::Done,
        (_, "pending") => ProvisionAnswer::Pending(message),
        (_, other) => ProvisionAnswer::Retry(format!(
            "the provisioner answered `{}`: {message}",
            shown(other)
        )),
    }
}
