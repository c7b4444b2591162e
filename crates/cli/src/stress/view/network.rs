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
