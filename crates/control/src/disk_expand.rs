//! Growing system disks: which nodes, whether each of them can, and the operation that does it.
//!
//! Everything that can be known beforehand is refused at once, and nothing is touched then: a size that is no whole number of GiB, not
//! larger than the present one or above the maximum, and a layout that does not grow. What the agents said of their layouts is what
//! counts; they look again before they act.

use std::time::Duration;

use supernode_plan::Snapshot;
use supernode_store::Tx;
use supernode_store::node::{inventory_get, node_list, node_list_of};
use supernode_store::spec::spec_find;
use supernode_types::disk::{
    DEFAULT_MAXIMUM_SYSTEM_DISK_GIB, DiskStep, GIB, Growth, PartitionTable, StepReport, StepState,
    SystemDisk, size_words,
};
use supernode_types::node::{Membership, Node};
use supernode_types::operation::{
    DiskExpansion, Operation, OperationKind, RestartConsent, TargetState,
};
use supernode_types::{JobId, SuperNodeId};

use crate::round::Round;
use crate::scale_up::find_node;
use crate::super_node::{find, find_for_change};
use crate::{Intent, Refusal, operation};

/// Where an MBR ends.
const MBR_BYTES: u64 = 2048 * GIB;

/// Which nodes a request means.
#[derive(Debug, Clone)]
pub enum Selection {
    /// These, by name or id.
    Named(Vec<String>),
    /// All full members of this super node, by name or id.
    SuperNode(String),
}

/// What an expansion is to do.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Which nodes.
    pub selection: Selection,
    /// The size to have.
    pub size_bytes: u64,
    /// Whether nodes may be restarted.
    pub restart: RestartConsent,
    /// How many restart at a time.
    pub parallel: u32,
    /// Whether a failure holds the others back.
    pub fail_fast: bool,
    /// How long it may take.
    pub deadline: Duration,
}

/// What an expansion would do to one node.
#[derive(Debug, Clone)]
pub struct PlannedNode {
    /// The node.
    pub node: Node,
    /// Its disk as it is.
    pub disk: SystemDisk,
    /// The steps, of which those of layers that are large enough change nothing.
    pub steps: Vec<DiskStep>,
    /// Whether every layer has the size already.
    pub at_size: bool,
    /// Jobs that run on it; they matter only if it has to restart.
    pub jobs: Vec<JobId>,
}

/// A node with its disk, as far as its agent has told.
pub fn list(
    tx: &mut Tx<'_>,
    node: Option<&str>,
    super_node: Option<&str>,
) -> Result<Vec<(Node, Option<SystemDisk>)>, Refusal> {
    let mut nodes = match super_node {
        Some(name) => {
            let id = find(tx, name)?.id;
            node_list_of(tx, &id)?
        }
        None => node_list(tx)?,
    };
    if let Some(name) = node {
        let wanted = crate::node::find(tx, name)?.id;
        nodes.retain(|node| node.id == wanted);
    }
    nodes
        .into_iter()
        .map(|node| {
            let inventory = inventory_get(tx, &node.id)?;
            Ok((node, inventory.and_then(|inventory| inventory.system_disk)))
        })
        .collect()
}

/// What an expansion would do; also refuses what the real thing would refuse.
pub fn plan(tx: &mut Tx<'_>, intent: &Intent, wish: &Wish) -> Result<Vec<PlannedNode>, Refusal> {
    let super_node = super_node_of(tx, intent, wish)?;
    let round = Round::of(tx, intent)?;
    let nodes = choose(&round.snapshot, wish, super_node.as_ref())?;
    let snapshot = round.snapshot.clone();
    examine(tx, &snapshot, wish, nodes)
}

/// Starts to grow the system disks of nodes.
pub fn disk_expand(tx: &mut Tx<'_>, intent: &Intent, wish: &Wish) -> Result<Operation, Refusal> {
    let super_node = super_node_of(tx, intent, wish)?;
    let mut round = Round::of(tx, intent)?;
    let nodes = choose(&round.snapshot, wish, super_node.as_ref())?;
    let snapshot = round.snapshot.clone();
    let planned = examine(round.tx(), &snapshot, wish, nodes)?;
    let kind = OperationKind::DiskExpand(DiskExpansion {
        size_bytes: wish.size_bytes,
        restart: wish.restart,
        parallel: wish.parallel,
        fail_fast: wish.fail_fast,
    });
    let mut operation = operation::begin(intent, kind, super_node, wish.deadline);
    for planned in planned {
        let because = match wish.selection {
            Selection::Named(_) => "named in the request",
            Selection::SuperNode(_) => "member of the super node",
        };
        operation::add_target(&mut operation, Some(planned.node.id), None, because);
        let target = operation.targets.last_mut().expect("it was just added");
        let steps = planned.steps.iter();
        target.steps = steps.map(|step| waiting(step, &planned.disk)).collect();
        if planned.at_size {
            target.state = TargetState::Done;
        }
    }
    round.insert_operation(operation.clone())?;
    round.finish()?;
    Ok(operation)
}

/// A step that nobody has begun. A device may have grown before its agent looks, so what it has now is written down here.
fn waiting(step: &DiskStep, disk: &SystemDisk) -> StepReport {
    StepReport {
        layer: step.word().to_owned(),
        subject: step.subject(),
        state: StepState::Waiting,
        before_bytes: matches!(step, DiskStep::Device { .. }).then_some(disk.size_bytes),
        after_bytes: None,
        detail: String::new(),
    }
}

fn super_node_of(
    tx: &mut Tx<'_>,
    intent: &Intent,
    wish: &Wish,
) -> Result<Option<SuperNodeId>, Refusal> {
    match &wish.selection {
        Selection::Named(_) => Ok(None),
        Selection::SuperNode(name) => Ok(Some(find_for_change(tx, intent, name)?.id)),
    }
}

fn choose(
    snapshot: &Snapshot,
    wish: &Wish,
    super_node: Option<&SuperNodeId>,
) -> Result<Vec<Node>, Refusal> {
    if wish.size_bytes == 0 || !wish.size_bytes.is_multiple_of(GIB) {
        return Err(Refusal::Invalid(format!(
            "size_bytes is {}; a disk has a whole number of GiB ({GIB} bytes each)",
            wish.size_bytes
        )));
    }
    if !(1..=1000).contains(&wish.parallel) {
        return Err(Refusal::Invalid(format!(
            "parallel is {}; it must be between 1 and 1000",
            wish.parallel
        )));
    }
    let mut chosen: Vec<Node> = Vec::new();
    if let Some(super_node) = super_node {
        let members = snapshot.members(super_node);
        chosen.extend(members.cloned());
        if chosen.is_empty() {
            return Err(Refusal::Conflict(
                "the super node has no full member".into(),
            ));
        }
    }
    if let Selection::Named(names) = &wish.selection {
        if names.is_empty() {
            return Err(Refusal::Invalid("name at least one node".into()));
        }
        for name in names {
            let node = find_node(snapshot, name)?;
            if chosen.iter().any(|known| known.id == node.id) {
                return Err(Refusal::Invalid(format!(
                    "node {} is named twice",
                    node.name
                )));
            }
            chosen.push(node.clone());
        }
    }
    chosen.sort_by(|one, other| one.name.cmp(&other.name));
    for node in &chosen {
        refuse_busy(snapshot, node)?;
    }
    Ok(chosen)
}

/// One expansion at a time, and none of a node that is on its way from one super node to nowhere.
fn refuse_busy(snapshot: &Snapshot, node: &Node) -> Result<(), Refusal> {
    let targeted = snapshot.operations.values().find(|operation| {
        matches!(operation.kind, OperationKind::DiskExpand(_))
            && operation.targets.iter().any(|target| {
                target.node.as_ref() == Some(&node.id)
                    && matches!(target.state, TargetState::Active { .. })
            })
    });
    if let Some(other) = targeted {
        return Err(Refusal::Conflict(format!(
            "the system disk of node {} is being expanded by {}; wait for it",
            node.name, other.id
        )));
    }
    if matches!(node.membership, Membership::Leaving { .. }) {
        return Err(Refusal::Conflict(format!(
            "node {} is leaving its super node; wait until it is a spare",
            node.name
        )));
    }
    Ok(())
}

/// Whether each node can have the size.
fn examine(
    tx: &mut Tx<'_>,
    snapshot: &Snapshot,
    wish: &Wish,
    nodes: Vec<Node>,
) -> Result<Vec<PlannedNode>, Refusal> {
    let mut planned = Vec::with_capacity(nodes.len());
    let mut refused = Vec::new();
    for node in nodes {
        refuse_over_maximum(tx, wish, &node)?;
        let inventory = inventory_get(tx, &node.id)?;
        let Some(disk) = inventory.and_then(|inventory| inventory.system_disk) else {
            refused.push(format!(
                "node {}: its agent has not said what its system disk is made of",
                node.name
            ));
            continue;
        };
        let (steps, at_size) = match verdict(&disk, wish.size_bytes) {
            Ok(found) => found,
            Err(why) => {
                refused.push(format!("node {}: {why}", node.name));
                continue;
            }
        };
        if disk.size_bytes > wish.size_bytes {
            return Err(Refusal::DiskSize(format!(
                "node {}: its system disk has {} already, more than the {} that were asked for; a disk never shrinks",
                node.name,
                size_words(disk.size_bytes),
                size_words(wish.size_bytes)
            )));
        }
        planned.push(PlannedNode {
            jobs: snapshot.jobs_on(&node.id),
            node,
            disk,
            steps,
            at_size,
        });
    }
    if let Some(first) = refused.first() {
        let more = refused.len() - 1;
        let message = if more == 0 {
            first.clone()
        } else {
            format!("{first} (and {more} more)")
        };
        return Err(Refusal::DiskLayout {
            message,
            nodes: refused,
        });
    }
    if planned.iter().all(|planned| planned.at_size) {
        return Err(Refusal::DiskSize(format!(
            "every chosen node has a system disk of {} already; ask for more",
            size_words(wish.size_bytes)
        )));
    }
    Ok(planned)
}

fn refuse_over_maximum(tx: &mut Tx<'_>, wish: &Wish, node: &Node) -> Result<(), Refusal> {
    let spec = match node.spec.spec() {
        Some(id) => spec_find(tx, id.as_str())?,
        None => None,
    };
    let (maximum, whose) = spec.map_or(
        (DEFAULT_MAXIMUM_SYSTEM_DISK_GIB, "of a node".to_owned()),
        |spec| (spec.maximum_disk_gib, format!("of spec {}", spec.name)),
    );
    if wish.size_bytes > u64::from(maximum) * GIB {
        return Err(Refusal::DiskSize(format!(
            "node {}: {} were asked for, and {maximum} GiB is the most for a system disk {whose}",
            node.name,
            size_words(wish.size_bytes)
        )));
    }
    Ok(())
}

fn verdict(disk: &SystemDisk, size_bytes: u64) -> Result<(Vec<DiskStep>, bool), String> {
    match &disk.growth {
        Growth::Unknown { why } => Err(format!(
            "whether its system disk can grow is not known: {why}"
        )),
        Growth::No { why } => Err(why.clone()),
        Growth::Yes { steps, at_size } => {
            let mbr = steps.iter().any(|step| {
                matches!(
                    step,
                    DiskStep::Partition {
                        table: PartitionTable::Mbr,
                        ..
                    }
                )
            });
            if mbr && size_bytes > MBR_BYTES {
                return Err(format!(
                    "its disk has an MBR, which ends at {}: convert it to GPT first",
                    size_words(MBR_BYTES)
                ));
            }
            Ok((steps.clone(), *at_size && disk.size_bytes == size_bytes))
        }
    }
}
