//! How the test of a network looks: how far it is, what it found, and each pair with both directions.

use supernode_api::stress::{StressNetworkView, StressPairView};
use supernode_types::stress::{Certainty, NetworkState, PairOutcome, PairState};

use super::figure;
use crate::output::{Look, Table, add, cell, clean, state};

/// The whole test.
pub(super) fn test(view: &StressNetworkView, look: &Look) -> String {
    let mut text = String::new();
    match &view.network.state {
        NetworkState::Testing { round } => {
            add(&mut text, format_args!("round {round} is measured\n"));
        }
        NetworkState::Judged { verdict } => {
            match (&verdict.undecided, verdict.findings.is_empty()) {
                (Some(why), _) => add(&mut text, format_args!("not judged: {}\n", clean(why))),
                (None, true) => add(
                    &mut text,
                    format_args!("nothing was found in {} rounds\n", verdict.rounds),
                ),
                (None, false) => {}
            }
            for finding in &verdict.findings {
                let certainty = match finding.certainty {
                    Certainty::Confirmed => "confirmed",
                    Certainty::Doubtful => "once",
                    Certainty::Ambiguous => "ambiguous",
                };
                add(
                    &mut text,
                    format_args!(
                        "{certainty}, probability {:.4}: {}\n",
                        finding.confidence,
                        clean(&finding.words)
                    ),
                );
                if !finding.others.is_empty() {
                    add(
                        &mut text,
                        format_args!("  or: {}\n", clean(&finding.others.join(", "))),
                    );
                }
            }
        }
    }
    text + &pairs(&view.pairs, look)
}

/// Pairs, one line each: bandwidths in Gbit/s and shares of lost datagrams, from the asker and back to it.
pub(super) fn pairs(pairs: &[StressPairView], look: &Look) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        "ROUND",
        "FROM",
        "TO",
        "STATE",
        "GBIT/S",
        "BACK",
        "LOST",
        "BACK",
        "ROUND TRIP",
        "DETAIL",
    ]);
    for StressPairView {
        asker_name,
        listener_name,
        pair,
    } in pairs
    {
        let (word, numbers, detail) = match &pair.state {
            PairState::Waiting { after } => ("waiting", None, after.as_deref()),
            PairState::Running { .. } => ("active", None, None),
            PairState::Ended { outcome, .. } => {
                let numbers = match outcome {
                    PairOutcome::Measured(numbers) => Some(numbers),
                    _ => None,
                };
                (outcome.word(), numbers, outcome.detail())
            }
        };
        let number = |value: Option<f64>| cell(value.map(figure).unwrap_or_default());
        let share = |value: Option<f64>| {
            cell(value.map_or_else(String::new, |share| format!("{:.2} %", share * 100.0)))
        };
        let round_trip = numbers.and_then(|numbers| numbers.round_trip_microseconds);
        table.row([
            cell(pair.round),
            cell(asker_name),
            cell(listener_name),
            state(word),
            number(numbers.map(|numbers| numbers.out_gbps)),
            number(numbers.map(|numbers| numbers.back_gbps)),
            share(numbers.map(|numbers| numbers.out_loss)),
            share(numbers.map(|numbers| numbers.back_loss)),
            cell(round_trip.map_or_else(String::new, |time| format!("{} us", figure(time)))),
            cell(detail.unwrap_or_default()),
        ]);
    }
    table.render(look)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use supernode_types::Timestamp;

    use super::*;

    #[test]
    fn a_test_says_what_was_found_and_what_each_pair_measured() {
        let (run, one, other) = (
            "op-01kb000000000000000000000a",
            "node-01kb000000000000000000000a",
            "node-01kb000000000000000000000b",
        );
        let pair = |number: u32, state: serde_json::Value| {
            let mut pair = json!({
                "asker_name": "n1", "listener_name": "n2", "run": run, "number": number, "round": 1, "asker": one, "listener": other, "tries": 1
            });
            let fields = pair.as_object_mut().expect("an object");
            fields.extend(state.as_object().expect("an object").clone());
            pair
        };
        let at = "2025-11-23T12:13:50Z";
        let view: StressNetworkView = crate::sample::answer(&json!({
            "run": run, "nodes": [one, other], "leaves": [null, null], "began_at": at, "state": "judged",
            "verdict": {
                "rounds": 3, "undecided": null, "unjudged": [],
                "findings": [{
                    "place": {"place": "node_out", "node": one}, "fault": "slow", "certainty": "confirmed", "words": "what n1 sends is slow",
                    "confidence": 0.999, "worse": 0.6, "measured": 40.0, "baseline": 100.0, "flows": 3, "others": ["the link (0.01)"], "nodes": [one]
                }]
            },
            "pairs": [
                pair(1, json!({
                    "state": "ended", "outcome": "measured", "ended_at": at, "out_gbps": 40.0, "back_gbps": 100.25, "out_loss": 0.01,
                    "back_loss": 0.0, "round_trip_microseconds": 81.5, "slow_round_trip_microseconds": 99.0
                })),
                pair(2, json!({"state": "ended", "outcome": "skipped", "why": "the window is over", "ended_at": at}))
            ]
        }));
        let look = Look {
            now: Timestamp(1_763_900_000_000_000),
            color: false,
        };
        let text = test(&view, &look);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..2],
            [
                "confirmed, probability 0.9990: what n1 sends is slow",
                "  or: the link (0.01)"
            ]
        );
        let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            words(3),
            "1 n1 n2 measured 40.0 100.2 1.00 % 0.00 % 81.5 us"
        );
        assert_eq!(words(4), "1 n1 n2 skipped the window is over");
    }
}
