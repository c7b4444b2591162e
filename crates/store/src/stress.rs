//! Stress tests: what nodes measured, what came of it, and what their parts are like.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use supernode_types::stress::{StepEvidence, StressResult};
use supernode_types::{NodeId, OperationId, Timestamp};

use crate::{StoreError, Tx, Value, params, record};

/// Stores what a node measured in a round; the first word counts.
pub fn stress_round_insert(
    tx: &mut Tx<'_>,
    run: &OperationId,
    node: &NodeId,
    round: u32,
    evidence: &[StepEvidence],
    at: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO stress_round (run, node, round, at, evidence) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (run, node, round) DO NOTHING",
        params![run.as_str(), node.as_str(), round, at.0, Value::json(evidence)?],
    )?;
    Ok(())
}

/// What a node measured in a run, round by round.
pub fn stress_round_list(
    tx: &mut Tx<'_>,
    run: &OperationId,
    node: &NodeId,
) -> Result<Vec<Vec<StepEvidence>>, StoreError> {
    tx.query(
        "SELECT evidence FROM stress_round WHERE run = $1 AND node = $2 ORDER BY round",
        params![run.as_str(), node.as_str()],
    )?
    .iter()
    .map(|row| row.json("evidence"))
    .collect()
}

/// What the other nodes of a run measured in their first round; at most `limit` of them.
pub fn stress_round_list_peers(
    tx: &mut Tx<'_>,
    run: &OperationId,
    node: &NodeId,
    limit: u32,
) -> Result<Vec<(NodeId, Vec<StepEvidence>)>, StoreError> {
    tx.query(
        "SELECT node, evidence FROM stress_round WHERE run = $1 AND node <> $2 AND round = 1 ORDER BY node LIMIT $3",
        params![run.as_str(), node.as_str(), limit],
    )?
    .iter()
    .map(|row| Ok((record::parsed(row, "node")?, row.json("evidence")?)))
    .collect()
}

/// Forgets measurements from before `before`; results and baselines stay.
pub fn stress_round_prune(tx: &mut Tx<'_>, before: Timestamp) -> Result<(), StoreError> {
    tx.execute("DELETE FROM stress_round WHERE at < $1", params![before.0])?;
    Ok(())
}

/// Stores what came of testing a node; answers `false`, and changes nothing, when that is known already.
pub fn stress_result_insert(tx: &mut Tx<'_>, result: &StressResult) -> Result<bool, StoreError> {
    let rows = tx.execute(
        "INSERT INTO stress_result (run, node, outcome, ended_at, record) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (run, node) DO NOTHING",
        params![
            result.run.as_str(), result.node.as_str(), result.outcome.word(), result.ended_at.0, Value::json(result)?
        ],
    )?;
    Ok(rows == 1)
}

/// Replaces what came of testing a node: what the test of its network adds to the test of the node alone.
pub fn stress_result_put(tx: &mut Tx<'_>, result: &StressResult) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO stress_result (run, node, outcome, ended_at, record) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (run, node) DO UPDATE SET outcome = excluded.outcome, ended_at = excluded.ended_at, record = excluded.record",
        params![
            result.run.as_str(), result.node.as_str(), result.outcome.word(), result.ended_at.0, Value::json(result)?
        ],
    )?;
    Ok(())
}

/// What came of a run, by node.
pub fn stress_result_list(
    tx: &mut Tx<'_>,
    run: &OperationId,
) -> Result<Vec<StressResult>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM stress_result WHERE run = $1 ORDER BY node",
        params![run.as_str()],
    )?)
}

/// What came of testing a node, newest first.
pub fn stress_result_list_of(
    tx: &mut Tx<'_>,
    node: &NodeId,
    limit: u32,
) -> Result<Vec<StressResult>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM stress_result WHERE node = $1 ORDER BY ended_at DESC, run DESC LIMIT $2",
        params![node.as_str(), limit],
    )?)
}

/// Stores what the runs of one part of a node had in common.
pub fn stress_baseline_put(
    tx: &mut Tx<'_>,
    node: &NodeId,
    series: &str,
    baseline: &impl Serialize,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO stress_baseline (node, series, record) VALUES ($1, $2, $3)
         ON CONFLICT (node, series) DO UPDATE SET record = excluded.record",
        params![node.as_str(), series, Value::json(baseline)?],
    )?;
    Ok(())
}

/// What the runs of each part of a node had in common, by series.
pub fn stress_baseline_list<T: DeserializeOwned>(
    tx: &mut Tx<'_>,
    node: &NodeId,
) -> Result<BTreeMap<String, T>, StoreError> {
    tx.query(
        "SELECT series, record FROM stress_baseline WHERE node = $1 ORDER BY series",
        params![node.as_str()],
    )?
    .iter()
    .map(|row| Ok((row.get("series")?, row.json("record")?)))
    .collect()
}

/// Forgets what the parts of a node were like: another machine, or a repaired one.
pub fn stress_baseline_delete(tx: &mut Tx<'_>, node: &NodeId) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM stress_baseline WHERE node = $1",
        params![node.as_str()],
    )?;
    Ok(())
}
