//! Growing system disks. The provisioner grows the devices, the agents do the rest; this gives them their turns and judges.
//!
//! ```text
//!  not begun --its turn (loop)--> device: the provisioner --grown--> the agent's steps --all done--> Done
//!                                     |  refused                         |  a layer cannot     \--needs a restart-\
//!                                     v                                  v                                        v
//!                                   Failed                             Failed <--not allowed, jobs (refuse)-- drained, restarted,
//!                                                                                                      then the agent's steps again
//! ```
//! Growth is forward-only: what has begun goes on, also after a cancel, which only keeps the others from beginning. Nodes begin all at
//! once, because online growth disturbs nobody; those that have to restart do it a few at a time. With `fail_fast` they begin a few
//! at a time, too, so that there is something left to hold back. A node that was restarted and needs a restart again has failed: it
//! is not restarted for ever.

use supernode_types::disk::{
    DeviceGrowth, DiskReportState, DiskWork, StepReport, StepState, size_words,
};
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::node::Node;
use supernode_types::operation::{
    DiskExpansion, Operation, OperationState, RestartConsent, Target, TargetState,
};
use supernode_types::super_node::DrainMode;

use super::{GivenUp, Planner, active, drained_by, failed};
use crate::{Action, words};

pub(super) fn plan<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    expansion: &'a DiskExpansion,
) {
    let mut turns = Turns::look(planner, operation, expansion);
    let mut states = Vec::with_capacity(operation.targets.len());
    for target in &operation.targets {
        let state = match &target.state {
            TargetState::Active { .. } => {
                advance(planner, operation, expansion, target, &mut turns)
            }
            ended => ended.clone(),
        };
        turns.failed |= matches!(state, TargetState::Failed { .. });
        states.push(state);
    }
    planner.record(operation, &states);
    if let Some(waits_for) = planner.waits_for(operation, &states) {
        planner.wait(operation, waits_for);
        return;
    }
    let failures = planner.failures(operation, &states);
    let tally = Planner::tally(&states, "expanded");
    planner.set(
        operation,
        match planner.given_up(operation) {
            _ if failures.is_empty() => OperationState::Succeeded,
            Some(GivenUp::Cancelled) => OperationState::Cancelled {
                detail: format!("{tally}; {failures}"),
            },
            _ => OperationState::Failed {
                reason: format!("{tally}; {failures}"),
            },
        },
    );
}

/// How many nodes may still take a turn.
struct Turns {
    in_work: usize,
    restarting: usize,
    limit: usize,
    failed: bool,
}

impl Turns {
    fn look(planner: &Planner<'_, '_>, operation: &Operation, expansion: &DiskExpansion) -> Self {
        let nodes = || {
            operation
                .targets
                .iter()
                .filter_map(|target| planner.node(target))
        };
        Self {
            in_work: nodes()
                .filter(|node| work_of(node, operation).is_some())
                .count(),
            restarting: nodes().filter(|node| drained_by(node, operation)).count(),
            limit: usize::try_from(expansion.parallel.max(1)).unwrap_or(usize::MAX),
            failed: operation
                .targets
                .iter()
                .any(|target| matches!(target.state, TargetState::Failed { .. })),
        }
    }
}

fn work_of<'a>(node: &'a Node, operation: &Operation) -> Option<&'a DiskWork> {
    let work = node.disk.work.as_ref();
    work.filter(|work| work.operation == operation.id)
}

fn advance<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    expansion: &DiskExpansion,
    target: &'a Target,
    turns: &mut Turns,
) -> TargetState {
    let Some(node) = planner.node(target) else {
        return failed("it was removed");
    };
    let Some(work) = work_of(node, operation) else {
        return begin(planner, operation, expansion, node, turns);
    };
    let steps = work
        .report
        .as_ref()
        .map(|report| told(&target.steps, &report.steps));
    if let Some(steps) = steps.filter(|steps| *steps != target.steps) {
        planner.actions.push(Action::SetTargetSteps {
            operation: operation.id.clone(),
            slot: target.slot,
            steps,
        });
    }
    let state = judge(planner, operation, expansion, node, work, turns);
    let state = match state {
        TargetState::Active { step } if planner.index.snapshot.now >= operation.deadline => {
            failed(format!("the deadline passed; {step}"))
        }
        state => state,
    };
    match &state {
        TargetState::Active { .. } => return state,
        TargetState::Done => planner.actions.push(Action::Tell(NewEvent {
            kind: "node.disk_expanded",
            severity: Severity::Info,
            message: format!(
                "the system disk of {} has {} now",
                node.name,
                size_words(work.size_bytes)
            ),
            subjects: Subjects {
                node: Some(node.id.clone()),
                super_node: node.membership.super_node().cloned(),
                operation: Some(operation.id.clone()),
                ..Subjects::default()
            },
        })),
        TargetState::Failed { .. } => {}
    }
    set(planner, node, None);
    planner.put_back(operation, node);
    state
}

/// What an agent says of its steps, with what was known before: a device that grew before the agent looked was smaller.
fn told(known: &[StepReport], said: &[StepReport]) -> Vec<StepReport> {
    // It has only begun, and has looked at nothing yet.
    if said.is_empty() {
        return known.to_vec();
    }
    let mut steps = said.to_vec();
    for step in &mut steps {
        let same =
            |known: &&StepReport| (&known.layer, &known.subject) == (&step.layer, &step.subject);
        let before = known.iter().find(same).and_then(|known| known.before_bytes);
        step.before_bytes = match (before, step.before_bytes) {
            (Some(before), Some(said)) => Some(before.min(said)),
            (before, said) => said.or(before),
        };
    }
    steps
}

fn set(planner: &mut Planner<'_, '_>, node: &Node, work: Option<DiskWork>) {
    planner.actions.push(Action::SetDisk {
        node: node.id.clone(),
        work: work.map(Box::new),
    });
}

fn begin(
    planner: &mut Planner<'_, '_>,
    operation: &Operation,
    expansion: &DiskExpansion,
    node: &Node,
    turns: &mut Turns,
) -> TargetState {
    if let Some(cause) = planner.given_up(operation) {
        return failed(format!("not begun: {}", cause.words()));
    }
    if expansion.fail_fast && turns.failed {
        return failed("not begun: another node failed, and --fail-fast was asked for");
    }
    if let Some(other) = &node.disk.work {
        return active(format!("waits for {}", other.operation));
    }
    if expansion.fail_fast && turns.in_work >= turns.limit {
        return active(format!("waits for its turn, {} at a time", turns.limit));
    }
    turns.in_work += 1;
    let device = DeviceGrowth::Growing {
        calls: 0,
        next_call_at: planner.index.snapshot.now,
        message: String::new(),
    };
    let work = DiskWork {
        operation: operation.id.clone(),
        size_bytes: expansion.size_bytes,
        device,
        restart: None,
        report: None,
    };
    set(planner, node, Some(work));
    active("device: its provisioner is asked")
}

/// Where a node that has begun stands.
fn judge(
    planner: &mut Planner<'_, '_>,
    operation: &Operation,
    expansion: &DiskExpansion,
    node: &Node,
    work: &DiskWork,
    turns: &mut Turns,
) -> TargetState {
    match &work.device {
        DeviceGrowth::Growing { message, .. } if message.is_empty() => {
            return active("device: its provisioner is asked");
        }
        DeviceGrowth::Growing { message, .. } => return active(format!("device: {message}")),
        DeviceGrowth::Failed { reason } => return failed(format!("device: {reason}")),
        DeviceGrowth::Grown { restart: true } if work.restart.is_none() => {
            let why = "its provisioner says that the size arrives with a restart";
            return restart(planner, operation, expansion, node, work, why, turns);
        }
        DeviceGrowth::Grown { .. } => {}
    }
    let restarts = work.restart.as_deref() == Some(&node.boot_id);
    let Some(report) = &work.report else {
        return active(if restarts {
            "it restarts"
        } else {
            "waits for its agent"
        });
    };
    match &report.state {
        DiskReportState::Working => {
            let step = report
                .steps
                .iter()
                .find(|step| step.state == StepState::Running);
            active(step.map_or_else(
                || "its agent is at work".into(),
                |step| format!("{}: {}", step.layer, step.subject),
            ))
        }
        DiskReportState::Done => TargetState::Done,
        DiskReportState::Failed { layer, why } => failed(format!("{layer}: {why}")),
        DiskReportState::NeedsRestart { boot_id, .. } if *boot_id != node.boot_id => {
            active("it has restarted, and its agent goes on")
        }
        DiskReportState::NeedsRestart { why, .. } => {
            restart(planner, operation, expansion, node, work, why, turns)
        }
    }
}

/// Drains a node, then tells its agent to restart it.
fn restart(
    planner: &mut Planner<'_, '_>,
    operation: &Operation,
    expansion: &DiskExpansion,
    node: &Node,
    work: &DiskWork,
    why: &str,
    turns: &mut Turns,
) -> TargetState {
    let drain = match expansion.restart {
        RestartConsent::Allowed { drain } => drain,
        RestartConsent::Refused => {
            return failed(format!(
                "a restart is needed ({why}); run it again with --allow-restart"
            ));
        }
    };
    match &work.restart {
        Some(boot_id) if *boot_id == node.boot_id => return active("it restarts"),
        Some(_) => return failed(format!("it was restarted, and all the same: {why}")),
        None => {}
    }
    let jobs = planner.index.jobs_on(&node.id);
    if !drained_by(node, operation) {
        if drain == DrainMode::Refuse && !jobs.is_empty() {
            return failed(format!(
                "a restart is needed ({why}) and {} on it; wait for them, or use --mode wait or --mode evict",
                words::list(jobs.iter(), 3)
            ));
        }
        if turns.restarting >= turns.limit {
            return active(format!(
                "waits for its turn to restart, {} at a time",
                turns.limit
            ));
        }
        return match planner.drain(operation, node) {
            Ok(()) => {
                turns.restarting += 1;
                active("it is being drained to restart")
            }
            Err(waits) => active(waits),
        };
    }
    if !jobs.is_empty() {
        return active(format!(
            "it is being drained to restart: {} on it",
            words::list(jobs.iter(), 3)
        ));
    }
    let work = DiskWork {
        restart: Some(node.boot_id.clone()),
        ..work.clone()
    };
    set(planner, node, Some(work));
    active("it restarts")
}
