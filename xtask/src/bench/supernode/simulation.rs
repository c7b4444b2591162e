//! A server with thousands of simulated agents: real connections over mutual TLS, each a node of its own, but one process for all.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::server::{READY, Server};
use crate::bench::stamps::resident;
use crate::processes::{text_within, wait_for};

/// Enrolment of ten thousand nodes and their first connections.
const CONNECTED: Duration = Duration::from_mins(10);
const GANG: Duration = Duration::from_mins(5);
/// Less than this of the syncs that were due means that the machine was too slow to ask the question.
const LEAST_SYNCS: f64 = 0.95;

pub(super) struct Simulation {
    pub(super) agents: u32,
    load: PathBuf,
    process: Child,
    /// The load generator ends when it closes.
    lifeline: Option<ChildStdin>,
    /// Its newest line.
    latest: Arc<Mutex<Value>>,
    server: Server,
}

impl Simulation {
    pub(super) fn start(binary: &Path, load: &Path, agents: u32) -> Result<Self> {
        let server = Server::start("simulation", binary, &[])?;
        let join_token = server.join_token(agents)?;
        let mut process = server
            .client(load)
            .args(["agents", "--server", &server.agent_address()])
            .arg("--ca-file")
            .arg(server.ca_file())
            .arg("--join-token-file")
            .arg(join_token)
            .args(["--count", &agents.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the simulated agents")?;
        let latest = Arc::new(Mutex::new(Value::Null));
        let lines = BufReader::new(process.stdout.take().context("stdout is piped")?).lines();
        let shared = Arc::clone(&latest);
        std::thread::spawn(move || {
            for value in lines
                .map_while(Result::ok)
                .filter_map(|line| serde_json::from_str(&line).ok())
            {
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = value;
            }
        });
        let mut simulation = Self {
            agents,
            load: load.to_owned(),
            lifeline: process.stdin.take(),
            process,
            latest,
            server,
        };
        simulation.connect()?;
        Ok(simulation)
    }

    fn connect(&mut self) -> Result<()> {
        let start = Instant::now();
        let mut enrolled = None;
        wait_for("all simulated agents to be connected", CONNECTED, || {
            if let Some(status) = self.process.try_wait()? {
                bail!("the simulated agents ended: {status}");
            }
            let latest = self.latest();
            if enrolled.is_none() && !latest.is_null() {
                enrolled = Some(start.elapsed());
            }
            Ok((latest["connected"] == self.agents).then_some(()))
        })
        .with_context(|| format!("{}; {}", self.latest(), self.server.log_tail()))?;
        println!(
            "           {} agents enrolled in {:.1} s, all connected after {:.1} s",
            self.agents,
            enrolled.unwrap_or_default().as_secs_f64(),
            start.elapsed().as_secs_f64()
        );
        let agents = self.agents.to_string();
        self.server.run(&[
            "spec",
            "declare",
            "simulated",
            "--from-node",
            "sim-00001",
            "--maximum-nodes",
            &agents,
        ])
    }

    fn latest(&self) -> Value {
        self.latest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn server_pid(&self) -> Result<u32> {
        self.server.process().pid().context("the server is gone")
    }

    /// How much of one core the server uses while all agents say once a second that they are there.
    pub(super) fn share_of_a_core(&mut self, seconds: u32) -> Result<f64> {
        self.wait_until_quiet()?;
        let window = Duration::from_secs(seconds.into());
        let (before, used_before, start) = (self.latest(), self.cpu_seconds()?, Instant::now());
        std::thread::sleep(window);
        let (after, used, took) = (self.latest(), self.cpu_seconds()?, start.elapsed());
        let count = |value: &Value| value["acknowledged"].as_f64().unwrap_or_default();
        let syncs = (count(&after) - count(&before)) / took.as_secs_f64();
        println!(
            "           {syncs:.0} syncs a second; in the last one: median {} ms, p99 {} ms, longest {} ms; broken connections {}",
            after["median_milliseconds"],
            after["p99_milliseconds"],
            after["longest_milliseconds"],
            after["broken"]
        );
        if syncs < LEAST_SYNCS * f64::from(self.agents) {
            bail!(
                "only {syncs:.0} syncs a second were acknowledged, {} were due",
                self.agents
            );
        }
        Ok((used - used_before) / took.as_secs_f64())
    }

    /// Enrolment and the first reports are work of their own.
    fn wait_until_quiet(&self) -> Result<()> {
        let mut before = self.cpu_seconds()?;
        let mut share = f64::INFINITY;
        wait_for(
            "the server to be through with the first reports",
            READY,
            || {
                std::thread::sleep(Duration::from_secs(2));
                let now = self.cpu_seconds()?;
                let last = std::mem::replace(&mut share, now - before);
                before = now;
                Ok((share > last * 0.9).then_some(()))
            },
        )
    }

    /// Processor time of the server since its start.
    fn cpu_seconds(&self) -> Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.server_pid()?))?;
        cpu_ticks(&text)
            // Linux shows processor time in hundredths of a second on every architecture.
            .map(|ticks| ticks / 100.0)
            .context("the kernel does not tell the processor time")
    }

    pub(super) fn resident(&self) -> Result<f64> {
        resident(self.server_pid()?)
    }

    /// Seconds from the submit of one gang until the server says that all its ranks run.
    pub(super) fn gang(&mut self, nodes: u32) -> Result<f64> {
        let (name, count) = (format!("gang-{nodes}"), nodes.to_string());
        if self.server.json(&["super-node", "show", &name]).is_err() {
            let start = Instant::now();
            self.server
                .run(&["super-node", "create", &name, "--nodes", &count, "--wait"])?;
            println!(
                "           super node of {nodes} nodes created in {:.1} s, server then has {:.0} MB",
                start.elapsed().as_secs_f64(),
                self.resident()? / 1e6
            );
        }
        let mut gang = self.server.client(&self.load);
        gang.args(["gang", "--super-node", &name, "--nodes", &count]);
        let text = text_within(&mut gang, GANG).with_context(|| self.server.log_tail())?;
        let answer: Value = serde_json::from_str(&text)
            .with_context(|| format!("the load generator printed `{text}`"))?;
        println!("           {}", text.trim());
        answer["running_seconds"].as_f64().context("no seconds")
    }
}

/// User and system time, from `/proc/PID/stat`.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.lifeline = None;
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_behind_the_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 5 1 1";
        assert_eq!(cpu_ticks(stat), Some(300.0));
    }
}
