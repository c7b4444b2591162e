//! The peer: Slurm as Debian ships it (`slurm-wlm`), real daemons on loopback, tuned fairly. What is timed starts and ends where it
//! does for the project's own side: at the client's start and at the first instruction of a rank, which prints the time itself.

mod cluster;
mod configuration;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Contender;
use super::stamps::{last_stamp_after, resident, seconds_between};
use super::suites::Question;
use crate::ci::setup::{apt_install, find_program, install_line, may_install};
use crate::processes::{Process, realtime_nanoseconds, text_within, wait_for};
use cluster::Cluster;

pub(crate) const NAME: &str = "slurm";

/// `libslurm-dev` for submitting by library: one process per job would measure how fast processes start.
const PACKAGES: [&str; 3] = ["slurm-wlm", "munge", "libslurm-dev"];
const CLIENT: Duration = Duration::from_mins(1);
const WORK: Duration = Duration::from_mins(2);
/// Detection, the credential's life and one more round of the scheduler fit three times.
const NODE_LOSS: Duration = Duration::from_mins(4);

/// Prints the time and its node, then stays.
const LONG_JOB: &str =
    "#!/bin/sh\necho \"$(date +%s%N) $SLURMD_NODENAME $$\" >> STAMPS\nexec sleep 3600\n";
const STAMP_JOB: &str = "#!/bin/sh\ndate +%s%N >> STAMPS\n";
const GANG_JOB: &str = "#!/bin/sh\nexec srun --quiet /bin/date +%s%N\n";
const COUNTED_JOB: &str = "#!/bin/sh\necho x >> STAMPS\n";
const NO_JOB: &str = "#!/bin/sh\nexit 0\n";

pub(crate) struct Slurm {
    cluster: Cluster,
    version: String,
    submitter: PathBuf,
    /// Scripts written so far: each measurement gets names of its own.
    files: u32,
}

/// Why Slurm takes no part. Installs it when that needs nobody's consent.
pub(crate) fn absent() -> Result<Option<String>> {
    let complete = || {
        let programs = ["slurmctld", "slurmd", "munged", "srun"];
        programs.iter().all(|name| find_program(name).is_some())
            && PathBuf::from("/usr/include/slurm/slurm.h").exists()
    };
    if complete() {
        return Ok(None);
    }
    if may_install()? {
        apt_install(&PACKAGES)?;
    }
    Ok((!complete()).then(|| {
        format!(
            "not installed; on Debian paste: {}",
            install_line(&PACKAGES)
        )
    }))
}

impl Slurm {
    pub(crate) fn start(nodes: u32) -> Result<Self> {
        let cluster = Cluster::start(nodes)?;
        let version = text_within(cluster.client("sinfo").arg("--version"), CLIENT)?
            .trim()
            .to_owned();
        let source = cluster.directory().join("submitter.c");
        let submitter = cluster.directory().join("submitter");
        fs::write(&source, include_str!("slurm/submitter.c"))?;
        text_within(
            Command::new("cc")
                .arg("-O2")
                .arg("-o")
                .args([&submitter, &source])
                .args(["-lslurm", "-lpthread"]),
            CLIENT,
        )
        .context("cannot compile the submitter")?;
        Ok(Self {
            cluster,
            version,
            submitter,
            files: 0,
        })
    }

    /// A path in the private directory that no earlier measurement used.
    fn fresh(&mut self, name: &str) -> PathBuf {
        self.files += 1;
        self.cluster
            .directory()
            .join(format!("{}-{name}", self.files))
    }

    /// Writes a job script; `STAMPS` in it becomes the file that is returned second, which exists and is empty.
    fn script(&mut self, text: &str) -> Result<(PathBuf, PathBuf)> {
        let script = self.fresh("job.sh");
        let stamps = script.with_extension("stamps");
        fs::write(&stamps, "")?;
        fs::write(
            &script,
            text.replace("STAMPS", &stamps.display().to_string()),
        )?;
        Ok((script, stamps))
    }

    fn sbatch(&self, script: &PathBuf, options: &[&str]) -> Result<String> {
        let mut command = self.cluster.client("sbatch");
        command
            .args(["--parsable", "--output=/dev/null"])
            .args(options)
            .arg(script);
        Ok(text_within(&mut command, CLIENT)?.trim().to_owned())
    }

    fn gang_run(&self, nodes: u32) -> Result<f64> {
        let mut srun = self.cluster.client("srun");
        srun.args([
            "--quiet",
            &format!("--nodes={nodes}"),
            &format!("--ntasks={nodes}"),
        ]);
        srun.args(["/bin/date", "+%s%N"]);
        let start = realtime_nanoseconds();
        let text = text_within(&mut srun, CLIENT)?;
        last_stamp_after(start, &text, nodes)?
            .with_context(|| format!("expected {nodes} stamps, srun printed: {text}"))
    }

    fn gang_submit(&mut self, nodes: u32) -> Result<f64> {
        let (script, _) = self.script(GANG_JOB)?;
        let output = self.fresh("gang.out");
        let mut sbatch = self.cluster.client("sbatch");
        sbatch
            .arg("--quiet")
            .arg(format!("--output={}", output.display()));
        sbatch
            .args([format!("--nodes={nodes}"), format!("--ntasks={nodes}")])
            .arg(&script);
        let start = realtime_nanoseconds();
        text_within(&mut sbatch, CLIENT)?;
        wait_for("the ranks of a queued gang", CLIENT, || {
            let text = fs::read_to_string(&output).unwrap_or_default();
            last_stamp_after(start, &text, nodes)
        })
    }

    fn command(&self, nodes: u32) -> Result<f64> {
        let mut srun = self.cluster.client("srun");
        srun.args([
            "--quiet",
            &format!("--nodes={nodes}"),
            &format!("--ntasks={nodes}"),
            "/bin/hostname",
        ]);
        let start = Instant::now();
        let text = text_within(&mut srun, CLIENT)?;
        let seconds = start.elapsed().as_secs_f64();
        if text.lines().count() != nodes as usize {
            bail!("expected {nodes} lines, srun printed: {text}");
        }
        Ok(seconds)
    }

    /// Submits by library; seconds from the first request to the last answer.
    fn submit(&self, connections: u32, jobs: u32, state: &str, script: &PathBuf) -> Result<f64> {
        let mut submitter = self.cluster.client(&self.submitter);
        submitter
            .args([&connections.to_string(), &jobs.to_string(), state])
            .arg(script);
        let text = text_within(&mut submitter, WORK)?;
        text.trim()
            .parse()
            .with_context(|| format!("the submitter printed `{text}`"))
    }

    fn submits(&mut self, connections: u32, jobs: u32) -> Result<f64> {
        let (script, _) = self.script(NO_JOB)?;
        let seconds = self.submit(connections, jobs, "hold", &script)?;
        self.cluster.cancel_everything()?;
        Ok(f64::from(jobs) / seconds)
    }

    fn submit_commands(&mut self, jobs: u32) -> Result<f64> {
        let (script, _) = self.script(NO_JOB)?;
        let start = Instant::now();
        for _ in 0..jobs {
            self.sbatch(&script, &["--hold"])?;
        }
        let seconds = start.elapsed().as_secs_f64();
        self.cluster.cancel_everything()?;
        Ok(f64::from(jobs) / seconds)
    }

    fn jobs(&mut self, jobs: u32) -> Result<f64> {
        let (script, stamps) = self.script(COUNTED_JOB)?;
        let start = Instant::now();
        // With 64 at once, while jobs start and end, some submits time out.
        self.submit(16, jobs, "run", &script)?;
        wait_for("the end of all jobs", WORK, || {
            let done = fs::metadata(&stamps)?.len() / 2;
            Ok((done >= u64::from(jobs)).then_some(()))
        })?;
        Ok(f64::from(jobs) / start.elapsed().as_secs_f64())
    }

    /// Starts a job that stays and waits until it runs.
    fn start_long_job(&mut self) -> Result<LongJob> {
        let (script, stamps) = self.script(LONG_JOB)?;
        let id = self.sbatch(&script, &["--nodes=1", "--requeue"])?;
        let starts = wait_for("the start of a job", CLIENT, || {
            let starts = read_starts(&stamps)?;
            Ok((!starts.is_empty()).then_some(starts))
        })?;
        Ok(LongJob {
            id,
            stamps,
            node: starts[0].node,
            pid: starts[0].pid,
        })
    }

    fn controller_kill(&mut self) -> Result<f64> {
        let job = self.start_long_job()?;
        // Slurm keeps what it acknowledged in memory for some seconds; a job that it forgets is another figure than this one.
        // A change makes it save once more.
        let state = self.cluster.directory().join("state/job_state");
        let started = fs::metadata(&job.stamps)?.modified()?;
        let mut change = self.cluster.client("scontrol");
        change.args(["update", &format!("JobId={}", job.id), "Comment=keep"]);
        text_within(&mut change, CLIENT)?;
        wait_for("the controller to save its state", CLIENT, || {
            let saved = fs::metadata(&state).and_then(|metadata| metadata.modified());
            Ok(saved.is_ok_and(|saved| saved > started).then_some(()))
        })?;
        let (script, stamps) = self.script(STAMP_JOB)?;
        let start = realtime_nanoseconds();
        self.cluster.kill_and_restart_controller()?;
        wait_for("the controller to accept a job", CLIENT, || {
            Ok(self.sbatch(&script, &["--nodes=1"]).ok())
        })?;
        let seconds = wait_for("the first new job", CLIENT, || {
            last_stamp_after(start, &fs::read_to_string(&stamps)?, 1)
        })?;
        self.cluster_accepts_work()?;
        if Process::resident_bytes(job.pid).is_none() || read_starts(&job.stamps)?.len() != 1 {
            bail!("a running job did not survive the controller's end");
        }
        self.cluster.cancel_everything()?;
        Ok(seconds)
    }

    /// Every node has reported to the controller again, which is when Slurm would end a job that it does not know.
    fn cluster_accepts_work(&self) -> Result<()> {
        wait_for("all nodes to answer", WORK, || {
            let nodes = self.cluster.nodes.to_string();
            let text = text_within(
                self.cluster
                    .client("sinfo")
                    .args(["-h", "-t", "idle,mix,alloc", "-o", "%D"]),
                CLIENT,
            )?;
            Ok((text
                .lines()
                .filter_map(|line| line.parse::<u32>().ok())
                .sum::<u32>()
                .to_string()
                == nodes)
                .then_some(()))
        })
    }

    /// Of the `slurmstepd` of a running job.
    fn step_memory(&mut self) -> Result<f64> {
        self.start_long_job()?;
        let pid = self.cluster.step_pid().context("no slurmstepd runs")?;
        let bytes = resident(pid)?;
        self.cluster.cancel_everything()?;
        Ok(bytes)
    }

    fn node_loss(&mut self) -> Result<f64> {
        let job = self.start_long_job()?;
        let start = realtime_nanoseconds();
        self.cluster.kill_node(job.node, &job.id)?;
        let again = wait_for("the job on another node", NODE_LOSS, || {
            Ok(read_starts(&job.stamps)?.into_iter().nth(1))
        })?;
        if again.node == job.node {
            bail!("the job runs on the lost node again");
        }
        self.cluster.cancel_everything()?;
        self.cluster.restart_node(job.node)?;
        Ok(seconds_between(start, again.nanoseconds))
    }
}

impl Contender for Slurm {
    fn configuration(&self) -> String {
        configuration::description(&self.version, self.cluster.nodes)
    }

    fn measure(&mut self, question: Question) -> Result<Option<f64>> {
        let figure = match question {
            Question::GangRun { nodes } => self.gang_run(nodes)?,
            Question::GangSubmit { nodes } => self.gang_submit(nodes)?,
            Question::Command { nodes } => self.command(nodes)?,
            Question::Submit { connections, jobs } => self.submits(connections, jobs)?,
            Question::SubmitCommand { jobs } => self.submit_commands(jobs)?,
            Question::Jobs { jobs } => self.jobs(jobs)?,
            Question::AgentMemory => {
                let mut sizes = self
                    .cluster
                    .daemon_pids()
                    .map(resident)
                    .collect::<Result<Vec<f64>>>()?;
                sizes.sort_by(f64::total_cmp);
                sizes[sizes.len() / 2]
            }
            Question::RankMemory => self.step_memory()?,
            Question::ControllerMemory => resident(self.cluster.controller_pid())?,
            Question::ControllerKill => self.controller_kill()?,
            Question::NodeLoss if self.cluster.nodes < 2 => return Ok(None),
            Question::NodeLoss => self.node_loss()?,
            // Slurm cannot simulate nodes, and what it acknowledges it writes seconds later.
            Question::SimulatedShare { .. }
            | Question::SimulatedMemory { .. }
            | Question::SimulatedGang { .. }
            | Question::Acknowledged { .. } => return Ok(None),
        };
        Ok(Some(figure))
    }

    fn settle(&mut self) -> Result<()> {
        self.cluster.wait_until_idle()
    }
}

struct LongJob {
    id: String,
    stamps: PathBuf,
    node: u32,
    pid: u32,
}

/// One start of the long job, as it wrote it.
struct Start {
    nanoseconds: i128,
    node: u32,
    pid: u32,
}

fn read_starts(stamps: &PathBuf) -> Result<Vec<Start>> {
    let text = fs::read_to_string(stamps)?;
    Ok(text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .filter_map(parse_start)
        .collect())
}

fn parse_start(line: &str) -> Option<Start> {
    let mut words = line.split_whitespace();
    Some(Start {
        nanoseconds: words.next()?.parse().ok()?,
        node: words.next()?.strip_prefix('n')?.parse().ok()?,
        pid: words.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_read_line_by_line() {
        let start = parse_start("17000 n12 4711\n").expect("complete");
        assert_eq!(
            (start.nanoseconds, start.node, start.pid),
            (17000, 12, 4711)
        );
        assert!(parse_start("17000 n12").is_none());
    }
}
