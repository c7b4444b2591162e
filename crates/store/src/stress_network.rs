//! Tests of the network between nodes: one record for each run, and its pairs.

use supernode_types::job::GroupKey;
use supernode_types::stress::{NetworkState, StressNetwork, StressPair};
use supernode_types::{NodeId, OperationId};

use crate::{StoreError, Tx, Value, params, record};

fn word(network: &StressNetwork) -> &'static str {
    match network.state {
        NetworkState::Testing { .. } => "testing",
        NetworkState::Judged { .. } => "judged",
    }
}

/// Stores how far the network test of a run is.
pub fn stress_network_put(tx: &mut Tx<'_>, network: &StressNetwork) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO stress_network (run, state, record) VALUES ($1, $2, $3)
         ON CONFLICT (run) DO UPDATE SET state = excluded.state, record = excluded.record",
        params![network.run.as_str(), word(network), Value::json(network)?],
    )?;
    Ok(())
}

/// The network test of a run.
pub fn stress_network_get(
    tx: &mut Tx<'_>,
    run: &OperationId,
) -> Result<Option<StressNetwork>, StoreError> {
    record::optional(tx.query_optional(
        "SELECT record FROM stress_network WHERE run = $1",
        params![run.as_str()],
    )?)
}

/// Stores a new pair, which nobody has begun.
pub fn stress_pair_insert(tx: &mut Tx<'_>, pair: &StressPair) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO stress_pair (run, number, round, asker, listener, state, record) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![
            pair.run.as_str(), pair.number, pair.round, pair.asker.as_str(), pair.listener.as_str(), pair.state.word(), Value::json(pair)?
        ],
    )?;
    Ok(())
}

/// Stores a pair that begins, with the key of this try.
pub fn stress_pair_begin(
    tx: &mut Tx<'_>,
    pair: &StressPair,
    key: &GroupKey,
) -> Result<(), StoreError> {
    let rows = tx.execute(
        "UPDATE stress_pair SET state = $3, record = $4, secret = $5 WHERE run = $1 AND number = $2 AND state = 'waiting'",
        params![
            pair.run.as_str(), pair.number, pair.state.word(), Value::json(pair)?, key.expose()
        ],
    )?;
    record::changed(rows, "stress_pair")
}

/// Stores a changed pair; its key is forgotten when it no longer runs.
pub fn stress_pair_update(tx: &mut Tx<'_>, pair: &StressPair) -> Result<(), StoreError> {
    let rows = tx.execute(
        "UPDATE stress_pair SET state = $3, record = $4, secret = CASE WHEN CAST($3 AS TEXT) = 'running' THEN secret END
         WHERE run = $1 AND number = $2",
        params![pair.run.as_str(), pair.number, pair.state.word(), Value::json(pair)?],
    )?;
    record::changed(rows, "stress_pair")
}

/// One pair of a run.
pub fn stress_pair_get(
    tx: &mut Tx<'_>,
    run: &OperationId,
    number: u32,
) -> Result<Option<StressPair>, StoreError> {
    record::optional(tx.query_optional(
        "SELECT record FROM stress_pair WHERE run = $1 AND number = $2",
        params![run.as_str(), number],
    )?)
}

/// The key of a pair that runs. Only for the two agents.
pub fn stress_pair_key(
    tx: &mut Tx<'_>,
    run: &OperationId,
    number: u32,
) -> Result<Option<GroupKey>, StoreError> {
    let row = tx.query_optional(
        "SELECT secret FROM stress_pair WHERE run = $1 AND number = $2 AND secret IS NOT NULL",
        params![run.as_str(), number],
    )?;
    Ok(match row {
        Some(row) => GroupKey::known(row.get("secret")?),
        None => None,
    })
}

/// All pairs of a run, in their order.
pub fn stress_pair_list(tx: &mut Tx<'_>, run: &OperationId) -> Result<Vec<StressPair>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM stress_pair WHERE run = $1 ORDER BY number",
        params![run.as_str()],
    )?)
}

/// The pairs of a run that have not ended, in their order.
pub fn stress_pair_list_open(
    tx: &mut Tx<'_>,
    run: &OperationId,
) -> Result<Vec<StressPair>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM stress_pair WHERE run = $1 AND state <> 'ended' ORDER BY number",
        params![run.as_str()],
    )?)
}

/// The pairs of a run that a node is in, in their order.
pub fn stress_pair_list_of(
    tx: &mut Tx<'_>,
    run: &OperationId,
    node: &NodeId,
) -> Result<Vec<StressPair>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM stress_pair WHERE run = $1 AND (asker = $2 OR listener = $2) ORDER BY number",
        params![run.as_str(), node.as_str()],
    )?)
}
