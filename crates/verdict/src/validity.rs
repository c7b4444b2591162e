//! Whether samples may be judged at all. A run beside a neighbour's load, or under a throttle that somebody set, says nothing about the
//! part: it is invalid, which is neither good nor bad, and is made again.

use std::collections::BTreeSet;

pub use supernode_types::stress::Validity;

use crate::change::Change;
use crate::number::real;
use crate::outcome::Outcome;
use crate::sample::{Ended, Metric, Part};
use crate::statistics::median;

/// A thread that got less of its processor than this was in somebody's way.
const LEAST_CPU_SHARE: f64 = 0.97;
/// A flow whose threads could not run for a larger part of the time was in somebody's way.
const LEAST_FLOW_CPU_SHARE: f64 = 0.8;
/// Of the bytes of a disk that is tested, no more may be somebody else's.
const MOST_OTHERS_OF_DISK: f64 = 0.2;
/// Of the machine's processor time, others may have used so much while we measured.
const MOST_OTHERS: f64 = 0.05;
/// The hypervisor may have taken so much.
const MOST_STEAL: f64 = 0.01;
/// A process may not run for so long at a time: longer, and samples cover time in which nothing was tested.
const LONGEST_PAUSE_SECONDS: f64 = 1.0;
/// Ticks of `/proc/stat` in a second.
const TICKS: f64 = 100.0;

/// Judges one run: what the kernel said of itself and what the machine said meanwhile.
pub fn validity(outcome: &Outcome, change: &Change) -> Validity {
    let held_back = held_back(outcome, change, MOST_STEAL);
    if held_back != Validity::Valid {
        return held_back;
    }
    let ticks = |name| ticks(change, name);
    let busy = ticks("user") + ticks("nice") + ticks("system");
    let all = all_ticks(change);
    if all > 0.0 {
        let others = (busy - outcome.cpu_seconds * TICKS) / all;
        if others > MOST_OTHERS {
            return Validity::Contended(format!(
                "others used {:.0} % of the processors",
                others * 100.0
            ));
        }
    }
    match cpu_share(outcome).filter(|share| *share < LEAST_CPU_SHARE) {
        Some(share) => Validity::Contended(format!(
            "its threads ran {:.1} % of the time in which they wanted to",
            share * 100.0
        )),
        None => Validity::Valid,
    }
}

/// Judges a run that measured flows, to a peer or to a disk. They need few processors and wait most of the time for the other end, so what
/// others use of the processors does not matter unless the threads of the flows had to wait for it.
pub fn flow_validity(outcome: &Outcome, change: &Change) -> Validity {
    let held_back = held_back(outcome, change, 1.0 - LEAST_FLOW_CPU_SHARE);
    if held_back != Validity::Valid {
        return held_back;
    }
    // Of this end and of the other.
    let parts: BTreeSet<&Part> = cpu_shares(outcome).map(|(part, _)| part).collect();
    for part in parts {
        let of_part = cpu_shares(outcome).filter(|(other, _)| *other == part);
        let share = median(of_part.map(|(_, share)| share));
        if let Some(share) = share.filter(|share| *share < LEAST_FLOW_CPU_SHARE) {
            return Validity::Contended(format!(
                "{} waited {:.1} % of the time for a processor",
                of("threads", part),
                (1.0 - share) * 100.0
            ));
        }
    }
    let shares = of_metric(outcome, Metric::DiskShare).map(|(_, share)| share);
    let others = 1.0 - shares.fold(1.0, f64::min);
    if others > MOST_OTHERS_OF_DISK {
        return Validity::Contended(format!(
            "others moved {:.0} % of the bytes that the disk moved",
            others * 100.0
        ));
    }
    Validity::Valid
}

/// What makes any samples worthless; the hypervisor may have taken a share of `most_steal`.
fn held_back(outcome: &Outcome, change: &Change, most_steal: f64) -> Validity {
    match &outcome.ended {
        Ended::Complete => {}
        Ended::Incomplete(why) => return Validity::Incomplete(why.clone()),
        Ended::CouldNotRun(why) => return Validity::CouldNotRun(why.clone()),
    }
    if change.grown("throttle/", "") > 0 {
        return Validity::Throttled("processors were slowed down because of heat".into());
    }
    if change.grown("device/", "/slowed_by_heat") > 0 {
        return Validity::Throttled("devices were slowed down because of heat".into());
    }
    if change.grown("device/", "/slowed_by_power_brake") > 0 {
        return Validity::Throttled("devices were slowed down by the power supply".into());
    }
    let crowded = change.readings.iter().find(|(name, (_, most))| {
        name.starts_with("device/") && name.ends_with("/processes") && *most > 1.0
    });
    if let Some((name, (_, most))) = crowded {
        return Validity::Contended(format!(
            "{most} processes had {} at a time",
            name.trim_end_matches("/processes").replace('/', " ")
        ));
    }
    let limited = change.grown("cgroup/", "throttled_usec");
    if limited > 0 {
        return Validity::Throttled(format!(
            "the control group's limit held it back for {limited} us"
        ));
    }
    if let Some(limit) = &outcome.limit {
        return Validity::Throttled(limit.clone());
    }
    if let Some(pause) = &outcome.pause
        && pause.seconds > LONGEST_PAUSE_SECONDS
    {
        return Validity::Contended(format!(
            "{} did not run for {:.1} s: somebody stopped it, or its machine",
            of("process", &pause.part),
            pause.seconds
        ));
    }
    let all = all_ticks(change);
    let steal = ticks(change, "steal") / all.max(1.0);
    if steal > most_steal {
        return Validity::Contended(format!(
            "the hypervisor took {:.1} % of the processors",
            steal * 100.0
        ));
    }
    Validity::Valid
}

fn of(what: &str, part: &Part) -> String {
    match part {
        Part::Host => format!("its {what}"),
        other => format!("the {what} of {other}"),
    }
}

fn ticks(change: &Change, name: &str) -> f64 {
    let grown = change.grown.get(&format!("cpu/{name}"));
    real(grown.copied().unwrap_or(0))
}

/// Interrupts may be our own disk or network traffic: they are nobody's.
fn all_ticks(change: &Change) -> f64 {
    let names = [
        "user", "nice", "system", "irq", "softirq", "idle", "iowait", "steal",
    ];
    names.into_iter().map(|name| ticks(change, name)).sum()
}

fn cpu_share(outcome: &Outcome) -> Option<f64> {
    median(cpu_shares(outcome).map(|(_, share)| share))
}

fn cpu_shares(outcome: &Outcome) -> impl Iterator<Item = (&Part, f64)> {
    of_metric(outcome, Metric::CpuShare)
}

fn of_metric(outcome: &Outcome, metric: Metric) -> impl Iterator<Item = (&Part, f64)> {
    let samples = outcome.samples.iter();
    let wanted = samples.filter(move |sample| sample.metric == metric);
    wanted.map(|sample| (&sample.part, sample.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Event, Pause, Sample};

    fn outcome(share: f64) -> Outcome {
        Outcome {
            samples: vec![Sample {
                metric: Metric::CpuShare,
                part: Part::Core(0),
                value: share,
                at_seconds: 0.0,
            }],
            cpu_seconds: 10.0,
            ended: Ended::Complete,
            ..Outcome::default()
        }
    }

    fn change(grown: &[(&str, u64)]) -> Change {
        Change {
            grown: grown
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
            ..Change::default()
        }
    }

    #[test]
    fn a_quiet_machine_is_valid() {
        let quiet = change(&[("cpu/user", 1010), ("cpu/idle", 990)]);
        assert_eq!(validity(&outcome(0.995), &quiet), Validity::Valid);
    }

    #[test]
    fn neighbours_heat_and_limits_are_not_the_parts_fault() {
        let contended = |share, grown: &[(&str, u64)]| {
            matches!(
                validity(&outcome(share), &change(grown)),
                Validity::Contended(_)
            )
        };
        assert!(contended(0.5, &[]), "its threads waited");
        assert!(contended(1.0, &[("cpu/user", 1400), ("cpu/idle", 600)]));
        assert!(contended(1.0, &[("cpu/user", 1000), ("cpu/steal", 100)]));
        let mut shared = Change::default();
        shared
            .readings
            .insert("device/3/processes".into(), (1.0, 2.0));
        assert_eq!(
            validity(&outcome(1.0), &shared),
            Validity::Contended("2 processes had device 3 at a time".into())
        );
        for name in [
            "throttle/cpu0/core",
            "cgroup/throttled_usec",
            "device/0/slowed_by_heat",
            "device/7/slowed_by_power_brake",
        ] {
            assert!(matches!(
                validity(&outcome(1.0), &change(&[(name, 1)])),
                Validity::Throttled(_)
            ));
        }
    }

    #[test]
    fn a_flow_is_disturbed_only_when_its_own_threads_waited() {
        let loaded = change(&[("cpu/user", 1900), ("cpu/idle", 100)]);
        assert_eq!(flow_validity(&outcome(0.9), &loaded), Validity::Valid);
        let waited = flow_validity(&outcome(0.7), &loaded);
        assert!(matches!(waited, Validity::Contended(why) if why.contains("30.0 %")));
        let mut crowded = outcome(0.9);
        let other_end = Part::Peer("node-2".into());
        crowded.samples.push(Sample {
            part: other_end,
            value: 0.6,
            ..crowded.samples[0].clone()
        });
        let waited = flow_validity(&crowded, &loaded);
        assert!(
            matches!(&waited, Validity::Contended(why) if why.contains("peer node-2 waited 40.0 %")),
            "{waited:?}"
        );
        let stolen = |ticks| change(&[("cpu/idle", 1000), ("cpu/steal", ticks)]);
        let valid = |ticks| flow_validity(&outcome(1.0), &stolen(ticks)) == Validity::Valid;
        assert_eq!([20, 400].map(valid), [true, false]);
        let limited = change(&[("cgroup/throttled_usec", 1)]);
        assert!(matches!(
            flow_validity(&outcome(1.0), &limited),
            Validity::Throttled(_)
        ));
    }

    #[test]
    fn a_disk_that_others_use_is_contended_and_one_with_a_limit_throttled() {
        let shared = |shares: &[f64]| {
            let mut outcome = outcome(1.0);
            for share in shares {
                outcome.samples.push(Sample {
                    metric: Metric::DiskShare,
                    part: Part::Directory("/data".into()),
                    value: *share,
                    at_seconds: 0.0,
                });
            }
            flow_validity(&outcome, &Change::default())
        };
        assert_eq!(shared(&[]), Validity::Valid, "a file system without a disk");
        assert_eq!(shared(&[0.95, 1.0]), Validity::Valid);
        let said = "others moved 40 % of the bytes that the disk moved";
        assert_eq!(shared(&[1.0, 0.6, 1.0]), Validity::Contended(said.into()));
        let mut limited = outcome(1.0);
        limited.take(Event::Limited("a limit".into()));
        assert_eq!(
            flow_validity(&limited, &Change::default()),
            Validity::Throttled("a limit".into())
        );
    }

    #[test]
    fn a_process_that_was_stopped_says_nothing() {
        let paused = |seconds| {
            let mut outcome = outcome(1.0);
            for seconds in [seconds, 0.1] {
                let part = Part::Host;
                outcome.take(Event::Paused(Pause { part, seconds }));
            }
            let quiet = Change::default();
            [validity(&outcome, &quiet), flow_validity(&outcome, &quiet)]
        };
        assert_eq!(paused(0.9), [Validity::Valid, Validity::Valid]);
        let said = |validity: &Validity| matches!(validity, Validity::Contended(why) if why.contains("its process did not run for 2.0 s"));
        assert!(paused(2.0).iter().all(said), "{:?}", paused(2.0));
    }

    #[test]
    fn what_did_not_end_is_not_judged() {
        let stopped = Outcome {
            ended: Ended::Incomplete("stopped".into()),
            ..outcome(1.0)
        };
        assert_eq!(
            validity(&stopped, &Change::default()),
            Validity::Incomplete("stopped".into())
        );
        let absent = Outcome::could_not_run("no disk");
        assert_eq!(
            validity(&absent, &Change::default()),
            Validity::CouldNotRun("no disk".into())
        );
    }
}
