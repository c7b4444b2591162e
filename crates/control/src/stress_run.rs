//! Testing nodes: which ones, what of them, and the operation that does it; and what is known of earlier runs.

use std::time::Duration;

use supernode_plan::Snapshot;
use supernode_plan::operation::FOLLOW_UP;
use supernode_store::Tx;
use supernode_store::node::{node_get, node_update};
use supernode_store::operation::{OperationRecord, operation_list_of_kind};
use supernode_store::stress::{
    stress_baseline_delete, stress_result_list, stress_result_list_of, stress_round_list,
};
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::node::{Membership, Node, NodeHealth};
use supernode_types::operation::{Operation, OperationKind};
use supernode_types::stress::{
    Certainty, FindingKind, Item, NetworkFinding, ReplacementTry, Share, StepEvidence, StressPlan,
    StressResult, StressRun, Tier,
};
use supernode_types::{Entropy, Name, NodeId, OperationId, SuperNodeId, Timestamp};

use crate::round::Round;
use crate::scale_up::find_node;
use crate::super_node::find_for_change;
use crate::{Intent, Refusal, channel, notify, operation};

/// The longest that busy nodes are waited for.
pub(crate) const LONGEST_WINDOW: Duration = Duration::from_hours(7 * 24);
/// The longest that one kernel runs.
const LONGEST_KERNEL_SECONDS: u32 = 3600;

/// How many tests back a health is explained.
const EXPLAINED_RESULTS: usize = 5;

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Only nodes of this super node, by name or id; all full members when no node is named.
    pub super_node: Option<String>,
    /// These nodes, by name or id.
    pub nodes: Vec<String>,
    /// What of them; everything when empty.
    pub items: Vec<Item>,
    /// How much.
    pub tier: Tier,
    /// How long each kernel runs; the tier's own times when absent.
    pub kernel_seconds: Option<u32>,
    /// How many at a time.
    pub max_nodes: Share,
    /// How long busy nodes are waited for.
    pub window: Duration,
    /// Names of the channels that are told what was found.
    pub notify: Vec<Name>,
}

/// What came of one node, with its name.
#[derive(Debug, Clone)]
pub struct NamedResult {
    /// The node's name.
    pub node_name: Name,
    /// What came of it.
    pub result: StressResult,
}

/// Starts to test nodes.
pub fn stress_run(tx: &mut Tx<'_>, intent: &Intent, wish: &Wish) -> Result<Operation, Refusal> {
    let super_node = match &wish.super_node {
        Some(name) => Some(find_for_change(tx, intent, name)?.id),
        None => None,
    };
    check(wish)?;
    let notify = channel::checked_names(tx, &wish.notify)?;
    let mut round = Round::of(tx, intent)?;
    let nodes = choose(&round.snapshot, wish, super_node.as_ref())?;
    let run = StressRun {
        tier: wish.tier,
        items: whole_or(&wish.items),
        kernel_seconds: wish.kernel_seconds,
        parallel: wish.max_nodes.of(nodes.len()),
        window_ends: intent.now.plus(wish.window),
        max_age_seconds: None,
        plan: None,
        notify,
    };
    let mut operation = operation::begin(
        intent,
        OperationKind::StressRun(run),
        super_node,
        deadline(wish.window, wish.tier, wish.kernel_seconds),
    );
    let because = if wish.nodes.is_empty() {
        "member of the super node"
    } else {
        "named in the request"
    };
    for node in nodes {
        operation::add_target(&mut operation, Some(node.id), None, because);
    }
    round.insert_operation(operation.clone())?;
    round.finish()?;
    Ok(operation)
}

/// These items, each once; all when none is named.
pub(crate) fn whole_or(items: &[Item]) -> Vec<Item> {
    let mut items = if items.is_empty() {
        Item::ALL.to_vec()
    } else {
        items.to_vec()
    };
    items.sort_unstable();
    items.dedup();
    items
}

/// The run of a plan on these nodes, by name.
pub(crate) fn planned(
    plan: &StressPlan,
    nodes: Vec<(Name, NodeId)>,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Operation {
    let terms = &plan.terms;
    let window = Duration::from_secs(terms.window_seconds);
    let run = StressRun {
        tier: terms.tier,
        items: terms.items.clone(),
        kernel_seconds: None,
        parallel: terms.max_nodes.of(nodes.len()),
        window_ends: now.plus(window),
        max_age_seconds: Some(terms.max_age_seconds),
        plan: Some(plan.id.clone()),
        notify: terms.notify.clone(),
    };
    let mut operation = operation::begin_at(
        now,
        entropy,
        format!("{} ({})", plan.actor, plan.id),
        OperationKind::StressRun(run),
        Some(plan.super_node.clone()),
        deadline(window, terms.tier, None),
    );
    for (_, node) in nodes {
        operation::add_target(&mut operation, Some(node), None, "member of the super node");
    }
    operation
}

/// The last node begins when the window ends, and is tested twice at most.
fn deadline(window: Duration, tier: Tier, kernel_seconds: Option<u32>) -> Duration {
    let kernels = kernel_seconds.map_or(Duration::ZERO, |seconds| {
        let kernels = u32::try_from(4 * Item::ALL.len()).unwrap_or(u32::MAX);
        Duration::from_secs(u64::from(seconds)) * kernels
    });
    window + kernels.max(tier.limit()) * 2 + FOLLOW_UP
}

fn check(wish: &Wish) -> Result<(), Refusal> {
    if let Some(seconds) = wish.kernel_seconds
        && !(1..=LONGEST_KERNEL_SECONDS).contains(&seconds)
    {
        return Err(Refusal::Invalid(format!(
            "kernel_seconds is {seconds}; it must be between 1 and {LONGEST_KERNEL_SECONDS}"
        )));
    }
    if wish.window > LONGEST_WINDOW {
        return Err(Refusal::Invalid(format!(
            "the window is {} s; a week ({} s) is the most",
            wish.window.as_secs(),
            LONGEST_WINDOW.as_secs()
        )));
    }
    if wish.super_node.is_none() && wish.nodes.is_empty() {
        return Err(Refusal::Invalid(
            "say what to test: a super node, or nodes".into(),
        ));
    }
    Ok(())
}

fn choose(
    snapshot: &Snapshot,
    wish: &Wish,
    super_node: Option<&SuperNodeId>,
) -> Result<Vec<Node>, Refusal> {
    let mut chosen: Vec<Node> = Vec::new();
    for name in &wish.nodes {
        let node = find_node(snapshot, name)?;
        if chosen.iter().any(|known| known.id == node.id) {
            return Err(Refusal::Invalid(format!(
                "node {} is named twice",
                node.name
            )));
        }
        if super_node.is_some_and(|id| !node.membership.member_of(id)) {
            return Err(Refusal::Conflict(format!(
                "node {} is no member of the super node; name it without --super-node to test it",
                node.name
            )));
        }
        if matches!(node.membership, Membership::Leaving { .. }) {
            return Err(Refusal::Conflict(format!(
                "node {} is leaving its super node; wait until it is a spare",
                node.name
            )));
        }
        chosen.push(node.clone());
    }
    if let Some(super_node) = super_node.filter(|_| wish.nodes.is_empty()) {
        chosen.extend(snapshot.members(super_node).cloned());
        if chosen.is_empty() {
            return Err(Refusal::Conflict(
                "the super node has no full member".into(),
            ));
        }
    }
    chosen.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(chosen)
}

/// The run with this id.
pub fn find(tx: &mut Tx<'_>, id: &str) -> Result<OperationRecord, Refusal> {
    let missing = || Refusal::not_found("stress run", "stress history", id);
    let record = operation::find(tx, id).map_err(|refusal| match refusal {
        Refusal::NotFound { .. } => missing(),
        other => other,
    })?;
    match record.operation.kind {
        OperationKind::StressRun(_) => Ok(record),
        _ => Err(missing()),
    }
}

/// Runs, newest first.
pub fn list(
    tx: &mut Tx<'_>,
    super_node: Option<&SuperNodeId>,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Vec<OperationRecord>, Refusal> {
    Ok(operation_list_of_kind(
        tx,
        "stress_run",
        super_node,
        cursor,
        limit,
    )?)
}

/// What came of a run so far, by name of the node.
pub fn results(tx: &mut Tx<'_>, run: &OperationId) -> Result<Vec<NamedResult>, Refusal> {
    let mut results = Vec::new();
    for result in stress_result_list(tx, run)? {
        results.push(named(tx, result)?);
    }
    results.sort_by(|one, other| one.node_name.cmp(&other.node_name));
    Ok(results)
}

/// What came of testing a node, newest first.
pub fn results_of(tx: &mut Tx<'_>, node: &Node, limit: u32) -> Result<Vec<StressResult>, Refusal> {
    Ok(stress_result_list_of(tx, &node.id, limit)?)
}

/// Takes a node out of quarantine without a test, on an operator's word. What its parts were like is forgotten if they were repaired.
pub fn release(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    reason: &str,
    repaired: bool,
) -> Result<Node, Refusal> {
    if reason.trim().is_empty() || reason.len() > 500 || reason.contains(char::is_control) {
        return Err(Refusal::Invalid(
            "a release needs a reason of 1 to 500 characters on one line".into(),
        ));
    }
    let mut node = crate::node::find(tx, id_or_name)?;
    intent.check_generation("node", node.name.as_str(), node.generation)?;
    let (NodeHealth::Quarantined { finding } | NodeHealth::Suspect { finding }) = &node.health
    else {
        return Err(Refusal::Conflict(format!(
            "node {} is {}; only a suspect or a quarantined node is released",
            node.name,
            node.health.word()
        )));
    };
    let event = NewEvent {
        kind: "node.released",
        severity: Severity::Warning,
        message: format!(
            "node {} takes new work again, untested, because {} says: {reason} (it was {}: {finding})",
            node.name,
            intent.actor,
            node.health.word()
        ),
        subjects: Subjects {
            node: Some(node.id.clone()),
            super_node: node.membership.super_node().cloned(),
            ..Subjects::default()
        },
    };
    notify::tell(tx, &event, intent.now)?;
    node.stress.network_doubt = None;
    node.stress.replacement = None;
    if repaired {
        stress_baseline_delete(tx, &node.id)?;
    }
    node.health = NodeHealth::Unproven;
    node_update(tx, &mut node)?;
    Ok(node)
}

/// Why a node has the health that it has: the whole chain, a sentence each.
pub fn explain(node: &Node, results: &[StressResult], now: Timestamp) -> Vec<String> {
    let mut chain = vec![match &node.health {
        NodeHealth::Unproven => format!(
            "node {} is unproven: no test has said anything of it since it came or was released; it takes work",
            node.name
        ),
        NodeHealth::Proven { run } => format!(
            "node {} is proven by run {run}, {}; it takes work",
            node.name,
            node.stress.last_passed_words(now)
        ),
        NodeHealth::Suspect { finding } => format!(
            "node {} is suspect and still takes work: {finding}",
            node.name
        ),
        NodeHealth::Quarantined { finding } => format!(
            "node {} is quarantined: jobs that run on it finish, new ones are not placed: {finding}",
            node.name
        ),
    }];
    chain.extend(node.stress.replacement.as_ref().map(ReplacementTry::words));
    if let Some(work) = &node.stress.work {
        let what = match &work.pair {
            Some(task) => format!("in pair {}", task.number),
            None => format!("round {}", work.round),
        };
        chain.push(format!(
            "it is being tested by run {}, {what}",
            work.operation
        ));
    }
    for result in results.iter().take(EXPLAINED_RESULTS) {
        let detail = result.outcome.detail();
        let detail = detail.map_or(String::new(), |detail| format!(": {detail}"));
        chain.push(format!(
            "{}: run {} ({}, {} rounds) {}{detail}",
            result.ended_at,
            result.run,
            result.tier.name(),
            result.rounds,
            result.outcome.word()
        ));
        for finding in &result.findings {
            let how = match &finding.kind {
                FindingKind::Network(found) => network_words(found),
                FindingKind::Hard => {
                    "plainly wrong, whatever else went on; one time is enough".to_owned()
                }
                FindingKind::Confirmed(slower) => format!(
                    "in {} rounds, {:.1} spreads of a sound run below its past",
                    result.rounds, slower.z
                ),
                FindingKind::Doubtful(slower) => {
                    format!(
                        "once, {:.1} spreads of a sound run below its past",
                        slower.z
                    )
                }
            };
            chain.push(format!(
                "  {} ({how}; confidence {:.4})",
                finding.words, finding.confidence
            ));
        }
    }
    if node.health.rank() > 1 && node.stress.network_doubt.is_some() {
        chain.push(format!(
            "its network is doubted, so it is proven again when it passes everything together with other nodes (supernode stress run --node {}, and two others or more, or --super-node), or an operator answers for it (supernode node release {} --reason …)",
            node.name, node.name
        ));
    } else if node.health.rank() > 1 {
        chain.push(format!(
            "it is proven again when it passes everything (supernode stress run --node {}), or an operator answers for it (supernode node release {} --reason …)",
            node.name, node.name
        ));
    }
    chain
}

/// How a part of the network was found to be sick.
fn network_words(found: &NetworkFinding) -> String {
    let how = match found.certainty {
        Certainty::Confirmed => "named, and named again after another round",
        Certainty::Doubtful => "named once",
        Certainty::Ambiguous => "one of several that these nodes cannot tell apart",
    };
    let left = if found.others.is_empty() {
        String::new()
    } else {
        format!("; what else it could be: {}", found.others.join(", "))
    };
    format!("{how}, in {} flows{left}", found.flows)
}

fn named(tx: &mut Tx<'_>, result: StressResult) -> Result<NamedResult, Refusal> {
    let node = node_get(tx, &result.node)?
        .ok_or_else(|| Refusal::not_found("node", "node", result.node.as_str()))?;
    Ok(NamedResult {
        node_name: node.name,
        result,
    })
}

/// What a node measured in a run, round by round; empty where nothing is kept any more.
pub fn evidence(
    tx: &mut Tx<'_>,
    run: &OperationId,
    node: &Node,
) -> Result<Vec<Vec<StepEvidence>>, Refusal> {
    Ok(stress_round_list(tx, run, &node.id)?)
}
