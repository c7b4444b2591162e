//! Tests on a schedule give way to the first in line: those that are in its way are stopped, and none begins where it could start.
//!
//! A test that is stopped is *incomplete*, and its node is tested the next time. So that a node which is always busy is tested all the
//! same, the test of one whose last proof is too old gives way to nobody. What an operator began by hand never does.

use std::collections::HashMap;

use supernode_types::job::Job;
use supernode_types::operation::OperationKind;
use supernode_types::{JobId, NodeId, OperationId};

use super::{Holder, Queue, Slot, queues};
use crate::index::Index;
use crate::{Action, Limits};

/// Stops as few tests as make room for `job`; none, if that would not be enough.
pub(super) fn plan(queue: &Queue<'_, '_>, job: &Job) -> Vec<Action> {
    let devices = queue.devices_of(job);
    let slots = queue.slots.iter().filter(|slot| slot.usable);
    let (free, held): (Vec<_>, Vec<_>) = slots.partition(|slot| slot.free.len() >= devices);
    let missing = (job.spec.nodes as usize).saturating_sub(free.len());
    let mut tested: Vec<&Slot<'_>> = held
        .into_iter()
        .filter(|slot| gives_way(queue.index, slot))
        .collect();
    if tested.len() < missing {
        return Vec::new();
    }
    let told = |slot: &Slot<'_>| {
        let work = slot.node.stress.work.as_ref();
        work.is_some_and(|work| work.stop.is_some())
    };
    tested.sort_by_key(|slot| (!told(slot), &slot.node.name));
    let stopped = tested.into_iter().take(missing);
    stopped
        .filter(|slot| !told(slot))
        .map(|slot| Action::StopStress {
            node: slot.node.id.clone(),
            why: format!("{} needs the node", job.id),
        })
        .collect()
}

/// Free nodes on which the first in line could start, or could if tests gave way, with that job.
pub(crate) fn wanted<'a>(index: &Index<'a>, limits: &Limits) -> HashMap<&'a NodeId, &'a JobId> {
    let mut wanted = HashMap::new();
    let ends = HashMap::new();
    for (super_node, jobs) in queues(index) {
        let queue = Queue::new(index, limits, super_node, &ends);
        let Some(job) = jobs.into_iter().find(|job| queue.impossible(job).is_none()) else {
            continue;
        };
        let devices = queue.devices_of(job);
        let free = |slot: &&Slot<'_>| slot.usable && slot.free.len() >= devices;
        let given = |slot: &&Slot<'_>| slot.usable && gives_way(index, slot);
        let possible = queue.slots.iter().filter(|slot| free(slot) || given(slot));
        if possible.count() >= job.spec.nodes as usize {
            let nodes = queue.slots.iter().filter(free);
            wanted.extend(nodes.map(|slot| (&slot.node.id, &job.id)));
        }
    }
    wanted
}

/// Whether a test has all that is held of the node, and leaves it to jobs.
fn gives_way(index: &Index<'_>, slot: &Slot<'_>) -> bool {
    let leaves = |operation: &OperationId| {
        let operation = index.snapshot.operations.get(operation);
        match operation.map(|operation| &operation.kind) {
            Some(OperationKind::StressRun(run)) => {
                run.gives_way(&slot.node.stress, index.snapshot.now)
            }
            _ => false,
        }
    };
    let given = |(holder, _): &(Holder<'_>, _)| match holder {
        Holder::Test(operation) => leaves(operation),
        Holder::Job(_) => false,
    };
    !slot.held.is_empty() && slot.held.iter().all(given)
}
