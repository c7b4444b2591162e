//! `supernode collective`: real rank processes, without a server.

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{Dev, binary, output};

fn run(arguments: &[&str]) -> Output {
    output(Command::new(binary()).args(arguments))
}

#[test]
fn every_operator_is_right_over_sockets_and_through_shared_memory() {
    for (ranks, transport) in [("3", "tcp"), ("4", "shared-memory"), ("1", "tcp")] {
        let output = run(&[
            "collective",
            "check",
            "--ranks",
            ranks,
            "--transport",
            transport,
        ]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(text.contains("every bit as the oracle says"), "{text}");
    }
}

#[test]
fn a_bench_gives_a_line_for_each_size() {
    let sizes = "4,1K,1M";
    let output = run(&[
        "collective",
        "bench",
        "--sizes",
        sizes,
        "--iterations",
        "3",
        "--output",
        "json",
    ]);
    assert!(output.status.success(), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let bytes: Vec<u64> = found
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["bytes"].as_u64())
        .collect();
    assert_eq!(bytes, [4, 1024, 1 << 20]);
    assert!(
        found[0]["median_microseconds"]
            .as_f64()
            .is_some_and(|time| time > 0.0)
    );
}

#[test]
fn a_size_that_is_none_is_refused() {
    for wrong in ["", "K", "3", "4G", "2000M", "-4"] {
        let output = run(&["collective", "bench", &format!("--sizes={wrong}")]);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("such as 4, 64K or 16M"), "{text}");
    }
}

#[test]
fn an_algorithm_that_cannot_do_the_operator_is_refused() {
    let output = run(&[
        "collective",
        "bench",
        "--operator",
        "broadcast",
        "--algorithm",
        "ring",
    ]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("possible: tree, chain"), "{text}");
}

#[test]
fn a_drill_cuts_real_connections_and_changes_no_bit() {
    let words = [
        "--ranks", "3", "--size", "8M", "--cuts", "3", "--output", "json",
    ];
    let output = run(&[&["collective", "drill"], &words[..]].concat());
    assert!(output.status.success(), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let ranks = found.as_array().expect("a list");
    assert_eq!(ranks.len(), 3);
    for rank in ranks {
        assert_eq!(
            (&rank["wrong"], &rank["cuts"]),
            (&0.into(), &3.into()),
            "{rank}"
        );
        assert!(
            rank["resumed"].as_u64().is_some_and(|resumed| resumed > 0),
            "{rank}"
        );
    }
}

/// A job's ranks find each other with nothing but the variables that they were given.
#[test]
fn the_ranks_of_a_job_find_and_know_each_other() {
    let dev = Dev::start(2);
    dev.ok(&["super-node", "create", "train", "--nodes", "2", "--wait"]);
    // Where the unprivileged user of jobs can read it.
    let program = dev.path().join("program");
    std::fs::copy(binary(), &program).expect("there is room for a copy");
    let program = program.display().to_string();
    let task = r#"{"check":{"seed":1}}"#;
    let output = dev.ok(&[
        "run",
        "--super-node",
        "train",
        "--nodes",
        "2",
        "--",
        &program,
        "collective",
        "rank",
        task,
    ]);
    let right = output
        .lines()
        .filter(|line| line.contains(r#""wrong":[]"#))
        .count();
    assert_eq!(right, 2, "{output}");
}
