//! A job: a gang-scheduled program, N nodes times D devices, all ranks or none.
//!
//! ```text
//!  Queued --leases for the whole gang (loop)--> Starting --all ranks run (loop)--> Running --all ranks ended with 0 (loop)--> Ended
//!  Starting | Running --rank failed, cancel, time limit, node lost, eviction (loop)--> Stopping --all ranks gone (loop)--> Queued | Ended
//!  Queued --cancel (operator)--> Ended
//! ```

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::retry_policy::RetryFinding;
use crate::{AttemptId, Entropy, Generation, JobId, NodeId, OperationId, SuperNodeId, Timestamp};

/// What a user asks to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobSpec {
    /// How many nodes.
    pub nodes: u32,
    /// Devices per node, one rank each; absent means all of a node.
    pub devices: Option<u32>,
    /// Program and arguments; never a shell line.
    pub arguments: Vec<String>,
    /// Additional environment variables.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Working directory on the nodes; absent means a fresh directory of the job.
    pub workdir: Option<String>,
    /// Larger runs first.
    pub priority: i32,
    /// Wall time from start after which the job is stopped.
    pub time_limit_seconds: Option<u64>,
    /// How often the job may be started again after losing a node.
    pub requeue_limit: u32,
    /// Seconds between the stop signal and the kill.
    pub grace_seconds: u32,
    /// Run as the agent's own user (root); an admin must have asked.
    pub run_as_root: bool,
}

/// Why an attempt is being stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum StopReason {
    /// A rank ended badly, so the gang ends.
    RankFailed(RankFailure),
    /// Somebody asked.
    Cancelled {
        /// Who.
        by: String,
    },
    /// The time limit passed.
    TimeLimit,
    /// A node of the gang was lost or restarted.
    NodeLost {
        /// Which one, by name.
        node: String,
        /// What happened to it.
        detail: String,
    },
    /// An operation empties a node of the gang.
    Evicted {
        /// The operation.
        operation: OperationId,
    },
}

/// The rank that ended a job, with what a person needs to see first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RankFailure {
    /// The rank.
    pub rank: u32,
    /// The node's name.
    pub node: String,
    /// How it ended.
    pub end: RankEnd,
    /// Its last lines of output.
    pub last_lines: Vec<String>,
}

/// How a rank ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum RankEnd {
    /// By itself, with an exit code.
    Exited {
        /// 0 is success.
        code: i32,
    },
    /// By a signal that we did not send.
    Signalled {
        /// The signal number.
        signal: i32,
    },
    /// The program could not be started.
    NotStarted {
        /// Why.
        why: String,
    },
    /// We stopped it.
    Stopped {
        /// Its exit code, 128 + signal if a signal ended it.
        code: i32,
    },
    /// Stopped by its own supervisor because the node lost contact with the server.
    Fenced,
    /// Its node or supervisor disappeared; nothing of it runs any more.
    Lost {
        /// What is known.
        why: String,
    },
}

impl RankEnd {
    /// Whether the rank did what it was asked.
    pub fn success(&self) -> bool {
        matches!(self, Self::Exited { code: 0 })
    }

    /// The exit code as a shell would say it.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exited { code } | Self::Stopped { code } => *code,
            Self::Signalled { signal } => 128 + signal,
            Self::NotStarted { .. } => 127,
            Self::Fenced | Self::Lost { .. } => 137,
        }
    }

    /// Whether the cause is the node and not the program, so that the job deserves another try.
    pub fn node_fault(&self) -> bool {
        matches!(self, Self::Fenced | Self::Lost { .. })
    }
}

impl std::fmt::Display for RankEnd {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited { code } => write!(formatter, "exited with code {code}"),
            Self::Signalled { signal } => write!(formatter, "was ended by signal {signal}"),
            Self::NotStarted { why } => write!(formatter, "could not be started: {why}"),
            Self::Stopped { code } => write!(formatter, "was stopped (code {code})"),
            Self::Fenced => write!(
                formatter,
                "was stopped by its node, which had lost contact with the server"
            ),
            Self::Lost { why } => write!(formatter, "was lost: {why}"),
        }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    /// Waits for devices.
    Queued {
        /// One line: what it waits for.
        reason: String,
    },
    /// All leases are held; ranks are being launched.
    Starting {
        /// The attempt.
        attempt: AttemptId,
        /// Since when.
        since: Timestamp,
    },
    /// All ranks were seen running.
    Running {
        /// The attempt.
        attempt: AttemptId,
        /// Since when.
        since: Timestamp,
    },
    /// Ranks are being stopped; leases are held until each is gone.
    Stopping {
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        reason: StopReason,
        /// Since when.
        since: Timestamp,
    },
    /// Over, for good.
    Ended {
        /// How.
        outcome: JobOutcome,
        /// When.
        at: Timestamp,
    },
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum JobOutcome {
    /// Every rank exited with 0.
    Succeeded,
    /// A rank failed.
    Failed(RankFailure),
    /// Somebody asked.
    Cancelled {
        /// Who.
        by: String,
    },
    /// The time limit passed.
    TimedOut,
    /// A node was lost and no requeue was left.
    NodeLost {
        /// Which node.
        node: String,
        /// What happened.
        detail: String,
    },
}

impl JobOutcome {
    /// The exit code that `supernode run` ends with.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Succeeded => 0,
            Self::Failed(failure) => failure.end.exit_code(),
            Self::Cancelled { .. } => 130,
            Self::TimedOut => 124,
            Self::NodeLost { .. } => 137,
        }
    }
}

impl JobState {
    /// The word for this state, as the API and the database say it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Starting { .. } => "starting",
            Self::Running { .. } => "running",
            Self::Stopping { .. } => "stopping",
            Self::Ended { outcome, .. } => match outcome {
                JobOutcome::Succeeded => "succeeded",
                JobOutcome::Failed(_) => "failed",
                JobOutcome::Cancelled { .. } => "cancelled",
                JobOutcome::TimedOut => "timed_out",
                JobOutcome::NodeLost { .. } => "node_lost",
            },
        }
    }

    /// The attempt that holds leases, if one does.
    pub fn attempt(&self) -> Option<&AttemptId> {
        match self {
            Self::Starting { attempt, .. }
            | Self::Running { attempt, .. }
            | Self::Stopping { attempt, .. } => Some(attempt),
            Self::Queued { .. } | Self::Ended { .. } => None,
        }
    }

    /// Whether nothing will change any more.
    pub fn ended(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }
}

/// A job as the control plane knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// A name for people; not unique.
    pub name: String,
    /// Who submitted it.
    pub owner: String,
    /// Where it runs.
    pub super_node: SuperNodeId,
    /// What was asked.
    pub spec: JobSpec,
    /// Where it stands.
    pub state: JobState,
    /// How often it was started.
    pub attempts: u32,
    /// How often it was started again because of a lost node.
    pub requeues: u32,
    /// Who asked to cancel it, once somebody did; kept until the job has ended.
    pub cancel_requested_by: Option<String>,
    /// What stands in the way of re-execution: when it was submitted, and then on the nodes of its last start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retry_findings: Vec<RetryFinding>,
    /// Increases with every change of this record.
    pub generation: Generation,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When it first ran.
    pub started_at: Option<Timestamp>,
}

/// One rank of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rank {
    /// The attempt.
    pub attempt: AttemptId,
    /// The job.
    pub job: JobId,
    /// 0 … world size - 1.
    pub rank: u32,
    /// 0 … nodes - 1.
    pub node_rank: u32,
    /// 0 … ranks on this node - 1.
    pub local_rank: u32,
    /// The node it is placed on.
    pub node: NodeId,
    /// The device it holds a lease on.
    pub device: u32,
    /// The boot of the node that it was placed for; it never runs in another.
    pub boot_id: String,
    /// What is known of it.
    pub state: RankState,
}

/// What is known of a rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RankState {
    /// Placed; not yet seen running.
    Assigned,
    /// Seen running.
    Running,
    /// Nothing of it runs any more.
    Ended {
        /// How it ended.
        end: RankEnd,
        /// Its last lines, kept for failures.
        #[serde(default)]
        last_lines: Vec<String>,
    },
}

impl RankState {
    /// Whether nothing of it runs any more.
    pub fn ended(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }

    /// The word for this state.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Ended { .. } => "ended",
        }
    }
}

/// The right to use one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    /// The node.
    pub node: NodeId,
    /// The device on it.
    pub device: u32,
    /// Who holds it.
    #[serde(flatten)]
    pub holder: LeaseHolder,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "holder", rename_all = "snake_case")]
pub enum LeaseHolder {
    /// One attempt of a job.
    Job {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// A stress run, which holds all devices of a node at once.
    Stress {
        /// The run.
        operation: OperationId,
    },
}

impl Lease {
    /// The job that holds it, if one does.
    pub fn job(&self) -> Option<&JobId> {
        match &self.holder {
            LeaseHolder::Job { job, .. } => Some(job),
            LeaseHolder::Stress { .. } => None,
        }
    }

    /// The attempt that holds it, if one does.
    pub fn attempt(&self) -> Option<&AttemptId> {
        match &self.holder {
            LeaseHolder::Job { attempt, .. } => Some(attempt),
            LeaseHolder::Stress { .. } => None,
        }
    }

    /// The stress run that holds it, if one does.
    pub fn operation(&self) -> Option<&OperationId> {
        match &self.holder {
            LeaseHolder::Stress { operation } => Some(operation),
            LeaseHolder::Job { .. } => None,
        }
    }
}

/// What the ranks of one attempt share and nobody else knows: 64 hexadecimal digits. With it they know each other on the network.
///
/// `Debug` leaves it out; [`GroupKey::expose`] is for the ranks' environment and for the store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupKey(String);

impl GroupKey {
    /// A new random one.
    pub fn new(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0; 32];
        entropy.fill(&mut bytes);
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        Self(
            digits
                .filter_map(|digit| char::from_digit(digit.into(), 16))
                .collect(),
        )
    }

    /// One that was stored; an empty text is none.
    pub fn known(text: String) -> Option<Self> {
        (!text.is_empty()).then_some(Self(text))
    }

    /// The digits.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GroupKey(…)")
    }
}
