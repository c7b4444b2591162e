//! Tests of nodes with real agents and real kernels: a run from end to end, what is killed in the middle, and a bad memory.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use crate::harness::Dev;

fn id(value: &Value) -> String {
    value["id"].as_str().expect("an id").to_owned()
}

/// Starts a run; answers its id.
fn run(dev: &Dev, words: &[&str]) -> String {
    let mut all = vec!["stress", "run"];
    all.extend(words);
    id(&dev.json(&all))
}

/// The run when it has ended.
pub(crate) fn ended(dev: &Dev, run: &str) -> Value {
    dev.until(&format!("{run} to end"), || if_ended(dev, run))
}

/// The run if it has ended.
pub(crate) fn if_ended(dev: &Dev, run: &str) -> Option<Value> {
    let shown = dev.json(&["stress", "show", run]);
    (shown["operation"]["state"] != "running").then_some(shown)
}

pub(crate) fn outcomes(shown: &Value) -> Vec<&str> {
    let results = shown["results"].as_array().expect("a list");
    let words = results.iter().map(|result| result["outcome"].as_str());
    words.map(|word| word.expect("a word")).collect()
}

fn leased(dev: &Dev) -> u64 {
    let nodes = dev.json(&["node", "list"]);
    let nodes = nodes.as_array().expect("a list").clone();
    nodes
        .iter()
        .map(|node| node["leased_devices"].as_u64().expect("a number"))
        .sum()
}

/// A step that names a kernel, of the only target.
fn is_tested(dev: &Dev, run: &str) -> Option<()> {
    let shown = dev.json(&["stress", "show", run]);
    let state = &shown["operation"]["targets"][0]["state"];
    let step = state["step"].as_str().unwrap_or_default();
    step.starts_with("is tested").then_some(())
}

/// The kernels that the agent of a node has started.
pub(crate) fn kernels(dev: &Dev, node: &str) -> Vec<u32> {
    let agent = dev.pid(node);
    let children = format!("/proc/{agent}/task");
    let mut found = Vec::new();
    for task in fs::read_dir(children).into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(
            text.split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    found.retain(|pid: &u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("stress-kernel")
    });
    found
}

#[test]
fn nodes_are_tested_one_at_a_time_between_jobs_and_given_back() {
    let dev = Dev::start(2);
    dev.ok(&["super-node", "create", "train", "--nodes", "2", "--wait"]);
    let run = run(
        &dev,
        &[
            "--super-node",
            "train",
            "--items",
            "memory",
            "--kernel-seconds",
            "1",
            "--max-nodes",
            "1",
        ],
    );
    dev.until("the first node to be tested", || is_tested(&dev, &run));
    assert_eq!(leased(&dev), 1, "one node at a time");
    let shown = ended(&dev, &run);
    assert_eq!(shown["operation"]["state"], "succeeded", "{shown}");
    // On a machine that others use as well, a measurement may be disturbed; it is never wrong.
    for outcome in outcomes(&shown) {
        assert!(["passed", "undecided"].contains(&outcome), "{shown}");
    }
    assert_eq!((outcomes(&shown).len(), leased(&dev)), (2, 0));
    let history = dev.ok(&["stress", "history"]);
    assert!(
        history.contains(&run) && history.contains("memory"),
        "{history}"
    );
    let report = dev.ok(&["stress", "report", &run, "--node", "node-1"]);
    assert!(
        report.contains("stream_triad") && report.contains("GB/s"),
        "{report}"
    );
    assert!(!report.contains("node-2"), "{report}");
    let all = dev.json(&["stress", "report", &run]);
    assert_eq!(all.as_array().map(Vec::len), Some(2));
    dev.ok(&["run", "--super-node", "train", "--nodes", "2", "--", "true"]);
    dev.refused(2, &["stress", "run", "--items", "memory"]);
    dev.refused(2, &["stress", "run", "--node", "node-1", "--items", "disk"]);
    dev.refused(3, &["stress", "show", "op-00000000000000000000000000"]);
}

#[test]
fn a_killed_server_disturbs_no_test_and_a_killed_agent_makes_it_incomplete() {
    let dev = Dev::start(2);
    let words = |node| {
        [
            "--node",
            node,
            "--items",
            "compute",
            "--kernel-seconds",
            "4",
        ]
    };
    let first = run(&dev, &words("node-1"));
    dev.until("node-1 to be tested", || is_tested(&dev, &first));
    let pid = dev.pid("server");
    dev.signal("server", "KILL");
    dev.until("another server", || {
        (dev.pid("server") != pid).then_some(())
    });
    let shown = ended(&dev, &first);
    assert_eq!(shown["operation"]["state"], "succeeded", "{shown}");
    assert_eq!(outcomes(&shown).len(), 1, "{shown}");

    let second = run(&dev, &words("node-2"));
    let kernel = dev.until("a kernel of node-2", || {
        kernels(&dev, "node-2").first().copied()
    });
    let pid = dev.pid("node-2");
    dev.signal("node-2", "KILL");
    dev.until("another agent", || (dev.pid("node-2") != pid).then_some(()));
    let shown = ended(&dev, &second);
    assert_eq!(outcomes(&shown), ["incomplete"], "{shown}");
    assert_eq!(shown["operation"]["state"], "failed", "{shown}");
    assert!(
        !PathBuf::from(format!("/proc/{kernel}")).exists(),
        "its kernel is gone"
    );
    assert_eq!(leased(&dev), 0);
    assert_eq!(
        dev.json(&["node", "show", "node-2"])["health"]["state"],
        "unproven"
    );
}

#[test]
fn a_cancelled_run_has_stopped_its_kernels() {
    let dev = Dev::start(1);
    let run = run(
        &dev,
        &[
            "--node",
            "node-1",
            "--items",
            "compute",
            "--kernel-seconds",
            "120",
        ],
    );
    dev.until("a kernel", || kernels(&dev, "node-1").first().copied());
    dev.ok(&["operation", "cancel", &run, "--wait"]);
    assert_eq!(kernels(&dev, "node-1"), Vec::<u32>::new());
    let shown = ended(&dev, &run);
    assert_eq!((outcomes(&shown), leased(&dev)), (vec!["incomplete"], 0));
}

/// Changes a few bytes in each mebibyte of the large memory areas of a process, as a bad memory would.
fn flip(kernel: u32) -> std::io::Result<()> {
    let maps = fs::read_to_string(format!("/proc/{kernel}/maps"))?;
    let memory = fs::File::options()
        .write(true)
        .open(format!("/proc/{kernel}/mem"))?;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(access)) = (words.next(), words.next()) else {
            continue;
        };
        let named = words.nth(3).is_some();
        let Some((begin, end)) = range.split_once('-') else {
            continue;
        };
        let address = |text| u64::from_str_radix(text, 16).unwrap_or(0);
        let (begin, end) = (address(begin), address(end));
        if named || !access.starts_with("rw") || end - begin < 16 << 20 {
            continue;
        }
        // Not its ends: the kernel may have put a stack next to it.
        let quarter = (end - begin) / 4;
        for place in (begin + quarter..end - quarter).step_by(1 << 20) {
            memory.write_at(b"flipped", place + 8)?;
        }
    }
    Ok(())
}

/// What a command that tests the memory of a node ends with when bytes are changed while it is verified.
fn with_a_bad_memory(dev: &Dev, node: &str, words: &[&str]) -> Output {
    let mut command = dev.command(words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child: Child = command.spawn().expect("the binary starts");
    dev.until("the test to end", || {
        for kernel in kernels(dev, node) {
            // One that has just ended cannot be changed any more.
            let _ = flip(kernel);
        }
        child.try_wait().expect("a child")
    });
    child.wait_with_output().expect("it ended")
}

/// Whether tests of a bad memory can be made here.
fn may_change_memory() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root may change the memory of another process everywhere");
    }
    root
}

#[test]
fn a_bad_memory_is_found_and_its_node_kept_out_until_somebody_answers_for_it() {
    if !may_change_memory() {
        return;
    }
    let dev = Dev::start(2);
    dev.ok(&["super-node", "create", "train", "--nodes", "2", "--wait"]);
    let words = "stress run --node node-1 --items memory --kernel-seconds 5 --wait";
    let words: Vec<&str> = words.split(' ').collect();
    let output = with_a_bad_memory(&dev, "node-1", &words);
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(1), "{out}{error}");
    assert!(
        error.contains("node node-1 failed: moving patterns"),
        "{out}{error}"
    );
    assert!(out.contains("memory  1.0000"), "{out}");
    let node = dev.json(&["node", "show", "node-1"]);
    assert_eq!(node["health"]["state"], "quarantined", "{node}");
    let explained = dev.ok(&["stress", "explain", "node-1"]);
    for part in ["is quarantined", "plainly wrong", "node release node-1"] {
        assert!(explained.contains(part), "{explained}");
    }

    let words = ["job", "submit", "--super-node", "train", "--nodes", "2"];
    let job = dev.ok(&[&words[..], &["--", "true"]].concat());
    let job = job.trim().to_owned();
    dev.until("the job to wait for the node", || {
        let state = dev.json(&["job", "show", &job])["state"].to_string();
        state.contains("1 quarantined (node-1").then_some(())
    });
    dev.ok(&[
        "node",
        "release",
        "node-1",
        "--reason",
        "new DIMM",
        "--repaired",
    ]);
    dev.until("the job to run on both", || {
        let state = dev.json(&["job", "show", &job])["state"].to_string();
        state.contains("succeeded").then_some(())
    });
    let audit = dev.ok(&["audit", "list"]);
    assert!(audit.contains("node_release"), "{audit}");
}

#[test]
fn a_node_with_a_bad_memory_does_not_join_a_super_node_that_grows() {
    if !may_change_memory() {
        return;
    }
    let dev = Dev::start_with(3, &["--admission-kernel-seconds", "2"]);
    let create = ["super-node", "create", "train", "--node", "node-1"];
    dev.ok(&[&create[..], &["--wait"]].concat());
    let grow = |node| ["super-node", "scale-up", "train", "--node", node, "--wait"];
    let output = with_a_bad_memory(&dev, "node-2", &grow("node-2"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("did not pass the test before joining (failed)"),
        "{error}"
    );
    let node = dev.json(&["node", "show", "node-2"]);
    assert_eq!(
        (&node["health"]["state"], &node["membership"]["state"]),
        (&"quarantined".into(), &"spare".into()),
        "{node}"
    );
    // Somebody who cannot wait answers for it by name.
    let skipping = [&grow("node-3")[..], &["--skip-admission"]].concat();
    dev.ok(&skipping);
    let events = dev.ok(&["event", "list"]);
    assert!(
        events.contains("nodes join super node train untested, because admin asked for it"),
        "{events}"
    );
    assert_eq!(leased(&dev), 0);
}

#[test]
fn a_plan_is_made_changed_paused_and_deleted_on_the_command_line() {
    let dev = Dev::start(1);
    dev.ok(&["super-node", "create", "train", "--nodes", "1", "--wait"]);
    let words = [
        "stress",
        "plan",
        "create",
        "--super-node",
        "train",
        "--tier",
        "quick",
        "--cron",
        "0 2 * * 0",
        "--timezone",
        "Asia/Shanghai",
        "--items",
        "compute,storage",
        "--max-nodes",
        "10%",
        "--window",
        "4h",
        "--jitter",
        "30m",
    ];
    let plan = dev.json(&words);
    let name = id(&plan);
    // Two o'clock in Shanghai is six in the evening before in UTC.
    let next = plan["upcoming"][0].as_str().expect("a time");
    assert!(next.contains("T18:00:00"), "{plan}");
    let listed = dev.ok(&["stress", "plan", "list", "--super-node", "train"]);
    assert!(
        listed.contains(&name) && listed.contains("0 2 * * 0"),
        "{listed}"
    );
    let edited = dev.json(&["stress", "plan", "edit", &name, "--max-nodes", "2"]);
    assert_eq!(edited["max_nodes"], "2");
    assert_eq!(edited["cron"], "0 2 * * 0", "what is not given stays");
    let paused = dev.json(&["stress", "plan", "pause", &name]);
    assert_eq!(
        (&paused["paused"], &paused["upcoming"]),
        (&true.into(), &Value::Array(vec![]))
    );
    assert!(
        dev.ok(&["stress", "plan", "resume", &name])
            .contains("next at")
    );
    dev.refused(
        2,
        &[
            "stress",
            "plan",
            "create",
            "--super-node",
            "train",
            "--cron",
            "0 0 31 2 *",
        ],
    );
    dev.ok(&["stress", "plan", "delete", &name]);
    dev.refused(3, &["stress", "plan", "show", &name]);
}
