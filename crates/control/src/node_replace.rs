//! Putting a spare in the place of a member: which one, and the operation that does it.
//!
//! While it lasts the super node has one node more, also where its spec allows no more of them.

use std::time::Duration;

use supernode_plan::Snapshot;
use supernode_plan::choose::{Choice, check_named, choose_spares};
use supernode_store::{StoreError, Tx};
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::node::{Node, NodePolicy};
use supernode_types::operation::{Admission, Operation, OperationKind};
use supernode_types::super_node::{DrainMode, Replacement, SuperNode};
use supernode_types::{Entropy, JobId, NodeId, SuperNodeId, Timestamp};

use crate::round::Round;
use crate::scale_down::{find_member, refuse_busy};
use crate::scale_up::{Test, find_node, not_enough, tell_untested};
use crate::super_node::find_for_change;
use crate::{Intent, Refusal, operation};

/// How long jobs on a member may run that is replaced by itself.
const PATIENCE: Duration = Duration::from_hours(30 * 24);

/// A wish to replace a member.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The member, by name or id.
    pub node: String,
    /// The spare, by name or id; chosen when absent.
    pub with: Option<String>,
    /// How jobs on the member are treated.
    pub mode: DrainMode,
    /// Whether the spare is tested before it joins.
    pub test: Test,
    /// When to give up, from now.
    pub deadline: Duration,
}

/// What replacing would do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The member that leaves.
    pub leaves: NodeId,
    /// The spare that joins, with the reason.
    pub joins: Choice,
    /// Members before, and after.
    pub members: u32,
    /// Jobs that run on the member.
    pub affected_jobs: Vec<JobId>,
}

/// What replacing would do; also refuses what the real thing would refuse.
pub fn plan(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    wish: &Wish,
) -> Result<Plan, Refusal> {
    let super_node = find_for_change(tx, intent, id_or_name)?;
    let round = Round::of(tx, intent)?;
    choose(&round.snapshot, &super_node, wish)
}

/// Starts to replace a member. The spare is claimed in this transaction, so nobody else can take it.
pub fn replace(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    wish: &Wish,
) -> Result<Operation, Refusal> {
    let super_node = find_for_change(tx, intent, id_or_name)?;
    let mut round = Round::of(tx, intent)?;
    let plan = choose(&round.snapshot, &super_node, wish)?;
    let kind = OperationKind::NodeReplace {
        admission: wish.test.admission(&intent.settings),
        mode: wish.mode,
    };
    let operation = operation::begin(intent, kind, Some(super_node.id.clone()), wish.deadline);
    let because = "named in the request".into();
    let operation = begin(&mut round, operation, &plan.joins, plan.leaves, because)?;
    tell_untested(&mut round, intent, &super_node, &operation, wish.test)?;
    round.finish()?;
    Ok(operation)
}

/// Says who replaces quarantined members from now on.
pub(crate) fn set_replacement(
    tx: &mut Tx<'_>,
    intent: &Intent,
    super_node: &mut SuperNode,
    replacement: Replacement,
) -> Result<(), StoreError> {
    if super_node.replacement == replacement {
        return Ok(());
    }
    super_node.replacement = replacement;
    let event = NewEvent {
        kind: "super_node.replacement_changed",
        severity: Severity::Info,
        message: format!(
            "quarantined members of super node {} are replaced {} from now on",
            super_node.name,
            match replacement {
                Replacement::Manual => "by operators",
                Replacement::Automatic => "by spares, as soon as there are any",
            }
        ),
        subjects: Subjects {
            super_node: Some(super_node.id.clone()),
            ..Subjects::default()
        },
    };
    crate::notify::tell(tx, &event, intent.now)
}

/// The operation that nobody asked for, with its targets to come.
pub(crate) fn automatic(
    now: Timestamp,
    entropy: &dyn Entropy,
    super_node: SuperNodeId,
    admission: Admission,
) -> Operation {
    let kind = OperationKind::NodeReplace {
        admission,
        mode: DrainMode::Wait,
    };
    let actor = "supernode (automatic replacement)".into();
    operation::begin_at(now, entropy, actor, kind, Some(super_node), PATIENCE)
}

/// Writes the operation down and claims the spare.
pub(crate) fn begin(
    round: &mut Round<'_, '_>,
    mut operation: Operation,
    joins: &Choice,
    leaves: NodeId,
    because: String,
) -> Result<Operation, StoreError> {
    let spare = Some(joins.node.clone());
    operation::add_target(&mut operation, spare, None, joins.because.as_str());
    operation::add_target(&mut operation, Some(leaves), None, because);
    round.insert_operation(operation.clone())?;
    if let Some(super_node) = &operation.super_node {
        round.claim(&joins.node, super_node, &operation.id)?;
    }
    Ok(operation)
}

fn choose(snapshot: &Snapshot, super_node: &SuperNode, wish: &Wish) -> Result<Plan, Refusal> {
    let leaver = find_member(snapshot, super_node, &wish.node)?;
    if let NodePolicy::Draining { operation, .. } = &leaver.policy {
        return Err(Refusal::Conflict(format!(
            "node {} is being drained by {operation}; wait for it or cancel it first",
            leaver.name
        )));
    }
    if let Some(other) = replaces(snapshot, &leaver.id) {
        return Err(Refusal::Conflict(format!(
            "node {} is being replaced by {}; wait for it or cancel it first",
            leaver.name, other.id
        )));
    }
    let existing: Vec<&Node> = snapshot.listed(&super_node.id).collect();
    let hyperplane = super_node.hyperplane.as_deref();
    let joins = match &wish.with {
        Some(name) => {
            let named = [find_node(snapshot, name)?];
            check_named(snapshot, &super_node.spec, hyperplane, &existing, &named)
                .map_err(|unusable| Refusal::SpecMismatch(unusable.to_string()))?
        }
        None => choose_spares(snapshot, &super_node.spec, hyperplane, &existing, 1)
            .map_err(|shortage| not_enough(&shortage))?,
    };
    let joins = joins.into_iter().next();
    let affected_jobs = refuse_busy(snapshot, std::slice::from_ref(&leaver.id), wish.mode)?;
    Ok(Plan {
        leaves: leaver.id.clone(),
        joins: joins.ok_or_else(|| Refusal::Invalid("no spare was chosen".into()))?,
        members: u32::try_from(existing.len()).unwrap_or(u32::MAX),
        affected_jobs,
    })
}

/// The operation that replaces a member already.
fn replaces<'a>(snapshot: &'a Snapshot, node: &NodeId) -> Option<&'a Operation> {
    let open = &mut snapshot.operations.values();
    open.find(|operation| {
        let mut leaving = operation.targets.iter().skip(1);
        matches!(operation.kind, OperationKind::NodeReplace { .. })
            && leaving.any(|target| target.node.as_ref() == Some(node))
    })
}
