//! Open operations: what each does next, what it waits for, and how it ends.
//!
//! Each kind looks at its targets and the nodes behind them, never at what it did before: a plan made after a crash is the plan that
//! was due. Every operation ends. When its deadline passes or somebody cancels it, it takes back what is not done and ends; taking
//! back may need an agent to clean a node, and gets [`FOLLOW_UP`] for it. After that a node is released as it is: as a spare that
//! is not ready until its agent has cleaned it, so nothing depends on the operation any more.

mod admission;
mod disk_expand;
mod environment_change;
mod node_remove;
mod node_replace;
mod provision;
mod scale_down;
mod scale_up;
mod stress_network;
mod stress_run;
mod super_node_delete;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use supernode_types::job::{JobOutcome, JobState};
use supernode_types::node::{Membership, Node, NodeCondition, NodePolicy};
use supernode_types::operation::{
    Admission, Operation, OperationKind, OperationState, Target, TargetState,
};
use supernode_types::super_node::SuperNode;
use supernode_types::{JobId, NodeId, SuperNodeId};

use crate::index::Index;
use crate::{Action, Limits, schedule, words};

/// How long after its deadline an operation may still clean up before it ends in any case.
pub const FOLLOW_UP: Duration = Duration::from_mins(2);

/// What all open operations need now.
pub(crate) fn plan(index: &Index<'_>, limits: &Limits) -> Vec<Action> {
    let mut planner = Planner {
        index,
        limits,
        actions: Vec::new(),
        claimed: HashSet::new(),
        released: HashSet::new(),
        deleted: HashSet::new(),
        removed: HashSet::new(),
        drained: HashSet::new(),
        ended_jobs: HashSet::new(),
        departed: HashMap::new(),
        tested: HashSet::new(),
        wanted: wanted(index, limits),
        quarantined: HashMap::new(),
    };
    for operation in index
        .snapshot
        .operations
        .values()
        .filter(|operation| !operation.state.ended())
    {
        match &operation.kind {
            OperationKind::SuperNodeCreate => {
                scale_up::plan(&mut planner, operation, Admission::None);
            }
            OperationKind::ScaleUp { admission } => {
                scale_up::plan(&mut planner, operation, *admission);
            }
            OperationKind::ScaleDown { .. } => scale_down::plan(&mut planner, operation),
            OperationKind::NodeReplace { admission, .. } => {
                node_replace::plan(&mut planner, operation, *admission);
            }
            OperationKind::SuperNodeDelete => super_node_delete::plan(&mut planner, operation),
            OperationKind::EnvironmentChange {
                revision,
                environment_generation,
            } => {
                environment_change::plan(
                    &mut planner,
                    operation,
                    *revision,
                    *environment_generation,
                );
            }
            OperationKind::NodeRemove => node_remove::plan(&mut planner, operation),
            OperationKind::DiskExpand(expansion) => {
                disk_expand::plan(&mut planner, operation, expansion);
            }
            OperationKind::StressRun(run) => stress_run::plan(&mut planner, operation, run),
        }
    }
    planner.actions
}

/// Nodes that tests leave to jobs; not looked for when no test would.
fn wanted<'a>(index: &Index<'a>, limits: &Limits) -> HashMap<&'a NodeId, &'a JobId> {
    let mut operations = index.snapshot.operations.values();
    let gives_way = operations.any(|operation| match &operation.kind {
        OperationKind::StressRun(run) => run.max_age_seconds.is_some(),
        _ => false,
    });
    if gives_way {
        schedule::wanted(index, limits)
    } else {
        HashMap::new()
    }
}

/// The plan in the making. What one operation takes in it, another does not take again.
struct Planner<'a, 'b> {
    index: &'b Index<'a>,
    limits: &'b Limits,
    actions: Vec<Action>,
    claimed: HashSet<&'a NodeId>,
    released: HashSet<NodeId>,
    deleted: HashSet<&'a SuperNodeId>,
    removed: HashSet<&'a NodeId>,
    /// Nodes that this plan begins to drain.
    drained: HashSet<NodeId>,
    ended_jobs: HashSet<&'a JobId>,
    /// Full members that this plan takes out, by super node.
    departed: HashMap<&'a SuperNodeId, usize>,
    /// Nodes that a stress run takes in this plan.
    tested: HashSet<&'a NodeId>,
    /// Free nodes that a job waits for, if a test in this plan gives way to jobs.
    wanted: HashMap<&'a NodeId, &'a JobId>,
    /// Nodes that this plan quarantines, by super node.
    quarantined: HashMap<&'a SuperNodeId, usize>,
}

/// Why an operation stops going forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GivenUp {
    Cancelled,
    DeadlinePassed,
    SuperNodeGoes,
}

impl GivenUp {
    fn words(self) -> &'static str {
        match self {
            Self::Cancelled => "the operation was cancelled",
            Self::DeadlinePassed => "the deadline passed",
            Self::SuperNodeGoes => "the super node is being deleted",
        }
    }
}

impl<'a> Planner<'a, '_> {
    fn given_up(&self, operation: &Operation) -> Option<GivenUp> {
        if operation.cancel_requested {
            Some(GivenUp::Cancelled)
        } else {
            (self.index.snapshot.now >= operation.deadline).then_some(GivenUp::DeadlinePassed)
        }
    }

    /// Whether waiting for cleaning is over, too.
    fn overdue(&self, operation: &Operation) -> bool {
        self.index.snapshot.now >= operation.deadline.plus(FOLLOW_UP)
    }

    fn node(&self, target: &'a Target) -> Option<&'a Node> {
        self.index.snapshot.nodes.get(target.node.as_ref()?)
    }

    /// What a person calls the node of a target.
    fn name(&self, target: &Target) -> String {
        let provision = || {
            target
                .provision
                .as_ref()
                .and_then(|id| self.index.snapshot.provisions.get(id))
        };
        match target.node.as_ref() {
            Some(id) => self
                .index
                .snapshot
                .nodes
                .get(id)
                .map_or_else(|| id.to_string(), |node| node.name.to_string()),
            None => provision().map_or_else(
                || format!("of target {}", target.slot),
                |provision| provision.node_name.clone(),
            ),
        }
    }

    /// Takes a full member out unless it would be the last; `false` if it would.
    fn leave_if_not_last(
        &mut self,
        operation: &'a Operation,
        node: &'a Node,
        super_node: &'a SuperNodeId,
    ) -> bool {
        let members = self.index.members_of(super_node).count();
        let departed = self.departed.entry(super_node).or_default();
        if *departed + 1 >= members {
            return false;
        }
        *departed += 1;
        self.actions.push(Action::Leave {
            node: node.id.clone(),
            operation: operation.id.clone(),
        });
        true
    }

    /// Releases a node that leaves, on behalf of `operation`, once it is clean, lost, or waited for long enough. Says whether it did.
    fn release(&mut self, operation: &Operation, node: &Node) -> bool {
        let clean =
            node.environment_applied == 0 || matches!(node.condition, NodeCondition::Lost { .. });
        if !clean && !self.overdue(operation) {
            return false;
        }
        if self.released.insert(node.id.clone()) {
            self.actions.push(Action::Release {
                node: node.id.clone(),
            });
            self.put_back(operation, node);
        }
        true
    }

    /// Begins to drain a node; says what that waits for if something else has it, or takes it in this plan.
    fn drain(&mut self, operation: &Operation, node: &Node) -> Result<(), String> {
        let policy = node.policy.clone().drain(operation.id.clone());
        let policy = policy.map_err(|refusal| format!("waits to be drained: {refusal}"))?;
        if self.tested.contains(&node.id) || !self.drained.insert(node.id.clone()) {
            return Err("waits to be drained: something else takes it just now".into());
        }
        self.actions.push(Action::SetPolicy {
            node: node.id.clone(),
            policy,
        });
        Ok(())
    }

    /// Ends the drain that `operation` began on a node.
    fn put_back(&mut self, operation: &Operation, node: &Node) {
        if drained_by(node, operation) {
            self.actions.push(Action::SetPolicy {
                node: node.id.clone(),
                policy: node.policy.clone().drained(),
            });
        }
    }

    /// Writes down which targets changed.
    fn record(&mut self, operation: &Operation, states: &[TargetState]) {
        for (target, state) in operation.targets.iter().zip(states) {
            if target.state != *state {
                self.actions.push(Action::SetTarget {
                    operation: operation.id.clone(),
                    slot: target.slot,
                    state: state.clone(),
                });
            }
        }
    }

    fn wait(&mut self, operation: &Operation, waits_for: String) {
        self.set(operation, OperationState::Running { waits_for });
    }

    fn set(&mut self, operation: &Operation, state: OperationState) {
        if operation.state != state {
            self.actions.push(Action::SetOperation {
                operation: operation.id.clone(),
                state,
            });
        }
    }

    /// What the active targets wait for, in one line; `None` when none is active.
    fn waits_for(&self, operation: &Operation, states: &[TargetState]) -> Option<String> {
        let lines: Vec<String> = operation
            .targets
            .iter()
            .zip(states)
            .filter_map(|(target, state)| match state {
                TargetState::Active { step } => Some(format!("node {}: {step}", self.name(target))),
                TargetState::Done | TargetState::Failed { .. } => None,
            })
            .collect();
        words::first_and_more(&lines)
    }

    /// Which targets failed and why, in one line.
    fn failures(&self, operation: &Operation, states: &[TargetState]) -> String {
        let lines: Vec<String> = operation
            .targets
            .iter()
            .zip(states)
            .filter_map(|(target, state)| match state {
                TargetState::Failed { reason } => {
                    Some(format!("node {}: {reason}", self.name(target)))
                }
                TargetState::Done | TargetState::Active { .. } => None,
            })
            .collect();
        words::list(lines.iter(), 3)
    }

    /// `2 of 3 nodes joined`.
    fn tally(states: &[TargetState], did: &str) -> String {
        let done = states
            .iter()
            .filter(|state| **state == TargetState::Done)
            .count();
        format!("{done} of {} {did}", words::count(states.len(), "node"))
    }

    /// Ends the queued jobs of a super node that has no nodes any more and deletes it; `false` while jobs are left.
    fn delete_super_node(&mut self, operation: &Operation, super_node: &'a SuperNode) -> bool {
        let mut none_left = true;
        for job in self
            .index
            .snapshot
            .jobs
            .values()
            .filter(|job| job.super_node == super_node.id && !job.state.ended())
        {
            none_left = false;
            let ends =
                matches!(job.state, JobState::Queued { .. }) && job.cancel_requested_by.is_none();
            if ends && self.ended_jobs.insert(&job.id) {
                let by = format!("{} (deletion of the super node)", operation.actor);
                self.actions.push(Action::End {
                    job: job.id.clone(),
                    outcome: JobOutcome::Cancelled { by },
                });
            }
        }
        if none_left && self.deleted.insert(&super_node.id) {
            self.actions.push(Action::DeleteSuperNode {
                super_node: super_node.id.clone(),
            });
        }
        none_left
    }
}

/// Whether a node leaves on behalf of `operation`.
fn leaves_by(node: &Node, operation: &Operation) -> bool {
    matches!(&node.membership, Membership::Leaving { operation: by, .. } if *by == operation.id)
}

/// Whether `operation` drains a node.
fn drained_by(node: &Node, operation: &Operation) -> bool {
    matches!(&node.policy, NodePolicy::Draining { operation: by, .. } if *by == operation.id)
}

fn active(step: impl Into<String>) -> TargetState {
    TargetState::Active { step: step.into() }
}

fn failed(reason: impl Into<String>) -> TargetState {
    TargetState::Failed {
        reason: reason.into(),
    }
}

/// The step that a target was in.
fn step_of(target: &Target) -> &str {
    match &target.state {
        TargetState::Active { step } => step,
        TargetState::Done | TargetState::Failed { .. } => "",
    }
}
