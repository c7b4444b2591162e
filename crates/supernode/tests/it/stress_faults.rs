//! Faults of a disk and of processes, made for real while nodes are tested: the disk is named, and a process that somebody stopped is
//! nobody's fault.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Dev, signal};
use crate::stress_run::{if_ended, kernels};

/// Tests one item of a node and does something to its kernels until that has ended.
fn tested(dev: &Dev, node: &str, item: &str, fault: impl Fn(u32)) -> Value {
    let words = ["stress", "run", "--node", node, "--items", item];
    let run = dev.json(&[&words[..], &["--kernel-seconds", "1"]].concat());
    let run = run["id"].as_str().expect("an id");
    // Kernels are short: they are looked for much more often than the run is asked about.
    let mut looked = 0;
    dev.until("the run to end", || {
        kernels(dev, node).into_iter().for_each(&fault);
        looked += 1;
        if looked % 20 == 0 {
            if_ended(dev, run)
        } else {
            None
        }
    })
}

/// Changes eight bytes in the last block of the file without a name in which a kernel tests the disk.
fn flip(kernel: u32) -> Option<()> {
    for entry in fs::read_dir(format!("/proc/{kernel}/fd")).ok()?.flatten() {
        let target = fs::read_link(entry.path()).ok()?;
        if !target.to_string_lossy().contains("/#") {
            continue;
        }
        let file = File::options().write(true).open(entry.path()).ok()?;
        let end = file.metadata().ok()?.len();
        file.write_at(b"flipped!", end.checked_sub(1000)?).ok()?;
    }
    Some(())
}

#[test]
fn a_byte_that_changes_on_the_disk_is_found_and_a_spare_takes_the_place_of_its_node() {
    let dev = Dev::start(3);
    let create = ["super-node", "create", "train", "--node", "node-1,node-2"];
    dev.ok(&[&create[..], &["--wait"]].concat());
    dev.ok(&["super-node", "replacement", "train", "automatic"]);
    let shown = tested(&dev, "node-1", "storage", |kernel| {
        // One that has just ended cannot be changed any more.
        let _ = flip(kernel);
    });
    let result = &shown["results"][0];
    assert_eq!(result["outcome"], "failed", "{shown}");
    assert_eq!(result["findings"][0]["item"], "storage", "{shown}");
    let node = dev.json(&["node", "show", "node-1"]);
    assert_eq!(node["health"]["state"], "quarantined", "{node}");
    let explained = dev.ok(&["stress", "explain", "node-1"]);
    assert!(explained.contains("plainly wrong"), "{explained}");
    dev.until("node-3 to be in its place", || {
        let shown = dev.json(&["super-node", "show", "train"]);
        let nodes = shown["nodes"].as_array().expect("a list");
        let names: Vec<_> = nodes.iter().map(|node| node["name"].as_str()).collect();
        (names == [Some("node-2"), Some("node-3")]).then_some(())
    });
    let node = dev.json(&["node", "show", "node-1"]);
    assert_eq!(node["membership"]["state"], "spare", "{node}");
    assert_eq!(node["health"]["state"], "quarantined", "{node}");
}

/// Whether a kernel has come so far that it measures: then it has threads for that.
fn measures(kernel: u32) -> bool {
    fs::read_dir(format!("/proc/{kernel}/task")).is_ok_and(|threads| threads.count() > 3)
}

#[test]
fn a_test_whose_process_was_stopped_for_a_while_says_so_and_blames_no_hardware() {
    let dev = Dev::start(1);
    let stopped = RefCell::new(BTreeSet::new());
    let shown = tested(&dev, "node-1", "compute", |kernel| {
        if measures(kernel) && stopped.borrow_mut().insert(kernel) {
            signal(kernel, "STOP");
            thread::sleep(Duration::from_secs(2));
            signal(kernel, "CONT");
        }
    });
    let result = &shown["results"][0];
    assert_eq!(result["outcome"], "undecided", "{shown}");
    let why = result["undecided"].to_string();
    assert!(why.contains("its process did not run for"), "{why}");
    let node = dev.json(&["node", "show", "node-1"]);
    assert_eq!(node["health"]["state"], "unproven", "{node}");
}
