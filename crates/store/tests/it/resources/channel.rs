//! Queries of `supernode_store::channel`, `message` and `told`.

use serde_json::json;
use supernode_store::channel::{
    ChannelRecord, channel_delete, channel_find, channel_insert, channel_list, channel_list_due,
    channel_state_update, channel_target,
};
use supernode_store::message::{
    message_collecting, message_count_pending, message_get, message_insert, message_list,
    message_list_old, message_list_pending, message_next, message_prune, message_update,
};
use supernode_store::told::{told_forget, told_prune, told_put, told_take};
use supernode_store::{ConflictKind, StoreError, Tx};
use supernode_types::channel::{Channel, ChannelState, Target};
use supernode_types::message::{Message, MessageState, Notice, Topic};
use supernode_types::{ChannelId, Timestamp};

use super::sample::{NOW, Sample, after, entropy};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    a_channel_is_listed_without_its_secrets,
    a_message_begins_once_and_goes_when_it_is_due,
    what_is_over_is_forgotten_and_what_waits_is_not,
    the_same_is_told_once_within_a_window,
);

fn channel(name: &str, seed: u64) -> Channel {
    serde_json::from_value(json!({
        "id": ChannelId::new(NOW, &entropy(seed)), "name": name, "kind": "slack", "address": "https://a.example/…",
        "severity": "warning", "private_addresses": "refused", "digest_seconds": 300, "repeat_seconds": 60, "actor": "ada",
        "created_at": NOW
    }))
    .expect("a channel")
}

fn target() -> Target {
    let value = json!({ "kind": "slack", "url": "https://a.example/canary" });
    serde_json::from_value(value).expect("a target")
}

fn state(retry_at: Timestamp) -> ChannelState {
    ChannelState {
        failures: 0,
        retry_at,
        last_error: None,
        delivered_at: None,
    }
}

fn insert(tx: &mut Tx<'_>, name: &str, seed: u64) -> Result<ChannelId, StoreError> {
    let channel = channel(name, seed);
    channel_insert(tx, &channel, &target(), &state(NOW))?;
    Ok(channel.id)
}

fn message(channel: &ChannelId, sequence: i64, topic: Topic, due: i64) -> Message {
    Message {
        channel: channel.clone(),
        sequence,
        topic,
        notices: vec![notice("a", 0)],
        omitted: 0,
        state: MessageState::Pending { last_error: None },
        attempts: 0,
        created_at: after(sequence),
        due_at: after(due),
    }
}

fn notice(key: &str, at: i64) -> Notice {
    serde_json::from_value(json!({
        "key": key, "status": "firing", "kind": "node.lost", "severity": "error", "message": "n1 is lost", "at": after(at)
    }))
    .expect("a notice")
}

fn a_channel_is_listed_without_its_secrets(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| {
        let (ops, night) = (insert(tx, "ops", 1)?, insert(tx, "night", 2)?);
        let names: Vec<String> = channel_list(tx)?
            .into_iter()
            .map(|record| record.channel.name.to_string())
            .collect();
        assert_eq!(names, ["night", "ops"]);
        for wanted in ["ops", ops.as_str()] {
            let expected = ChannelRecord {
                channel: channel("ops", 1),
                state: state(NOW),
            };
            assert_eq!(channel_find(tx, wanted)?, Some(expected));
        }
        assert!(!format!("{:?}", channel_list(tx)?).contains("canary"));
        assert_eq!(channel_target(tx, &ops)?, Some(target()));
        channel_delete(tx, &night)?;
        assert_eq!(channel_find(tx, "night")?, None);
        assert_eq!(channel_target(tx, &night)?, None);
        Ok(())
    });
    assert_eq!(
        sample.conflict(|tx| insert(tx, "ops", 3)),
        ConflictKind::Unique
    );
}

fn a_message_begins_once_and_goes_when_it_is_due(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| {
        let (ops, night) = (insert(tx, "ops", 1)?, insert(tx, "night", 2)?);
        message_insert(tx, &message(&ops, 1, Topic::Events, 10))?;
        message_insert(tx, &message(&ops, 2, Topic::Events, 5))?;
        message_insert(tx, &message(&night, 2, Topic::Events, 20))?;
        let due = |tx: &mut Tx<'_>, at: i64| -> Result<Vec<ChannelId>, StoreError> {
            let records = channel_list_due(tx, after(at))?;
            Ok(records
                .into_iter()
                .map(|record| record.channel.id)
                .collect())
        };
        assert_eq!(due(tx, 4)?, []);
        assert_eq!(due(tx, 5)?, std::slice::from_ref(&ops));
        assert_eq!(due(tx, 20)?.len(), 2);
        channel_state_update(tx, &ops, &state(after(21)))?;
        assert_eq!(due(tx, 20)?, std::slice::from_ref(&night));

        let next = |tx: &mut Tx<'_>, at: i64| -> Result<Option<i64>, StoreError> {
            let message = message_next(tx, &ops, after(at))?;
            Ok(message.map(|message| message.sequence))
        };
        assert_eq!(
            (next(tx, 4)?, next(tx, 5)?, next(tx, 10)?),
            (None, Some(2), Some(1))
        );
        message_insert(tx, &message(&ops, 3, Topic::Trial, 10))?;
        assert_eq!(next(tx, 10)?, Some(3), "a trial goes first");
        assert_eq!(message_count_pending(tx, &ops)?, 3);

        // What was tried takes nothing more in; what is too old neither.
        let collecting = |tx: &mut Tx<'_>, since: i64| -> Result<Option<i64>, StoreError> {
            let message = message_collecting(tx, &ops, &Topic::Events, after(since))?;
            Ok(message.map(|message| message.sequence))
        };
        assert_eq!((collecting(tx, 0)?, collecting(tx, 2)?), (Some(2), None));
        let mut tried = message_get(tx, &ops, 2)?.expect("stored");
        tried.attempts = 1;
        message_update(tx, &tried)?;
        assert_eq!(message_get(tx, &ops, 2)?, Some(tried));
        assert_eq!(collecting(tx, 0)?, Some(1));
        let all = message_list_pending(tx, &Topic::Events)?;
        assert_eq!(all.len(), 3);
        Ok(())
    });
    let again = sample.conflict(|tx| {
        let ops = channel_find(tx, "ops")?.expect("stored").channel.id;
        message_insert(tx, &message(&ops, 1, Topic::Events, 99))
    });
    assert_eq!(again, ConflictKind::Unique, "one message for an event");
}

fn what_is_over_is_forgotten_and_what_waits_is_not(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| {
        let ops = insert(tx, "ops", 1)?;
        for sequence in 1..=4 {
            message_insert(tx, &message(&ops, sequence, Topic::Events, 0))?;
        }
        let states = [
            MessageState::Delivered { at: after(9) },
            MessageState::Failed {
                at: after(9),
                reason: "no".into(),
            },
        ];
        for (sequence, state) in (1..).zip(states) {
            let stored = message_get(tx, &ops, sequence)?.expect("stored");
            message_update(tx, &Message { state, ..stored })?;
        }
        let sequences = |messages: Vec<Message>| -> Vec<i64> {
            messages.iter().map(|message| message.sequence).collect()
        };
        assert_eq!(sequences(message_list_old(tx, &ops, after(4), 9)?), [3]);
        assert_eq!(sequences(message_list_old(tx, &ops, after(9), 1)?), [3]);
        assert_eq!(sequences(message_list(tx, &ops, 3)?), [4, 3, 2]);
        message_prune(tx, after(2))?;
        assert_eq!(sequences(message_list(tx, &ops, 9)?), [4, 3, 2]);
        message_prune(tx, after(99))?;
        assert_eq!(sequences(message_list(tx, &ops, 9)?), [4, 3]);
        channel_delete(tx, &ops)?;
        assert_eq!(message_list(tx, &ops, 9)?, []);
        Ok(())
    });
}

fn the_same_is_told_once_within_a_window(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let (ops, night) = (insert(tx, "ops", 1)?, insert(tx, "night", 2)?);
        let node = Some(&basics.nodes[0].id);
        let window = |at: i64| after(at - 60);
        assert!(told_put(tx, &ops, node, &notice("a", 0), window(0))?);
        assert!(!told_put(tx, &ops, node, &notice("a", 59), window(59))?);
        assert!(told_put(tx, &ops, node, &notice("b", 59), window(59))?);
        assert!(told_put(tx, &night, node, &notice("a", 59), window(59))?);
        assert!(told_put(tx, &ops, node, &notice("a", 60), window(60))?);
        // What did not arrive may be told again, but not because an older one did not arrive.
        told_forget(tx, &ops, &notice("a", 0))?;
        assert!(!told_put(tx, &ops, node, &notice("a", 61), window(61))?);
        told_forget(tx, &ops, &notice("a", 60))?;
        assert!(told_put(tx, &ops, node, &notice("a", 62), window(62))?);
        let took = told_take(tx, &ops, &basics.nodes[0].id, "node.lost")?;
        assert_eq!(took, [notice("a", 62), notice("b", 59)]);
        assert_eq!(told_take(tx, &ops, &basics.nodes[0].id, "node.lost")?, []);
        assert_eq!(told_take(tx, &night, &basics.nodes[1].id, "node.lost")?, []);
        told_prune(tx, after(60))?;
        assert_eq!(told_take(tx, &night, &basics.nodes[0].id, "node.lost")?, []);
        Ok(())
    });
}
