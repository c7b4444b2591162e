//! Attempts: ranks, leases, master ports.

use std::collections::BTreeMap;

use supernode_types::job::{GroupKey, Lease, LeaseHolder, Rank, RankState};
use supernode_types::retry_policy::AttemptRetry;
use supernode_types::{AttemptId, JobId, NodeId, OperationId};

use crate::{Row, StoreError, Tx, Value, params, record};

/// One try at running a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Its id.
    pub id: AttemptId,
    /// The job.
    pub job: JobId,
    /// From 1.
    pub number: u32,
    /// Where rank 0 runs.
    pub master_address: String,
    /// The port that rank 0 may listen on.
    pub master_port: u16,
    /// Nodes of the gang.
    pub nodes: u32,
    /// Ranks of the gang.
    pub world_size: u32,
    /// What its ranks share; absent in attempts of older versions.
    pub group_key: Option<GroupKey>,
    /// What it got from the retry policy; decided at its start, whatever becomes of the policy.
    pub retry: Option<AttemptRetry>,
}

/// Stores a new attempt.
pub fn attempt_insert(tx: &mut Tx<'_>, attempt: &AttemptRecord) -> Result<(), StoreError> {
    let retry = match &attempt.retry {
        Some(retry) => Value::json(retry)?,
        None => Value::from(""),
    };
    tx.execute(
        "INSERT INTO attempt (id, job, number, master_address, master_port, nodes, world_size, group_key, retry) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        params![
            attempt.id.as_str(), attempt.job.as_str(), attempt.number, attempt.master_address.as_str(), attempt.master_port, attempt.nodes,
            attempt.world_size, attempt.group_key.as_ref().map_or("", GroupKey::expose), retry
        ],
    )?;
    Ok(())
}

/// The attempt with this id.
pub fn attempt_get(
    tx: &mut Tx<'_>,
    attempt: &AttemptId,
) -> Result<Option<AttemptRecord>, StoreError> {
    tx.query_optional(
        "SELECT * FROM attempt WHERE id = $1",
        params![attempt.as_str()],
    )?
    .map(|row| {
        Ok(AttemptRecord {
            id: record::parsed(&row, "id")?,
            job: record::parsed(&row, "job")?,
            number: row.get("number")?,
            master_address: row.get("master_address")?,
            master_port: row.get("master_port")?,
            nodes: row.get("nodes")?,
            world_size: row.get("world_size")?,
            group_key: GroupKey::known(row.get("group_key")?),
            retry: match row.get::<String>("retry")?.as_str() {
                "" => None,
                _ => Some(row.json("retry")?),
            },
        })
    })
    .transpose()
}

/// The master port of every attempt that holds leases.
pub fn attempt_master_ports(tx: &mut Tx<'_>) -> Result<BTreeMap<AttemptId, u16>, StoreError> {
    tx.query(
        "SELECT id, master_port FROM attempt WHERE id IN (SELECT attempt FROM lease)",
        params![],
    )?
    .iter()
    .map(|row| Ok((record::parsed(row, "id")?, row.get("master_port")?)))
    .collect()
}

/// Stores a lease. Answers `false`, and stores nothing, when the device is taken.
pub fn lease_insert(tx: &mut Tx<'_>, lease: &Lease) -> Result<bool, StoreError> {
    let rows = tx.execute(
        "INSERT INTO lease (node, device, job, attempt, operation) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (node, device) DO NOTHING",
        params![
            lease.node.as_str(), lease.device, lease.job().map(JobId::as_str), lease.attempt().map(AttemptId::as_str),
            lease.operation().map(OperationId::as_str)
        ],
    )?;
    Ok(rows == 1)
}

/// Gives back all leases of an attempt.
pub fn lease_release(tx: &mut Tx<'_>, attempt: &AttemptId) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM lease WHERE attempt = $1",
        params![attempt.as_str()],
    )?;
    Ok(())
}

/// Gives back all leases of a stress run on a node.
pub fn lease_release_run(
    tx: &mut Tx<'_>,
    run: &OperationId,
    node: &NodeId,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM lease WHERE operation = $1 AND node = $2",
        params![run.as_str(), node.as_str()],
    )?;
    Ok(())
}

fn read_lease(row: &Row) -> Result<Lease, StoreError> {
    let holder = match record::parsed_optional(row, "operation")? {
        Some(operation) => LeaseHolder::Stress { operation },
        None => LeaseHolder::Job {
            job: record::parsed(row, "job")?,
            attempt: record::parsed(row, "attempt")?,
        },
    };
    Ok(Lease {
        node: record::parsed(row, "node")?,
        device: row.get("device")?,
        holder,
    })
}

/// All leases, by node and device.
pub fn lease_list(tx: &mut Tx<'_>) -> Result<Vec<Lease>, StoreError> {
    tx.query("SELECT * FROM lease ORDER BY node, device", params![])?
        .iter()
        .map(read_lease)
        .collect()
}

/// The leases on one node.
pub fn lease_list_on(tx: &mut Tx<'_>, node: &NodeId) -> Result<Vec<Lease>, StoreError> {
    tx.query(
        "SELECT * FROM lease WHERE node = $1 ORDER BY device",
        params![node.as_str()],
    )?
    .iter()
    .map(read_lease)
    .collect()
}

fn detail(state: &RankState) -> Result<Value, StoreError> {
    match state {
        RankState::Ended { .. } => Value::json(state),
        RankState::Assigned | RankState::Running => Ok(Value::Null),
    }
}

/// Stores a new rank.
pub fn rank_insert(tx: &mut Tx<'_>, rank: &Rank) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO job_rank (attempt, number, job, node, node_rank, local_rank, device, boot_id, state, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        params![
            rank.attempt.as_str(), rank.rank, rank.job.as_str(), rank.node.as_str(), rank.node_rank, rank.local_rank, rank.device,
            rank.boot_id.as_str(), rank.state.word(), detail(&rank.state)?
        ],
    )?;
    Ok(())
}

/// Records a newer state of a rank on `node`. Answers whether that changed anything: a rank never comes back from its end, nor
/// from running to assigned, and no node speaks for a rank on another.
pub fn rank_advance(
    tx: &mut Tx<'_>,
    node: &NodeId,
    attempt: &AttemptId,
    rank: u32,
    state: &RankState,
) -> Result<bool, StoreError> {
    let rows = tx.execute(
        "UPDATE job_rank SET state = $3, detail = $4
         WHERE attempt = $1 AND number = $2 AND node = $5 AND state <> 'ended' AND state <> $3 AND CAST($3 AS TEXT) <> 'assigned'",
        params![attempt.as_str(), rank, state.word(), detail(state)?, node.as_str()],
    )?;
    Ok(rows == 1)
}

fn read_rank(row: &Row) -> Result<Rank, StoreError> {
    let state = match row.get::<String>("state")?.as_str() {
        "assigned" => RankState::Assigned,
        "running" => RankState::Running,
        _ => row.json("detail")?,
    };
    Ok(Rank {
        attempt: record::parsed(row, "attempt")?,
        job: record::parsed(row, "job")?,
        rank: row.get("number")?,
        node_rank: row.get("node_rank")?,
        local_rank: row.get("local_rank")?,
        node: record::parsed(row, "node")?,
        device: row.get("device")?,
        boot_id: row.get("boot_id")?,
        state,
    })
}

/// The ranks of an attempt, in order.
pub fn rank_list(tx: &mut Tx<'_>, attempt: &AttemptId) -> Result<Vec<Rank>, StoreError> {
    tx.query(
        "SELECT * FROM job_rank WHERE attempt = $1 ORDER BY number",
        params![attempt.as_str()],
    )?
    .iter()
    .map(read_rank)
    .collect()
}

/// The ranks of an attempt on one node, in order.
pub fn rank_list_of(
    tx: &mut Tx<'_>,
    attempt: &AttemptId,
    node: &NodeId,
) -> Result<Vec<Rank>, StoreError> {
    tx.query(
        "SELECT * FROM job_rank WHERE attempt = $1 AND node = $2 ORDER BY number",
        params![attempt.as_str(), node.as_str()],
    )?
    .iter()
    .map(read_rank)
    .collect()
}

/// The ranks of every attempt that holds leases, in order.
pub fn rank_list_placed(tx: &mut Tx<'_>) -> Result<BTreeMap<AttemptId, Vec<Rank>>, StoreError> {
    let mut ranks: BTreeMap<AttemptId, Vec<Rank>> = BTreeMap::new();
    let rows = tx.query("SELECT * FROM job_rank WHERE attempt IN (SELECT attempt FROM lease) ORDER BY attempt, number", params![])?;
    for row in &rows {
        let rank = read_rank(row)?;
        ranks.entry(rank.attempt.clone()).or_default().push(rank);
    }
    Ok(ranks)
}

/// Ranks on a node that have not ended.
pub fn rank_list_open_on(tx: &mut Tx<'_>, node: &NodeId) -> Result<Vec<Rank>, StoreError> {
    tx.query(
        "SELECT * FROM job_rank WHERE node = $1 AND state <> 'ended' ORDER BY attempt, number",
        params![node.as_str()],
    )?
    .iter()
    .map(read_rank)
    .collect()
}
