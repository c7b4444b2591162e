//! Messages go out: which, by whom, and what is written down of it.
//!
//! Each channel is a queue of its own with at most one message on the wire, so one that does not answer holds up nobody else. A
//! message is *claimed* in the database before its first byte is sent, and what came of it is written afterwards. Whoever is killed in
//! between leaves a claim that runs out; the message is then sent again under the same id.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use supernode_plan::notify::{after, expired, patience_since};
use supernode_store::channel::{
    channel_find, channel_list, channel_list_due, channel_state_update, channel_target,
};
use supernode_store::event::event_insert;
use supernode_store::message::{message_get, message_list_old, message_next, message_update};
use supernode_store::told::told_forget;
use supernode_store::{StoreError, Tx};
use supernode_types::channel::{Channel, ChannelState, Courier, Delivered, Delivery};
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::message::{Message, MessageState};
use supernode_types::{ChannelId, Timestamp};
use tokio::task::JoinSet;

use crate::Control;

/// The longest that one attempt takes.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(30);
/// How long a claim holds; longer than an attempt with its two transactions.
const CLAIM: Duration = Duration::from_mins(1);
/// How often the queues are looked at although nobody said that something changed.
const PERIOD: Duration = Duration::from_secs(1);
/// Messages that are given up in one transaction.
const MOST_GIVEN_UP: u32 = 100;

/// What every channel is to be told next, claimed. Channels in `busy` have a message on the wire.
pub async fn claim(
    control: &Control,
    busy: &BTreeSet<ChannelId>,
) -> Result<Vec<Delivery>, StoreError> {
    let now = control.clock().now();
    // Nearly always there is nothing to do; that is seen without the writer.
    let due = control
        .store()
        .read("message_due", move |tx| channel_list_due(tx, now))
        .await?;
    if due.iter().all(|record| busy.contains(&record.channel.id)) {
        return Ok(Vec::new());
    }
    let busy = busy.clone();
    control
        .store()
        .write("message_claim", move |tx| claim_in(tx, &busy, now))
        .await
}

fn claim_in(
    tx: &mut Tx<'_>,
    busy: &BTreeSet<ChannelId>,
    now: Timestamp,
) -> Result<Vec<Delivery>, StoreError> {
    let mut claimed = Vec::new();
    for record in channel_list_due(tx, now)? {
        let (channel, mut state) = (record.channel, record.state);
        if busy.contains(&channel.id) {
            continue;
        }
        for message in message_list_old(tx, &channel.id, patience_since(now), MOST_GIVEN_UP)? {
            let message = expired(message, &state, now);
            message_update(tx, &message)?;
            give_up(tx, &channel, &message, now)?;
        }
        let Some(target) = channel_target(tx, &channel.id)? else {
            continue;
        };
        let Some(mut message) = message_next(tx, &channel.id, now)? else {
            continue;
        };
        message.attempts = message.attempts.saturating_add(1);
        message_update(tx, &message)?;
        state.retry_at = now.plus(CLAIM);
        channel_state_update(tx, &channel.id, &state)?;
        claimed.push(Delivery {
            channel,
            target,
            message,
            now,
        });
    }
    Ok(claimed)
}

/// Writes down what came of an attempt.
pub async fn finish(
    control: &Control,
    delivery: &Delivery,
    delivered: Delivered,
) -> Result<(), StoreError> {
    let now = control.clock().now();
    let spread = control.entropy().next_u64();
    let (channel, sequence) = (delivery.channel.clone(), delivery.message.sequence);
    let write = move |tx: &mut Tx<'_>| {
        // The channel may have been deleted meanwhile.
        let (Some(record), Some(message)) = (
            channel_find(tx, channel.id.as_str())?,
            message_get(tx, &channel.id, sequence)?,
        ) else {
            return Ok(());
        };
        if !matches!(message.state, MessageState::Pending { .. }) {
            return Ok(());
        }
        let (message, state) = after(message, &record.state, delivered.clone(), now, spread);
        message_update(tx, &message)?;
        channel_state_update(tx, &channel.id, &state)?;
        if matches!(message.state, MessageState::Failed { .. }) {
            give_up(tx, &channel, &message, now)?;
        }
        Ok(())
    };
    control.store().write("message_finish", write).await
}

/// What did not arrive was not told: it is told again when it is found again. Said as an event, which no channel is told of.
fn give_up(
    tx: &mut Tx<'_>,
    channel: &Channel,
    message: &Message,
    now: Timestamp,
) -> Result<(), StoreError> {
    for notice in &message.notices {
        told_forget(tx, &channel.id, notice)?;
    }
    let MessageState::Failed { reason, .. } = &message.state else {
        return Ok(());
    };
    let event = NewEvent {
        kind: "channel.failed",
        severity: Severity::Warning,
        message: format!(
            "channel {} was not told message {}: {reason}",
            channel.name,
            message.id()
        ),
        subjects: Subjects::default(),
    };
    event_insert(tx, &event, now).map(drop)
}

/// A server has just started, so nothing is on the wire: every channel may be tried.
pub async fn release_claims(control: &Control) -> Result<(), StoreError> {
    let now = control.clock().now();
    let write = move |tx: &mut Tx<'_>| {
        for record in channel_list(tx)? {
            let retry_at = record.state.retry_at.min(now);
            let state = ChannelState {
                retry_at,
                ..record.state
            };
            channel_state_update(tx, &record.channel.id, &state)?;
        }
        Ok::<_, StoreError>(())
    };
    control.store().write("message_release", write).await
}

/// Delivers until the task is dropped.
pub async fn run(control: Control, courier: Arc<dyn Courier>) {
    if let Err(error) = release_claims(&control).await {
        tracing::error!(%error, "channels that were being told when the server ended wait for their claims to run out");
    }
    let mut changes = control.hub().changes();
    let mut tasks = JoinSet::new();
    let mut on_the_wire: HashMap<tokio::task::Id, ChannelId> = HashMap::new();
    let mut failures: u32 = 0;
    loop {
        let busy: BTreeSet<ChannelId> = on_the_wire.values().cloned().collect();
        match claim(&control, &busy).await {
            Ok(claimed) => {
                failures = 0;
                for delivery in claimed {
                    let channel = delivery.channel.id.clone();
                    let attempt = attempt(control.clone(), Arc::clone(&courier), delivery);
                    on_the_wire.insert(tasks.spawn(attempt).id(), channel);
                }
            }
            Err(error) => {
                failures += 1;
                tracing::error!(%error, failures, "what has to be told could not be read");
                tokio::time::sleep(Duration::from_millis(100) * 2_u32.pow(failures.min(6))).await;
            }
        }
        tokio::select! {
            Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(error) => {
                        tracing::error!(%error, "an attempt to tell a channel broke off");
                        error.id()
                    }
                };
                on_the_wire.remove(&id);
            }
            _ = changes.changed() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
        // Not more often than this, whatever happens.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn attempt(control: Control, courier: Arc<dyn Courier>, delivery: Delivery) {
    let delivered = tokio::time::timeout(ATTEMPT_LIMIT, courier.deliver(&delivery))
        .await
        .unwrap_or_else(|_| Delivered::Later {
            why: format!("no answer within {} s", ATTEMPT_LIMIT.as_secs()),
            after: None,
        });
    // What is not written down is sent again when the claim has run out.
    if let Err(error) = finish(&control, &delivery, delivered).await {
        tracing::error!(%error, channel = %delivery.channel.name, message = %delivery.message.id(), "what came of a message could not be stored");
    }
}
