//! A retry policy from the command line to the environment of real ranks, and across `kill -9`.

use serde_json::Value;

use crate::harness::Dev;
use crate::jobs::submit;

const TIMEOUT: &str = "SUPERNODE_COLLECTIVE_RETRY_TIMEOUT_SECONDS";

fn running(dev: &Dev, job: &str) -> Value {
    dev.until(&format!("{job} to run"), || {
        let shown = dev.json(&["job", "show", job]);
        (shown["state"]["state"] == "running").then_some(shown)
    })
}

/// What a job prints of the variable that a plain host's policy sets.
fn printed(dev: &Dev, options: &[&str]) -> String {
    let mut words = vec!["run", "--super-node", "train", "--nodes", "2"];
    words.extend(options);
    let script = format!("echo \"timeout=${{{TIMEOUT}-none}}.\"");
    words.extend(["--", "sh", "-c", &script]);
    let output = dev.ok(&words);
    let mut lines: Vec<&str> = output
        .lines()
        .filter_map(|line| line.split_once("timeout=").map(|(_, value)| value))
        .collect();
    assert_eq!(lines.len(), 2, "{output}");
    lines.dedup();
    assert_eq!(lines.len(), 1, "both ranks have the same: {output}");
    lines[0].to_owned()
}

#[test]
fn a_policy_reaches_every_rank_and_survives_a_killed_server() {
    let dev = Dev::start(2);
    dev.ok(&["super-node", "create", "train", "--nodes", "2", "--wait"]);
    let policy = |words: &[&str]| {
        let mut all = vec!["retry-policy"];
        all.extend(words);
        all.extend(["--super-node", "train"]);
        dev.ok(&all)
    };
    assert!(policy(&["show"]).contains("not set"));
    assert_eq!(printed(&dev, &[]), "none.");

    // What cannot be is refused with what would be accepted, and changes nothing.
    let refusal = dev.refused(
        2,
        &[
            "retry-policy",
            "set",
            "--super-node",
            "train",
            "--enable",
            "--hold",
            "50s",
            "--interval",
            "60s",
            "--max-retries",
            "10",
        ],
    );
    assert!(
        refusal.contains("650 s or more, or at most 4 retries"),
        "{refusal}"
    );
    let refusal = dev.refused(
        2,
        &[
            "retry-policy",
            "set",
            "--super-node",
            "train",
            "--max-retries",
            "2",
        ],
    );
    assert!(refusal.contains("--enable"), "{refusal}");
    assert!(policy(&["show"]).contains("not set"));

    let shown = policy(&[
        "set",
        "--enable",
        "--max-retries",
        "3",
        "--retry-timeout",
        "120s",
        "--levels",
        "L1,L2",
    ]);
    assert!(
        shown.contains(&format!("{TIMEOUT}=120")) && shown.contains("L1, L2"),
        "{shown}"
    );
    assert_eq!(printed(&dev, &[]), "120.");
    policy(&["set", "--retry-timeout", "150s"]);
    let detail = dev.json(&["retry-policy", "show", "--super-node", "train"]);
    assert_eq!(
        detail["policy"]["levels"],
        serde_json::json!(["L1", "L2"]),
        "what is not named stays"
    );
    let stale = dev.refused(
        3,
        &[
            "retry-policy",
            "disable",
            "--super-node",
            "train",
            "--if-generation",
            "1",
        ],
    );
    assert!(stale.contains("generation"), "{stale}");

    // A job's own value wins, and the job says so.
    let own = format!("{TIMEOUT}=7");
    assert_eq!(printed(&dev, &["--env", &own]), "7.");
    let jobs = dev.json(&["job", "list"]);
    let last = jobs[0]["id"].as_str().expect("an id");
    let text = dev.ok(&["job", "show", last]);
    assert!(
        text.contains(&format!(
            "{TIMEOUT} is set by the job, not by the policy (which says 150)"
        )),
        "{text}"
    );
    // Nothing that is known stands in the way here, so a strict job runs.
    assert_eq!(printed(&dev, &["--strict"]), "150.");

    // What an attempt got stays, whatever dies and whatever is decided meanwhile.
    let job = submit(&dev, &["--nodes", "2"], &["sleep", "300"]);
    running(&dev, &job);
    let pid = dev.pid("server");
    dev.signal("server", "KILL");
    dev.until("another server", || {
        (dev.pid("server") != pid).then_some(())
    });
    dev.until("the server to answer", || {
        dev.run(&["node", "list"]).status.success().then_some(())
    });
    let detail = dev.json(&["retry-policy", "show", "--super-node", "train"]);
    assert_eq!(
        detail["policy"]["retry_timeout_seconds"], 150,
        "acknowledged means kept"
    );
    policy(&["disable"]);
    let shown = dev.json(&["job", "show", &job]);
    assert_eq!(shown["retry"]["variables"][TIMEOUT], "150", "{shown}");
    assert_eq!(shown["attempts"], 1);
    dev.ok(&["job", "cancel", &job]);
    dev.until("the job to end", || {
        let shown = dev.json(&["job", "show", &job]);
        (shown["state"]["state"] == "ended").then_some(())
    });

    assert_eq!(printed(&dev, &[]), "none.");
    let refusal = dev.refused(
        3,
        &["run", "--super-node", "train", "--strict", "--", "true"],
    );
    assert!(refusal.contains("no enabled retry policy"), "{refusal}");
    let audit = dev.json(&["audit", "list"]);
    let written = audit.as_array().expect("a list").iter();
    let written = written.filter(|one| one["action"] == "retry_policy_set");
    assert_eq!(written.count(), 3, "two settings and one end");
}
