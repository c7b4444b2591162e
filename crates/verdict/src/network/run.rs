//! What the network test of a run says after a round: which pairs to measure next, or which part is sick.
//!
//! ```text
//!  first rounds --nothing stands out--> sound
//!       |  a part stands out
//!       v
//!  a round that decides --named before and after it, and its own flows show it again--> confirmed
//!       |  rounds are used up, or no round could tell more
//!       v
//!  named once: doubtful.  Several parts explain the same flows: ambiguous, and all of them are said.
//! ```
//! It looks at two things: how fast flows are, and which share of datagrams arrives. A pair that could not talk counts as two flows
//! that moved nothing. What was disturbed or cut short is left out; where too little is left, nothing is said.

use supernode_types::NodeId;
use supernode_types::stress::{
    Certainty, NetworkFault, NetworkFinding, NetworkPlace, NetworkVerdict, PairOutcome, PairState,
    StressPair, Tier,
};

use super::{
    Explanation, Fabric, Flow, Hypothesis, Localisation, Prior, localise, localise_all, matching,
};
use crate::number::real_of;
use crate::statistics::median;

/// An explanation that is so probable is named.
const ENOUGH: f64 = 0.95;
/// Explanations that cannot be told apart are said together up to so many.
const MOST_TOGETHER: usize = 4;
/// The flows of the round that decides have to be so many of their spreads below the others.
const RETEST_SPREADS: f64 = 3.0;
/// The spread of sound flows among few nodes, as a logarithm.
const SPREAD_AMONG_FEW: f64 = 0.05;
/// Other explanations that a finding names.
const MOST_OTHERS: usize = 3;
/// Less probable ones are not worth a word.
const LEAST_OTHER: f64 = 0.01;

/// How many rounds are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounds {
    /// Always.
    pub first: u32,
    /// At most, with those that decide.
    pub most: u32,
}

impl Rounds {
    /// Of a tier.
    pub fn of(tier: Tier) -> Self {
        match tier {
            Tier::Quick => Self { first: 2, most: 4 },
            Tier::Standard => Self { first: 4, most: 8 },
            Tier::Deep => Self { first: 8, most: 16 },
        }
    }
}

/// A node of the test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// What people call it.
    pub name: String,
    /// Its leaf switch.
    pub leaf: Option<String>,
}

/// Everything that is known of one network test.
#[derive(Debug, Clone, Copy)]
pub struct Test<'a> {
    /// The nodes.
    pub members: &'a [Member],
    /// All pairs so far; all of them have ended.
    pub pairs: &'a [StressPair],
    /// How many rounds.
    pub rounds: Rounds,
    /// Chooses among equally good pairs: the same for one test, another for the next.
    pub seed: u64,
}

/// What happens next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// These are measured, asker and listener.
    Round(Vec<(NodeId, NodeId)>),
    /// It is over.
    Judged(NetworkVerdict),
}

/// What follows from the rounds so far.
pub fn next(test: &Test<'_>) -> Next {
    let sight = Sight::new(test);
    if test.members.len() < 2 {
        let why = match test.members {
            [] => "no node of the run could be used".to_owned(),
            [only, ..] => format!("it takes two nodes, and only {} could be used", only.name),
        };
        return Next::Judged(NetworkVerdict::nothing(0, why));
    }
    if sight.done > 0
        && !sight
            .pairs_of(sight.done)
            .any(|pair| flows_of(pair).is_some())
    {
        return sight.conclude();
    }
    if sight.done < test.rounds.first {
        let rounds = test.rounds.first as usize;
        let mut rounds = matching::first_rounds(&sight.fabric, rounds, test.seed);
        return sight.round(&rounds.swap_remove(sight.done as usize));
    }
    let (before, now) = (sight.views(sight.done - 1), sight.views(sight.done));
    let open = now.iter().zip(&before).find_map(|(now, before)| {
        let confirmed = |one: &Explanation| sight.confirmed(before, now, one.hypothesis);
        let open = if now.named.is_empty() {
            now.found.best().hypothesis != Hypothesis::None && now.can_be_decided(&sight.fabric)
        } else {
            !now.named.iter().all(confirmed)
        };
        open.then_some(now)
    });
    match open {
        Some(view) if sight.done < test.rounds.most => {
            let seed = test.seed ^ u64::from(sight.done);
            sight.round(&matching::decisive(
                &sight.fabric,
                &view.found,
                &sight.made(),
                seed,
            ))
        }
        _ => sight.conclude(),
    }
}

/// The flows of a pair, if they may be judged: bandwidth and arriving share of both directions.
fn flows_of(pair: &StressPair) -> Option<[(f64, f64); 2]> {
    match &pair.state {
        PairState::Ended {
            outcome: PairOutcome::Measured(numbers),
            ..
        } => Some([
            (numbers.out_gbps, 1.0 - numbers.out_loss),
            (numbers.back_gbps, 1.0 - numbers.back_loss),
        ]),
        PairState::Ended {
            outcome: PairOutcome::Unreachable { .. },
            ..
        } => Some([(0.0, 1.0); 2]),
        PairState::Ended { .. } | PairState::Waiting { .. } | PairState::Running { .. } => None,
    }
}

/// What is believed of a flow before this test. A few flows do not show how far sound ones spread, so among few nodes more is allowed.
fn prior(fabric: &Fabric) -> Prior {
    if fabric.few() {
        Prior {
            spread: SPREAD_AMONG_FEW,
            ..Prior::default()
        }
    } else {
        Prior::default()
    }
}

/// One way of looking at the flows.
struct View {
    fault: NetworkFault,
    flows: Vec<Flow>,
    /// Those of the last round.
    latest: Vec<Flow>,
    found: Localisation,
    named: Vec<Explanation>,
}

impl View {
    fn new(fabric: &Fabric, fault: NetworkFault, flows: Vec<Flow>, latest: Vec<Flow>) -> Self {
        let prior = match fault {
            // Datagrams are few enough to arrive, also among few nodes.
            NetworkFault::Lossy => Prior::default(),
            NetworkFault::Slow | NetworkFault::Unreachable => prior(fabric),
        };
        Self {
            found: localise(fabric, &flows, &prior),
            named: localise_all(fabric, &flows, &prior, ENOUGH),
            fault,
            flows,
            latest,
        }
    }

    /// Whether the flows of the last round alone are slow, and at least half as much as all of them together: what was so for a while, or
    /// by chance, is no fault.
    fn shows_again(&self, fabric: &Fabric, hypothesis: Hypothesis) -> bool {
        let (measured, baseline, _) = self.medians(fabric, hypothesis);
        let covered = |flow: &&Flow| hypothesis.covers(fabric, flow.from, flow.to);
        let latest: Vec<f64> = self
            .latest
            .iter()
            .filter(covered)
            .map(|flow| flow.bandwidth)
            .collect();
        let Some(again) = median(latest.iter().copied()).filter(|_| baseline > 0.0) else {
            return false;
        };
        let drop = |bandwidth: f64| (bandwidth.max(baseline * 1e-6) / baseline).ln();
        let chance = RETEST_SPREADS * self.found.spread / real_of(latest.len()).sqrt();
        drop(again) <= (0.5 * drop(measured)).min(-chance)
    }

    /// The explanations that together are probable enough; none where nothing is the best of them.
    fn together(&self) -> Vec<Explanation> {
        let mut sum = 0.0;
        let mut together = Vec::new();
        for one in &self.found.explanations {
            if sum >= ENOUGH {
                break;
            }
            sum += one.probability;
            together.push(*one);
        }
        together
    }

    /// Whether any flow between these nodes could tell the best explanations apart.
    fn can_be_decided(&self, fabric: &Fabric) -> bool {
        let together = self.together();
        let nodes = 0..fabric.nodes();
        nodes.clone().any(|from| {
            nodes.clone().filter(|to| *to != from).any(|to| {
                let mut covered = together
                    .iter()
                    .map(|one| one.hypothesis.covers(fabric, from, to));
                let first = covered.next();
                covered.any(|other| Some(other) != first)
            })
        })
    }

    /// The medians of the flows that an explanation covers and of the others, and how many it covers.
    fn medians(&self, fabric: &Fabric, hypothesis: Hypothesis) -> (f64, f64, usize) {
        let (covered, others): (Vec<&Flow>, Vec<&Flow>) = self
            .flows
            .iter()
            .partition(|flow| hypothesis.covers(fabric, flow.from, flow.to));
        let middle =
            |flows: &[&Flow]| median(flows.iter().map(|flow| flow.bandwidth)).unwrap_or(0.0);
        (middle(&covered), middle(&others), covered.len())
    }
}

struct Sight<'a> {
    test: &'a Test<'a>,
    fabric: Fabric,
    leaves: Vec<&'a str>,
    done: u32,
}

impl<'a> Sight<'a> {
    fn new(test: &'a Test<'a>) -> Self {
        let known: Option<Vec<&str>> = test.members.iter().map(|one| one.leaf.as_deref()).collect();
        let mut leaves = known.clone().unwrap_or_default();
        leaves.sort_unstable();
        leaves.dedup();
        let leaf = match &known {
            Some(known) => known
                .iter()
                .map(|leaf| leaves.binary_search(leaf).unwrap_or_default())
                .collect(),
            None => vec![0; test.members.len()],
        };
        Self {
            test,
            fabric: Fabric { leaf },
            leaves,
            done: test.pairs.iter().map(|pair| pair.round).max().unwrap_or(0),
        }
    }

    fn pairs_of(&self, round: u32) -> impl Iterator<Item = &'a StressPair> {
        self.test
            .pairs
            .iter()
            .filter(move |pair| pair.round == round)
    }

    fn place(&self, node: &NodeId) -> Option<usize> {
        self.test
            .members
            .iter()
            .position(|member| member.id == *node)
    }

    fn places(&self, pair: &StressPair) -> Option<(usize, usize)> {
        Some((self.place(&pair.asker)?, self.place(&pair.listener)?))
    }

    fn made(&self) -> Vec<matching::Round> {
        (1..=self.done)
            .map(|round| {
                self.pairs_of(round)
                    .filter_map(|pair| self.places(pair))
                    .collect()
            })
            .collect()
    }

    fn round(&self, round: &matching::Round) -> Next {
        let id = |place: usize| self.test.members[place].id.clone();
        Next::Round(
            round
                .iter()
                .map(|(one, other)| (id(*one), id(*other)))
                .collect(),
        )
    }

    /// What all rounds up to one say: of speed, then of losses.
    fn views(&self, round: u32) -> [View; 2] {
        let [mut fast, mut arrives] = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        for pair in self.test.pairs.iter().filter(|pair| pair.round <= round) {
            let (Some((asker, listener)), Some([out, back])) = (self.places(pair), flows_of(pair))
            else {
                continue;
            };
            for (from, to, (bandwidth, share)) in [(asker, listener, out), (listener, asker, back)]
            {
                for (all, bandwidth) in [(&mut fast, bandwidth), (&mut arrives, share)] {
                    let flow = Flow {
                        from,
                        to,
                        bandwidth,
                    };
                    all.0.push(flow);
                    if pair.round == round {
                        all.1.push(flow);
                    }
                }
            }
        }
        [(NetworkFault::Slow, fast), (NetworkFault::Lossy, arrives)]
            .map(|(fault, (flows, latest))| View::new(&self.fabric, fault, flows, latest))
    }

    /// Whether what is named now was named before the last round, which shows it again.
    fn confirmed(&self, before: &View, now: &View, hypothesis: Hypothesis) -> bool {
        self.done > self.test.rounds.first
            && before.named.iter().any(|one| one.hypothesis == hypothesis)
            && now.shows_again(&self.fabric, hypothesis)
    }

    fn conclude(&self) -> Next {
        let [first, last] = [self.done.saturating_sub(1), self.done].map(|round| self.views(round));
        let mut findings: Vec<NetworkFinding> = Vec::new();
        let mut unclear = None;
        for (before, now) in first.iter().zip(&last) {
            for one in &now.named {
                let twice = self.confirmed(before, now, one.hypothesis);
                let certainty = if twice {
                    Certainty::Confirmed
                } else {
                    Certainty::Doubtful
                };
                add(&mut findings, self.finding(now, one, certainty));
            }
            let together = now.together();
            if !now.named.is_empty() || together[0].hypothesis == Hypothesis::None {
                continue;
            }
            let nothing = together
                .iter()
                .any(|one| one.hypothesis == Hypothesis::None);
            if nothing || together.len() > MOST_TOGETHER {
                let best = self.part(together[0].hypothesis);
                unclear = Some(format!(
                    "something is worse than the rest, and the flows do not say what: {best} with a probability of {:.2}",
                    together[0].probability
                ));
            } else {
                add(&mut findings, self.ambiguous(now, &together));
            }
        }
        let ended = self.test.pairs.len();
        let judged: Vec<&StressPair> = self
            .test
            .pairs
            .iter()
            .filter(|pair| flows_of(pair).is_some())
            .collect();
        let mut rounds: Vec<u32> = judged.iter().map(|pair| pair.round).collect();
        rounds.dedup();
        let undecided = if !findings.is_empty() {
            None
        } else if judged.len() * 2 < ended || rounds.len() < self.test.rounds.first as usize {
            Some(self.missing(ended - judged.len()))
        } else {
            unclear
        };
        let seen = |member: &&Member| {
            judged
                .iter()
                .any(|pair| pair.place_of(&member.id).is_some())
        };
        Next::Judged(NetworkVerdict {
            rounds: self.done,
            findings,
            undecided,
            unjudged: self
                .test
                .members
                .iter()
                .filter(|member| !seen(member))
                .map(|member| member.id.clone())
                .collect(),
        })
    }

    /// Why there is too little.
    fn missing(&self, missing: usize) -> String {
        let why = self.test.pairs.iter().find_map(|pair| match &pair.state {
            PairState::Ended { outcome, .. } if flows_of(pair).is_none() => {
                Some(format!("{}: {}", outcome.word(), outcome.detail()?))
            }
            _ => None,
        });
        format!(
            "{missing} of {} pairs say nothing, for example {}",
            self.test.pairs.len(),
            why.unwrap_or_else(|| "one that was not measured".to_owned())
        )
    }

    fn name(&self, place: usize) -> &str {
        &self.test.members[place].name
    }

    fn leaf(&self, leaf: usize) -> String {
        self.leaves
            .get(leaf)
            .map_or_else(String::new, |leaf| (*leaf).to_owned())
    }

    /// A part, as people call it.
    fn part(&self, hypothesis: Hypothesis) -> String {
        match hypothesis {
            Hypothesis::None => "nothing".to_owned(),
            Hypothesis::NicOut(node) => format!("what {} sends", self.name(node)),
            Hypothesis::NicIn(node) => format!("what {} receives", self.name(node)),
            Hypothesis::Node(node) => format!("what {} sends and receives", self.name(node)),
            Hypothesis::Pair(one, other) => {
                format!(
                    "the link between {} and {}",
                    self.name(one),
                    self.name(other)
                )
            }
            Hypothesis::LeafUp(leaf) => format!("what leaves leaf {}", self.leaf(leaf)),
            Hypothesis::LeafDown(leaf) => format!("what comes into leaf {}", self.leaf(leaf)),
        }
    }

    fn place_of(&self, hypothesis: Hypothesis) -> NetworkPlace {
        let id = |place: usize| self.test.members[place].id.clone();
        match hypothesis {
            Hypothesis::NicOut(node) => NetworkPlace::NodeOut { node: id(node) },
            Hypothesis::NicIn(node) => NetworkPlace::NodeIn { node: id(node) },
            Hypothesis::Node(node) => NetworkPlace::Node { node: id(node) },
            Hypothesis::Pair(one, other) => NetworkPlace::Pair {
                one: id(one),
                other: id(other),
            },
            Hypothesis::LeafUp(leaf) => NetworkPlace::LeafUp {
                leaf: self.leaf(leaf),
            },
            Hypothesis::LeafDown(leaf) => NetworkPlace::LeafDown {
                leaf: self.leaf(leaf),
            },
            Hypothesis::None => unreachable!("nothing is never a finding"),
        }
    }

    /// The nodes that an explanation points at.
    fn nodes_of(&self, hypothesis: Hypothesis) -> Vec<NodeId> {
        let places = match hypothesis {
            Hypothesis::NicOut(node) | Hypothesis::NicIn(node) | Hypothesis::Node(node) => {
                vec![node]
            }
            Hypothesis::Pair(one, other) => vec![one, other],
            Hypothesis::None | Hypothesis::LeafUp(_) | Hypothesis::LeafDown(_) => Vec::new(),
        };
        places
            .into_iter()
            .map(|place| self.test.members[place].id.clone())
            .collect()
    }

    /// Between which nodes its flows went.
    fn ends(&self, view: &View, hypothesis: Hypothesis) -> String {
        let covered = |flow: &&Flow| hypothesis.covers(&self.fabric, flow.from, flow.to);
        let mut ends: Vec<String> = view
            .flows
            .iter()
            .filter(covered)
            .map(|flow| format!("{} to {}", self.name(flow.from), self.name(flow.to)))
            .collect();
        ends.sort();
        ends.dedup();
        let more = ends.len().saturating_sub(4);
        ends.truncate(4);
        let shown = ends.join(", ");
        if more == 0 {
            shown
        } else {
            format!("{shown} and {more} more")
        }
    }

    fn finding(&self, view: &View, one: &Explanation, certainty: Certainty) -> NetworkFinding {
        let hypothesis = one.hypothesis;
        let (measured, baseline, flows) = view.medians(&self.fabric, hypothesis);
        let silent = view.fault == NetworkFault::Slow
            && view.flows.iter().all(|flow| {
                flow.bandwidth <= 0.0 || !hypothesis.covers(&self.fabric, flow.from, flow.to)
            });
        let fault = if silent {
            NetworkFault::Unreachable
        } else {
            view.fault
        };
        let worse = if baseline > 0.0 {
            1.0 - measured / baseline
        } else {
            one.slower
        };
        let (part, ends) = (self.part(hypothesis), self.ends(view, hypothesis));
        let words = match fault {
            NetworkFault::Slow => format!(
                "{part} is slow: {} Gbit/s, other flows have {} Gbit/s ({:.1} % less; {ends})",
                figure(measured),
                figure(baseline),
                worse * 100.0
            ),
            NetworkFault::Lossy => format!(
                "{part} is lossy: {:.2} % of the datagrams are lost, of the others {:.2} % ({ends})",
                (1.0 - measured) * 100.0,
                (1.0 - baseline) * 100.0
            ),
            NetworkFault::Unreachable => format!("{part} is cut: nothing comes through ({ends})"),
        };
        let left = view
            .found
            .explanations
            .iter()
            .filter(|other| other.hypothesis != hypothesis);
        let others = left
            .filter(|other| other.probability >= LEAST_OTHER)
            .take(MOST_OTHERS)
            .map(|other| format!("{} ({:.2})", self.part(other.hypothesis), other.probability));
        NetworkFinding {
            place: self.place_of(hypothesis),
            fault,
            certainty,
            words,
            confidence: one.probability,
            worse,
            measured,
            baseline,
            flows: u32::try_from(flows).unwrap_or(u32::MAX),
            others: others.collect(),
            nodes: self.nodes_of(hypothesis),
        }
    }

    /// Several explanations of the same flows: none is preferred, and all that they point at is doubted.
    fn ambiguous(&self, view: &View, together: &[Explanation]) -> NetworkFinding {
        let mut finding = self.finding(view, &together[0], Certainty::Ambiguous);
        let parts: Vec<String> = together
            .iter()
            .map(|one| self.part(one.hypothesis))
            .collect();
        finding.words = format!(
            "{}; these flows cannot tell apart: {}",
            finding.words,
            parts.join(", or ")
        );
        finding.confidence = together.iter().map(|one| one.probability).sum();
        finding.nodes = together
            .iter()
            .flat_map(|one| self.nodes_of(one.hypothesis))
            .collect();
        finding.nodes.sort();
        finding.nodes.dedup();
        finding
    }
}

/// A part that is slow because it loses much is said once, with both; one that is named for the same thing again is the same.
fn add(findings: &mut Vec<NetworkFinding>, finding: NetworkFinding) {
    match findings
        .iter_mut()
        .find(|known| known.place == finding.place)
    {
        Some(known) if known.fault == finding.fault => {}
        Some(known) => {
            if known.certainty != Certainty::Confirmed {
                known.certainty = finding.certainty;
            }
            known.words = format!("{}; {}", known.words, finding.words);
        }
        None => findings.push(finding),
    }
}

/// A bandwidth with as many digits as say something.
fn figure(gbps: f64) -> String {
    match gbps {
        large if large >= 100.0 => format!("{large:.0}"),
        middle if middle >= 10.0 => format!("{middle:.1}"),
        small => format!("{small:.3}"),
    }
}

/// A number of its own for each test (FNV-1a of its id).
pub fn seed(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
