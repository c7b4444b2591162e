//! Kernels on NVIDIA devices: real ones where they are (each test says that it was skipped where not), and a double of their driver
//! (`tests/double/cuda.c`) for orders and sizes, and for the faults that a sound device does not show.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use supernode_probe::stress::child::{Launcher, Outcome};
use supernode_probe::stress::kernel::{Kernel, Order};
use supernode_probe::stress::nvidia::{Devices, Fitted, Precision, Work};
use supernode_probe::stress::passive::Change;
use supernode_probe::stress::sample::{Ended, Metric, Part};
use supernode_types::time::SystemClock;

/// What is measured by what.
const WORKS: [(Work, &[Metric]); 7] = [
    (Work::Compute(Precision::F32), &[Metric::DeviceGemmF32]),
    (Work::Compute(Precision::Tf32), &[Metric::DeviceGemmTf32]),
    (Work::Compute(Precision::Bf16), &[Metric::DeviceGemmBf16]),
    (Work::Compute(Precision::F16), &[Metric::DeviceGemmF16]),
    (Work::Copy, &[Metric::DeviceMemoryBandwidth]),
    (Work::Pattern, &[Metric::PatternBandwidth]),
    (
        Work::HostLinks,
        &[Metric::HostToDeviceBandwidth, Metric::DeviceToHostBandwidth],
    ),
];

/// The program of a kernel, as `cargo` built it.
pub(crate) fn kernel_program() -> PathBuf {
    let test = std::env::current_exe().expect("it runs");
    let target = test.ancestors().nth(2).expect("two folders above");
    target.join("examples/stress_kernel")
}

/// Runs a kernel as a child, as the agent does.
fn outcome(launcher: &Launcher, work: Work, fitted: Fitted) -> Outcome {
    let devices = Devices {
        work,
        seconds: 1,
        fitted,
    };
    let order = Order {
        kernel: Kernel::Nvidia(devices),
        limit_seconds: 120,
    };
    let mut outcome = Outcome::default();
    let running = launcher.start(&order).expect("the program is there");
    running.finish(&SystemClock, &mut outcome, || false);
    eprintln!("{work:?}: {:.1} s, {:?}", outcome.seconds, outcome.remarks);
    outcome
}

/// The same on the devices of this machine, if it has any.
fn real(work: Work, change: impl FnOnce(&mut Fitted)) -> Option<Outcome> {
    let mut fitted = Fitted::of(Path::new("/"));
    if fitted.addresses.is_empty() {
        eprintln!("skipped, no NVIDIA device with its driver is here");
        return None;
    }
    change(&mut fitted);
    let launcher = Launcher {
        program: kernel_program(),
        arguments: Vec::new(),
    };
    Some(outcome(&launcher, work, fitted))
}

/// The same on the two devices of the double, one thing of which is broken.
fn double(work: Work, fault: &str) -> Outcome {
    static LIBRARIES: OnceLock<tempfile::TempDir> = OnceLock::new();
    let libraries = LIBRARIES.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/double/cuda.c");
        let driver = folder.path().join("libcuda.so.1");
        let compiled = Command::new("cc")
            .args(["-O3", "-shared", "-fPIC", "-Wall", "-Werror", "-o"])
            .args([&driver, &source])
            .status();
        assert!(compiled.expect("a C compiler").success());
        // One library under both names, so that both know the same devices.
        std::os::unix::fs::symlink(&driver, folder.path().join("libcublas.so.12")).expect("a link");
        folder
    });
    let launcher = Launcher {
        program: "/usr/bin/env".into(),
        arguments: vec![
            format!("LD_LIBRARY_PATH={}", libraries.path().display()),
            format!("DOUBLE_FAULT={fault}"),
            kernel_program().display().to_string(),
        ],
    };
    let fitted = Fitted {
        driver: "550.1".into(),
        addresses: vec!["0000:1a:00.0".into(), "0000:1b:00.0".into()],
    };
    outcome(&launcher, work, fitted)
}

fn samples(outcome: &Outcome, metric: Metric, part: &Part) -> usize {
    let wanted = outcome
        .samples
        .iter()
        .filter(|sample| sample.metric == metric);
    wanted
        .filter(|sample| sample.part == *part && sample.value > 0.0)
        .count()
}

/// The one part that was wrong.
fn wrong(outcome: &Outcome) -> (&Part, &str, &str) {
    assert_eq!(outcome.ended, Ended::Complete);
    let [wrong] = outcome.wrong.as_slice() else {
        panic!("{:?}", outcome.wrong);
    };
    (&wrong.part, &wrong.what, &wrong.got)
}

#[test]
fn every_test_of_real_devices_measures_and_a_sound_device_is_never_wrong() {
    for (work, metrics) in WORKS {
        let Some(outcome) = real(work, |_| {}) else {
            return;
        };
        assert_eq!(outcome.ended, Ended::Complete, "{work:?}");
        assert_eq!(outcome.wrong, [], "{work:?}");
        for metric in metrics {
            assert!(
                samples(&outcome, *metric, &Part::Device(0)) > 0,
                "{metric:?}"
            );
        }
        // NVML, before, during and after.
        assert!(
            samples(&outcome, Metric::Power, &Part::Device(0)) > 1,
            "{work:?}"
        );
        assert!(outcome.moments.len() > 1);
        let grown = Change::over(&outcome.moments).grown;
        assert_eq!(grown.get("device/0/ecc_uncorrected"), None);
    }
}

#[test]
fn a_real_device_that_the_driver_does_not_list_is_wrong() {
    let added = "0000:fe:1f.0";
    let Some(outcome) = real(Work::Copy, |fitted| fitted.addresses.push(added.into())) else {
        return;
    };
    let fitted = Fitted::of(Path::new("/")).addresses.len();
    let (part, what, _) = wrong(&outcome);
    assert_eq!(*part, Part::Device(u32::try_from(fitted).expect("a few")));
    assert!(what.contains(added));
}

#[test]
fn the_double_is_measured_in_every_way_and_is_right() {
    for (work, metrics) in WORKS {
        let outcome = double(work, "none");
        assert_eq!(
            outcome.ended,
            Ended::Complete,
            "{work:?}: {:?}",
            outcome.remarks
        );
        assert_eq!(outcome.wrong, [], "{work:?}");
        for metric in metrics {
            for device in 0..2 {
                assert!(
                    samples(&outcome, *metric, &Part::Device(device)) > 0,
                    "{metric:?}"
                );
            }
        }
    }
    let outcome = double(Work::PeerLinks, "none");
    assert_eq!(
        (outcome.wrong.as_slice(), &outcome.ended),
        ([].as_slice(), &Ended::Complete)
    );
    for part in [Part::DevicePair(0, 1), Part::DevicePair(1, 0)] {
        assert!(samples(&outcome, Metric::CopyBandwidth, &part) > 0);
        assert_eq!(samples(&outcome, Metric::CopyLatency, &part), 50);
    }
}

#[test]
fn a_wrong_product_is_found_at_once_and_later() {
    let outcome = double(Work::Compute(Precision::Bf16), "product");
    let (part, what, _) = wrong(&outcome);
    assert_eq!(
        (part, what),
        (
            &Part::Device(0),
            "row 7 of a product in bf16, times a random vector"
        )
    );
    assert!(samples(&outcome, Metric::DeviceGemmBf16, &Part::Device(1)) > 0);

    let outcome = double(Work::Compute(Precision::F16), "products");
    let (part, what, _) = wrong(&outcome);
    assert_eq!(
        (part, what),
        (&Part::Device(1), "digest of product 1 in fp16")
    );
}

#[test]
fn a_bit_that_does_not_stay_and_a_byte_that_does_not_arrive_are_found() {
    let outcome = double(Work::Pattern, "memory");
    let (part, what, _) = wrong(&outcome);
    assert_eq!(*part, Part::Device(1));
    assert!(what.starts_with("word 77 "), "{what}");

    let outcome = double(Work::HostLinks, "link");
    let parts: Vec<&Part> = outcome.wrong.iter().map(|wrong| &wrong.part).collect();
    assert_eq!(parts, [&Part::Device(0), &Part::Device(1)]);
    assert!(outcome.wrong[0].what.ends_with("copied from the device"));

    let outcome = double(Work::PeerLinks, "peer");
    assert_eq!(*wrong(&outcome).0, Part::DevicePair(0, 1));
}

#[test]
fn a_device_that_breaks_is_wrong_and_the_other_still_counts() {
    let outcome = double(Work::Copy, "ecc");
    let (part, _, got) = wrong(&outcome);
    assert_eq!(*part, Part::Device(1));
    assert_eq!(
        got,
        "CUDA_ERROR_ECC_UNCORRECTABLE (214): uncorrectable ECC error encountered"
    );
    assert!(samples(&outcome, Metric::DeviceMemoryBandwidth, &Part::Device(0)) > 0);
}

#[test]
fn what_cannot_be_begun_could_not_run_and_says_why() {
    let outcome = double(Work::Copy, "busy");
    let Ended::CouldNotRun(why) = &outcome.ended else {
        panic!("{:?}", outcome.ended);
    };
    assert!(why.contains("CUDA_ERROR_DEVICE_UNAVAILABLE (46)"), "{why}");
    assert_eq!(outcome.wrong, []);

    let outcome = double(Work::Compute(Precision::Tf32), "old");
    assert_eq!(outcome.ended, Ended::Complete);
    assert!(outcome.remarks.contains(&"device 1 has no tf32".to_owned()));
}
