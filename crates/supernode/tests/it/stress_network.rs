//! The network between nodes, tested for real: four agents in four network namespaces, one link that is slowed in one direction, and one
//! that loses packets.

use std::process::Command;

use serde_json::Value;

use crate::harness::Dev;
use crate::stress_run::{ended, outcomes};

const NODES: u32 = 4;
/// What every link sends: far less than the processors could move, so that it is the links that are measured.
const LINK_MEGABITS_PER_SECOND: u32 = 300;
/// Runs that may be disturbed by whatever else the machine does.
const MOST_RUNS: usize = 8;

/// Tests the network between all nodes, again while something else disturbs it; answers the run when it has ended.
fn tested(dev: &Dev) -> Value {
    let nodes: Vec<String> = (1..=NODES).map(|number| format!("node-{number}")).collect();
    let nodes = nodes.join(",");
    let mut words = vec!["stress", "run", "--node", &nodes];
    words.extend(["--items", "network", "--kernel-seconds", "1"]);
    let mut shown = Value::Null;
    for _ in 0..MOST_RUNS {
        let run = dev.json(&words);
        let run = run["id"].as_str().expect("an id").to_owned();
        shown = ended(dev, &run);
        let verdict = &shown["network"]["verdict"];
        let undecided = verdict["undecided"].is_string();
        let once = findings(&shown)
            .iter()
            .any(|finding| finding["certainty"] != "confirmed");
        if !undecided && !once {
            break;
        }
        println!("disturbed: {verdict}");
    }
    shown
}

fn findings(shown: &Value) -> &[Value] {
    let all = shown["network"]["verdict"]["findings"].as_array();
    all.expect("a list")
}

/// What was found, which is one thing in what a node sends, for which the node is kept out.
fn found_in_what_it_sends<'a>(dev: &Dev, shown: &'a Value, node: &str) -> &'a Value {
    let [finding] = findings(shown) else {
        panic!("one link is sick: {shown}");
    };
    let sick = dev.json(&["node", "show", node]);
    assert_eq!(finding["place"]["place"], "node_out", "{finding}");
    assert_eq!(finding["place"]["node"], sick["id"], "{finding}");
    assert_eq!(finding["certainty"], "confirmed", "{finding}");
    assert_eq!(sick["health"]["state"], "quarantined", "{sick}");
    finding
}

/// Whether a text has something that looks like a key of a pair: 64 hexadecimal digits.
fn shows_a_key(text: &str) -> bool {
    text.split(|letter: char| !letter.is_ascii_hexdigit())
        .any(|word| word.len() == 64)
}

#[test]
fn a_slow_link_and_a_lossy_one_are_named_with_their_direction_and_their_nodes_are_kept_out() {
    let Some(dev) = Dev::start_linked(NODES, LINK_MEGABITS_PER_SECOND) else {
        return;
    };
    let shown = tested(&dev);
    assert!(
        findings(&shown).is_empty(),
        "a sound network is silent: {shown}"
    );
    for outcome in outcomes(&shown) {
        assert!(["passed", "undecided"].contains(&outcome), "{shown}");
    }
    assert_eq!(shown["operation"]["state"], "succeeded", "{shown}");

    dev.limit_link("node-3", 30);
    let shown = tested(&dev);
    found_in_what_it_sends(&dev, &shown, "node-3");
    assert_eq!(
        outcomes(&shown),
        ["passed", "passed", "failed", "passed"],
        "{shown}"
    );
    let run = shown["operation"]["id"].as_str().expect("an id");
    for (words, part) in [
        (vec!["stress", "show", run], "what node-3 sends is slow"),
        (
            vec!["stress", "explain", "node-3"],
            "named, and named again after another round",
        ),
        (
            vec!["stress", "report", run, "--node", "node-3"],
            "measured",
        ),
        (
            vec!["event", "list"],
            "node node-3 is quarantined and takes no new work: what node-3 sends is slow",
        ),
    ] {
        let text = dev.ok(&words);
        assert!(text.contains(part), "{words:?}: {text}");
        assert!(!shows_a_key(&text), "{text}");
    }
    let nodes = dev.json(&["node", "list"]).to_string();
    assert!(
        nodes.contains("\"leased_devices\":0") && !nodes.contains("\"leased_devices\":1"),
        "{nodes}"
    );
    assert!(!shows_a_key(&shown.to_string()) && !shows_a_key(&nodes));
    assert!(!shows_a_key(&dev.all_logs()), "no key is logged");

    dev.limit_link("node-3", LINK_MEGABITS_PER_SECOND);
    lose(&dev, "node-2", 5);
    let shown = tested(&dev);
    let finding = found_in_what_it_sends(&dev, &shown, "node-2");
    assert_eq!(finding["fault"], "lossy", "{finding}");
}

/// From now on a node loses so many percent of the packets that it sends.
fn lose(dev: &Dev, node: &str, percent: u32) {
    let rules = format!(
        "table inet sick {{\nchain out {{\ntype filter hook output priority 0\nmeta oifname eth0 numgen random mod 100 < {percent} drop\n}}\n}}\n"
    );
    let output = Command::new("nsenter")
        .arg(format!("--net=/proc/{}/ns/net", dev.pid(node)))
        .args(["nft", &rules])
        .output()
        .expect("nsenter is there");
    assert!(output.status.success(), "{output:?}");
}
