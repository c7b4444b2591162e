//! Super nodes: create, rename, label, delete.

use std::collections::BTreeMap;

use supernode_store::Tx;
use supernode_store::environment::{
    EnvironmentRecord, environment_generation_next, environment_insert,
};
use supernode_store::job::job_list_active_of;
use supernode_store::super_node::{super_node_find, super_node_update};
use supernode_types::environment::EnvironmentDocument;
use supernode_types::operation::{Operation, OperationKind};
use supernode_types::super_node::{Replacement, SuperNode};
use supernode_types::{JobId, Name, NodeId, SpecId, SuperNodeId};

use crate::intent::{check_labels, check_name};
use crate::node_replace::set_replacement;
use crate::round::Round;
use crate::scale_up::{self, Selection};
use crate::{Intent, Refusal, operation, spec};

/// The super node with this name or id.
pub fn find(tx: &mut Tx<'_>, id_or_name: &str) -> Result<SuperNode, Refusal> {
    super_node_find(tx, id_or_name)?
        .ok_or_else(|| Refusal::not_found("super node", "super-node", id_or_name))
}

/// The super node with this name or id, to change it: the caller's precondition holds and nothing is deleting it.
pub(crate) fn find_for_change(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
) -> Result<SuperNode, Refusal> {
    let super_node = find(tx, id_or_name)?;
    intent.check_generation(
        "super node",
        super_node.name.as_str(),
        super_node.generation,
    )?;
    if let Some(operation) = &super_node.deleting {
        return Err(Refusal::Conflict(format!(
            "super node {} is being deleted by {operation}",
            super_node.name
        )));
    }
    Ok(super_node)
}

/// A wish for a new super node.
#[derive(Debug, Clone)]
pub struct Create {
    /// Its name.
    pub name: Name,
    /// Name or id of the spec; found from the named nodes, or the only one declared, when absent.
    pub spec: Option<String>,
    /// Which nodes.
    pub selection: Selection,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When to give up, from now.
    pub deadline: std::time::Duration,
}

/// What creating would do.
pub fn create_plan(
    tx: &mut Tx<'_>,
    intent: &Intent,
    wish: &Create,
) -> Result<scale_up::Plan, Refusal> {
    check_labels(&wish.labels)?;
    check_free(tx, &wish.name)?;
    let spec = choose_spec(tx, wish)?;
    let round = Round::of(tx, intent)?;
    scale_up::choose(
        &round.snapshot,
        &intent.settings,
        &spec,
        None,
        &wish.selection,
    )
}

/// Creates a super node: its record exists at once, its nodes join.
pub fn create(tx: &mut Tx<'_>, intent: &Intent, wish: &Create) -> Result<Operation, Refusal> {
    check_labels(&wish.labels)?;
    check_free(tx, &wish.name)?;
    let spec = choose_spec(tx, wish)?;
    let mut round = Round::of(tx, intent)?;
    let plan = scale_up::choose(
        &round.snapshot,
        &intent.settings,
        &spec,
        None,
        &wish.selection,
    )?;
    let hyperplane = plan
        .nodes
        .first()
        .and_then(|choice| round.snapshot.nodes.get(&choice.node))
        .and_then(|node| node.position.hyperplane.clone());
    let super_node = SuperNode {
        id: SuperNodeId::new(intent.now, &*intent.entropy),
        name: wish.name.clone(),
        spec,
        hyperplane,
        labels: wish.labels.clone(),
        environment_revision: 1,
        environment_generation: environment_generation_next(round.tx())?,
        retry_policy: None,
        replacement: Replacement::default(),
        deleting: None,
        generation: 1,
        created_at: intent.now,
    };
    round.insert_super_node(super_node.clone())?;
    let environment = EnvironmentRecord {
        revision: 1,
        document: EnvironmentDocument::default(),
        actor: intent.actor.clone(),
        created_at: intent.now,
    };
    environment_insert(round.tx(), &super_node.id, &environment)?;
    let operation = scale_up::begin(
        &mut round,
        intent,
        OperationKind::SuperNodeCreate,
        &super_node.id,
        &plan,
        wish.deadline,
    )?;
    round.finish()?;
    Ok(operation)
}

/// Refuses a name that another super node has.
fn check_free(tx: &mut Tx<'_>, name: &Name) -> Result<(), Refusal> {
    check_name::<SuperNodeId>(name)?;
    match super_node_find(tx, name.as_str())? {
        Some(_) => Err(Refusal::AlreadyExists(format!(
            "there is a super node named {name} already; choose another name"
        ))),
        None => Ok(()),
    }
}

/// The spec of a new super node: named, or that of the named nodes, or the only one there is.
fn choose_spec(tx: &mut Tx<'_>, wish: &Create) -> Result<SpecId, Refusal> {
    if let Some(name) = &wish.spec {
        return Ok(spec::find(tx, name)?.id);
    }
    if let Selection::Named(names) = &wish.selection
        && let Some(first) = names.first()
    {
        let node = crate::node::find(tx, first)?;
        return node.spec.spec().cloned().ok_or_else(|| {
            Refusal::SpecMismatch(format!("node {first} matches no declared spec; declare one with: supernode spec declare NAME --from-node {first}"))
        });
    }
    let mut specs = supernode_store::spec::spec_list(tx)?;
    match specs.len() {
        1 => Ok(specs.remove(0).id),
        0 => Err(Refusal::Conflict(
            "no spec is declared; declare one with: supernode spec declare NAME --from-node NODE"
                .into(),
        )),
        _ => {
            let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
            Err(Refusal::Invalid(format!(
                "several specs are declared ({}); say which one with --spec",
                names.join(", ")
            )))
        }
    }
}

/// What is to change; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// The new name.
    pub name: Option<Name>,
    /// All labels from now on.
    pub labels: Option<BTreeMap<String, String>>,
    /// Who replaces quarantined members from now on.
    pub replacement: Option<Replacement>,
}

/// Changes what a super node is called and how it is kept.
pub fn update(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    wish: &Update,
) -> Result<SuperNode, Refusal> {
    let mut super_node = find_for_change(tx, intent, id_or_name)?;
    if let Some(replacement) = wish.replacement {
        set_replacement(tx, intent, &mut super_node, replacement)?;
    }
    if let Some(labels) = &wish.labels {
        check_labels(labels)?;
        super_node.labels.clone_from(labels);
    }
    if let Some(name) = &wish.name
        && *name != super_node.name
    {
        check_free(tx, name)?;
        super_node.name = name.clone();
        // The name stands in the environment of every member.
        super_node_update(tx, &mut super_node)?;
        let mut round = Round::of(tx, intent)?;
        round.environment_changed(&super_node.id)?;
        round.finish()?;
        return find(tx, super_node.id.as_str());
    }
    super_node_update(tx, &mut super_node)?;
    Ok(super_node)
}

/// Starts to delete a super node that no job uses.
pub fn delete(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    deadline: std::time::Duration,
) -> Result<Operation, Refusal> {
    let super_node = find_for_change(tx, intent, id_or_name)?;
    let jobs: Vec<JobId> = job_list_active_of(tx, &super_node.id)?
        .into_iter()
        .map(|job| job.id)
        .collect();
    if !jobs.is_empty() {
        return Err(Refusal::JobsRunning {
            message: format!(
                "super node {} has {} running or queued job(s); wait for them or cancel them first",
                super_node.name,
                jobs.len()
            ),
            jobs,
        });
    }
    let mut round = Round::of(tx, intent)?;
    if let Some(other) = round
        .snapshot
        .operations
        .values()
        .find(|operation| operation.super_node.as_ref() == Some(&super_node.id))
    {
        return Err(Refusal::Conflict(format!(
            "{} is still working on super node {}; wait for it or cancel it first",
            other.id, super_node.name
        )));
    }
    let kind = OperationKind::SuperNodeDelete;
    let mut operation = operation::begin(intent, kind, Some(super_node.id.clone()), deadline);
    let all = round.snapshot.nodes.values();
    let members: Vec<NodeId> = all
        .filter(|node| node.membership.super_node() == Some(&super_node.id))
        .map(|node| node.id.clone())
        .collect();
    for node in members {
        round.drain(&node, &operation.id)?;
        let because = "member of the super node that is deleted";
        operation::add_target(&mut operation, Some(node), None, because);
    }
    round.super_node(&super_node.id)?.deleting = Some(operation.id.clone());
    round.insert_operation(operation.clone())?;
    round.finish()?;
    Ok(operation)
}
