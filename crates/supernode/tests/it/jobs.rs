//! What happens to programs: exit codes, failures with their last lines, cancel, time limits, busy nodes.

use serde_json::Value;

use crate::harness::Dev;

fn train(nodes: u32) -> Dev {
    let dev = Dev::start(nodes);
    dev.ok(&[
        "super-node",
        "create",
        "train",
        "--nodes",
        &nodes.to_string(),
        "--wait",
    ]);
    dev
}

pub(crate) fn submit(dev: &Dev, options: &[&str], program: &[&str]) -> String {
    let mut words = vec!["job", "submit", "--super-node", "train"];
    words.extend(options);
    words.push("--output");
    words.push("json");
    words.push("--");
    words.extend(program);
    let text = dev.ok(&words);
    let job: Value = serde_json::from_str(&text).expect("JSON");
    job["id"].as_str().expect("an id").to_owned()
}

fn state(dev: &Dev, job: &str) -> String {
    dev.json(&["job", "show", job])["state"]["state"]
        .as_str()
        .expect("a state")
        .to_owned()
}

fn await_state(dev: &Dev, job: &str, wanted: &str) -> Value {
    dev.until(&format!("{job} to be {wanted}"), || {
        let shown = dev.json(&["job", "show", job]);
        (shown["state"]["state"] == wanted).then_some(shown)
    })
}

#[test]
fn run_ends_with_the_code_of_the_program_and_names_the_failed_rank() {
    let dev = train(2);
    let output = dev.run(&[
        "run",
        "--super-node",
        "train",
        "--nodes",
        "2",
        "--",
        "sh",
        "-c",
        "echo before; if [ $RANK = 1 ]; then echo the reason >&2; exit 7; fi; sleep 60",
    ]);
    assert_eq!(
        output.status.code(),
        Some(7),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("rank 1") && error.contains("code 7") && error.contains("the reason"),
        "{error}"
    );

    let output = dev.run(&[
        "run",
        "--super-node",
        "train",
        "--nodes",
        "1",
        "--",
        "no-such-program",
    ]);
    assert_eq!(output.status.code(), Some(127));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("no-such-program"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn ranks_know_their_place() {
    let dev = train(3);
    let script = "echo rank=$RANK local=$LOCAL_RANK world=$WORLD_SIZE node=$NODE_RANK master=$MASTER_ADDR:$MASTER_PORT";
    let output = dev.ok(&[
        "run",
        "--super-node",
        "train",
        "--nodes",
        "3",
        "--",
        "sh",
        "-c",
        script,
    ]);
    for rank in 0..3 {
        assert!(
            output.contains(&format!(
                "rank={rank} local=0 world=3 node={rank} master=127.0.0.1:"
            )),
            "{output}"
        );
    }
}

#[test]
fn a_busy_node_is_not_removed_unless_asked_and_then_its_job_runs_elsewhere() {
    let dev = train(3);
    let job = submit(&dev, &["--nodes", "1"], &["sleep", "300"]);
    let running = await_state(&dev, &job, "running");
    let node = running["ranks"][0]["node_name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let refusal = dev.refused(3, &["super-node", "scale-down", "train", "--node", &node]);
    assert!(
        refusal.contains(&job),
        "the answer lists the blocking job: {refusal}"
    );
    dev.ok(&[
        "super-node",
        "scale-down",
        "train",
        "--node",
        &node,
        "--mode",
        "evict",
        "--grace",
        "1s",
        "--wait",
    ]);
    let moved = await_state(&dev, &job, "running");
    assert_ne!(moved["ranks"][0]["node_name"].as_str(), Some(node.as_str()));
    assert_eq!(moved["attempts"], 2);
    dev.ok(&["job", "cancel", &job]);
    await_state(&dev, &job, "ended");
}

#[test]
fn cancel_and_time_limit_end_the_whole_tree() {
    let dev = train(1);
    // A program that ignores the stop signal and has a child in a session of its own.
    let marker = dev.path().display().to_string();
    let script =
        format!("trap '' TERM; setsid sh -c 'trap \"\" TERM; : {marker}; sleep 300' & sleep 300");
    let job = submit(
        &dev,
        &["--nodes", "1", "--grace", "1s"],
        &["sh", "-c", &script],
    );
    await_state(&dev, &job, "running");
    dev.until("the child to run", || {
        (processes_with(&marker) >= 2).then_some(())
    });
    dev.ok(&["job", "cancel", &job]);
    await_state(&dev, &job, "ended");
    assert_eq!(
        processes_with(&format!(": {marker}; sleep")),
        0,
        "nothing of the job is left"
    );

    let job = submit(
        &dev,
        &["--nodes", "1", "--time-limit", "1s", "--grace", "1s"],
        &["sleep", "300"],
    );
    let ended = await_state(&dev, &job, "ended");
    assert_eq!(ended["state"]["outcome"]["outcome"], "timed_out", "{ended}");
}

fn processes_with(text: &str) -> usize {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let command = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let shells = |line: &Vec<u8>| {
        line.starts_with(b"sh\0-c\0") && String::from_utf8_lossy(line).contains(text)
    };
    entries
        .filter_map(Result::ok)
        .filter_map(command)
        .filter(shells)
        .count()
}

#[test]
fn a_gang_waits_for_all_its_nodes_and_says_so() {
    let dev = train(2);
    let first = submit(&dev, &["--nodes", "1"], &["sleep", "300"]);
    await_state(&dev, &first, "running");
    let gang = submit(&dev, &["--nodes", "2"], &["true"]);
    let waiting = dev.until("the reason", || {
        let shown = dev.json(&["job", "show", &gang]);
        shown["state"]["reason"]
            .as_str()
            .filter(|reason| reason.contains("wait"))
            .map(str::to_owned)
    });
    assert!(waiting.contains('2'), "{waiting}");
    assert_eq!(state(&dev, &gang), "queued");
    dev.ok(&["job", "cancel", &first]);
    let ended = await_state(&dev, &gang, "ended");
    assert_eq!(ended["state"]["outcome"]["outcome"], "succeeded", "{ended}");
}

#[test]
fn the_same_idempotency_key_has_one_effect() {
    let dev = train(1);
    let words = [
        "job",
        "submit",
        "--super-node",
        "train",
        "--nodes",
        "1",
        "--idempotency-key",
        "once",
        "--output",
        "json",
        "--",
        "true",
    ];
    let (first, second) = (dev.ok(&words), dev.ok(&words));
    assert_eq!(first, second);
    assert_eq!(
        dev.json(&["job", "list"]).as_array().expect("a list").len(),
        1
    );
    let mut other = words;
    other[11] = "false";
    assert!(
        dev.refused(3, &other).contains("idempotency"),
        "another request under the same key is refused"
    );
}
