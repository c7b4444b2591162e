//! What a planner sees: everything that has not ended, at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use supernode_types::job::{Job, Lease, Rank};
use supernode_types::node::Node;
use supernode_types::operation::{Admission, Operation, Provision};
use supernode_types::stress::{StressNetwork, StressOutcome, StressPair, StressPlan};
use supernode_types::super_node::SuperNode;
use supernode_types::{
    AttemptId, JobId, Name, NodeId, OperationId, ProvisionId, SpecId, StressPlanId, SuperNodeId,
    Timestamp,
};

/// Whether a node's agent is in contact. Kept in memory by the server, so after its restart every node counts as heard of just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// Its last sync is recent.
    Connected,
    /// Nothing was heard for this long.
    Silent(Duration),
}

/// What a spec allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecLimit {
    /// The spec's name.
    pub name: Name,
    /// The most nodes in one super node.
    pub maximum_nodes: u32,
}

/// Settings of the server that planners need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Silence after which a node is lost. Always longer than the fence that its agent obeys.
    pub lost_after: Duration,
    /// How long a rank may take from placement to being seen running.
    pub start_timeout: Duration,
    /// First and last port for rank 0 of a gang.
    pub master_ports: (u16, u16),
    /// How many queued jobs of one super node are looked at in one round.
    pub queue_depth: usize,
    /// Of a hundred nodes of a super node, how many may be quarantined at once.
    pub quarantine_percent: u32,
    /// What a spare has to pass before it takes a quarantined member's place by itself.
    pub admission: Admission,
}

/// How far an open stress run is that tests the network between its nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunNetwork {
    /// The test of the network; absent until the nodes were tested alone.
    pub test: Option<StressNetwork>,
    /// Its pairs that have not ended, in their order.
    pub pairs: Vec<StressPair>,
    /// What is recorded of each node so far: of its test alone until the network is judged, then of everything.
    pub outcomes: BTreeMap<NodeId, StressOutcome>,
}

/// Everything that has not ended, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The moment.
    pub now: Timestamp,
    /// Nodes that were not removed.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Contact by node; a node without an entry has not been heard of since the server started, for as long as the server runs.
    pub contacts: BTreeMap<NodeId, Contact>,
    /// Super nodes.
    pub super_nodes: BTreeMap<SuperNodeId, SuperNode>,
    /// What their specs allow.
    pub specs: BTreeMap<SpecId, SpecLimit>,
    /// Jobs that have not ended. Of the queued ones possibly only the first by priority and age.
    pub jobs: BTreeMap<JobId, Job>,
    /// Ranks of the attempts that these jobs are in, in rank order.
    pub ranks: BTreeMap<AttemptId, Vec<Rank>>,
    /// All leases.
    pub leases: Vec<Lease>,
    /// Master port of every attempt that holds leases.
    pub master_ports: BTreeMap<AttemptId, u16>,
    /// Operations that have not ended.
    pub operations: BTreeMap<OperationId, Operation>,
    /// Of the open stress runs that test it, the network.
    pub stress_networks: BTreeMap<OperationId, RunNetwork>,
    /// Schedules of stress tests.
    pub stress_plans: BTreeMap<StressPlanId, StressPlan>,
    /// Provisions that belong to an open operation, made a node that an open operation targets, or still need a call. A node whose
    /// provision is not here counts as one that no provisioner has to delete any more.
    pub provisions: BTreeMap<ProvisionId, Provision>,
}

impl Snapshot {
    /// Nodes that are full members of `super_node`, by id.
    pub fn members<'a>(&'a self, super_node: &'a SuperNodeId) -> impl Iterator<Item = &'a Node> {
        self.nodes
            .values()
            .filter(move |node| node.membership.member_of(super_node))
    }

    /// Nodes of `super_node`, those that join or leave it among them, by id.
    pub fn listed<'a>(&'a self, super_node: &'a SuperNodeId) -> impl Iterator<Item = &'a Node> {
        self.nodes
            .values()
            .filter(move |node| node.membership.listed_in(super_node))
    }

    /// The jobs that hold a lease on `node`, without repetition.
    pub fn jobs_on(&self, node: &NodeId) -> Vec<JobId> {
        let mut jobs: Vec<JobId> = self
            .leases
            .iter()
            .filter(|lease| lease.node == *node)
            .filter_map(|lease| lease.job().cloned())
            .collect();
        jobs.sort();
        jobs.dedup();
        jobs
    }
}
