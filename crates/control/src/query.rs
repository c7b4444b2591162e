//! What can be asked without changing anything: the reads behind lists and views.
//!
//! `http` does not know the store; these functions are its only way to it.

use std::collections::BTreeMap;

use supernode_store::Tx;
use supernode_store::attempt::{attempt_get, lease_list, lease_list_on, rank_list};
pub use supernode_store::audit::AuditEntry;
use supernode_store::audit::audit_list;
pub use supernode_store::environment::EnvironmentRecord;
use supernode_store::event::{event_last_sequence, event_list_after, event_list_latest};
use supernode_store::job::{job_last_attempt, job_list, job_list_active_of};
use supernode_store::node::{inventory_get, node_list, node_list_of, node_list_removed};
pub use supernode_store::operation::OperationRecord;
use supernode_store::operation::{operation_list, operation_list_running};
use supernode_store::provision::provision_get;
use supernode_store::retry_evidence::retry_evidence_list;
pub use supernode_store::spec::SpecRecord;
use supernode_store::spec::spec_list;
use supernode_store::super_node::super_node_list;
pub use supernode_store::token::{JoinTokenRecord, TokenRecord};
use supernode_store::token::{join_token_list, token_list};
use supernode_types::event::{Event, Severity};
use supernode_types::inventory::Inventory;
use supernode_types::job::{Job, Lease, Rank};
use supernode_types::node::Node;
use supernode_types::retry_policy::{AttemptRetry, RetryEvidence};
use supernode_types::super_node::SuperNode;
use supernode_types::{AttemptId, Name, NodeId, ProvisionId, SpecId, SuperNodeId, Timestamp};

use crate::Refusal;

/// The names that ids stand for.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Of super nodes.
    pub super_nodes: BTreeMap<SuperNodeId, Name>,
    /// Of specs.
    pub specs: BTreeMap<SpecId, Name>,
}

impl Names {
    /// The name of a super node; one that was deleted is called by its id.
    pub fn super_node(&self, id: &SuperNodeId) -> Name {
        self.super_nodes.get(id).cloned().unwrap_or_else(|| {
            id.as_str()
                .parse()
                .expect("an id has only characters that a name may have")
        })
    }
}

/// All names.
pub fn names(tx: &mut Tx<'_>) -> Result<Names, Refusal> {
    Ok(Names {
        super_nodes: super_node_list(tx)?
            .into_iter()
            .map(|super_node| (super_node.id, super_node.name))
            .collect(),
        specs: spec_list(tx)?
            .into_iter()
            .map(|spec| (spec.id, spec.name))
            .collect(),
    })
}

/// Nodes by name: those in use, or the removed ones.
pub fn nodes(tx: &mut Tx<'_>, removed: bool) -> Result<Vec<Node>, Refusal> {
    Ok(if removed {
        node_list_removed(tx)?
    } else {
        node_list(tx)?
    })
}

/// All nodes of a super node, by name.
pub fn nodes_of(tx: &mut Tx<'_>, super_node: &SuperNodeId) -> Result<Vec<Node>, Refusal> {
    Ok(node_list_of(tx, super_node)?)
}

/// What a node has and what runs on it.
pub fn node_detail(
    tx: &mut Tx<'_>,
    node: &NodeId,
) -> Result<(Option<Inventory>, Vec<Lease>), Refusal> {
    Ok((inventory_get(tx, node)?, lease_list_on(tx, node)?))
}

/// How many devices jobs hold on each node.
pub fn leased_devices(tx: &mut Tx<'_>) -> Result<BTreeMap<NodeId, u32>, Refusal> {
    let mut leased = BTreeMap::new();
    for lease in lease_list(tx)? {
        *leased.entry(lease.node).or_default() += 1;
    }
    Ok(leased)
}

/// When each node's certificate ends.
pub fn certificate_ends(tx: &mut Tx<'_>) -> Result<BTreeMap<NodeId, Timestamp>, Refusal> {
    Ok(supernode_store::certificate::certificate_ends(tx)?)
}

/// All specs by name.
pub fn specs(tx: &mut Tx<'_>) -> Result<Vec<SpecRecord>, Refusal> {
    Ok(spec_list(tx)?)
}

/// All super nodes by name.
pub fn super_nodes(tx: &mut Tx<'_>) -> Result<Vec<SuperNode>, Refusal> {
    Ok(super_node_list(tx)?)
}

/// Jobs of a super node that have not ended.
pub fn active_jobs_of(tx: &mut Tx<'_>, super_node: &SuperNodeId) -> Result<Vec<Job>, Refusal> {
    Ok(job_list_active_of(tx, super_node)?)
}

/// Jobs, newest first.
pub fn jobs(
    tx: &mut Tx<'_>,
    super_node: Option<&SuperNodeId>,
    state: Option<&str>,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Vec<Job>, Refusal> {
    Ok(job_list(tx, super_node, state, cursor, limit)?)
}

/// The attempt that a job is in or was in last.
pub fn last_attempt(tx: &mut Tx<'_>, job: &Job) -> Result<Option<AttemptId>, Refusal> {
    Ok(job_last_attempt(tx, &job.id)?)
}

/// The ranks of the attempt that a job is in or was in last.
pub fn ranks_of(tx: &mut Tx<'_>, job: &Job) -> Result<Vec<Rank>, Refusal> {
    match last_attempt(tx, job)? {
        Some(attempt) => ranks_of_attempt(tx, job, &attempt),
        None => Ok(Vec::new()),
    }
}

/// What the attempt that a job is in or was in last got from the retry policy, and what its ranks wrote of it.
pub fn retry_of(
    tx: &mut Tx<'_>,
    job: &Job,
) -> Result<(Option<AttemptRetry>, Vec<RetryEvidence>), Refusal> {
    let Some(attempt) = last_attempt(tx, job)? else {
        return Ok((None, Vec::new()));
    };
    let record = attempt_get(tx, &attempt)?;
    Ok((
        record.and_then(|record| record.retry),
        retry_evidence_list(tx, &attempt)?,
    ))
}

/// The ranks of one attempt of a job.
pub fn ranks_of_attempt(
    tx: &mut Tx<'_>,
    job: &Job,
    attempt: &AttemptId,
) -> Result<Vec<Rank>, Refusal> {
    let mut ranks = rank_list(tx, attempt)?;
    ranks.retain(|rank| rank.job == job.id);
    Ok(ranks)
}

/// Operations of a super node that have not ended.
pub fn open_operations_of(
    tx: &mut Tx<'_>,
    super_node: &SuperNodeId,
) -> Result<Vec<OperationRecord>, Refusal> {
    let mut open = operation_list_running(tx)?;
    open.retain(|record| record.operation.super_node.as_ref() == Some(super_node));
    Ok(open)
}

/// Operations, newest first.
pub fn operations(
    tx: &mut Tx<'_>,
    super_node: Option<&SuperNodeId>,
    state: Option<&str>,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Vec<OperationRecord>, Refusal> {
    Ok(operation_list(tx, super_node, state, cursor, limit)?)
}

/// The name that a provision's node has or will have.
pub fn provision_node_name(tx: &mut Tx<'_>, id: &ProvisionId) -> Result<Option<String>, Refusal> {
    Ok(provision_get(tx, id)?.map(|provision| provision.node_name))
}

/// Events after a sequence, oldest first; or the latest ones, newest first.
pub fn events(
    tx: &mut Tx<'_>,
    after: Option<i64>,
    subject: Option<&str>,
    severity: Severity,
    limit: u32,
) -> Result<Vec<Event>, Refusal> {
    Ok(match after {
        Some(after) => event_list_after(tx, after, subject, severity, limit)?,
        None => event_list_latest(tx, subject, severity, limit)?,
    })
}

/// The sequence of the newest event.
pub fn last_event(tx: &mut Tx<'_>) -> Result<i64, Refusal> {
    Ok(event_last_sequence(tx)?)
}

/// Audit records, newest first.
pub fn audit(
    tx: &mut Tx<'_>,
    before: Option<i64>,
    actor: Option<&str>,
    limit: u32,
) -> Result<Vec<AuditEntry>, Refusal> {
    Ok(audit_list(tx, before, actor, limit)?)
}

/// All API tokens.
pub fn tokens(tx: &mut Tx<'_>) -> Result<Vec<TokenRecord>, Refusal> {
    Ok(token_list(tx)?)
}

/// All join tokens of people.
pub fn join_tokens(tx: &mut Tx<'_>) -> Result<Vec<JoinTokenRecord>, Refusal> {
    Ok(join_token_list(tx)?)
}
