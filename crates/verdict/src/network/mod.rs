//! Which part of a network is slow, from bandwidths between pairs of nodes.
//!
//! Nodes are paired so that each has one partner at a time ([`matching`]). Each flow crosses the sender's NIC, perhaps the uplink of its
//! leaf switch and the downlink of another, and the receiver's NIC. Every explanation ("the NIC of node 7 sends slowly, by five
//! percent") says which flows are slow and by how much; Bayes' rule says how probable each is after what was measured. Nothing is voted
//! on and no threshold decides what counts as slow, so many flows that are each a little slow weigh as much as one that is very slow,
//! and the answer comes with a probability that means what it says.
//!
//! Where two explanations fit the same flows (a NIC that sends slowly, the one partner that it had), the probability says so, and
//! [`matching::decisive`] chooses the next round where their predictions differ most.

pub mod matching;
pub mod run;

use serde::{Deserialize, Serialize};

use super::statistics::{
    log_normal_density, log_sum_exp, median, quantile, robust_deviation, sorted,
};
use crate::number::real_of;

/// Where nodes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    /// The leaf switch of each node, by number. All the same where nothing is known: then uplinks are not suspected.
    pub leaf: Vec<usize>,
}

impl Fabric {
    /// How many nodes.
    pub fn nodes(&self) -> usize {
        self.leaf.len()
    }

    fn crosses(&self, from: usize, to: usize) -> bool {
        self.leaf[from] != self.leaf[to]
    }

    fn leaves(&self) -> usize {
        self.leaf.iter().max().map_or(0, |last| last + 1)
    }

    /// The share of all flows that is sound whichever one node is sick. Among few nodes that is no large majority, and what most flows
    /// have in common is not what sound ones have: then only so many of the best say what is sound. Of two nodes it is one direction.
    fn sound(&self) -> f64 {
        match self.nodes() {
            0..=2 => 0.5,
            few if self.few() => real_of(few - 2) / real_of(few),
            _ => 1.0,
        }
    }

    /// Whether one sick node can touch a third of all flows or more.
    fn few(&self) -> bool {
        const FEW: usize = 6;
        self.nodes() <= FEW
    }
}

/// One direction between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Who sent.
    pub from: usize,
    /// Who received.
    pub to: usize,
    /// The bandwidth, in any unit. What is contended is left out by the caller.
    pub bandwidth: f64,
}

/// An explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hypothesis {
    /// Nothing is slow.
    None,
    /// A node sends slowly: its NIC, or its cable in that direction.
    NicOut(usize),
    /// A node receives slowly.
    NicIn(usize),
    /// A node does both slowly.
    Node(usize),
    /// Both directions between two nodes: something on their way alone.
    Pair(usize, usize),
    /// What leaves a leaf switch is slow.
    LeafUp(usize),
    /// What comes into a leaf switch is slow.
    LeafDown(usize),
}

impl Hypothesis {
    /// Whether it says that a flow is slow.
    pub fn covers(self, fabric: &Fabric, from: usize, to: usize) -> bool {
        match self {
            Self::None => false,
            Self::NicOut(node) => from == node,
            Self::NicIn(node) => to == node,
            Self::Node(node) => from == node || to == node,
            Self::Pair(one, other) => (from, to) == (one, other) || (from, to) == (other, one),
            Self::LeafUp(leaf) => fabric.leaf[from] == leaf && fabric.crosses(from, to),
            Self::LeafDown(leaf) => fabric.leaf[to] == leaf && fabric.crosses(from, to),
        }
    }
}

/// What is believed before anything is measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prior {
    /// How often a run finds nothing, 0 to 1.
    pub nothing: f64,
    /// The spread of the logarithm of a sound flow's bandwidth, from earlier runs.
    pub spread: f64,
    /// How many flows that spread is worth against what this run shows.
    pub spread_weight: f64,
}

impl Default for Prior {
    /// A run that was asked for finds something half of the time, and a flow repeats to one percent.
    fn default() -> Self {
        Self {
            nothing: 0.5,
            spread: 0.01,
            spread_weight: 16.0,
        }
    }
}

/// The least and the most that a slow part may lose, as logarithms; every doubling in between is as probable as any other.
const LOSSES: (f64, f64) = (0.008, 3.0);
/// Slices of the exponential distribution by which a lossy part slows its flows.
const SLICES: u32 = 10;
/// Mean losses of a lossy part that are tried.
const LOSSY: [f64; 9] = [0.01, 0.02, 0.04, 0.07, 0.12, 0.2, 0.35, 0.6, 1.2];
/// A flow may be wild for no reason so often.
const WILD: f64 = 0.01;
/// And then by about so much.
const WILD_SPREAD: f64 = 0.15;
/// No flow repeats better than this.
const LEAST_SPREAD: f64 = 0.002;

/// One explanation with its weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Which.
    pub hypothesis: Hypothesis,
    /// How probable, 0 to 1.
    pub probability: f64,
    /// How much slower its flows are in the median: 0.05 is five percent. Zero for nothing.
    pub slower: f64,
}

/// What the flows say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Localisation {
    /// All explanations, the most probable first.
    pub explanations: Vec<Explanation>,
    /// The spread that sound flows had, in logarithms.
    pub spread: f64,
}

impl Localisation {
    /// The most probable explanation.
    pub fn best(&self) -> Explanation {
        self.explanations[0]
    }
}

/// A flow with what its class has in common removed; in logarithms, worse is less.
#[derive(Debug, Clone, Copy)]
struct Residual {
    from: usize,
    to: usize,
    value: f64,
}

/// Weighs all explanations of the flows of any number of rounds.
pub fn localise(fabric: &Fabric, flows: &[Flow], prior: &Prior) -> Localisation {
    let residuals = residuals(fabric, flows);
    weigh(fabric, &residuals, prior)
}

/// Names one slow part after the other: what the best explanation takes from its flows is given back, and the rest is weighed again.
/// Ends with the first explanation below `enough`, or with nothing; four parts at most.
pub fn localise_all(
    fabric: &Fabric,
    flows: &[Flow],
    prior: &Prior,
    enough: f64,
) -> Vec<Explanation> {
    const MOST_PARTS: usize = 4;
    let mut residuals = residuals(fabric, flows);
    let mut found = Vec::new();
    while found.len() < MOST_PARTS {
        let best = weigh(fabric, &residuals, prior).best();
        if best.hypothesis == Hypothesis::None || best.probability < enough {
            break;
        }
        for residual in &mut residuals {
            if best.hypothesis.covers(fabric, residual.from, residual.to) {
                residual.value -= (1.0 - best.slower).ln();
            }
        }
        found.push(best);
    }
    found
}

/// Flows inside a leaf and flows across are two classes, each with its own middle of what is sound.
fn residuals(fabric: &Fabric, flows: &[Flow]) -> Vec<Residual> {
    let class = |flow: &Flow| fabric.crosses(flow.from, flow.to);
    let middle = |crosses: bool| {
        let of_class = flows
            .iter()
            .filter(|flow| class(flow) == crosses && flow.bandwidth > 0.0)
            .map(|flow| flow.bandwidth.ln());
        quantile(&sorted(of_class), 1.0 - fabric.sound() / 2.0).unwrap_or(0.0)
    };
    let (inside, across) = (middle(false), middle(true));
    flows
        .iter()
        .map(|flow| {
            let middle = if class(flow) { across } else { inside };
            // A flow that moved nothing is as slow as can be said.
            let value = flow.bandwidth.max(f64::MIN_POSITIVE).ln() - middle;
            Residual {
                from: flow.from,
                to: flow.to,
                value: value.max(-3.0),
            }
        })
        .collect()
}

fn weigh(fabric: &Fabric, residuals: &[Residual], prior: &Prior) -> Localisation {
    let spread = spread(fabric, residuals, prior);
    let ways = ways(spread);
    // By how much more probable each value is in each way of being slow than when it is not.
    let gains: Vec<Vec<f64>> = residuals
        .iter()
        .map(|residual| {
            let sound = density(residual.value, &[(0.0, spread)]);
            ways.iter()
                .map(|way| density(residual.value, &way.centres) - sound)
                .collect()
        })
        .collect();
    let hypotheses = hypotheses(fabric, residuals);
    let mut weighed = Vec::with_capacity(hypotheses.len());
    for (hypothesis, log_prior) in hypotheses {
        if hypothesis == Hypothesis::None {
            weighed.push((hypothesis, prior.nothing.max(1e-12).ln(), 0.0));
            continue;
        }
        let mut sums: Vec<f64> = ways.iter().map(|way| way.log_prior).collect();
        for (residual, gains) in residuals.iter().zip(&gains) {
            if hypothesis.covers(fabric, residual.from, residual.to) {
                for (sum, gain) in sums.iter_mut().zip(gains) {
                    *sum += gain;
                }
            }
        }
        let covered = residuals
            .iter()
            .filter(|residual| hypothesis.covers(fabric, residual.from, residual.to))
            .map(|residual| residual.value);
        let slower = 1.0 - median(covered).unwrap_or(0.0).min(0.0).exp();
        let evidence = log_sum_exp(sums.iter().copied());
        let something = (1.0 - prior.nothing).max(1e-12).ln();
        weighed.push((hypothesis, something + log_prior + evidence, slower));
    }
    let total = log_sum_exp(weighed.iter().map(|(_, weight, _)| *weight));
    let mut explanations: Vec<Explanation> = weighed
        .into_iter()
        .map(|(hypothesis, weight, slower)| Explanation {
            hypothesis,
            probability: (weight - total).exp(),
            slower,
        })
        .collect();
    explanations.sort_by(|left, right| right.probability.total_cmp(&left.probability));
    Localisation {
        explanations,
        spread,
    }
}

/// All explanations that any of the flows could tell from nothing, with the logarithm of their share of "something".
///
/// Kinds are equally probable, and so are the parts of a kind.
fn hypotheses(fabric: &Fabric, residuals: &[Residual]) -> Vec<(Hypothesis, f64)> {
    let nodes = 0..fabric.nodes();
    let mut pairs: Vec<(usize, usize)> = residuals
        .iter()
        .map(|flow| (flow.from.min(flow.to), flow.from.max(flow.to)))
        .collect();
    pairs.sort_unstable();
    pairs.dedup();
    let leaves = if fabric.leaves() > 1 {
        0..fabric.leaves()
    } else {
        0..0
    };
    let kinds: [Vec<Hypothesis>; 6] = [
        nodes.clone().map(Hypothesis::NicOut).collect(),
        nodes.clone().map(Hypothesis::NicIn).collect(),
        nodes.map(Hypothesis::Node).collect(),
        pairs
            .into_iter()
            .map(|(one, other)| Hypothesis::Pair(one, other))
            .collect(),
        leaves.clone().map(Hypothesis::LeafUp).collect(),
        leaves.map(Hypothesis::LeafDown).collect(),
    ];
    let filled = kinds.iter().filter(|kind| !kind.is_empty()).count();
    let mut all = vec![(Hypothesis::None, 0.0)];
    for kind in kinds {
        let share = -(real_of(kind.len()).ln() + real_of(filled).ln());
        all.extend(kind.into_iter().map(|hypothesis| (hypothesis, share)));
    }
    all
}

/// A way of being slow.
struct Way {
    /// Where the logarithms of slow flows are, equally probable, and how far they spread there.
    centres: Vec<(f64, f64)>,
    /// The logarithm of how probable the way is.
    log_prior: f64,
}

/// Always by the same, in steps that the spread cannot tell apart; or by chance, with a mean.
fn ways(spread: f64) -> Vec<Way> {
    let mut ways = Vec::new();
    let (least, most) = LOSSES;
    let whole = 2.0 * (most / least).ln();
    let mut loss: f64 = least;
    while loss < most {
        // Large losses are so unlike nothing that a coarse step is fine enough.
        let step = spread * (1.0 + 10.0 * loss);
        let next = (loss + step).min(most);
        ways.push(Way {
            centres: vec![(-f64::midpoint(loss, next), spread)],
            log_prior: ((next / loss).ln() / whole).ln(),
        });
        loss = next;
    }
    for mean in LOSSY {
        let quantile = |share: f64| -mean * (1.0 - share).ln();
        let centres = (0..SLICES).map(|slice| {
            let share = |part: f64| (f64::from(slice) + part) / f64::from(SLICES);
            let width = quantile(share(0.9)) - quantile(share(0.1));
            (-quantile(share(0.5)), spread.hypot(width / 2.0))
        });
        ways.push(Way {
            centres: centres.collect(),
            log_prior: -(2.0 * real_of(LOSSY.len())).ln(),
        });
    }
    ways
}

/// The density of a residual: normal around any of some centres, or wild for no reason.
fn density(value: f64, centres: &[(f64, f64)]) -> f64 {
    let share = -real_of(centres.len()).ln();
    let usual = centres
        .iter()
        .map(|(middle, spread)| log_normal_density(value, *middle, *spread) + share);
    let terms = [
        (1.0 - WILD).ln() + log_sum_exp(usual),
        WILD.ln() + log_normal_density(value, 0.0, WILD_SPREAD),
    ];
    log_sum_exp(terms.into_iter())
}

/// The spread of sound flows: what this run shows, without being moved by a few slow ones, drawn towards what is known.
fn spread(fabric: &Fabric, residuals: &[Residual], prior: &Prior) -> f64 {
    let mut values = sorted(residuals.iter().map(|residual| residual.value));
    let mut widening = 1.0;
    let sick = crate::number::index(real_of(values.len()) * (1.0 - fabric.sound()));
    if sick > 0 {
        values.drain(..sick.min(values.len()));
        // The best of some spread less than all of them.
        widening = 2.0;
    }
    let shown = robust_deviation(&values).map_or(prior.spread, |shown| widening * shown);
    let flows = real_of(values.len());
    let variance = (prior.spread_weight * prior.spread.powi(2) + flows * shown.powi(2))
        / (prior.spread_weight + flows);
    variance.sqrt().max(LEAST_SPREAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::split_mix;

    fn fabric(nodes: usize, of_leaf: usize) -> Fabric {
        Fabric {
            leaf: (0..nodes).map(|node| node / of_leaf).collect(),
        }
    }

    /// The flows of some rounds with a little noise, made slower by what is sick.
    fn flows(
        fabric: &Fabric,
        rounds: usize,
        sick: Hypothesis,
        slower: f64,
        seed: u64,
    ) -> Vec<Flow> {
        let mut state = seed;
        let mut made = Vec::new();
        for round in matching::first_rounds(fabric, rounds, seed) {
            for (one, other) in round {
                for (from, to) in [(one, other), (other, one)] {
                    let noise: f64 = (0..4)
                        .map(|_| crate::number::uniform(&mut state) - 0.5)
                        .sum();
                    let mut bandwidth = 100.0 * (1.0 + noise * 0.01);
                    if sick.covers(fabric, from, to) {
                        bandwidth *= 1.0 - slower;
                    }
                    made.push(Flow {
                        from,
                        to,
                        bandwidth,
                    });
                }
            }
        }
        let _ = split_mix(&mut state);
        made
    }

    #[test]
    fn each_kind_of_fault_is_named() {
        let fabric = fabric(32, 8);
        for sick in [
            Hypothesis::NicOut(5),
            Hypothesis::NicIn(9),
            Hypothesis::Node(31),
            Hypothesis::LeafUp(2),
            Hypothesis::LeafDown(1),
        ] {
            let flows = flows(&fabric, 4, sick, 0.06, 11);
            let best = localise(&fabric, &flows, &Prior::default()).best();
            assert_eq!(best.hypothesis, sick);
            assert!(best.probability > 0.95, "{best:?}");
            assert!((best.slower - 0.06).abs() < 0.015, "{best:?}");
        }
    }

    #[test]
    fn a_sound_network_has_nothing() {
        let fabric = fabric(16, 8);
        for seed in 0..20 {
            let flows = flows(&fabric, 2, Hypothesis::None, 0.0, seed);
            let best = localise(&fabric, &flows, &Prior::default()).best();
            assert_eq!(best.hypothesis, Hypothesis::None, "seed {seed}: {best:?}");
        }
    }

    #[test]
    fn one_round_cannot_tell_a_node_from_its_only_partner_and_says_so() {
        let fabric = fabric(16, 16);
        let flows = flows(&fabric, 1, Hypothesis::NicOut(3), 0.2, 5);
        let found = localise(&fabric, &flows, &Prior::default());
        assert!(found.best().probability < 0.8, "{:?}", found.best());
        let both = found.explanations.iter().take(2);
        let both: Vec<Hypothesis> = both.map(|found| found.hypothesis).collect();
        assert!(both.contains(&Hypothesis::NicOut(3)), "{both:?}");
    }

    #[test]
    fn two_faults_are_named_one_after_the_other() {
        let fabric = fabric(32, 8);
        let mut made = flows(&fabric, 6, Hypothesis::NicOut(5), 0.2, 3);
        for flow in &mut made {
            if Hypothesis::NicIn(20).covers(&fabric, flow.from, flow.to) {
                flow.bandwidth *= 0.9;
            }
        }
        let found = localise_all(&fabric, &made, &Prior::default(), 0.9);
        let found: Vec<Hypothesis> = found.iter().map(|found| found.hypothesis).collect();
        assert_eq!(found, [Hypothesis::NicOut(5), Hypothesis::NicIn(20)]);
    }

    #[test]
    fn probabilities_add_up() {
        let fabric = fabric(8, 4);
        let flows = flows(&fabric, 2, Hypothesis::Pair(0, 1), 0.3, 1);
        let found = localise(&fabric, &flows, &Prior::default());
        let sum: f64 = found
            .explanations
            .iter()
            .map(|found| found.probability)
            .sum();
        assert!((sum - 1.0).abs() < 1e-9);
    }
}
