//! What actions do to jobs, attempts, ranks and leases.

use supernode_plan::action::Placement;
use supernode_store::attempt::{
    AttemptRecord, attempt_insert, lease_insert, lease_release, rank_advance, rank_insert,
};
use supernode_store::job::job_update;
use supernode_store::{ConflictKind, StoreError};
use supernode_types::event::{Severity, Subjects};
use supernode_types::job::{
    GroupKey, Job, JobOutcome, JobState, Lease, LeaseHolder, Rank, RankEnd, RankState, StopReason,
};
use supernode_types::retry_policy::AttemptRetry;
use supernode_types::{AttemptId, JobId, NodeId};

use super::{Round, missing};
use crate::retry_policy;

/// How many nodes an event names.
const NAMED_NODES: usize = 8;

impl Round<'_, '_> {
    pub(super) fn job(&mut self, id: &JobId) -> Result<&mut Job, StoreError> {
        self.jobs.insert(id.clone());
        self.snapshot.jobs.get_mut(id).ok_or_else(|| missing("job"))
    }

    fn tell_of_job(
        &mut self,
        id: &JobId,
        kind: &'static str,
        severity: Severity,
        what: &str,
    ) -> Result<(), StoreError> {
        let job = self.job(id)?;
        let (message, subjects) = (format!("{} {what}", job.name), subjects(job));
        self.tell(kind, severity, message, subjects)
    }

    pub(super) fn start(
        &mut self,
        id: &JobId,
        placement: &[Placement],
        master_port: u16,
        because: &str,
    ) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        let attempt = AttemptId::new(now, &*self.entropy);
        let job = self.job(id)?;
        job.attempts += 1;
        job.started_at.get_or_insert(now);
        job.state = JobState::Starting {
            attempt: attempt.clone(),
            since: now,
        };
        let number = job.attempts;
        let (order, ranks) = self.gang(id, &attempt, placement)?;
        let retry = self.retry(id, &order)?;
        let first = order.first().and_then(|id| self.snapshot.nodes.get(id));
        let record = AttemptRecord {
            id: attempt.clone(),
            job: id.clone(),
            number,
            master_address: first.ok_or_else(|| missing("node"))?.address.clone(),
            master_port,
            nodes: number_of(order.len()),
            world_size: number_of(ranks.len()),
            group_key: Some(GroupKey::new(&*self.entropy)),
            retry,
        };
        attempt_insert(self.tx, &record)?;
        for rank in &ranks {
            self.lease(rank)?;
            rank_insert(self.tx, rank)?;
        }
        let names = self.names(&order);
        self.told.extend(order);
        self.snapshot
            .master_ports
            .insert(attempt.clone(), master_port);
        self.snapshot.ranks.insert(attempt, ranks);
        let what = format!("starts on {names} (attempt {number}; {because})");
        self.tell_of_job(id, "job.started", Severity::Info, &what)
    }

    /// What the attempt gets from the retry policy; what stands in the way is noted in the job.
    fn retry(&mut self, id: &JobId, nodes: &[NodeId]) -> Result<Option<AttemptRetry>, StoreError> {
        let job = self.job(id)?.clone();
        let super_node = self.snapshot.super_nodes.get(&job.super_node);
        let Some((super_node, policy)) =
            super_node.and_then(|found| Some((found, found.retry_policy.as_ref()?)))
        else {
            self.job(id)?.retry_findings.clear();
            return Ok(None);
        };
        let nodes = nodes
            .iter()
            .filter_map(|node| self.snapshot.nodes.get(node).cloned())
            .collect();
        let (given, found) = retry_policy::for_attempt(self.tx, policy, super_node, nodes, &job)?;
        self.job(id)?.retry_findings = found;
        Ok(given)
    }

    /// The nodes of a placement in the order of their first rank, and all ranks.
    fn gang(
        &self,
        job: &JobId,
        attempt: &AttemptId,
        placement: &[Placement],
    ) -> Result<(Vec<NodeId>, Vec<Rank>), StoreError> {
        let mut order: Vec<NodeId> = Vec::new();
        let mut ranks: Vec<Rank> = Vec::with_capacity(placement.len());
        let mut local_rank = 0;
        for place in placement {
            // Ranks of one node follow each other.
            if order.last() == Some(&place.node) {
                local_rank += 1;
            } else {
                order.push(place.node.clone());
                local_rank = 0;
            }
            let node = self.snapshot.nodes.get(&place.node);
            ranks.push(Rank {
                attempt: attempt.clone(),
                job: job.clone(),
                rank: number_of(ranks.len()),
                node_rank: number_of(order.len() - 1),
                local_rank,
                node: place.node.clone(),
                device: place.device,
                boot_id: node.ok_or_else(|| missing("node"))?.boot_id.clone(),
                state: RankState::Assigned,
            });
        }
        Ok((order, ranks))
    }

    fn lease(&mut self, rank: &Rank) -> Result<(), StoreError> {
        let lease = Lease {
            node: rank.node.clone(),
            device: rank.device,
            holder: LeaseHolder::Job {
                job: rank.job.clone(),
                attempt: rank.attempt.clone(),
            },
        };
        if !lease_insert(self.tx, &lease)? {
            let what = format!("lease on device {} of {}", rank.device, rank.node);
            let kind = ConflictKind::Unique;
            return Err(StoreError::Conflict { kind, what });
        }
        self.snapshot.leases.push(lease);
        Ok(())
    }

    fn names(&self, nodes: &[NodeId]) -> String {
        let found = nodes.iter().take(NAMED_NODES);
        let names: Vec<&str> = found
            .filter_map(|id| self.snapshot.nodes.get(id))
            .map(|node| node.name.as_str())
            .collect();
        match nodes.len() - names.len() {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        }
    }

    /// The node is told: an agent that comes back must not start what it has not started yet.
    pub(super) fn end_rank(
        &mut self,
        attempt: &AttemptId,
        number: u32,
        end: RankEnd,
    ) -> Result<(), StoreError> {
        let ranks = self.snapshot.ranks.get_mut(attempt);
        let rank = ranks.and_then(|ranks| ranks.iter_mut().find(|rank| rank.rank == number));
        let rank = rank.ok_or_else(|| missing("rank"))?;
        rank.state = RankState::Ended {
            end,
            last_lines: Vec::new(),
        };
        rank_advance(self.tx, &rank.node, attempt, number, &rank.state)?;
        self.told.insert(rank.node.clone());
        Ok(())
    }

    pub(super) fn mark_running(&mut self, id: &JobId) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        let job = self.job(id)?;
        if let Some(attempt) = job.state.attempt().cloned() {
            job.state = JobState::Running {
                attempt,
                since: now,
            };
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, id: &JobId, reason: StopReason) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        let job = self.job(id)?;
        let Some(attempt) = job.state.attempt().cloned() else {
            return Err(missing("attempt"));
        };
        let what = format!("is being stopped: {}", describe_stop(&reason));
        job.state = JobState::Stopping {
            attempt: attempt.clone(),
            reason,
            since: now,
        };
        if let Some(ranks) = self.snapshot.ranks.get(&attempt) {
            let open = ranks.iter().filter(|rank| !rank.state.ended());
            self.told.extend(open.map(|rank| rank.node.clone()));
        }
        self.tell_of_job(id, "job.stopping", Severity::Info, &what)
    }

    /// Gives the devices back. Nobody has to be told: every rank has ended by its agent's word, or its agent was told that it has.
    fn release_leases(&mut self, id: &JobId) -> Result<(), StoreError> {
        let Some(attempt) = self.job(id)?.state.attempt().cloned() else {
            return Ok(());
        };
        lease_release(self.tx, &attempt)?;
        self.snapshot
            .leases
            .retain(|lease| lease.attempt() != Some(&attempt));
        self.snapshot.master_ports.remove(&attempt);
        self.snapshot.ranks.remove(&attempt);
        Ok(())
    }

    pub(super) fn requeue(
        &mut self,
        id: &JobId,
        counts: bool,
        reason: String,
    ) -> Result<(), StoreError> {
        self.release_leases(id)?;
        let job = self.job(id)?;
        job.requeues += u32::from(counts);
        let what = format!("is {reason}");
        job.state = JobState::Queued { reason };
        self.tell_of_job(id, "job.requeued", Severity::Warning, &what)
    }

    pub(super) fn end(&mut self, id: &JobId, outcome: JobOutcome) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        self.release_leases(id)?;
        let found = self.snapshot.jobs.remove(id);
        let mut job = found.ok_or_else(|| missing("job"))?;
        let (kind, severity, what) = describe_end(&outcome);
        job.state = JobState::Ended { outcome, at: now };
        job_update(self.tx, &mut job)?;
        let message = format!("{} {what}", job.name);
        self.tell(kind, severity, message, subjects(&job))
    }
}

fn subjects(job: &Job) -> Subjects {
    Subjects {
        job: Some(job.id.clone()),
        super_node: Some(job.super_node.clone()),
        ..Subjects::default()
    }
}

/// A stop in words.
fn describe_stop(reason: &StopReason) -> String {
    match reason {
        StopReason::RankFailed(failure) => {
            format!("rank {} on {} {}", failure.rank, failure.node, failure.end)
        }
        StopReason::Cancelled { by } => format!("cancelled by {by}"),
        StopReason::TimeLimit => "its time limit passed".into(),
        StopReason::NodeLost { node, detail } => format!("{node}: {detail}"),
        StopReason::Evicted { operation } => format!("evicted by {operation}"),
    }
}

/// An end in words.
fn describe_end(outcome: &JobOutcome) -> (&'static str, Severity, String) {
    match outcome {
        JobOutcome::Succeeded => ("job.succeeded", Severity::Info, "succeeded".into()),
        JobOutcome::Failed(failure) => (
            "job.failed",
            Severity::Warning,
            format!(
                "failed: rank {} on {} {}",
                failure.rank, failure.node, failure.end
            ),
        ),
        JobOutcome::Cancelled { by } => (
            "job.cancelled",
            Severity::Info,
            format!("was cancelled by {by}"),
        ),
        JobOutcome::TimedOut => (
            "job.timed_out",
            Severity::Warning,
            "was stopped at its time limit".into(),
        ),
        JobOutcome::NodeLost { node, detail } => (
            "job.node_lost",
            Severity::Error,
            format!("ended because of {node}: {detail}"),
        ),
    }
}

fn number_of(index: usize) -> u32 {
    u32::try_from(index).expect("a gang has fewer than 2^32 ranks")
}
