//! Which members leave: idle and broken ones first, then those that leave the fewest racks behind, then the newest.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use supernode_types::node::{Node, NodeCondition, NodeHealth, NodePolicy};
use supernode_types::{JobId, Name, NodeId, SuperNodeId};

use super::Choice;
use crate::index::Index;
use crate::{Snapshot, words};

/// There are not enough nodes that may leave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} should leave and {found} can{}", words::count(*.wanted, "node"), blocking_text(.blocking))]
pub struct LeaverShortage {
    /// How many should leave.
    pub wanted: usize,
    /// How many can.
    pub found: usize,
    /// Jobs on the others.
    pub blocking: Vec<BlockingJob>,
}

fn blocking_text(blocking: &[BlockingJob]) -> String {
    if blocking.is_empty() {
        return "; a super node keeps at least one node: delete it to free the last".into();
    }
    let jobs = blocking.iter().map(|blocking| {
        format!(
            "{} on {}",
            blocking.job,
            words::list(blocking.nodes.iter(), 3)
        )
    });
    format!("; jobs run: {}", words::list(jobs, 5))
}

/// A job that holds devices of nodes that should leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockingJob {
    /// The job.
    pub job: JobId,
    /// Its name; empty when the snapshot has only its leases.
    pub name: String,
    /// The nodes among those asked about, by name.
    pub nodes: Vec<Name>,
}

/// Chooses `count` members of `super_node` to leave; with `only_idle` none that a job runs on. Never all of them.
pub fn choose_leavers(
    snapshot: &Snapshot,
    super_node: &SuperNodeId,
    count: usize,
    only_idle: bool,
) -> Result<Vec<Choice>, LeaverShortage> {
    let index = Index::new(snapshot);
    let members: Vec<&Node> = index.members_of(super_node).collect();
    let may_leave = members
        .iter()
        .copied()
        .filter(|node| !matches!(node.policy, NodePolicy::Draining { .. }));
    let (idle, busy): (Vec<&Node>, Vec<&Node>) =
        may_leave.partition(|node| index.leases_on(&node.id).is_empty());
    let staying = members.len() - idle.len() - busy.len();
    let mut racks: HashMap<Option<&String>, usize> = HashMap::new();
    for node in &members {
        *racks.entry(node.position.rack.as_ref()).or_default() += 1;
    }
    let in_rack = |node: &Node| {
        racks
            .get(&node.position.rack.as_ref())
            .copied()
            .unwrap_or(0)
    };
    let mut candidates = idle.clone();
    if !only_idle {
        candidates.extend(&busy);
    }
    candidates.sort_by(|one, other| {
        let key = |node: &Node| {
            (
                index.leases_on(&node.id).len(),
                soundness(node).0,
                in_rack(node),
            )
        };
        key(one)
            .cmp(&key(other))
            .then_with(|| (other.enrolled_at, &other.name).cmp(&(one.enrolled_at, &one.name)))
    });
    // One node that is not on its way out stays.
    let most = candidates
        .len()
        .min((members.len() - staying.min(members.len())).saturating_sub(1));
    if count > most {
        let ids: Vec<NodeId> = busy.iter().map(|node| node.id.clone()).collect();
        let blocking = if only_idle && count > idle.len() {
            blocking_jobs(snapshot, &ids)
        } else {
            Vec::new()
        };
        return Err(LeaverShortage {
            wanted: count,
            found: most,
            blocking,
        });
    }
    let because = |node: &Node| {
        let mut parts = vec![match index.jobs_on(&node.id).len() {
            0 => "idle".to_owned(),
            jobs => words::count(jobs, "job") + " on it",
        }];
        parts.extend(soundness(node).1.map(ToOwned::to_owned));
        parts.extend(
            node.position
                .rack
                .as_ref()
                .map(|rack| format!("{} in rack {rack}", words::count(in_rack(node), "member"))),
        );
        parts.join(", ")
    };
    Ok(candidates
        .into_iter()
        .take(count)
        .map(|node| Choice {
            node: node.id.clone(),
            because: because(node),
        })
        .collect())
}

/// Broken nodes leave first.
fn soundness(node: &Node) -> (u8, Option<&'static str>) {
    match (&node.condition, &node.health, &node.policy) {
        (NodeCondition::Lost { .. }, ..) => (0, Some("lost")),
        (NodeCondition::Degraded { .. }, ..) => (1, Some("degraded")),
        (_, NodeHealth::Quarantined { .. }, _) => (2, Some("quarantined")),
        (NodeCondition::Unknown | NodeCondition::Joining { .. }, ..) => (3, Some("not ready")),
        (_, NodeHealth::Suspect { .. }, _) => (4, Some("suspect")),
        (.., NodePolicy::Cordoned(_)) => (5, Some("cordoned")),
        _ => (6, None),
    }
}

/// The jobs that hold leases on any of `nodes`, by id.
pub fn blocking_jobs(snapshot: &Snapshot, nodes: &[NodeId]) -> Vec<BlockingJob> {
    let wanted: BTreeSet<&NodeId> = nodes.iter().collect();
    let mut by_job: BTreeMap<&JobId, BTreeSet<&Name>> = BTreeMap::new();
    for lease in snapshot
        .leases
        .iter()
        .filter(|lease| wanted.contains(&lease.node))
    {
        let Some(job) = lease.job() else {
            continue;
        };
        by_job
            .entry(job)
            .or_default()
            .extend(snapshot.nodes.get(&lease.node).map(|node| &node.name));
    }
    let view = |(job, nodes): (&JobId, BTreeSet<&Name>)| BlockingJob {
        job: job.clone(),
        name: snapshot
            .jobs
            .get(job)
            .map(|job| job.name.clone())
            .unwrap_or_default(),
        nodes: nodes.into_iter().cloned().collect(),
    };
    by_job.into_iter().map(view).collect()
}
