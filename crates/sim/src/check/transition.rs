//! Safety of changes: what may become of what.

use supernode_plan::operation::FOLLOW_UP;
use supernode_types::job::{JobState, StopReason};
use supernode_types::node::{Membership, Node, NodeCondition, NodePolicy};
use supernode_types::operation::OperationKind;
use supernode_types::super_node::DrainMode;

use super::view::View;
use crate::machine::Machine;

/// What must not have happened between two looks at the store.
pub(super) fn check(before: &View, after: &View, machines: &[Machine]) -> Option<String> {
    generations(before, after)
        .or_else(|| ends(before, after))
        .or_else(|| starts(before, after))
        .or_else(|| nodes(before, after, machines))
}

fn went_back(what: &str, before: i64, after: i64) -> Option<String> {
    (after < before).then(|| format!("the generation of {what} went back from {before} to {after}"))
}

fn generations(before: &View, after: &View) -> Option<String> {
    for (id, node) in &before.nodes {
        if let Some(now) = after.nodes.get(id) {
            let found = went_back(
                &format!("node {}", node.name),
                node.generation,
                now.generation,
            )
            .or_else(|| {
                went_back(
                    &format!("what node {} should do", node.name),
                    node.desired_generation,
                    now.desired_generation,
                )
            });
            if found.is_some() {
                return found;
            }
        }
    }
    for (id, super_node) in &before.super_nodes {
        if let Some(now) = after.super_nodes.get(id) {
            let found = went_back(
                &format!("super node {}", super_node.name),
                super_node.generation,
                now.generation,
            )
            .or_else(|| {
                went_back(
                    &format!("the environment of {}", super_node.name),
                    super_node.environment_generation,
                    now.environment_generation,
                )
            });
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

/// What has ended stays as it is.
fn ends(before: &View, after: &View) -> Option<String> {
    for (id, job) in &before.jobs {
        let Some(now) = after.jobs.get(id) else {
            return Some(format!("{id} is gone"));
        };
        if job.state.ended() && now != job {
            return Some(format!(
                "{id} had ended and changed: {job:?} became {now:?}"
            ));
        }
        if now.requeues > now.spec.requeue_limit {
            return Some(format!(
                "{id} was queued again {} times, and may be {} times",
                now.requeues, now.spec.requeue_limit
            ));
        }
    }
    for (id, operation) in &before.operations {
        let Some(now) = after.operations.get(id) else {
            return Some(format!("{id} is gone"));
        };
        if operation.state.ended() && now != operation {
            return Some(format!(
                "{id} had ended and changed: {operation:?} became {now:?}"
            ));
        }
    }
    None
}

/// A gang starts only on nodes that take work, and only an operation that may evict stops one.
fn starts(before: &View, after: &View) -> Option<String> {
    for (attempt, ranks) in after
        .ranks
        .iter()
        .filter(|(attempt, _)| !before.ranks.contains_key(*attempt))
    {
        for rank in ranks {
            let Some(node) = after.nodes.get(&rank.node) else {
                continue;
            };
            let job = after.jobs.get(&rank.job)?;
            let usable = node.policy == NodePolicy::InService
                && node.condition == NodeCondition::Ready
                && node.membership.member_of(&job.super_node);
            if !usable || rank.boot_id != node.boot_id {
                return Some(format!(
                    "{attempt} was placed on {}, which takes no work: {node:?}",
                    node.name
                ));
            }
        }
    }
    for job in after.jobs.values() {
        if let JobState::Stopping {
            reason: StopReason::Evicted { operation },
            ..
        } = &job.state
            && let Some(found) = after.operations.get(operation)
            && found.kind.eviction_grace_seconds().is_none()
        {
            return Some(format!(
                "{} is evicted by {operation}, which must not evict",
                job.id
            ));
        }
    }
    None
}

fn nodes(before: &View, after: &View, machines: &[Machine]) -> Option<String> {
    for (id, node) in &before.nodes {
        let Some(now) = after.nodes.get(id) else {
            if node.membership != Membership::Spare {
                return Some(format!(
                    "{} was removed while it was {}",
                    node.name,
                    node.membership.word()
                ));
            }
            continue;
        };
        let found = joined(before, node, now, machines)
            .or_else(|| left(before, after, node, now))
            .or_else(|| released(after, node, now, machines));
        if found.is_some() {
            return found;
        }
    }
    drained(before, after)
}

/// A node becomes a member when it has had the environment that lists it.
fn joined(before: &View, node: &Node, now: &Node, machines: &[Machine]) -> Option<String> {
    let (Membership::Joining { .. }, Membership::Member { super_node }) =
        (&node.membership, &now.membership)
    else {
        return None;
    };
    let wanted = before.super_nodes.get(super_node)?.environment_generation;
    let machine = machines
        .iter()
        .find(|machine| machine.node() == Some(&node.id))?;
    let reached = machine.disk.environment_reached;
    (reached < wanted).then(|| {
        format!(
            "{} became a member with environment {reached} instead of {wanted}",
            node.name
        )
    })
}

/// A node leaves when no job holds anything of it, and the last full member stays.
fn left(before: &View, after: &View, node: &Node, now: &Node) -> Option<String> {
    let Membership::Member { super_node } = &node.membership else {
        return None;
    };
    if now.membership == node.membership {
        return None;
    }
    if after.leased(&now.id) {
        return Some(format!("{} left {super_node} with jobs on it", node.name));
    }
    let deleting = after
        .super_nodes
        .get(super_node)
        .is_none_or(|found| found.deleting.is_some());
    if !deleting
        && after.members(super_node).next().is_none()
        && before.members(super_node).next().is_some()
    {
        return Some(format!(
            "{} was the last member of {super_node} and left",
            node.name
        ));
    }
    None
}

/// A node becomes a spare when it is clean, or lost, or was waited for in vain. It may have begun to leave in the same transaction.
fn released(after: &View, node: &Node, now: &Node, machines: &[Machine]) -> Option<String> {
    let lost = matches!(now.condition, NodeCondition::Lost { .. });
    if node.membership == Membership::Spare || now.membership != Membership::Spare || lost {
        return None;
    }
    let operation = match &node.membership {
        Membership::Leaving { operation, .. } => after.operations.get(operation),
        _ => None,
    };
    let overdue = operation.is_some_and(|found| {
        found
            .ended_at
            .is_some_and(|at| at >= found.deadline.plus(FOLLOW_UP))
    });
    let deleted = after.operations.values().any(|found| {
        found.super_node.as_ref() == node.membership.super_node()
            && found
                .ended_at
                .is_some_and(|at| at >= found.deadline.plus(FOLLOW_UP))
    });
    let machine = machines
        .iter()
        .find(|machine| machine.node() == Some(&node.id))?;
    let dirty = machine.disk.environment.present.as_ref()?;
    (!overdue && !deleted).then(|| {
        format!(
            "{} was released with the environment of {} still on it (generation {})",
            node.name, dirty.super_node_name, dirty.generation
        )
    })
}

/// An operation that must refuse does not begin to drain a node that a job holds.
fn drained(before: &View, after: &View) -> Option<String> {
    for (id, operation) in after
        .operations
        .iter()
        .filter(|(id, _)| !before.operations.contains_key(*id))
    {
        if operation.kind
            != (OperationKind::ScaleDown {
                mode: DrainMode::Refuse,
            })
        {
            continue;
        }
        for target in operation
            .targets
            .iter()
            .filter_map(|target| target.node.as_ref())
        {
            if after.leased(target) {
                return Some(format!(
                    "{id} takes out {target} although a job holds it, and it should have refused"
                ));
            }
        }
    }
    None
}
