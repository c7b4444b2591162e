//! The scenarios of `crates/sim/scenarios` have the output that stands in them. `SUPERNODE_SIM_UPDATE=1` writes it anew.

use std::path::{Path, PathBuf};

use supernode_sim::replay;

#[track_caller]
fn check(path: &Path) {
    let name = path.display();
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"));
    let now = replay(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    if now == text {
        return;
    }
    if std::env::var_os("SUPERNODE_SIM_UPDATE").is_some() {
        std::fs::write(path, &now).unwrap_or_else(|error| panic!("{name}: {error}"));
        return;
    }
    let line = now
        .lines()
        .zip(text.lines())
        .position(|(now, before)| now != before)
        .unwrap_or(0);
    panic!(
        "{name} differs from line {} on; if that is right, run: SUPERNODE_SIM_UPDATE=1 cargo test -p supernode-sim scenarios\n--- now\n{now}",
        line + 1
    );
}

#[test]
fn every_scenario_goes_as_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = std::fs::read_dir(&directory).expect("the directory is part of the repository");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 4, "{paths:?}");
    for path in paths {
        check(&path);
    }
}

#[test]
fn a_line_that_is_no_command_is_named() {
    let error = replay("> world 2 nodes\n> dance\n")
        .expect_err("it is none")
        .to_string();
    assert_eq!(error, "line 2: `> dance`: this is not a command");
    let error = replay("> settle\n")
        .expect_err("there is no world")
        .to_string();
    assert!(error.contains("begin with: world"), "{error}");
}
