//! A limit on the processor time of an agent, put there from outside: it is named, and the hardware is not blamed for it. Needs root and a
//! control group that can be made; what is missing is said, and skipped.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::Dev;
use crate::stress_run::ended;

/// A control group that may use half of one processor; gone when dropped, after all that was in it.
struct Limit(PathBuf);

impl Limit {
    fn new() -> Option<Self> {
        let name = format!("supernode-test-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/cpu");
        let (group, file, limit) = if first.is_dir() {
            (first.join(name), "cpu.cfs_quota_us", "50000")
        } else {
            let group = Path::new("/sys/fs/cgroup").join(name);
            (group, "cpu.max", "50000 100000")
        };
        let made = fs::create_dir(&group).and_then(|()| fs::write(group.join(file), limit));
        if let Err(error) = made {
            println!("SKIPPED: no control group can be limited here: {error}");
            let _ = fs::remove_dir(&group);
            return None;
        }
        Some(Self(group))
    }

    fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("root may move processes");
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn an_agent_whose_processor_time_is_limited_is_throttled_and_not_slow() {
    let Some(limit) = Limit::new() else {
        return;
    };
    let dev = Dev::start(2);
    limit.take(dev.pid("node-2"));
    let words = [
        "stress",
        "run",
        "--node",
        "node-1,node-2",
        "--items",
        "compute",
    ];
    let run = dev.json(&[&words[..], &["--kernel-seconds", "1"]].concat());
    let shown = ended(&dev, run["id"].as_str().expect("an id"));
    let results = shown["results"].as_array().expect("a list");
    let limited = results
        .iter()
        .find(|result| result["node_name"] == "node-2");
    let limited = limited.expect("both nodes were tested");
    assert_eq!(limited["outcome"], "undecided", "{limited}");
    let text = limited.to_string();
    assert!(
        text.contains("the control group's limit held it back"),
        "{text}"
    );
    let free = results
        .iter()
        .find(|result| result["node_name"] == "node-1");
    let free = free.expect("both nodes were tested").to_string();
    assert!(!free.contains("the control group's limit"), "{free}");
    let health = &dev.json(&["node", "show", "node-2"])["health"]["state"];
    assert_eq!(health, "unproven", "nothing is held against the hardware");
}
