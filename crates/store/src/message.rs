//! Messages on their way to channels, and those that have arrived.

use supernode_types::message::{Message, Topic};
use supernode_types::{ChannelId, Timestamp};

use crate::{StoreError, Tx, Value, params, record};

/// Stores a new message.
pub fn message_insert(tx: &mut Tx<'_>, message: &Message) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO message (channel, sequence, topic, state, attempts, created_at, due_at, record) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        params![
            message.channel.as_str(), message.sequence, message.topic.word(), message.state.word(), message.attempts,
            message.created_at.0, message.due_at.0, Value::json(message)?
        ],
    )?;
    Ok(())
}

/// Stores a changed message. One whose channel is gone is gone as well.
pub fn message_update(tx: &mut Tx<'_>, message: &Message) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE message SET state = $3, attempts = $4, due_at = $5, record = $6 WHERE channel = $1 AND sequence = $2",
        params![
            message.channel.as_str(),
            message.sequence,
            message.state.word(),
            message.attempts,
            message.due_at.0,
            Value::json(message)?
        ],
    )?;
    Ok(())
}

/// The message that an event began.
pub fn message_get(
    tx: &mut Tx<'_>,
    channel: &ChannelId,
    sequence: i64,
) -> Result<Option<Message>, StoreError> {
    record::optional(tx.query_optional(
        "SELECT record FROM message WHERE channel = $1 AND sequence = $2",
        params![channel.as_str(), sequence],
    )?)
}

/// The newest message of a topic that was begun after `since` and never tried, so that it can take more in.
pub fn message_collecting(
    tx: &mut Tx<'_>,
    channel: &ChannelId,
    topic: &Topic,
    since: Timestamp,
) -> Result<Option<Message>, StoreError> {
    record::optional(tx.query_optional(
        "SELECT record FROM message
         WHERE channel = $1 AND topic = $2 AND state = 'pending' AND attempts = 0 AND created_at > $3
         ORDER BY sequence DESC LIMIT 1",
        params![channel.as_str(), topic.word(), since.0],
    )?)
}

/// Everything of a topic that still has to be delivered, in all channels.
pub fn message_list_pending(tx: &mut Tx<'_>, topic: &Topic) -> Result<Vec<Message>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM message WHERE topic = $1 AND state = 'pending' ORDER BY channel, sequence",
        params![topic.word()],
    )?)
}

/// What a channel is to be told next: a trial before all others, else the oldest that is due.
pub fn message_next(
    tx: &mut Tx<'_>,
    channel: &ChannelId,
    now: Timestamp,
) -> Result<Option<Message>, StoreError> {
    record::optional(tx.query_optional(
        "SELECT record FROM message
         WHERE channel = $1 AND state = 'pending' AND due_at <= $2
         ORDER BY CASE topic WHEN 'trial' THEN 0 ELSE 1 END, sequence LIMIT 1",
        params![channel.as_str(), now.0],
    )?)
}

/// What a channel was to be told before `before` and was not, oldest first.
pub fn message_list_old(
    tx: &mut Tx<'_>,
    channel: &ChannelId,
    before: Timestamp,
    limit: u32,
) -> Result<Vec<Message>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM message WHERE channel = $1 AND state = 'pending' AND created_at < $2 ORDER BY sequence LIMIT $3",
        params![channel.as_str(), before.0, limit],
    )?)
}

/// The messages of a channel, newest first.
pub fn message_list(
    tx: &mut Tx<'_>,
    channel: &ChannelId,
    limit: u32,
) -> Result<Vec<Message>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM message WHERE channel = $1 ORDER BY sequence DESC LIMIT $2",
        params![channel.as_str(), limit],
    )?)
}

/// How many messages a channel still has to be told.
pub fn message_count_pending(tx: &mut Tx<'_>, channel: &ChannelId) -> Result<u32, StoreError> {
    tx.query_one(
        "SELECT COUNT(*) AS count FROM message WHERE channel = $1 AND state = 'pending'",
        params![channel.as_str()],
    )?
    .get("count")
}

/// Messages of one channel in one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageCount {
    /// The name of the channel.
    pub channel: String,
    /// The word of the state.
    pub state: String,
    /// How many.
    pub count: u64,
    /// When the oldest was begun.
    pub oldest: Timestamp,
}

/// How many messages there are, by channel and state.
pub fn message_count(tx: &mut Tx<'_>) -> Result<Vec<MessageCount>, StoreError> {
    tx.query(
        "SELECT channel.name AS name, message.state AS state, COUNT(*) AS count, MIN(message.created_at) AS oldest
         FROM message JOIN channel ON channel.id = message.channel GROUP BY channel.name, message.state ORDER BY 1, 2",
        params![],
    )?
    .iter()
    .map(|row| {
        Ok(MessageCount {
            channel: row.get("name")?,
            state: row.get("state")?,
            count: row.get("count")?,
            oldest: Timestamp(row.get("oldest")?),
        })
    })
    .collect()
}

/// Forgets messages from before `before` that were delivered or given up.
pub fn message_prune(tx: &mut Tx<'_>, before: Timestamp) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM message WHERE created_at < $1 AND state <> 'pending'",
        params![before.0],
    )?;
    Ok(())
}
