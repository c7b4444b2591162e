//! The report of a run as one HTML page: what was found, the network as a heat map, how the nodes compare in each metric, and what each
//! of them measured.

use std::collections::BTreeMap;

use supernode_api::stress::{StressEvidence, StressNetworkView, StressResultView, StressRunView};
use supernode_page::{Cell, Heat, Mood, Page, strip};
use supernode_types::operation::{OperationKind, OperationState};
use supernode_types::stress::{
    Better, Measurement, Metric, NetworkState, PairOutcome, PairState, StepEvidence, StressOutcome,
};

use super::view::{figure, validity};

/// Nodes whose matrix can still be read.
const MOST_PLACES: usize = 64;

/// The whole page.
pub(super) fn page(run: &StressRunView, evidence: &[StressEvidence]) -> String {
    let operation = &run.operation.operation;
    let what = match &operation.kind {
        OperationKind::StressRun(run) => {
            let items: Vec<&str> = run.items.iter().map(|item| item.name()).collect();
            format!("{} tier, {}", run.tier.name(), items.join(", "))
        }
        // A scale-up that tests what it adds.
        other => other.word().to_owned(),
    };
    let subject = run.operation.super_node_name.as_ref();
    let subject = subject.map_or(String::new(), |name| format!(" of {name}"));
    let mut page = Page::new(
        &format!("Stress test{subject}"),
        &format!("{}, {}, {what}", operation.id, operation.created_at),
    );
    outcomes(&mut page, run);
    findings(&mut page, run);
    if let Some(view) = &run.network {
        network(&mut page, view);
    }
    fleet(&mut page, evidence);
    // What its pairs measured stands with the network.
    for node in evidence
        .iter()
        .filter(|node| !node.rounds.is_empty() || node.pairs.is_empty())
    {
        measured(&mut page, node);
    }
    page.finish()
}

fn mood(outcome: &StressOutcome) -> Mood {
    match outcome {
        StressOutcome::Passed => Mood::Good,
        StressOutcome::Failed { .. } => Mood::Bad,
        _ => Mood::Odd,
    }
}

fn outcomes(page: &mut Page, run: &StressRunView) {
    let state = &run.operation.operation.state;
    let passed = |view: &StressResultView| view.result.outcome == StressOutcome::Passed;
    let mood_of_all = match state {
        OperationState::Failed { .. } => Mood::Bad,
        OperationState::Succeeded if run.results.iter().all(passed) => Mood::Good,
        _ => Mood::Odd,
    };
    page.section("Nodes", Some((mood_of_all, state.word())));
    let rows = run.results.iter().map(|view| {
        let outcome = &view.result.outcome;
        vec![
            Cell::Text(view.node_name.to_string()),
            Cell::Badge(mood(outcome), outcome.word().to_owned()),
            Cell::Number(view.result.rounds.to_string()),
            Cell::Text(outcome.detail().unwrap_or_default().to_owned()),
        ]
    });
    page.table(&["node", "outcome", "rounds", "detail"], rows);
}

fn findings(page: &mut Page, run: &StressRunView) {
    let rows: Vec<Vec<Cell>> = run
        .results
        .iter()
        .flat_map(|view| {
            view.result
                .findings
                .iter()
                .map(move |finding| (view, finding))
        })
        .map(|(view, finding)| {
            vec![
                Cell::Text(view.node_name.to_string()),
                Cell::Text(finding.item.name().to_owned()),
                Cell::Number(format!("{:.4}", finding.confidence)),
                Cell::Text(finding.words.clone()),
            ]
        })
        .collect();
    if !rows.is_empty() {
        page.section("Findings", None);
        page.table(&["node", "item", "confidence", "what"], rows);
    }
}

fn network(page: &mut Page, view: &StressNetworkView) {
    let (badge, lines) = match &view.network.state {
        NetworkState::Testing { round } => {
            ((Mood::Odd, "under way"), vec![format!("round {round}")])
        }
        NetworkState::Judged { verdict } => {
            let badge = match (&verdict.undecided, verdict.findings.is_empty()) {
                (Some(_), _) => (Mood::Odd, "not judged"),
                (None, true) => (Mood::Good, "sound"),
                (None, false) => (Mood::Bad, "something is wrong"),
            };
            let mut lines: Vec<String> = verdict.undecided.iter().cloned().collect();
            for finding in &verdict.findings {
                let others = match finding.others.as_slice() {
                    [] => String::new(),
                    others => format!("; or: {}", others.join(", ")),
                };
                lines.push(format!(
                    "{} (probability {:.4}{others})",
                    finding.words, finding.confidence
                ));
            }
            (badge, lines)
        }
    };
    page.section("Network", Some(badge));
    page.list(lines);
    for heat in heats(view) {
        page.heat(&heat);
    }
}

/// Bandwidth and loss of every way that was measured; of several rounds the worst.
fn heats(view: &StressNetworkView) -> Vec<Heat> {
    let (mut speeds, mut losses) = (BTreeMap::new(), BTreeMap::new());
    for pair in &view.pairs {
        let PairState::Ended {
            outcome: PairOutcome::Measured(numbers),
            ..
        } = &pair.pair.state
        else {
            continue;
        };
        let (asker, listener) = (pair.asker_name.to_string(), pair.listener_name.to_string());
        for (from, to, speed, loss) in [
            (&asker, &listener, numbers.out_gbps, numbers.out_loss),
            (&listener, &asker, numbers.back_gbps, numbers.back_loss),
        ] {
            let way = (from.clone(), to.clone());
            let worst = speeds.entry(way.clone()).or_insert(speed);
            *worst = worst.min(speed);
            let worst = losses.entry(way).or_insert(loss);
            *worst = worst.max(loss);
        }
    }
    let mut heats = vec![heat("bandwidth (Gbit/s)", &speeds, Better::More)];
    // Nobody looks at a square of zeros.
    if losses.values().any(|loss| *loss > 0.0) {
        heats.push(heat("lost datagrams (share)", &losses, Better::Less));
    }
    heats.into_iter().flatten().collect()
}

fn heat(title: &str, ways: &BTreeMap<(String, String), f64>, better: Better) -> Option<Heat> {
    let mut places: Vec<String> = ways
        .keys()
        .flat_map(|(from, to)| [from.clone(), to.clone()])
        .collect();
    places.sort();
    places.dedup();
    if places.is_empty() || places.len() > MOST_PLACES {
        return None;
    }
    let least = ways.values().copied().fold(f64::INFINITY, f64::min);
    let most = ways.values().copied().fold(f64::NEG_INFINITY, f64::max);
    // Values that differ by less than one in a hundred are the same colour: noise is no pattern.
    let range = (most - least).max(most.abs() * 0.01).max(f64::MIN_POSITIVE);
    let cell = |from: &String, to: &String| {
        let value = ways.get(&(from.clone(), to.clone()))?;
        let goodness = match better {
            Better::Less => (most - value) / range,
            _ => 1.0 - (most - value) / range,
        };
        Some((goodness, figure(*value)))
    };
    Some(Heat {
        title: title.to_owned(),
        cells: places
            .iter()
            .map(|from| places.iter().map(|to| cell(from, to)).collect())
            .collect(),
        places,
    })
}

/// A node's name, its value, and how it came out.
type Named = (String, f64, Mood);

/// How the nodes compare: for each metric the median of each node's parts, in the last round that measured it.
fn fleet(page: &mut Page, evidence: &[StressEvidence]) {
    let mut metrics: BTreeMap<(String, Metric), Vec<Named>> = BTreeMap::new();
    for node in evidence {
        let mut of_node: BTreeMap<(String, Metric), Vec<f64>> = BTreeMap::new();
        for step in node.rounds.iter().flatten() {
            let mut of_step: BTreeMap<Metric, Vec<f64>> = BTreeMap::new();
            for measurement in &step.measurements {
                of_step
                    .entry(measurement.metric)
                    .or_default()
                    .push(measurement.median);
            }
            for (metric, values) in of_step {
                of_node.insert((step.step.clone(), metric), values);
            }
        }
        let mood = node
            .result
            .as_ref()
            .map_or(Mood::Odd, |result| mood(&result.outcome));
        for (key, values) in of_node {
            let middle = median(values);
            let nodes = metrics.entry(key).or_default();
            nodes.push((node.node_name.to_string(), middle, mood));
        }
    }
    // One node cannot be compared.
    let rows: Vec<Vec<Cell>> = metrics
        .into_iter()
        .filter(|((_, metric), nodes)| nodes.len() > 1 && metric.better() != Better::Neither)
        .map(|((step, metric), nodes)| {
            let values = || nodes.iter().map(|(_, value, _)| *value);
            let number = |value: f64| Cell::Number(format!("{} {}", figure(value), metric.unit()));
            vec![
                Cell::Text(step),
                Cell::Text(metric.name().replace('_', " ")),
                number(values().fold(f64::INFINITY, f64::min)),
                number(median(values().collect())),
                number(values().fold(f64::NEG_INFINITY, f64::max)),
                Cell::Drawing(strip(&nodes)),
            ]
        })
        .collect();
    if !rows.is_empty() {
        page.section("How the nodes compare", None);
        page.table(
            &["test", "metric", "least", "median", "most", "each node"],
            rows,
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

fn measured(page: &mut Page, node: &StressEvidence) {
    let badge = node
        .result
        .as_ref()
        .map(|result| (mood(&result.outcome), result.outcome.word()));
    page.section(&format!("Node {}", node.node_name), badge);
    if node.rounds.is_empty() {
        page.paragraph("no measurements are kept");
    }
    for (number, steps) in (1..).zip(&node.rounds) {
        let summary = format!("round {number}: {} tests", steps.len());
        page.details(&summary, |page| {
            for step in steps {
                kernel(page, step);
            }
        });
    }
}

fn kernel(page: &mut Page, step: &StepEvidence) {
    let validity = validity(step, "measured");
    page.paragraph(&format!(
        "{}: {}, {validity} ({:.1} s)",
        step.item.name(),
        step.step,
        step.seconds
    ));
    page.list(
        step.failures
            .iter()
            .map(|failure| format!("WRONG: {failure}")),
    );
    let row = |measurement: &Measurement| {
        let number =
            |value| Cell::Number(format!("{} {}", figure(value), measurement.metric.unit()));
        vec![
            Cell::Text(measurement.metric.name().replace('_', " ")),
            Cell::Text(measurement.part.to_string()),
            Cell::Number(measurement.samples.to_string()),
            number(measurement.median),
            number(measurement.worse),
        ]
    };
    page.table(
        &["metric", "part", "samples", "median", "95 % better than"],
        step.measurements.iter().map(row),
    );
    page.list(step.remarks.iter().cloned());
}
#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const RUN: &str = "op-01kb000000000000000000000a";
    const NODES: [&str; 2] = [
        "node-01kb000000000000000000000a",
        "node-01kb000000000000000000000b",
    ];
    const AT: &str = "2025-11-23T12:13:20Z";

    fn evidence(number: usize, speed: f64) -> StressEvidence {
        crate::sample::answer(&json!({
            "node": NODES[number], "node_name": format!("n{number}"), "result": result(number),
            "rounds": [[{
                "item": "compute", "step": "matrices of f32", "settings": "{}", "fingerprint": "1", "seconds": 1.5, "validity": "valid",
                "failures": ["core 0: <digest>"], "remarks": [],
                "measurements": [
                    {"metric": "gemm_f32", "part": {"core": 0}, "samples": 9, "median": speed, "worse": speed - 1.0, "shape": null},
                    {"metric": "gemm_f32", "part": {"core": 1}, "samples": 9, "median": speed, "worse": speed - 1.0, "shape": null}
                ]
            }]]
        }))
    }

    fn result(number: usize) -> Value {
        let outcome = if number == 0 { "passed" } else { "failed" };
        json!({
            "run": RUN, "node": NODES[number], "tier": "quick", "outcome": outcome, "finding": "it sends slowly", "rounds": 2, "findings": [],
            "undecided": [], "began_at": AT, "ended_at": AT
        })
    }

    fn run() -> StressRunView {
        let mut results = [result(0), result(1)];
        for (number, result) in results.iter_mut().enumerate() {
            result["node_name"] = format!("n{number}").into();
        }
        crate::sample::answer(&json!({
            "operation": {
                "id": RUN, "kind": "stress_run", "tier": "quick", "items": ["compute", "network"], "parallel": 2, "window_ends": AT,
                "super_node": null, "super_node_name": "train", "state": "succeeded", "targets": [], "target_names": [], "targets_done": 2,
                "actor": "ada", "deadline": AT, "cancel_requested": false, "generation": 2, "created_at": AT, "ended_at": AT
            },
            "results": results,
            "network": {
                "run": RUN, "nodes": NODES, "leaves": [null, null], "began_at": AT, "state": "judged",
                "verdict": {"rounds": 2, "undecided": null, "unjudged": [], "findings": [{
                    "place": {"place": "node_out", "node": NODES[1]}, "fault": "slow", "certainty": "confirmed", "words": "what n1 sends is slow",
                    "confidence": 0.999, "worse": 0.6, "measured": 40.0, "baseline": 100.0, "flows": 3, "others": [], "nodes": [NODES[1]]
                }]},
                "pairs": [{
                    "asker_name": "n0", "listener_name": "n1", "run": RUN, "number": 1, "round": 1, "asker": NODES[0], "listener": NODES[1],
                    "tries": 1, "state": "ended", "outcome": "measured", "ended_at": AT, "out_gbps": 100.0, "back_gbps": 40.0, "out_loss": 0.0,
                    "back_loss": 0.0, "round_trip_microseconds": 81.5, "slow_round_trip_microseconds": 99.0
                }]
            }
        }))
    }

    #[test]
    fn the_page_has_what_was_found_the_network_and_every_node() {
        let page = page(&run(), &[evidence(0, 100.0), evidence(1, 97.0)]);
        for part in [
            "Stress test of train",
            "quick tier, compute, network",
            "it sends slowly",
            "what n1 sends is slow (probability 0.9990)",
            // The way of n1 to n0 is the worst, that of n0 to n1 the best.
            "hsl(0 60% 50% / .5)\">40.0",
            "hsl(120 60% 50% / .5)\">100.0",
            "<title>n1: 97.0000</title>",
            "core 0: &lt;digest&gt;",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }

    #[test]
    fn noise_has_one_colour_and_lost_datagrams_a_square_of_their_own() {
        let mut view = run().network.expect("a test");
        let numbers = |view: &mut StressNetworkView, change: &dyn Fn(&mut Value)| {
            let mut value = serde_json::to_value(&*view).expect("plain data");
            change(&mut value["pairs"][0]);
            *view = crate::sample::answer(&value);
        };
        numbers(&mut view, &|pair| pair["back_gbps"] = 99.9.into());
        let heat = &heats(&view)[..];
        assert_eq!(heat.len(), 1);
        let worst = heat[0].cells[1][0].as_ref().expect("measured").0;
        assert!(worst > 0.85, "{worst}");
        numbers(&mut view, &|pair| pair["back_loss"] = 0.02.into());
        let lost = heats(&view).remove(1);
        assert!(lost.cells[0][1].as_ref().expect("measured").0 > 0.999);
        assert!(lost.cells[1][0].as_ref().expect("measured").0 < 0.001);
    }

    #[test]
    fn superbench_gets_a_line_for_each_node() {
        let text = crate::stress::superbench::lines(&[evidence(0, 100.0), evidence(1, 97.0)]);
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["node"], "n1");
        assert_eq!(lines[1]["supernode-matrices-of-f32/gemm_f32:1"], 97.0);
        assert_eq!(lines[1]["supernode-matrices-of-f32/gemm_f32_p5:0"], 96.0);
        assert_eq!(lines[0]["supernode-matrices-of-f32/return_code"], 1.0);
    }
}
