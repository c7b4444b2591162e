//! What a plan asks `control` to do. Each is applied inside the transaction that the snapshot was read in.

use supernode_types::disk::{DiskWork, StepReport};
use supernode_types::event::NewEvent;
use supernode_types::job::{JobOutcome, RankEnd, StopReason};
use supernode_types::node::{NodeCondition, NodeHealth, NodePolicy};
use supernode_types::operation::{Admission, OperationState, ProvisionState, TargetState};
use supernode_types::stress::{ReplacementTry, StressOutcome, StressWork};
use supernode_types::{
    AttemptId, JobId, NodeId, OperationId, ProvisionId, StressPlanId, SuperNodeId, Timestamp,
};

use crate::choose::Choice;

/// One rank of a placement; ranks are numbered in the order of the list, nodes in the order of their first rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: NodeId,
    /// The device on it.
    pub device: u32,
}

/// What becomes of a pair of a network test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairEnd {
    /// What its agents said came of it.
    Said,
    /// It is begun once more.
    Again {
        /// What this try came to.
        why: String,
    },
    /// It was cut short.
    Incomplete {
        /// Why.
        why: String,
    },
    /// It was not begun, and will not be.
    Skipped {
        /// Why.
        why: String,
    },
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Records what was observed of a node.
    SetCondition {
        /// The node.
        node: NodeId,
        /// Its new condition.
        condition: NodeCondition,
    },
    /// Begins an operation that puts a spare in the place of a quarantined member.
    BeginReplacement {
        /// The super node.
        super_node: SuperNodeId,
        /// The member.
        node: NodeId,
        /// Why it has to leave.
        because: String,
        /// The spare, and why this one.
        spare: Choice,
        /// What the spare has to pass.
        admission: Admission,
    },
    /// Records what became of a try to replace a member.
    SetReplacement {
        /// The member.
        node: NodeId,
        /// What became of it.
        tried: ReplacementTry,
    },
    /// Changes what is wanted of a node: an operation begins to drain it, or has ended or was cancelled and gives it back.
    SetPolicy {
        /// The node.
        node: NodeId,
        /// Its new policy.
        policy: NodePolicy,
    },
    /// Makes a spare join: it gets the environment, the other members learn of it. What its agent says of the environment counts
    /// again when the agent has stored a desired generation made after this.
    Claim {
        /// The node.
        node: NodeId,
        /// The super node.
        super_node: SuperNodeId,
        /// On whose behalf.
        operation: OperationId,
    },
    /// Makes a joining node a full member.
    Join {
        /// The node.
        node: NodeId,
    },
    /// Takes an empty node out: its environment is cleaned, the others forget it. From now on it counts as not clean
    /// (`environment_applied` is at least 1) until its agent, having stored a desired generation made after this, says that it is.
    Leave {
        /// The node.
        node: NodeId,
        /// On whose behalf.
        operation: OperationId,
    },
    /// Makes a cleaned (or lost) leaving node a spare.
    Release {
        /// The node.
        node: NodeId,
    },
    /// Takes a spare out for good and revokes its certificates.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// Deletes a super node that has no nodes any more.
    DeleteSuperNode {
        /// The super node.
        super_node: SuperNodeId,
    },
    /// Creates an attempt with all its leases and ranks. If one lease is taken, nothing of it happens.
    Start {
        /// The job.
        job: JobId,
        /// One entry per rank.
        placement: Vec<Placement>,
        /// The port for rank 0.
        master_port: u16,
        /// Why these nodes.
        chosen_because: String,
    },
    /// Records that nothing of a rank runs any more although its agent did not say so.
    EndRank {
        /// The attempt.
        attempt: AttemptId,
        /// The rank.
        rank: u32,
        /// How.
        end: RankEnd,
    },
    /// All ranks were seen running.
    MarkRunning {
        /// The job.
        job: JobId,
    },
    /// Stops an attempt; its leases stay until every rank is gone.
    Stop {
        /// The job.
        job: JobId,
        /// Why.
        reason: StopReason,
    },
    /// Gives back the leases of an attempt of which nothing runs, and queues the job again.
    Requeue {
        /// The job.
        job: JobId,
        /// Whether it counts against the requeue limit.
        counts: bool,
        /// One line: why.
        reason: String,
    },
    /// Gives back the leases of a job of which nothing runs, and ends it.
    End {
        /// The job.
        job: JobId,
        /// How.
        outcome: JobOutcome,
    },
    /// Says what a queued job waits for.
    SetQueueReason {
        /// The job.
        job: JobId,
        /// One line.
        reason: String,
    },
    /// Gives a target the node that its provision brought.
    SetTargetNode {
        /// The operation.
        operation: OperationId,
        /// The target.
        slot: u32,
        /// The node.
        node: NodeId,
    },
    /// Says where a target stands.
    SetTarget {
        /// The operation.
        operation: OperationId,
        /// The target.
        slot: u32,
        /// Where it stands.
        state: TargetState,
    },
    /// Says how far the steps of a target are.
    SetTargetSteps {
        /// The operation.
        operation: OperationId,
        /// The target.
        slot: u32,
        /// Its steps, with their evidence.
        steps: Vec<StepReport>,
    },
    /// Begins, changes or ends the expansion of a node's system disk. Its agent is told if that changes what it has to do.
    SetDisk {
        /// The node.
        node: NodeId,
        /// The expansion; `None` ends it.
        work: Option<Box<DiskWork>>,
    },
    /// Begins to test a node: it is leased to the run with all its devices, and its agent is told.
    BeginStress {
        /// The node.
        node: NodeId,
        /// The test.
        work: Box<StressWork>,
    },
    /// Tells the agent of a node to end its test before its end.
    StopStress {
        /// The node.
        node: NodeId,
        /// Why.
        why: String,
    },
    /// Records what came of testing a node, if nobody did yet, and gives its leases back if it was being tested.
    EndStress {
        /// The run.
        operation: OperationId,
        /// The node.
        node: NodeId,
        /// What came of it.
        outcome: StressOutcome,
    },
    /// Records that a node was tested alone, if nobody did yet, and gives its leases back; its run goes on with the network.
    ParkStress {
        /// The run.
        operation: OperationId,
        /// The node.
        node: NodeId,
        /// What came of it so far.
        outcome: StressOutcome,
    },
    /// Begins the network test of a run: its first pairs are made.
    BeginNetwork {
        /// The run.
        operation: OperationId,
        /// The nodes to pair.
        nodes: Vec<NodeId>,
    },
    /// Begins a pair: both nodes are leased to the run with all their devices, and the listener is told. If one lease is taken, nothing
    /// of it happens.
    BeginPair {
        /// The run.
        operation: OperationId,
        /// The number of the pair.
        number: u32,
    },
    /// Gives the leases of a pair back. With the last pair of a round the network is judged, which makes further pairs or ends the test.
    EndPair {
        /// The run.
        operation: OperationId,
        /// The number of the pair.
        number: u32,
        /// What becomes of it.
        end: PairEnd,
    },
    /// Settles slots of a plan: begins the run of one, counts others as missed, and says when to look again.
    SettleStressPlan {
        /// The plan.
        plan: StressPlanId,
        /// Every slot until here is settled.
        settled: Timestamp,
        /// When to look again.
        next_due: Option<Timestamp>,
        /// The slot whose run begins now, on all full members.
        begins: Option<Timestamp>,
        /// How many slots were missed.
        missed: u64,
        /// Why, if any were.
        why: String,
    },
    /// Records what testing says of a node.
    SetHealth {
        /// The node.
        node: NodeId,
        /// Its new health.
        health: NodeHealth,
        /// The operation that tested it.
        operation: OperationId,
    },
    /// Says where an operation stands, or ends it.
    SetOperation {
        /// The operation.
        operation: OperationId,
        /// Where it stands.
        state: OperationState,
    },
    /// Changes what is wanted of a provision.
    SetProvision {
        /// The provision.
        provision: ProvisionId,
        /// Its new state.
        state: ProvisionState,
    },
    /// Tells people.
    Tell(NewEvent),
}
