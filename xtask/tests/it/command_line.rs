//! Arguments, exit codes and the final line.

use std::process::{Command, Output, Stdio};

fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("xtask starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn steps_are_listed_in_their_order() {
    let output = xtask(&["ci", "--list"]);
    assert!(output.status.success());
    let list = text(&output.stdout);
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(
        names,
        [
            "setup",
            "format",
            "tidy",
            "build",
            "test",
            "generated",
            "acknowledged",
            "demo",
            "vm-matrix",
            "outages"
        ]
    );
}

#[test]
fn mistakes_are_told_with_an_exit_code() {
    let unknown = xtask(&["magic"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("usage: cargo xtask"));

    let step = xtask(&["ci", "--only", "magic"]);
    assert_eq!(step.status.code(), Some(1));
    assert!(text(&step.stderr).contains("no step `magic`"));

    let suite = xtask(&["bench", "--only", "magic"]);
    assert_eq!(suite.status.code(), Some(1));
    assert!(text(&suite.stderr).contains("no suite `magic`"));
}
