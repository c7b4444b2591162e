//! Channels: made, listed, tried, deleted. What of a channel is secret is stored beside it and never answered.

use std::time::Duration;

use supernode_plan::notify::{begin, collect, notices};
use supernode_store::Tx;
pub use supernode_store::channel::ChannelRecord;
use supernode_store::channel::{
    channel_delete, channel_find, channel_insert, channel_list, channel_state_update,
};
use supernode_store::event::event_insert;
use supernode_store::message::{message_count_pending, message_insert, message_list};
use supernode_store::stress_plan::stress_plan_list;
use supernode_types::channel::{Channel, ChannelState, ChannelTerms, PrivateAddresses, Target};
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::message::{Message, Topic};
use supernode_types::{ChannelId, Name};

use crate::intent::check_name;
use crate::{Intent, Refusal};

/// More channels are a mistake.
const MOST_CHANNELS: usize = 64;
/// Kinds of events that one channel asks for, and how long each may be.
const MOST_PATTERNS: usize = 32;
const LONGEST_PATTERN: usize = 64;
/// Certificates of authorities, in bytes.
const LONGEST_CA: usize = 64 * 1024;
const LONGEST_DIGEST: Duration = Duration::from_hours(12);
/// The longest that something told is remembered.
pub(crate) const LONGEST_REPEAT: Duration = Duration::from_hours(30 * 24);

/// Makes a channel. `address` is what may be shown of the target.
pub fn create(
    tx: &mut Tx<'_>,
    intent: &Intent,
    name: &Name,
    target: &Target,
    address: &str,
    terms: &ChannelTerms,
) -> Result<ChannelRecord, Refusal> {
    check_name::<ChannelId>(name)?;
    check(terms)?;
    if terms.private_addresses == PrivateAddresses::Allowed && !intent.admin {
        return Err(Refusal::Forbidden(
            "only an admin may let a channel lead to private addresses: it reaches what the server reaches".into(),
        ));
    }
    if channel_find(tx, name.as_str())?.is_some() {
        return Err(Refusal::AlreadyExists(format!(
            "there is a channel `{name}` already; choose another name, or delete it first"
        )));
    }
    if channel_list(tx)?.len() >= MOST_CHANNELS {
        return Err(Refusal::Conflict(format!(
            "there are {MOST_CHANNELS} channels already; delete one first"
        )));
    }
    let channel = Channel {
        id: ChannelId::new(intent.now, &*intent.entropy),
        name: name.clone(),
        kind: target.kind(),
        address: address.to_owned(),
        terms: terms.clone(),
        actor: intent.actor.clone(),
        created_at: intent.now,
    };
    let state = ChannelState {
        failures: 0,
        retry_at: intent.now,
        last_error: None,
        delivered_at: None,
    };
    channel_insert(tx, &channel, target, &state)?;
    Ok(ChannelRecord { channel, state })
}

/// All channels, by name.
pub fn list(tx: &mut Tx<'_>) -> Result<Vec<ChannelRecord>, Refusal> {
    Ok(channel_list(tx)?)
}

/// The channel with this id or name.
pub fn find(tx: &mut Tx<'_>, id_or_name: &str) -> Result<ChannelRecord, Refusal> {
    channel_find(tx, id_or_name)?
        .ok_or_else(|| Refusal::not_found("channel", "channel", id_or_name))
}

/// What a channel was told and has to be told, newest first.
pub fn messages(tx: &mut Tx<'_>, id: &ChannelId, limit: u32) -> Result<Vec<Message>, Refusal> {
    Ok(message_list(tx, id, limit)?)
}

/// How many messages a channel still has to be told.
pub fn pending(tx: &mut Tx<'_>, id: &ChannelId) -> Result<u32, Refusal> {
    Ok(message_count_pending(tx, id)?)
}

/// Deletes a channel and what was on its way. One that a plan names stays, or that plan would tell nobody.
pub fn delete(tx: &mut Tx<'_>, id_or_name: &str) -> Result<(), Refusal> {
    let ChannelRecord { channel, .. } = find(tx, id_or_name)?;
    let plans = stress_plan_list(tx)?;
    let naming = plans
        .iter()
        .find(|plan| plan.terms.notify.contains(&channel.name));
    if let Some(plan) = naming {
        return Err(Refusal::Conflict(format!(
            "stress plan {} tells channel {}; change it first with `supernode stress plan edit {} --notify …`",
            plan.id, channel.name, plan.id
        )));
    }
    Ok(channel_delete(tx, &channel.id)?)
}

/// Puts a message on its way that says only that somebody tries the channel. It is tried at once, and once.
pub fn test(tx: &mut Tx<'_>, intent: &Intent, id_or_name: &str) -> Result<Message, Refusal> {
    let ChannelRecord { channel, mut state } = find(tx, id_or_name)?;
    let event = NewEvent {
        kind: "channel.tested",
        severity: Severity::Info,
        message: format!(
            "{} tries channel {}: nothing has happened",
            intent.actor, channel.name
        ),
        subjects: Subjects::default(),
    };
    let sequence = event_insert(tx, &event, intent.now)?;
    let mut message = begin(
        channel.id.clone(),
        &channel.terms,
        Topic::Trial,
        sequence,
        intent.now,
    );
    let said = notices(
        &event,
        &supernode_plan::notify::Context::default(),
        intent.now,
    );
    collect(&mut message, said);
    message_insert(tx, &message)?;
    // Whoever tries a channel has perhaps just repaired it.
    state.retry_at = state.retry_at.min(intent.now);
    channel_state_update(tx, &channel.id, &state)?;
    Ok(message)
}

/// Names of channels that are there, each once.
pub(crate) fn checked_names(tx: &mut Tx<'_>, names: &[Name]) -> Result<Vec<Name>, Refusal> {
    let mut checked: Vec<Name> = Vec::new();
    for name in names {
        let name = find(tx, name.as_str())?.channel.name;
        if !checked.contains(&name) {
            checked.push(name);
        }
    }
    Ok(checked)
}

fn check(terms: &ChannelTerms) -> Result<(), Refusal> {
    if terms.events.len() > MOST_PATTERNS {
        return Err(Refusal::Invalid(format!(
            "{} kinds of events are too many; {MOST_PATTERNS} are the most, and `node.*` stands for many",
            terms.events.len()
        )));
    }
    for pattern in &terms.events {
        let text = pattern.strip_suffix('*').unwrap_or(pattern);
        let clean = |byte: u8| byte.is_ascii_lowercase() || byte == b'.' || byte == b'_';
        if pattern.is_empty() || pattern.len() > LONGEST_PATTERN || !text.bytes().all(clean) {
            return Err(Refusal::Invalid(format!(
                "`{}` is no kind of event; write for example node.lost, node.* or *",
                pattern.chars().take(LONGEST_PATTERN).collect::<String>()
            )));
        }
    }
    for (name, seconds, longest) in [
        ("digest_seconds", terms.digest_seconds, LONGEST_DIGEST),
        ("repeat_seconds", terms.repeat_seconds, LONGEST_REPEAT),
    ] {
        if seconds > longest.as_secs() {
            return Err(Refusal::Invalid(format!(
                "{name} is {seconds}; {} is the most",
                longest.as_secs()
            )));
        }
    }
    match &terms.ca_pem {
        Some(pem) if pem.len() > LONGEST_CA => Err(Refusal::Invalid(format!(
            "the certificates of the authorities are {} bytes long; {LONGEST_CA} is the most",
            pem.len()
        ))),
        _ => Ok(()),
    }
}
