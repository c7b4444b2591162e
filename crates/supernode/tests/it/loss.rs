//! `kill -9`, and nodes that fall silent.

use std::process::Stdio;

use serde_json::Value;

use crate::harness::Dev;

fn running(dev: &Dev, job: &str) -> Value {
    dev.until(&format!("{job} to run"), || {
        let shown = dev.json(&["job", "show", job]);
        (shown["state"]["state"] == "running").then_some(shown)
    })
}

fn submit(dev: &Dev, words: &[&str]) -> String {
    let mut all = vec!["job", "submit", "--super-node", "train", "--output", "json"];
    all.extend(words);
    let job: Value = serde_json::from_str(&dev.ok(&all)).expect("JSON");
    job["id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_killed_server_and_killed_agents_disturb_no_running_job() {
    let dev = Dev::start(2);
    dev.ok(&["super-node", "create", "train", "--nodes", "2", "--wait"]);
    let job = submit(&dev, &["--nodes", "2", "--", "sleep", "300"]);
    let before = running(&dev, &job);
    for name in ["server", "node-1", "node-2"] {
        let pid = dev.pid(name);
        dev.signal(name, "KILL");
        dev.until("another process", || (dev.pid(name) != pid).then_some(()));
    }
    dev.until("all agents to be back", || {
        let nodes = dev.json(&["node", "list"]);
        nodes
            .as_array()?
            .iter()
            .all(|node| !node["last_contact_at"].is_null())
            .then_some(())
    });
    let after = dev.json(&["job", "show", &job]);
    assert_eq!(after["attempts"], 1, "{after}");
    assert_eq!(after["state"]["attempt"], before["state"]["attempt"]);
    dev.ok(&["job", "cancel", &job]);
    dev.until("no lease to be left", || {
        let nodes = dev.json(&["node", "list"]);
        nodes
            .as_array()?
            .iter()
            .all(|node| node["leased_devices"] == 0)
            .then_some(())
    });
}

#[test]
fn a_silent_node_is_fenced_and_its_job_runs_elsewhere() {
    let dev = Dev::start(3);
    dev.ok(&["super-node", "create", "train", "--nodes", "3", "--wait"]);
    let directory = dev.path().join("stamps");
    std::fs::create_dir(&directory).expect("own directory");
    std::os::unix::fs::chown(&directory, None, None).expect("own directory");
    std::fs::set_permissions(
        &directory,
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .expect("own directory");
    // Each attempt keeps writing into a file of its own: two files that grow at once would be two live attempts.
    let script = format!(
        "while :; do date +%s%N >> {}/$SUPERNODE_ATTEMPT_ID; sleep 0.1; done",
        directory.display()
    );
    let job = submit(
        &dev,
        &["--nodes", "1", "--requeue", "1", "--", "sh", "-c", &script],
    );
    let first = running(&dev, &job);
    let node = first["ranks"][0]["node_name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let attempt = first["state"]["attempt"]
        .as_str()
        .expect("an attempt")
        .to_owned();
    dev.signal(&node, "STOP");
    let second = dev.until("another attempt", || {
        let shown = dev.json(&["job", "show", &job]);
        (shown["attempts"] == 2 && shown["state"]["state"] == "running").then_some(shown)
    });
    assert_ne!(
        second["ranks"][0]["node_name"].as_str(),
        Some(node.as_str())
    );
    let newer = second["state"]["attempt"].as_str().expect("an attempt");
    let times = |attempt: &str| -> Vec<u128> {
        let text = std::fs::read_to_string(directory.join(attempt)).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    let begun = dev.until("the new attempt to write", || times(newer).first().copied());
    let last = times(&attempt)
        .last()
        .copied()
        .expect("the first attempt wrote");
    assert!(
        last < begun,
        "the fenced attempt wrote at {last}, after the new one began at {begun}"
    );
    let silent = dev.json(&["node", "show", &node]);
    assert_eq!(silent["condition"]["state"], "lost", "{silent}");

    dev.signal(&node, "CONT");
    dev.until("the node to return", || {
        (dev.json(&["node", "show", &node])["condition"]["state"] == "ready").then_some(())
    });
    assert_eq!(
        dev.json(&["job", "show", &job])["attempts"],
        2,
        "its return disturbs nobody"
    );
    dev.ok(&["job", "cancel", &job]);
}

#[test]
fn a_following_client_survives_a_restart_of_the_server() {
    let dev = Dev::start(1);
    dev.ok(&["super-node", "create", "train", "--nodes", "1", "--wait"]);
    let child = dev
        .command(&[
            "run",
            "--super-node",
            "train",
            "--nodes",
            "1",
            "--",
            "sh",
            "-c",
            "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.5; done",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    dev.until("the job to run", || {
        let jobs = dev.json(&["job", "list"]);
        (jobs[0]["state"]["state"] == "running").then_some(())
    });
    let pid = dev.pid("server");
    dev.signal("server", "KILL");
    dev.until("another server", || {
        (dev.pid("server") != pid).then_some(())
    });
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for number in 1..=6 {
        assert_eq!(text.matches(&format!("line {number}")).count(), 1, "{text}");
    }
}
