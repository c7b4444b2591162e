//! Numbers that only grow, without gaps that a watcher would have to wait for: taken inside the transaction that uses them.

use crate::{StoreError, Tx, params};

/// The next number of `name`.
pub(crate) fn next(tx: &mut Tx<'_>, name: &'static str) -> Result<i64, StoreError> {
    tx.query_one("UPDATE sequence SET value = value + 1 WHERE name = $1 RETURNING value", params![name])?.get("value")
}
