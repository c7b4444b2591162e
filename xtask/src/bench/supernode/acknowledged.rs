//! The trial of acknowledged requests: the server is killed with `kill -9` at a random moment after it acknowledged a change, and
//! started again at once. Nothing acknowledged may be lost, nothing may be done twice, and what was under way has to end.
//!
//! Each trial is one change, through the command line: submit, cordon, uncordon, scale-down, scale-up, in turn. In the last moments
//! before the kill another client submits as fast as it can, so that there are always requests that were acknowledged just then.
//! Several servers are tried at the same time, each with agents of its own: most of a trial is waiting for its moment.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::server::{CLIENT, Server, id_of};
use crate::processes::{kill, realtime_nanoseconds};

const WORK: &str = "work";
const HELD: &str = "held";
/// Two in `work`, a spare, one in `held`.
const AGENTS: usize = 4;
const WORKERS: usize = 2;
/// How long before the kill the other client begins.
const RUSH: Duration = Duration::from_millis(300);
/// How long what was under way may take to end after the restart.
const END: Duration = Duration::from_mins(1);

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trials {
    pub(crate) count: u32,
    /// The server is killed within this time after the acknowledgement.
    pub(crate) within: Duration,
    /// Servers at the same time.
    pub(crate) lanes: u32,
    /// Of the moments.
    pub(crate) seed: u64,
}

impl Trials {
    /// As in the peer's trial: 0 to 6 s after the acknowledgement.
    pub(crate) fn full(count: u32) -> Self {
        Self {
            count,
            within: Duration::from_secs(6),
            lanes: 4.min(count),
            seed: u64::try_from(realtime_nanoseconds()).unwrap_or(1),
        }
    }

    /// For every run of the checks: the moments in which a server has most to lose.
    pub(crate) fn short(count: u32) -> Self {
        Self {
            within: Duration::from_millis(300),
            lanes: 1,
            ..Self::full(count)
        }
    }
}

/// Runs all trials and answers how many acknowledged changes were lost; each is told on standard output.
pub(crate) fn run(binary: &Path, trials: &Trials) -> Result<u32> {
    println!(
        "           {} trials, kill -9 within {:?} of the acknowledgement, seed {}",
        trials.count, trials.within, trials.seed
    );
    // One after the other: each looks for free ports.
    let lanes = (0..trials.lanes)
        .map(|_| Lane::start(binary))
        .collect::<Result<Vec<_>>>()?;
    let next = AtomicU32::new(0);
    let tallies = std::thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .into_iter()
            .map(|lane| scope.spawn(|| lane.run(trials, &next)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a lane does not panic"))
            .collect::<Result<Vec<_>>>()
    })?;
    let total = tallies.into_iter().fold(Tally::default(), Tally::add);
    println!(
        "           acknowledged and checked: {} changes and {} jobs submitted just before the kill; lost {}; longest restart {:.2} s",
        total.changes,
        total.rushed,
        total.lost,
        total.longest_restart.as_secs_f64()
    );
    if total.changes != trials.count {
        bail!("{} of {} trials were made", total.changes, trials.count);
    }
    Ok(total.lost)
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    changes: u32,
    rushed: u32,
    lost: u32,
    longest_restart: Duration,
}

impl Tally {
    fn add(self, other: Self) -> Self {
        Self {
            changes: self.changes + other.changes,
            rushed: self.rushed + other.rushed,
            lost: self.lost + other.lost,
            longest_restart: self.longest_restart.max(other.longest_restart),
        }
    }
}

/// What a trial asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Submit,
    Cordon,
    Uncordon,
    ScaleDown,
    ScaleUp,
}

/// Each undoes what the one before did, so that they can be repeated for ever.
const CHANGES: [Change; 5] = [
    Change::Submit,
    Change::Cordon,
    Change::Uncordon,
    Change::ScaleDown,
    Change::ScaleUp,
];

/// One server with its agents.
struct Lane {
    agents: Vec<Child>,
    /// A line for each run of each job.
    runs: PathBuf,
    turns: u32,
    server: Server,
}

impl Lane {
    fn start(binary: &Path) -> Result<Self> {
        // Nodes join untested: what is tried is whether a scale-up is forgotten, and nodes on one machine would disturb each other's test.
        let options = ["--lost-after", "10s", "--admission", "none"];
        let server = Server::start("acknowledged", binary, &options)?;
        let join_token = server.join_token(u32::try_from(AGENTS)?)?;
        let agents = (1..=AGENTS)
            .map(|number| server.start_agent(&format!("node-{number}"), &join_token))
            .collect::<Result<_>>()?;
        let runs = server.directory().join("runs");
        fs::write(&runs, "")?;
        fs::set_permissions(&runs, Permissions::from_mode(0o666))?;
        server.wait_for_inventories(AGENTS)?;
        server.run(&["spec", "declare", "local", "--from-node", "node-1"])?;
        server.wait_for_ready_nodes(AGENTS)?;
        server.run(&["super-node", "create", HELD, "--node", "node-4", "--wait"])?;
        server.run(&["node", "cordon", "node-4", "--reason", "trial"])?;
        let workers = WORKERS.to_string();
        server.run(&["super-node", "create", WORK, "--nodes", &workers, "--wait"])?;
        Ok(Self {
            agents,
            runs,
            turns: 0,
            server,
        })
    }

    fn run(mut self, trials: &Trials, next: &AtomicU32) -> Result<Tally> {
        let mut tally = Tally::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= trials.count {
                return Ok(tally);
            }
            let change = CHANGES[self.turns as usize % CHANGES.len()];
            self.turns += 1;
            let delay = moment(trials.seed, number, trials.within);
            let losses = self
                .trial(number, change, delay, &mut tally)
                .with_context(|| format!("trial {number} ({change:?}, killed after {delay:?})"))
                .with_context(|| self.server.log_tail())?;
            for loss in &losses {
                println!(
                    "           LOST in trial {number} ({change:?}, killed after {delay:?}): {loss}"
                );
            }
            tally.changes += 1;
            tally.lost += u32::from(!losses.is_empty());
        }
    }

    /// One change, one kill, one look. Answers what was lost.
    fn trial(
        &self,
        number: u32,
        change: Change,
        delay: Duration,
        tally: &mut Tally,
    ) -> Result<Vec<String>> {
        let subject = self.ask(number, change)?;
        let acknowledged = Instant::now();
        let killed = AtomicBool::new(false);
        let rushed = std::thread::scope(|scope| {
            let rush = scope.spawn(|| {
                sleep_until(acknowledged + delay.saturating_sub(RUSH));
                self.submit_until(&killed)
            });
            sleep_until(acknowledged + delay);
            let result = self.server.process().kill();
            killed.store(true, Ordering::Relaxed);
            let rushed = rush.join().expect("submitting does not panic");
            result.and(rushed)
        })?;
        let restart = Instant::now();
        let mut losses = Vec::new();
        let queued: Vec<String> = self
            .server
            .json(&["job", "list", "--super-node", HELD, "--state", "active"])?
            .as_array()
            .context("a list was expected")?
            .iter()
            .filter_map(|job| Some(job["id"].as_str()?.to_owned()))
            .collect();
        tally.longest_restart = tally.longest_restart.max(restart.elapsed());
        tally.rushed += u32::try_from(rushed.len())?;
        losses.extend(
            rushed
                .iter()
                .filter(|id| !queued.contains(id))
                .map(|id| format!("job {id}, submitted just before the kill")),
        );
        losses.extend(self.look(number, change, &subject)?);
        Ok(losses)
    }

    /// Asks for the change. Answers the id of what came of it once it was acknowledged.
    fn ask(&self, number: u32, change: Change) -> Result<String> {
        let reason = reason(number);
        let line = format!("echo $SUPERNODE_JOB_ID >> {}", self.runs.display());
        let words: &[&str] = match change {
            Change::Submit => &[
                "job",
                "submit",
                "--super-node",
                WORK,
                "--",
                "/bin/sh",
                "-c",
                &line,
            ],
            Change::Cordon => &["node", "cordon", "node-1", "--reason", &reason],
            Change::Uncordon => &["node", "uncordon", "node-1"],
            Change::ScaleDown => &["super-node", "scale-down", WORK, "--count", "1"],
            Change::ScaleUp => &["super-node", "scale-up", WORK, "--count", "1"],
        };
        id_of(&self.server.json(words)?)
    }

    /// Submits jobs that stay queued, one after the other, until the server was killed. Answers those that were acknowledged.
    fn submit_until(&self, killed: &AtomicBool) -> Result<Vec<String>> {
        let mut acknowledged = Vec::new();
        while !killed.load(Ordering::Relaxed) {
            let words = ["job", "submit", "--super-node", HELD, "--", "/bin/true"];
            acknowledged.push(id_of(&self.server.json(&words)?)?);
        }
        Ok(acknowledged)
    }

    /// Whether the change is still there and comes to its end.
    fn look(&self, number: u32, change: Change, subject: &str) -> Result<Vec<String>> {
        let mut losses = Vec::new();
        let mut expect = |holds: bool, what: String| {
            if !holds {
                losses.push(what);
            }
        };
        match change {
            Change::Submit => {
                let job = self.until_ended(&["job", "show", subject])?;
                expect(
                    job["state"]["outcome"]["outcome"] == "succeeded",
                    format!("job {subject} is {}", job["state"]),
                );
                let runs = self.count_runs()?;
                let times = runs.get(subject).copied().unwrap_or_default();
                expect(times == 1, format!("job {subject} ran {times} times"));
            }
            Change::Cordon => {
                let policy = self.node_policy()?;
                let cordoned =
                    policy["state"] == "cordoned" && policy["reason"] == reason(number).as_str();
                expect(cordoned, format!("the cordon; node-1 is {policy}"));
            }
            Change::Uncordon => {
                let policy = self.node_policy()?;
                expect(
                    policy["state"] == "in_service",
                    format!("the uncordon; node-1 is {policy}"),
                );
            }
            Change::ScaleDown | Change::ScaleUp => {
                let operation = self.until_ended(&["operation", "show", subject])?;
                expect(
                    operation["state"] == "succeeded",
                    format!("operation {subject} is {operation}"),
                );
                let wanted = WORKERS - usize::from(change == Change::ScaleDown);
                let members = self.server.json(&["super-node", "show", WORK])?["members"].clone();
                expect(
                    members == wanted,
                    format!("{change:?}: {members} members instead of {wanted}"),
                );
            }
        }
        Ok(losses)
    }

    /// A job or an operation once it has ended, or as it is when that takes too long.
    fn until_ended(&self, words: &[&str]) -> Result<Value> {
        let start = Instant::now();
        loop {
            let shown = self.server.json(words)?;
            let state = &shown["state"];
            let word = state["state"].as_str().or(state.as_str());
            let ended = ["ended", "succeeded", "failed", "cancelled"];
            if word.is_some_and(|word| ended.contains(&word)) || start.elapsed() > END {
                return Ok(shown);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn node_policy(&self) -> Result<Value> {
        Ok(self.server.json(&["node", "show", "node-1"])?["policy"].clone())
    }

    fn count_runs(&self) -> Result<BTreeMap<String, u32>> {
        let mut runs = BTreeMap::new();
        for id in fs::read_to_string(&self.runs)?.lines() {
            *runs.entry(id.to_owned()).or_default() += 1;
        }
        Ok(runs)
    }
}

impl Drop for Lane {
    /// The yard would end them too; whoever waits for its own children leaves no zombies.
    fn drop(&mut self) {
        let pids: Vec<u32> = self.agents.iter().map(Child::id).collect();
        kill(&pids);
        for agent in &mut self.agents {
            let _ = crate::processes::wait_within(agent, "an agent", CLIENT);
        }
    }
}

fn reason(number: u32) -> String {
    format!("trial {number}")
}

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// When the server of a trial is killed: any moment of `within`, the same for the same seed.
fn moment(seed: u64, number: u32, within: Duration) -> Duration {
    let mut word = seed.wrapping_add(u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^= word >> 31;
    let microseconds = u64::try_from(within.as_micros()).unwrap_or(u64::MAX).max(1);
    Duration::from_micros(word % microseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_spread_and_can_be_repeated() {
        let within = Duration::from_secs(6);
        let moments: Vec<Duration> = (0..200).map(|number| moment(7, number, within)).collect();
        assert!(moments.iter().all(|moment| *moment < within));
        for third in 0..3 {
            let range = within * third / 3..within * (third + 1) / 3;
            let count = moments
                .iter()
                .filter(|moment| range.contains(moment))
                .count();
            assert!((40..100).contains(&count), "{count} in part {third}");
        }
        assert_eq!(moment(7, 3, within), moments[3]);
        assert_ne!(moment(8, 3, within), moments[3]);
    }
}
