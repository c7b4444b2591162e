//! Networks with one slow part.
//!
//! Assumed: 64 nodes, eight to a leaf switch; a flow repeats to 1 % (and, better, to 0.5 %), a pair of nodes has a way of its own
//! that differs by 0.3 %.
//! Half of the runs have no fault; else its kind and place are chosen evenly. A lossy part slows each flow by a chance amount with
//! the same mean.

use supernode_probe::stress::verdict::network::{
    Fabric, Flow, Hypothesis, Localisation, Prior, localise, matching,
};
use supernode_probe::stress::verdict::statistics::{median, robust_deviation};

use crate::chance::{Chance, share};

const NODES: usize = 64;
const OF_LEAF: usize = 8;
/// Minutes of one node for one round of 30 s.
const ROUND_MINUTES: f64 = 0.5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Steady,
    Lossy,
}

/// A network with what is wrong with it.
struct Network<'a> {
    fabric: &'a Fabric,
    chance: &'a Chance,
    ways: Vec<f64>,
    sick: Hypothesis,
    slower: f64,
    shape: Shape,
    noise: f64,
}

impl Network<'_> {
    fn measure(&self, round: &matching::Round) -> Vec<Flow> {
        round
            .iter()
            .flat_map(|(one, other)| [(*one, *other), (*other, *one)])
            .map(|(from, to)| {
                let way = self.ways[from * NODES + to];
                let mut bandwidth = 190.0 * (way + self.chance.normal(self.noise)).exp();
                if self.sick.covers(self.fabric, from, to) {
                    let lost = match self.shape {
                        Shape::Steady => self.slower,
                        Shape::Lossy => (self.slower * self.chance.exponential()).min(0.9),
                    };
                    bandwidth *= 1.0 - lost;
                }
                Flow {
                    from,
                    to,
                    bandwidth,
                }
            })
            .collect()
    }
}

/// What came of many runs with a fault.
#[derive(Debug, Default)]
struct Accuracy {
    trials: u32,
    ours: u32,
    votes: u32,
    two_pass: u32,
}

/// Claims by how sure they were, and how many were right.
#[derive(Debug, Default)]
struct Calibration {
    bins: [(u32, u32, f64); 10],
}

impl Calibration {
    fn add(&mut self, probability: f64, right: bool) {
        let bin = (0..9)
            .find(|bin| probability < f64::from(bin + 1) / 10.0)
            .unwrap_or(9);
        let bin = &mut self.bins[usize::try_from(bin).expect("ten bins")];
        bin.0 += 1;
        bin.1 += u32::from(right);
        bin.2 += probability;
    }

    /// The mean distance between what was claimed and what was right.
    fn error(&self) -> f64 {
        let all: u32 = self.bins.iter().map(|bin| bin.0).sum();
        self.bins
            .iter()
            .filter(|bin| bin.0 > 0)
            .map(|(_, right, sum)| (f64::from(*right) - sum).abs())
            .sum::<f64>()
            / f64::from(all.max(1))
    }
}

fn fault(chance: &Chance, kinds: usize) -> Hypothesis {
    let node = chance.below(NODES);
    let leaf = chance.below(NODES / OF_LEAF);
    match chance.below(kinds) {
        0 => Hypothesis::NicOut(node),
        1 => Hypothesis::NicIn(node),
        2 => Hypothesis::Node(node),
        3 => Hypothesis::LeafUp(leaf),
        _ => Hypothesis::LeafDown(leaf),
    }
}

fn fabric() -> Fabric {
    Fabric {
        leaf: (0..NODES).map(|node| node / OF_LEAF).collect(),
    }
}

pub(crate) fn print(scale: u32) {
    let fabric = fabric();
    println!(
        "links: {NODES} nodes, {OF_LEAF} to a leaf; pairs differ by 0.3 %; node faults (out, in, both)"
    );
    println!("named exactly, in percent of the runs with a fault\n");
    println!(
        "{:<7} {:>6} {:>6} {:>9} {:>9} {:>7} {:>9} {:>13}",
        "shape", "noise", "slower", "matchings", "this crate", "votes", "two-pass", "node-minutes"
    );
    let chance = Chance::new(7);
    let kinds = [
        (Shape::Steady, 0.005),
        (Shape::Steady, 0.01),
        (Shape::Lossy, 0.01),
    ];
    for (shape, noise) in kinds {
        for slower in [0.02, 0.05, 0.10, 0.20] {
            for rounds in [2, 4, 8] {
                let accuracy = locate(
                    &fabric,
                    &chance,
                    (shape, noise),
                    (slower, rounds),
                    200 * scale,
                );
                let percent = |right| 100.0 * share(right, accuracy.trials).unwrap_or(0.0);
                println!(
                    "{:<7} {:>4.1} % {:>4.0} % {rounds:>9} {:>9.1} {:>7.1} {:>9.1} {:>13.0}",
                    format!("{shape:?}"),
                    noise * 100.0,
                    slower * 100.0,
                    percent(accuracy.ours),
                    percent(accuracy.votes),
                    percent(accuracy.two_pass),
                    f64::from(u32::try_from(NODES * rounds).expect("small")) * ROUND_MINUTES
                );
            }
        }
    }
    println!(
        "\nchosen rounds: two matchings, then the most decisive ones until something is 95 % sure, eight at most; all kinds of fault"
    );
    println!(
        "{:>6} {:>12} {:>12} {:>13} {:>12}",
        "slower", "named, fixed", "named, chosen", "rounds chosen", "(fixed: 8)"
    );
    for slower in [0.02, 0.03, 0.05, 0.10] {
        println!("{}", chosen(&fabric, &chance, slower, 150 * scale));
    }
}

/// How often a claim is right, over all kinds of fault and none.
pub(crate) fn print_calibration(scale: u32) {
    let fabric = fabric();
    let chance = Chance::new(11);
    let mut calibration = Calibration::default();
    let mut false_names = 0;
    let mut sound = 0;
    for trial in 0..1000 * scale {
        let sick = if trial % 2 == 0 {
            Hypothesis::None
        } else {
            fault(&chance, 5)
        };
        let slower = chance.log_uniform(0.01, 0.5);
        let network = network(&fabric, &chance, sick, slower, (Shape::Steady, 0.01));
        let rounds = [2, 4, 8][chance.below(3)];
        let flows = all_flows(&network, rounds);
        let best = localise(&fabric, &flows, &Prior::default()).best();
        calibration.add(best.probability, best.hypothesis == sick);
        if sick == Hypothesis::None {
            sound += 1;
            false_names += u32::from(best.hypothesis != sick && best.probability >= 0.95);
        }
    }
    println!(
        "\ncalibration over slow-downs of 1 to 50 %, 2 to 8 matchings, half of the runs sound:"
    );
    for (claims, right, sum) in calibration.bins.iter().filter(|bin| bin.0 > 0) {
        println!(
            "  claimed {:.2}, right {:.2} ({claims} claims)",
            sum / f64::from(*claims),
            share(*right, *claims).unwrap_or(0.0)
        );
    }
    println!("  expected calibration error {:.3}", calibration.error());
    println!("  a part named with 95 % in a sound network: {false_names} of {sound} runs");
}

fn network<'a>(
    fabric: &'a Fabric,
    chance: &'a Chance,
    sick: Hypothesis,
    slower: f64,
    (shape, noise): (Shape, f64),
) -> Network<'a> {
    Network {
        fabric,
        chance,
        ways: (0..NODES * NODES).map(|_| chance.normal(0.003)).collect(),
        sick,
        slower,
        shape,
        noise,
    }
}

fn all_flows(network: &Network<'_>, rounds: usize) -> Vec<Flow> {
    matching::first_rounds(network.fabric, rounds, network.chance.number())
        .iter()
        .flat_map(|round| network.measure(round))
        .collect()
}

fn locate(
    fabric: &Fabric,
    chance: &Chance,
    (shape, noise): (Shape, f64),
    (slower, rounds): (f64, usize),
    trials: u32,
) -> Accuracy {
    let mut accuracy = Accuracy::default();
    for _ in 0..trials {
        let sick = fault(chance, 3);
        let network = network(fabric, chance, sick, slower, (shape, noise));
        let flows = all_flows(&network, rounds);
        let best = localise(fabric, &flows, &Prior::default()).best();
        accuracy.trials += 1;
        accuracy.ours += u32::from(best.hypothesis == sick);
        accuracy.votes += u32::from(votes(&flows) == sick);
        accuracy.two_pass += u32::from(two_pass(&network, rounds) == sick);
    }
    accuracy
}

fn chosen(fabric: &Fabric, chance: &Chance, slower: f64, trials: u32) -> String {
    let (mut fixed, mut adaptive, mut used) = (0, 0, 0_u32);
    for _ in 0..trials {
        let sick = fault(chance, 5);
        let network = network(fabric, chance, sick, slower, (Shape::Steady, 0.01));
        let best = localise(fabric, &all_flows(&network, 8), &Prior::default()).best();
        fixed += u32::from(best.hypothesis == sick);
        let mut made = matching::first_rounds(fabric, 2, chance.number());
        let mut flows: Vec<Flow> = made
            .iter()
            .flat_map(|round| network.measure(round))
            .collect();
        let found: Localisation = loop {
            let found = localise(fabric, &flows, &Prior::default());
            let sure = found.best().probability >= 0.95;
            if sure || made.len() == 8 {
                break found;
            }
            let round = matching::decisive(fabric, &found, &made, chance.number());
            flows.extend(network.measure(&round));
            made.push(round);
        };
        adaptive += u32::from(found.best().hypothesis == sick);
        used += u32::try_from(made.len()).expect("eight at most");
    }
    format!(
        "{:>4.0} % {:>12.1} {:>12.1} {:>13.1}",
        slower * 100.0,
        100.0 * share(fixed, trials).unwrap_or(0.0),
        100.0 * share(adaptive, trials).unwrap_or(0.0),
        share(used, trials).unwrap_or(0.0)
    )
}

/// Below this a flow is slow: three robust deviations under the median, two percent at least.
fn limit(flows: &[Flow]) -> f64 {
    let logarithms: Vec<f64> = flows.iter().map(|flow| flow.bandwidth.ln()).collect();
    let middle = median(logarithms.iter().copied()).expect("there are flows");
    let deviation = robust_deviation(&logarithms).expect("there are flows");
    (middle - (3.0 * deviation).max(0.02)).exp()
}

fn slow(flows: &[Flow]) -> Vec<bool> {
    let limit = limit(flows);
    flows.iter().map(|flow| flow.bandwidth < limit).collect()
}

/// Each slow flow gives each part on its way one vote, shared; the part with the most is named (007, NSDI 2018).
fn votes(flows: &[Flow]) -> Hypothesis {
    let slow = slow(flows);
    let (mut out, mut into) = (vec![0_u32; NODES], vec![0_u32; NODES]);
    for (flow, slow) in flows.iter().zip(&slow) {
        out[flow.from] += u32::from(*slow);
        into[flow.to] += u32::from(*slow);
    }
    let best = (0..NODES)
        .flat_map(|node| {
            [
                (out[node], Hypothesis::NicOut(node)),
                (into[node], Hypothesis::NicIn(node)),
                // Both directions at least once, or it is one of the above.
                (
                    if out[node].min(into[node]) > 0 {
                        out[node] + into[node]
                    } else {
                        0
                    },
                    Hypothesis::Node(node),
                ),
            ]
        })
        .max_by_key(|(votes, _)| *votes);
    match best {
        Some((votes, hypothesis)) if votes > 0 => hypothesis,
        _ => Hypothesis::None,
    }
}

/// Half of the rounds for everybody; then those of slow pairs are paired with nodes of sound ones, and who is slow in most of these is
/// named (Google's cluster health scanner).
fn two_pass(network: &Network<'_>, rounds: usize) -> Hypothesis {
    let first = all_flows(network, rounds / 2);
    let is_slow = slow(&first);
    let mut suspect = [false; NODES];
    for (flow, slow) in first.iter().zip(&is_slow) {
        suspect[flow.from] |= slow;
        suspect[flow.to] |= slow;
    }
    let sound: Vec<usize> = (0..NODES).filter(|node| !suspect[*node]).collect();
    let mut second = Vec::new();
    for turn in 0..rounds - rounds / 2 {
        let mut round = Vec::new();
        let mut free = sound.iter().cycle().skip(turn * 7 % sound.len().max(1));
        for node in (0..NODES).filter(|node| suspect[*node]) {
            round.extend(free.next().map(|partner| (node, *partner)));
        }
        round.truncate(sound.len());
        second.extend(network.measure(&round));
    }
    let limit = limit(&first);
    let most_slow = |wanted: &dyn Fn(&Flow) -> bool| {
        let of: Vec<bool> = second
            .iter()
            .filter(|flow| wanted(flow))
            .map(|flow| flow.bandwidth < limit)
            .collect();
        2 * of.iter().filter(|slow| **slow).count() > of.len()
    };
    for node in (0..NODES).filter(|node| suspect[*node]) {
        let out = most_slow(&|flow| flow.from == node);
        let into = most_slow(&|flow| flow.to == node);
        match (out, into) {
            (true, true) => return Hypothesis::Node(node),
            (true, false) => return Hypothesis::NicOut(node),
            (false, true) => return Hypothesis::NicIn(node),
            (false, false) => {}
        }
    }
    Hypothesis::None
}
