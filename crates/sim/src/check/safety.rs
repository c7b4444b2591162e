//! Safety: what must hold at every moment.

use std::collections::{BTreeMap, BTreeSet};

use supernode_types::NodeId;
use supernode_types::job::{JobState, LeaseHolder};
use supernode_types::node::SpecMatch;
use supernode_types::operation::OperationKind;

use super::Check;
use super::view::View;
use crate::machine::Machine;

/// What is wrong with the programs that run.
pub(super) fn processes(view: &View, machines: &[Machine]) -> Option<String> {
    let mut attempts = BTreeMap::new();
    for machine in machines {
        let mut devices = BTreeSet::new();
        for (key, process) in &machine.processes {
            let name = &machine.name;
            let device = process.device;
            if !devices.insert(device) {
                return Some(format!(
                    "two ranks run on device {device} of {name}; one of them is {key}"
                ));
            }
            let Some(node) = machine.node() else {
                return Some(format!("{key} runs on {name}, which is not enrolled"));
            };
            let lease = view
                .leases
                .iter()
                .find(|lease| lease.node == *node && lease.device == device);
            let Some(lease) = lease else {
                return Some(format!(
                    "{key} runs on device {device} of {name} without a lease"
                ));
            };
            let LeaseHolder::Job { job, attempt } = &lease.holder else {
                return Some(format!(
                    "{key} runs on device {device} of {name}, which is being tested"
                ));
            };
            if *attempt != key.attempt {
                return Some(format!(
                    "{key} runs on device {device} of {name}, which is leased to {attempt}"
                ));
            }
            if let Some(other) = attempts.insert(job.clone(), key.attempt.clone())
                && other != key.attempt
            {
                return Some(format!(
                    "two attempts of {job} run: {other} and {}",
                    key.attempt
                ));
            }
        }
    }
    None
}

/// What is wrong with what the store says.
pub(super) fn store(check: &Check) -> Option<String> {
    let view = &check.view;
    leases(view)
        .or_else(|| super_nodes(view))
        .or_else(|| history(check))
}

/// All leases of a gang or none, and none without a gang.
fn leases(view: &View) -> Option<String> {
    let mut counts = BTreeMap::new();
    for lease in &view.leases {
        let Some(node) = view.nodes.get(&lease.node) else {
            return Some(format!("a lease on {}, which was removed", lease.node));
        };
        if lease.device >= node.device_count {
            return Some(format!(
                "a lease on device {} of {}, which has {}",
                lease.device, node.name, node.device_count
            ));
        }
        let (id, attempt) = match &lease.holder {
            LeaseHolder::Job { job, attempt } => (job, attempt),
            LeaseHolder::Stress { operation } => {
                let work = node.stress.work.as_ref();
                if work.is_none_or(|work| work.operation != *operation) {
                    return Some(format!(
                        "a lease of {operation} on {}, which it does not test",
                        node.name
                    ));
                }
                continue;
            }
        };
        *counts.entry(attempt).or_insert(0_usize) += 1;
        let Some(job) = view.jobs.get(id) else {
            return Some(format!("a lease of {id}, which does not exist"));
        };
        if job.state.attempt() != Some(attempt) {
            return Some(format!(
                "a lease of {attempt} of {}, which is {}",
                job.id,
                job.state.word()
            ));
        }
    }
    for job in view.jobs.values() {
        let Some(attempt) = job.state.attempt() else {
            continue;
        };
        let leases = counts.get(attempt).copied().unwrap_or(0);
        let ranks = view.ranks.get(attempt).map_or(&[][..], Vec::as_slice);
        let nodes: BTreeSet<_> = ranks.iter().map(|rank| &rank.node).collect();
        let each = |node: &NodeId| ranks.iter().filter(|rank| rank.node == *node).count();
        let devices = job.spec.devices.map_or_else(
            || nodes.first().map_or(0, |node| each(node)),
            |devices| devices as usize,
        );
        let even = nodes.iter().all(|node| each(node) == devices);
        if leases != ranks.len() || nodes.len() != job.spec.nodes as usize || !even {
            return Some(format!(
                "{} is {} with {leases} leases and {} ranks on {} nodes; it asked for {:?}",
                job.id,
                job.state.word(),
                ranks.len(),
                nodes.len(),
                job.spec
            ));
        }
        let running = ranks.iter().any(|rank| !rank.state.ended());
        if let JobState::Running { .. } = job.state
            && !running
            && ranks.is_empty()
        {
            return Some(format!("{} runs without ranks", job.id));
        }
    }
    None
}

fn adds(kind: &OperationKind) -> bool {
    matches!(
        kind,
        OperationKind::SuperNodeCreate
            | OperationKind::ScaleUp { .. }
            | OperationKind::NodeReplace { .. }
    )
}

/// A super node keeps a node, and its nodes are of one kind.
fn super_nodes(view: &View) -> Option<String> {
    for super_node in view.super_nodes.values() {
        let name = &super_node.name;
        // One whose creation came to nothing goes with the last operation that wanted to give it nodes.
        let wanted = view.operations.values().any(|operation| {
            operation.super_node.as_ref() == Some(&super_node.id)
                && adds(&operation.kind)
                && !operation.state.ended()
        });
        let listed: Vec<_> = view
            .nodes
            .values()
            .filter(|node| node.membership.listed_in(&super_node.id))
            .collect();
        if listed.is_empty() && super_node.deleting.is_none() && !wanted {
            return Some(format!("super node {name} has no nodes"));
        }
        let hyperplanes: BTreeSet<_> = listed
            .iter()
            .filter_map(|node| node.position.hyperplane.as_ref())
            .collect();
        if hyperplanes.len() > 1 {
            return Some(format!(
                "super node {name} has nodes in several hyperplanes: {hyperplanes:?}"
            ));
        }
        for node in listed {
            if !matches!(&node.spec, SpecMatch::Matches { spec } if *spec == super_node.spec) {
                return Some(format!(
                    "{} of super node {name} is of another spec: {:?}",
                    node.name, node.spec
                ));
            }
        }
    }
    None
}

/// What was accepted is there, once.
fn history(check: &Check) -> Option<String> {
    let (view, accepted) = (&check.view, &check.accepted);
    let job = differ(&accepted.jobs, view.jobs.keys());
    job.or_else(|| differ(&accepted.operations, view.operations.keys()))
        .map(|id| format!("{id} was accepted and is not stored, or is stored and was not accepted"))
}

/// The first that is in one of two sorted lists only.
fn differ<'a, T: Ord + ToString + 'a>(
    accepted: &'a BTreeSet<T>,
    found: impl Iterator<Item = &'a T>,
) -> Option<String> {
    let mut accepted = accepted.iter();
    for found in found {
        match accepted.next() {
            Some(one) if one == found => {}
            Some(one) => return Some(one.min(found).to_string()),
            None => return Some(found.to_string()),
        }
    }
    accepted.next().map(ToString::to_string)
}
