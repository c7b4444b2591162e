//! Measurements in the form that the analyzer of `SuperBench` reads (`results-summary.jsonl`): a line for each node, a number for each key.
//!
//! A key is `benchmark/metric:number`, where the number is that of a device or core. The benchmark is our own kernel, and named so: a
//! number of ours is never passed off as one of theirs. Of several rounds the last counts.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use supernode_api::stress::StressEvidence;
use supernode_types::stress::Part;

/// One line for each node that measured something.
pub(super) fn lines(evidence: &[StressEvidence]) -> String {
    let mut text = String::new();
    for node in evidence.iter().filter(|node| !node.rounds.is_empty()) {
        let mut values: BTreeMap<String, f64> = BTreeMap::new();
        for step in node.rounds.iter().flatten() {
            let benchmark = format!("supernode-{}", step.step.replace([' ', '/', ':'], "-"));
            for measurement in &step.measurements {
                let metric = measurement.metric.name();
                let place = place(&measurement.part);
                values.insert(format!("{benchmark}/{metric}{place}"), measurement.median);
                values.insert(format!("{benchmark}/{metric}_p5{place}"), measurement.worse);
            }
            let code = f64::from(u8::from(!step.failures.is_empty()));
            values.insert(format!("{benchmark}/return_code"), code);
        }
        let mut line = Map::new();
        line.insert("node".into(), Value::from(node.node_name.to_string()));
        for (key, value) in values {
            line.insert(key, Value::from(value));
        }
        text += &Value::Object(line).to_string();
        text.push('\n');
    }
    text
}

fn place(part: &Part) -> String {
    match part {
        Part::Host => String::new(),
        Part::Core(number) | Part::Device(number) => format!(":{number}"),
        Part::CorePair(from, to) | Part::MemoryPair(from, to) | Part::DevicePair(from, to) => {
            format!("_{from}_to_{to}")
        }
        Part::Directory(name) | Part::Peer(name) => format!("_{}", name.replace([' ', ':'], "-")),
    }
}
