//! Adding nodes: which ones, and the operation that makes them join.

use std::time::Duration;

use supernode_plan::Snapshot;
use supernode_plan::choose::{Choice, Shortage, check_named, choose_spares};
use supernode_store::provision::provision_insert;
use supernode_store::{StoreError, Tx};
use supernode_types::event::{Severity, Subjects};
use supernode_types::node::Node;
use supernode_types::operation::{
    Admission, Operation, OperationKind, Provision, ProvisionState, TargetState,
};
use supernode_types::super_node::SuperNode;
use supernode_types::{OperationId, ProvisionId, SpecId, SuperNodeId};

use crate::provisioner::Provisioner;
use crate::round::Round;
use crate::super_node::find_for_change;
use crate::{Intent, Refusal, Settings, operation};

/// Which nodes a request wants.
#[derive(Debug, Clone)]
pub enum Selection {
    /// So many more.
    Count(u32),
    /// So many in all.
    To(u32),
    /// These spares, by name or id.
    Named(Vec<String>),
}

/// Whether new nodes are tested before they join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// As the server's settings say.
    AsSet,
    /// They are not.
    Skipped,
}

impl Test {
    /// What the nodes have to pass.
    pub(crate) fn admission(self, settings: &Settings) -> Admission {
        match self {
            Self::AsSet => settings.admission,
            Self::Skipped => Admission::None,
        }
    }
}

/// What a scale-up would do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Spares, each with the reason.
    pub nodes: Vec<Choice>,
    /// How many nodes the provisioner has to make.
    pub provisioned: u32,
    /// Members before, joining ones included.
    pub members_before: u32,
}

impl Plan {
    /// Members after.
    pub fn members_after(&self) -> u32 {
        self.members_before + self.added()
    }

    fn added(&self) -> u32 {
        u32::try_from(self.nodes.len())
            .unwrap_or(u32::MAX)
            .saturating_add(self.provisioned)
    }
}

/// What scaling up would do.
pub fn plan(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    selection: &Selection,
) -> Result<Plan, Refusal> {
    let super_node = find_for_change(tx, intent, id_or_name)?;
    let round = Round::of(tx, intent)?;
    choose(
        &round.snapshot,
        &intent.settings,
        &super_node.spec,
        Some(&super_node.id),
        selection,
    )
}

/// Starts to add nodes: spares are claimed in this transaction, so nobody else can take them.
pub fn scale_up(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    selection: &Selection,
    test: Test,
    deadline: Duration,
) -> Result<Operation, Refusal> {
    let super_node = find_for_change(tx, intent, id_or_name)?;
    let admission = test.admission(&intent.settings);
    let mut round = Round::of(tx, intent)?;
    let plan = choose(
        &round.snapshot,
        &intent.settings,
        &super_node.spec,
        Some(&super_node.id),
        selection,
    )?;
    let operation = begin(
        &mut round,
        intent,
        OperationKind::ScaleUp { admission },
        &super_node.id,
        &plan,
        deadline,
    )?;
    tell_untested(&mut round, intent, &super_node, &operation, test)?;
    round.finish()?;
    Ok(operation)
}

/// Tells people of nodes that join without the test that the settings ask for.
pub(crate) fn tell_untested(
    round: &mut Round<'_, '_>,
    intent: &Intent,
    super_node: &SuperNode,
    operation: &Operation,
    test: Test,
) -> Result<(), StoreError> {
    if test.admission(&intent.settings) == intent.settings.admission {
        return Ok(());
    }
    let message = format!(
        "nodes join super node {} untested, because {} asked for it",
        super_node.name, intent.actor
    );
    let subjects = Subjects {
        super_node: Some(super_node.id.clone()),
        operation: Some(operation.id.clone()),
        ..Subjects::default()
    };
    let kind = "super_node.admission_skipped";
    round.tell(kind, Severity::Warning, message, subjects)
}

/// Chooses the nodes. Pure: `--plan` and the real thing cannot differ.
pub(crate) fn choose(
    snapshot: &Snapshot,
    settings: &Settings,
    spec: &SpecId,
    super_node: Option<&SuperNodeId>,
    selection: &Selection,
) -> Result<Plan, Refusal> {
    let existing: Vec<&Node> = super_node
        .map(|id| snapshot.listed(id).collect())
        .unwrap_or_default();
    let pending = super_node.map_or(0, |id| pending_provisions(snapshot, id));
    let before = u32::try_from(existing.len()).unwrap_or(u32::MAX) + pending;
    let hyperplane = super_node
        .and_then(|id| snapshot.super_nodes.get(id))
        .and_then(|found| found.hyperplane.as_deref());
    let wanted = match selection {
        Selection::Count(0) => {
            return Err(Refusal::Invalid(
                "count is 0; ask for at least one node".into(),
            ));
        }
        Selection::Count(count) => *count,
        Selection::To(to) if *to <= before => {
            return Err(Refusal::Invalid(format!(
                "the super node has {before} nodes already (joining ones included); use scale-down for fewer"
            )));
        }
        Selection::To(to) => to - before,
        Selection::Named(names) if names.is_empty() => {
            return Err(Refusal::Invalid(
                "name at least one node, or give a count".into(),
            ));
        }
        Selection::Named(names) => u32::try_from(names.len()).unwrap_or(u32::MAX),
    };
    check_maximum(snapshot, spec, before, wanted)?;
    let (nodes, provisioned) = match selection {
        Selection::Named(names) => {
            let wanted = names
                .iter()
                .map(|name| find_node(snapshot, name))
                .collect::<Result<Vec<_>, _>>()?;
            let choices = check_named(snapshot, spec, hyperplane, &existing, &wanted)
                .map_err(|unusable| Refusal::SpecMismatch(unusable.to_string()))?;
            (choices, 0)
        }
        Selection::Count(_) | Selection::To(_) => {
            choose_by_count(snapshot, settings, spec, hyperplane, &existing, wanted)?
        }
    };
    Ok(Plan {
        nodes,
        provisioned,
        members_before: before,
    })
}

fn pending_provisions(snapshot: &Snapshot, super_node: &SuperNodeId) -> u32 {
    let open = snapshot
        .operations
        .values()
        .filter(|operation| operation.super_node.as_ref() == Some(super_node));
    let targets = open.flat_map(|operation| &operation.targets);
    let pending = targets
        .filter(|target| {
            target.node.is_none() && matches!(target.state, TargetState::Active { .. })
        })
        .count();
    u32::try_from(pending).unwrap_or(u32::MAX)
}

fn check_maximum(
    snapshot: &Snapshot,
    spec: &SpecId,
    before: u32,
    wanted: u32,
) -> Result<(), Refusal> {
    let Some(limit) = snapshot.specs.get(spec) else {
        return Ok(());
    };
    if before.saturating_add(wanted) > limit.maximum_nodes {
        return Err(Refusal::OverMaximum(format!(
            "{before} + {wanted} nodes are more than the {} that spec {} allows in one super node",
            limit.maximum_nodes, limit.name
        )));
    }
    Ok(())
}

/// The node of a snapshot with this name or id.
pub(crate) fn find_node<'a>(snapshot: &'a Snapshot, id_or_name: &str) -> Result<&'a Node, Refusal> {
    let found = snapshot
        .nodes
        .values()
        .find(|node| node.name.as_str() == id_or_name || node.id.as_str() == id_or_name);
    found.ok_or_else(|| Refusal::not_found("node", "node", id_or_name))
}

fn choose_by_count(
    snapshot: &Snapshot,
    settings: &Settings,
    spec: &SpecId,
    hyperplane: Option<&str>,
    existing: &[&Node],
    wanted: u32,
) -> Result<(Vec<Choice>, u32), Refusal> {
    let count = usize::try_from(wanted).unwrap_or(usize::MAX);
    let shortage = match choose_spares(snapshot, spec, hyperplane, existing, count) {
        Ok(choices) => return Ok((choices, 0)),
        Err(shortage) => shortage,
    };
    if settings.provisioner == Provisioner::Pool {
        return Err(not_enough(&shortage));
    }
    let choices =
        choose_spares(snapshot, spec, hyperplane, existing, shortage.found).unwrap_or_default();
    let provisioned = wanted.saturating_sub(u32::try_from(choices.len()).unwrap_or(u32::MAX));
    Ok((choices, provisioned))
}

pub(crate) fn not_enough(shortage: &Shortage) -> Refusal {
    let excluded = shortage.excluded.iter();
    Refusal::NotEnoughNodes {
        message: format!(
            "not enough spares: {shortage}. Enrol more nodes (supernode join-token create), or ask for fewer"
        ),
        excluded: excluded
            .map(|(name, why)| format!("{name} {why}"))
            .collect(),
    }
}

/// Writes the operation, claims the spares and writes the wishes for the provisioner.
pub(crate) fn begin(
    round: &mut Round<'_, '_>,
    intent: &Intent,
    kind: OperationKind,
    super_node: &SuperNodeId,
    plan: &Plan,
    deadline: Duration,
) -> Result<Operation, Refusal> {
    let mut operation = operation::begin(intent, kind, Some(super_node.clone()), deadline);
    for choice in &plan.nodes {
        let node = Some(choice.node.clone());
        operation::add_target(&mut operation, node, None, choice.because.as_str());
    }
    for _ in 0..plan.provisioned {
        let provision = ProvisionId::new(intent.now, &*intent.entropy);
        let because = "made by the provisioner, because there are not enough spares";
        operation::add_target(&mut operation, None, Some(provision), because);
    }
    round.insert_operation(operation.clone())?;
    for choice in &plan.nodes {
        round.claim(&choice.node, super_node, &operation.id)?;
    }
    for provision in operation
        .targets
        .iter()
        .filter_map(|target| target.provision.as_ref())
    {
        let wish = wish(intent, provision, &operation.id, super_node);
        provision_insert(round.tx(), &wish)?;
    }
    Ok(operation)
}

/// The wish for one node; its join tokens are made when the provisioner is called.
fn wish(
    intent: &Intent,
    id: &ProvisionId,
    operation: &OperationId,
    super_node: &SuperNodeId,
) -> Provision {
    let suffix = &id.as_str()[id.as_str().len() - 8..];
    Provision {
        id: id.clone(),
        operation: operation.clone(),
        super_node: super_node.clone(),
        node_name: format!("node-{suffix}"),
        node: None,
        state: ProvisionState::Creating {
            message: "not called yet".into(),
        },
        calls: 0,
        next_call_at: intent.now,
    }
}
