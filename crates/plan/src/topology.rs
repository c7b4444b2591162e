//! Which nodes of several equally allowed ones: fewest racks, then fewest leaves, then the best fit, then health, then names.
//!
//! The number of racks is minimal: the largest are used whole until one rack can hold the rest, and of those that can, the one that
//! costs least is taken (new leaves, whole nodes broken up, nodes left over, health, name). Leaves within a rack go the same way.
//! Nodes whose rack or leaf is not known count as one group, the last.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use supernode_types::node::Node;

use crate::words;

/// A node that may be chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) node: &'a Node,
    /// Nodes with less go first; 0 for all when it does not matter.
    pub(crate) free_devices: usize,
    /// Choosing it breaks up a node that is wholly free.
    pub(crate) breaks_whole: bool,
}

impl<'a> Candidate<'a> {
    /// A node that is taken as a whole.
    pub(crate) fn whole(node: &'a Node) -> Self {
        Self {
            node,
            free_devices: 0,
            breaks_whole: false,
        }
    }
}

/// Unknown last, then by name.
type GroupKey<'a> = (bool, &'a str);

fn group_key(value: Option<&String>) -> GroupKey<'_> {
    (value.is_none(), value.map_or("", String::as_str))
}

fn rack_of(node: &Node) -> GroupKey<'_> {
    group_key(node.position.rack.as_ref())
}

fn leaf_of(node: &Node) -> GroupKey<'_> {
    group_key(node.position.leaf.as_ref())
}

/// Chooses `count` nodes, in rank order: nodes of one rack and leaf stand together. Racks and leaves of `existing` cost nothing.
pub(crate) fn select<'a>(
    mut candidates: Vec<Candidate<'a>>,
    count: usize,
    existing: &[&'a Node],
) -> Option<Vec<&'a Node>> {
    if candidates.len() < count {
        return None;
    }
    candidates.sort_by_key(|candidate| {
        (
            candidate.free_devices,
            candidate.node.health.rank(),
            &candidate.node.name,
        )
    });
    let used_racks: BTreeSet<_> = existing.iter().map(|node| rack_of(node)).collect();
    let mut used_leaves: BTreeSet<_> = existing.iter().map(|node| leaf_of(node)).collect();
    let mut chosen = Vec::with_capacity(count);
    for (rack, amount) in fill(
        group(&candidates, rack_of),
        count,
        &used_racks,
        Some(&used_leaves),
    ) {
        for (leaf, amount) in fill(group(&rack, leaf_of), amount, &used_leaves.clone(), None) {
            used_leaves.extend(leaf.first().map(|candidate| leaf_of(candidate.node)));
            chosen.extend(leaf.iter().take(amount).map(|candidate| candidate.node));
        }
    }
    in_rank_order(&mut chosen);
    Some(chosen)
}

/// Puts nodes of one rack and leaf together, by name.
pub(crate) fn in_rank_order(nodes: &mut [&Node]) {
    nodes.sort_by_key(|node| (rack_of(node), leaf_of(node), &node.name));
}

/// How many racks and leaves `nodes` are spread over.
pub(crate) fn spread(nodes: &[&Node]) -> (usize, usize) {
    let racks: BTreeSet<_> = nodes.iter().map(|node| rack_of(node)).collect();
    let leaves: BTreeSet<_> = nodes.iter().map(|node| leaf_of(node)).collect();
    (racks.len(), leaves.len())
}

/// Where `nodes` are, for people: `1 rack (r1), 2 leaves (l1, l2)`.
pub(crate) fn describe(nodes: &[&Node]) -> String {
    let part = |values: BTreeSet<&String>, one: &str, many: &str| match values.len() {
        0 => None,
        1 => Some(format!("1 {one} ({})", words::list(values.iter(), 1))),
        count => Some(format!(
            "{count} {many} ({})",
            words::list(values.iter(), 4)
        )),
    };
    let racks = part(
        nodes
            .iter()
            .filter_map(|node| node.position.rack.as_ref())
            .collect(),
        "rack",
        "racks",
    );
    let leaves = part(
        nodes
            .iter()
            .filter_map(|node| node.position.leaf.as_ref())
            .collect(),
        "leaf",
        "leaves",
    );
    let parts: Vec<String> = racks.into_iter().chain(leaves).collect();
    if parts.is_empty() {
        "fabric position not known".into()
    } else {
        parts.join(", ")
    }
}

type Group<'a> = Vec<Candidate<'a>>;

fn group<'a>(
    candidates: &[Candidate<'a>],
    key: fn(&Node) -> GroupKey<'_>,
) -> Vec<(GroupKey<'a>, Group<'a>)> {
    let mut groups: BTreeMap<GroupKey<'a>, Group<'a>> = BTreeMap::new();
    for candidate in candidates {
        groups
            .entry(key(candidate.node))
            .or_default()
            .push(*candidate);
    }
    groups.into_iter().collect()
}

/// Which groups give how many: those in use first, then as few others as possible. There are enough nodes in all.
fn fill<'a>(
    groups: Vec<(GroupKey<'a>, Group<'a>)>,
    count: usize,
    used: &BTreeSet<GroupKey<'a>>,
    used_leaves: Option<&BTreeSet<GroupKey<'a>>>,
) -> Vec<(Group<'a>, usize)> {
    let (old, new): (Vec<_>, Vec<_>) = groups.into_iter().partition(|(key, _)| used.contains(key));
    let capacity = old.iter().map(|(_, group)| group.len()).sum::<usize>();
    let mut parts = fewest(old, count.min(capacity), used_leaves);
    parts.extend(fewest(new, count - count.min(capacity), used_leaves));
    parts
}

fn fewest<'a>(
    groups: Vec<(GroupKey<'a>, Group<'a>)>,
    count: usize,
    used_leaves: Option<&BTreeSet<GroupKey<'a>>>,
) -> Vec<(Group<'a>, usize)> {
    let mut groups = groups;
    groups.sort_by_key(|(_, group)| Reverse(group.len()));
    let mut parts = Vec::new();
    let mut rest = count;
    let mut groups = groups.into_iter().peekable();
    while rest > 0 {
        let Some((_, largest)) = groups.next_if(|(_, group)| group.len() < rest) else {
            let fitting = groups.take_while(|(_, group)| group.len() >= rest);
            let best = fitting.min_by_key(|(key, group)| (cost(group, rest, used_leaves), *key));
            parts.extend(best.map(|(_, group)| (group, rest)));
            break;
        };
        rest -= largest.len();
        let amount = largest.len();
        parts.push((largest, amount));
    }
    parts
}

/// What taking `count` nodes of a group costs: new leaves, whole nodes broken up, nodes left over, bad health.
fn cost(
    group: &[Candidate<'_>],
    count: usize,
    used_leaves: Option<&BTreeSet<GroupKey<'_>>>,
) -> (usize, usize, usize, usize) {
    let taken = || group.iter().take(count);
    let breaks = taken().filter(|candidate| candidate.breaks_whole).count();
    let health = taken()
        .map(|candidate| usize::from(candidate.node.health.rank()))
        .sum();
    let leaves = used_leaves.map_or(0, |used| new_leaves(group, count, used));
    (leaves, breaks, group.len(), health)
}

/// The fewest new leaves that hold `count` nodes of a rack.
fn new_leaves(rack: &[Candidate<'_>], count: usize, used: &BTreeSet<GroupKey<'_>>) -> usize {
    let mut sizes: BTreeMap<GroupKey<'_>, usize> = BTreeMap::new();
    for candidate in rack {
        *sizes.entry(leaf_of(candidate.node)).or_default() += 1;
    }
    let free: usize = sizes
        .iter()
        .filter(|(leaf, _)| used.contains(*leaf))
        .map(|(_, size)| size)
        .sum();
    let mut new: Vec<usize> = sizes
        .iter()
        .filter(|(leaf, _)| !used.contains(*leaf))
        .map(|(_, size)| *size)
        .collect();
    new.sort_unstable_by_key(|size| Reverse(*size));
    let mut rest = count.saturating_sub(free);
    let mut leaves = 0;
    for size in new {
        if rest == 0 {
            break;
        }
        rest = rest.saturating_sub(size);
        leaves += 1;
    }
    leaves
}
