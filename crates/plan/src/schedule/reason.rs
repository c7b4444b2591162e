//! What the first in line waits for, in one line that changes only when the cause does.

use std::collections::{BTreeMap, BTreeSet};

use supernode_types::node::{Node, NodeCondition, NodeHealth, NodePolicy};

use super::{Holder, Slot};
use crate::words;

/// `waits for 2 of 4 nodes: 1 busy (job-…), 1 cordoned (gpu-03 by ada: fan)`.
pub(super) fn first_in_line(slots: &[Slot<'_>], nodes: usize, devices: usize) -> String {
    let free = |slot: &&Slot<'_>| slot.usable && slot.free.len() >= devices;
    let missing = nodes - slots.iter().filter(free).count().min(nodes);
    let mut busy = 0;
    let mut holders: BTreeSet<Holder<'_>> = BTreeSet::new();
    let mut others: BTreeMap<(u8, &'static str), BTreeSet<String>> = BTreeMap::new();
    for slot in slots.iter().filter(|slot| !free(slot)) {
        match out_of_service(slot.node) {
            Some((order, word, who)) => {
                others.entry((order, word)).or_default().insert(who);
            }
            None if slot.held.is_empty() => {
                others
                    .entry((9, "too small"))
                    .or_default()
                    .insert(slot.node.name.to_string());
            }
            None => {
                busy += 1;
                holders.extend(slot.held.iter().map(|(job, _)| *job));
            }
        }
    }
    let busy = (busy > 0).then(|| format!("{busy} busy ({})", words::list(holders.iter(), 3)));
    let others = others
        .iter()
        .map(|((_, word), who)| format!("{} {word} ({})", who.len(), words::list(who.iter(), 3)));
    let causes: Vec<String> = busy.into_iter().chain(others).collect();
    let what = if nodes == 1 {
        "1 node".into()
    } else {
        format!("{missing} of {nodes} nodes")
    };
    if causes.is_empty() {
        format!("waits for {what}")
    } else {
        format!("waits for {what}: {}", causes.join(", "))
    }
}

/// `waits for a free port …`.
pub(super) fn port(address: &str, (first, last): (u16, u16)) -> String {
    format!("waits for a free port for rank 0: {first} to {last} on {address} are all in use")
}

fn out_of_service(node: &Node) -> Option<(u8, &'static str, String)> {
    let name = &node.name;
    let policy = match &node.policy {
        NodePolicy::InService => None,
        NodePolicy::Cordoned(cordon) if cordon.reason.is_empty() => {
            Some((0, "cordoned", format!("{name} by {}", cordon.by)))
        }
        NodePolicy::Cordoned(cordon) => Some((
            0,
            "cordoned",
            format!("{name} by {}: {}", cordon.by, cordon.reason),
        )),
        NodePolicy::Draining { operation, .. } => {
            Some((1, "draining", format!("{name} by {operation}")))
        }
        NodePolicy::Removed => Some((2, "removed", name.to_string())),
    };
    let condition = || match &node.condition {
        NodeCondition::Ready => None,
        NodeCondition::Lost { .. } => Some((3, "lost", name.to_string())),
        NodeCondition::Degraded { why } => Some((4, "degraded", format!("{name}: {why}"))),
        NodeCondition::Joining { step } => Some((5, "not ready", format!("{name}: {step}"))),
        NodeCondition::Unknown => Some((5, "not ready", format!("{name}: not heard of yet"))),
    };
    let health = || match &node.health {
        NodeHealth::Quarantined { finding } => {
            Some((6, "quarantined", format!("{name}: {finding}")))
        }
        NodeHealth::Unproven | NodeHealth::Proven { .. } | NodeHealth::Suspect { .. } => None,
    };
    policy.or_else(condition).or_else(health)
}
