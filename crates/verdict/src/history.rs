//! A part against its own past, with what the whole fleet did meanwhile removed.
//!
//! Devices of one kind differ by more than a sick one loses, so a device is compared with itself. What changes for all at once (a
//! driver, the season, the room) is no device's fault: the median of how far its peers are from their own past is taken off first. The
//! spread of one device is known badly from a few runs, so it is drawn towards the spread of its kind.
//!
//! ```text
//!           worse                the same way worse again
//!  Sound ----------> Suspicious --------------------------> Confirmed
//!                        |  not again                           ^
//!                        +-----------> Doubtful ----------------+
//!                                        doubted in several of the last sweeps
//! ```

use serde::{Deserialize, Serialize};

use super::observation::{FEATURES, Feature, Observation};
use super::statistics::{mean, median, robust_deviation, variance};
use crate::number::real_of;

/// What makes runs comparable: driver, firmware, tool and clock policy, as one text. Another one begins another baseline.
pub type Fingerprint = String;

/// Runs of a device that its baseline remembers.
const MOST_RUNS: usize = 64;
/// How many runs the spread of the kind is worth against a device's own.
const KIND_RUNS: f64 = 6.0;
/// Fewer peers say nothing about the fleet.
pub const FEWEST_PEERS: usize = 8;
/// Fewer runs say nothing about a device.
pub const FEWEST_RUNS: usize = 3;

/// How a kind of test behaves on sound devices, learned from all of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Repeatability {
    /// The spread of the level from run to run on one device.
    pub level: f64,
    /// The spread of the tail.
    pub tail: f64,
    /// The spread of the ramp.
    pub ramp: f64,
}

impl Repeatability {
    /// What is assumed before anything is known: one percent, and twice that for shapes.
    pub const UNKNOWN: Self = Self {
        level: 0.01,
        tail: 0.02,
        ramp: 0.01,
    };

    /// Learns from the baselines of a kind: the median of the devices' own spreads. The unknown one without enough of them.
    pub fn learn(baselines: &[&Baseline]) -> Self {
        let of = |feature: Feature, unknown: f64| {
            let own = baselines.iter().filter_map(|baseline| {
                let values: Vec<f64> = baseline.values(feature).collect();
                (values.len() >= FEWEST_RUNS)
                    .then(|| variance(&values))
                    .flatten()
            });
            let own: Vec<f64> = own.collect();
            if own.len() < FEWEST_PEERS {
                return unknown;
            }
            // The mean of most: a few devices that are wild by themselves do not count for all.
            median(own).map_or(unknown, |variance| variance.sqrt().max(LEAST_SPREAD))
        };
        Self {
            level: of(Feature::Level, Self::UNKNOWN.level),
            tail: of(Feature::Tail, Self::UNKNOWN.tail),
            ramp: of(Feature::Ramp, Self::UNKNOWN.ramp),
        }
    }

    fn feature(&self, feature: Feature) -> f64 {
        match feature {
            Feature::Level => self.level,
            Feature::Tail => self.tail,
            Feature::Ramp => self.ramp,
        }
    }
}

/// No test repeats better than this.
const LEAST_SPREAD: f64 = 0.0005;

/// What is known of one part in one metric under one fingerprint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// What its runs had in common.
    pub fingerprint: Fingerprint,
    /// What sound runs said, the fleet's change removed; the oldest first.
    runs: Vec<Observation>,
    /// Whether each of the last sweeps was doubtful; the oldest first.
    doubts: Vec<bool>,
}

/// Sweeps whose doubts are remembered.
const REMEMBERED: usize = 6;
/// In spreads of a run, from when on a doubt is remembered.
const DOUBTED_Z: f64 = 4.0;
/// So many doubtful sweeps among these, and the part is bad now and then.
const MOST_DOUBTS: usize = 3;

/// Why a run does not teach a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotLearned {
    /// Its verdict was not sound.
    NotSound,
    /// It ran under another fingerprint; begin a new baseline with [`Baseline::new`].
    OtherFingerprint,
}

impl Baseline {
    /// Knows nothing.
    pub fn new(fingerprint: Fingerprint) -> Self {
        Self {
            fingerprint,
            runs: Vec::new(),
            doubts: Vec::new(),
        }
    }

    /// How many runs it stands for.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Learns from a valid run that was found sound, `common` being what the fleet did. A bad run teaches nothing, but that it
    /// was doubted is remembered. To be called once for each sweep, with its first run.
    pub fn learn(
        &mut self,
        fingerprint: &str,
        observation: &Observation,
        common: &Common,
        verdict: &Verdict,
    ) -> Result<(), NotLearned> {
        if fingerprint != self.fingerprint {
            return Err(NotLearned::OtherFingerprint);
        }
        if self.doubts.len() == REMEMBERED {
            self.doubts.remove(0);
        }
        // A small departure that did not come again is chance, and belongs to the spread: leaving it out would make the device look
        // steadier than it is.
        let sound = match verdict {
            Verdict::Sound | Verdict::Unknown { .. } => true,
            Verdict::Doubtful(departure) => departure.z < DOUBTED_Z,
            Verdict::Suspicious(_) | Verdict::Confirmed(_) => false,
        };
        self.doubts.push(!sound);
        if !sound {
            return Err(NotLearned::NotSound);
        }
        if self.runs.len() == MOST_RUNS {
            self.runs.remove(0);
        }
        self.runs.push(common.removed(observation));
        Ok(())
    }

    fn values(&self, feature: Feature) -> impl Iterator<Item = f64> {
        self.runs.iter().map(move |run| run.feature(feature))
    }

    /// Where a run of a sound device is expected; nothing before there are enough runs.
    pub fn centre(&self, feature: Feature) -> Option<f64> {
        (self.runs.len() >= FEWEST_RUNS)
            .then(|| median(self.values(feature)))
            .flatten()
    }

    fn doubts(&self) -> usize {
        self.doubts.iter().filter(|doubted| **doubted).count()
    }

    /// The spread of one run around the centre: the device's own, drawn towards that of its kind.
    fn spread(&self, feature: Feature, kind: &Repeatability) -> f64 {
        let values: Vec<f64> = self.values(feature).collect();
        let more = real_of(values.len().saturating_sub(1));
        let own = variance(&values).unwrap_or(0.0);
        let kind = kind.feature(feature).powi(2);
        ((KIND_RUNS * kind + more * own) / (KIND_RUNS + more)).sqrt()
    }
}

/// What all peers did together in one sweep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Common {
    /// By how much the level of most devices moved.
    pub level: f64,
    /// How many peers that is known from; zero when there were too few.
    pub peers: usize,
}

impl Common {
    /// The median of how far each peer's run is from its own past. Zero below [`FEWEST_PEERS`] peers with a past; one run is past
    /// enough for this, or the first runs of all would differ by what all did.
    pub fn of<'a>(peers: impl Iterator<Item = (&'a Baseline, &'a Observation)>) -> Self {
        let moved: Vec<f64> = peers
            .filter_map(|(baseline, run)| {
                Some(run.level - median(baseline.values(Feature::Level))?)
            })
            .collect();
        if moved.len() < FEWEST_PEERS {
            return Self::default();
        }
        Self {
            peers: moved.len(),
            level: median(moved).unwrap_or(0.0),
        }
    }

    fn removed(&self, run: &Observation) -> Observation {
        Observation {
            level: run.level - self.level,
            ..*run
        }
    }
}

/// How far from its past a part is, in one of the ways.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Departure {
    /// In which way.
    pub feature: Feature,
    /// By how much worse: 0.02 is two percent.
    pub worse: f64,
    /// In spreads of a sound device's run.
    pub z: f64,
}

/// What a part's runs say together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it always was.
    Sound,
    /// Too little of a past to say.
    Unknown {
        /// Runs that are known.
        runs: usize,
    },
    /// Worse in one run: it must be tested again before anything is said of it.
    Suspicious(Departure),
    /// Worse in one run and not in the next. When it comes again and again it is confirmed.
    Doubtful(Departure),
    /// Worse again in the same way, or in so many sweeps that it cannot be chance.
    Confirmed(Departure),
}

/// From when on a departure counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// In spreads, for one run to be suspicious.
    pub suspicious_z: f64,
    /// In spreads of their mean, for all runs together to confirm.
    pub confirmed_z: f64,
    /// Less than this is no matter: a device's users do not feel it.
    pub least_worse: f64,
    /// The same for the shapes.
    pub least_worse_shape: f64,
}

impl Default for Thresholds {
    /// Chosen on the fault models of `examples/verdict_curves`, for less than one false alarm in a thousand device tests.
    fn default() -> Self {
        Self {
            suspicious_z: 3.0,
            confirmed_z: 4.5,
            least_worse: 0.006,
            least_worse_shape: 0.03,
        }
    }
}

/// All departures of one run, the worst first. Nothing before there is a past.
pub fn departures(
    baseline: &Baseline,
    kind: &Repeatability,
    common: &Common,
    run: &Observation,
) -> Option<Vec<Departure>> {
    let run = common.removed(run);
    let past = real_of(baseline.runs());
    let mut found = Vec::new();
    for feature in FEATURES {
        let worse = baseline.centre(feature)? - run.feature(feature);
        let z = worse / (baseline.spread(feature, kind) * uncertainty(1.0, past));
        found.push(Departure { feature, worse, z });
    }
    found.sort_by(|left, right| right.z.total_cmp(&left.z));
    Some(found)
}

/// By how much the mean of some runs and the centre of a past differ by chance, in spreads of a run. A median of n runs is about as
/// good as a mean of 2n/pi; all runs share the error of the centre.
fn uncertainty(runs: f64, past: f64) -> f64 {
    (1.0 / runs + std::f64::consts::FRAC_PI_2 / past).sqrt()
}

/// Judges one sweep of a part: its run, and the runs that were made again because the first was suspicious.
pub fn judge(
    baseline: &Baseline,
    kind: &Repeatability,
    common: &Common,
    runs: &[Observation],
    thresholds: &Thresholds,
) -> Verdict {
    let unknown = Verdict::Unknown {
        runs: baseline.runs(),
    };
    let mut of_runs = Vec::new();
    for run in runs {
        let Some(departures) = departures(baseline, kind, common, run) else {
            return unknown;
        };
        of_runs.push(departures);
    }
    let Some(first) = of_runs.first() else {
        return unknown;
    };
    let counts = |departure: &&Departure| {
        let least = match departure.feature {
            Feature::Level => thresholds.least_worse,
            Feature::Tail | Feature::Ramp => thresholds.least_worse_shape,
        };
        departure.z >= thresholds.suspicious_z && departure.worse >= least
    };
    let Some(suspicion) = first.iter().find(counts) else {
        return Verdict::Sound;
    };
    let suspicion = *suspicion;
    if of_runs.len() == 1 {
        return Verdict::Suspicious(suspicion);
    }
    // Every way in which the first run was worse may be confirmed by the others.
    for feature in first
        .iter()
        .filter(counts)
        .map(|departure| departure.feature)
    {
        let same: Vec<Departure> = of_runs
            .iter()
            .filter_map(|run| run.iter().find(|departure| departure.feature == feature))
            .copied()
            .collect();
        let z: Vec<f64> = same.iter().map(|departure| departure.z).collect();
        let worse: Vec<f64> = same.iter().map(|departure| departure.worse).collect();
        let past = real_of(baseline.runs());
        let together =
            mean(&z).unwrap_or(0.0) * uncertainty(1.0, past) / uncertainty(real_of(z.len()), past);
        let again = same[1..].iter().all(|departure| counts(&departure));
        if again && together >= thresholds.confirmed_z {
            return Verdict::Confirmed(Departure {
                feature,
                worse: mean(&worse).unwrap_or(0.0),
                z: together,
            });
        }
    }
    if suspicion.z >= thresholds.confirmed_z && baseline.doubts() + 1 >= MOST_DOUBTS {
        return Verdict::Confirmed(suspicion);
    }
    Verdict::Doubtful(suspicion)
}

/// A part without a past, against its peers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acceptance {
    /// As good as its peers.
    Accepted,
    /// Too few peers to compare with: only what the maker promises can be checked.
    TooFewPeers {
        /// How many there are.
        peers: usize,
    },
    /// Worse than its peers by more than they differ among themselves.
    Refused {
        /// By how much worse than their median: 0.05 is five percent.
        worse: f64,
        /// In spreads of the peers.
        z: f64,
    },
}

/// In spreads of the peers, from when on a newcomer is refused.
const REFUSED_Z: f64 = 4.0;
/// And by how much worse at least.
const REFUSED_WORSE: f64 = 0.02;

/// Judges a part without a past: its level, its tail, by those of its peers. `peers` may be as sick as it likes below one half.
pub fn accept(peers: &[Observation], run: &Observation) -> Acceptance {
    if peers.len() < FEWEST_PEERS {
        return Acceptance::TooFewPeers { peers: peers.len() };
    }
    let mut refused: Option<(f64, f64)> = None;
    for feature in [Feature::Level, Feature::Tail] {
        let values: Vec<f64> = peers.iter().map(|peer| peer.feature(feature)).collect();
        let centre = median(values.iter().copied()).unwrap_or(0.0);
        let spread = robust_deviation(&values).unwrap_or(0.0).max(LEAST_SPREAD);
        let worse = centre - run.feature(feature);
        let z = worse / spread;
        if z >= REFUSED_Z && worse >= REFUSED_WORSE && refused.is_none_or(|(_, other)| z > other) {
            refused = Some((worse, z));
        }
    }
    refused.map_or(Acceptance::Accepted, |(worse, z)| Acceptance::Refused {
        worse,
        z,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Metric;

    /// A run at a level, with a little noise that belongs to its number.
    fn run(level: f64, number: u32) -> Observation {
        let noise = [0.3, -0.8, 0.1, 0.9, -0.4, -0.1, 0.6, -0.6][number as usize % 8] * 0.002;
        Observation {
            level: level + noise,
            tail: -0.02,
            ramp: 0.0,
            samples: 50,
        }
    }

    fn baseline(runs: u32) -> Baseline {
        let mut baseline = Baseline::new("a".into());
        for number in 0..runs {
            let verdict = Verdict::Unknown { runs: 0 };
            baseline
                .learn("a", &run(1.0, number), &Common::default(), &verdict)
                .expect("the same fingerprint");
        }
        baseline
    }

    const KIND: Repeatability = Repeatability {
        level: 0.002,
        tail: 0.005,
        ramp: 0.005,
    };

    fn check(runs: &[Observation]) -> Verdict {
        let common = Common::default();
        judge(&baseline(8), &KIND, &common, runs, &Thresholds::default())
    }

    #[test]
    fn two_percent_is_suspicious_and_confirmed_only_when_it_comes_again() {
        assert_eq!(check(&[run(1.0, 3)]), Verdict::Sound);
        assert!(matches!(check(&[run(0.98, 3)]), Verdict::Suspicious(_)));
        let once = check(&[run(0.98, 3), run(1.0, 4)]);
        assert!(matches!(once, Verdict::Doubtful(_)));
        let Verdict::Confirmed(departure) = check(&[run(0.98, 3), run(0.98, 4)]) else {
            panic!("it came again");
        };
        assert!((departure.worse - 0.02).abs() < 0.005 && departure.z > 5.0);
    }

    #[test]
    fn stuttering_is_found_though_the_median_is_as_ever() {
        let stutter = |number| Observation {
            tail: -0.3,
            ..run(1.0, number)
        };
        let Verdict::Confirmed(departure) = check(&[stutter(1), stutter(2)]) else {
            panic!("the tail is far away");
        };
        assert_eq!(departure.feature, Feature::Tail);
    }

    #[test]
    fn what_is_bad_now_and_then_is_confirmed_in_the_end() {
        let mut baseline = baseline(8);
        let common = Common::default();
        let runs = [run(0.98, 3), run(1.0, 4)];
        let mut verdicts = Vec::new();
        for _ in 0..3 {
            let verdict = judge(&baseline, &KIND, &common, &runs, &Thresholds::default());
            let learned = baseline.learn("a", &runs[0], &common, &verdict);
            assert_eq!(learned, Err(NotLearned::NotSound));
            verdicts.push(matches!(verdict, Verdict::Confirmed(_)));
        }
        assert_eq!(verdicts, [false, false, true]);
        assert_eq!(baseline.runs(), 8);
    }

    #[test]
    fn what_all_do_is_no_devices_fault() {
        let own = baseline(8);
        let peers: Vec<(Baseline, Observation)> = (0..9)
            .map(|number| (baseline(8), run(0.97, number)))
            .collect();
        let common = Common::of(peers.iter().map(|(baseline, run)| (baseline, run)));
        assert!((common.level + 0.03).abs() < 0.003);
        let judge = |level| {
            let runs = [run(level, 1), run(level, 2)];
            judge(&own, &KIND, &common, &runs, &Thresholds::default())
        };
        assert_eq!(judge(0.97), Verdict::Sound);
        assert!(matches!(judge(0.95), Verdict::Confirmed(_)));
        let few = Common::of(peers[..7].iter().map(|(baseline, run)| (baseline, run)));
        assert_eq!(few, Common::default(), "seven peers are no fleet");
    }

    #[test]
    fn a_bad_run_and_another_fingerprint_teach_nothing() {
        let mut baseline = baseline(4);
        let departure = Departure {
            feature: Feature::Level,
            worse: 0.1,
            z: 9.0,
        };
        let common = Common::default();
        for verdict in [
            Verdict::Suspicious(departure),
            Verdict::Confirmed(departure),
        ] {
            let learned = baseline.learn("a", &run(0.9, 0), &common, &verdict);
            assert_eq!(learned, Err(NotLearned::NotSound));
        }
        let learned = baseline.learn("b", &run(1.0, 0), &common, &Verdict::Sound);
        assert_eq!(learned, Err(NotLearned::OtherFingerprint));
        assert_eq!(baseline.runs(), 4);
    }

    #[test]
    fn without_a_past_the_peers_decide() {
        let peers: Vec<Observation> = (0..16)
            .map(|number| run(1.0 + f64::from(number % 5) * 0.004, number))
            .collect();
        assert_eq!(accept(&peers, &run(1.0, 0)), Acceptance::Accepted);
        let Acceptance::Refused { worse, .. } = accept(&peers, &run(0.9, 0)) else {
            panic!("ten percent below all");
        };
        assert!((worse - 0.108).abs() < 0.01);
        assert_eq!(
            accept(&peers[..7], &run(0.5, 0)),
            Acceptance::TooFewPeers { peers: 7 }
        );
        let none = Baseline::new("a".into());
        let verdict = judge(
            &none,
            &KIND,
            &Common::default(),
            &[run(1.0, 0)],
            &Thresholds::default(),
        );
        assert_eq!(verdict, Verdict::Unknown { runs: 0 });
    }

    #[test]
    fn observations_come_from_samples() {
        let observation = Observation::of(Metric::GemmF32, &[100.0; 20]).expect("samples");
        assert!((observation.level - 100.0_f64.ln()).abs() < 1e-12);
    }
}
