//! Provisioners themselves: the `exec` contract with all its failures, the directories of `local`, the shipped example.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use supernode_control::provisioner::{
    DiskAnswer, JoinParameters, ProvisionAction, ProvisionAnswer, ProvisionRequest, exec, local,
};

use crate::world::Patience;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn request(action: ProvisionAction) -> ProvisionRequest {
    ProvisionRequest {
        version: 1,
        action,
        request_id: format!("prov-1-{action:?}"),
        node_name: "node-a".into(),
        super_node: "train".into(),
        hyperplane: None,
        spec: serde_json::json!({ "name": "std", "definition": {} }),
        join: (action == ProvisionAction::Create).then(join),
        size_bytes: None,
    }
}

fn join() -> JoinParameters {
    JoinParameters {
        server: "127.0.0.1:7701".into(),
        api: "https://127.0.0.1:7700".into(),
        token: "secret".into(),
        ca_pem: "PEM\n".into(),
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(future)
}

fn call(command: &[&str], limit: Duration, action: ProvisionAction) -> ProvisionAnswer {
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    block_on(exec::call(&command, limit, &request(action)))
}

fn shell(script: &str) -> ProvisionAnswer {
    call(
        &["/bin/sh", "-c", script],
        PATIENCE,
        ProvisionAction::Create,
    )
}

fn retry(answer: ProvisionAnswer) -> String {
    match answer {
        ProvisionAnswer::Retry(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_a_disk_can_be_done_after_a_restart() {
    let command = |answer: &str| ["/bin/sh", "-c", &format!("echo '{answer}'")].map(str::to_owned);
    let grown = command(r#"{"status": "grown", "restart": true}"#);
    let disk = request(ProvisionAction::GrowDisk);
    let answer = block_on(exec::grow_disk(&grown, PATIENCE, &disk));
    assert_eq!(answer, DiskAnswer::GrownAfterRestart);
    let pending = command(r#"{"status": "pending", "message": "m", "restart": true}"#);
    let answer = block_on(exec::grow_disk(&pending, PATIENCE, &disk));
    let expected = ProvisionAnswer::Pending("m".into());
    assert_eq!(answer, DiskAnswer::Plain(expected), "not yet");
    let created = command(r#"{"status": "created", "restart": true}"#);
    let node = request(ProvisionAction::Create);
    let answer = block_on(exec::call(&created, PATIENCE, &node));
    assert_eq!(answer, ProvisionAnswer::Done);
}

#[test]
fn answers_are_understood() {
    let answered = |status: &str, action| {
        let script = format!(
            r#"cat >/dev/null; echo '{{"status": "{status}", "message": "m", "more": 1}}'"#
        );
        call(&["/bin/sh", "-c", &script], PATIENCE, action)
    };
    for status in ["created", "exists"] {
        assert_eq!(
            answered(status, ProvisionAction::Create),
            ProvisionAnswer::Done
        );
        retry(answered(status, ProvisionAction::Delete));
    }
    for status in ["deleted", "absent"] {
        assert_eq!(
            answered(status, ProvisionAction::Delete),
            ProvisionAnswer::Done
        );
        retry(answered(status, ProvisionAction::Create));
    }
    for action in [ProvisionAction::Create, ProvisionAction::Delete] {
        assert_eq!(
            answered("pending", action),
            ProvisionAnswer::Pending("m".into())
        );
    }
    assert!(retry(answered("exploded", ProvisionAction::Create)).contains("`exploded`: m"));
}

#[test]
fn the_command_gets_the_request_and_an_own_process_group() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("request.json");
    let script = format!(
        r#"cat >{0}; [ "$(ps -o pgid= -p $$ | tr -d ' ')" = "$$" ] && echo '{{"status": "created"}}'"#,
        file.display()
    );
    assert_eq!(shell(&script), ProvisionAnswer::Done);
    let text = std::fs::read(&file).expect("written");
    let received: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(received["version"], 1);
    assert_eq!(received["action"], "create");
    assert_eq!(received["node_name"], "node-a");
    assert_eq!(received["join"]["token"], "secret");
    assert_eq!(received["spec"]["name"], "std");
}

#[test]
fn every_failure_is_reported() {
    let missing = call(&["/no/such/program"], PATIENCE, ProvisionAction::Create);
    assert!(retry(missing).contains("/no/such/program cannot be started"));
    let empty = call(&[], PATIENCE, ProvisionAction::Create);
    assert!(matches!(empty, ProvisionAnswer::Refused(_)), "{empty:?}");
    let failed = retry(shell("echo first >&2; echo 'no quota' >&2; exit 1"));
    assert!(
        failed.contains("exit status: 1") && failed.ends_with("no quota"),
        "{failed}"
    );
    let refused = shell("echo 'unknown flavour' >&2; exit 2");
    assert!(
        matches!(&refused, ProvisionAnswer::Refused(why) if why.contains("unknown flavour")),
        "{refused:?}"
    );
    assert!(retry(shell("exit 3")).contains("no reason given"));
    assert!(retry(shell("kill -9 $$")).contains("signal: 9"));
    assert!(retry(shell("echo garbage")).contains("not the JSON"));
    assert!(retry(shell("true")).contains("not the JSON"));
    assert!(retry(shell(r#"echo '{"message": "no status"}'"#)).contains("status"));
    assert!(retry(shell(r"printf '\377\376'")).contains("not the JSON"));
    let both = retry(shell(r#"echo '{"status": "created"}'; exit 1"#));
    assert!(
        both.contains("exit status: 1"),
        "a failure beats what it said before: {both}"
    );
}

#[test]
fn a_command_that_does_not_answer_is_killed_with_its_children() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("pid");
    let script = format!(
        "sleep 1000 & echo $! >{}; cat >/dev/null; wait",
        file.display()
    );
    let limit = Duration::from_millis(300);
    let why = retry(call(
        &["/bin/sh", "-c", &script],
        limit,
        ProvisionAction::Create,
    ));
    assert!(why.contains("did not answer within 0.3 s"), "{why}");
    let pid: i32 = std::fs::read_to_string(&file)
        .expect("written")
        .trim()
        .parse()
        .expect("a number");
    let mut patience = Patience::new();
    while runs(pid) {
        patience.wait("the child is gone");
    }
}

fn runs(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

#[test]
fn too_much_output_is_no_answer_and_holds_nobody_up() {
    let flood = retry(shell("cat >/dev/null; head -c 3000000 /dev/zero"));
    assert!(flood.contains("more than 65536 bytes"), "{flood}");
    let noisy = retry(shell(
        "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo 'the end' >&2; exit 1",
    ));
    assert!(noisy.ends_with("the end"), "{noisy}");
    let long = retry(shell("head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1"));
    assert!(long.len() < 1000, "{}", long.len());
    let deaf = shell(r#"echo '{"status": "created"}'"#);
    assert_eq!(
        deaf,
        ProvisionAnswer::Done,
        "reading the request is not asked for"
    );
}

#[test]
fn the_local_provisioner_makes_and_marks_directories() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let nodes = directory.path().join("nodes");
    assert_eq!(
        local::delete(&nodes, "node-a"),
        ProvisionAnswer::Done,
        "there is none"
    );
    for _ in 0..2 {
        assert_eq!(
            local::create(&nodes, "node-a", &join()),
            ProvisionAnswer::Done
        );
    }
    let file = nodes.join("node-a").join(local::AGENT_FILE);
    let mode = std::fs::metadata(&file)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "the token is a secret");
    let parameters: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).expect("readable")).expect("JSON");
    assert_eq!(
        (&parameters["name"], &parameters["join"]["token"]),
        (&"node-a".into(), &"secret".into())
    );
    for _ in 0..2 {
        assert_eq!(local::delete(&nodes, "node-a"), ProvisionAnswer::Done);
        assert!(nodes.join("node-a").join(local::REMOVED_FILE).exists());
    }
    let blocked = directory.path().join("file");
    std::fs::write(&blocked, "").expect("writable");
    let why = retry(local::create(&blocked, "node-a", &join()));
    assert!(why.contains("file/node-a"), "{why}");
}

/// The example that is shipped, with an agent that only waits.
#[test]
fn the_shipped_example_keeps_the_contract() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let agent = directory.path().join("agent");
    std::fs::write(&agent, "#!/bin/sh\nexec sleep 1000\n").expect("writable");
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/provisioner/exec_provisioner.py");
    let command: Vec<String> = vec![
        "/usr/bin/env".into(),
        format!(
            "SUPERNODE_PROVISIONER_STATE={}",
            directory.path().join("state").display()
        ),
        format!("SUPERNODE_BINARY={}", agent.display()),
        "python3".into(),
        script.display().to_string(),
    ];
    let call = |request: &ProvisionRequest| block_on(exec::call(&command, PATIENCE, request));
    let create = request(ProvisionAction::Create);
    assert_eq!(call(&create), ProvisionAnswer::Done);
    assert_eq!(call(&create), ProvisionAnswer::Done, "repeated");
    let delete = ProvisionRequest {
        spec: serde_json::Value::Null,
        super_node: String::new(),
        ..request(ProvisionAction::Delete)
    };
    assert_eq!(call(&delete), ProvisionAnswer::Done);
    assert_eq!(call(&delete), ProvisionAnswer::Done, "repeated");
    let escape = ProvisionRequest {
        node_name: "../x".into(),
        request_id: "other".into(),
        ..create.clone()
    };
    assert!(matches!(call(&escape), ProvisionAnswer::Refused(_)));
    let same_key = ProvisionRequest {
        request_id: create.request_id,
        ..delete
    };
    assert!(
        matches!(call(&same_key), ProvisionAnswer::Refused(_)),
        "one key, one change"
    );
}
