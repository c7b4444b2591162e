//! What an agent observes and what it is told: the two halves of the agent protocol that both sides reason about.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::disk::{DiskReport, DiskUsage, DiskWish};
use crate::environment::{EnvironmentDesired, ItemState};
use crate::inventory::Inventory;
use crate::job::{GroupKey, RankState};
use crate::retry_policy::{RetryLibrary, RetrySighting};
use crate::stress::{StressReport, StressWish};
use crate::{AttemptId, Generation, JobId};

/// What an agent observed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// The kernel's boot id.
    pub boot_id: String,
    /// The agent's version.
    pub agent_version: String,
    /// What the agent can do beside the base protocol.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// The address that other nodes reach it at.
    pub address: String,
    /// The environment generation that is applied; 0 when clean.
    pub environment_applied: Generation,
    /// How each item of the environment stands.
    #[serde(default)]
    pub environment_items: Vec<ItemState>,
    /// Every rank that the agent has a record of.
    #[serde(default)]
    pub ranks: Vec<ObservedRank>,
    /// How the expansion of the system disk stands, while one is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_expand: Option<DiskReport>,
    /// How the test of the node stands, while one is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stress: Option<StressReport>,
    /// How full the system disk is; said again when it changes by a percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_usage: Option<DiskUsage>,
    /// What the logs of ranks say of repeated operators, counted from the beginning of each rank.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retries: Vec<ObservedRetries>,
    /// What was discovered; sent on connect and when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
}

/// A rank as the agent sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObservedRank {
    /// The attempt.
    pub attempt: AttemptId,
    /// The rank.
    pub rank: u32,
    /// How it stands.
    pub state: RankState,
}

/// What the log of one rank says of repeated operators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObservedRetries {
    /// The attempt.
    pub attempt: AttemptId,
    /// The rank.
    pub rank: u32,
    /// What was seen, one entry per outcome and link.
    pub sightings: Vec<RetrySighting>,
}

/// What a node should do, all of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// Increases with every change; an agent refuses an older one.
    pub generation: Generation,
    /// The environment to have.
    pub environment: EnvironmentWish,
    /// The ranks to run or to stop. A rank that is not listed may be forgotten once it has ended, and is stopped if it runs.
    pub ranks: Vec<DesiredRank>,
    /// What to do with the system disk; nothing when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_expand: Option<DiskWish>,
    /// What to test; nothing when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stress: Option<StressWish>,
}

/// A rank that should run, or should not any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredRank {
    /// The attempt.
    pub attempt: AttemptId,
    /// The job.
    pub job: JobId,
    /// The rank.
    pub rank: u32,
    /// The boot that it was placed for; an agent of another boot reports it lost and never starts it.
    pub boot_id: String,
    /// What to do.
    pub wish: RankWish,
}

/// What should become of a rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub enum RankWish {
    /// It should run, or have run.
    Run(Box<RankLaunch>),
    /// It should end: signal, grace, kill.
    Stop {
        /// Milliseconds between the signal and the kill.
        grace_milliseconds: u64,
        /// One line for the record.
        why: String,
    },
}

/// All that is needed to start a rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankLaunch {
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// Variables of the super node's environment and of the job; the agent adds its base and the rank's own.
    pub environment: BTreeMap<String, String>,
    /// Working directory; absent means the attempt's own directory on the node.
    pub workdir: Option<String>,
    /// Run as the agent's user.
    pub run_as_root: bool,
    /// Position of the rank in its gang.
    pub place: RankPlace,
    /// What the ranks of this attempt share; servers of older versions send none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_key: Option<GroupKey>,
    /// Whose words about repeated operators to look for in the rank's output; absent means not to look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_log: Option<RetryLibrary>,
    /// For Ascend: the rank table file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_table: Option<serde_json::Value>,
}

/// Position of a rank in its gang.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankPlace {
    /// 0 … ranks on this node - 1.
    pub local_rank: u32,
    /// Ranks on this node.
    pub local_world_size: u32,
    /// 0 … nodes - 1.
    pub node_rank: u32,
    /// Nodes of the gang.
    pub nodes: u32,
    /// Ranks of the gang.
    pub world_size: u32,
    /// Where rank 0 runs.
    pub master_address: String,
    /// The port that rank 0 may listen on.
    pub master_port: u16,
    /// The device that this rank holds a lease on.
    pub device: u32,
    /// All devices of the job on this node.
    pub devices: Vec<u32>,
    /// How often the job was started before.
    pub restart_count: u32,
}

/// What environment a node should have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub enum EnvironmentWish {
    /// None: what a former super node left is removed.
    Clean,
    /// The one it reported as applied: it is verified, not sent again (member lists of large super nodes are long).
    Keep {
        /// Its generation.
        generation: Generation,
    },
    /// This one.
    Have(Arc<EnvironmentDesired>),
}
