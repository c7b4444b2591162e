//! Events and logs: what is read on after breaks and across attempts.

use futures::StreamExt;
use serde_json::{Value, json};
use supernode_api::event::EventListQuery;
use supernode_client::ClientError;

use crate::server::{Reaction, Server, limits};

const FIRST: &str = "try-01kb000000000000000000000a";
const SECOND: &str = "try-01kb000000000000000000000b";

fn event(sequence: i64) -> Value {
    json!({"sequence": sequence, "at": "2025-11-23T12:13:20Z", "kind": "node.lost", "severity": "warning", "message": "m"})
}

fn stream(events: &[i64]) -> Reaction {
    let body = events
        .iter()
        .map(|sequence| format!("id: {sequence}\ndata: {}\n\n", event(*sequence)))
        .collect::<Vec<_>>()
        .concat();
    Reaction::Raw(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: hello\n\n{body}"
    ))
}

#[tokio::test]
async fn events_go_on_behind_the_last_one_after_a_break() {
    let latest = Reaction::Answer(200, json!({"items": [event(4)]}).to_string());
    let refusal = Reaction::Answer(
        403,
        json!({"code": "forbidden", "message": "no", "request_id": "r"}).to_string(),
    );
    let server = Server::start(vec![
        latest,
        stream(&[5, 6]),
        Reaction::Drop,
        stream(&[7]),
        refusal,
    ])
    .await;
    let found: Vec<_> = server
        .client(limits())
        .events(EventListQuery::default())
        .into_stream()
        .collect()
        .await;
    let sequences: Vec<i64> = found.iter().flatten().map(|event| event.sequence).collect();
    assert_eq!(sequences, [5, 6, 7]);
    assert!(
        matches!(found.last(), Some(Err(ClientError::Api(_)))),
        "{found:?}"
    );
    let lines: Vec<String> = server.asked().into_iter().map(|asked| asked.line).collect();
    let asked = |after: i64| format!("GET /api/v1/events/stream?after_sequence={after} HTTP/1.1");
    assert_eq!(
        lines,
        [
            "GET /api/v1/events?limit=1 HTTP/1.1".to_owned(),
            asked(4),
            asked(6),
            asked(6),
            asked(7)
        ]
    );
}

#[tokio::test]
async fn the_last_frame_of_a_refused_stream_is_an_error() {
    let body =
        json!({"code": "unauthenticated", "message": "the token was revoked", "request_id": "r"});
    let frames = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndata: {}\n\nevent: error\ndata: {body}\n\n",
        event(5)
    );
    let server = Server::start(vec![Reaction::Raw(frames)]).await;
    let query = EventListQuery {
        after_sequence: Some(4),
        ..EventListQuery::default()
    };
    let found: Vec<_> = server
        .client(limits())
        .events(query)
        .into_stream()
        .collect()
        .await;
    assert!(
        matches!(&found[..], [Ok(_), Err(ClientError::Api(body))] if body.message == "the token was revoked"),
        "{found:?}"
    );
}

fn chunk(attempt: &str, offset: u64, content: &str, end: bool) -> Reaction {
    let next = offset + u64::try_from(content.len()).expect("short");
    Reaction::Answer(200, json!({"attempt": attempt, "offset": offset, "next_offset": next, "content": content, "end": end}).to_string())
}

fn job(state: &Value, attempt: &str) -> Reaction {
    let rank = json!({"attempt": attempt, "job": "job-01kb000000000000000000000a", "rank": 0, "node_rank": 0, "local_rank": 0,
        "node": "node-01kb000000000000000000000a", "node_name": "n1", "device": 0, "boot_id": "b", "state": {"state": "running"}});
    let job = json!({"id": "job-01kb000000000000000000000a", "name": "j", "owner": "ada", "super_node": "sn-01kb000000000000000000000a",
        "super_node_name": "train", "spec": {"nodes": 1, "devices": null, "arguments": ["true"], "workdir": null, "priority": 0,
        "time_limit_seconds": null, "requeue_limit": 1, "grace_seconds": 10, "run_as_root": false},
        "state": state, "attempts": 1, "requeues": 0, "cancel_requested_by": null, "generation": 3,
        "submitted_at": "2025-11-23T12:13:20Z", "started_at": null, "ranks": [rank]});
    Reaction::Answer(200, job.to_string())
}

fn ended() -> Value {
    json!({"state": "ended", "outcome": {"outcome": "succeeded"}, "at": "2025-11-23T12:13:20Z"})
}

#[tokio::test]
async fn a_log_is_followed_into_the_next_attempt() {
    let server = Server::start(vec![
        chunk(FIRST, 0, "one\n", false),
        chunk(FIRST, 4, "two\n", true),
        job(&json!({"state": "queued", "reason": "lost n1"}), FIRST),
        job(
            &json!({"state": "running", "attempt": SECOND, "since": "2025-11-23T12:13:20Z"}),
            SECOND,
        ),
        chunk(SECOND, 0, "again\n", true),
        job(&ended(), SECOND),
    ])
    .await;
    let found: Vec<_> = server
        .client(limits())
        .follow_log("j", 0)
        .into_stream()
        .map(|item| item.expect("readable"))
        .collect()
        .await;
    let found: Vec<_> = found
        .iter()
        .map(|chunk| (chunk.attempt.as_deref(), chunk.content.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (Some(FIRST), "one\n"),
            (Some(FIRST), "two\n"),
            (Some(SECOND), "again\n")
        ]
    );
    let lines: Vec<String> = server.asked().into_iter().map(|asked| asked.line).collect();
    assert_eq!(
        lines[1],
        format!(
            "GET /api/v1/jobs/j/ranks/0/log?attempt={FIRST}&offset=4&wait_milliseconds=20000 HTTP/1.1"
        )
    );
    assert_eq!(
        lines[3],
        "GET /api/v1/jobs/j?after_generation=3&wait_milliseconds=20000 HTTP/1.1"
    );
    assert_eq!(
        lines[4],
        format!(
            "GET /api/v1/jobs/j/ranks/0/log?attempt={SECOND}&offset=0&wait_milliseconds=20000 HTTP/1.1"
        )
    );
}

#[tokio::test]
async fn a_log_that_cannot_be_read_any_more_ends_with_the_reason() {
    let gone = || {
        Reaction::Answer(
            409,
            json!({"code": "conflict", "message": "n1 is lost", "request_id": "r"}).to_string(),
        )
    };
    let server = Server::start(vec![
        gone(),
        job(&ended(), FIRST),
        gone(),
        job(&ended(), FIRST),
    ])
    .await;
    let found: Vec<_> = server
        .client(limits())
        .follow_log("j", 0)
        .into_stream()
        .collect()
        .await;
    assert!(
        matches!(&found[..], [Err(ClientError::Api(body))] if body.message == "n1 is lost"),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_job_that_never_ran_has_an_empty_log() {
    let empty = || {
        let chunk =
            json!({"attempt": null, "offset": 0, "next_offset": 0, "content": "", "end": false});
        Reaction::Answer(200, chunk.to_string())
    };
    let over = || {
        let Reaction::Answer(status, body) = job(&ended(), FIRST) else {
            unreachable!("it answers")
        };
        let mut body: Value = serde_json::from_str(&body).expect("written above");
        body["ranks"] = json!([]);
        Reaction::Answer(status, body.to_string())
    };
    let server = Server::start(vec![empty(), over(), empty(), over()]).await;
    let found = server
        .client(limits())
        .follow_log("j", 0)
        .into_stream()
        .count()
        .await;
    assert_eq!(found, 0);
}
