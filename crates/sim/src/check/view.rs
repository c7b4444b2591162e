//! All that the store says at one moment, read as an operator's lists would be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use supernode_control::{Store, StoreError, Tx};
use supernode_store::attempt::{lease_list, rank_list_placed};
use supernode_store::job::{job_get, job_list};
use supernode_store::node::node_list;
use supernode_store::operation::{operation_get, operation_list};
use supernode_store::super_node::super_node_list;
use supernode_types::job::{Job, Lease, Rank};
use supernode_types::node::Node;
use supernode_types::operation::Operation;
use supernode_types::super_node::SuperNode;
use supernode_types::{AttemptId, JobId, NodeId, OperationId, SuperNodeId};

/// More than any world has.
const ALL: u32 = 1_000_000;

/// What the server has accepted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Accepted {
    pub(crate) jobs: BTreeSet<JobId>,
    pub(crate) operations: BTreeSet<OperationId>,
}

/// What the store says.
#[derive(Debug, Default, Clone)]
pub(crate) struct View {
    /// Without removed ones.
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) super_nodes: BTreeMap<SuperNodeId, SuperNode>,
    /// Also those that have ended.
    pub(crate) jobs: BTreeMap<JobId, Arc<Job>>,
    /// Also those that have ended.
    pub(crate) operations: BTreeMap<OperationId, Arc<Operation>>,
    pub(crate) leases: Vec<Lease>,
    /// Of attempts that hold leases.
    pub(crate) ranks: BTreeMap<AttemptId, Vec<Rank>>,
}

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Everything.
    Whole,
    /// Everything but what had ended before.
    News,
}

impl View {
    /// What the store says now, given what it said before.
    pub(crate) fn load(
        store: &Store,
        before: &Self,
        accepted: &Accepted,
        reading: Reading,
    ) -> Result<Self, StoreError> {
        let (mut jobs, mut operations) = match reading {
            Reading::Whole => (BTreeMap::new(), BTreeMap::new()),
            Reading::News => (before.jobs.clone(), before.operations.clone()),
        };
        jobs.retain(|_, job| job.state.ended());
        operations.retain(|_, operation| operation.state.ended());
        let accepted = accepted.clone();
        store.read_inline("view", move |tx| {
            let (mut jobs, mut operations) = (jobs.clone(), operations.clone());
            match reading {
                Reading::Whole => whole(tx, &mut jobs, &mut operations)?,
                Reading::News => news(tx, &accepted, &mut jobs, &mut operations)?,
            }
            Ok(Self {
                nodes: node_list(tx)?
                    .into_iter()
                    .map(|node| (node.id.clone(), node))
                    .collect(),
                super_nodes: super_node_list(tx)?
                    .into_iter()
                    .map(|found| (found.id.clone(), found))
                    .collect(),
                jobs,
                operations,
                leases: lease_list(tx)?,
                ranks: rank_list_placed(tx)?,
            })
        })
    }

    /// The full members of a super node.
    pub(crate) fn members<'a>(
        &'a self,
        super_node: &'a SuperNodeId,
    ) -> impl Iterator<Item = &'a Node> {
        self.nodes
            .values()
            .filter(move |node| node.membership.member_of(super_node))
    }

    /// Whether a lease on a node exists.
    pub(crate) fn leased(&self, node: &NodeId) -> bool {
        self.leases.iter().any(|lease| lease.node == *node)
    }
}

type Jobs = BTreeMap<JobId, Arc<Job>>;
type Operations = BTreeMap<OperationId, Arc<Operation>>;

fn whole(tx: &mut Tx<'_>, jobs: &mut Jobs, operations: &mut Operations) -> Result<(), StoreError> {
    jobs.extend(
        job_list(tx, None, None, None, ALL)?
            .into_iter()
            .map(|job| (job.id.clone(), Arc::new(job))),
    );
    let found = operation_list(tx, None, None, None, ALL)?;
    operations.extend(
        found
            .into_iter()
            .map(|record| (record.operation.id.clone(), Arc::new(record.operation))),
    );
    Ok(())
}

fn news(
    tx: &mut Tx<'_>,
    accepted: &Accepted,
    jobs: &mut Jobs,
    operations: &mut Operations,
) -> Result<(), StoreError> {
    for id in &accepted.jobs {
        if !jobs.contains_key(id)
            && let Some(job) = job_get(tx, id)?
        {
            jobs.insert(id.clone(), Arc::new(job));
        }
    }
    for id in &accepted.operations {
        if !operations.contains_key(id)
            && let Some(record) = operation_get(tx, id)?
        {
            operations.insert(id.clone(), Arc::new(record.operation));
        }
    }
    Ok(())
}
