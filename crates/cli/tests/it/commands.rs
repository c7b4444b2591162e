//! Whole commands against a server: what they send, print and end with.

use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::process::{Ended, PATIENCE, Place, command, finish};
use crate::server::{Asked, Reaction, Server, foreign_ca};

const JOB: &str = "job-01kb000000000000000000000a";
const OPERATION: &str = "op-01kb000000000000000000000a";

fn answer(status: u16, body: &Value) -> Reaction {
    Reaction::Answer(status, body.to_string())
}

fn later(body: &Value) -> Reaction {
    Reaction::Later(Duration::from_millis(50), Box::new(answer(200, body)))
}

fn node(name: &str, generation: i64, labels: &Value) -> Value {
    json!({
        "id": "node-01kb000000000000000000000a", "name": name, "membership": {"state": "spare"}, "super_node_name": null,
        "spec": {"state": "unknown"}, "spec_name": null, "policy": {"state": "in_service"}, "condition": {"state": "ready"},
        "health": {"state": "unproven"}, "labels": labels, "position": {}, "address": "127.0.0.1", "device_count": 1, "leased_devices": 0,
        "boot_id": "b", "agent_version": "0.1.0", "provision": null, "environment_applied": 0, "environment_problems": [],
        "desired_generation": 1, "generation": generation, "enrolled_at": "2025-11-23T12:00:00.000000Z", "last_contact_at": null,
        "certificate_ends_at": null
    })
}

fn operation(generation: i64, state: &Value, target: &Value) -> Value {
    let mut value = json!({
        "id": OPERATION, "kind": "scale_up", "admission": {"test": "none"}, "super_node": "sn-01kb000000000000000000000a", "super_node_name": "train",
        "targets": [{"slot": 0, "node": null, "provision": null, "chosen_because": "same rack", "state": target}],
        "target_names": ["n3"], "targets_done": 0, "actor": "ada", "deadline": "2025-11-23T12:28:20.000000Z",
        "cancel_requested": false, "generation": generation, "created_at": "2025-11-23T12:13:20.000000Z",
        "ended_at": (state["state"] != "running").then_some("2025-11-23T12:13:22.500000Z")
    });
    value
        .as_object_mut()
        .expect("an object")
        .extend(state.as_object().expect("an object").clone());
    value
}

fn job(generation: i64, state: &Value, ranks: u32) -> Value {
    let ranks: Vec<Value> = (0..ranks)
        .map(|rank| {
            json!({"attempt": "try-01kb000000000000000000000a", "job": JOB, "rank": rank, "node_rank": rank, "local_rank": 0,
                "node": "node-01kb000000000000000000000a", "node_name": format!("n{rank}"), "device": 0, "boot_id": "b",
                "state": {"state": "running"}})
        })
        .collect();
    json!({
        "id": JOB, "name": "ring", "owner": "ada", "super_node": "sn-01kb000000000000000000000a", "super_node_name": "train",
        "spec": {"nodes": 2, "devices": null, "arguments": ["true"], "environment": {}, "workdir": null, "priority": 0,
        "time_limit_seconds": null, "requeue_limit": 0, "grace_seconds": 10, "run_as_root": false},
        "state": state, "attempts": u32::from(!ranks.is_empty()), "requeues": 0, "cancel_requested_by": null, "generation": generation,
        "submitted_at": "2025-11-23T12:13:20.000000Z", "started_at": null, "ranks": ranks
    })
}

fn queued() -> Value {
    job(
        1,
        &json!({"state": "queued", "reason": "submitted just now"}),
        0,
    )
}

fn running(ranks: u32) -> Value {
    job(
        2,
        &json!({"state": "running", "attempt": "try-01kb000000000000000000000a", "since": "2025-11-23T12:13:20.000000Z"}),
        ranks,
    )
}

fn ended(outcome: &Value, ranks: u32) -> Value {
    job(
        3,
        &json!({"state": "ended", "outcome": outcome, "at": "2025-11-23T12:13:20.000000Z"}),
        ranks,
    )
}

fn chunk(content: &str, end: bool) -> Value {
    json!({"attempt": "try-01kb000000000000000000000a", "offset": 0, "next_offset": content.len(), "content": content, "end": end})
}

fn body(asked: &Asked) -> Value {
    serde_json::from_str(&asked.body).expect("the body is JSON")
}

#[tokio::test]
async fn json_output_is_the_apis_own() {
    let items = json!([node("n1", 3, &json!({"a": "b"})), node("n2", 1, &json!({}))]);
    let server = Server::start(vec![answer(200, &json!({"items": items}))]).await;
    let Ended { code, out, err } = Place::of(&server)
        .run(&["node", "list", "--output", "json"])
        .await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON"), items);
}

#[tokio::test]
async fn tables_in_a_pipe_are_plain_and_empty_lists_print_nothing() {
    let server = Server::start(vec![
        answer(200, &json!({"items": [node("n1", 3, &json!({}))]})),
        answer(200, &json!({"items": []})),
    ])
    .await;
    let place = Place::of(&server);
    let ended = place.run(&["node", "list"]).await;
    assert!(
        ended
            .out
            .starts_with("NAME  SUPER NODE  POLICY      CONDITION")
            && !ended.out.contains('\u{1b}'),
        "{}",
        ended.out
    );
    let ended = place.run(&["node", "list"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""));
    assert!(ended.err.contains("no nodes"), "{}", ended.err);
}

#[tokio::test]
async fn failures_have_their_exit_codes_and_one_clear_line() {
    let refusal = json!({"code": "jobs_running", "message": "2 jobs run on n2", "details": {"jobs": [JOB]}, "request_id": "r1"});
    let server = Server::start(vec![
        answer(409, &refusal),
        answer(
            400,
            &json!({"code": "invalid_request", "message": "no", "request_id": "r2"}),
        ),
        answer(
            500,
            &json!({"code": "internal", "message": "a bug", "request_id": "r3"}),
        ),
    ])
    .await;
    let place = Place::of(&server);
    let line = ["super-node", "scale-down", "train", "--count", "1"];
    let ended = place.run(&line).await;
    assert_eq!(
        (ended.code, ended.err),
        (
            Some(3),
            format!("error: 2 jobs run on n2 (request r1)\n  jobs:\n    {JOB}\n")
        )
    );
    assert_eq!(
        body(&server.asked()[0]),
        json!({"count": 1, "drain": {"mode": "refuse"}})
    );
    assert_eq!(place.run(&line).await.code, Some(2));
    assert_eq!(place.run(&line).await.code, Some(1));
    let ended = Place::with_ca(&server, &foreign_ca()).run(&line).await;
    assert_eq!(ended.code, Some(4), "{}", ended.err);
    let ended = finish(command(&["node", "list"])).await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.err.starts_with("error: no server is known"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn waiting_says_each_change_and_how_it_ended() {
    let start = operation(
        1,
        &json!({"state": "running", "waits_for": "1 node"}),
        &json!({"state": "active", "step": "joining"}),
    );
    let step = operation(
        2,
        &json!({"state": "running", "waits_for": "1 node"}),
        &json!({"state": "active", "step": "applying"}),
    );
    let done = operation(3, &json!({"state": "succeeded"}), &json!({"state": "done"}));
    let server = Server::start(vec![
        answer(202, &start),
        answer(200, &step),
        answer(200, &done),
    ])
    .await;
    let line = [
        "super-node",
        "scale-up",
        "train",
        "--count",
        "1",
        "--wait",
        "--deadline",
        "30m",
        "--idempotency-key",
        "k",
    ];
    let ended = Place::of(&server).run(&line).await;
    assert_eq!(
        ended.out,
        format!("{OPERATION} scale_up of train succeeded in 2.5 s\n")
    );
    assert_eq!(
        ended.err,
        "scale_up train: n3: joining\nscale_up train: 1 node\nscale_up train: n3: applying\nscale_up train: n3: done\n"
    );
    assert_eq!(ended.code, Some(0));
    let asked = server.asked();
    assert_eq!(
        (asked[0].header("idempotency-key"), body(&asked[0])),
        (Some("k"), json!({"count": 1, "deadline_seconds": 1800}))
    );
    assert_eq!(
        asked[1].line,
        format!(
            "GET /api/v1/operations/{OPERATION}?after_generation=1&wait_milliseconds=20000 HTTP/1.1"
        )
    );
}

#[tokio::test]
async fn a_failed_operation_ends_with_its_reason_also_in_json() {
    let failed = operation(
        2,
        &json!({"state": "failed", "reason": "the deadline passed"}),
        &json!({"state": "failed", "reason": "silent"}),
    );
    let server = Server::start(vec![answer(202, &failed)]).await;
    let ended = Place::of(&server)
        .run(&[
            "sn", "create", "train", "--nodes", "1", "--wait", "-o", "json",
        ])
        .await;
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        serde_json::from_str::<Value>(&ended.out).expect("JSON"),
        failed
    );
    assert!(ended.err.ends_with(&format!("error: scale_up of train failed: the deadline passed ({OPERATION}); n3 failed: silent\n")), "{}", ended.err);
}

#[tokio::test]
async fn without_wait_the_operation_is_named() {
    let start = operation(
        1,
        &json!({"state": "running", "waits_for": "1 node"}),
        &json!({"state": "active", "step": "joining"}),
    );
    let server = Server::start(vec![answer(202, &start)]).await;
    let ended = Place::of(&server)
        .run(&["sn", "create", "train", "--nodes", "1"])
        .await;
    assert_eq!(
        (ended.code, ended.out),
        (
            Some(0),
            format!("{OPERATION} scale_up of train running: 1 node\n")
        )
    );
    assert!(
        ended
            .err
            .contains(&format!("supernode operation wait {OPERATION}")),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn labels_are_written_onto_what_was_read() {
    let conflict = json!({"code": "precondition_failed", "message": "changed", "request_id": "r"});
    let server = Server::start(vec![
        answer(
            200,
            &with_detail(node("n1", 3, &json!({"a": "1", "b": "2"}))),
        ),
        answer(412, &conflict),
        answer(
            200,
            &with_detail(node("n1", 4, &json!({"a": "1", "c": "3"}))),
        ),
        answer(200, &node("n1", 5, &json!({}))),
    ])
    .await;
    let ended = Place::of(&server)
        .run(&["node", "label", "n1", "x=y", "a-"])
        .await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let asked = server.asked();
    assert_eq!(
        (asked[1].header("if-match"), body(&asked[1])),
        (Some("\"3\""), json!({"labels": {"b": "2", "x": "y"}}))
    );
    assert_eq!(
        (asked[3].header("if-match"), body(&asked[3])),
        (Some("\"4\""), json!({"labels": {"c": "3", "x": "y"}}))
    );
    assert_ne!(
        asked[1].header("idempotency-key"),
        asked[3].header("idempotency-key")
    );
}

fn with_detail(mut node: Value) -> Value {
    node["inventory"] = Value::Null;
    node["leases"] = json!([]);
    node
}

/// A job of two ranks: queued, running, then ended once both logs were asked for.
fn two_ranks(outcome: Value) -> impl Fn(&Asked) -> Reaction + Send + Sync + 'static {
    let logs = AtomicU32::new(0);
    move |asked| {
        let line = asked.line.as_str();
        if line.starts_with("POST /api/v1/jobs ") {
            answer(201, &queued())
        } else if line.contains("/ranks/0/log") {
            logs.fetch_add(1, Ordering::SeqCst);
            answer(200, &chunk("one\ntwo\n", true))
        } else if line.contains("/ranks/1/log") {
            logs.fetch_add(1, Ordering::SeqCst);
            answer(200, &chunk("half a line", true))
        } else if logs.load(Ordering::SeqCst) >= 2 {
            answer(200, &ended(&outcome, 2))
        } else {
            later(&running(2))
        }
    }
}

#[tokio::test]
async fn run_shows_every_rank_and_ends_with_the_jobs_code() {
    let failure = json!({"outcome": "failed", "rank": 1, "node": "n2", "end": {"how": "exited", "code": 7}, "last_lines": ["boom"]});
    let server = Server::answering(two_ranks(failure)).await;
    let place = Place::of(&server);
    let Ended { code, out, err } = place
        .run(&[
            "run",
            "--super-node",
            "train",
            "--nodes",
            "2",
            "--env",
            "A=B=C",
            "--",
            "python3",
            "x.py",
            "-v",
        ])
        .await;
    assert_eq!(code, Some(7), "{err}");
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[0] one", "[0] two", "[1] half a line"]);
    assert_eq!(
        err,
        format!(
            "error: job {JOB} (ring) failed: rank 1 on node n2 exited with code 7\n  its last lines:\n  | boom\n"
        )
    );
    let expected = json!({
        "super_node": "train", "nodes": 2, "arguments": ["python3", "x.py", "-v"], "environment": {"A": "B=C"}, "priority": 0,
        "requeue_limit": 0, "run_as_root": false, "strict": false, "workdir": place.path()
    });
    assert_eq!(body(&server.asked()[0]), expected);
}

#[tokio::test]
async fn run_in_json_prints_the_job() {
    let server = Server::answering(two_ranks(json!({"outcome": "succeeded"}))).await;
    let ended_run = Place::of(&server)
        .run(&["run", "-o", "json", "--super-node", "train", "--", "true"])
        .await;
    assert_eq!(ended_run.code, Some(0), "{}", ended_run.err);
    assert_eq!(
        serde_json::from_str::<Value>(&ended_run.out).expect("JSON"),
        ended(&json!({"outcome": "succeeded"}), 2)
    );
    assert!(ended_run.err.contains("two"), "{}", ended_run.err);
}

#[tokio::test]
async fn a_job_that_waits_says_why() {
    let asked_for = AtomicU32::new(0);
    let server = Server::answering(move |asked| {
        if asked.line.starts_with("POST") {
            return answer(201, &queued());
        }
        match asked_for.fetch_add(1, Ordering::SeqCst) {
            0 => answer(200, &queued()),
            1 => answer(
                200,
                &job(
                    1,
                    &json!({"state": "queued", "reason": "needs 2 nodes, 1 is free"}),
                    0,
                ),
            ),
            _ => answer(
                200,
                &ended(&json!({"outcome": "cancelled", "by": "eve"}), 0),
            ),
        }
    })
    .await;
    let ended = Place::of(&server)
        .run(&["run", "--super-node", "train", "--", "true"])
        .await;
    assert_eq!(ended.code, Some(130));
    assert_eq!(
        ended.err,
        format!(
            "{JOB} is queued: needs 2 nodes, 1 is free\nerror: job {JOB} (ring) was cancelled by eve\n"
        )
    );
}

/// A job of one rank that runs until it is cancelled.
fn until_cancelled() -> impl Fn(&Asked) -> Reaction + Send + Sync + 'static {
    let cancelled = Mutex::new(false);
    move |asked| {
        let line = asked.line.as_str();
        if line.contains("/cancel") {
            *cancelled.lock().expect("no holder panics") = true;
            return answer(202, &running(1));
        }
        let cancelled = *cancelled.lock().expect("no holder panics");
        if line.starts_with("POST /api/v1/jobs ") {
            answer(201, &queued())
        } else if line.contains("/log") {
            let rest = if cancelled {
                chunk("", true)
            } else {
                chunk("", false)
            };
            if line.contains("offset=0") {
                answer(200, &chunk("hello\n", false))
            } else {
                Reaction::Later(Duration::from_millis(50), Box::new(answer(200, &rest)))
            }
        } else if cancelled {
            later(&ended(&json!({"outcome": "cancelled", "by": "ada"}), 1))
        } else {
            later(&running(1))
        }
    }
}

async fn started(
    place: &Place,
    line: &[&str],
) -> (
    tokio::process::Child,
    BufReader<tokio::process::ChildStdout>,
) {
    let mut child = place.command(line).spawn().expect("it starts");
    let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut first = String::new();
    tokio::time::timeout(PATIENCE, out.read_line(&mut first))
        .await
        .expect("in time")
        .expect("reads");
    assert_eq!(first, "hello\n");
    (child, out)
}

fn signal(child: &tokio::process::Child, signal: Signal) {
    let id = i32::try_from(child.id().expect("it runs")).expect("small");
    kill(Pid::from_raw(id), signal).expect("it is ours");
}

#[tokio::test]
async fn the_first_interrupt_cancels_and_stays() {
    for way in [Signal::SIGINT, Signal::SIGTERM] {
        let server = Server::answering(until_cancelled()).await;
        let place = Place::of(&server);
        let (child, _out) = started(
            &place,
            &["run", "--super-node", "train", "--", "sleep", "99"],
        )
        .await;
        signal(&child, way);
        let ended: Ended = tokio::time::timeout(PATIENCE, child.wait_with_output())
            .await
            .expect("in time")
            .expect("it ran")
            .into();
        assert_eq!(ended.code, Some(130), "{}", ended.err);
        assert!(
            ended.err.contains("cancelling") && ended.err.ends_with("was cancelled by ada\n"),
            "{}",
            ended.err
        );
        assert_eq!(
            server
                .asked()
                .iter()
                .filter(|asked| asked.line.contains("/cancel"))
                .count(),
            1
        );
    }
}

#[tokio::test]
async fn the_second_interrupt_leaves() {
    let inner = until_cancelled();
    let server = Server::answering(move |asked| {
        if asked.line.contains("/cancel") {
            Reaction::Hang
        } else {
            inner(asked)
        }
    })
    .await;
    let place = Place::of(&server);
    let (mut child, _out) = started(
        &place,
        &["run", "--super-node", "train", "--", "sleep", "99"],
    )
    .await;
    signal(&child, Signal::SIGINT);
    let mut err = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, err.read_line(&mut line))
        .await
        .expect("in time")
        .expect("reads");
    assert!(line.starts_with("cancelling"), "{line}");
    signal(&child, Signal::SIGINT);
    let status = tokio::time::timeout(PATIENCE, child.wait())
        .await
        .expect("in time")
        .expect("it ran");
    assert_eq!(status.code(), Some(130));
    let mut rest = String::new();
    err.read_to_string(&mut rest).await.expect("reads");
    assert!(rest.starts_with("leaving"), "{rest}");
}

#[tokio::test]
async fn a_reader_that_goes_away_cancels_the_job_but_not_a_followed_one() {
    for (line, cancels) in [
        (vec!["run", "--super-node", "train", "--", "sleep", "99"], 1),
        (vec!["job", "logs", JOB, "--follow"], 0),
    ] {
        let server = Server::answering(until_cancelled()).await;
        let place = Place::of(&server);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = place.command(&line);
        command.stdout(Stdio::from(writer));
        let ended = finish(command).await;
        assert_eq!(
            ended.code,
            Some(if cancels == 1 { 130 } else { 0 }),
            "{line:?} {}",
            ended.err
        );
        assert_eq!(
            server
                .asked()
                .iter()
                .filter(|asked| asked.line.contains("/cancel"))
                .count(),
            cancels,
            "{line:?}"
        );
    }
}

#[tokio::test]
async fn an_interrupt_while_waiting_leaves_the_operation_alone() {
    let start = operation(
        1,
        &json!({"state": "running", "waits_for": "1 node"}),
        &json!({"state": "active", "step": "joining"}),
    );
    let server = Server::answering(move |asked| {
        if asked.line.starts_with("POST") {
            answer(202, &start)
        } else {
            Reaction::Hang
        }
    })
    .await;
    let place = Place::of(&server);
    let mut child = place
        .command(&["sn", "create", "train", "--nodes", "1", "--wait"])
        .spawn()
        .expect("it starts");
    let mut err = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let second = async {
        err.next_line().await.expect("reads");
        err.next_line().await.expect("reads")
    };
    tokio::time::timeout(PATIENCE, second)
        .await
        .expect("in time");
    signal(&child, Signal::SIGINT);
    let status = tokio::time::timeout(PATIENCE, child.wait())
        .await
        .expect("in time")
        .expect("it ran");
    assert_eq!(status.code(), Some(130));
    let last = err.next_line().await.expect("reads").unwrap_or_default();
    assert!(
        last.contains(&format!("supernode operation cancel {OPERATION}")),
        "{last}"
    );
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| !asked.line.contains("/cancel"))
    );
}

#[tokio::test]
async fn doctor_ends_with_1_if_something_is_broken() {
    let lost = AtomicU32::new(0);
    let server = Server::answering(move |asked| {
        let line = asked.line.as_str();
        if line.contains("/system") {
            answer(200, &json!({"version": env!("CARGO_PKG_VERSION"), "database": "sqlite", "provisioner": "local",
                "started_at": "2025-11-23T12:13:20Z", "lost_after_seconds": 10, "actor": "ada", "role": "admin"}))
        } else if line.contains("/nodes") {
            let mut node = node("n1", 1, &json!({}));
            if lost.fetch_add(1, Ordering::SeqCst) > 0 {
                node["condition"] = json!({"state": "lost", "since": "2025-11-23T12:13:20Z"});
            }
            answer(200, &json!({"items": [node]}))
        } else {
            answer(200, &json!({"items": []}))
        }
    })
    .await;
    let place = Place::of(&server);
    let ended = place.run(&["doctor"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.out);
    assert_eq!(
        ended
            .out
            .lines()
            .filter(|line| line.starts_with("OK "))
            .count(),
        9,
        "{}",
        ended.out
    );
    let ended = place.run(&["doctor", "-o", "json"]).await;
    let checks: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!(
        (ended.code, &checks[5]["verdict"], &checks[5]["check"]),
        (Some(1), &json!("FAIL"), &json!("nodes")),
        "{checks}"
    );
    let ended = Place::with_ca(&server, &foreign_ca())
        .run(&["doctor"])
        .await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.out.contains("FAIL  tls"), "{}", ended.out);
}

#[tokio::test]
async fn contexts_are_listed_chosen_and_shown_without_secrets() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("config.toml");
    let context = |server: &str| supernode_client::Context {
        server: server.into(),
        ca: "PEM".into(),
        token: "s3cret".into(),
    };
    for name in ["dev", "prod"] {
        supernode_cli::context::save_at(&config, name, &context(&format!("https://{name}")), false)
            .expect("saves");
    }
    let run = async |arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("SUPERNODE_CONFIG", &config);
        let ended = finish(command).await;
        assert!(!ended.out.contains("s3cret"), "{}", ended.out);
        ended
    };
    assert_eq!(
        run(&["context", "list"]).await.out,
        "CURRENT  NAME  SERVER\n*        dev   https://dev\n         prod  https://prod\n"
    );
    assert_eq!(
        run(&["context", "use", "prod"]).await.out,
        "using prod (https://prod)\n"
    );
    assert!(
        run(&["context", "show"])
            .await
            .out
            .starts_with("name:    prod\nserver:  https://prod\n")
    );
    let ended = run(&["context", "use", "test"]).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("it has: dev, prod"), "{}", ended.err);
}
