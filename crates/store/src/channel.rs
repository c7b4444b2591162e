//! Channels: where people are told. What is secret of a channel is read by [`channel_target`] alone.

use supernode_types::channel::{Channel, ChannelState, Target};
use supernode_types::{ChannelId, Timestamp};

use crate::{Row, StoreError, Tx, Value, params, record};

/// A channel and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelRecord {
    /// The channel.
    pub channel: Channel,
    /// How it stands.
    pub state: ChannelState,
}

fn read(row: &Row) -> Result<ChannelRecord, StoreError> {
    Ok(ChannelRecord {
        channel: record::one(row)?,
        state: row.json("state")?,
    })
}

/// Stores a new channel.
pub fn channel_insert(
    tx: &mut Tx<'_>,
    channel: &Channel,
    target: &Target,
    state: &ChannelState,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO channel (id, name, record, target, retry_at, state) VALUES ($1, $2, $3, $4, $5, $6)",
        params![
            channel.id.as_str(), channel.name.as_str(), Value::json(channel)?, Value::json(target)?, state.retry_at.0, Value::json(state)?
        ],
    )?;
    Ok(())
}

/// All channels, by name.
pub fn channel_list(tx: &mut Tx<'_>) -> Result<Vec<ChannelRecord>, StoreError> {
    tx.query("SELECT record, state FROM channel ORDER BY name", params![])?
        .iter()
        .map(read)
        .collect()
}

/// The channel with this id or name.
pub fn channel_find(
    tx: &mut Tx<'_>,
    id_or_name: &str,
) -> Result<Option<ChannelRecord>, StoreError> {
    tx.query_optional(
        "SELECT record, state FROM channel WHERE id = $1 OR name = $1",
        params![id_or_name],
    )?
    .as_ref()
    .map(read)
    .transpose()
}

/// Where a channel leads, with its secrets.
pub fn channel_target(tx: &mut Tx<'_>, id: &ChannelId) -> Result<Option<Target>, StoreError> {
    tx.query_optional(
        "SELECT target FROM channel WHERE id = $1",
        params![id.as_str()],
    )?
    .map(|row| row.json("target"))
    .transpose()
}

/// Stores how a channel stands.
pub fn channel_state_update(
    tx: &mut Tx<'_>,
    id: &ChannelId,
    state: &ChannelState,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE channel SET retry_at = $2, state = $3 WHERE id = $1",
        params![id.as_str(), state.retry_at.0, Value::json(state)?],
    )?;
    Ok(())
}

/// Channels that have something to deliver now.
pub fn channel_list_due(tx: &mut Tx<'_>, now: Timestamp) -> Result<Vec<ChannelRecord>, StoreError> {
    tx.query(
        "SELECT record, state FROM channel
         WHERE retry_at <= $1
           AND EXISTS (SELECT 1 FROM message WHERE message.channel = channel.id AND message.state = 'pending' AND message.due_at <= $1)
         ORDER BY id",
        params![now.0],
    )?
    .iter()
    .map(read)
    .collect()
}

/// Forgets a channel with everything that was on its way.
pub fn channel_delete(tx: &mut Tx<'_>, id: &ChannelId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM channel WHERE id = $1", params![id.as_str()])?;
    Ok(())
}
