//! The life of a job that holds leases, and the end of a queued one that nobody wants any more. Placing is [`crate::schedule`].
//!
//! An attempt ends in two steps: first it is stopped for one reason, then, when every rank is seen or known to be gone, that reason
//! decides what becomes of the job. Leases are given back in the second step only, so nothing new can be placed beside a rank that
//! may still run. A lost node speaks louder than a failed rank: ranks fail *because* their peer's node went away, often before the
//! node is declared lost, and such a job deserves its requeue.

use std::collections::HashSet;
use std::time::Duration;

use supernode_types::job::{
    Job, JobOutcome, JobState, Rank, RankEnd, RankFailure, RankState, StopReason,
};
use supernode_types::node::{Node, NodeCondition, NodePolicy};
use supernode_types::{AttemptId, OperationId, Timestamp};

use crate::index::Index;
use crate::{Action, Limits, Snapshot};

/// What jobs need now.
pub(crate) fn plan(index: &Index<'_>, limits: &Limits) -> Vec<Action> {
    let snapshot = index.snapshot;
    let evictions = evictions(snapshot);
    let mut actions = Vec::new();
    for job in snapshot.jobs.values() {
        match &job.state {
            JobState::Queued { .. } => actions.extend(queued(snapshot, job)),
            JobState::Starting { attempt, since } => {
                active(
                    snapshot,
                    limits,
                    &evictions,
                    &Attempt::new(snapshot, job, attempt, *since, true),
                    &mut actions,
                );
            }
            JobState::Running { attempt, since } => {
                active(
                    snapshot,
                    limits,
                    &evictions,
                    &Attempt::new(snapshot, job, attempt, *since, false),
                    &mut actions,
                );
            }
            JobState::Stopping {
                attempt,
                reason,
                since,
            } => {
                stopping(
                    snapshot,
                    &Attempt::new(snapshot, job, attempt, *since, false),
                    reason,
                    &mut actions,
                );
            }
            JobState::Ended { .. } => {}
        }
    }
    actions
}

/// One attempt, as it stands.
struct Attempt<'a> {
    job: &'a Job,
    ranks: &'a [Rank],
    since: Timestamp,
    starting: bool,
}

impl<'a> Attempt<'a> {
    fn new(
        snapshot: &'a Snapshot,
        job: &'a Job,
        attempt: &AttemptId,
        since: Timestamp,
        starting: bool,
    ) -> Self {
        Self {
            job,
            ranks: snapshot.ranks.get(attempt).map_or(&[], Vec::as_slice),
            since,
            starting,
        }
    }

    fn all_succeeded(&self) -> bool {
        !self.ranks.is_empty()
            && self
                .ranks
                .iter()
                .all(|rank| matches!(&rank.state, RankState::Ended { end, .. } if end.success()))
    }

    fn all_ended(&self) -> bool {
        self.ranks.iter().all(|rank| rank.state.ended())
    }

    /// The lowest rank whose node took it away.
    fn node_fault(&self, snapshot: &Snapshot) -> Option<(String, String)> {
        self.ranks.iter().find_map(|rank| match &rank.state {
            RankState::Ended { end, .. } if end.node_fault() => Some((
                node_name(snapshot, rank),
                format!("rank {} {end}", rank.rank),
            )),
            _ => None,
        })
    }

    /// The lowest rank that ended badly.
    fn failure(&self, snapshot: &Snapshot) -> Option<RankFailure> {
        self.ranks.iter().find_map(|rank| match &rank.state {
            RankState::Ended { end, last_lines } if !end.success() => Some(RankFailure {
                rank: rank.rank,
                node: node_name(snapshot, rank),
                end: end.clone(),
                last_lines: last_lines.clone(),
            }),
            _ => None,
        })
    }
}

fn node_name(snapshot: &Snapshot, rank: &Rank) -> String {
    snapshot
        .nodes
        .get(&rank.node)
        .map_or_else(|| rank.node.to_string(), |node| node.name.to_string())
}

/// Operations that stop the jobs on the nodes that they drain.
fn evictions(snapshot: &Snapshot) -> HashSet<&OperationId> {
    let operations = snapshot.operations.values();
    let open = operations
        .filter(|operation| !operation.cancel_requested && snapshot.now < operation.deadline);
    open.filter(|operation| operation.kind.eviction_grace_seconds().is_some())
        .map(|operation| &operation.id)
        .collect()
}

fn queued(snapshot: &Snapshot, job: &Job) -> Option<Action> {
    let by = match &job.cancel_requested_by {
        Some(by) => by.clone(),
        None if !snapshot.super_nodes.contains_key(&job.super_node) => {
            "the deletion of its super node".into()
        }
        None => return None,
    };
    Some(Action::End {
        job: job.id.clone(),
        outcome: JobOutcome::Cancelled { by },
    })
}

fn active(
    snapshot: &Snapshot,
    limits: &Limits,
    evictions: &HashSet<&OperationId>,
    attempt: &Attempt<'_>,
    actions: &mut Vec<Action>,
) {
    let job = attempt.job;
    let stop = |reason| Action::Stop {
        job: job.id.clone(),
        reason,
    };
    let sight = look(snapshot, evictions, attempt, actions);
    if sight.gone {
        return;
    }
    if attempt.all_succeeded() {
        actions.push(Action::End {
            job: job.id.clone(),
            outcome: JobOutcome::Succeeded,
        });
        return;
    }
    if let Some(by) = &job.cancel_requested_by {
        actions.push(stop(StopReason::Cancelled { by: by.clone() }));
        return;
    }
    if attempt.ranks.is_empty() {
        actions.push(stop(StopReason::NodeLost {
            node: "not known".into(),
            detail: "there is no record of the ranks".into(),
        }));
        return;
    }
    if let Some((node, detail)) = attempt.node_fault(snapshot) {
        actions.push(stop(StopReason::NodeLost { node, detail }));
        return;
    }
    if let Some(failure) = attempt.failure(snapshot) {
        actions.push(stop(StopReason::RankFailed(failure)));
        return;
    }
    let age = snapshot.now.since(attempt.since);
    if job
        .spec
        .time_limit_seconds
        .is_some_and(|limit| age >= Duration::from_secs(limit))
    {
        actions.push(stop(StopReason::TimeLimit));
    } else if let Some(operation) = sight.evicted_by {
        actions.push(stop(StopReason::Evicted { operation }));
    } else if attempt.starting {
        match sight.first_assigned {
            None => actions.push(Action::MarkRunning {
                job: job.id.clone(),
            }),
            Some(rank) if age >= limits.start_timeout => {
                let detail = format!(
                    "rank {} did not start within {} s",
                    rank.rank,
                    limits.start_timeout.as_secs()
                );
                actions.push(stop(StopReason::NodeLost {
                    node: node_name(snapshot, rank),
                    detail,
                }));
            }
            Some(_) => {}
        }
    }
}

fn stopping(
    snapshot: &Snapshot,
    attempt: &Attempt<'_>,
    reason: &StopReason,
    actions: &mut Vec<Action>,
) {
    if look(snapshot, &HashSet::new(), attempt, actions).gone || !attempt.all_ended() {
        return;
    }
    let job = attempt.job;
    let end = |outcome| Action::End {
        job: job.id.clone(),
        outcome,
    };
    if attempt.all_succeeded() && !matches!(reason, StopReason::Cancelled { .. }) {
        // It was done before the stop reached it.
        actions.push(end(JobOutcome::Succeeded));
        return;
    }
    let lost = |node: String, detail: String| match &job.cancel_requested_by {
        Some(by) => end(JobOutcome::Cancelled { by: by.clone() }),
        None if job.requeues < job.spec.requeue_limit => Action::Requeue {
            job: job.id.clone(),
            counts: true,
            reason: format!("queued again after losing node {node}: {detail}"),
        },
        None => end(JobOutcome::NodeLost { node, detail }),
    };
    actions.push(match reason {
        StopReason::Cancelled { by } => end(JobOutcome::Cancelled { by: by.clone() }),
        StopReason::TimeLimit => end(JobOutcome::TimedOut),
        StopReason::NodeLost { node, detail } => lost(node.clone(), detail.clone()),
        StopReason::RankFailed(failure) => match attempt.node_fault(snapshot) {
            Some((node, detail)) => lost(node, detail),
            None => end(JobOutcome::Failed(failure.clone())),
        },
        StopReason::Evicted { operation } => match &job.cancel_requested_by {
            Some(by) => end(JobOutcome::Cancelled { by: by.clone() }),
            None => Action::Requeue {
                job: job.id.clone(),
                counts: false,
                reason: format!("queued again: evicted by {operation}"),
            },
        },
    });
}

/// What one pass over the ranks and their nodes shows.
struct Sight<'a> {
    /// Ranks were found to be gone; the rest is for the next round.
    gone: bool,
    first_assigned: Option<&'a Rank>,
    evicted_by: Option<OperationId>,
}

fn look<'a>(
    snapshot: &Snapshot,
    evictions: &HashSet<&OperationId>,
    attempt: &Attempt<'a>,
    actions: &mut Vec<Action>,
) -> Sight<'a> {
    let mut sight = Sight {
        gone: false,
        first_assigned: None,
        evicted_by: None,
    };
    let mut last: Option<(&Rank, Option<&Node>)> = None;
    for rank in attempt.ranks {
        // Ranks of one node follow each other.
        let node = match last {
            Some((before, node)) if before.node == rank.node => node,
            _ => snapshot.nodes.get(&rank.node),
        };
        last = Some((rank, node));
        if let Some(NodePolicy::Draining { operation, .. }) = node.map(|node| &node.policy)
            && sight.evicted_by.is_none()
            && evictions.contains(operation)
        {
            sight.evicted_by = Some(operation.clone());
        }
        if rank.state.ended() {
            continue;
        }
        if let Some(why) = gone(rank, node) {
            sight.gone = true;
            actions.push(Action::EndRank {
                attempt: rank.attempt.clone(),
                rank: rank.rank,
                end: RankEnd::Lost { why },
            });
        } else if rank.state == RankState::Assigned && sight.first_assigned.is_none() {
            sight.first_assigned = Some(rank);
        }
    }
    sight
}

/// Why nothing of a rank can be running although its agent did not say so.
fn gone(rank: &Rank, node: Option<&Node>) -> Option<String> {
    let Some(node) = node else {
        return Some(format!("{} was removed", rank.node));
    };
    if matches!(node.condition, NodeCondition::Lost { .. }) {
        return Some(format!(
            "node {} lost contact and has stopped its ranks",
            node.name
        ));
    }
    let restarted = !node.boot_id.is_empty() && node.boot_id != rank.boot_id;
    restarted.then(|| format!("node {} was restarted", node.name))
}
