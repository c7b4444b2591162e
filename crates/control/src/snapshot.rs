//! Loads what the planner sees.

use std::collections::BTreeMap;

use supernode_plan::{Limits, RunNetwork, Snapshot, SpecLimit};
use supernode_store::attempt::{attempt_master_ports, lease_list, rank_list_placed};
use supernode_store::job::{job_list_placed, job_list_queued_of, job_list_queued_orphaned};
use supernode_store::node::node_list;
use supernode_store::operation::operation_list_running;
use supernode_store::provision::provision_list_open;
use supernode_store::spec::spec_list;
use supernode_store::stress::stress_result_list;
use supernode_store::stress_network::{stress_network_get, stress_pair_list_open};
use supernode_store::stress_plan::stress_plan_list;
use supernode_store::super_node::super_node_list;
use supernode_store::{StoreError, Tx};
use supernode_types::job::Job;
use supernode_types::operation::{Operation, OperationKind};
use supernode_types::super_node::SuperNode;
use supernode_types::{JobId, OperationId, Timestamp};

/// Everything that has not ended, without contacts.
pub(crate) fn load(
    tx: &mut Tx<'_>,
    now: Timestamp,
    limits: &Limits,
) -> Result<Snapshot, StoreError> {
    let super_nodes = super_node_list(tx)?;
    let jobs = load_jobs(tx, limits, &super_nodes)?;
    let operations: BTreeMap<OperationId, Operation> = operation_list_running(tx)?
        .into_iter()
        .map(|record| (record.operation.id.clone(), record.operation))
        .collect();
    Ok(Snapshot {
        now,
        nodes: node_list(tx)?
            .into_iter()
            .map(|node| (node.id.clone(), node))
            .collect(),
        contacts: BTreeMap::new(),
        super_nodes: super_nodes
            .into_iter()
            .map(|super_node| (super_node.id.clone(), super_node))
            .collect(),
        specs: spec_list(tx)?
            .into_iter()
            .map(|spec| {
                (
                    spec.id,
                    SpecLimit {
                        name: spec.name,
                        maximum_nodes: spec.maximum_nodes,
                    },
                )
            })
            .collect(),
        ranks: if jobs.values().any(|job| job.state.attempt().is_some()) {
            rank_list_placed(tx)?
        } else {
            BTreeMap::new()
        },
        jobs,
        leases: lease_list(tx)?,
        master_ports: attempt_master_ports(tx)?,
        stress_networks: load_networks(tx, &operations)?,
        operations,
        stress_plans: stress_plan_list(tx)?
            .into_iter()
            .map(|plan| (plan.id.clone(), plan))
            .collect(),
        provisions: provision_list_open(tx)?
            .into_iter()
            .map(|provision| (provision.id.clone(), provision))
            .collect(),
    })
}

/// All jobs that hold leases, and the first queued ones of each super node: one with a long queue hides nobody else's jobs.
fn load_jobs(
    tx: &mut Tx<'_>,
    limits: &Limits,
    super_nodes: &[SuperNode],
) -> Result<BTreeMap<JobId, Job>, StoreError> {
    let depth = u32::try_from(limits.queue_depth).unwrap_or(u32::MAX);
    let mut jobs = job_list_placed(tx)?;
    for super_node in super_nodes {
        jobs.extend(job_list_queued_of(tx, &super_node.id, depth)?);
    }
    jobs.extend(job_list_queued_orphaned(tx, depth)?);
    Ok(jobs.into_iter().map(|job| (job.id.clone(), job)).collect())
}

/// How far the open stress runs are that test the network.
fn load_networks(
    tx: &mut Tx<'_>,
    operations: &BTreeMap<OperationId, Operation>,
) -> Result<BTreeMap<OperationId, RunNetwork>, StoreError> {
    let mut networks = BTreeMap::new();
    for operation in operations.values() {
        if matches!(&operation.kind, OperationKind::StressRun(run) if run.tests_network()) {
            let results = stress_result_list(tx, &operation.id)?.into_iter();
            let network = RunNetwork {
                test: stress_network_get(tx, &operation.id)?,
                pairs: stress_pair_list_open(tx, &operation.id)?,
                outcomes: results
                    .map(|result| (result.node, result.outcome))
                    .collect(),
            };
            networks.insert(operation.id.clone(), network);
        }
    }
    Ok(networks)
}
