//! Calls: what is sent, how refusals and broken connections come out, and what is repeated.

use std::time::Duration;

use serde_json::json;
use supernode_api::job::{JobList, JobListQuery};
use supernode_api::node::{NodeCordon, NodeCordonRequest, NodeList, NodeListQuery, NodeUncordon};
use supernode_api::spec::{SpecDelete, SpecList};
use supernode_api::{ErrorCode, Nothing, Watch, operation::OperationShow};
use supernode_client::{CallOptions, ClientError, Context, Limits};

use crate::server::{Reaction, Server, client, foreign_ca, limits};

fn empty_page() -> Reaction {
    Reaction::Answer(200, r#"{"items":[]}"#.into())
}

fn unavailable() -> Reaction {
    Reaction::Answer(
        503,
        r#"{"code":"unavailable","message":"the database is locked","request_id":"r1"}"#.into(),
    )
}

#[tokio::test]
async fn a_request_carries_token_query_and_no_body() {
    let server = Server::start(vec![empty_page()]).await;
    let query = JobListQuery {
        state: Some("a b&c".into()),
        ..JobListQuery::default()
    };
    server
        .client(limits())
        .get::<JobList>(&[], &query)
        .await
        .expect("answers");
    let asked = &server.asked()[0];
    assert_eq!(asked.line, "GET /api/v1/jobs?state=a+b%26c HTTP/1.1");
    assert_eq!(asked.header("authorization"), Some("Bearer secret"));
    assert_eq!(
        (
            asked.header("idempotency-key"),
            asked.header("content-length"),
            asked.body.as_str()
        ),
        (None, None, "")
    );
}

#[tokio::test]
async fn a_change_carries_key_and_generation() {
    let server = Server::start(vec![Reaction::Answer(200, "{}".into())]).await;
    let options = CallOptions {
        idempotency_key: Some("k1".into()),
        if_match: Some(7),
    };
    server
        .client(limits())
        .call::<SpecDelete>(&["a/b"], &Nothing {}, &Nothing {}, &options)
        .await
        .expect("answers");
    let asked = &server.asked()[0];
    assert_eq!(asked.line, "DELETE /api/v1/specs/a%2Fb HTTP/1.1");
    assert_eq!(
        (asked.header("idempotency-key"), asked.header("if-match")),
        (Some("k1"), Some("\"7\""))
    );
}

#[tokio::test]
async fn a_refusal_comes_out_as_the_server_wrote_it() {
    let body = json!({"code": "jobs_running", "message": "1 job runs on n2", "details": {"jobs": ["job-1"]}, "request_id": "r9"});
    let server = Server::start(vec![Reaction::Answer(409, body.to_string())]).await;
    let error = server
        .client(limits())
        .call::<NodeUncordon>(&["n2"], &Nothing {}, &Nothing {}, &CallOptions::default())
        .await
        .expect_err("it was refused");
    let ClientError::Api(found) = error else {
        panic!("{error}")
    };
    assert_eq!(
        (found.code, found.request_id.as_str(), found.details),
        (
            ErrorCode::JobsRunning,
            "r9",
            Some(json!({"jobs": ["job-1"]}))
        )
    );
    assert_eq!(server.asked().len(), 1, "a refusal is not asked again");
}

#[tokio::test]
async fn a_dropped_change_is_repeated_with_the_same_key() {
    let answer =
        json!({"code": "not_found", "message": "no node n1", "request_id": "r"}).to_string();
    let server = Server::start(vec![
        Reaction::Drop,
        unavailable(),
        Reaction::Answer(404, answer),
    ])
    .await;
    let request = NodeCordonRequest {
        reason: "fan".into(),
    };
    let error = server
        .client(limits())
        .call::<NodeCordon>(&["n1"], &Nothing {}, &request, &CallOptions::default())
        .await;
    assert_eq!(
        error.expect_err("the last answer counts").code(),
        Some(ErrorCode::NotFound)
    );
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    let keys: Vec<_> = asked
        .iter()
        .map(|one| {
            one.header("idempotency-key")
                .expect("a change has a key")
                .to_owned()
        })
        .collect();
    assert!(
        keys.iter().all(|key| *key == keys[0] && key.len() == 32),
        "{keys:?}"
    );
    assert!(asked.iter().all(|one| one.body == r#"{"reason":"fan"}"#
        && one.header("content-type") == Some("application/json")));
}

#[tokio::test]
async fn two_changes_have_two_keys() {
    let server = Server::start(vec![
        Reaction::Answer(200, "{}".into()),
        Reaction::Answer(200, "{}".into()),
    ])
    .await;
    let client = server.client(limits());
    for _ in 0..2 {
        client
            .call::<SpecDelete>(&["s"], &Nothing {}, &Nothing {}, &CallOptions::default())
            .await
            .expect("answers");
    }
    let asked = server.asked();
    assert_ne!(
        asked[0].header("idempotency-key"),
        asked[1].header("idempotency-key")
    );
}

#[tokio::test]
async fn repeating_ends_and_names_the_key_of_an_uncertain_change() {
    let server = Server::start(vec![Reaction::Drop]).await;
    let limits = Limits {
        retry_for: Duration::from_millis(300),
        ..limits()
    };
    let options = CallOptions {
        idempotency_key: Some("mine".into()),
        if_match: None,
    };
    let error = server
        .client(limits)
        .call::<SpecDelete>(&["s"], &Nothing {}, &Nothing {}, &options)
        .await
        .expect_err("it is gone");
    let ClientError::NotReachable {
        idempotency_key, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(idempotency_key.as_deref(), Some("mine"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let context = Context {
        server: "https://127.0.0.1:1".into(),
        ca: foreign_ca(),
        token: "t".into(),
    };
    let limits = Limits {
        retry_for: Duration::ZERO,
        ..limits()
    };
    let error = client(&context, limits)
        .get::<SpecList>(&[], &Nothing {})
        .await
        .expect_err("port 1 is closed");
    assert_eq!(
        error.to_string(),
        "cannot reach https://127.0.0.1:1: Connection refused (os error 111)"
    );
}

#[tokio::test]
async fn another_authority_is_not_trusted_and_not_asked_again() {
    let server = Server::start(vec![empty_page()]).await;
    let context = Context {
        ca: foreign_ca(),
        ..server.context()
    };
    let error = client(&context, limits())
        .get::<SpecList>(&[], &Nothing {})
        .await
        .expect_err("the authority is foreign");
    assert!(
        matches!(&error, ClientError::Untrusted { why, .. } if why.contains("another authority")),
        "{error:?}"
    );
    assert!(server.asked().is_empty(), "the token was not sent");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = Server::start(vec![Reaction::Hang]).await;
    let limits = Limits {
        total: Duration::from_millis(200),
        ..limits()
    };
    let options = CallOptions {
        idempotency_key: Some("k".into()),
        if_match: None,
    };
    let error = server
        .client(limits)
        .call::<SpecDelete>(&["s"], &Nothing {}, &Nothing {}, &options)
        .await
        .expect_err("no answer");
    assert!(
        matches!(&error, ClientError::Timeout { idempotency_key: Some(key), .. } if key == "k"),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_time_that_a_request_asks_for_is_added() {
    // The server answers after it was connected to; what is checked is that 0 s plus the requested wait is not 0 s.
    let server = Server::start(vec![Reaction::Answer(
        404,
        r#"{"code":"not_found","message":"m","request_id":"r"}"#.into(),
    )])
    .await;
    let limits = Limits {
        total: Duration::ZERO,
        ..limits()
    };
    let watch = Watch {
        after_generation: Some(1),
        wait_milliseconds: Some(5000),
    };
    let error = server
        .client(limits)
        .get::<OperationShow>(&["op"], &watch)
        .await
        .expect_err("not found");
    assert_eq!(error.code(), Some(ErrorCode::NotFound), "{error}");
}

#[tokio::test]
async fn an_oversized_answer_is_refused_announced_or_not() {
    let large = format!(r#"{{"items":[],"pad":"{}"}}"#, "x".repeat(200_000));
    let unannounced = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{large}");
    let server = Server::start(vec![
        Reaction::Answer(200, large),
        Reaction::Raw(unannounced),
    ])
    .await;
    for _ in 0..2 {
        let error = server
            .client(limits())
            .get::<SpecList>(&[], &Nothing {})
            .await
            .expect_err("too large");
        assert!(
            matches!(&error, ClientError::Protocol { what, .. } if what.contains("larger than 100000")),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn answers_of_something_else_are_named() {
    let moved = "HTTP/1.1 302 Found\r\nlocation: https://example.org/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned();
    let server = Server::start(vec![
        Reaction::Answer(200, "<html>".into()),
        Reaction::Answer(201, "{}".into()),
        Reaction::Raw(moved),
        Reaction::Answer(502, "bad gateway".into()),
    ])
    .await;
    for expected in [
        "spec_list: expected value",
        "status 201 instead of 200",
        "status 302",
        "status 502 with `bad gateway`",
    ] {
        let error = server
            .client(limits())
            .get::<SpecList>(&[], &Nothing {})
            .await
            .expect_err("not this API");
        assert!(
            matches!(&error, ClientError::Protocol { what, .. } if what.contains(expected)),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn lists_follow_their_pages() {
    let job = |name: &str| {
        json!({"id": "job-01kb000000000000000000000a", "name": name, "owner": "ada", "super_node": "sn-01kb000000000000000000000a",
            "super_node_name": "train", "spec": {"nodes": 1, "devices": null, "arguments": ["true"], "workdir": null, "priority": 0,
            "time_limit_seconds": null, "requeue_limit": 0, "grace_seconds": 10, "run_as_root": false},
            "state": {"state": "queued", "reason": "r"}, "attempts": 0, "requeues": 0, "cancel_requested_by": null, "generation": 1,
            "submitted_at": "2025-11-23T12:13:20Z", "started_at": null})
    };
    let first = json!({"items": [job("a")], "next_cursor": "c/1"}).to_string();
    let second = json!({"items": [job("b")]}).to_string();
    let server = Server::start(vec![
        Reaction::Answer(200, first),
        Reaction::Answer(200, second),
    ])
    .await;
    let jobs = server
        .client(limits())
        .list::<JobList, _>(&[], &JobListQuery::default())
        .await
        .expect("answers");
    assert_eq!(
        jobs.iter()
            .map(|job| job.job.name.as_str())
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(
        server.asked()[1].line,
        "GET /api/v1/jobs?cursor=c%2F1&limit=1000 HTTP/1.1"
    );
}

#[tokio::test]
async fn a_cursor_that_stands_still_does_not_loop() {
    let page = || Reaction::Answer(200, r#"{"items":[],"next_cursor":"same"}"#.into());
    let server = Server::start(vec![page(), page()]).await;
    let nodes = server
        .client(limits())
        .list::<NodeList, _>(&[], &NodeListQuery::default())
        .await
        .expect("answers");
    assert!(nodes.is_empty());
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn unusable_settings_are_said_before_anything_is_sent() {
    let server = Server::start(vec![empty_page()]).await;
    for (context, expected) in [
        (
            Context {
                ca: String::new(),
                ..server.context()
            },
            "CA certificate",
        ),
        (
            Context {
                ca: "nonsense".into(),
                ..server.context()
            },
            "CA certificate",
        ),
        (
            Context {
                token: "a\nb".into(),
                ..server.context()
            },
            "token",
        ),
        (
            Context {
                server: "http://127.0.0.1".into(),
                ..server.context()
            },
            "https://",
        ),
    ] {
        let error = supernode_client::Client::new(&context).expect_err("unusable");
        assert!(
            matches!(&error, ClientError::Settings(text) if text.contains(expected)),
            "{error:?}"
        );
    }
    let options = CallOptions {
        idempotency_key: Some("with space".into()),
        if_match: None,
    };
    let error = server
        .client(limits())
        .call::<SpecDelete>(&["s"], &Nothing {}, &Nothing {}, &options)
        .await;
    assert!(matches!(error, Err(ClientError::Settings(_))));
}
