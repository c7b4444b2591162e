//! An event happens and is told: stored, and put into the messages of the channels that want it, in the transaction of whatever it
//! tells. So nothing is told that did not happen, and nothing that happened is forgotten.
//!
//! This is the only way in which this crate makes events.

use supernode_plan::notify::{
    Context, begin, collect, collects_since, ended_by, notices, resolved, told_since, wanted,
};
use supernode_store::channel::channel_list;
use supernode_store::event::event_insert;
use supernode_store::message::{
    message_collecting, message_insert, message_list_pending, message_update,
};
use supernode_store::node::node_get;
use supernode_store::operation::operation_get;
use supernode_store::stress::stress_result_list;
use supernode_store::super_node::super_node_get;
use supernode_store::told::{told_put, told_take};
use supernode_store::{StoreError, Tx};
use supernode_types::channel::Channel;
use supernode_types::event::NewEvent;
use supernode_types::message::{Notice, Topic};
use supernode_types::operation::OperationKind;
use supernode_types::stress::{Finding, StressOutcome, StressRun};
use supernode_types::{Name, OperationId, Timestamp};

/// Stores an event and tells it to whoever asked for such events, or is named by the stress run that it belongs to.
pub(crate) fn tell(tx: &mut Tx<'_>, event: &NewEvent, now: Timestamp) -> Result<(), StoreError> {
    let channels = audience(tx)?;
    tell_to(tx, &channels, event, &[], now)
}

/// Everybody who could be told something.
pub(crate) fn audience(tx: &mut Tx<'_>) -> Result<Vec<Channel>, StoreError> {
    let records = channel_list(tx)?;
    Ok(records.into_iter().map(|record| record.channel).collect())
}

/// [`tell`] for who tells more than one event, and names channels of its own.
pub(crate) fn tell_to(
    tx: &mut Tx<'_>,
    audience: &[Channel],
    event: &NewEvent,
    named: &[Name],
    now: Timestamp,
) -> Result<(), StoreError> {
    let sequence = event_insert(tx, event, now)?;
    if audience.is_empty() {
        return Ok(());
    }
    let run = run_of(tx, event)?;
    let mut named = named.to_vec();
    if let Some((_, run)) = &run {
        named.extend_from_slice(&run.notify);
    }
    let run = run.map(|(id, _)| id);
    let topic = run.clone().map_or(Topic::Events, Topic::Run);
    let mut said: Option<Vec<Notice>> = None;
    for channel in audience {
        let mut news = over(tx, channel, event, now)?;
        if news.is_empty() && wanted(channel, event.kind, event.severity, &named) {
            let all = match &said {
                Some(all) => all.clone(),
                None => said.insert(say(tx, event, run.as_ref(), now)?).clone(),
            };
            let since = told_since(&channel.terms, now);
            for notice in all {
                let node = event.subjects.node.as_ref();
                let loud = notice.severity >= channel.terms.severity;
                if loud && told_put(tx, &channel.id, node, &notice, since)? {
                    news.push(notice);
                }
            }
        }
        if !news.is_empty() {
            put(tx, channel, &topic, sequence, news, now)?;
        }
    }
    if is_end(event) && run.is_some() {
        hasten(tx, &topic, now)?;
    }
    Ok(())
}

/// The stress run that an event belongs to.
fn run_of(
    tx: &mut Tx<'_>,
    event: &NewEvent,
) -> Result<Option<(OperationId, StressRun)>, StoreError> {
    let Some(id) = &event.subjects.operation else {
        return Ok(None);
    };
    let record = operation_get(tx, id)?;
    Ok(match record.map(|record| record.operation.kind) {
        Some(OperationKind::StressRun(run)) => Some((id.clone(), run)),
        _ => None,
    })
}

/// What a channel was told and is over with this event.
fn over(
    tx: &mut Tx<'_>,
    channel: &Channel,
    event: &NewEvent,
    now: Timestamp,
) -> Result<Vec<Notice>, StoreError> {
    let mut ended = Vec::new();
    if let Some(node) = &event.subjects.node {
        for kind in ended_by(event.kind) {
            let told = told_take(tx, &channel.id, node, kind)?;
            ended.extend(told.into_iter().map(|notice| resolved(notice, now)));
        }
    }
    Ok(ended)
}

/// What an event says, with the names of what it is about and with what a test found.
fn say(
    tx: &mut Tx<'_>,
    event: &NewEvent,
    run: Option<&OperationId>,
    now: Timestamp,
) -> Result<Vec<Notice>, StoreError> {
    let subjects = &event.subjects;
    let node = match &subjects.node {
        Some(id) => node_get(tx, id)?,
        None => None,
    };
    let super_node = match &subjects.super_node {
        Some(id) => super_node_get(tx, id)?,
        None => None,
    };
    let mut findings: Vec<Finding> = Vec::new();
    if let (Some(run), Some(node), "stress.failed" | "stress.suspect") =
        (run, &subjects.node, event.kind)
    {
        let results = stress_result_list(tx, run)?;
        let of_node = results.into_iter().find(|result| result.node == *node);
        findings = of_node
            .filter(|result| {
                matches!(
                    result.outcome,
                    StressOutcome::Failed { .. } | StressOutcome::Suspect { .. }
                )
            })
            .map(|result| result.findings)
            .unwrap_or_default();
    }
    let context = Context {
        node: node.as_ref().map(|node| &node.name),
        super_node: super_node.as_ref().map(|super_node| &super_node.name),
        run,
        findings: &findings,
    };
    Ok(notices(event, &context, now))
}

/// Puts notices into the message of their topic, or into a new one that this event begins.
fn put(
    tx: &mut Tx<'_>,
    channel: &Channel,
    topic: &Topic,
    sequence: i64,
    news: Vec<Notice>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let since = collects_since(now);
    if let Some(mut message) = message_collecting(tx, &channel.id, topic, since)? {
        collect(&mut message, news);
        return message_update(tx, &message);
    }
    let (id, terms) = (channel.id.clone(), &channel.terms);
    let mut message = begin(id, terms, topic.clone(), sequence, now);
    collect(&mut message, news);
    message_insert(tx, &message)
}

fn is_end(event: &NewEvent) -> bool {
    matches!(
        event.kind,
        "operation.succeeded" | "operation.failed" | "operation.cancelled"
    )
}

/// A run is over: there is nothing to wait for.
fn hasten(tx: &mut Tx<'_>, topic: &Topic, now: Timestamp) -> Result<(), StoreError> {
    for mut message in message_list_pending(tx, topic)? {
        message.due_at = message.due_at.min(now);
        message_update(tx, &message)?;
    }
    Ok(())
}
