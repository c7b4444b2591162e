//! Real processes: stopped, continued, killed.

use std::time::Duration;

use rustix::process::Signal;
use supernode_collectives::group::environment::unused_root;

use crate::part::{Part, Stage};

fn start(world: usize, shares_memory: bool) -> Vec<Part> {
    Part::start_all(&Stage {
        enter: vec![Vec::new(); world],
        root: unused_root([127, 0, 0, 1].into()).expect("there are free ports"),
        addresses: vec!["127.0.0.1"; world],
        shares_memory,
    })
}

#[test]
fn a_stopped_process_is_waited_for_and_nothing_is_reconnected() {
    for shares_memory in [false, true] {
        let ranks = start(2, shares_memory);
        ranks[0].round();
        ranks[1].round();
        ranks[1].signal(Signal::STOP);
        // Longer than any path may be quiet.
        ranks[0].silence(Duration::from_millis(1500));
        ranks[1].signal(Signal::CONT);
        for _ in 0..3 {
            assert_eq!(ranks[0].round().broken, 0, "slow was taken for broken");
        }
    }
}

#[test]
fn a_killed_process_is_named_on_every_other_rank() {
    for shares_memory in [false, true] {
        let ranks = start(3, shares_memory);
        for rank in &ranks {
            rank.round();
        }
        ranks[1].signal(Signal::KILL);
        for rank in [0, 2] {
            let line = ranks[rank].line("failed");
            assert!(line.contains("rank 1 is gone"), "rank {rank}: {line}");
        }
    }
}
