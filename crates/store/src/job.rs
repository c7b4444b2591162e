//! Jobs.

use supernode_types::job::Job;
use supernode_types::{AttemptId, JobId, SuperNodeId};

use crate::{StoreError, Tx, Value, params, record};

/// Stores a new job.
pub fn job_insert(tx: &mut Tx<'_>, job: &Job) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO job (id, super_node, state, active, priority, submitted_at, last_attempt, generation, record) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        params![
            job.id.as_str(), job.super_node.as_str(), job.state.word(), !job.state.ended(), job.spec.priority, job.submitted_at.0,
            job.state.attempt().map(AttemptId::as_str), job.generation, Value::json(job)?
        ],
    )?;
    Ok(())
}

/// Stores a changed job and increases its generation.
pub fn job_update(tx: &mut Tx<'_>, job: &mut Job) -> Result<(), StoreError> {
    let before = job.generation;
    job.generation += 1;
    let rows = tx.execute(
        "UPDATE job SET state = $3, active = $4, last_attempt = COALESCE($5, last_attempt), generation = $6, record = $7 WHERE id = $1 AND generation = $2",
        params![
            job.id.as_str(), before, job.state.word(), !job.state.ended(), job.state.attempt().map(AttemptId::as_str), job.generation, Value::json(job)?
        ],
    )?;
    record::changed(rows, "job")
}

/// The job with this id.
pub fn job_get(tx: &mut Tx<'_>, id: &JobId) -> Result<Option<Job>, StoreError> {
    record::optional(
        tx.query_optional("SELECT record FROM job WHERE id = $1", params![id.as_str()])?,
    )
}

/// The attempt that a job is in or was in last.
pub fn job_last_attempt(tx: &mut Tx<'_>, id: &JobId) -> Result<Option<AttemptId>, StoreError> {
    let Some(row) = tx.query_optional(
        "SELECT last_attempt FROM job WHERE id = $1 AND last_attempt IS NOT NULL",
        params![id.as_str()],
    )?
    else {
        return Ok(None);
    };
    record::parsed(&row, "last_attempt").map(Some)
}

/// Jobs that hold leases, by id.
pub fn job_list_placed(tx: &mut Tx<'_>) -> Result<Vec<Job>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM job WHERE active AND state <> 'queued' ORDER BY id",
        params![],
    )?)
}

/// The first `limit` queued jobs of a super node by priority, age and id.
pub fn job_list_queued_of(
    tx: &mut Tx<'_>,
    super_node: &SuperNodeId,
    limit: u32,
) -> Result<Vec<Job>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM job WHERE state = 'queued' AND super_node = $1 ORDER BY priority DESC, submitted_at, id LIMIT $2",
        params![super_node.as_str(), limit],
    )?)
}

/// The first `limit` queued jobs whose super node is gone, by id.
pub fn job_list_queued_orphaned(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<Job>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM job WHERE state = 'queued' AND super_node NOT IN (SELECT id FROM super_node) ORDER BY id LIMIT $1",
        params![limit],
    )?)
}

/// Jobs of a super node that have not ended, by id.
pub fn job_list_active_of(
    tx: &mut Tx<'_>,
    super_node: &SuperNodeId,
) -> Result<Vec<Job>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM job WHERE active AND super_node = $1 ORDER BY id",
        params![super_node.as_str()],
    )?)
}

/// Jobs, newest first, before `cursor`; `state` is a word or `active`.
pub fn job_list(
    tx: &mut Tx<'_>,
    super_node: Option<&SuperNodeId>,
    state: Option<&str>,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Vec<Job>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM job
         WHERE (CAST($1 AS TEXT) IS NULL OR super_node = $1) AND (CAST($2 AS TEXT) IS NULL OR state = $2 OR (CAST($2 AS TEXT) = 'active' AND active))
           AND (CAST($3 AS TEXT) IS NULL OR id < $3)
         ORDER BY id DESC LIMIT $4",
        params![super_node.map(SuperNodeId::as_str), state, cursor, limit],
    )?)
}

/// How many jobs are in each state, by super node.
pub fn job_count(tx: &mut Tx<'_>) -> Result<Vec<(SuperNodeId, String, u64)>, StoreError> {
    tx.query("SELECT super_node, state, COUNT(*) AS jobs FROM job WHERE active GROUP BY super_node, state", params![])?
        .iter()
        .map(|row| Ok((record::parsed(row, "super_node")?, row.get("state")?, row.get("jobs")?)))
        .collect()
}
