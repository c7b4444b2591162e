//! Devices that become slow, week after week.
//!
//! Assumed: devices of one kind differ by 1.5 % (standard deviation of the level), all move together by 0.7 % from week to week, a
//! device repeats to between 0.1 % and 0.8 % from run to run (its own, log-uniform; the one raw result file that `SuperBench` published
//! shows a coefficient of variation of 0.1 to 1.4 % within a node), an iteration varies by 0.4 %, and one in a hundred is an outlier. Each
//! run has 60 iterations. One device in twenty becomes sick after ten sound weeks and stays so for six.

use supernode_probe::stress::sample::Metric;
use supernode_probe::stress::verdict::history::{
    self, Baseline, Common, Repeatability, Thresholds, Verdict,
};
use supernode_probe::stress::verdict::observation::Observation;

use crate::chance::{Chance, share};
use crate::rivals::{Rule, Week};

const DEVICES: usize = 64;
const SICK: usize = 3;
const SOUND_WEEKS: usize = 10;
const SICK_WEEKS: usize = 6;
const ITERATIONS: u32 = 60;

/// How a sick device is slow; each loses the same share of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Always by the same.
    Constant,
    /// In a tenth of the time by ten times as much.
    Bursty,
    /// From nothing at the beginning of a run to twice as much at its end.
    Ramp,
    /// In every other run.
    Intermittent,
}

const FAULTS: [Fault; 4] = [
    Fault::Constant,
    Fault::Bursty,
    Fault::Ramp,
    Fault::Intermittent,
];

struct Device {
    level: f64,
    run_deviation: f64,
    sick: Option<(Fault, f64)>,
}

impl Device {
    fn run(&self, chance: &Chance, common: f64, sick_now: bool) -> Vec<f64> {
        let run = self.level + common + chance.normal(self.run_deviation);
        let (fault, slower) = self
            .sick
            .filter(|_| sick_now)
            .unwrap_or((Fault::Constant, 0.0));
        let active = fault != Fault::Intermittent || chance.unit() < 0.5;
        // A burst lasts for some iterations.
        let burst = chance.unit();
        (0..ITERATIONS)
            .map(|iteration| {
                let place = (f64::from(iteration) + 0.5) / f64::from(ITERATIONS);
                let lost = match fault {
                    Fault::Constant => slower,
                    Fault::Intermittent if active => slower,
                    Fault::Intermittent => 0.0,
                    Fault::Ramp => 2.0 * slower * place,
                    Fault::Bursty => {
                        let inside = (place - burst).rem_euclid(1.0) < 0.1;
                        if inside {
                            (10.0 * slower).min(0.9)
                        } else {
                            0.0
                        }
                    }
                };
                let outlier = if chance.unit() < 0.01 {
                    -0.05 * chance.exponential()
                } else {
                    0.0
                };
                1000.0 * (run + chance.normal(0.004) + outlier).exp() * (1.0 - lost)
            })
            .collect()
    }
}

/// Hits and misses of one rule.
#[derive(Debug, Clone, Copy, Default)]
struct Score {
    hits: u32,
    misses: u32,
    false_alarms: u32,
    sound: u32,
    retests: u32,
}

impl Score {
    fn count(&mut self, sick: bool, alarm: bool) {
        match (sick, alarm) {
            (true, true) => self.hits += 1,
            (true, false) => self.misses += 1,
            (false, alarm) => {
                self.sound += 1;
                self.false_alarms += u32::from(alarm);
            }
        }
    }

    fn line(&self) -> String {
        let precision = share(self.hits, self.hits + self.false_alarms);
        let recall = share(self.hits, self.hits + self.misses).unwrap_or(0.0);
        let f1 = 2.0 * f64::from(self.hits)
            / f64::from((2 * self.hits + self.false_alarms + self.misses).max(1));
        let thousand = 1000.0 * share(self.false_alarms, self.sound).unwrap_or(0.0);
        let precision = precision.map_or("   -".into(), |precision| format!("{precision:.2}"));
        format!("{precision}  {recall:.2}  {f1:.2}  {thousand:6.2}")
    }
}

pub(crate) fn print(scale: u32) {
    println!(
        "devices: {DEVICES} of one kind, {SICK} become sick after {SOUND_WEEKS} weeks; spread between devices 1.5 %,"
    );
    println!(
        "common change 0.7 % a week, run to run 0.1 to 0.8 %, iterations 0.4 %; {ITERATIONS} iterations a run;"
    );
    println!("every alarm is tested again once, and counts when the same rule says so again\n");
    println!(
        "{:<13} {:>6}  {:<26} {:>4}  {:>4}  {:>4}  {:>6}",
        "fault", "slower", "rule", "P", "R", "F1", "false/1000"
    );
    for fault in FAULTS {
        for slower in [0.01, 0.02, 0.03, 0.05, 0.10] {
            let scores = simulate(scale, fault, slower);
            for (name, score) in scores {
                println!(
                    "{:<13} {:>4.0} %  {name:<26} {}",
                    format!("{fault:?}"),
                    slower * 100.0,
                    score.line()
                );
            }
        }
    }
    println!();
}

fn simulate(scale: u32, fault: Fault, slower: f64) -> Vec<(&'static str, Score)> {
    let chance = Chance::new(2026);
    let mut ours = Score::default();
    let mut rivals: Vec<(Rule, Score)> = Rule::ALL
        .iter()
        .map(|rule| (*rule, Score::default()))
        .collect();
    for _ in 0..12 * scale {
        fleet(&chance, fault, slower, &mut ours, &mut rivals);
    }
    let mut scores = vec![("own history (this crate)", ours)];
    scores.extend(rivals.into_iter().map(|(rule, score)| (rule.name(), score)));
    scores
}

/// One fleet over all its weeks.
fn fleet(
    chance: &Chance,
    fault: Fault,
    slower: f64,
    ours: &mut Score,
    rivals: &mut [(Rule, Score)],
) {
    let devices: Vec<Device> = (0..DEVICES)
        .map(|number| Device {
            level: chance.normal(0.015),
            run_deviation: chance.log_uniform(0.001, 0.008),
            sick: (number < SICK).then_some((fault, slower)),
        })
        .collect();
    let mut baselines = vec![Baseline::new("a".into()); DEVICES];
    let mut first_week: Vec<Vec<f64>> = Vec::new();
    for week in 0..SOUND_WEEKS + SICK_WEEKS {
        let sick_now = week >= SOUND_WEEKS;
        let common = chance.normal(0.007);
        let runs: Vec<Vec<f64>> = devices
            .iter()
            .map(|device| device.run(chance, common, sick_now))
            .collect();
        // Made for all, so that every rule sees the same second run.
        let again: Vec<Vec<f64>> = devices
            .iter()
            .map(|device| device.run(chance, common, sick_now))
            .collect();
        if week == 0 {
            first_week.clone_from(&runs);
        }
        judge_ours(&mut baselines, &runs, &again, sick_now, ours);
        if sick_now {
            for (rule, score) in rivals.iter_mut() {
                let first = Week::new(&first_week, &runs).alarms(*rule);
                let second = Week::new(&first_week, &again).alarms(*rule);
                for number in 0..DEVICES {
                    score.retests += u32::from(first[number]);
                    score.count(number < SICK, first[number] && second[number]);
                }
            }
        }
    }
}

fn judge_ours(
    baselines: &mut [Baseline],
    runs: &[Vec<f64>],
    again: &[Vec<f64>],
    sick_now: bool,
    score: &mut Score,
) {
    let sum_up =
        |values: &Vec<f64>| Observation::of(Metric::GemmF32, values).expect("there are samples");
    let runs: Vec<Observation> = runs.iter().map(sum_up).collect();
    let again: Vec<Observation> = again.iter().map(sum_up).collect();
    let common = Common::of(baselines.iter().zip(&runs));
    let kind = Repeatability::learn(&baselines.iter().collect::<Vec<_>>());
    let thresholds = Thresholds::default();
    for (number, baseline) in baselines.iter_mut().enumerate() {
        let first = history::judge(
            baseline,
            &kind,
            &common,
            &runs[number..=number],
            &thresholds,
        );
        let verdict = if let Verdict::Suspicious(_) = first {
            score.retests += u32::from(sick_now);
            let both = [runs[number], again[number]];
            history::judge(baseline, &kind, &common, &both, &thresholds)
        } else {
            first
        };
        if sick_now {
            score.count(number < SICK, matches!(verdict, Verdict::Confirmed(_)));
        }
        // A bad run does not teach.
        let _ = baseline.learn("a", &runs[number], &common, &verdict);
    }
}
