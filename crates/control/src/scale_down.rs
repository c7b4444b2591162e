//! Removing nodes: which ones, whether jobs stand in the way, and the operation that drains them.

use std::time::Duration;

use supernode_plan::Snapshot;
use supernode_plan::choose::{Choice, blocking_jobs, choose_leavers};
use supernode_store::Tx;
use supernode_types::node::{Node, NodePolicy};
use supernode_types::operation::{Operation, OperationKind};
use supernode_types::super_node::{DrainMode, SuperNode};
use supernode_types::{JobId, NodeId};

use crate::round::Round;
use crate::scale_up::{Selection, find_node};
use crate::super_node::find_for_change;
use crate::{Intent, Refusal, operation};

/// What a scale-down would do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The nodes, each with the reason.
    pub nodes: Vec<Choice>,
    /// Members before, joining ones included.
    pub members_before: u32,
    /// Jobs that run on them.
    pub affected_jobs: Vec<JobId>,
}

/// What scaling down would do; also refuses what the real thing would refuse.
pub fn plan(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    selection: &Selection,
    mode: DrainMode,
) -> Result<Plan, Refusal> {
    let super_node = find_for_change(tx, intent, id_or_name)?;
    let round = Round::of(tx, intent)?;
    choose(&round.snapshot, &super_node, selection, mode)
}

/// Starts to remove nodes. Whether jobs run on them is decided in the transaction that takes them out of scheduling, so a job that is
/// placed at the same moment wins or loses, never both.
pub fn scale_down(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    selection: &Selection,
    mode: DrainMode,
    deadline: Duration,
) -> Result<Operation, Refusal> {
    let super_node = find_for_change(tx, intent, id_or_name)?;
    let mut round = Round::of(tx, intent)?;
    let plan = choose(&round.snapshot, &super_node, selection, mode)?;
    let kind = OperationKind::ScaleDown { mode };
    let mut operation = operation::begin(intent, kind, Some(super_node.id), deadline);
    for choice in plan.nodes {
        round.drain(&choice.node, &operation.id)?;
        operation::add_target(&mut operation, Some(choice.node), None, choice.because);
    }
    round.insert_operation(operation.clone())?;
    round.finish()?;
    Ok(operation)
}

fn choose(
    snapshot: &Snapshot,
    super_node: &SuperNode,
    selection: &Selection,
    mode: DrainMode,
) -> Result<Plan, Refusal> {
    let staying = |node: &&Node| !matches!(node.policy, NodePolicy::Draining { .. });
    let before = snapshot.listed(&super_node.id).filter(staying).count();
    let nodes = match selection {
        Selection::To(_) => {
            return Err(Refusal::Invalid(
                "scale-down takes a count or node names".into(),
            ));
        }
        Selection::Count(0) => {
            return Err(Refusal::Invalid(
                "count is 0; ask for at least one node".into(),
            ));
        }
        Selection::Count(count) => {
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            refuse_last(super_node, before, count)?;
            choose_leavers(snapshot, &super_node.id, count, mode == DrainMode::Refuse).map_err(|shortage| {
                if shortage.blocking.is_empty() {
                    Refusal::Conflict(format!("super node {}: {shortage}", super_node.name))
                } else {
                    Refusal::JobsRunning {
                        message: format!("super node {}: {shortage}. Wait for them, or use --mode wait or --mode evict", super_node.name),
                        jobs: shortage.blocking.iter().map(|blocking| blocking.job.clone()).collect(),
                    }
                }
            })?
        }
        Selection::Named(names) => choose_named(snapshot, super_node, names, before)?,
    };
    let ids: Vec<NodeId> = nodes.iter().map(|choice| choice.node.clone()).collect();
    let affected_jobs = refuse_busy(snapshot, &ids, mode)?;
    Ok(Plan {
        nodes,
        members_before: u32::try_from(before).unwrap_or(u32::MAX),
        affected_jobs,
    })
}

/// The jobs on nodes that leave; refused where they may not be disturbed.
pub(crate) fn refuse_busy(
    snapshot: &Snapshot,
    leaving: &[NodeId],
    mode: DrainMode,
) -> Result<Vec<JobId>, Refusal> {
    let blocking = blocking_jobs(snapshot, leaving);
    let jobs = || {
        blocking
            .iter()
            .map(|blocking| blocking.job.clone())
            .collect()
    };
    if mode != DrainMode::Refuse || blocking.is_empty() {
        return Ok(jobs());
    }
    let list: Vec<String> = blocking
        .iter()
        .take(5)
        .map(|job| format!("{} ({})", job.job, job.name))
        .collect();
    Err(Refusal::JobsRunning {
        message: format!(
            "{} job(s) run on nodes that would leave: {}. Wait for them, or use --mode wait or --mode evict",
            blocking.len(),
            list.join(", ")
        ),
        jobs: jobs(),
    })
}

/// The full member of a super node with this name or id.
pub(crate) fn find_member<'a>(
    snapshot: &'a Snapshot,
    super_node: &SuperNode,
    id_or_name: &str,
) -> Result<&'a Node, Refusal> {
    let node = find_node(snapshot, id_or_name)?;
    if node.membership.member_of(&super_node.id) {
        return Ok(node);
    }
    Err(Refusal::Conflict(format!(
        "node {} is not a member of super node {}",
        node.name, super_node.name
    )))
}

fn choose_named(
    snapshot: &Snapshot,
    super_node: &SuperNode,
    names: &[String],
    before: usize,
) -> Result<Vec<Choice>, Refusal> {
    if names.is_empty() {
        return Err(Refusal::Invalid(
            "name at least one node, or give a count".into(),
        ));
    }
    let mut chosen: Vec<Choice> = Vec::new();
    for name in names {
        let node = find_member(snapshot, super_node, name)?;
        if chosen.iter().any(|choice| choice.node == node.id) {
            return Err(Refusal::Invalid(format!(
                "node {} is named twice",
                node.name
            )));
        }
        chosen.push(Choice {
            node: node.id.clone(),
            because: "named in the request".into(),
        });
    }
    refuse_last(super_node, before, chosen.len())?;
    Ok(chosen)
}

fn refuse_last(super_node: &SuperNode, before: usize, leaving: usize) -> Result<(), Refusal> {
    if leaving >= before {
        return Err(Refusal::LastNode(format!(
            "super node {} has {before} node(s) and keeps at least one; delete the super node to free all of them",
            super_node.name
        )));
    }
    Ok(())
}
