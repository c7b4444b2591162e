//! Kernels on real NVIDIA devices. Where none can be used, each test says that it was skipped.

use std::path::{Path, PathBuf};

use supernode_probe::stress::child::{Launcher, Outcome};
use supernode_probe::stress::kernel::{Kernel, Order};
use supernode_probe::stress::nvidia::{Devices, Fitted, Precision, Work};
use supernode_probe::stress::passive::Change;
use supernode_probe::stress::sample::{Ended, Metric, Part};
use supernode_types::time::SystemClock;

/// Runs a kernel as a child, as the agent does; nothing where no device is fitted.
fn outcome(work: Work, change: impl FnOnce(&mut Fitted)) -> Option<Outcome> {
    let mut fitted = Fitted::of(Path::new("/"));
    if fitted.addresses.is_empty() {
        eprintln!("skipped, no NVIDIA device with its driver is here");
        return None;
    }
    change(&mut fitted);
    let mut program = PathBuf::from(std::env::current_exe().expect("it runs"));
    program.pop();
    program.pop();
    let launcher = Launcher {
        program: program.join("examples/stress_kernel"),
        arguments: Vec::new(),
    };
    let order = Order {
        kernel: Kernel::Nvidia(Devices {
            work,
            seconds: 1,
            fitted,
        }),
        limit_seconds: 120,
    };
    let mut outcome = Outcome::default();
    let running = launcher.start(&order).expect("the program is there");
    running.finish(&SystemClock, &mut outcome, || false);
    eprintln!(
        "{work:?}: {:.1} s, remarks {:?}",
        outcome.seconds, outcome.remarks
    );
    Some(outcome)
}

fn samples(outcome: &Outcome, metric: Metric) -> usize {
    let wanted = outcome
        .samples
        .iter()
        .filter(|sample| sample.metric == metric);
    wanted.filter(|sample| sample.value > 0.0).count()
}

#[test]
fn every_test_of_devices_measures_and_a_sound_device_is_never_wrong() {
    for (work, metrics) in [
        (Work::Compute(Precision::F32), vec![Metric::DeviceGemmF32]),
        (Work::Compute(Precision::Tf32), vec![Metric::DeviceGemmTf32]),
        (Work::Compute(Precision::Bf16), vec![Metric::DeviceGemmBf16]),
        (Work::Compute(Precision::F16), vec![Metric::DeviceGemmF16]),
        (Work::Copy, vec![Metric::DeviceMemoryBandwidth]),
        (Work::Pattern, vec![Metric::PatternBandwidth]),
        (
            Work::HostLinks,
            vec![Metric::HostToDeviceBandwidth, Metric::DeviceToHostBandwidth],
        ),
    ] {
        let Some(outcome) = outcome(work, |_| {}) else {
            return;
        };
        assert_eq!(outcome.ended, Ended::Complete, "{work:?}");
        assert_eq!(outcome.wrong, [], "{work:?}");
        for metric in metrics {
            assert!(samples(&outcome, metric) > 0, "{metric:?}");
        }
        // NVML, before, during and after.
        assert!(samples(&outcome, Metric::Power) > 1, "{work:?}");
        assert!(outcome.moments.len() > 1);
        let grown = Change::over(&outcome.moments).grown;
        assert_eq!(grown.get("device/0/ecc_uncorrected"), None);
    }
}

#[test]
fn a_device_that_the_driver_does_not_list_is_wrong() {
    let added = "0000:fe:1f.0";
    let place = |fitted: &mut Fitted| fitted.addresses.push(added.into());
    let Some(outcome) = outcome(Work::Copy, place) else {
        return;
    };
    assert_eq!(outcome.ended, Ended::Complete);
    let last = u32::try_from(Fitted::of(Path::new("/")).addresses.len()).expect("a few");
    assert_eq!(outcome.wrong.len(), 1, "{:?}", outcome.wrong);
    assert_eq!(outcome.wrong[0].part, Part::Device(last));
    assert!(outcome.wrong[0].what.contains(added));
    assert!(
        samples(&outcome, Metric::DeviceMemoryBandwidth) > 0,
        "of the others"
    );
}
