//! A limit on the processor time of an agent, put there from outside: it is named, and the hardware is not blamed for it. Needs root and a
//! control group that can be made; what is missing is said, and skipped.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::Dev;
use crate::stress_run::ended;

/// A control group that may use half of one processor, in slices so short that it meets its limit on a crowded machine, too; gone when
/// dropped, after all that was in it.
struct Limit(PathBuf);

const QUOTA_MICROSECONDS: u32 = 5_000;
const PERIOD_MICROSECONDS: u32 = 10_000;

impl Limit {
    fn new() -> Option<Self> {
        let name = format!("supernode-test-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/cpu");
        let (group, limits) = if first.is_dir() {
            let period = ("cpu.cfs_period_us", PERIOD_MICROSECONDS.to_string());
            let quota = ("cpu.cfs_quota_us", QUOTA_MICROSECONDS.to_string());
            (first.join(name), vec![period, quota])
        } else {
            let limit = format!("{QUOTA_MICROSECONDS} {PERIOD_MICROSECONDS}");
            let group = Path::new("/sys/fs/cgroup").join(name);
            (group, vec![("cpu.max", limit)])
        };
        let write = |(file, value): &(&str, String)| fs::write(group.join(file), value);
        let made = fs::create_dir(&group).and_then(|()| limits.iter().try_for_each(write));
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

fn result<'a>(shown: &'a Value, node: &str) -> &'a Value {
    let results = shown["results"].as_array().expect("a list");
    let found = results.iter().find(|result| result["node_name"] == node);
    found.expect("it was tested")
}

#[test]
fn an_agent_whose_processor_time_is_limited_is_throttled_and_not_slow() {
    let Some(limit) = Limit::new() else {
        return;
    };
    let dev = Dev::start(2);
    limit.take(dev.pid("node-2"));
    let mut words = vec!["stress", "run", "--node", "node-1,node-2"];
    words.extend(["--items", "compute", "--kernel-seconds", "1"]);
    let run = dev.json(&words);
    let shown = ended(&dev, run["id"].as_str().expect("an id"));
    let limited = result(&shown, "node-2");
    assert_eq!(limited["outcome"], "undecided", "{limited}");
    let why = "the control group's limit held it back";
    assert!(limited.to_string().contains(why), "{limited}");
    let free = result(&shown, "node-1");
    assert!(!free.to_string().contains(why), "{free}");
    let health = &dev.json(&["node", "show", "node-2"])["health"]["state"];
    assert_eq!(health, "unproven", "nothing is held against the hardware");
}
