//! How runs and measurements look.

mod network;

use supernode_api::stress::{NodeHealthView, StressEvidence, StressRunLine, StressRunView};
use supernode_types::operation::{OperationKind, OperationState, TargetState};
use supernode_types::stress::{StepEvidence, StressResult, Validity};

use crate::operation;
use crate::output::{Look, Table, add, cell, clean, or_dash, section, state};

/// Runs, one line each.
pub(super) fn history(items: &[StressRunLine], look: &Look) -> String {
    let mut table = Table::new(&[
        "RUN",
        "SUPER NODE",
        "TIER",
        "ITEMS",
        "STATE",
        "NODES",
        "OUTCOMES",
        "AGE",
        "ACTOR",
    ]);
    for line in items {
        let operation = &line.operation.operation;
        let (tier, items) = match &operation.kind {
            OperationKind::StressRun(run) => {
                let items: Vec<&str> = run.items.iter().map(|item| item.name()).collect();
                (run.tier.name(), items.join(","))
            }
            _ => ("", String::new()),
        };
        let outcomes: Vec<String> = line
            .outcomes
            .iter()
            .map(|(word, count)| format!("{count} {word}"))
            .collect();
        table.row([
            cell(&operation.id),
            cell(or_dash(line.operation.super_node_name.as_ref())),
            cell(tier),
            cell(items),
            state(operation.state.word()),
            cell(operation.targets.len()),
            cell(outcomes.join(", ")),
            cell(look.age(operation.created_at)),
            cell(&operation.actor),
        ]);
    }
    table.render(look)
}

/// A run: each node with its outcome, then everything that was found.
pub(super) fn run(view: &StressRunView, look: &Look) -> String {
    let operation = &view.operation.operation;
    let mut text = format!(
        "{} {} {}\n",
        operation.id,
        operation::subject(&view.operation),
        operation.state.word()
    );
    if let OperationState::Running { waits_for } = &operation.state {
        add(&mut text, format_args!("{}\n", clean(waits_for)));
    }
    let mut table = Table::new(&["NODE", "OUTCOME", "ROUNDS", "TOOK", "DETAIL"]);
    for target in &operation.targets {
        let slot = usize::try_from(target.slot).unwrap_or(usize::MAX);
        let name = or_dash(view.operation.target_names.get(slot).cloned().flatten());
        let result = view
            .results
            .iter()
            .find(|result| Some(&result.result.node) == target.node.as_ref());
        match (result, &target.state) {
            // Tested alone, and not yet through.
            (_, TargetState::Active { step }) => {
                table.row([cell(name), state("active"), cell(""), cell(""), cell(step)]);
            }
            (Some(result), _) => {
                let result = &result.result;
                table.row([
                    cell(name),
                    state(result.outcome.word()),
                    cell(result.rounds),
                    cell(took(result)),
                    cell(result.outcome.detail().unwrap_or_default()),
                ]);
            }
            (None, other) => {
                table.row([
                    cell(name),
                    state(other.word()),
                    cell(""),
                    cell(""),
                    cell(""),
                ]);
            }
        }
    }
    text += &table.render(look);
    let mut findings = Table::new(&["NODE", "ITEM", "CONFIDENCE", "FINDING"]);
    let mut undecided = String::new();
    let mut any = false;
    for view in &view.results {
        for finding in &view.result.findings {
            any = true;
            findings.row([
                cell(&view.node_name),
                cell(finding.item.name()),
                cell(format!("{:.4}", finding.confidence)),
                cell(&finding.words),
            ]);
        }
        for line in &view.result.undecided {
            add(
                &mut undecided,
                format_args!("{}: {}\n", view.node_name, clean(line)),
            );
        }
    }
    if any {
        text += &section("findings", &findings.render(look));
    }
    if let Some(view) = &view.network {
        text += &section("network", &network::test(view, look));
    }
    text + &section("not judged", &undecided)
}

/// A sentence on each line.
pub(super) fn explanation(view: &NodeHealthView) -> String {
    let lines = view.explanation.iter();
    lines.map(|line| clean(line) + "\n").collect()
}

fn took(result: &StressResult) -> String {
    let took = result
        .began_at
        .map(|began| crate::output::seconds(result.ended_at.since(began).as_secs()));
    or_dash(took)
}

/// What nodes measured: one table for each node and round.
pub(super) fn report(items: &[StressEvidence], look: &Look) -> String {
    let mut text = String::new();
    for node in items {
        let outcome = node
            .result
            .as_ref()
            .map_or("under way", |result| result.outcome.word());
        add(
            &mut text,
            format_args!("node {}: {outcome}\n", node.node_name),
        );
        if node.rounds.is_empty() && node.pairs.is_empty() {
            text.push_str("  no measurements are kept\n");
        }
        for (index, steps) in node.rounds.iter().enumerate() {
            let head = format!("round {}", index + 1);
            text += &section(&head, &round(steps, look));
        }
        if !node.pairs.is_empty() {
            text += &section("network", &network::pairs(&node.pairs, look));
        }
        text.push('\n');
    }
    text
}

fn round(steps: &[StepEvidence], look: &Look) -> String {
    let mut table = Table::new(&[
        "STEP",
        "PART",
        "METRIC",
        "MEDIAN",
        "WORST 5 %",
        "UNIT",
        "SAMPLES",
    ]);
    let mut lines = String::new();
    for step in steps {
        for measurement in &step.measurements {
            table.row([
                cell(&step.step),
                cell(&measurement.part),
                cell(measurement.metric.name()),
                cell(figure(measurement.median)),
                cell(figure(measurement.worse)),
                cell(measurement.metric.unit()),
                cell(measurement.samples),
            ]);
        }
        let validity = validity(step, "valid");
        add(
            &mut lines,
            format_args!(
                "{}: {} ({:.1} s)\n",
                step.step,
                clean(&validity),
                step.seconds
            ),
        );
        for failure in &step.failures {
            add(&mut lines, format_args!("  WRONG {}\n", clean(failure)));
        }
    }
    table.render(look) + &lines
}

/// What the samples of a step are worth, in words.
pub(super) fn validity(step: &StepEvidence, valid: &str) -> String {
    match &step.validity {
        Validity::Valid => valid.to_owned(),
        Validity::Contended(why) => format!("contended: {why}"),
        Validity::Throttled(why) => format!("throttled: {why}"),
        Validity::Incomplete(why) => format!("incomplete: {why}"),
        Validity::CouldNotRun(why) => format!("could not run: {why}"),
    }
}

/// A number with as many digits as say something.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use supernode_types::Timestamp;

    const LOOK: Look = Look {
        now: Timestamp(1_763_900_000_000_000),
        color: false,
    };

    fn sample() -> StressRunView {
        let (run, node) = (
            "op-01kb000000000000000000000a",
            "node-01kb000000000000000000000a",
        );
        crate::sample::answer(&json!({
            "operation": {
                "id": run, "kind": "stress_run", "tier": "quick", "items": ["compute"], "parallel": 1, "window_ends": "2025-11-23T12:13:20Z",
                "super_node": null, "super_node_name": "train", "state": "running", "waits_for": "node n2: is tested: matrices of f32 (1 of 2)",
                "targets": [
                    {"slot": 0, "node": node, "provision": null, "chosen_because": "named", "state": {"state": "done"}},
                    {"slot": 1, "node": null, "provision": null, "chosen_because": "named", "state": {"state": "active", "step": "is tested"}}
                ],
                "target_names": ["n1", "n2"], "targets_done": 1, "actor": "ada", "deadline": "2025-11-23T12:28:20Z", "cancel_requested": false,
                "generation": 2, "created_at": "2025-11-23T12:13:20Z", "ended_at": null
            },
            "results": [{
                "node_name": "n1", "run": run, "node": node, "tier": "quick", "outcome": "failed", "finding": "core 1: digest", "rounds": 1,
                "undecided": ["disk: no space"], "began_at": "2025-11-23T12:13:20Z", "ended_at": "2025-11-23T12:13:50Z",
                "findings": [{"item": "compute", "words": "core 1: digest", "kind": {"kind": "hard"}, "confidence": 1.0}]
            }]
        }))
    }

    #[test]
    fn a_run_says_what_came_of_each_node_and_what_was_found() {
        assert_eq!(
            run(&sample(), &LOOK),
            "op-01kb000000000000000000000a stress_run of train running\n\
             node n2: is tested: matrices of f32 (1 of 2)\n\
             NODE  OUTCOME  ROUNDS  TOOK  DETAIL\n\
             n1    failed   1       30s   core 1: digest\n\
             n2    active                 is tested\n\n\
             findings\nNODE  ITEM     CONFIDENCE  FINDING\n\
             n1    compute  1.0000      core 1: digest\n\n\
             not judged\nn1: disk: no space\n"
        );
    }

    #[test]
    fn waiting_for_a_run_that_found_something_fails() {
        let error = super::super::verdict(&sample()).expect_err("n1 failed");
        assert_eq!(error.to_string(), "node n1 failed: core 1: digest");
        let nothing = StressRunView {
            results: Vec::new(),
            ..sample()
        };
        assert!(super::super::verdict(&nothing).is_ok());
    }
}
