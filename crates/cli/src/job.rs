//! `supernode job …`: distributed programs.

pub(crate) mod view;

use std::time::Duration;

use supernode_api::Nothing;
use supernode_api::job::{
    JobCancel, JobDetail, JobList, JobListQuery, JobLog, JobLogQuery, JobShow, JobSubmit,
    JobSubmitRequest, LogChunk,
};
use supernode_client::{CallOptions, Client, LONGEST_WAIT};
use supernode_types::job::JobState;

use crate::change::{KeyOption, pair, whole_seconds, whole_seconds_u32};
use crate::failure::{Exit, Failure};
use crate::log_output::Interleaver;
use crate::output::{self, clean, say, seconds};
use crate::progress::PATIENCE;
use crate::retry_policy;
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
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
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
    /// Refuse the job if its operators would not be repeated when a link breaks, instead of warning
    #[arg(long)]
    strict: bool,
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
            strict: self.strict,
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
            let view = client
                .call::<JobSubmit>(&[], &Nothing {}, &request, &arguments.job.call())
                .await?;
            retry_policy::warn(&view.job.retry_findings);
            session.print(&view, |_| format!("{}\n", view.job.id))
        }
        JobCommand::List { super_node, state } => {
            let query = JobListQuery {
                super_node,
                state,
                ..JobListQuery::default()
            };
            let items = client.list::<JobList, _>(&[], &query).await?;
            session.print_list(&items, "no jobs", view::list)
        }
        JobCommand::Show { job } => {
            let detail = client
                .get::<JobShow>(&[&job], &supernode_api::Watch::default())
                .await?;
            session.print(&detail, |look| view::show(&detail, look))
        }
        JobCommand::Cancel { job, key } => {
            let view = client
                .call::<JobCancel>(&[&job], &Nothing {}, &Nothing {}, &key.call())
                .await?;
            session.print(&view, |_| {
                let how = if view.job.state.ended() {
                    "is cancelled"
                } else {
                    "is being cancelled"
                };
                format!("{} {how}\n", view.job.id)
            })
        }
        JobCommand::Logs {
            job,
            rank,
            follow,
            attempt,
        } => logs(session, &client, &job, rank, follow, attempt).await,
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
        None => client
            .job_after(job, None, Duration::ZERO)
            .await?
            .ranks
            .iter()
            .map(|rank| rank.rank.rank)
            .collect(),
    };
    let mut output = Interleaver::new(ranks.len());
    for rank in ranks {
        let mut offset = 0;
        loop {
            let query = JobLogQuery {
                offset: Some(offset),
                limit: None,
                wait_milliseconds: None,
                attempt: attempt.clone(),
            };
            let chunk = client
                .get::<JobLog>(&[job, &rank.to_string()], &query)
                .await?;
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
pub(crate) fn write_chunk(
    session: &Session<'_>,
    output: &mut Interleaver,
    rank: u32,
    chunk: &LogChunk,
) -> Result<(), Failure> {
    if session.json() {
        let mut value = serde_json::to_value(chunk).expect("plain data");
        value["rank"] = rank.into();
        output::write(&format!("{value}\n"))
    } else {
        output::write(&output.push(rank, &chunk.content))
    }
}

async fn wait(
    session: &Session<'_>,
    client: &Client,
    job: &str,
    timeout: Option<Duration>,
) -> Result<(), Failure> {
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
        Some(limit) => tokio::time::timeout(limit, ended).await.map_err(|_| {
            Failure::Failed(format!(
                "job {job} has not ended within {}",
                seconds(whole_seconds(limit))
            ))
        })??,
    };
    session.print(&detail, |_| {
        format!("{} {}\n", detail.view.job.id, detail.view.job.state.word())
    })?;
    conclude(&detail)
}

/// Says why a job ended badly, and gives its exit code.
pub(crate) fn conclude(detail: &JobDetail) -> Result<(), Failure> {
    let job = &detail.view.job;
    let JobState::Ended { outcome, .. } = &job.state else {
        return Ok(());
    };
    let exit = exit_of(outcome.exit_code());
    if exit == Exit::OK {
        return Ok(());
    }
    say(&format!(
        "error: job {} ({}) {}",
        job.id,
        clean(&job.name),
        view::ending(outcome)
    ));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_end_never_becomes_success() {
        for (code, expected) in [(0, 0), (3, 3), (255, 255), (256, 1), (-1, 255), (-256, 1)] {
            assert_eq!(exit_of(code), Exit(expected), "{code}");
        }
    }
}
