//! Which queued jobs start now, where, and what the others wait for.
//!
//! Each super node has one queue: priority, then age, then id. Jobs start in that order as whole gangs. The first that cannot start
//! is *the first in line*: nodes are reserved for it ([`reservation`]), and a later job starts only on nodes outside of the
//! reservation, or when it is over before the reservation begins (EASY backfill). A job that can never run as things are says so
//! and holds nobody up. Tests on a schedule give way to the first in line ([`preemption`]). Nothing here looks at other super nodes: a node belongs to one.

mod port;
mod preemption;
mod reason;
mod reservation;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use supernode_types::job::{Job, JobState, Lease, LeaseHolder};
use supernode_types::node::{Node, NodeCondition, NodePolicy};
use supernode_types::super_node::SuperNode;
use supernode_types::{JobId, NodeId, OperationId, SuperNodeId, Timestamp};

use crate::action::Placement;
use crate::index::Index;
use crate::topology::{self, Candidate};
use crate::{Action, Limits, Snapshot, words};
use port::Ports;
pub(crate) use preemption::wanted;
use reservation::Reservation;

/// Starts, and what the rest waits for.
pub(crate) fn plan(index: &Index<'_>, limits: &Limits) -> Vec<Action> {
    let queues = queues(index);
    if queues.is_empty() {
        return Vec::new();
    }
    let ends = expected_ends(index.snapshot, limits);
    let mut ports = Ports::new(index.snapshot, limits.master_ports);
    let mut actions = Vec::new();
    for (super_node, jobs) in queues {
        let mut queue = Queue::new(index, limits, super_node, &ends);
        queue.run(&jobs, &mut ports, &mut actions);
    }
    actions
}

/// The queued jobs of each super node that has nodes, in their order. Without a node nothing runs, and an operation ends the jobs.
fn queues<'a>(index: &Index<'a>) -> Vec<(&'a SuperNode, Vec<&'a Job>)> {
    let mut queues: BTreeMap<&SuperNodeId, Vec<&Job>> = BTreeMap::new();
    for job in index.snapshot.jobs.values() {
        if matches!(job.state, JobState::Queued { .. }) && job.cancel_requested_by.is_none() {
            queues.entry(&job.super_node).or_default().push(job);
        }
    }
    let known = |(id, mut jobs): (&SuperNodeId, Vec<&'a Job>)| {
        let super_node = index.snapshot.super_nodes.get(id)?;
        jobs.sort_by(|one, other| {
            (other.spec.priority, one.submitted_at, &one.id).cmp(&(
                one.spec.priority,
                other.submitted_at,
                &other.id,
            ))
        });
        (!index.nodes_of(id).is_empty()).then_some((super_node, jobs))
    };
    queues.into_iter().filter_map(known).collect()
}

/// When each job that holds leases gives them back at the latest; `None` when nobody knows.
fn expected_ends<'a>(
    snapshot: &'a Snapshot,
    limits: &Limits,
) -> HashMap<&'a JobId, Option<Timestamp>> {
    let mut ends = HashMap::new();
    for job in snapshot.jobs.values() {
        let end = match &job.state {
            JobState::Starting { since, .. } => latest_end(job, since.plus(limits.start_timeout)),
            JobState::Running { since, .. } => latest_end(job, *since),
            JobState::Stopping { since, .. } => Some(since.plus(grace(job))),
            JobState::Queued { .. } | JobState::Ended { .. } => continue,
        };
        ends.insert(&job.id, end.map(|end| end.max(snapshot.now)));
    }
    ends
}

/// When a job that runs since `since` is gone at the latest.
fn latest_end(job: &Job, since: Timestamp) -> Option<Timestamp> {
    let limit = job.spec.time_limit_seconds?;
    Some(since.plus(Duration::from_secs(limit)).plus(grace(job)))
}

fn grace(job: &Job) -> Duration {
    Duration::from_secs(u64::from(job.spec.grace_seconds))
}

/// A full member, with what is left of it while this plan is made.
struct Slot<'a> {
    node: &'a Node,
    /// Whether new work may be placed at all.
    usable: bool,
    /// Free devices, ascending.
    free: Vec<u32>,
    /// Who holds the others, and until when.
    held: Vec<(Holder<'a>, Option<Timestamp>)>,
}

/// Who holds a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Holder<'a> {
    Job(&'a JobId),
    /// A stress run.
    Test(&'a OperationId),
}

impl<'a> Holder<'a> {
    fn of(lease: &'a Lease) -> Self {
        match &lease.holder {
            LeaseHolder::Job { job, .. } => Self::Job(job),
            LeaseHolder::Stress { operation } => Self::Test(operation),
        }
    }
}

impl std::fmt::Display for Holder<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Job(job) => write!(formatter, "{job}"),
            Self::Test(operation) => write!(formatter, "test {operation}"),
        }
    }
}

impl<'a> Slot<'a> {
    fn new(
        index: &Index<'a>,
        node: &'a Node,
        ends: &HashMap<&'a JobId, Option<Timestamp>>,
    ) -> Self {
        let leases = index.leases_on(&node.id);
        let mut taken = leases.iter().map(|lease| lease.device).peekable();
        let mut free = Vec::with_capacity(node.device_count as usize);
        for device in 0..node.device_count {
            while taken.next_if(|lease| *lease < device).is_some() {}
            if taken.peek() != Some(&device) {
                free.push(device);
            }
        }
        let held = leases
            .iter()
            .map(|lease| {
                let end = lease.job().and_then(|job| ends.get(job).copied().flatten());
                (Holder::of(lease), end)
            })
            .collect();
        Self {
            node,
            usable: usable(node),
            free,
            held,
        }
    }

    fn whole(&self) -> bool {
        self.held.is_empty()
    }
}

/// Whether a member takes new work.
fn usable(node: &Node) -> bool {
    node.policy == NodePolicy::InService
        && node.condition == NodeCondition::Ready
        && node.health.schedulable()
}

/// The queue of one super node while it is being planned.
struct Queue<'a, 'b> {
    index: &'b Index<'a>,
    limits: &'b Limits,
    super_node: &'a SuperNode,
    slots: Vec<Slot<'a>>,
    /// Devices of a whole node: what a job gets that does not say.
    whole: u32,
    /// Devices of the smallest member.
    least: u32,
}

/// Why a job does not start now.
enum Blocked {
    /// Not enough nodes among those that it may use.
    Nodes,
    /// No port for rank 0 on this address.
    Port { address: String },
}

impl<'a, 'b> Queue<'a, 'b> {
    fn new(
        index: &'b Index<'a>,
        limits: &'b Limits,
        super_node: &'a SuperNode,
        ends: &HashMap<&'a JobId, Option<Timestamp>>,
    ) -> Self {
        let slots: Vec<_> = index
            .members_of(&super_node.id)
            .map(|node| Slot::new(index, node, ends))
            .collect();
        let whole = slots
            .iter()
            .map(|slot| slot.node.device_count)
            .max()
            .unwrap_or(1);
        let least = slots
            .iter()
            .map(|slot| slot.node.device_count)
            .min()
            .unwrap_or(1);
        Self {
            index,
            limits,
            super_node,
            slots,
            whole,
            least,
        }
    }

    fn run(&mut self, jobs: &[&'a Job], ports: &mut Ports<'a>, actions: &mut Vec<Action>) {
        if self.super_node.deleting.is_some() {
            for job in jobs {
                set_reason(job, "its super node is being deleted".into(), actions);
            }
            return;
        }
        let mut first_in_line: Option<(&Job, Blocked, Reservation)> = None;
        let mut before: Option<&Job> = None;
        let (possible, impossible): (Vec<&Job>, Vec<&Job>) =
            jobs.iter().partition(|job| self.impossible(job).is_none());
        for (looked_at, job) in possible.into_iter().enumerate() {
            let ahead = first_in_line.as_ref().map(|(.., reservation)| reservation);
            let result = if looked_at < self.limits.queue_depth {
                self.start(job, ahead, ports)
            } else {
                Err(Blocked::Nodes)
            };
            match (result, before) {
                (Ok(start), _) => {
                    actions.push(start);
                    continue;
                }
                (Err(blocked), None) => {
                    let reservation = reservation::reserve(
                        &self.slots,
                        self.devices_of(job),
                        job.spec.nodes as usize,
                        self.index.snapshot.now,
                    );
                    first_in_line = Some((job, blocked, reservation));
                }
                (Err(_), Some(before)) => {
                    set_reason(job, format!("in line behind {}", before.id), actions);
                }
            }
            before = Some(job);
        }
        for job in impossible {
            set_reason(job, self.impossible(job).unwrap_or_default(), actions);
        }
        // Said last, because it names those that started after it was found to wait.
        if let Some((job, blocked, _)) = first_in_line {
            if matches!(blocked, Blocked::Nodes) {
                actions.extend(preemption::plan(self, job));
            }
            let line = match blocked {
                Blocked::Nodes => reason::first_in_line(
                    &self.slots,
                    job.spec.nodes as usize,
                    self.devices_of(job),
                ),
                Blocked::Port { address } => reason::port(&address, self.limits.master_ports),
            };
            set_reason(job, line, actions);
        }
    }

    fn devices_of(&self, job: &Job) -> usize {
        job.spec.devices.unwrap_or(self.whole) as usize
    }

    /// Why a job cannot run however long it waits.
    fn impossible(&self, job: &Job) -> Option<String> {
        let (nodes, devices) = (job.spec.nodes as usize, self.devices_of(job));
        let name = &self.super_node.name;
        if nodes == 0 || devices == 0 {
            return Some(
                "asks for nothing: cancel it and submit it with at least 1 node and 1 device"
                    .into(),
            );
        }
        if nodes > self.slots.len() {
            let (asked, members) = (
                words::count(nodes, "node"),
                words::count(self.slots.len(), "node"),
            );
            return Some(format!(
                "cannot run: it asks for {asked} and {name} has {members}; scale {name} up, or submit a smaller job"
            ));
        }
        if devices <= self.least as usize {
            return None;
        }
        let fitting = self
            .slots
            .iter()
            .filter(|slot| slot.node.device_count as usize >= devices)
            .count();
        (fitting < nodes).then(|| {
            format!(
                "cannot run: it asks for {} per node and nodes of {name} have {}",
                words::count(devices, "device"),
                self.whole
            )
        })
    }

    /// Places the whole gang, or nothing.
    fn start(
        &mut self,
        job: &'a Job,
        ahead: Option<&Reservation>,
        ports: &mut Ports<'a>,
    ) -> Result<Action, Blocked> {
        let devices = self.devices_of(job);
        let nodes = job.spec.nodes as usize;
        let now = self.index.snapshot.now;
        let end = latest_end(job, now.plus(self.limits.start_timeout));
        let allowed = |position: usize, slot: &Slot<'_>| {
            slot.usable
                && slot.free.len() >= devices
                && ahead.is_none_or(|ahead| ahead.allows(position, end))
        };
        let positions: Vec<usize> = (0..self.slots.len())
            .filter(|position| allowed(*position, &self.slots[*position]))
            .collect();
        if positions.len() < nodes {
            return Err(Blocked::Nodes);
        }
        let partial = devices < self.whole as usize;
        let candidate = |position: &usize| {
            let slot = &self.slots[*position];
            Candidate {
                node: slot.node,
                free_devices: if partial { slot.free.len() } else { 0 },
                breaks_whole: partial && slot.whole(),
            }
        };
        let chosen = topology::select(positions.iter().map(candidate).collect(), nodes, &[])
            .ok_or(Blocked::Nodes)?;
        let master = chosen.first().ok_or(Blocked::Nodes)?;
        let Some(master_port) = ports.take(&master.address, job) else {
            return Err(Blocked::Port {
                address: master.address.clone(),
            });
        };
        let chosen_because = format!(
            "{} of {} free: {}",
            words::count(nodes, "node"),
            positions.len(),
            topology::describe(&chosen)
        );
        let by_id: HashMap<&NodeId, usize> = positions
            .iter()
            .map(|position| (&self.slots[*position].node.id, *position))
            .collect();
        let mut placement = Vec::with_capacity(nodes * devices);
        for node in chosen {
            let slot = &mut self.slots[by_id[&node.id]];
            placement.extend(slot.free.drain(..devices).map(|device| Placement {
                node: node.id.clone(),
                device,
            }));
            slot.held
                .extend(std::iter::repeat_n((Holder::Job(&job.id), end), devices));
        }
        Ok(Action::Start {
            job: job.id.clone(),
            placement,
            master_port,
            chosen_because,
        })
    }
}

fn set_reason(job: &Job, reason: String, actions: &mut Vec<Action>) {
    if !matches!(&job.state, JobState::Queued { reason: present } if *present == reason) {
        actions.push(Action::SetQueueReason {
            job: job.id.clone(),
            reason,
        });
    }
}
