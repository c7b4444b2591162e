//! What an operator chooses for an agent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use supernode_types::Name;
use supernode_types::node::Position;

use crate::ranks::SupervisorCommand;
use crate::stress::StressOptions;

/// Who pays for what is left of ended ranks: the newest are kept within all three limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long output and scratch directories of ranks that the server has forgotten are kept.
    pub age: Duration,
    /// Of how many ranks.
    pub ranks: usize,
    /// How many bytes in all.
    pub bytes: u64,
}

impl Default for Retention {
    /// A week, 100 ranks, 10 GiB.
    fn default() -> Self {
        Self {
            age: Duration::from_hours(7 * 24),
            ranks: 100,
            bytes: 10 * 1024 * 1024 * 1024,
        }
    }
}

/// How an agent enrols when it has no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinToken {
    /// It has one already; without one, it does not start.
    None,
    /// The secret.
    Secret(String),
    /// The file that holds the secret; read when it is needed.
    File(PathBuf),
}

/// Everything that an agent is told at its start.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Address of the server's agent port, `host:port`. The server's certificate must be for this host.
    pub server: String,
    /// The certificate of the server's authority, PEM; nothing else is trusted.
    pub ca_file: PathBuf,
    /// The right to enrol.
    pub join_token: JoinToken,
    /// The node's name.
    pub name: Name,
    /// The address that other nodes reach it at.
    pub address: String,
    /// Labels, added to the join token's.
    pub labels: BTreeMap<String, String>,
    /// Where it sits, if it is known.
    pub position: Position,
    /// Where the agent keeps everything; one agent for one directory. The user that jobs run as must be able to pass through it.
    pub data_directory: PathBuf,
    /// Below which environments are applied: `/`, or a directory of its own for one of several agents on a host.
    pub system_root: PathBuf,
    /// The path whose file system counts as the node's system disk, or a device below `/dev`; the system root when absent.
    pub system_disk: Option<PathBuf>,
    /// Where the tools that grow disks are looked for before the usual places.
    pub tool_directories: Vec<PathBuf>,
    /// The program that restarts the machine, run without arguments; absent where the machine is not the agent's to restart.
    pub restart_program: Option<PathBuf>,
    /// The user that jobs run as; absent means `nobody` where the agent is root, and the agent's own user elsewhere.
    pub job_user: Option<String>,
    /// Whether jobs that an admin wants to run as root may.
    pub allow_root_jobs: bool,
    /// How a rank supervisor is started.
    pub supervisor: SupervisorCommand,
    /// How the node is tested.
    pub stress: StressOptions,
    /// How many bytes of one rank's output are kept.
    pub log_cap_bytes: u64,
    /// What is kept of ended ranks.
    pub retention: Retention,
}

impl AgentOptions {
    /// Options with what usually fits: nothing known of labels and position, environments on the whole host, jobs as `nobody`.
    pub fn new(
        server: String,
        ca_file: PathBuf,
        name: Name,
        address: String,
        data_directory: PathBuf,
    ) -> Self {
        Self {
            server,
            ca_file,
            join_token: JoinToken::None,
            name,
            address,
            labels: BTreeMap::new(),
            position: Position::default(),
            data_directory,
            system_root: PathBuf::from("/"),
            system_disk: None,
            tool_directories: Vec::new(),
            restart_program: None,
            job_user: None,
            allow_root_jobs: false,
            supervisor: SupervisorCommand::own_executable(),
            stress: StressOptions::own_executable(),
            log_cap_bytes: 64 * 1024 * 1024,
            retention: Retention::default(),
        }
    }
}
