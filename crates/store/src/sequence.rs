//! Numbers that only grow, without gaps that a watcher would have to wait for: taken inside the transaction that uses them.

use crate::{StoreError, Tx, params};

/// The next number of `name`.
pub(crate) fn next(tx: &mut Tx<'_>, name: &'static str) -> Result<i64, StoreError> {
    tx.query_one(
        "UPDATE sequence SET value = value + 1 WHERE name = $1 RETURNING value",
        params![name],
    )?
    .get("value")
}

/// Makes the next number of `name` larger than `known`; answers whether it was not.
pub(crate) fn raise(tx: &mut Tx<'_>, name: &'static str, known: i64) -> Result<bool, StoreError> {
    let rows = tx.execute(
        "UPDATE sequence SET value = $2 WHERE name = $1 AND value < $2",
        params![name, known],
    )?;
    Ok(rows == 1)
}
