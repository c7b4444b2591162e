//! What channels were told last of each thing.

use supernode_types::message::Notice;
use supernode_types::{ChannelId, NodeId, Timestamp};

use crate::{StoreError, Tx, Value, params, record};

/// Notes that a channel is told something, unless it was told the same after `since`. Answers whether it is to be told.
pub fn told_put(
    tx: &mut Tx<'_>,
    channel: &ChannelId,
    node: Option<&NodeId>,
    notice: &Notice,
    since: Timestamp,
) -> Result<bool, StoreError> {
    let rows = tx.execute(
        "INSERT INTO told (channel, key, kind, node, at, record) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (channel, key) DO UPDATE SET at = excluded.at, record = excluded.record WHERE told.at <= $7",
        params![
            channel.as_str(), notice.key.as_str(), notice.kind.as_str(), node.map(NodeId::as_str), notice.at.0, Value::json(notice)?, since.0
        ],
    )?;
    Ok(rows == 1)
}

/// Takes away what a channel was told of one kind about a node, and answers it.
pub fn told_take(
    tx: &mut Tx<'_>,
    channel: &ChannelId,
    node: &NodeId,
    kind: &str,
) -> Result<Vec<Notice>, StoreError> {
    let rows = tx.query(
        "DELETE FROM told WHERE channel = $1 AND node = $2 AND kind = $3 RETURNING record, key",
        params![channel.as_str(), node.as_str(), kind],
    )?;
    let mut notices: Vec<Notice> = record::all(&rows)?;
    notices.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(notices)
}

/// A notice did not arrive: the same may be told again.
pub fn told_forget(
    tx: &mut Tx<'_>,
    channel: &ChannelId,
    notice: &Notice,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM told WHERE channel = $1 AND key = $2 AND at = $3",
        params![channel.as_str(), notice.key.as_str(), notice.at.0],
    )?;
    Ok(())
}

/// Forgets what was told before `before`.
pub fn told_prune(tx: &mut Tx<'_>, before: Timestamp) -> Result<(), StoreError> {
    tx.execute("DELETE FROM told WHERE at < $1", params![before.0])?;
    Ok(())
}
