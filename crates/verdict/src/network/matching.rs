//! Who is measured with whom: perfect matchings, so that every node has one partner at a time and no two flows share a NIC.

use super::{Fabric, Hypothesis, Localisation};
use crate::number::split_mix;

/// Pairs of one round. With an odd number of nodes one stays alone.
pub type Round = Vec<(usize, usize)>;

/// Candidates for the next round.
const CANDIDATES: usize = 48;
/// Explanations that a round is to tell apart.
const RIVALS: usize = 8;

/// The rounds of a run: in turn inside leaves and across them, no pair twice as long as that is possible, and of an odd number another node
/// without a partner each time.
pub fn first_rounds(fabric: &Fabric, rounds: usize, seed: u64) -> Vec<Round> {
    let mut state = seed;
    let mut made: Vec<Round> = Vec::with_capacity(rounds);
    let several = fabric.leaf.iter().any(|leaf| *leaf != fabric.leaf[0]);
    for number in 0..rounds {
        let place = match (several, number % 2) {
            (false, _) => Place::Anywhere,
            (true, 0) => Place::Inside,
            (true, _) => Place::Across,
        };
        let round = (0..CANDIDATES)
            .map(|_| shuffled(fabric, place, &mut state))
            .min_by_key(|round| {
                let alone = fabric.nodes() - 2 * round.len();
                (
                    repeated(&made, round),
                    alone,
                    alone_again(fabric, &made, round),
                )
            });
        made.push(round.unwrap_or_default());
    }
    made
}

/// The round that tells the most probable explanations apart best: of many matchings, the one in which their predictions differ most,
/// each difference weighed by how probable both are.
pub fn decisive(fabric: &Fabric, found: &Localisation, made: &[Round], seed: u64) -> Round {
    let mut state = seed;
    let rivals: Vec<_> = found.explanations.iter().take(RIVALS).collect();
    let worth = |round: &Round| {
        let mut worth = 0.0;
        for (position, one) in rivals.iter().enumerate() {
            for other in &rivals[position + 1..] {
                let weight = one.probability * other.probability;
                // The squared difference of two predictions in spreads is how much evidence a flow gives.
                let apart: f64 = directions(round)
                    .map(|(from, to)| {
                        let predicted = |hypothesis: Hypothesis, slower: f64| {
                            if hypothesis.covers(fabric, from, to) {
                                slower
                            } else {
                                0.0
                            }
                        };
                        let gap = predicted(one.hypothesis, one.slower)
                            - predicted(other.hypothesis, other.slower);
                        (gap / found.spread).powi(2)
                    })
                    .sum();
                // Enough is enough: what is apart already need not be more so.
                worth += weight * (1.0 - (-apart / 4.0).exp());
            }
        }
        worth
    };
    let places = [Place::Anywhere, Place::Inside, Place::Across];
    let mut best = (f64::NEG_INFINITY, Round::new());
    for candidate in 0..CANDIDATES {
        let round = shuffled(fabric, places[candidate % places.len()], &mut state);
        // A pair that was measured before is worth less than a new one, when all else is equal.
        let again = repeated(made, &round);
        let worth = worth(&round) - 1e-6 * crate::number::real_of(again);
        if worth > best.0 {
            best = (worth, round);
        }
    }
    best.1
}

/// All pairs in the fewest rounds, by the circle method: one node stays, the others turn.
pub fn everybody(nodes: usize) -> Vec<Round> {
    let seats = nodes + nodes % 2;
    (0..seats.saturating_sub(1))
        .map(|turn| {
            let turning = seats - 1;
            let seat = |position: usize| (turn + position) % turning;
            let mut round = vec![(turning, seat(0))];
            round.extend((1..seats / 2).map(|step| (seat(step), seat(turning - step))));
            round.retain(|(one, other)| one.max(other) < &nodes);
            round
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Anywhere,
    Inside,
    Across,
}

fn directions(round: &Round) -> impl Iterator<Item = (usize, usize)> {
    round
        .iter()
        .flat_map(|(one, other)| [(*one, *other), (*other, *one)])
}

/// How many pairs of a round were measured before.
fn repeated(made: &[Round], round: &Round) -> usize {
    let ordered = |(one, other): &(usize, usize)| (*one.min(other), *one.max(other));
    round
        .iter()
        .filter(|pair| {
            made.iter()
                .flatten()
                .any(|before| ordered(before) == ordered(pair))
        })
        .count()
}

/// How many nodes without a partner had none in an earlier round either.
fn alone_again(fabric: &Fabric, made: &[Round], round: &Round) -> usize {
    let has = |round: &Round, node: usize| {
        round
            .iter()
            .any(|(one, other)| *one == node || *other == node)
    };
    (0..fabric.nodes())
        .filter(|node| !has(round, *node) && made.iter().any(|before| !has(before, *node)))
        .count()
}

/// A matching that is as perfect as the place allows.
fn shuffled(fabric: &Fabric, place: Place, state: &mut u64) -> Round {
    let mut nodes: Vec<usize> = (0..fabric.nodes()).collect();
    for position in (1..nodes.len()).rev() {
        nodes.swap(position, below(position + 1, state));
    }
    match place {
        Place::Anywhere => pairs_of(&nodes),
        Place::Inside => {
            nodes.sort_by_key(|node| fabric.leaf[*node]);
            let mut round = Round::new();
            let mut left = Vec::new();
            for leaf in nodes.chunk_by(|one, other| fabric.leaf[*one] == fabric.leaf[*other]) {
                round.extend(pairs_of(leaf));
                if leaf.len() % 2 == 1 {
                    left.extend(leaf.last().copied());
                }
            }
            round.extend(pairs_of(&left));
            round
        }
        Place::Across => {
            // Half of the leaves, chosen by chance, with the other half; each node with one of any leaf of the other half, so
            // that no leaf has one partner alone.
            let salt = split_mix(state);
            nodes.sort_by_key(|node| split_mix(&mut (salt ^ fabric.leaf[*node] as u64)));
            let (one, other) = nodes.split_at_mut(fabric.nodes() / 2);
            for position in (1..one.len()).rev() {
                other.swap(position, below(position + 1, state));
            }
            // A leaf on both sides is moved out of its own way, as far as others allow.
            for position in 0..one.len() {
                let crosses = |from: usize, to: usize| fabric.crosses(one[from], other[to]);
                if !crosses(position, position) {
                    let better = (0..one.len())
                        .find(|with| crosses(position, *with) && crosses(*with, position));
                    if let Some(with) = better {
                        other.swap(position, with);
                    }
                }
            }
            one.iter().copied().zip(other.iter().copied()).collect()
        }
    }
}

fn pairs_of(nodes: &[usize]) -> Round {
    nodes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[one, other]| (*one, *other))
        .collect()
}

/// A number below `bound`.
fn below(bound: usize, state: &mut u64) -> usize {
    usize::try_from(split_mix(state) % bound as u64).expect("below a usize")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Explanation, Localisation};
    use super::*;

    fn fabric(nodes: usize, of_leaf: usize) -> Fabric {
        Fabric {
            leaf: (0..nodes).map(|node| node / of_leaf).collect(),
        }
    }

    proptest! {
        #[test]
        fn every_round_is_a_matching(nodes in 2_usize..40, of_leaf in 1_usize..20, seed in any::<u64>()) {
            let fabric = fabric(nodes, of_leaf);
            for round in first_rounds(&fabric, 3, seed) {
                let mut seen: Vec<usize> = round.iter().flat_map(|(one, other)| [*one, *other]).collect();
                prop_assert!(round.len() >= (nodes / 2).saturating_sub(1), "{round:?}");
                seen.sort_unstable();
                seen.dedup();
                prop_assert_eq!(seen.len(), 2 * round.len(), "a node has two partners");
            }
        }

        #[test]
        fn everybody_meets_everybody_once(nodes in 2_usize..30) {
            let mut met: Vec<(usize, usize)> = everybody(nodes)
                .into_iter()
                .flatten()
                .map(|(one, other)| (one.min(other), one.max(other)))
                .collect();
            prop_assert_eq!(everybody(nodes).len(), nodes + nodes % 2 - 1);
            met.sort_unstable();
            let mut all: Vec<(usize, usize)> = (0..nodes).flat_map(|one| (one + 1..nodes).map(move |other| (one, other))).collect();
            all.sort_unstable();
            prop_assert_eq!(met, all);
        }
    }

    #[test]
    fn rounds_are_inside_leaves_and_across_in_turn_and_do_not_repeat() {
        let fabric = fabric(32, 8);
        let rounds = first_rounds(&fabric, 4, 1);
        for (number, round) in rounds.iter().enumerate() {
            assert_eq!(round.len(), 16);
            for (one, other) in round {
                assert_eq!(fabric.leaf[*one] == fabric.leaf[*other], number % 2 == 0);
            }
            assert!(repeated(&rounds[..number], round) <= 2);
        }
    }

    #[test]
    fn the_next_round_parts_a_node_from_its_partner() {
        let fabric = fabric(8, 8);
        let suspects = [Hypothesis::NicOut(3), Hypothesis::Pair(3, 4)];
        let found = Localisation {
            explanations: suspects
                .map(|hypothesis| Explanation {
                    hypothesis,
                    probability: 0.5,
                    slower: 0.2,
                })
                .into(),
            spread: 0.01,
        };
        let round = decisive(&fabric, &found, &[vec![(3, 4)]], 9);
        assert!(!round.contains(&(3, 4)) && !round.contains(&(4, 3)));
        assert!(round.iter().any(|(one, other)| *one == 3 || *other == 3));
    }
}
