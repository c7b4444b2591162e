//! Whole tests on simulated fabrics: what is named, how often it is measured, and what is not said.

use supernode_types::entropy::SeededEntropy;
use supernode_types::stress::PairNumbers;
use supernode_types::{OperationId, Timestamp};

use super::*;
use crate::number::uniform;

/// What a fabric does to a flow: its bandwidth in Gbit/s and the share that is lost; nothing where it carries nothing.
type Carries = dyn Fn(usize, usize) -> Option<(f64, f64)>;

fn members(leaves: &[Option<&str>]) -> Vec<Member> {
    let entropy = SeededEntropy::new(7);
    (0..leaves.len())
        .map(|place| Member {
            id: NodeId::new(Timestamp(0), &entropy),
            name: format!("n{place}"),
            leaf: leaves[place].map(str::to_owned),
        })
        .collect()
}

fn alike(count: usize) -> Vec<Member> {
    members(&vec![None; count])
}

/// Measures round after round until it is judged.
fn judged(members: &[Member], tier: Tier, seed: u64, carries: &Carries) -> NetworkVerdict {
    let run = OperationId::new(Timestamp(0), &SeededEntropy::new(1));
    let place = |id: &NodeId| {
        members
            .iter()
            .position(|one| one.id == *id)
            .expect("a member")
    };
    let mut state = seed;
    let mut pairs: Vec<StressPair> = Vec::new();
    loop {
        let rounds = Rounds::of(tier);
        let test = Test {
            members,
            pairs: &pairs,
            rounds,
            seed,
        };
        let round = match next(&test) {
            Next::Judged(verdict) => return verdict,
            Next::Round(round) => round,
        };
        let number = pairs.last().map_or(0, |pair| pair.round) + 1;
        assert!(number <= rounds.most, "it comes to an end");
        for (asker, listener) in round {
            let ends = (place(&asker), place(&listener));
            let (out, back) = (carries(ends.0, ends.1), carries(ends.1, ends.0));
            let mut noise = || 1.0 + (uniform(&mut state) - 0.5) * 0.02;
            let outcome = match (out, back) {
                (Some(out), Some(back)) => PairOutcome::Measured(PairNumbers {
                    out_gbps: out.0 * noise(),
                    back_gbps: back.0 * noise(),
                    out_loss: out.1,
                    back_loss: back.1,
                    round_trip_microseconds: None,
                    slow_round_trip_microseconds: None,
                }),
                _ => PairOutcome::Unreachable {
                    why: "no route".into(),
                },
            };
            pairs.push(StressPair {
                run: run.clone(),
                number: u32::try_from(pairs.len()).expect("few") + 1,
                round: number,
                asker,
                listener,
                tries: 1,
                state: PairState::Ended {
                    outcome,
                    ended_at: Timestamp(0),
                },
            });
        }
    }
}

/// The places that were found, with how certain that is.
fn found(verdict: &NetworkVerdict) -> Vec<(&NetworkPlace, Certainty)> {
    let findings = verdict.findings.iter();
    findings
        .map(|finding| (&finding.place, finding.certainty))
        .collect()
}

#[test]
fn a_sound_network_is_silent_and_takes_few_rounds() {
    for count in [2, 3, 4, 5, 8, 33] {
        for seed in 0..20 {
            let verdict = judged(&alike(count), Tier::Quick, seed, &|_, _| Some((100.0, 0.0)));
            assert_eq!(
                found(&verdict),
                [],
                "{count} nodes, seed {seed}: {verdict:?}"
            );
            assert_eq!(verdict.unjudged, [], "{count} nodes, seed {seed}");
        }
    }
}

#[test]
fn one_direction_of_one_node_is_named_twice_also_among_few() {
    for count in [3, 4, 5, 6, 7, 16] {
        for seed in 0..10 {
            let members = alike(count);
            let slow = |from: usize, _: usize| Some((if from == 1 { 75.0 } else { 100.0 }, 0.0));
            let verdict = judged(&members, Tier::Quick, seed, &slow);
            let node = members[1].id.clone();
            let place = NetworkPlace::NodeOut { node: node.clone() };
            assert_eq!(
                found(&verdict),
                [(&place, Certainty::Confirmed)],
                "{count}, {seed}: {verdict:?}"
            );
            let finding = &verdict.findings[0];
            assert!((finding.worse - 0.25).abs() < 0.05, "{finding:?}");
            assert!(
                finding.words.contains("what n1 sends is slow"),
                "{}",
                finding.words
            );
            assert_eq!(
                (finding.fault, &finding.nodes),
                (NetworkFault::Slow, &vec![node])
            );
            assert!(
                verdict.rounds > 2,
                "tested again before anything bad is said"
            );
        }
    }
}

#[test]
fn a_node_that_is_slow_both_ways_is_named_among_four() {
    for seed in 0..10 {
        let members = alike(4);
        let slow =
            |from: usize, to: usize| Some((if from == 2 || to == 2 { 10.0 } else { 100.0 }, 0.0));
        let verdict = judged(&members, Tier::Quick, seed, &slow);
        let place = NetworkPlace::Node {
            node: members[2].id.clone(),
        };
        assert_eq!(
            found(&verdict),
            [(&place, Certainty::Confirmed)],
            "{seed}: {verdict:?}"
        );
    }
}

#[test]
fn two_nodes_cannot_tell_a_node_from_the_link_and_say_so() {
    let members = alike(2);
    let slow = |from: usize, _: usize| Some((if from == 0 { 20.0 } else { 100.0 }, 0.0));
    let verdict = judged(&members, Tier::Quick, 3, &slow);
    let [finding] = verdict.findings.as_slice() else {
        panic!("{verdict:?}");
    };
    assert_eq!(finding.certainty, Certainty::Ambiguous);
    assert_eq!(finding.nodes.len(), 2, "both are doubted: {finding:?}");
    let words = &finding.words;
    assert!(
        words.contains("what n0 sends") && words.contains("what n1 receives"),
        "{words}"
    );
    assert_eq!(verdict.rounds, 2, "more rounds could not tell more");
}

#[test]
fn a_lossy_receiver_is_named_although_it_is_as_fast_as_the_others() {
    let members = alike(8);
    let lossy = |_: usize, to: usize| Some((100.0, if to == 5 { 0.1 } else { 0.0 }));
    let verdict = judged(&members, Tier::Quick, 1, &lossy);
    let place = NetworkPlace::NodeIn {
        node: members[5].id.clone(),
    };
    assert_eq!(
        found(&verdict),
        [(&place, Certainty::Confirmed)],
        "{verdict:?}"
    );
    assert_eq!(verdict.findings[0].fault, NetworkFault::Lossy);
    assert!(verdict.findings[0].words.contains("10.00 %"), "{verdict:?}");
}

#[test]
fn a_node_that_loses_little_is_named_also_among_few() {
    let members = alike(4);
    let lossy = |from: usize, to: usize| {
        let loss = if from == 2 { 0.04 } else { 0.0 };
        Some((100.0, loss + if (from, to) == (0, 1) { 0.005 } else { 0.0 }))
    };
    let verdict = judged(&members, Tier::Quick, 1, &lossy);
    let node = members[2].id.clone();
    assert_eq!(
        found(&verdict),
        [(&NetworkPlace::NodeOut { node }, Certainty::Confirmed)]
    );
    assert_eq!(verdict.findings[0].fault, NetworkFault::Lossy);
}

#[test]
fn a_node_that_nobody_reaches_is_cut_and_one_pair_that_cannot_talk_is_the_pair() {
    let members = alike(6);
    let cut = |from: usize, to: usize| (from != 4 && to != 4).then_some((100.0, 0.0));
    let verdict = judged(&members, Tier::Quick, 2, &cut);
    let place = NetworkPlace::Node {
        node: members[4].id.clone(),
    };
    assert_eq!(
        found(&verdict),
        [(&place, Certainty::Confirmed)],
        "{verdict:?}"
    );
    assert_eq!(verdict.findings[0].fault, NetworkFault::Unreachable);

    // Only a seed whose rounds have the pair can see it.
    let apart =
        |from: usize, to: usize| (from.min(to) != 0 || from.max(to) != 1).then_some((100.0, 0.0));
    let seen = (0..40).map(|seed| judged(&members, Tier::Standard, seed, &apart));
    let mut named = 0;
    for verdict in seen {
        for finding in &verdict.findings {
            assert!(
                finding.place.node().is_none(),
                "no node is blamed: {finding:?}"
            );
            assert_eq!(finding.fault, NetworkFault::Unreachable);
            named += 1;
        }
    }
    assert!(named > 10, "{named} of 40");
}

#[test]
fn a_leaf_is_named_and_no_node_is_blamed_for_it() {
    let leaves: Vec<Option<&str>> = (0..16)
        .map(|node| Some(["a", "b", "c", "d"][node / 4]))
        .collect();
    let members = members(&leaves);
    let slow = |from: usize, to: usize| {
        Some((
            if from / 4 == 2 && to / 4 != 2 {
                60.0
            } else {
                100.0
            },
            0.0,
        ))
    };
    let verdict = judged(&members, Tier::Standard, 5, &slow);
    let place = NetworkPlace::LeafUp { leaf: "c".into() };
    assert_eq!(
        found(&verdict),
        [(&place, Certainty::Confirmed)],
        "{verdict:?}"
    );
    assert_eq!(verdict.findings[0].nodes, []);
    assert!(
        verdict.findings[0]
            .words
            .contains("what leaves leaf c is slow"),
        "{verdict:?}"
    );
}

#[test]
fn a_single_node_and_pairs_that_say_nothing_are_undecided_with_the_reason() {
    let verdict = judged(&alike(1), Tier::Quick, 1, &|_, _| Some((100.0, 0.0)));
    assert_eq!(
        verdict.undecided.as_deref(),
        Some("it takes two nodes, and only n0 could be used")
    );
    let members = alike(4);
    let run = OperationId::new(Timestamp(0), &SeededEntropy::new(1));
    let pair = |number: usize| StressPair {
        run: run.clone(),
        number: u32::try_from(number).expect("few") + 1,
        round: 1,
        asker: members[2 * number].id.clone(),
        listener: members[2 * number + 1].id.clone(),
        tries: 2,
        state: PairState::Ended {
            outcome: PairOutcome::Disturbed {
                why: "others used the processors".into(),
            },
            ended_at: Timestamp(0),
        },
    };
    let pairs = [pair(0), pair(1)];
    let rounds = Rounds::of(Tier::Quick);
    let Next::Judged(verdict) = next(&Test {
        members: &members,
        pairs: &pairs,
        rounds,
        seed: 1,
    }) else {
        panic!("a round without a flow is the last");
    };
    assert_eq!(
        verdict.undecided.as_deref(),
        Some("2 of 2 pairs say nothing, for example disturbed: others used the processors")
    );
    assert_eq!(verdict.unjudged.len(), 4);
}

#[test]
fn what_was_slow_for_a_while_is_not_confirmed() {
    let members = alike(8);
    for seed in 0..10 {
        // Slow for as long as the first rounds take.
        let flows = std::cell::Cell::new(0);
        let slow = move |from: usize, _: usize| {
            flows.set(flows.get() + 1);
            let sick = from == 1 && flows.get() <= 16;
            Some((if sick { 40.0 } else { 100.0 }, 0.0))
        };
        let verdict = judged(&members, Tier::Quick, seed, &slow);
        for (place, certainty) in found(&verdict) {
            assert_ne!(certainty, Certainty::Confirmed, "{seed}: {place:?}");
        }
    }
}

#[test]
fn noise_names_nobody_for_good() {
    for count in [3, 4, 6, 12] {
        let mut confirmed = 0;
        for seed in 0..100 {
            let state = std::cell::Cell::new(seed * 7919 + 1);
            // Flows differ by a tenth, and one in fifty is half as fast for no reason.
            let noisy = move |_: usize, _: usize| {
                let mut word = state.get();
                let (spread, wild) = (uniform(&mut word), uniform(&mut word));
                state.set(word);
                let wild = if wild < 0.02 { 0.5 } else { 1.0 };
                Some((100.0 * wild * (0.9 + 0.2 * spread), 0.0))
            };
            let verdict = judged(&alike(count), Tier::Quick, seed, &noisy);
            let sure = found(&verdict)
                .iter()
                .filter(|(_, sure)| *sure == Certainty::Confirmed)
                .count();
            confirmed += sure;
        }
        assert!(confirmed <= 1, "{count} nodes: {confirmed} of 100");
    }
}

#[test]
fn a_test_that_was_cut_short_after_a_round_clears_nobody() {
    let members = alike(4);
    let run = OperationId::new(Timestamp(0), &SeededEntropy::new(1));
    let pair = |round: u32, ends: [usize; 2], outcome: PairOutcome| StressPair {
        run: run.clone(),
        number: 1,
        round,
        asker: members[ends[0]].id.clone(),
        listener: members[ends[1]].id.clone(),
        tries: 1,
        state: PairState::Ended {
            outcome,
            ended_at: Timestamp(0),
        },
    };
    let measured = || {
        PairOutcome::Measured(PairNumbers {
            out_gbps: 100.0,
            back_gbps: 100.0,
            out_loss: 0.0,
            back_loss: 0.0,
            round_trip_microseconds: None,
            slow_round_trip_microseconds: None,
        })
    };
    let skipped = || PairOutcome::Skipped {
        why: "the operation was cancelled".into(),
    };
    let pairs = [
        pair(1, [0, 1], measured()),
        pair(1, [2, 3], measured()),
        pair(2, [0, 2], skipped()),
        pair(2, [1, 3], skipped()),
    ];
    let rounds = Rounds::of(Tier::Quick);
    let Next::Judged(verdict) = next(&Test {
        members: &members,
        pairs: &pairs,
        rounds,
        seed: 1,
    }) else {
        panic!("a round without a flow is the last");
    };
    assert_eq!(
        verdict.undecided.as_deref(),
        Some("2 of 4 pairs say nothing, for example skipped: the operation was cancelled")
    );
}

#[test]
fn the_same_pairs_give_the_same_answer() {
    let slow = |from: usize, _: usize| Some((if from == 1 { 90.0 } else { 100.0 }, 0.0));
    let once = judged(&alike(9), Tier::Standard, 4, &slow);
    assert_eq!(once, judged(&alike(9), Tier::Standard, 4, &slow));
}
