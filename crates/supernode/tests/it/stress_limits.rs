//! A limit on the processor time of an agent, put there from outside: it is named, and the hardware is not blamed for it.

use serde_json::Value;

use crate::control_group::{ControlGroup, Limit};
use crate::harness::Dev;
use crate::stress_run::ended;

const QUOTA_MICROSECONDS: u32 = 5_000;
const PERIOD_MICROSECONDS: u32 = 10_000;

/// Half of one processor, in slices so short that the limit is met on a crowded machine, too.
fn half_of_a_processor() -> Limit {
    Limit {
        controller: "cpu",
        first_version: vec![
            ("cpu.cfs_period_us", PERIOD_MICROSECONDS.to_string()),
            ("cpu.cfs_quota_us", QUOTA_MICROSECONDS.to_string()),
        ],
        second_version: (
            "cpu.max",
            format!("{QUOTA_MICROSECONDS} {PERIOD_MICROSECONDS}"),
        ),
    }
}

fn result<'a>(shown: &'a Value, node: &str) -> &'a Value {
    let results = shown["results"].as_array().expect("a list");
    let found = results.iter().find(|result| result["node_name"] == node);
    found.expect("it was tested")
}

#[test]
fn an_agent_whose_processor_time_is_limited_is_throttled_and_not_slow() {
    let Some(group) = ControlGroup::new(&half_of_a_processor()) else {
        return;
    };
    let dev = Dev::start(2);
    group.take(dev.pid("node-2"));
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
