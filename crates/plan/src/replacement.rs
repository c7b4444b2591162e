//! Which quarantined members get a spare in their place by themselves.
//!
//! One try at a time for each member. Where there is no spare that fits, people are told once, and it begins as soon as there is one. After a
//! try in which no spare joined it waits; a member for which one joined and that could not leave is left to people: a super node never
//! grows by it.

use std::time::Duration;

use supernode_types::NodeId;
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::node::{Node, NodeHealth, NodePolicy};
use supernode_types::operation::TargetState;
use supernode_types::stress::ReplacementTry;
use supernode_types::super_node::{Replacement, SuperNode};

use crate::choose::{Choice, choose_spares};
use crate::{Action, Limits, Snapshot};

/// How long after a try that failed the next one may begin.
pub(crate) const PAUSE: Duration = Duration::from_hours(1);

/// The first replacement that is due; others are for the next round, which sees what this one takes.
pub(crate) fn plan(snapshot: &Snapshot, limits: &Limits) -> Vec<Action> {
    let automatic = snapshot.super_nodes.values().filter(|super_node| {
        super_node.replacement == Replacement::Automatic && super_node.deleting.is_none()
    });
    automatic
        .flat_map(|super_node| {
            let members = snapshot.members(&super_node.id);
            members.map(move |node| (super_node, node))
        })
        .map(|(super_node, node)| begin(snapshot, limits, super_node, node))
        .find(|actions| !actions.is_empty())
        .unwrap_or_default()
}

fn begin(snapshot: &Snapshot, limits: &Limits, super_node: &SuperNode, node: &Node) -> Vec<Action> {
    let NodeHealth::Quarantined { finding } = &node.health else {
        return Vec::new();
    };
    let draining = matches!(node.policy, NodePolicy::Draining { .. });
    if draining || waits(snapshot, node) || is_target(snapshot, &node.id) {
        return Vec::new();
    }
    match choose(snapshot, super_node) {
        Ok(spare) => vec![Action::BeginReplacement {
            super_node: super_node.id.clone(),
            node: node.id.clone(),
            because: format!("it is quarantined: {finding}"),
            spare,
            admission: limits.admission,
        }],
        Err(_) if node.stress.replacement == Some(ReplacementTry::NoSpare) => Vec::new(),
        Err(why) => vec![
            Action::SetReplacement {
                node: node.id.clone(),
                tried: ReplacementTry::NoSpare,
            },
            Action::Tell(no_spare(super_node, node, &why)),
        ],
    }
}

/// Whether another try has to wait, or would make the super node grow.
fn waits(snapshot: &Snapshot, node: &Node) -> bool {
    match &node.stress.replacement {
        None | Some(ReplacementTry::NoSpare) => false,
        Some(ReplacementTry::Failed { again_at }) => snapshot.now < *again_at,
        Some(ReplacementTry::Joined { .. }) => true,
    }
}

/// Whether an open operation works on the node.
fn is_target(snapshot: &Snapshot, node: &NodeId) -> bool {
    let targets = snapshot
        .operations
        .values()
        .flat_map(|operation| &operation.targets);
    targets
        .filter(|target| matches!(target.state, TargetState::Active { .. }))
        .any(|target| target.node.as_ref() == Some(node))
}

/// A spare that nothing is held against.
fn choose(snapshot: &Snapshot, super_node: &SuperNode) -> Result<Choice, String> {
    let existing: Vec<&Node> = snapshot.listed(&super_node.id).collect();
    let hyperplane = super_node.hyperplane.as_deref();
    let chosen = choose_spares(snapshot, &super_node.spec, hyperplane, &existing, 1);
    let chosen = chosen.map_err(|shortage| shortage.to_string())?;
    let suspect = |choice: &Choice| {
        let node = snapshot.nodes.get(&choice.node)?;
        matches!(node.health, NodeHealth::Suspect { .. }).then(|| node.name.to_string())
    };
    match chosen.into_iter().next() {
        None => Err("there is no spare".into()),
        Some(choice) => match suspect(&choice) {
            Some(name) => Err(format!("the only spares are suspect, such as {name}")),
            None => Ok(choice),
        },
    }
}

fn no_spare(super_node: &SuperNode, node: &Node, why: &str) -> NewEvent {
    NewEvent {
        kind: "super_node.no_spare",
        severity: Severity::Warning,
        message: format!(
            "nothing can take the place of node {} in super node {}: {why}",
            node.name, super_node.name
        ),
        subjects: Subjects {
            node: Some(node.id.clone()),
            super_node: Some(super_node.id.clone()),
            ..Subjects::default()
        },
    }
}
