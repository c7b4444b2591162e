//! A message with one of everything, for tests.

use serde_json::json;
use supernode_types::Timestamp;
use supernode_types::channel::{Channel, Delivery, Target};
use supernode_types::message::Message;

/// The key of the webhook.
pub(crate) const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

pub(crate) fn now() -> Timestamp {
    Timestamp(1_763_900_100_000_000)
}

pub(crate) fn target(kind: &str, url: &str) -> Target {
    let value = match kind {
        "webhook" => json!({ "kind": kind, "url": url, "key": KEY }),
        "dingtalk" | "feishu" => json!({ "kind": kind, "url": url, "key": "SECsecret" }),
        _ => json!({ "kind": kind, "url": url }),
    };
    serde_json::from_value(value).expect("a target")
}

pub(crate) fn message() -> Message {
    let at = "2025-11-23T12:13:20Z";
    serde_json::from_value(json!({
        "channel": "channel-01kb000000000000000000000a", "sequence": 7, "topic": {"run": "op-01kb000000000000000000000a"},
        "state": "pending", "attempts": 1, "created_at": at, "due_at": at,
        "notices": [
            {
                "key": "stress.suspect/node-01kb000000000000000000000a/memory stream_triad host level", "status": "firing",
                "kind": "stress.suspect", "severity": "warning", "at": at, "node": "n1", "super_node": "train",
                "message": "node n1: memory was slow once: STREAM triad 3 % below its past",
                "run": "op-01kb000000000000000000000a", "part": "memory stream_triad host level"
            },
            {
                "key": "node.quarantined/node-01kb000000000000000000000a", "status": "firing",
                "kind": "node.quarantined", "severity": "error", "at": at, "node": "n1", "super_node": "train",
                "message": "node n1 is quarantined and takes no new work: memory"
            },
            {
                "key": "node.disk_full/node-01kb000000000000000000000a", "status": "resolved", "resolved_at": at,
                "kind": "node.disk_full", "severity": "error", "at": at, "node": "n1", "super_node": "train",
                "message": "the system disk of n1 is 96 % used"
            }
        ]
    }))
    .expect("a message")
}

pub(crate) fn channel(kind: &str) -> Channel {
    serde_json::from_value(json!({
        "id": "channel-01kb000000000000000000000a", "name": "ops", "kind": kind, "address": "-", "severity": "warning",
        "private_addresses": "allowed", "digest_seconds": 300, "repeat_seconds": 86400, "actor": "ada",
        "created_at": "2025-11-23T12:13:20Z"
    }))
    .expect("a channel")
}

pub(crate) fn delivery(target: Target) -> Delivery {
    Delivery {
        channel: channel(target.kind().name()),
        target,
        message: message(),
        now: now(),
    }
}
