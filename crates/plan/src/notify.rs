//! Whom an event is told to, what is said, when it is sent, and what follows from an attempt.
//!
//! A channel is told what it asked for by kind, and what the stress run says whose plan names it. The same thing on the same part is
//! told once within a window; when it is over, that is told to whoever was told of it. The findings of one run are collected and told
//! together: when the run ends, or when the first of them has waited long enough.

use std::time::Duration;

use supernode_types::channel::{Channel, ChannelState, ChannelTerms, Delivered};
use supernode_types::event::{NewEvent, Severity};
use supernode_types::message::{Message, MessageState, Notice, NoticeStatus, Topic};
use supernode_types::stress::{Certainty, Finding, FindingKind};
use supernode_types::{ChannelId, Name, OperationId, Timestamp};

/// More notices of one message are counted, not told.
pub const MOST_NOTICES: usize = 50;
/// How long events without a run are collected at most.
const EVENTS_COLLECTED: Duration = Duration::from_secs(5);
/// A message that could not be sent for so long takes nothing more in; the next one is begun.
const COLLECTED_LONGEST: Duration = Duration::from_hours(1);
/// How long a message is tried.
pub const PATIENCE: Duration = Duration::from_hours(24);
/// How often a message is tried.
const MOST_ATTEMPTS: u32 = 150;
/// The first wait after a failure; each further one is twice as long.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// What is known of an event beside its text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// The name of its node.
    pub node: Option<&'a Name>,
    /// The name of its super node.
    pub super_node: Option<&'a Name>,
    /// The stress run that it belongs to.
    pub run: Option<&'a OperationId>,
    /// What that run found on the node.
    pub findings: &'a [Finding],
}

/// Whether a channel is told of an event; `named` are the channels that its run or plan names.
pub fn wanted(channel: &Channel, kind: &str, severity: Severity, named: &[Name]) -> bool {
    severity >= channel.terms.severity
        && (named.contains(&channel.name) || channel.terms.asked_for(kind))
}

/// What an event says: one notice, or one for each finding of a test.
pub fn notices(event: &NewEvent, context: &Context<'_>, now: Timestamp) -> Vec<Notice> {
    let whole = Notice {
        key: key(event),
        status: NoticeStatus::Firing,
        kind: event.kind.to_owned(),
        severity: event.severity,
        message: event.message.clone(),
        at: now,
        node: context.node.cloned(),
        super_node: context.super_node.cloned(),
        run: context.run.cloned(),
        part: None,
    };
    let (Some(node), false) = (context.node, context.findings.is_empty()) else {
        return vec![whole];
    };
    let of = |finding: &Finding| {
        let part = part(finding);
        let (severity, how) = match finding.kind {
            FindingKind::Hard => (event.severity, "is plainly wrong"),
            FindingKind::Confirmed(_) => (event.severity, "is slow, and was so again"),
            FindingKind::Doubtful(_) => (event.severity.min(Severity::Warning), "was slow once"),
            FindingKind::Network(ref found) => match found.certainty {
                Certainty::Confirmed => (event.severity, "is sick, and was so again"),
                Certainty::Doubtful => (event.severity.min(Severity::Warning), "was sick once"),
                Certainty::Ambiguous => (event.severity.min(Severity::Warning), "may be sick"),
            },
        };
        Notice {
            key: format!("{}/{part}", whole.key),
            severity,
            message: format!(
                "node {node}: {} {how}: {}",
                finding.item.name(),
                finding.words
            ),
            part: Some(part),
            ..whole.clone()
        }
    };
    context.findings.iter().map(of).collect()
}

/// A finding is the same when it is about the same part in the same way; its numbers differ each time.
fn part(finding: &Finding) -> String {
    let item = finding.item.name();
    match &finding.kind {
        FindingKind::Hard => item.to_owned(),
        FindingKind::Network(found) => format!("{item} {}", found.place.word()),
        FindingKind::Confirmed(slower) | FindingKind::Doubtful(slower) => format!(
            "{item} {} {} {}",
            slower.metric.name(),
            slower.part,
            slower.feature
        ),
    }
}

/// What a node does is the same in every run; what happens to a job or an operation is that one's.
fn key(event: &NewEvent) -> String {
    let subjects = &event.subjects;
    let node = subjects.node.as_ref().map(ToString::to_string);
    let job = subjects.job.as_ref().map(ToString::to_string);
    let operation = subjects.operation.as_ref().map(ToString::to_string);
    let super_node = subjects.super_node.as_ref().map(ToString::to_string);
    let subject = job.or(node).or(operation).or(super_node);
    format!("{}/{}", event.kind, subject.unwrap_or_default())
}

/// The kinds of notices about a node that are over with an event of this kind.
pub fn ended_by(kind: &str) -> &'static [&'static str] {
    match kind {
        "node.proven" | "node.released" => &[
            "stress.failed",
            "stress.suspect",
            "node.quarantined",
            "node.suspected",
            "node.quarantine_held",
        ],
        "node.ready" | "node.returned" => &["node.lost", "node.degraded"],
        "node.disk_relieved" => &["node.disk_filling", "node.disk_full"],
        _ => &[],
    }
}

/// A notice that is over.
#[must_use]
pub fn resolved(notice: Notice, now: Timestamp) -> Notice {
    Notice {
        status: NoticeStatus::Resolved { resolved_at: now },
        ..notice
    }
}

/// Until when the moment has to have been before which the same was told, to tell it again.
pub fn told_since(terms: &ChannelTerms, now: Timestamp) -> Timestamp {
    before(now, Duration::from_secs(terms.repeat_seconds))
}

/// A message that began before takes in no more notices.
pub fn collects_since(now: Timestamp) -> Timestamp {
    before(now, COLLECTED_LONGEST)
}

/// A message that began before is given up.
pub fn patience_since(now: Timestamp) -> Timestamp {
    before(now, PATIENCE)
}

fn before(now: Timestamp, duration: Duration) -> Timestamp {
    let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    Timestamp(now.0.saturating_sub(microseconds))
}

/// A message without notices, begun by the event with this sequence.
pub fn begin(
    channel: ChannelId,
    terms: &ChannelTerms,
    topic: Topic,
    sequence: i64,
    now: Timestamp,
) -> Message {
    let digest = Duration::from_secs(terms.digest_seconds);
    let wait = match &topic {
        Topic::Run(_) => digest,
        Topic::Events => digest.min(EVENTS_COLLECTED),
        Topic::Trial => Duration::ZERO,
    };
    Message {
        channel,
        sequence,
        topic,
        notices: Vec::new(),
        omitted: 0,
        state: MessageState::Pending { last_error: None },
        attempts: 0,
        created_at: now,
        due_at: now.plus(wait),
    }
}

/// Takes notices in; those without room are counted.
pub fn collect(message: &mut Message, notices: Vec<Notice>) {
    for notice in notices {
        if message.notices.len() < MOST_NOTICES {
            message.notices.push(notice);
        } else {
            message.omitted = message.omitted.saturating_add(1);
        }
    }
}

/// What becomes of a message and of its channel after an attempt. `spread` is a random number: channels that failed together are not
/// all tried again together.
pub fn after(
    message: Message,
    state: &ChannelState,
    delivered: Delivered,
    now: Timestamp,
    spread: u64,
) -> (Message, ChannelState) {
    let failed = |message: Message, reason: String| Message {
        state: MessageState::Failed { at: now, reason },
        ..message
    };
    match delivered {
        Delivered::Accepted => {
            let message = Message {
                state: MessageState::Delivered { at: now },
                ..message
            };
            let state = ChannelState {
                failures: 0,
                retry_at: now,
                last_error: None,
                delivered_at: Some(now),
            };
            (message, state)
        }
        // The other side is there and answers: what waits behind this message may go.
        Delivered::Refused { why } => {
            let state = ChannelState {
                failures: 0,
                retry_at: now,
                last_error: Some(why.clone()),
                ..state.clone()
            };
            (failed(message, why), state)
        }
        Delivered::Later { why, after } => {
            let failures = state.failures.saturating_add(1);
            let wait = back_off(failures, spread).max(after.unwrap_or_default().min(LONGEST_WAIT));
            let state = ChannelState {
                failures,
                retry_at: now.plus(wait),
                last_error: Some(why.clone()),
                ..state.clone()
            };
            let message = if message.topic == Topic::Trial {
                failed(message, why)
            } else if message.attempts >= MOST_ATTEMPTS {
                failed(
                    message,
                    format!("given up after {MOST_ATTEMPTS} attempts: {why}"),
                )
            } else {
                let last_error = Some(why);
                Message {
                    state: MessageState::Pending { last_error },
                    ..message
                }
            };
            (message, state)
        }
    }
}

/// A message that is too old.
#[must_use]
pub fn expired(message: Message, state: &ChannelState, now: Timestamp) -> Message {
    let why = match &message.state {
        MessageState::Pending {
            last_error: Some(why),
        } => Some(why),
        _ => state.last_error.as_ref(),
    };
    let hours = PATIENCE.as_secs() / 3600;
    let reason = match why {
        Some(why) => format!("not delivered within {hours} hours: {why}"),
        None => format!("not delivered within {hours} hours"),
    };
    Message {
        state: MessageState::Failed { at: now, reason },
        ..message
    }
}

/// Between three quarters of the wait and the whole.
fn back_off(failures: u32, spread: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let wait = (SHORTEST_WAIT * 2_u32.pow(doublings)).min(LONGEST_WAIT);
    let quarter = u32::try_from(spread % 256).unwrap_or(0);
    wait * (1024 - quarter) / 1024
}

#[cfg(test)]
mod tests {
    use supernode_types::NodeId;
    use supernode_types::event::Subjects;
    use supernode_types::stress::{
        Item, Metric, NetworkFault, NetworkFinding, NetworkPlace, Part, Slower,
    };

    use super::*;

    const NOW: Timestamp = Timestamp(1_763_900_000_000_000);

    fn event(kind: &'static str, node: bool, operation: &str) -> NewEvent {
        let node = node.then(|| "node-01kb000000000000000000000a".parse().expect("an id"));
        NewEvent {
            kind,
            severity: Severity::Error,
            message: "words".into(),
            subjects: Subjects {
                node,
                operation: Some(operation.parse().expect("an id")),
                ..Subjects::default()
            },
        }
    }

    fn slower(worse: f64) -> Slower {
        Slower {
            metric: Metric::StreamTriad,
            part: Part::Host,
            feature: "level".into(),
            worse,
            z: 5.0,
            baseline: 10.0,
            baseline_runs: 5,
        }
    }

    fn finding(kind: FindingKind) -> Finding {
        let item = match kind {
            FindingKind::Network(_) => Item::Network,
            _ => Item::Memory,
        };
        Finding {
            item,
            words: "STREAM triad".into(),
            kind,
            confidence: 0.99,
        }
    }

    fn sick(certainty: Certainty, worse: f64) -> NetworkFinding {
        let node: NodeId = "node-01kb000000000000000000000a".parse().expect("an id");
        NetworkFinding {
            place: NetworkPlace::NodeOut { node: node.clone() },
            fault: NetworkFault::Slow,
            certainty,
            words: "what n1 sends is slow".into(),
            confidence: 0.99,
            worse,
            measured: 40.0,
            baseline: 100.0,
            flows: 3,
            others: Vec::new(),
            nodes: vec![node],
        }
    }

    fn terms(digest_seconds: u64) -> ChannelTerms {
        ChannelTerms {
            severity: Severity::Warning,
            events: Vec::new(),
            private_addresses: supernode_types::channel::PrivateAddresses::Refused,
            ca_pem: None,
            digest_seconds,
            repeat_seconds: 60,
        }
    }

    fn message(topic: Topic, digest_seconds: u64) -> Message {
        let channel = "channel-01kb000000000000000000000a".parse().expect("an id");
        begin(channel, &terms(digest_seconds), topic, 7, NOW)
    }

    fn state() -> ChannelState {
        ChannelState {
            failures: 0,
            retry_at: NOW,
            last_error: None,
            delivered_at: None,
        }
    }

    fn later(after: Option<Duration>) -> Delivered {
        let why = "no route".into();
        Delivered::Later { why, after }
    }

    #[test]
    fn the_same_finding_has_the_same_key_in_every_run_and_with_other_numbers() {
        let node: Name = "n1".parse().expect("a name");
        let keys = |operation: &str, kinds: Vec<FindingKind>| -> Vec<(String, Severity)> {
            let findings: Vec<Finding> = kinds.into_iter().map(finding).collect();
            let context = Context {
                node: Some(&node),
                findings: &findings,
                ..Context::default()
            };
            let said = notices(&event("stress.failed", true, operation), &context, NOW);
            said.into_iter()
                .map(|notice| (notice.key, notice.severity))
                .collect()
        };
        let (one, other) = (
            "op-01kb000000000000000000000a",
            "op-01kb000000000000000000000b",
        );
        let confirmed = |worse| vec![FindingKind::Confirmed(slower(worse))];
        let first = keys(one, confirmed(0.02));
        assert_eq!(first, keys(other, confirmed(0.05)));
        assert!(
            first[0].0.ends_with("memory stream_triad host level"),
            "{first:?}"
        );
        assert_eq!(first[0].1, Severity::Error);
        let hard = keys(one, vec![FindingKind::Hard]);
        assert_ne!(hard, first);
        let doubtful = keys(one, vec![FindingKind::Doubtful(slower(0.02))]);
        assert_eq!(doubtful[0].1, Severity::Warning, "it is not certain");
        let network = |certainty, worse| {
            keys(
                one,
                vec![FindingKind::Network(Box::new(sick(certainty, worse)))],
            )
        };
        let sure = network(Certainty::Confirmed, 0.6);
        assert!(sure[0].0.ends_with("network node_out"), "{sure:?}");
        assert_eq!(sure, network(Certainty::Confirmed, 0.1));
        let unsure = network(Certainty::Ambiguous, 0.6);
        assert_eq!(unsure[0].1, Severity::Warning, "it may be another part");
        assert_eq!(
            keys(one, Vec::new()).len(),
            1,
            "without findings the event is told"
        );
    }

    #[test]
    fn what_happens_to_an_operation_is_that_operations() {
        let key = |operation| key(&event("operation.failed", false, operation));
        assert_ne!(
            key("op-01kb000000000000000000000a"),
            key("op-01kb000000000000000000000b")
        );
    }

    #[test]
    fn a_run_is_collected_for_the_digest_and_other_events_for_a_moment() {
        let run = || Topic::Run("op-01kb000000000000000000000a".parse().expect("an id"));
        let waits = |topic, digest| message(topic, digest).due_at.since(NOW).as_secs();
        assert_eq!((waits(run(), 300), waits(run(), 0)), (300, 0));
        assert_eq!((waits(Topic::Events, 300), waits(Topic::Events, 0)), (5, 0));
        assert_eq!(waits(Topic::Trial, 300), 0);
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let said = notices(
            &event("node.lost", true, "op-01kb000000000000000000000a"),
            &Context::default(),
            NOW,
        );
        let mut message = message(Topic::Events, 0);
        for _ in 0..MOST_NOTICES + 3 {
            collect(&mut message, said.clone());
        }
        assert_eq!((message.notices.len(), message.omitted), (MOST_NOTICES, 3));
    }

    #[test]
    fn a_failure_waits_a_refusal_does_not_and_a_success_forgets() {
        let (waiting, failing) = after(message(Topic::Events, 0), &state(), later(None), NOW, 0);
        let last_error = Some("no route".to_owned());
        assert_eq!(waiting.state, MessageState::Pending { last_error });
        assert_eq!(failing.retry_at, NOW.plus(SHORTEST_WAIT));
        let asked = later(Some(Duration::from_secs(90)));
        let (_, asked) = after(waiting.clone(), &failing, asked, NOW, 0);
        assert_eq!(
            (asked.failures, asked.retry_at.since(NOW).as_secs()),
            (2, 90)
        );
        let endless = later(Some(Duration::MAX));
        let (_, endless) = after(waiting.clone(), &failing, endless, NOW, 0);
        assert_eq!(endless.retry_at, NOW.plus(LONGEST_WAIT));

        let why = "it answered 400".into();
        let (refused, ready) = after(
            waiting.clone(),
            &failing,
            Delivered::Refused { why },
            NOW,
            0,
        );
        assert_eq!(refused.state.word(), "failed");
        assert_eq!((ready.failures, ready.retry_at), (0, NOW));

        let (_, ready) = after(waiting.clone(), &failing, Delivered::Accepted, NOW, 0);
        assert_eq!((ready.failures, ready.last_error), (0, None));

        let (trial, _) = after(message(Topic::Trial, 0), &state(), later(None), NOW, 0);
        assert_eq!(trial.state.word(), "failed", "a trial is tried once");
        let last = Message {
            attempts: MOST_ATTEMPTS,
            ..waiting.clone()
        };
        let (last, _) = after(last, &failing, later(None), NOW, 0);
        assert_eq!(last.state.word(), "failed");
        let MessageState::Failed { reason, .. } = expired(waiting, &failing, NOW).state else {
            panic!("it is given up");
        };
        assert_eq!(reason, "not delivered within 24 hours: no route");
    }

    #[test]
    fn waits_double_up_to_a_limit_and_are_spread() {
        let seconds = |failures, spread| back_off(failures, spread).as_secs_f64();
        assert_eq!(
            [1, 2, 5, 10, 11, 40].map(|failures| back_off(failures, 0).as_secs()),
            [1, 2, 16, 512, 600, 600]
        );
        for spread in 0..512 {
            let wait = seconds(10, spread);
            assert!((384.0..=512.0).contains(&wait), "{wait}");
        }
        assert!(seconds(10, 255) < 390.0);
        // A head that is refused all the time is given up because of its age, not long before.
        let all: f64 = (1..=MOST_ATTEMPTS)
            .map(|failures| seconds(failures, 0))
            .sum();
        assert!(all > PATIENCE.as_secs_f64() * 0.9, "{all}");
    }
}
