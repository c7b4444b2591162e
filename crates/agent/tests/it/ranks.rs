//! The ranks executor around a rank's life: its log, its wake-ups, what never starts and what is removed.

use std::time::Duration;

use supernode_agent::ranks::{RankId, RankObservation, RanksError};
use supernode_agent::supervisor::lease::boottime_nanoseconds;
use supernode_types::job::RankEnd;

use crate::support::{Node, wait_for};

#[test]
fn the_log_is_capped_and_offsets_stay() {
    let node = Node::new();
    let mut launch = node.script("i=0; while [ $i -lt 40000 ]; do printf '%015d\\n' $i; i=$((i+1)); done; while [ ! -e go ]; do sleep 0.01; done");
    launch.log_cap_bytes = 64 * 1024;
    let id = node.start(&launch);
    let start = wait_for("the log to be cut", || {
        let chunk = node.ranks.read_log(&id, 0, 16).expect("it is read");
        (chunk.start > 640_000 - 64 * 1024).then_some(chunk.start)
    });
    let chunk = node.ranks.read_log(&id, 0, 16).expect("it is read");
    assert_eq!(
        (chunk.offset, chunk.next_offset, chunk.end_of_file),
        (start, start + 16, false)
    );
    assert_eq!(
        String::from_utf8(chunk.bytes).expect("it is text"),
        format!("{:015}\n", start / 16),
        "offsets mean what they meant"
    );
    std::fs::write(node.scratch("go"), "").expect("it is written");
    node.end(&id);
    let rest = node
        .ranks
        .read_log(&id, start, 1024 * 1024)
        .expect("it is read");
    assert_eq!((rest.next_offset, rest.end_of_file), (640_000, true));
    assert!(rest.bytes.len() <= 64 * 1024);
}

#[test]
fn a_log_can_be_followed_to_its_end() {
    let node = Node::new();
    let id = node.start(&node.script("for i in $(seq 200); do echo $i; done"));
    let expected = (1..=200).fold(String::new(), |text, number| {
        text + &number.to_string() + "\n"
    });
    let mut output = Vec::new();
    let mut offset = 0;
    wait_for("the end of the log", || {
        let chunk = node.ranks.read_log(&id, offset, 64).expect("it is read");
        output.extend_from_slice(&chunk.bytes);
        offset = chunk.next_offset;
        chunk.end_of_file.then_some(())
    });
    assert_eq!(String::from_utf8(output).expect("it is text"), expected);
}

#[test]
fn a_watcher_tells_of_an_end_at_once() {
    let node = Node::new();
    let mut watcher = node.ranks.watcher().expect("it watches");
    let id = node.start(&node.script("while [ ! -e go ]; do sleep 0.01; done"));
    wait_for("the watcher to see the start", || {
        watcher
            .wait(Duration::from_secs(1))
            .expect("it watches")
            .contains(&id)
            .then_some(())
    });
    std::fs::write(node.scratch("go"), "").expect("it is written");
    let exit = wait_for("the watcher to see the end", || {
        watcher.wait(Duration::from_secs(5)).expect("it watches");
        match node.ranks.observe(&id).expect("it is observed") {
            RankObservation::Ended(exit) => Some(exit),
            _ => None,
        }
    });
    assert_eq!(exit.end, RankEnd::Exited { code: 0 });
}

#[test]
fn a_rank_that_was_stopped_first_never_starts() {
    let node = Node::new();
    let launch = node.script("echo ran > ran");
    let id = RankId::new(&launch.attempt, 0).expect("it is plain");
    assert_eq!(
        node.ranks
            .stop(&id, 15, Duration::ZERO, "early")
            .expect("unknown is fine"),
        RankObservation::NotStarted
    );
    // As after a crash between writing the launch and starting the supervisor.
    let directory = node.data().join("ranks").join(id.as_str());
    std::fs::create_dir(&directory).expect("it is made");
    let stopped = node
        .ranks
        .stop(&id, 15, Duration::ZERO, "early")
        .expect("it can be stopped");
    assert!(
        matches!(stopped, RankObservation::Ended(exit) if exit.end == RankEnd::Stopped { code: 143 })
    );
    let launched = node.ranks.launch(&id, &launch).expect("it answers");
    assert!(matches!(launched, RankObservation::Ended(_)));
    assert!(!node.scratch("ran").exists());
}

#[test]
fn ranks_of_an_earlier_boot_are_lost_and_not_started_again() {
    let node = Node::new();
    let launch = node.script("echo ran > ran");
    let id = RankId::new(&launch.attempt, 0).expect("it is plain");
    let directory = node.data().join("ranks").join(id.as_str());
    std::fs::create_dir(&directory).expect("it is made");
    let record = serde_json::json!({ "boot_id": "an-earlier-boot", "launch": launch });
    std::fs::write(directory.join("launch.json"), record.to_string()).expect("it is written");
    let observation = node.ranks.launch(&id, &launch).expect("it answers");
    assert!(
        matches!(&observation, RankObservation::Ended(exit) if matches!(&exit.end, RankEnd::Lost { why } if why.contains("restarted")))
    );
    assert!(!node.scratch("ran").exists());
}

#[test]
fn a_launch_that_was_decided_under_a_lease_that_ran_out_starts_nothing() {
    let node = Node::new();
    let launch = node.script("echo ran > ran");
    let id = RankId::new(&launch.attempt, 0).expect("it is plain");
    let over = boottime_nanoseconds();
    node.ranks
        .launch_under(&id, &launch, over)
        .expect("it answers");
    assert_eq!(node.end(&id).end, RankEnd::Fenced);
    assert!(!node.scratch("ran").exists());
}

#[test]
fn only_what_has_ended_is_removed() {
    let node = Node::new();
    let launch = node.script("while [ ! -e go ]; do sleep 0.01; done");
    let id = node.start(&launch);
    assert!(matches!(
        node.ranks.remove(&id),
        Err(RanksError::Running { .. })
    ));
    let mut other = launch.clone();
    other.argv.push("more".into());
    assert!(matches!(
        node.ranks.launch(&id, &other),
        Err(RanksError::Conflict { .. })
    ));
    std::fs::write(node.scratch("go"), "").expect("it is written");
    node.end(&id);
    node.ranks.remove(&id).expect("it has ended");
    node.ranks.remove(&id).expect("again is fine");
    assert!(node.ranks.list().expect("it lists").is_empty());
    assert_eq!(
        node.ranks.observe(&id).expect("it is observed"),
        RankObservation::NotStarted
    );
    assert_eq!(
        std::fs::read_dir(node.data().join("ranks"))
            .expect("it lists")
            .count(),
        0
    );
}
