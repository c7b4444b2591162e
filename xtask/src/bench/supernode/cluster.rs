//! A server with real agents: `node-1` … `node-N` in the super node `train`, and one more in the cordoned super node `held`, on which
//! jobs wait for ever, so that submitting can be measured alone.

use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::{Context, Result, bail};

use super::server::Server;
use crate::processes::{kill, wait_for, wait_within};

/// The super node that runs jobs.
pub(super) const TRAIN: &str = "train";
/// The super node that runs nothing.
pub(super) const HELD: &str = "held";

pub(super) struct Cluster {
    /// `node-{i}` at index `i - 1`.
    agents: Vec<Child>,
    join_token: PathBuf,
    pub(super) server: Server,
}

impl Cluster {
    pub(super) fn start(binary: &Path, nodes: u32) -> Result<Self> {
        let server = Server::start("supernode", binary, &["--lost-after", "10s"])?;
        let join_token = server.join_token(nodes + 1)?;
        let agents = (1..=nodes + 1)
            .map(|number| server.start_agent(&name(number), &join_token))
            .collect::<Result<_>>()?;
        let cluster = Self {
            agents,
            join_token,
            server,
        };
        let (server, count) = (&cluster.server, cluster.agents.len());
        server.wait_for_inventories(count)?;
        let maximum = (nodes + 1).to_string();
        server.run(&[
            "spec",
            "declare",
            "local",
            "--from-node",
            &name(1),
            "--maximum-nodes",
            &maximum,
        ])?;
        server.wait_for_ready_nodes(count)?;
        let held = name(nodes + 1);
        server.run(&["super-node", "create", HELD, "--node", &held, "--wait"])?;
        server.run(&["node", "cordon", &held, "--reason", "benchmark"])?;
        let nodes = nodes.to_string();
        server.run(&["super-node", "create", TRAIN, "--nodes", &nodes, "--wait"])?;
        server.wait_for_ready_nodes(count)?;
        Ok(cluster)
    }

    pub(super) fn agent_pids(&self) -> impl Iterator<Item = u32> {
        self.agents.iter().map(Child::id)
    }

    /// `kill -9` of an agent; its ranks and their supervisors go on.
    pub(super) fn kill_agent(&mut self, node: &str) -> Result<()> {
        let agent = self.agent(node)?;
        agent.kill()?;
        agent.wait()?;
        Ok(())
    }

    pub(super) fn restart_agent(&mut self, node: &str) -> Result<()> {
        let agent = self.server.start_agent(node, &self.join_token)?;
        *self.agent(node)? = agent;
        Ok(())
    }

    fn agent(&mut self, node: &str) -> Result<&mut Child> {
        let number: usize = node
            .strip_prefix("node-")
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("`{node}` is no node of this cluster"))?;
        self.agents
            .get_mut(number - 1)
            .with_context(|| format!("`{node}` is no node of this cluster"))
    }

    /// Nothing runs and every node is ready.
    pub(super) fn settle(&mut self) -> Result<()> {
        for agent in &mut self.agents {
            if let Some(status) = agent.try_wait()? {
                bail!("an agent ended: {status}");
            }
        }
        self.server.wait_until_idle()?;
        self.server.wait_for_ready_nodes(self.agents.len())
    }

    /// The supervisors of the ranks that run now.
    pub(super) fn rank_supervisors(&self) -> Result<Vec<u32>> {
        wait_for("a rank's supervisor", super::server::CLIENT, || {
            let pids: Vec<u32> = self
                .server
                .yard()
                .members()
                .into_iter()
                .filter(|process| process.command_line.contains(" rank-supervisor "))
                .map(|process| process.pid)
                .collect();
            Ok((!pids.is_empty()).then_some(pids))
        })
    }
}

impl Drop for Cluster {
    /// The yard would end them too; whoever waits for its own children leaves no zombies.
    fn drop(&mut self) {
        let pids: Vec<u32> = self.agent_pids().collect();
        kill(&pids);
        for agent in &mut self.agents {
            let _ = wait_within(agent, "an agent", super::server::CLIENT);
        }
    }
}

fn name(number: u32) -> String {
    format!("node-{number}")
}
