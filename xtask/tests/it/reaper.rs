//! However a benchmark ends, nothing of it stays: the reaper ends marked processes and those that name the directory.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn closed_lifeline_ends_processes_and_removes_the_directory() {
    let directory = tempfile::tempdir().expect("a temporary directory").keep();
    let marker = format!("reaper-test-{}", std::process::id());
    let mut with_marker = Command::new("sleep")
        .arg("600")
        .env("XTASK_YARD", &marker)
        .spawn()
        .expect("sleep starts");
    let mut with_directory = Command::new("sh")
        .args(["-c", "sleep 600; true"])
        .arg(directory.join("anything"))
        .spawn()
        .expect("sh starts");
    let mut stranger = Command::new("sleep")
        .arg("600")
        .spawn()
        .expect("sleep starts");
    let mut reaper = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["yard-reaper", &marker])
        .arg(&directory)
        .stdin(Stdio::piped())
        .spawn()
        .expect("the reaper starts");

    assert!(
        reaper.try_wait().expect("ours").is_none(),
        "it waits for its lifeline"
    );
    assert!(with_marker.try_wait().expect("ours").is_none());
    drop(reaper.stdin.take());

    let start = Instant::now();
    let status = loop {
        if let Some(status) = reaper.try_wait().expect("ours") {
            break status;
        }
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "the reaper does not end"
        );
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success());
    assert!(!with_marker.wait().expect("ended").success());
    assert!(!with_directory.wait().expect("ended").success());
    assert!(!directory.exists());
    assert!(
        stranger.try_wait().expect("ours").is_none(),
        "a stranger is left alone"
    );
    stranger.kill().expect("ours");
    stranger.wait().expect("ended");
}
