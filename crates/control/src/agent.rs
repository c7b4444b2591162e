//! What an agent reported becomes fact: written only where it changed.

use supernode_store::attempt::rank_advance;
use supernode_store::environment::{environment_generation_next, environment_generation_raise};
use supernode_store::node::{inventory_get, inventory_put, node_get, node_list_of, node_update};
use supernode_store::spec::{SpecRecord, spec_list};
use supernode_store::super_node::{super_node_get, super_node_update};
use supernode_store::{StoreError, Tx};
use supernode_types::agent::{Observed, ObservedRank};
use supernode_types::disk::{DiskPressure, DiskReport, DiskReportState, DiskUsage, size_words};
use supernode_types::environment::ItemState;
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::inventory::Inventory;
use supernode_types::job::RankState;
use supernode_types::node::{Node, NodePolicy, SpecMatch};
use supernode_types::spec::{best_match, matches};
use supernode_types::{Generation, NodeId, SpecId, Timestamp};

use crate::intent::is_host;
use crate::notify;
use crate::retry_evidence;
use crate::stress_judge;

/// No real generation comes near this: what is larger is not believed, so that no agent can make a counter overflow.
const MAXIMUM_GENERATION: Generation = 1 << 52;
/// The most problems with an environment that are kept, and the most lines of a rank's output.
const MAXIMUM_LINES: usize = 50;
/// The most characters of one such line.
const MAXIMUM_LINE_CHARACTERS: usize = 500;

/// What a sync led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncOutcome {
    /// Stored.
    Stored {
        /// What the node should have; the agent is told again if it has another.
        desired_generation: Generation,
        /// Whether anything changed, so that the loop should look.
        changed: bool,
    },
    /// The node was removed: the connection has to be closed.
    Removed,
}

/// Records what the agent of `id` observed. `stored_generation` is the desired generation that the agent has.
pub fn sync(
    tx: &mut Tx<'_>,
    id: &NodeId,
    stored_generation: Generation,
    observed: Option<&Observed>,
    now: Timestamp,
) -> Result<SyncOutcome, StoreError> {
    let Some(before) = node_get(tx, id)? else {
        return Ok(SyncOutcome::Removed);
    };
    if before.policy == NodePolicy::Removed {
        return Ok(SyncOutcome::Removed);
    }
    let mut node = before.clone();
    let mut changed = false;
    if let Some(observed) = observed {
        // "Clean" counts only from an agent that knows that it should be clean: another one may just be about to apply what it was
        // told before. It says the same again when it has stored the newest wish. Generations of environments are never used twice, so
        // what an agent says of them is always as good as it is new.
        if listed(&node) || stored_generation >= node.desired_generation {
            record_environment(tx, &mut node, observed)?;
        }
        changed |= record_observed(tx, &mut node, observed, now)?;
    }
    catch_up(tx, &mut node, stored_generation)?;
    if node != before {
        node_update(tx, &mut node)?;
        changed = true;
    }
    Ok(SyncOutcome::Stored {
        desired_generation: node.desired_generation,
        changed,
    })
}

/// Whether the node should have an environment.
fn listed(node: &Node) -> bool {
    let super_node = node.membership.super_node();
    super_node.is_some_and(|super_node| node.membership.listed_in(super_node))
}

/// Takes an observation into the node's record; answers whether anything beside the record changed.
fn record_observed(
    tx: &mut Tx<'_>,
    node: &mut Node,
    observed: &Observed,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut changed = false;
    node.agent_version.clone_from(&observed.agent_version);
    if node.boot_id != observed.boot_id {
        note_restart(tx, node, now)?;
        node.boot_id.clone_from(&observed.boot_id);
    }
    // It goes into the host files of all members.
    if node.address != observed.address && is_host(&observed.address) {
        node.address.clone_from(&observed.address);
        renew_environment(tx, node)?;
    }
    if let Some(usage) = observed.disk_usage {
        record_disk_usage(tx, node, usage, now)?;
    }
    if let Some(report) = &observed.disk_expand
        && let Some(work) = &mut node.disk.work
        && work.operation == report.operation
    {
        work.report = Some(shortened_report(report));
    }
    if let Some(report) = &observed.stress {
        stress_judge::record(tx, node, report, now)?;
    }
    if let Some(inventory) = &observed.inventory {
        changed |= record_inventory(tx, node, inventory, now)?;
    }
    for ObservedRank {
        attempt,
        rank,
        state,
    } in &observed.ranks
    {
        changed |= rank_advance(tx, &node.id, attempt, *rank, &shortened(state))?;
    }
    for retries in &observed.retries {
        retry_evidence::record(tx, node, retries, now)?;
    }
    Ok(changed)
}

fn record_environment(
    tx: &mut Tx<'_>,
    node: &mut Node,
    observed: &Observed,
) -> Result<(), StoreError> {
    let problems = observed
        .environment_items
        .iter()
        .filter_map(ItemState::problem);
    node.environment_problems = problems
        .take(MAXIMUM_LINES)
        .map(|line| cut(&line))
        .collect();
    let applied = observed.environment_applied;
    if node.environment_applied == applied || !(0..MAXIMUM_GENERATION).contains(&applied) {
        return Ok(());
    }
    node.environment_applied = applied;
    // A server that was restored from a backup has forgotten the generations that it used since. What the node has is called like
    // something that is still to come, so everybody gets a new one.
    if environment_generation_raise(tx, applied)? {
        renew_environment(tx, node)?;
    }
    Ok(())
}

/// A server that was restored from a backup may know less than its agents were told; going on above them keeps "larger is newer" true.
fn catch_up(tx: &mut Tx<'_>, node: &mut Node, stored: Generation) -> Result<(), StoreError> {
    if stored > node.desired_generation && stored < MAXIMUM_GENERATION {
        node.desired_generation = stored;
        renew_environment(tx, node)?;
        node.desired_generation = stored + 1;
    }
    Ok(())
}

/// Takes in how full the system disk is, and tells people when that matters more or less than before.
fn record_disk_usage(
    tx: &mut Tx<'_>,
    node: &mut Node,
    usage: DiskUsage,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (before, after) = (node.disk.pressure, node.disk.pressure.after(usage));
    node.disk.usage = Some(usage);
    node.disk.pressure = after;
    if after == before {
        return Ok(());
    }
    let (kind, severity, advice) = match after {
        DiskPressure::Full => (
            "node.disk_full",
            Severity::Error,
            "; free space or grow it with `supernode disk expand`",
        ),
        DiskPressure::Filling if before == DiskPressure::None => (
            "node.disk_filling",
            Severity::Warning,
            "; free space or grow it with `supernode disk expand`",
        ),
        DiskPressure::Filling | DiskPressure::None => ("node.disk_relieved", Severity::Info, ""),
    };
    let message = format!(
        "the system disk of {} is {} % used ({} of {}){advice}",
        node.name,
        usage.percent(),
        size_words(usage.used_bytes),
        size_words(usage.size_bytes)
    );
    let subjects = Subjects {
        node: Some(node.id.clone()),
        super_node: node.membership.super_node().cloned(),
        ..Subjects::default()
    };
    let event = NewEvent {
        kind,
        severity,
        message,
        subjects,
    };
    notify::tell(tx, &event, now)
}

fn shortened_report(report: &DiskReport) -> DiskReport {
    let mut report = report.clone();
    report.steps.truncate(MAXIMUM_LINES);
    for step in &mut report.steps {
        step.detail = cut(&step.detail);
        step.subject = cut(&step.subject);
    }
    match &mut report.state {
        DiskReportState::NeedsRestart { why, .. } | DiskReportState::Failed { why, .. } => {
            *why = cut(why);
        }
        DiskReportState::Working | DiskReportState::Done => {}
    }
    report
}

fn shortened(state: &RankState) -> RankState {
    match state {
        RankState::Ended { end, last_lines } => {
            let surplus = last_lines.len().saturating_sub(MAXIMUM_LINES);
            RankState::Ended {
                end: end.clone(),
                last_lines: last_lines
                    .iter()
                    .skip(surplus)
                    .map(|line| cut(line))
                    .collect(),
            }
        }
        other => other.clone(),
    }
}

fn cut(line: &str) -> String {
    line.chars().take(MAXIMUM_LINE_CHARACTERS).collect()
}

fn note_restart(tx: &mut Tx<'_>, node: &Node, now: Timestamp) -> Result<(), StoreError> {
    if !node.boot_id.is_empty() {
        let subjects = Subjects {
            node: Some(node.id.clone()),
            super_node: node.membership.super_node().cloned(),
            ..Subjects::default()
        };
        let message = format!("{} was restarted", node.name);
        let event = NewEvent {
            kind: "node.restarted",
            severity: Severity::Warning,
            message,
            subjects,
        };
        notify::tell(tx, &event, now)?;
    }
    Ok(())
}

/// The environment of the node's super node is another from now on, for this node and for the other members.
fn renew_environment(tx: &mut Tx<'_>, node: &mut Node) -> Result<(), StoreError> {
    let Some(id) = node.membership.super_node().cloned() else {
        return Ok(());
    };
    if !node.membership.listed_in(&id) {
        return Ok(());
    }
    if let Some(mut super_node) = super_node_get(tx, &id)? {
        super_node.environment_generation = environment_generation_next(tx)?;
        super_node_update(tx, &mut super_node)?;
    }
    for mut other in node_list_of(tx, &id)? {
        if other.id != node.id && other.membership.listed_in(&id) {
            other.desired_generation += 1;
            node_update(tx, &mut other)?;
        }
    }
    node.desired_generation += 1;
    Ok(())
}

fn record_inventory(
    tx: &mut Tx<'_>,
    node: &mut Node,
    inventory: &Inventory,
    now: Timestamp,
) -> Result<bool, StoreError> {
    node.device_count = inventory.device_count();
    node.spec = match_node(tx, node, inventory)?;
    discover_position(node, inventory);
    if inventory_get(tx, &node.id)?.as_ref() == Some(inventory) {
        return Ok(false);
    }
    inventory_put(tx, &node.id, inventory, now)?;
    Ok(true)
}

/// The spec that a node matches. One that belongs to a super node keeps its spec as long as it fits, whatever else is declared.
pub(crate) fn match_node(
    tx: &mut Tx<'_>,
    node: &Node,
    inventory: &Inventory,
) -> Result<SpecMatch, StoreError> {
    let super_node = match node.membership.super_node() {
        Some(id) => super_node_get(tx, id)?,
        None => None,
    };
    match_spec(
        tx,
        inventory,
        super_node.map(|super_node| super_node.spec).as_ref(),
    )
}

/// The spec that an inventory matches, among all that are declared; `kept` before all others.
pub(crate) fn match_spec(
    tx: &mut Tx<'_>,
    inventory: &Inventory,
    kept: Option<&SpecId>,
) -> Result<SpecMatch, StoreError> {
    let specs = spec_list(tx)?;
    if specs.is_empty() {
        return Ok(SpecMatch::Unknown);
    }
    let kept = specs.iter().find(|spec| Some(&spec.id) == kept);
    if let Some(kept) = kept.filter(|kept| matches(&kept.definition, inventory).is_ok()) {
        return Ok(SpecMatch::Matches {
            spec: kept.id.clone(),
        });
    }
    let candidates: Vec<_> = specs
        .iter()
        .map(|spec| (spec.name.as_str(), &spec.definition))
        .collect();
    Ok(match best_match(candidates, inventory) {
        Ok(Some(name)) => specs.iter().find(|spec| spec.name.as_str() == name).map_or(
            SpecMatch::Unknown,
            |spec| SpecMatch::Matches {
                spec: spec.id.clone(),
            },
        ),
        Ok(None) => SpecMatch::Differs {
            differences: differences(kept, &specs, inventory),
        },
        Err(ambiguous) => SpecMatch::Differs {
            differences: vec![ambiguous.to_string()],
        },
    })
}

/// Which fact differs from which spec; from the spec of its super node only, where the node has one.
fn differences(
    kept: Option<&SpecRecord>,
    specs: &[SpecRecord],
    inventory: &Inventory,
) -> Vec<String> {
    let of = |spec: &SpecRecord| {
        let found = matches(&spec.definition, inventory)
            .err()
            .unwrap_or_default();
        let line = |difference| format!("spec {}: {difference}", spec.name);
        found.iter().map(line).collect::<Vec<_>>()
    };
    match kept {
        Some(kept) => of(kept),
        None => specs.iter().flat_map(of).collect(),
    }
}

/// Hardware that says in which super pod it sits beats a label that a person typed.
fn discover_position(node: &mut Node, inventory: &Inventory) {
    if let Some(super_pod) = inventory
        .accelerators
        .iter()
        .find_map(|accelerator| accelerator.super_pod_id.as_ref())
    {
        node.position.hyperplane = Some(format!("super-pod-{super_pod}"));
    }
}
