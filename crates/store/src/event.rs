//! Events.

use supernode_types::event::{Event, NewEvent, Severity, Subjects};
use supernode_types::{JobId, NodeId, OperationId, SuperNodeId, Timestamp};

use crate::{Row, StoreError, Tx, params, record, sequence};

/// Stores an event; answers its sequence.
pub fn event_insert(tx: &mut Tx<'_>, event: &NewEvent, now: Timestamp) -> Result<i64, StoreError> {
    let sequence = sequence::next(tx, "event")?;
    let subjects = &event.subjects;
    tx.execute(
        "INSERT INTO event (sequence, at, kind, severity, severity_rank, message, node, super_node, job, operation) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        params![
            sequence, now.0, event.kind, event.severity.word(), rank(event.severity), event.message.as_str(),
            subjects.node.as_ref().map(NodeId::as_str), subjects.super_node.as_ref().map(SuperNodeId::as_str),
            subjects.job.as_ref().map(JobId::as_str), subjects.operation.as_ref().map(OperationId::as_str)
        ],
    )?;
    Ok(sequence)
}

fn rank(severity: Severity) -> i64 {
    match severity {
        Severity::Info => 0,
        Severity::Warning => 1,
        Severity::Error => 2,
    }
}

fn read(row: &Row) -> Result<Event, StoreError> {
    Ok(Event {
        sequence: row.get("sequence")?,
        at: Timestamp(row.get("at")?),
        kind: row.get("kind")?,
        severity: match row.get::<String>("severity")?.as_str() {
            "error" => Severity::Error,
            "warning" => Severity::Warning,
            _ => Severity::Info,
        },
        message: row.get("message")?,
        subjects: Subjects {
            node: record::parsed_optional(row, "node")?,
            super_node: record::parsed_optional(row, "super_node")?,
            job: record::parsed_optional(row, "job")?,
            operation: record::parsed_optional(row, "operation")?,
        },
    })
}

/// Events after `after`, oldest first.
pub fn event_list_after(
    tx: &mut Tx<'_>,
    after: i64,
    subject: Option<&str>,
    severity: Severity,
    limit: u32,
) -> Result<Vec<Event>, StoreError> {
    tx.query(
        "SELECT * FROM event
         WHERE sequence > $1 AND severity_rank >= $2
           AND (CAST($3 AS TEXT) IS NULL OR node = $3 OR super_node = $3 OR job = $3 OR operation = $3)
         ORDER BY sequence LIMIT $4",
        params![after, rank(severity), subject, limit],
    )?
    .iter()
    .map(read)
    .collect()
}

/// The latest events, newest first.
pub fn event_list_latest(
    tx: &mut Tx<'_>,
    subject: Option<&str>,
    severity: Severity,
    limit: u32,
) -> Result<Vec<Event>, StoreError> {
    tx.query(
        "SELECT * FROM event
         WHERE severity_rank >= $1 AND (CAST($2 AS TEXT) IS NULL OR node = $2 OR super_node = $2 OR job = $2 OR operation = $2)
         ORDER BY sequence DESC LIMIT $3",
        params![rank(severity), subject, limit],
    )?
    .iter()
    .map(read)
    .collect()
}

/// The sequence of the newest event.
pub fn event_last_sequence(tx: &mut Tx<'_>) -> Result<i64, StoreError> {
    tx.query_one("SELECT value FROM sequence WHERE name = 'event'", params![])?
        .get("value")
}

/// Forgets events before `before`.
pub fn event_prune(tx: &mut Tx<'_>, before: Timestamp) -> Result<(), StoreError> {
    tx.execute("DELETE FROM event WHERE at < $1", params![before.0])?;
    Ok(())
}
