//! The `exec` provisioner: a user's command, one JSON request on its standard input, one JSON answer on its standard output.
//!
//! Exit code 0 means that there is an answer; anything else is a failure with the reason on standard error, and is tried again.
//! `examples/provisioner/` is a working example with the contract in words.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::{ProvisionAction, ProvisionAnswer, ProvisionRequest};

/// The most bytes that are read of an answer, and of an error text.
const MAXIMUM_OUTPUT_BYTES: u64 = 64 * 1024;

#[derive(Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    message: String,
}

/// Calls the command once.
pub async fn call(command: &[String], time_limit: Duration, request: &ProvisionRequest) -> ProvisionAnswer {
    match tokio::time::timeout(time_limit, exchange(command, request)).await {
        Ok(Ok(answer)) => judge(request.action, &answer),
        Ok(Err(why)) => ProvisionAnswer::Retry(why),
        Err(_) => ProvisionAnswer::Retry(format!("the command did not answer within {} s and was killed", time_limit.as_secs())),
    }
}

async fn exchange(command: &[String], request: &ProvisionRequest) -> Result<Answer, String> {
    let (program, arguments) = command.split_first().ok_or("the provisioner's command is empty")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program} cannot be started: {error}"))?;
    let body = serde_json::to_vec(request).map_err(|error| format!("the request cannot be written: {error}"))?;
    let mut input = child.stdin.take().expect("standard input is piped");
    let mut output = child.stdout.take().expect("standard output is piped").take(MAXIMUM_OUTPUT_BYTES);
    let mut errors = child.stderr.take().expect("standard error is piped").take(MAXIMUM_OUTPUT_BYTES);
    let (mut answer, mut reason) = (Vec::new(), Vec::new());
    let write = async {
        // A command that answers without reading its input is its own business.
        let _ = input.write_all(&body).await;
        drop(input);
    };
    let ((), read, _) = tokio::join!(write, output.read_to_end(&mut answer), errors.read_to_end(&mut reason));
    read.map_err(|error| format!("the answer of {program} cannot be read: {error}"))?;
    let status = child.wait().await.map_err(|error| format!("{program} cannot be waited for: {error}"))?;
    if !status.success() {
        let reason = String::from_utf8_lossy(&reason);
        return Err(format!("{program} ended with {status}: {}", reason.trim().lines().last().unwrap_or("no reason given")));
    }
    serde_json::from_slice(&answer).map_err(|error| format!("the answer of {program} is not the JSON that was asked for: {error}"))
}

fn judge(action: ProvisionAction, answer: &Answer) -> ProvisionAnswer {
    match (action, answer.status.as_str()) {
        (ProvisionAction::Create, "created" | "exists") | (ProvisionAction::Delete, "deleted" | "absent") => ProvisionAnswer::Done,
        (_, "pending") => ProvisionAnswer::Pending(answer.message.clone()),
        (_, "refused") => ProvisionAnswer::Refused(answer.message.clone()),
        (_, other) => ProvisionAnswer::Retry(format!("the provisioner answered `{other}`: {}", answer.message)),
    }
}
