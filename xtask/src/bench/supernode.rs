//! This project's side of the benchmark: the release build of the one binary, real processes on loopback in a private directory, SQLite
//! on disk, mutual TLS and tokens, everything durable as shipped.
//!
//! What has a peer is asked of a cluster of real agents. What has none (thousands of agents, very large gangs, whether anything
//! acknowledged is ever lost) is asked of a server with simulated agents, and of servers that are killed at random moments.

mod acknowledged;
mod cluster;
mod server;
mod simulation;
mod supervised;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Contender;
use super::stamps::{last_stamp_after, resident, seconds_between};
use super::suites::Question;
use crate::metadata::cargo;
use crate::processes::{Process, realtime_nanoseconds, text_within, wait_for, wait_within};
use crate::workspace;
pub(crate) use acknowledged::{Trials, run as run_trials};
use cluster::{Cluster, HELD, TRAIN};
use server::{CLIENT, id_of};
use simulation::Simulation;

pub(crate) const NAME: &str = "supernode";

const WORK: Duration = Duration::from_mins(3);
const NODE_LOSS: Duration = Duration::from_mins(2);

/// Prints the time and itself, then stays.
const LONG_JOB: &str = "echo \"$(date +%s%N) $$\" >> STAMPS; exec sleep 3600";
const STAMP_JOB: &str = "date +%s%N >> STAMPS";
const COUNTED_JOB: &str = "echo x >> STAMPS";

pub(crate) struct Supernode {
    binary: PathBuf,
    load: PathBuf,
    nodes: u32,
    /// What is running now; only one at a time, so that neither pays for the other.
    stage: Stage,
    /// Files written so far: each measurement gets names of its own.
    files: u32,
}

enum Stage {
    Empty,
    Cluster(Box<Cluster>),
    Simulation(Box<Simulation>),
}

/// Builds a package as users get it. One by one: together they would have other features than alone, and be compiled once more.
pub(super) fn build(package: &str) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--release", "--package", package]);
    let mut child = build.spawn().context("cannot start cargo")?;
    let status = wait_within(&mut child, "cargo build --release", Duration::from_mins(40))?;
    if !status.success() {
        bail!("cargo build --release failed");
    }
    Ok(())
}

impl Supernode {
    /// `binary`, and the `xtask-load` beside it, are measured and used instead of a fresh release build.
    pub(crate) fn new(nodes: u32, binary: Option<&Path>) -> Result<Self> {
        let binary = if let Some(binary) = binary {
            std::path::absolute(binary)?
        } else {
            build("xtask-load")?;
            build("supernode")?;
            workspace::target_directory().join("release/supernode")
        };
        Ok(Self {
            load: binary.with_file_name("xtask-load"),
            binary,
            nodes,
            stage: Stage::Empty,
            files: 0,
        })
    }

    fn cluster(&mut self) -> Result<&mut Cluster> {
        if !matches!(self.stage, Stage::Cluster(_)) {
            // What ran before ends first.
            self.stage = Stage::Empty;
            self.stage = Stage::Cluster(Box::new(Cluster::start(&self.binary, self.nodes)?));
        }
        match &mut self.stage {
            Stage::Cluster(cluster) => Ok(cluster),
            Stage::Empty | Stage::Simulation(_) => unreachable!("was started above"),
        }
    }

    fn simulation(&mut self, agents: u32) -> Result<&mut Simulation> {
        let fits = matches!(&self.stage, Stage::Simulation(running) if running.agents == agents);
        if !fits {
            self.stage = Stage::Empty;
            let simulation = Simulation::start(&self.binary, &self.load, agents)?;
            self.stage = Stage::Simulation(Box::new(simulation));
        }
        match &mut self.stage {
            Stage::Simulation(simulation) => Ok(simulation),
            Stage::Empty | Stage::Cluster(_) => unreachable!("was started above"),
        }
    }

    /// An empty file that ranks of every user can write to, and a shell line that does, in which it replaces `STAMPS`.
    fn script(&mut self, line: &str) -> Result<(PathBuf, String)> {
        self.files += 1;
        let name = format!("{}.stamps", self.files);
        let path = self.cluster()?.server.directory().join(name);
        fs::write(&path, "")?;
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        let line = line.replace("STAMPS", &path.display().to_string());
        Ok((path, line))
    }

    fn submit(&mut self, options: &[&str], program: &[&str]) -> Result<String> {
        let arguments = [
            &["job", "submit", "--super-node", TRAIN][..],
            options,
            &["--"],
            program,
        ]
        .concat();
        id_of(&self.cluster()?.server.json(&arguments)?)
    }

    fn gang_run(&mut self, nodes: u32) -> Result<f64> {
        let count = nodes.to_string();
        let server = &self.cluster()?.server;
        let mut run = server.cli(&["run", "--super-node", TRAIN, "--nodes", &count]);
        run.args(["--", "/bin/date", "+%s%N"]);
        let start = realtime_nanoseconds();
        let text = text_within(&mut run, CLIENT)?;
        last_stamp_after(start, &without_ranks(&text), nodes)?
            .with_context(|| format!("expected {nodes} stamps, `run` printed: {text}"))
    }

    fn gang_submit(&mut self, nodes: u32) -> Result<f64> {
        let count = nodes.to_string();
        let start = realtime_nanoseconds();
        let job = self.submit(&["--nodes", &count], &["/bin/date", "+%s%N"])?;
        let server = &self.cluster()?.server;
        expect_success(&server.wait_for_job(&job, CLIENT, has_ended)?)?;
        let text = text_within(&mut server.cli(&["job", "logs", &job]), CLIENT)?;
        last_stamp_after(start, &without_ranks(&text), nodes)?
            .with_context(|| format!("expected {nodes} stamps, the logs are: {text}"))
    }

    fn command(&mut self, nodes: u32) -> Result<f64> {
        let count = nodes.to_string();
        let server = &self.cluster()?.server;
        let mut run = server.cli(&["run", "--super-node", TRAIN, "--nodes", &count]);
        run.args(["--", "/bin/hostname"]);
        let start = Instant::now();
        let text = text_within(&mut run, CLIENT)?;
        let seconds = start.elapsed().as_secs_f64();
        if text.lines().count() != nodes as usize {
            bail!("expected {nodes} lines, `run` printed: {text}");
        }
        Ok(seconds)
    }

    /// Submits by library; seconds from the first request to the last answer.
    fn submit_many(&mut self, connections: u32, jobs: u32, options: &[&str]) -> Result<f64> {
        let load = self.load.clone();
        let mut submitter = self.cluster()?.server.client(&load);
        submitter
            .arg("submit")
            .args(["--connections", &connections.to_string()])
            .args(["--jobs", &jobs.to_string()])
            .args(options);
        let text = text_within(&mut submitter, WORK)?;
        let answer: Value = serde_json::from_str(&text)
            .with_context(|| format!("the submitter printed `{text}`"))?;
        answer["seconds"].as_f64().context("no seconds")
    }

    fn submits(&mut self, connections: u32, jobs: u32) -> Result<f64> {
        let options = ["--super-node", HELD, "--cancel", "--", "/bin/true"];
        let seconds = self.submit_many(connections, jobs, &options)?;
        Ok(f64::from(jobs) / seconds)
    }

    fn submit_commands(&mut self, jobs: u32) -> Result<f64> {
        let server = &self.cluster()?.server;
        let start = Instant::now();
        for _ in 0..jobs {
            server.run(&["job", "submit", "--super-node", HELD, "--", "/bin/true"])?;
        }
        let seconds = start.elapsed().as_secs_f64();
        server.cancel_everything()?;
        Ok(f64::from(jobs) / seconds)
    }

    fn jobs(&mut self, jobs: u32) -> Result<f64> {
        let (stamps, line) = self.script(COUNTED_JOB)?;
        let start = Instant::now();
        let options = ["--super-node", TRAIN, "--", "/bin/sh", "-c", &line];
        self.submit_many(64.min(jobs), jobs, &options)?;
        wait_for("the end of all jobs", WORK, || {
            let done = fs::metadata(&stamps)?.len() / 2;
            Ok((done >= u64::from(jobs)).then_some(()))
        })?;
        Ok(f64::from(jobs) / start.elapsed().as_secs_f64())
    }

    /// Starts a job that stays and waits until it runs.
    fn start_long_job(&mut self) -> Result<LongJob> {
        let (stamps, line) = self.script(LONG_JOB)?;
        let id = self.submit(
            &["--requeue", "1", "--grace", "1s"],
            &["/bin/sh", "-c", &line],
        )?;
        let start = wait_for("the start of a job", CLIENT, || {
            Ok(read_starts(&stamps)?.into_iter().next())
        })?;
        let server = &self.cluster()?.server;
        let job = server.wait_for_job(&id, CLIENT, |job| job["state"]["state"] == "running")?;
        let node = job["ranks"][0]["node_name"].as_str();
        Ok(LongJob {
            node: node.context("a running job has a node")?.to_owned(),
            id,
            stamps,
            pid: start.1,
        })
    }

    fn agent_memory(&mut self) -> Result<f64> {
        median_of(self.cluster()?.agent_pids())
    }

    fn supervisor_memory(&mut self) -> Result<f64> {
        self.start_long_job()?;
        let cluster = self.cluster()?;
        let bytes = median_of(cluster.rank_supervisors()?)?;
        cluster.server.cancel_everything()?;
        Ok(bytes)
    }

    fn controller_kill(&mut self) -> Result<f64> {
        let job = self.start_long_job()?;
        let (stamps, line) = self.script(STAMP_JOB)?;
        let start = realtime_nanoseconds();
        self.cluster()?.server.process().kill()?;
        // The client itself goes on trying until the server is back.
        wait_for("the server to accept a job", CLIENT, || {
            Ok(self.submit(&[], &["/bin/sh", "-c", &line]).ok())
        })?;
        let seconds = wait_for("the first new job", CLIENT, || {
            last_stamp_after(start, &fs::read_to_string(&stamps)?, 1)
        })?;
        // Every agent has reported again, which is when an unknown job would be ended.
        let count = self.nodes as usize + 1;
        let server = &self.cluster()?.server;
        server.wait_for_ready_nodes(count)?;
        if Process::resident_bytes(job.pid).is_none() || read_starts(&job.stamps)?.len() != 1 {
            bail!("a running job did not survive the end of the server");
        }
        server.cancel_everything()?;
        Ok(seconds)
    }

    fn node_loss(&mut self) -> Result<f64> {
        let job = self.start_long_job()?;
        let start = realtime_nanoseconds();
        self.cluster()?.kill_agent(&job.node)?;
        let again = wait_for("the job on another node", NODE_LOSS, || {
            Ok(read_starts(&job.stamps)?.into_iter().nth(1))
        })?;
        if Process::resident_bytes(job.pid).is_some() {
            bail!("the rank on the lost node ran on although its job was started elsewhere");
        }
        let cluster = self.cluster()?;
        let shown = cluster.server.json(&["job", "show", &job.id])?;
        if shown["ranks"][0]["node_name"] == job.node.as_str() {
            bail!("the job runs on the lost node again");
        }
        cluster.server.cancel_everything()?;
        cluster.restart_agent(&job.node)?;
        Ok(seconds_between(start, again.0))
    }

    fn acknowledged(&mut self, trials: u32) -> Result<f64> {
        self.stage = Stage::Empty;
        let losses = run_trials(&self.binary, &Trials::full(trials))?;
        Ok(f64::from(losses))
    }
}

impl Contender for Supernode {
    fn configuration(&self) -> String {
        let version = text_within(
            std::process::Command::new(&self.binary).arg("--version"),
            CLIENT,
        )
        .unwrap_or_default();
        format!(
            "{}, release build: one `supernode server --lost-after 10s` and {} `supernode agent` as processes on loopback\n\
             SQLite in WAL mode with synchronous=FULL: a submit is acknowledged when it is on disk\n\
             TLS 1.3 and tokens for clients, mutual TLS for agents, sync once a second; jobs of root run as an unprivileged user\n\
             a node without accelerators is one device: at most {} one-task jobs run at once",
            version.trim(),
            self.nodes + 1,
            self.nodes,
        )
    }

    fn measure(&mut self, question: Question) -> Result<Option<f64>> {
        let figure = match question {
            Question::GangRun { nodes } => self.gang_run(nodes)?,
            Question::GangSubmit { nodes } => self.gang_submit(nodes)?,
            Question::Command { nodes } => self.command(nodes)?,
            Question::Submit { connections, jobs } => self.submits(connections, jobs)?,
            Question::SubmitCommand { jobs } => self.submit_commands(jobs)?,
            Question::Jobs { jobs } => self.jobs(jobs)?,
            Question::AgentMemory => self.agent_memory()?,
            Question::RankMemory => self.supervisor_memory()?,
            Question::ControllerMemory => {
                let server = self.cluster()?.server.process();
                resident(server.pid().context("the server is gone")?)?
            }
            Question::ControllerKill => self.controller_kill()?,
            Question::NodeLoss if self.nodes < 2 => return Ok(None),
            Question::NodeLoss => self.node_loss()?,
            Question::SimulatedShare { agents, seconds } => {
                self.simulation(agents)?.share_of_a_core(seconds)?
            }
            Question::SimulatedMemory { agents } => self.simulation(agents)?.resident()?,
            Question::SimulatedGang { agents, nodes } => self.simulation(agents)?.gang(nodes)?,
            Question::Acknowledged { trials } => self.acknowledged(trials)?,
        };
        Ok(Some(figure))
    }

    fn settle(&mut self) -> Result<()> {
        match &mut self.stage {
            Stage::Cluster(cluster) => cluster.settle(),
            Stage::Empty | Stage::Simulation(_) => Ok(()),
        }
    }
}

struct LongJob {
    id: String,
    stamps: PathBuf,
    node: String,
    pid: u32,
}

/// When and as which process the long job started, for each start.
fn read_starts(stamps: &Path) -> Result<Vec<(i128, u32)>> {
    let text = fs::read_to_string(stamps)?;
    Ok(text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .filter_map(|line| {
            let (nanoseconds, pid) = line.trim().split_once(' ')?;
            Some((nanoseconds.parse().ok()?, pid.parse().ok()?))
        })
        .collect())
}

/// Output of several ranks without the `[rank] ` before each line.
fn without_ranks(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.split_once("] ") {
            Some((rank, rest)) if rank.starts_with('[') => rest,
            _ => line,
        })
        .collect()
}

fn has_ended(job: &Value) -> bool {
    job["state"]["state"] == "ended"
}

fn expect_success(job: &Value) -> Result<()> {
    if job["state"]["outcome"]["outcome"] != "succeeded" {
        bail!("a job did not succeed: {}", job["state"]);
    }
    Ok(())
}

fn median_of(pids: impl IntoIterator<Item = u32>) -> Result<f64> {
    let mut sizes = pids
        .into_iter()
        .map(resident)
        .collect::<Result<Vec<f64>>>()?;
    sizes.sort_by(f64::total_cmp);
    sizes
        .get(sizes.len() / 2)
        .copied()
        .context("there is no process to look at")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_taken_off_and_lines_stay_complete() {
        assert_eq!(without_ranks("[0] 17\n[31] 18\n"), "17\n18\n");
        assert_eq!(without_ranks("17\n"), "17\n");
        assert_eq!(without_ranks("[3] 1"), "1");
    }

    #[test]
    fn starts_are_read_line_by_line() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("stamps");
        fs::write(&path, "17000 4711\n18000 47").expect("write");
        assert_eq!(read_starts(&path).expect("is there"), [(17000, 4711)]);
    }
}
