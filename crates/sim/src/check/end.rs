//! Liveness: what must be true some time after the last fault.

use supernode_types::job::{Job, JobState};
use supernode_types::node::{Membership, Node, NodeCondition, NodePolicy};
use supernode_types::super_node::SuperNode;

use super::view::View;
use crate::machine::{Machine, Power};
use crate::ranks::Program;
use crate::world::World;

impl World {
    /// What has not come to rest yet; nothing when all is as it should be.
    pub(crate) fn unrest(&self) -> Option<String> {
        if self.last_plan > 0 {
            return Some("the loop still has something to do".into());
        }
        if let Some(number) = self.client.iter().position(|asked| asked.answer.is_none()) {
            return Some(format!(
                "request {number} has no answer: {:?}",
                self.client[number].request
            ));
        }
        if let Some(wish) = self.open_wish() {
            return Some(wish);
        }
        let view = &self.check.view;
        if let Some(operation) = view
            .operations
            .values()
            .find(|operation| !operation.state.ended())
        {
            return Some(format!("an operation has not ended: {operation:?}"));
        }
        view.jobs
            .values()
            .find_map(|job| job_at_rest(view, job))
            .or_else(|| {
                view.super_nodes
                    .values()
                    .find_map(|super_node| queue_at_rest(view, super_node))
            })
            .or_else(|| {
                self.machines
                    .iter()
                    .filter(|machine| machine.power != Power::Gone)
                    .find_map(|machine| machine_at_rest(view, machine))
            })
            .or_else(|| self.audited())
    }
}

/// A job that holds leases runs, and one that will end has ended.
fn job_at_rest(view: &View, job: &Job) -> Option<String> {
    match &job.state {
        JobState::Starting { .. } | JobState::Stopping { .. } => {
            Some(format!("a job does not get on: {job:?}"))
        }
        JobState::Running { attempt, .. } => {
            let for_ever =
                Program::parse(&job.spec.arguments).is_some_and(|program| program.run.is_none());
            if job.spec.time_limit_seconds.is_some() || !for_ever {
                return Some(format!(
                    "a job runs for too long: {job:?} {:?}",
                    view.ranks.get(attempt)
                ));
            }
            None
        }
        JobState::Queued { reason } if reason.is_empty() || reason == "submitted just now" => {
            Some(format!("a job waits and does not say why: {job:?}"))
        }
        JobState::Queued { .. } if !view.super_nodes.contains_key(&job.super_node) => {
            Some(format!("a job waits for nothing: {job:?}"))
        }
        JobState::Queued { .. } | JobState::Ended { .. } => None,
    }
}

/// Whether a member has so many devices for a job.
fn free(view: &View, node: &Node, devices: usize) -> bool {
    let held = view
        .leases
        .iter()
        .filter(|lease| lease.node == node.id)
        .count();
    node.policy == NodePolicy::InService
        && node.condition == NodeCondition::Ready
        && (node.device_count as usize).saturating_sub(held) >= devices
}

/// The first job in line that could run at all cannot run now.
fn queue_at_rest(view: &View, super_node: &SuperNode) -> Option<String> {
    let members: Vec<&Node> = view.members(&super_node.id).collect();
    let whole = members
        .iter()
        .map(|node| node.device_count)
        .max()
        .unwrap_or(1);
    let devices = |job: &Job| job.spec.devices.unwrap_or(whole) as usize;
    let possible = |job: &&Job| {
        let large = members
            .iter()
            .filter(|node| node.device_count as usize >= devices(job))
            .count();
        large >= job.spec.nodes as usize
    };
    let mut queue: Vec<&Job> = view
        .jobs
        .values()
        .map(AsRef::as_ref)
        .filter(|job| {
            job.super_node == super_node.id && matches!(job.state, JobState::Queued { .. })
        })
        .filter(possible)
        .collect();
    queue.sort_by_key(|job| {
        (
            std::cmp::Reverse(job.spec.priority),
            job.submitted_at,
            job.id.clone(),
        )
    });
    let first = queue.first()?;
    let able = members
        .iter()
        .filter(|node| free(view, node, devices(first)))
        .count();
    (able >= first.spec.nodes as usize).then(|| format!("a job could run and does not: {first:?}"))
}

/// An agent has what it should have, and runs what it should run.
fn machine_at_rest(view: &View, machine: &Machine) -> Option<String> {
    let name = &machine.name;
    let Some(node) = machine.node().and_then(|node| view.nodes.get(node)) else {
        return Some(format!("{name} is not enrolled"));
    };
    let Some(core) = machine.agent.as_ref().and_then(|agent| agent.core.as_ref()) else {
        return Some(format!("the agent of {name} does not run"));
    };
    if node.condition != NodeCondition::Ready {
        return Some(format!(
            "{name} is not ready: {node:?}; its agent: {:?}",
            machine.agent
        ));
    }
    if core.ledger().generation != node.desired_generation
        || machine.disk.ledger.generation != node.desired_generation
    {
        return Some(format!(
            "{name} should have desired generation {} and has {}, stored {}",
            node.desired_generation,
            core.ledger().generation,
            machine.disk.ledger.generation
        ));
    }
    let present = machine.disk.environment.present.as_ref();
    let found =
        present.map(|environment| (environment.super_node_name.as_str(), environment.generation));
    let wanted = match &node.membership {
        Membership::Member { super_node } => view
            .super_nodes
            .get(super_node)
            .map(|found| (found.name.as_str(), found.environment_generation)),
        Membership::Spare => None,
        Membership::Joining { .. } | Membership::Leaving { .. } => {
            return Some(format!("{name} still is {}", node.membership.word()));
        }
    };
    if found != wanted || machine.disk.environment.wrong {
        return Some(format!(
            "{name} should have the environment {wanted:?} and has {found:?} ({:?})",
            machine.disk.environment.wrong
        ));
    }
    if node.environment_applied != wanted.map_or(0, |(_, generation)| generation) {
        return Some(format!(
            "{name} has {wanted:?}, and the server believes {}",
            node.environment_applied
        ));
    }
    if matches!(node.policy, NodePolicy::Draining { .. }) {
        return Some(format!("{name} is still draining: {:?}", node.policy));
    }
    let here: Vec<_> = view
        .leases
        .iter()
        .filter(|lease| lease.node == node.id)
        .collect();
    let without = here.iter().find(|lease| {
        !machine
            .processes
            .keys()
            .any(|key| Some(&key.attempt) == lease.attempt())
    });
    if let Some(lease) = without {
        return Some(format!(
            "{lease:?} is held and nothing of it runs on {name}"
        ));
    }
    None
}
