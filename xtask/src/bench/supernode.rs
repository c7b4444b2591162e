//! This project's side of the benchmark. Its measurements come with the product binary; until then it takes no part and the table
//! shows only the peer.
//!
//! It will run like the peer: one server and the nodes as separate processes on loopback in a private directory (`Yard`), from the
//! release build, `--database sqlite:…`, mutual TLS, tokens, and everything durable as shipped; the configuration is what `dev` writes.
//! What each question needs (see `Question` for what is counted):
//!
//! | question | how it will be asked |
//! |---|---|
//! | `GangRun` | `supernode run --super-node S --nodes N -- /bin/date +%s%N`; newest stamp of the N lines minus the start of the client |
//! | `GangSubmit` | `supernode job submit …` with the same command; stamps read from the job's logs when it has ended |
//! | `Command` | `supernode run … -- /bin/hostname`; wall time of the client |
//! | `Submit` | N keep-alive HTTPS connections in one client process (`POST /api/v1/jobs`, super node full so that jobs wait); every answer means "on disk" |
//! | `SubmitCommand` | `supernode job submit` processes, one after the other |
//! | `Jobs` | 64 connections submit one-rank jobs that append a line to one file; until the file has a line of each |
//! | `AgentMemory`, `ControllerMemory` | `VmRSS` of agents and server |
//! | `ControllerKill` | `kill -9` of the server, started again at once; a running job keeps its process; first stamp of a job submitted after |
//! | `NodeLoss` | `kill -9` of one agent and of the rank supervisors and ranks of its node; stamp of the requeued job |
//!
//! The goals for 10,000 agents, for gangs of 1,000 and 5,000 simulated agents and the trial of acknowledged requests have no peer that
//! runs here: they become suites that only this side answers.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::Contender;
use super::suites::Question;
use crate::processes::Yard;
use crate::workspace;

pub(crate) const NAME: &str = "supernode";

pub(crate) struct Supernode {
    yard: Yard,
    binary: PathBuf,
    nodes: u32,
}

/// Why it takes no part.
pub(crate) const ABSENT: &str = "its side of the benchmark is not written yet";

impl Supernode {
    pub(crate) fn start(nodes: u32) -> Result<Self> {
        let binary = workspace::target_directory().join("release/supernode");
        if !binary.is_file() {
            bail!("{} is missing: cargo build --release", binary.display());
        }
        Ok(Self {
            yard: Yard::new(NAME)?,
            binary,
            nodes,
        })
    }
}

impl Contender for Supernode {
    fn configuration(&self) -> String {
        format!(
            "{} with {} nodes in {}",
            self.binary.display(),
            self.nodes,
            self.yard.directory().display()
        )
    }

    fn measure(&mut self, _question: Question) -> Result<Option<f64>> {
        Ok(None)
    }

    fn settle(&mut self) -> Result<()> {
        Ok(())
    }
}
