//! Prometheus Alertmanager, API v2: an alert for each notice. Alerts with the same labels are one alert, so repetition does no harm.

use std::time::Duration;

use reqwest::Url;
use serde_json::{Value, json};
use supernode_types::Timestamp;
use supernode_types::channel::Delivery;
use supernode_types::event::Severity;
use supernode_types::message::{Notice, NoticeStatus};

use super::Request;
use crate::text::clean;

/// An alert that nobody renews ends after this at the earliest.
const SHORTEST_ALERT: Duration = Duration::from_hours(1);

pub(super) fn request(mut url: Url, delivery: &Delivery) -> Request {
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["api", "v2", "alerts"]);
    }
    let repeat = Duration::from_secs(delivery.channel.terms.repeat_seconds);
    // A finding is told again after this time if it is still found, and is over unless it is.
    let ends = delivery.now.plus(repeat.max(SHORTEST_ALERT));
    let notices = &delivery.message.notices;
    let alerts: Vec<Value> = notices.iter().map(|notice| alert(notice, ends)).collect();
    Request {
        url,
        headers: Vec::new(),
        body: Value::Array(alerts).to_string(),
    }
}

fn alert(notice: &Notice, ends: Timestamp) -> Value {
    let subject = notice.key.split_once('/').map_or("", |(_, rest)| rest);
    let mut labels = json!({
        "alertname": format!("supernode_{}", notice.kind.replace('.', "_")),
        "severity": match notice.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "critical",
        },
        "subject": clean(subject),
    });
    let mut annotations = json!({ "summary": clean(&notice.message) });
    let put = |into: &mut Value, name: &str, value: Option<String>| {
        if let Some(value) = value {
            into[name] = Value::String(clean(&value));
        }
    };
    put(
        &mut labels,
        "node",
        notice.node.as_ref().map(ToString::to_string),
    );
    put(
        &mut labels,
        "super_node",
        notice.super_node.as_ref().map(ToString::to_string),
    );
    put(&mut labels, "part", notice.part.clone());
    // Which run found it is no part of what it is.
    put(
        &mut annotations,
        "run",
        notice.run.as_ref().map(ToString::to_string),
    );
    let ends = match notice.status {
        NoticeStatus::Firing => ends,
        NoticeStatus::Resolved { resolved_at } => resolved_at,
    };
    json!({ "labels": labels, "annotations": annotations, "startsAt": notice.at, "endsAt": ends })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::sample;

    #[test]
    fn a_notice_is_an_alert_known_by_its_labels() {
        let delivery =
            sample::delivery(sample::target("alertmanager", "https://a.example/prefix/"));
        let request = crate::body::request(&delivery).expect("a request");
        assert_eq!(
            request.url.as_str(),
            "https://a.example/prefix/api/v2/alerts"
        );
        let alerts: Value = serde_json::from_str(&request.body).expect("JSON");
        assert_eq!(
            alerts[0],
            json!({
                "labels": {
                    "alertname": "supernode_stress_suspect", "severity": "warning", "node": "n1", "super_node": "train",
                    "part": "memory stream_triad host level",
                    "subject": "node-01kb000000000000000000000a/memory stream_triad host level"
                },
                "annotations": {
                    "summary": "node n1: memory was slow once: STREAM triad 3 % below its past",
                    "run": "op-01kb000000000000000000000a"
                },
                "startsAt": "2025-11-23T12:13:20.000000Z", "endsAt": "2025-11-24T12:15:00.000000Z"
            })
        );
        assert_eq!(alerts[1]["labels"]["severity"], "critical");
        let over = &alerts[2];
        assert_eq!(over["labels"]["alertname"], "supernode_node_disk_full");
        assert_eq!(over["endsAt"], "2025-11-23T12:13:20.000000Z");
        // Another run that finds the same makes no second alert.
        let mut again = delivery;
        again.message.notices[0].run = None;
        let request = crate::body::request(&again).expect("a request");
        let second: Value = serde_json::from_str(&request.body).expect("JSON");
        assert_eq!(second[0]["labels"], alerts[0]["labels"]);
    }
}
