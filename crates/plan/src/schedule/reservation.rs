//! What is kept free for the first in line.
//!
//! Every node that takes work is given the time at which it has the devices that the job asks for, from the time limits of what runs
//! on it. The N earliest are reserved, and the reservation begins when the last of them is free. Where that cannot be known (a job
//! without a time limit, a node out of service) the reservation has no beginning, and nobody may use its nodes.

use supernode_types::Timestamp;

use super::Slot;

/// Nodes kept for the first in line.
pub(super) struct Reservation {
    /// By position in the list of slots.
    reserved: Vec<bool>,
    /// When they are all free; `None` when nobody knows.
    begins: Option<Timestamp>,
}

impl Reservation {
    /// Whether a job that is gone by `end` may use the slot at `position`.
    pub(super) fn allows(&self, position: usize, end: Option<Timestamp>) -> bool {
        let over_before = matches!((end, self.begins), (Some(end), Some(begins)) if end <= begins);
        over_before || !self.reserved[position]
    }
}

/// Reserves `nodes` slots with `devices` each.
pub(super) fn reserve(
    slots: &[Slot<'_>],
    devices: usize,
    nodes: usize,
    now: Timestamp,
) -> Reservation {
    let mut known = Vec::new();
    let mut unknown = Vec::new();
    for (position, slot) in slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| slot.usable && slot.node.device_count as usize >= devices)
    {
        match free_at(slot, devices, now) {
            Some(time) => known.push((time, position)),
            None => unknown.push(position),
        }
    }
    known.sort_by(|(time, one), (other_time, other)| {
        (time, &slots[*one].node.name).cmp(&(other_time, &slots[*other].node.name))
    });
    let begins = nodes
        .checked_sub(1)
        .and_then(|last| known.get(last))
        .map(|(time, _)| *time);
    unknown.sort_by_key(|position| (slots[*position].held.len(), &slots[*position].node.name));
    let mut reserved = vec![false; slots.len()];
    for position in known
        .into_iter()
        .map(|(_, position)| position)
        .chain(unknown)
        .take(nodes)
    {
        reserved[position] = true;
    }
    Reservation { reserved, begins }
}

/// When a slot has `devices` free ones; `None` when nobody knows.
fn free_at(slot: &Slot<'_>, devices: usize, now: Timestamp) -> Option<Timestamp> {
    let Some(missing) = devices
        .checked_sub(slot.free.len())
        .filter(|missing| *missing > 0)
    else {
        return Some(now);
    };
    let mut ends: Vec<Timestamp> = slot.held.iter().filter_map(|(_, end)| *end).collect();
    ends.sort_unstable();
    ends.get(missing - 1).copied()
}
