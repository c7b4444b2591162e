//! What is known of each node, from its contact, its last report and what its super node asks.
//!
//! Silence is judged first: a node that was not heard of for `lost_after` is lost whatever it said before, and its agent has stopped
//! its ranks by then. A member that was ready stays ready while it only has to learn of a newer environment generation, so a
//! growing super node goes on taking jobs; what went wrong takes it out of scheduling. This planner never touches policy.

use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::node::{Membership, Node, NodeCondition, SpecMatch};
use supernode_types::super_node::SuperNode;

use crate::words::first_and_more;
use crate::{Action, Contact, Limits, Snapshot};

/// The conditions that changed.
pub fn plan(snapshot: &Snapshot, limits: &Limits) -> Vec<Action> {
    let changed = |node: &Node| {
        let condition = observe(snapshot, limits, node)?;
        (condition != node.condition).then(|| Action::SetCondition {
            node: node.id.clone(),
            condition,
        })
    };
    snapshot.nodes.values().filter_map(changed).collect()
}

/// What people are told when the condition of `node` becomes `after`; nothing for mere steps of joining.
pub fn event(node: &Node, after: &NodeCondition) -> Option<NewEvent> {
    let name = &node.name;
    let was_lost = matches!(node.condition, NodeCondition::Lost { .. });
    let (kind, severity, message) = match after {
        NodeCondition::Lost { .. } => (
            "node.lost",
            Severity::Warning,
            format!(
                "node {name} was lost: its agent was silent for too long; its ranks have stopped"
            ),
        ),
        NodeCondition::Degraded { why } => (
            "node.degraded",
            Severity::Warning,
            format!("node {name} takes no new work: {why}"),
        ),
        NodeCondition::Ready if was_lost => (
            "node.returned",
            Severity::Info,
            format!("node {name} is back and ready"),
        ),
        NodeCondition::Ready => (
            "node.ready",
            Severity::Info,
            format!("node {name} is ready"),
        ),
        NodeCondition::Joining { step } if was_lost => (
            "node.returned",
            Severity::Info,
            format!("node {name} is back: {step}"),
        ),
        NodeCondition::Joining { .. } | NodeCondition::Unknown => return None,
    };
    let subjects = Subjects {
        node: Some(node.id.clone()),
        super_node: node.membership.super_node().cloned(),
        ..Subjects::default()
    };
    Some(NewEvent {
        kind,
        severity,
        message,
        subjects,
    })
}

/// The condition as it is now; `None` when nothing can be said anew.
fn observe(snapshot: &Snapshot, limits: &Limits, node: &Node) -> Option<NodeCondition> {
    match snapshot.contacts.get(&node.id)? {
        Contact::Silent(silence) => {
            let known = !matches!(
                node.condition,
                NodeCondition::Unknown | NodeCondition::Lost { .. }
            );
            (known && *silence >= limits.lost_after).then_some(NodeCondition::Lost {
                since: snapshot.now,
            })
        }
        Contact::Connected => Some(connected(snapshot, node)),
    }
}

fn connected(snapshot: &Snapshot, node: &Node) -> NodeCondition {
    if node.agent_version.is_empty() {
        return joining("waits for the first report of its agent");
    }
    match &node.membership {
        Membership::Spare if node.environment_applied != 0 => cleaning(
            node,
            "the environment of its former super node is being removed",
        ),
        Membership::Spare if node.spec == SpecMatch::Unknown => {
            joining("waits for an inventory and for a declared spec to compare it with")
        }
        Membership::Spare => NodeCondition::Ready,
        Membership::Leaving { .. } => cleaning(
            node,
            "the environment of the super node that it leaves is being removed",
        ),
        Membership::Joining { super_node, .. } => match snapshot.super_nodes.get(super_node) {
            Some(super_node) => listed(snapshot, node, super_node, false),
            None => joining("its super node is gone"),
        },
        Membership::Member { super_node } => match snapshot.super_nodes.get(super_node) {
            Some(super_node) => listed(snapshot, node, super_node, true),
            None => joining("its super node is gone"),
        },
    }
}

/// A node that should have the environment of `super_node`.
fn listed(snapshot: &Snapshot, node: &Node, super_node: &SuperNode, member: bool) -> NodeCondition {
    let was_ready = member && node.condition == NodeCondition::Ready;
    match &node.spec {
        SpecMatch::Unknown if was_ready => {}
        SpecMatch::Unknown => {
            return joining("waits for an inventory and for a declared spec to compare it with");
        }
        SpecMatch::Matches { spec } if *spec == super_node.spec => {}
        SpecMatch::Matches { spec } => {
            let [found, wanted] = [spec, &super_node.spec].map(|spec| {
                snapshot
                    .specs
                    .get(spec)
                    .map_or_else(|| spec.to_string(), |limit| limit.name.to_string())
            });
            return NodeCondition::Degraded {
                why: format!(
                    "its hardware matches spec {found}, but {} asks {wanted}",
                    super_node.name
                ),
            };
        }
        SpecMatch::Differs { differences } => {
            let why = first_and_more(differences).unwrap_or_else(|| "it matches no spec".into());
            return NodeCondition::Degraded {
                why: format!("its hardware is not as declared: {why}"),
            };
        }
    }
    let revision = super_node.environment_revision;
    if let Some(problem) = first_and_more(&node.environment_problems) {
        let line = format!("environment revision {revision}: {problem}");
        return if member {
            NodeCondition::Degraded { why: line }
        } else {
            NodeCondition::Joining { step: line }
        };
    }
    if was_ready || node.environment_applied >= super_node.environment_generation {
        NodeCondition::Ready
    } else {
        NodeCondition::Joining {
            step: format!(
                "environment revision {revision} and the list of members are being applied"
            ),
        }
    }
}

fn cleaning(node: &Node, step: &str) -> NodeCondition {
    match first_and_more(&node.environment_problems) {
        Some(problem) => NodeCondition::Joining {
            step: format!("{step}: {problem}"),
        },
        None => joining(step),
    }
}

fn joining(step: &str) -> NodeCondition {
    NodeCondition::Joining { step: step.into() }
}
