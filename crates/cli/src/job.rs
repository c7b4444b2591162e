//! `supernode job …`: distributed programs.

use std::time::Duration;

use supernode_api::Nothing;
use supernode_api::job::{
    JobCancel, JobDetail, JobList, JobListQuery, JobLog, JobLogQuery, JobShow, JobSubmit, JobSubmitRequest, JobView, LogChunk,
};
use supernode_client::{CallOptions, Client, LONGEST_WAIT};
use supernode_types::job::{JobOutcome, JobState, RankState, StopReason};

use crate::change::{KeyOption, pair, whole_seconds, whole_seconds_u32};
use crate::failure::{Exit, Failure};
use crate::log_output::Interleaver;
use crate::output::{self, Look, Table, add, cell, clean, fields, or_dash, pairs, say, section, seconds, state};
use crate::progress::PATIENCE;
use crate::run::{Follower, follow_output};
use crate::session::Session;

/// Distributed programs.
#[derive(Debug, clap::Subcommand)]
pub enum JobCommand {
    /// Submit a job and return at once
    Submit(Box<SubmitArguments>),
    /// List jobs, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only of this super node
        #[arg(long, value_name = "NAME")]
        super_node: Option<String>,
        /// Only in this state; `active` for all that have not ended
        #[arg(long)]
        state: Option<String>,
    },
    /// Show a job with its ranks
    Show {
        /// Its id
        job: String,
    },
    /// Cancel a job: signal, grace time, kill
    Cancel {
        /// Its id
        job: String,
        #[command(flatten)]
        key: KeyOption,
    },
    /// Print the output of a job's ranks
    Logs {
        /// Its id
        job: String,
        /// Only of this rank
        #[arg(long, value_name = "N")]
        rank: Option<u32>,
        /// Go on until the job has ended
        #[arg(short, long, conflicts_with = "attempt")]
        follow: bool,
        /// Of this attempt, by id, instead of the present or last one
        #[arg(long, value_name = "ID")]
        attempt: Option<String>,
    },
    /// Wait until a job has ended, and end with its exit code
    Wait {
        /// Its id
        job: String,
        /// Wait no longer than this; exit code 1 if the job has not ended by then
        #[arg(long, value_name = "TIME", value_parser = supernode_types::time::parse_duration)]
        timeout: Option<Duration>,
    },
}

/// What to run and where.
#[derive(Debug, clap::Args)]
pub(crate) struct JobOptions {
    /// The super node to run on
    #[arg(long, value_name = "NAME")]
    super_node: String,
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// Devices per node, one rank each [default: all of a node]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    devices: Option<u32>,
    /// Larger runs first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// Stop the job this long after its start [default: never]
    #[arg(long, value_name = "TIME", value_parser = supernode_types::time::parse_duration)]
    time_limit: Option<Duration>,
    /// How often the job may be started again after losing a node
    #[arg(long, value_name = "N", default_value_t = 0)]
    requeue: u32,
    /// An additional environment variable; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// A name for people [default: the program's]
    #[arg(long)]
    name: Option<String>,
    /// Time between the stop signal and the kill [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = supernode_types::time::parse_duration)]
    grace: Option<Duration>,
    /// Run as root; admins only
    #[arg(long)]
    as_root: bool,
    #[command(flatten)]
    key: KeyOption,
    /// The program and its arguments; never a shell line
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    arguments: Vec<String>,
}

/// How to submit.
#[derive(Debug, clap::Args)]
pub struct SubmitArguments {
    /// Working directory on the nodes [default: a fresh one of the job]
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    #[command(flatten)]
    job: JobOptions,
}

impl JobOptions {
    pub(crate) fn request(&self, workdir: Option<String>) -> JobSubmitRequest {
        JobSubmitRequest {
            super_node: self.super_node.clone(),
            name: self.name.clone(),
            nodes: self.nodes,
            devices: self.devices,
            arguments: self.arguments.clone(),
            environment: self.env.iter().cloned().collect(),
            workdir,
            priority: self.priority,
            time_limit_seconds: self.time_limit.map(whole_seconds),
            requeue_limit: self.requeue,
            grace_seconds: self.grace.map(whole_seconds_u32),
            run_as_root: self.as_root,
        }
    }

    pub(crate) fn call(&self) -> CallOptions {
        self.key.call()
    }
}

pub(crate) async fn run(session: &Session<'_>, command: JobCommand) -> Result<(), Failure> {
    let client = session.client()?;
    match command {
        JobCommand::Submit(arguments) => {
            let request = arguments.job.request(arguments.workdir);
            let view = client.call::<JobSubmit>(&[], &Nothing {}, &request, &arguments.job.call()).await?;
            session.print(&view, |_| format!("{}\n", view.job.id))
        }
        JobCommand::List { super_node, state } => {
            let query = JobListQuery { super_node, state, ..JobListQuery::default() };
            let items = client.list::<JobList, _>(&[], &query).await?;
            session.print_list(&items, "no jobs", list)
        }
        JobCommand::Show { job } => {
            let detail = client.get::<JobShow>(&[&job], &supernode_api::Watch::default()).await?;
            session.print(&detail, |look| show(&detail, look))
        }
        JobCommand::Cancel { job, key } => {
            let view = client.call::<JobCancel>(&[&job], &Nothing {}, &Nothing {}, &key.call()).await?;
            session.print(&view, |_| {
                let how = if view.job.state.ended() { "is cancelled" } else { "is being cancelled" };
                format!("{} {how}\n", view.job.id)
            })
        }
        JobCommand::Logs { job, rank, follow, attempt } => logs(session, &client, &job, rank, follow, attempt).await,
        JobCommand::Wait { job, timeout } => wait(session, &client, &job, timeout).await,
    }
}

async fn logs(
    session: &Session<'_>,
    client: &Client,
    job: &str,
    rank: Option<u32>,
    follow: bool,
    attempt: Option<String>,
) -> Result<(), Failure> {
    if follow {
        return follow_output(session, client, Follower::new(job, rank)).await;
    }
    let ranks = match rank {
        Some(rank) => vec![rank],
        None => client.job_after(job, None, Duration::ZERO).await?.ranks.iter().map(|rank| rank.rank.rank).collect(),
    };
    let mut output = Interleaver::new(ranks.len());
    for rank in ranks {
        let mut offset = 0;
        loop {
            let query = JobLogQuery { offset: Some(offset), limit: None, wait_milliseconds: None, attempt: attempt.clone() };
            let chunk = client.get::<JobLog>(&[job, &rank.to_string()], &query).await?;
            write_chunk(session, &mut output, rank, &chunk)?;
            if chunk.end || chunk.content.is_empty() {
                break;
            }
            offset = chunk.next_offset;
        }
        output::write(&output.close(rank))?;
    }
    Ok(())
}

/// Shows a piece of output: text, or with `--output json` one object per line.
pub(crate) fn write_chunk(session: &Session<'_>, output: &mut Interleaver, rank: u32, chunk: &LogChunk) -> Result<(), Failure> {
    if session.json() {
        let mut value = serde_json::to_value(chunk).expect("plain data");
        value["rank"] = rank.into();
        output::write(&format!("{value}\n"))
    } else {
        output::write(&output.push(rank, &chunk.content))
    }
}

async fn wait(session: &Session<'_>, client: &Client, job: &str, timeout: Option<Duration>) -> Result<(), Failure> {
    let client = client.clone().with_patience(PATIENCE);
    let ended = async {
        let mut after = None;
        loop {
            let detail = client.job_after(job, after, LONGEST_WAIT).await?;
            if detail.view.job.state.ended() {
                return Ok::<_, Failure>(detail);
            }
            after = Some(detail.view.job.generation);
        }
    };
    let detail = match timeout {
        None => ended.await?,
        Some(limit) => tokio::time::timeout(limit, ended)
            .await
            .map_err(|_| Failure::Failed(format!("job {job} has not ended within {}", seconds(whole_seconds(limit)))))??,
    };
    session.print(&detail, |_| format!("{} {}\n", detail.view.job.id, detail.view.job.state.word()))?;
    conclude(&detail)
}

/// Says why a job ended badly, and gives its exit code.
pub(crate) fn conclude(detail: &JobDetail) -> Result<(), Failure> {
    let job = &detail.view.job;
    let JobState::Ended { outcome, .. } = &job.state else { return Ok(()) };
    let exit = exit_of(outcome.exit_code());
    if exit == Exit::OK {
        return Ok(());
    }
    say(&format!("error: job {} ({}) {}", job.id, clean(&job.name), ending(outcome)));
    Err(Failure::Quiet(exit))
}

/// A job's exit code as ours. One that does not fit (256, -1) must not become success.
fn exit_of(code: i32) -> Exit {
    match u8::try_from(code & 0xff) {
        Ok(0) if code != 0 => Exit::FAILED,
        Ok(code) => Exit(code),
        Err(_) => Exit::FAILED,
    }
}

/// How a job ended, with the lines that a person wants to see first.
fn ending(outcome: &JobOutcome) -> String {
    match outcome {
        JobOutcome::Succeeded => "succeeded".to_owned(),
        JobOutcome::Failed(failure) => {
            let mut text = format!("failed: rank {} on node {} {}", failure.rank, clean(&failure.node), clean(&failure.end.to_string()));
            if !failure.last_lines.is_empty() {
                text.push_str("\n  its last lines:");
                for line in &failure.last_lines {
                    add(&mut text, format_args!("\n  | {}", clean(line)));
                }
            }
            text
        }
        JobOutcome::Cancelled { by } => format!("was cancelled by {}", clean(by)),
        JobOutcome::TimedOut => "was stopped at its time limit".to_owned(),
        JobOutcome::NodeLost { node, detail } => {
            format!("lost node {} and had no requeue left: {}; see --requeue", clean(node), clean(detail))
        }
    }
}

/// What a person should know of a job's state beyond its word, in one line.
pub(crate) fn detail_of(job_state: &JobState) -> String {
    match job_state {
        JobState::Queued { reason } => clean(reason),
        JobState::Starting { .. } | JobState::Running { .. } | JobState::Ended { outcome: JobOutcome::Succeeded, .. } => String::new(),
        JobState::Stopping { reason, .. } => stopping(reason),
        JobState::Ended { outcome, .. } => ending(outcome).lines().next().unwrap_or_default().to_owned(),
    }
}

fn stopping(reason: &StopReason) -> String {
    clean(&match reason {
        StopReason::RankFailed(failure) => format!("rank {} on node {} {}", failure.rank, failure.node, failure.end),
        StopReason::Cancelled { by } => format!("cancelled by {by}"),
        StopReason::TimeLimit => "time limit".to_owned(),
        StopReason::NodeLost { node, detail } => format!("node {node}: {detail}"),
        StopReason::Evicted { operation } => format!("evicted by {operation}"),
    })
}

/// Jobs as a table.
pub(crate) fn list(items: &[JobView], look: &Look) -> String {
    let mut table = Table::new(&["ID", "NAME", "SUPER NODE", "STATE", "NODES", "PRIORITY", "OWNER", "AGE", "DETAIL"]);
    for view in items {
        let job = &view.job;
        table.row([
            cell(&job.id),
            cell(&job.name),
            cell(&view.super_node_name),
            state(job.state.word()),
            cell(job.spec.nodes),
            cell(job.spec.priority),
            cell(&job.owner),
            cell(look.age(job.submitted_at)),
            cell(detail_of(&job.state)),
        ]);
    }
    table.render(look)
}

fn show(detail: &JobDetail, look: &Look) -> String {
    let job = &detail.view.job;
    let spec = &job.spec;
    let ended = match &job.state {
        JobState::Ended { at, .. } => Some(look.moment(*at)),
        _ => None,
    };
    let mut text = fields(&[
        ("id", job.id.to_string()),
        ("name", job.name.clone()),
        ("super node", detail.view.super_node_name.to_string()),
        ("state", job.state.word().to_owned()),
        ("detail", detail_of(&job.state)),
        ("owner", job.owner.clone()),
        ("nodes", spec.nodes.to_string()),
        ("devices per node", spec.devices.map_or("all".to_owned(), |devices| devices.to_string())),
        ("program", spec.arguments.iter().map(|argument| quoted(argument)).collect::<Vec<_>>().join(" ")),
        ("working directory", or_dash(spec.workdir.as_ref())),
        ("environment", pairs(&spec.environment)),
        ("priority", spec.priority.to_string()),
        ("time limit", or_dash(spec.time_limit_seconds.map(seconds))),
        ("grace", seconds(u64::from(spec.grace_seconds))),
        ("requeues", format!("{} of {}", job.requeues, spec.requeue_limit)),
        ("attempts", job.attempts.to_string()),
        ("cancel asked by", or_dash(job.cancel_requested_by.as_ref())),
        ("submitted", look.moment(job.submitted_at)),
        ("started", or_dash(job.started_at.map(|moment| look.moment(moment)))),
        ("ended", or_dash(ended)),
    ]);
    if !detail.ranks.is_empty() {
        let mut table = Table::new(&["RANK", "NODE", "DEVICE", "STATE", "DETAIL"]);
        for view in &detail.ranks {
            let how = match &view.rank.state {
                RankState::Ended { end, .. } => end.to_string(),
                RankState::Assigned | RankState::Running => String::new(),
            };
            table.row([
                cell(view.rank.rank),
                cell(&view.node_name),
                cell(view.rank.device),
                state(view.rank.state.word()),
                cell(how),
            ]);
        }
        text += &section("ranks", &table.render(look));
    }
    text
}

/// An argument as one would type it; only for reading.
fn quoted(argument: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=:,@%+".contains(letter);
    if !argument.is_empty() && argument.chars().all(plain) { argument.to_owned() } else { format!("'{}'", argument.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use supernode_types::Timestamp;

    const LOOK: Look = Look { now: Timestamp(1_763_900_000_000_000), color: false };

    fn sample(job_state: &Value) -> JobDetail {
        serde_json::from_value(json!({
            "id": "job-01kb000000000000000000000a", "name": "ring", "owner": "ada", "super_node": "sn-01kb000000000000000000000a",
            "super_node_name": "train", "spec": {"nodes": 2, "devices": null, "arguments": ["python3", "a b.py"], "workdir": "/x", "priority": 5,
            "time_limit_seconds": 90, "requeue_limit": 1, "grace_seconds": 10, "run_as_root": false},
            "state": job_state, "attempts": 1, "requeues": 0, "cancel_requested_by": null, "generation": 3,
            "submitted_at": "2025-11-23T12:13:10Z", "started_at": null,
            "ranks": [{"attempt": "try-01kb000000000000000000000a", "job": "job-01kb000000000000000000000a", "rank": 0, "node_rank": 0,
                "local_rank": 0, "node": "node-01kb000000000000000000000a", "node_name": "n1", "device": 0, "boot_id": "b",
                "state": {"state": "ended", "end": {"how": "exited", "code": 3}, "last_lines": []}}]
        }))
        .expect("a job")
    }

    fn failed(code: i32) -> Value {
        let failure = json!({"outcome": "failed", "rank": 1, "node": "n2", "end": {"how": "exited", "code": code}, "last_lines": ["Traceback", "boom\u{1b}[31m"]});
        json!({"state": "ended", "outcome": failure, "at": "2025-11-23T12:13:20Z"})
    }

    #[test]
    fn the_list_says_what_a_queued_job_waits_for() {
        let detail = sample(&json!({"state": "queued", "reason": "needs 2 nodes, 1 is free"}));
        assert_eq!(
            list(&[detail.view], &LOOK),
            "ID                              NAME  SUPER NODE  STATE   NODES  PRIORITY  OWNER  AGE  DETAIL\n\
             job-01kb000000000000000000000a  ring  train       queued  2      5         ada    10s  needs 2 nodes, 1 is free\n"
        );
    }

    #[test]
    fn a_failure_names_rank_node_code_and_last_lines() {
        let detail = sample(&failed(3));
        let JobState::Ended { outcome, .. } = &detail.view.job.state else { panic!("it has ended") };
        assert_eq!(ending(outcome), "failed: rank 1 on node n2 exited with code 3\n  its last lines:\n  | Traceback\n  | boom [31m");
        let text = show(&detail, &LOOK);
        assert!(text.contains("program:            python3 'a b.py'\n"), "{text}");
        assert!(text.ends_with("ranks\nRANK  NODE  DEVICE  STATE  DETAIL\n0     n1    0       ended  exited with code 3\n"), "{text}");
    }

    #[test]
    fn a_bad_end_never_becomes_success() {
        for (code, expected) in [(0, 0), (3, 3), (255, 255), (256, 1), (-1, 255), (-256, 1)] {
            assert_eq!(exit_of(code), Exit(expected), "{code}");
        }
    }
}
