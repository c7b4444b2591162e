//! The network between nodes, tested for real: four agents in four network namespaces, and one link that is slowed in one direction.

use serde_json::Value;

use crate::cluster::{Cluster, node_name};

const NODES: usize = 4;
const SICK: usize = 3;
/// Runs that may be disturbed by whatever else the machine does.
const MOST_RUNS: usize = 8;

/// Tests the network between all nodes, again while something else disturbs it; answers the run when it has ended.
fn tested(cluster: &Cluster) -> Value {
    let nodes: Vec<String> = (1..=NODES).map(node_name).collect();
    let nodes = nodes.join(",");
    let mut words = vec!["stress", "run", "--node", &nodes];
    words.extend(["--items", "network", "--kernel-seconds", "1"]);
    let mut shown = Value::Null;
    for _ in 0..MOST_RUNS {
        let run = cluster.json(&words);
        let run = run["id"].as_str().expect("an id").to_owned();
        shown = cluster.until("the run to end", || {
            let shown = cluster.json(&["stress", "show", &run]);
            (shown["operation"]["state"] != "running").then_some(shown)
        });
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

fn outcomes(shown: &Value) -> Vec<&str> {
    let results = shown["results"].as_array().expect("a list");
    let words = results.iter().map(|result| result["outcome"].as_str());
    words.map(|word| word.expect("a word")).collect()
}

/// Whether a text has something that looks like a key of a pair: 64 hexadecimal digits.
fn shows_a_key(text: &str) -> bool {
    text.split(|letter: char| !letter.is_ascii_hexdigit())
        .any(|word| word.len() == 64)
}

#[test]
fn a_slow_link_is_named_with_its_direction_and_its_node_is_kept_out() {
    let Some(cluster) = Cluster::start(NODES) else {
        return;
    };
    let shown = tested(&cluster);
    assert!(
        findings(&shown).is_empty(),
        "a sound network is silent: {shown}"
    );
    for outcome in outcomes(&shown) {
        assert!(["passed", "undecided"].contains(&outcome), "{shown}");
    }
    assert_eq!(shown["operation"]["state"], "succeeded", "{shown}");

    cluster.limit(SICK, "30mbit");
    let shown = tested(&cluster);
    let [finding] = findings(&shown) else {
        panic!("one link is slow: {shown}");
    };
    let sick = cluster.json(&["node", "show", &node_name(SICK)]);
    assert_eq!(finding["place"]["place"], "node_out", "{finding}");
    assert_eq!(finding["place"]["node"], sick["id"], "{finding}");
    assert_eq!(finding["certainty"], "confirmed", "{finding}");
    assert_eq!(sick["health"]["state"], "quarantined", "{sick}");
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
        let text = cluster.ok(&words);
        assert!(text.contains(part), "{words:?}: {text}");
        assert!(!shows_a_key(&text), "{text}");
    }
    let nodes = cluster.json(&["node", "list"]).to_string();
    assert!(
        nodes.contains("\"leased_devices\":0") && !nodes.contains("\"leased_devices\":1"),
        "{nodes}"
    );
    assert!(!shows_a_key(&shown.to_string()) && !shows_a_key(&nodes));
    assert!(!shows_a_key(&cluster.logs()), "no key is logged");
}
