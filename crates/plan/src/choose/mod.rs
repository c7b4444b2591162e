//! Which nodes a request takes, and why each: used by requests, by their `--plan`, and again when the loop acts on them.
//!
//! Spares for one super node have its spec and its hyperplane, take work, are healthy as far as anybody knows, and are close
//! together. A new super node takes the hyperplane that serves it best. Nodes whose hyperplane is not known are used only where the
//! super node's is not known either: joining what may not be connected is refused rather than guessed. Who leaves is in
//! [`choose_leavers`].

mod leave;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use supernode_types::node::{Membership, Node, NodeCondition, NodeHealth, NodePolicy, SpecMatch};
use supernode_types::operation::TargetState;
use supernode_types::{Name, NodeId, OperationId, SpecId};

pub use leave::{BlockingJob, LeaverShortage, blocking_jobs, choose_leavers};

use crate::topology::{self, Candidate};
use crate::{Snapshot, words};

/// A chosen node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: NodeId,
    /// One line: why this one.
    pub because: String,
}

/// There are not enough spares.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} wanted, {found} usable{}", words::count(*.wanted, "spare"), excluded_text(.excluded))]
pub struct Shortage {
    /// How many are wanted.
    pub wanted: usize,
    /// How many can be had at once: [`choose_spares`] with this count succeeds.
    pub found: usize,
    /// Spares that cannot be used, by name, each with the reason.
    pub excluded: Vec<(Name, String)>,
}

fn excluded_text(excluded: &[(Name, String)]) -> String {
    if excluded.is_empty() {
        return "; there are no other spares: add nodes".into();
    }
    let list = words::list(
        excluded.iter().map(|(name, why)| format!("{name} {why}")),
        5,
    );
    format!("; not usable: {list}")
}

/// Named nodes that cannot join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", words::list(.nodes.iter().map(|(name, why)| format!("{name} {why}")), 10))]
pub struct Unusable {
    /// Each with the reason.
    pub nodes: Vec<(Name, String)>,
}

/// Chooses `count` spares of `spec` to join `existing` members (none for a new super node).
pub fn choose_spares(
    snapshot: &Snapshot,
    spec: &SpecId,
    hyperplane: Option<&str>,
    existing: &[&Node],
    count: usize,
) -> Result<Vec<Choice>, Shortage> {
    let wanted = Wanted::new(snapshot, spec, hyperplane, existing);
    let mut excluded = Vec::new();
    let mut groups: BTreeMap<Reverse<Option<&str>>, Vec<&Node>> = BTreeMap::new();
    for node in snapshot
        .nodes
        .values()
        .filter(|node| node.membership == Membership::Spare)
    {
        match wanted.refusal(node) {
            Some(why) => excluded.push((node.name.clone(), why)),
            None => groups
                .entry(Reverse(node.position.hyperplane.as_deref()))
                .or_default()
                .push(node),
        }
    }
    excluded.sort();
    let found = groups.values().map(Vec::len).max().unwrap_or(0);
    let mut best: Option<(Score, Vec<&Node>, usize)> = None;
    for (Reverse(hyperplane), spares) in groups {
        let free = spares.len();
        let Some(chosen) = select_spares(spares, count, existing) else {
            continue;
        };
        let score = score(hyperplane, &chosen, existing, free);
        if best.as_ref().is_none_or(|(least, ..)| score < *least) {
            best = Some((score, chosen, free));
        }
    }
    let Some((_, chosen, free)) = best else {
        if count == 0 {
            return Ok(Vec::new());
        }
        return Err(Shortage {
            wanted: count,
            found,
            excluded,
        });
    };
    Ok(chosen
        .iter()
        .map(|node| Choice {
            node: node.id.clone(),
            because: wanted.because(node, &chosen, free),
        })
        .collect())
}

/// Whether the hyperplane is unknown, suspects, racks, leaves, health, spares left over, name of the hyperplane: less is better.
type Score = (bool, usize, usize, usize, usize, usize, String);

fn score(hyperplane: Option<&str>, chosen: &[&Node], existing: &[&Node], free: usize) -> Score {
    let suspects = chosen.iter().filter(|node| is_suspect(node)).count();
    let all: Vec<&Node> = chosen.iter().chain(existing).copied().collect();
    let (racks, leaves) = topology::spread(&all);
    let health = chosen
        .iter()
        .map(|node| usize::from(node.health.rank()))
        .sum();
    (
        hyperplane.is_none(),
        suspects,
        racks,
        leaves,
        health,
        free,
        hyperplane.unwrap_or_default().to_owned(),
    )
}

fn is_suspect(node: &Node) -> bool {
    matches!(node.health, NodeHealth::Suspect { .. })
}

/// Suspect nodes only as far as the others are too few.
fn select_spares<'a>(
    spares: Vec<&'a Node>,
    count: usize,
    existing: &[&'a Node],
) -> Option<Vec<&'a Node>> {
    let (suspects, sound): (Vec<_>, Vec<_>) = spares.into_iter().partition(|node| is_suspect(node));
    let sound_count = count.min(sound.len());
    let candidates = |nodes: Vec<&'a Node>| nodes.into_iter().map(Candidate::whole).collect();
    let mut chosen = topology::select(candidates(sound), sound_count, existing)?;
    let near: Vec<&Node> = existing.iter().chain(&chosen).copied().collect();
    chosen.extend(topology::select(
        candidates(suspects),
        count - sound_count,
        &near,
    )?);
    topology::in_rank_order(&mut chosen);
    Some(chosen)
}

/// Checks spares that a request names; the reasons of all that cannot join come together.
pub fn check_named(
    snapshot: &Snapshot,
    spec: &SpecId,
    hyperplane: Option<&str>,
    existing: &[&Node],
    named: &[&Node],
) -> Result<Vec<Choice>, Unusable> {
    let mut wanted = Wanted::new(snapshot, spec, hyperplane, existing);
    if existing.is_empty() && wanted.hyperplane.is_none() {
        // The first one says where a new super node is.
        wanted.hyperplane = named
            .first()
            .and_then(|node| node.position.hyperplane.as_deref());
        wanted.fresh = false;
    }
    let mut seen = BTreeSet::new();
    let mut nodes = Vec::new();
    for node in named {
        let why = if seen.insert(&node.id) {
            wanted.refusal_as_named(node)
        } else {
            Some("is named twice".into())
        };
        nodes.extend(why.map(|why| (node.name.clone(), why)));
    }
    if nodes.is_empty() {
        Ok(named
            .iter()
            .map(|node| Choice {
                node: node.id.clone(),
                because: "named in the request".into(),
            })
            .collect())
    } else {
        Err(Unusable { nodes })
    }
}

/// What a node must be to join.
struct Wanted<'a> {
    snapshot: &'a Snapshot,
    spec: &'a SpecId,
    hyperplane: Option<&'a str>,
    /// A new super node without a place yet: any hyperplane will do.
    fresh: bool,
    existing: &'a [&'a Node],
    targeted: HashMap<&'a NodeId, &'a OperationId>,
}

impl<'a> Wanted<'a> {
    fn new(
        snapshot: &'a Snapshot,
        spec: &'a SpecId,
        hyperplane: Option<&'a str>,
        existing: &'a [&'a Node],
    ) -> Self {
        let hyperplane = hyperplane.or_else(|| {
            existing
                .iter()
                .find_map(|node| node.position.hyperplane.as_deref())
        });
        let mut targeted = HashMap::new();
        for operation in snapshot.operations.values() {
            for target in operation
                .targets
                .iter()
                .filter(|target| matches!(target.state, TargetState::Active { .. }))
            {
                targeted.extend(target.node.as_ref().map(|node| (node, &operation.id)));
            }
        }
        Self {
            snapshot,
            spec,
            hyperplane,
            fresh: existing.is_empty() && hyperplane.is_none(),
            existing,
            targeted,
        }
    }

    /// Why a node that is no spare, or an unusable one, cannot join.
    fn refusal_as_named(&self, node: &Node) -> Option<String> {
        let Some(super_node) = node.membership.super_node() else {
            return self.refusal(node);
        };
        let name = self
            .snapshot
            .super_nodes
            .get(super_node)
            .map_or_else(|| super_node.to_string(), |found| found.name.to_string());
        let word = match &node.membership {
            Membership::Spare | Membership::Member { .. } => "belongs to",
            Membership::Joining { .. } => "is joining",
            Membership::Leaving { .. } => "is still leaving",
        };
        Some(format!("{word} super node {name}"))
    }

    /// Why a spare cannot join; reads on after its name.
    fn refusal(&self, node: &Node) -> Option<String> {
        if let Some(operation) = self.targeted.get(&node.id) {
            return Some(format!("is already wanted by {operation}"));
        }
        standing(node)
            .or_else(|| condition(node))
            .or_else(|| spec_mismatch(self.snapshot, node, self.spec))
            .or_else(|| self.misplaced(node))
    }

    fn misplaced(&self, node: &Node) -> Option<String> {
        if self.fresh {
            None
        } else {
            misplaced(node, self.hyperplane)
        }
    }

    fn because(&self, node: &Node, chosen: &[&Node], free: usize) -> String {
        let spec = self
            .snapshot
            .specs
            .get(self.spec)
            .map_or_else(|| self.spec.to_string(), |spec| spec.name.to_string());
        let mut parts = vec![format!("spare of spec {spec}, one of {} usable", free)];
        let place = &node.position;
        parts.extend(
            place
                .hyperplane
                .as_ref()
                .map(|hyperplane| format!("hyperplane {hyperplane}")),
        );
        let near = |nodes: &[&Node]| {
            nodes
                .iter()
                .filter(|other| other.id != node.id && other.position.rack == place.rack)
                .count()
        };
        parts.extend(
            place
                .rack
                .as_ref()
                .map(|rack| match (near(self.existing), near(chosen)) {
                    (0, 0) => format!("rack {rack}"),
                    (0, peers) => format!("rack {rack} with {peers} more of the chosen"),
                    (members, _) => format!(
                        "rack {rack} with {} of the super node",
                        words::count(members, "node")
                    ),
                }),
        );
        parts.extend(place.leaf.as_ref().map(|leaf| format!("leaf {leaf}")));
        parts.push(format!("health {}", node.health.word()));
        parts.join(", ")
    }
}

/// Why an operator's wish or a finding keeps `node` from joining anything.
pub(crate) fn standing(node: &Node) -> Option<String> {
    match &node.policy {
        NodePolicy::InService => {}
        NodePolicy::Cordoned(cordon) => {
            let reason = if cordon.reason.is_empty() {
                String::new()
            } else {
                format!(" ({})", cordon.reason)
            };
            return Some(format!(
                "is cordoned by {}{reason}; uncordon it first",
                cordon.by
            ));
        }
        NodePolicy::Draining { operation, .. } => {
            return Some(format!("is being drained by {operation}"));
        }
        NodePolicy::Removed => return Some("was removed".into()),
    }
    match &node.health {
        NodeHealth::Quarantined { finding } => Some(format!("is quarantined: {finding}")),
        NodeHealth::Unproven | NodeHealth::Proven { .. } | NodeHealth::Suspect { .. } => None,
    }
}

/// Why what was observed keeps `node` from joining now; it may pass.
pub(crate) fn condition(node: &Node) -> Option<String> {
    match &node.condition {
        NodeCondition::Ready => None,
        NodeCondition::Lost { .. } => Some("is lost: its agent is silent".into()),
        NodeCondition::Degraded { why } => Some(format!("is degraded: {why}")),
        NodeCondition::Joining { step } => Some(format!("is not ready: {step}")),
        NodeCondition::Unknown => Some("has not reported yet".into()),
    }
}

/// Which fact of `node` is not as `spec` says.
pub(crate) fn spec_mismatch(snapshot: &Snapshot, node: &Node, spec: &SpecId) -> Option<String> {
    let name = |spec: &SpecId| {
        snapshot
            .specs
            .get(spec)
            .map_or_else(|| spec.to_string(), |found| found.name.to_string())
    };
    match &node.spec {
        SpecMatch::Matches { spec: found } if found == spec => None,
        SpecMatch::Matches { spec: found } => {
            Some(format!("matches spec {}, not {}", name(found), name(spec)))
        }
        SpecMatch::Unknown => Some(format!("is not known to match spec {}", name(spec))),
        SpecMatch::Differs { differences } => {
            let why = words::first_and_more(differences).unwrap_or_else(|| "no spec fits".into());
            Some(format!("does not match spec {}: {why}", name(spec)))
        }
    }
}

/// Why `node` is in the wrong place for a super node in `hyperplane`.
pub(crate) fn misplaced(node: &Node, hyperplane: Option<&str>) -> Option<String> {
    match (node.position.hyperplane.as_deref(), hyperplane) {
        (found, wanted) if found == wanted => None,
        (Some(found), Some(wanted)) => Some(format!("is in hyperplane {found}, not {wanted}")),
        (None, Some(wanted)) => Some(format!(
            "must be in hyperplane {wanted}, but where it is is not known; label it"
        )),
        (Some(found), None) => Some(format!(
            "is in hyperplane {found}, but where the super node is is not known; label its nodes"
        )),
        (None, None) => None,
    }
}
