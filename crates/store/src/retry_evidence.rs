//! What the logs of ranks say of repeated operators.

use supernode_types::retry_policy::{RetryEvidence, RetryOutcome, RetrySighting};
use supernode_types::{AttemptId, NodeId, Timestamp};

use crate::{Row, StoreError, Tx, params, record};

fn outcome(row: &Row) -> Result<RetryOutcome, StoreError> {
    let word: String = row.get("outcome")?;
    RetryOutcome::of(&word).ok_or_else(|| StoreError::Decode {
        column: "outcome".to_owned(),
        reason: format!("`{word}` is no outcome"),
    })
}

/// All evidence of an attempt, by rank, outcome and link.
pub fn retry_evidence_list(
    tx: &mut Tx<'_>,
    attempt: &AttemptId,
) -> Result<Vec<RetryEvidence>, StoreError> {
    tx.query(
        "SELECT * FROM retry_evidence WHERE attempt = $1 ORDER BY number, outcome, link",
        params![attempt.as_str()],
    )?
    .iter()
    .map(|row| {
        Ok(RetryEvidence {
            rank: row.get("number")?,
            sighting: RetrySighting {
                outcome: outcome(row)?,
                link: row.get("link")?,
                count: row.get("sightings")?,
                line: row.get("line")?,
            },
            first_at: Timestamp(row.get("first_at")?),
            last_at: Timestamp(row.get("last_at")?),
        })
    })
    .collect()
}

/// Stores evidence; of the same rank, outcome and link, the newer one stays.
pub fn retry_evidence_put(
    tx: &mut Tx<'_>,
    attempt: &AttemptId,
    evidence: &RetryEvidence,
) -> Result<(), StoreError> {
    let RetryEvidence {
        rank,
        sighting,
        first_at,
        last_at,
    } = evidence;
    tx.execute(
        "INSERT INTO retry_evidence (attempt, number, outcome, link, sightings, line, first_at, last_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (attempt, number, outcome, link) DO UPDATE SET sightings = excluded.sightings, line = excluded.line, last_at = excluded.last_at",
        params![
            attempt.as_str(), *rank, sighting.outcome.word(), sighting.link.as_str(), sighting.count, sighting.line.as_str(), first_at.0, last_at.0
        ],
    )?;
    Ok(())
}

/// How often each outcome was seen on each node, ever.
pub fn retry_evidence_count(
    tx: &mut Tx<'_>,
) -> Result<Vec<(NodeId, RetryOutcome, u64)>, StoreError> {
    tx.query(
        "SELECT job_rank.node, outcome, CAST(SUM(sightings) AS BIGINT) AS total
         FROM retry_evidence JOIN job_rank ON job_rank.attempt = retry_evidence.attempt AND job_rank.number = retry_evidence.number
         GROUP BY job_rank.node, outcome ORDER BY job_rank.node, outcome",
        params![],
    )?
    .iter()
    .map(|row| Ok((record::parsed(row, "node")?, outcome(row)?, row.get("total")?)))
    .collect()
}

/// How often each outcome was seen on each link of attempts that hold leases; the first `limit` of them.
pub fn retry_evidence_count_links(
    tx: &mut Tx<'_>,
    limit: u32,
) -> Result<Vec<(NodeId, String, RetryOutcome, u64)>, StoreError> {
    tx.query(
        "SELECT job_rank.node, link, outcome, CAST(SUM(sightings) AS BIGINT) AS total
         FROM retry_evidence JOIN job_rank ON job_rank.attempt = retry_evidence.attempt AND job_rank.number = retry_evidence.number
         WHERE link <> '' AND retry_evidence.attempt IN (SELECT attempt FROM lease)
         GROUP BY job_rank.node, link, outcome ORDER BY job_rank.node, link, outcome LIMIT $1",
        params![limit],
    )?
    .iter()
    .map(|row| Ok((record::parsed(row, "node")?, row.get("link")?, outcome(row)?, row.get("total")?)))
    .collect()
}
