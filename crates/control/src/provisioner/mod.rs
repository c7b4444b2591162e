//! How nodes come and go.
//!
//! A provision is a row: what is wanted, how far it is, when to ask next. The runner calls the provisioner outside any transaction and
//! writes down what it said. A call may be lost, repeated or late; the provision's id is the idempotency key that makes a repeated
//! call harmless. Secrets of join tokens are stored only as hashes; a restarted server makes a further one, and the former stay good.

pub mod exec;
mod grow_disk;
pub mod local;
mod runner;
pub mod wish;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use runner::{Runner, SecretHash};

/// Who makes nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provisioner {
    /// Nobody: only spares that somebody enrolled.
    Pool,
    /// Agents as processes on this host, one directory each, supervised by `supernode dev`.
    Local {
        /// Where the directories are.
        directory: PathBuf,
    },
    /// A command that reads a request as JSON and writes an answer as JSON.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
        /// How long one call may take.
        time_limit: Duration,
    },
}

impl Provisioner {
    /// The word for this provisioner.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Local { .. } => "local",
            Self::Exec { .. } => "exec",
        }
    }
}

/// What a provisioner is asked to do: the word in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProvisionAction {
    /// Make the node.
    Create,
    /// Take it away.
    Delete,
    /// Make its system disk larger.
    #[serde(rename = "grow-disk")]
    GrowDisk,
}

/// How the new node finds the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinParameters {
    /// Address of the agent port, `host:port`.
    pub server: String,
    /// URL of the API.
    pub api: String,
    /// The join token's secret.
    pub token: String,
    /// The server's authority, PEM.
    pub ca_pem: String,
}

/// One request to a provisioner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProvisionRequest {
    /// Version of this format.
    pub version: u32,
    /// What to do.
    pub action: ProvisionAction,
    /// The same for every repetition of the same wish.
    pub request_id: String,
    /// The name that the node has to enrol with.
    pub node_name: String,
    /// The super node that it is for.
    pub super_node: String,
    /// The hyperplane that it has to be in, where that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hyperplane: Option<String>,
    /// The hardware that it must have.
    pub spec: serde_json::Value,
    /// How it finds the server; absent when it is to be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<JoinParameters>,
    /// The size that its system disk is to have; only with `grow-disk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// What a provisioner says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProvisionAnswer {
    /// Done, now or before.
    Done,
    /// Under way: ask again.
    Pending(String),
    /// Not possible this time; worth another try.
    Retry(String),
    /// Not possible.
    Refused(String),
}

/// What a provisioner says of a disk that is to grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskAnswer {
    /// The disk has the size, and its node sees it after a restart.
    GrownAfterRestart,
    /// What can be said of any request; done means that the node can see the size.
    Plain(ProvisionAnswer),
}
