//! Kernels as child processes: they measure, they stop when told, and what cannot run says so.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use supernode_probe::stress::child::{Heard, Launcher, Outcome, Running};
use supernode_probe::stress::compute::{Compute, Precision};
use supernode_probe::stress::kernel::{Kernel, Order};
use supernode_probe::stress::link::Links;
use supernode_probe::stress::memory::{Pattern, Stream};
use supernode_probe::stress::network::{Ask, Key, Listen};
use supernode_probe::stress::sample::{Ended, Event, Metric, Part};
use supernode_probe::stress::storage::{Engine, Storage};
use supernode_types::Clock as _;
use supernode_types::entropy::SystemEntropy;
use supernode_types::time::SystemClock;

/// How long anything may take on a machine that is shared.
const PATIENCE: Duration = Duration::from_mins(2);
/// What a kernel that is told to stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(10);

fn launcher() -> Launcher {
    // Examples are built beside the tests.
    let mut program = std::env::current_exe().expect("this test has a path");
    program.pop();
    program.pop();
    program.push("examples/stress_kernel");
    assert!(program.exists(), "run all targets of this package");
    Launcher {
        program,
        arguments: Vec::new(),
    }
}

fn start(kernel: Kernel) -> Running {
    let order = Order {
        kernel,
        limit_seconds: 600,
    };
    launcher().start(&order).expect("the example starts")
}

/// Runs a kernel to its end.
fn run(kernel: Kernel) -> Outcome {
    let mut outcome = Outcome::default();
    let begun = SystemClock.monotonic();
    start(kernel).finish(&SystemClock, &mut outcome, || {
        SystemClock.monotonic().saturating_sub(begun) > PATIENCE
    });
    outcome
}

fn on_disk(directory: &Path, seconds: u32, engine: Option<Engine>) -> Kernel {
    Kernel::Storage(Storage {
        directory: directory.to_owned(),
        bytes: 32 << 20,
        seconds,
        sequential_depth: 4,
        random_depth: 8,
        engine,
    })
}

fn compute(seconds: u32) -> Kernel {
    Kernel::Compute(Compute {
        precision: Precision::F32,
        seconds,
        cores: vec![],
    })
}

fn has(outcome: &Outcome, metric: Metric) -> bool {
    outcome
        .samples
        .iter()
        .any(|sample| sample.metric == metric && sample.value > 0.0)
}

#[test]
fn every_kernel_of_one_machine_comes_to_its_end_with_samples_and_nothing_wrong() {
    for (kernel, metric) in [
        (compute(0), Metric::GemmF32),
        (
            Kernel::Stream(Stream {
                seconds: 0,
                array_bytes: Some(128 << 20),
            }),
            Metric::StreamTriad,
        ),
        (
            Kernel::Pattern(Pattern {
                seconds: 0,
                bytes: 8 << 20,
            }),
            Metric::PatternBandwidth,
        ),
    ] {
        let outcome = run(kernel.clone());
        assert_eq!(outcome.ended, Ended::Complete, "{kernel:?}: {outcome:?}");
        assert_eq!(outcome.wrong, [], "{kernel:?}");
        assert!(has(&outcome, metric), "{kernel:?}");
        assert!(outcome.cpu_seconds > 0.0);
    }
}

#[test]
fn links_are_measured_or_cannot_be() {
    let outcome = run(Kernel::Links(Links { seconds: 0 }));
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        assert_eq!(outcome.ended, Ended::Complete, "{outcome:?}");
        assert!(has(&outcome, Metric::CopyLatency) && has(&outcome, Metric::CopyBandwidth));
    } else {
        assert!(matches!(outcome.ended, Ended::CouldNotRun(_)));
    }
}

/// A directory on a disk: the usual temporary one may be in memory, where there is no direct access.
fn disk() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory can be written")
}

#[test]
fn a_disk_is_tested_with_both_engines_and_nothing_is_left_behind() {
    let directory = disk();
    for engine in [None, Some(Engine::Threads)] {
        let outcome = run(on_disk(directory.path(), 1, engine));
        if let Ended::CouldNotRun(why) = &outcome.ended {
            println!("SKIPPED: no disk test here: {why}");
            return;
        }
        assert_eq!(outcome.ended, Ended::Complete, "{engine:?}");
        assert_eq!(outcome.wrong, [], "{engine:?}");
        assert!(has(&outcome, Metric::RandomRead), "{engine:?}");
        let tail = outcome
            .distributions
            .iter()
            .find(|(metric, ..)| *metric == Metric::RandomReadLatency)
            .map(|(.., histogram)| histogram.quantile(0.99));
        assert!(tail.flatten().is_some_and(|tail| tail > 0.0), "{engine:?}");
    }
    let left = std::fs::read_dir(directory.path())
        .expect("it is ours")
        .count();
    assert_eq!(left, 0);
}

#[test]
fn what_cannot_run_says_so_and_is_no_failure() {
    let outcome = run(on_disk(&PathBuf::from("/nowhere"), 1, None));
    assert!(
        matches!(&outcome.ended, Ended::CouldNotRun(why) if why.contains("/nowhere")),
        "{outcome:?}"
    );
    let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
    let outcome = run(ask(nobody, Key::fresh(&SystemEntropy), 1));
    assert!(
        matches!(outcome.ended, Ended::CouldNotRun(_)),
        "{outcome:?}"
    );
    assert_eq!(outcome.wrong, []);
}

#[test]
fn every_kernel_stops_within_ten_seconds_when_told() {
    let directory = disk();
    let (listener, address, key) = listen();
    for kernel in [
        compute(600),
        Kernel::Stream(Stream {
            seconds: 600,
            array_bytes: Some(128 << 20),
        }),
        Kernel::Pattern(Pattern {
            seconds: 600,
            bytes: 256 << 20,
        }),
        Kernel::Links(Links { seconds: 600 }),
        on_disk(directory.path(), 600, None),
        ask(address, key, 600),
    ] {
        let running = start(kernel.clone());
        let mut outcome = Outcome::default();
        // Something was said, so it is under way.
        match running.next(PATIENCE) {
            Heard::Event(event) => outcome.take(event),
            // A stream says nothing before its end.
            Heard::Nothing => {}
            Heard::Closed => panic!("{kernel:?} ended at once"),
        }
        if matches!(outcome.ended, Ended::CouldNotRun(_)) {
            println!("SKIPPED: {kernel:?}: {:?}", outcome.ended);
            continue;
        }
        let told = SystemClock.monotonic();
        running.finish(&SystemClock, &mut outcome, || true);
        let taken = SystemClock.monotonic().saturating_sub(told);
        assert!(taken < STOP_WITHIN, "{kernel:?} took {taken:?}");
        assert!(
            matches!(outcome.ended, Ended::Incomplete(_) | Ended::CouldNotRun(_)),
            "{kernel:?}: {:?}",
            outcome.ended
        );
    }
    let mut outcome = Outcome::default();
    listener.finish(&SystemClock, &mut outcome, || true);
}

#[test]
fn a_kernel_whose_parent_is_gone_ends_by_itself() {
    let running = start(compute(600));
    assert!(matches!(running.next(PATIENCE), Heard::Event(_)));
    let child = running.id();
    drop(running);
    let process = PathBuf::from(format!("/proc/{child}"));
    let begun = SystemClock.monotonic();
    while process.exists() {
        let state = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        if state.contains(") Z ") {
            break;
        }
        assert!(SystemClock.monotonic().saturating_sub(begun) < STOP_WITHIN);
        std::thread::yield_now();
    }
}

#[test]
fn a_kernel_that_somebody_stopped_is_killed_after_its_limit_and_said_to_be_stopped() {
    let order = Order {
        kernel: compute(600),
        limit_seconds: 1,
    };
    let running = launcher().start(&order).expect("the example starts");
    assert!(matches!(running.next(PATIENCE), Heard::Event(_)));
    let child = running.id();
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process"), Signal::STOP).expect("it is ours");
    let mut outcome = Outcome::default();
    running.finish(&SystemClock, &mut outcome, || false);
    let why = "killed: somebody had stopped it".to_owned();
    assert_eq!(outcome.ended, Ended::Incomplete(why));
}

#[test]
fn a_program_that_is_no_kernel_is_incomplete_and_its_complaint_is_kept() {
    let launcher = Launcher {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), "echo cannot >&2; kill -SEGV $$".into()],
    };
    let order = Order {
        kernel: compute(1),
        limit_seconds: 10,
    };
    let mut outcome = Outcome::default();
    launcher
        .start(&order)
        .expect("sh starts")
        .finish(&SystemClock, &mut outcome, || false);
    assert!(
        matches!(&outcome.ended, Ended::Incomplete(why) if why.contains("signal 11")),
        "{outcome:?}"
    );
}

fn listen() -> (Running, SocketAddr, Key) {
    let key = Key::fresh(&SystemEntropy);
    let running = start(Kernel::Listen(Listen {
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        key: key.clone(),
        seconds: 300,
    }));
    match running.next(PATIENCE) {
        Heard::Event(Event::Listening(address)) => (running, address, key),
        other => panic!("no address: {other:?}"),
    }
}

fn ask(address: SocketAddr, key: Key, seconds: u32) -> Kernel {
    Kernel::Ask(Ask {
        address,
        peer: "neighbour".into(),
        key,
        streams: 2,
        stream_seconds: seconds,
        datagram_seconds: seconds.min(1),
        datagrams_per_second: 500,
    })
}

#[test]
fn two_ends_with_one_key_measure_both_directions() {
    let (listener, address, key) = listen();
    let outcome = run(ask(address, key, 1));
    assert_eq!(outcome.ended, Ended::Complete, "{outcome:?}");
    assert!(has(&outcome, Metric::NetworkSend) && has(&outcome, Metric::NetworkReceive));
    let lost = outcome
        .samples
        .iter()
        .find(|sample| sample.metric == Metric::LossOut)
        .expect("losses are said, also when there are none");
    assert_eq!(lost.part, Part::Peer("neighbour".into()));
    assert!((0.0..0.5).contains(&lost.value), "{lost:?}");
    assert!(outcome.distributions[0].2.count() > 0);
    let mut outcome = Outcome::default();
    listener.finish(&SystemClock, &mut outcome, || true);
}

#[test]
fn a_listener_that_somebody_stopped_is_told_from_a_network_that_is_silent() {
    let (listener, address, key) = listen();
    let pid = i32::try_from(listener.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process"), Signal::STOP).expect("it is ours");
    let outcome = run(ask(address, key, 1));
    assert!(
        matches!(&outcome.ended, Ended::Incomplete(why) if why.contains("its machine answers")),
        "{outcome:?}"
    );
}

#[test]
fn without_the_key_nothing_is_served() {
    let (listener, address, _) = listen();
    let outcome = run(ask(address, Key::fresh(&SystemEntropy), 1));
    assert!(
        matches!(outcome.ended, Ended::CouldNotRun(_)),
        "{outcome:?}"
    );
    assert!(!has(&outcome, Metric::NetworkSend));
    let mut said = Outcome::default();
    listener.finish(&SystemClock, &mut said, || true);
    assert!(
        said.remarks.iter().any(|remark| remark.contains("key")),
        "{said:?}"
    );
}
