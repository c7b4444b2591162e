//! Tools of vendors as kernels of a test: programs that print what the documents and samples of the real ones print.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use supernode_probe::stress::child::{Launcher, Outcome};
use supernode_probe::stress::kernel::{Kernel, Order};
use supernode_probe::stress::sample::{Ended, Metric, Part};
use supernode_probe::stress::vendor::{VendorTest, VendorWork};
use supernode_types::Clock as _;
use supernode_types::time::SystemClock;

use crate::nvidia_devices::kernel_program;

/// Answers for each device, as `ascend-dmi` and `npu-smi` give them; device 1 has a fault.
const ASCEND_DMI: &str = r#"#!/bin/sh
case "$*" in
  "-f -t fp16 -d 0 "*) echo '{"computing_power":{"device_id":"0","duration":"1703 ms","power":"432.413 W","tflops_fp16":730.5}}' ;;
  "-f -t fp16 -d 1 "*) echo '{"error":{"code":2,"description":"internal error"}}' ;;
  "--dg "*) printf 'Hardware:\n    driver:\n        HEALTH\n    hbm:\n        EMERGENCY_WARN\n    signalQuality:\n        MAYBE\n' ;;
  "--bw -t p2p "*) printf 'Unidirectional Peer to Peer Test\n       0       1\n0      0       391.2\n1      390.8   0\n' ;;
  "--bw -t d2d "*) sleep 60 ;;
  "--bw "*) printf 'ID  Size(Bytes)  Execute Times  Bandwidth(GB/s)  Elapsed Time(us)\n0   536870912    50             58.125           461900\n' ;;
esac
"#;
const NPU_SMI: &str = r#"#!/bin/sh
case "$*" in
  "info -t health -i 0") printf '\tHealth Status                  : OK\n\tError Code                     : NA\n' ;;
  "info -t health -i 1") printf '\tHealth Status                  : Alarm\n\tError Code                     : 0x80E18402\n' ;;
  *) printf '\tHBM Double Bit Aggregate Total Err Cnt   : 0\n' ;;
esac
"#;

/// Runs the kernel where these tools are installed; `told` says when it is told to stop.
fn outcome(tools: &[(&str, &str)], work: VendorWork, told: impl FnMut() -> bool) -> Outcome {
    let folder = tempfile::tempdir().expect("a directory");
    for (name, script) in tools {
        let path = folder.path().join(name);
        std::fs::write(&path, script).expect("own directory");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, executable).expect("own file");
    }
    let launcher = Launcher {
        program: "/usr/bin/env".into(),
        arguments: vec![
            format!("PATH={}", folder.path().display()),
            kernel_program().display().to_string(),
        ],
    };
    let devices = vec![0, 1];
    let order = Order {
        kernel: Kernel::Vendor(VendorTest { work, devices }),
        limit_seconds: 120,
    };
    let mut outcome = Outcome::default();
    let running = launcher.start(&order).expect("the program is there");
    running.finish(&SystemClock, &mut outcome, told);
    outcome
}

fn both(work: VendorWork) -> Outcome {
    let tools = [("ascend-dmi", ASCEND_DMI), ("npu-smi", NPU_SMI)];
    outcome(&tools, work, || false)
}

fn could_not_run(outcome: &Outcome) -> &str {
    match &outcome.ended {
        Ended::CouldNotRun(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_that_its_tool_calls_sick_is_wrong() {
    let outcome = both(VendorWork::AscendHealth);
    assert_eq!(outcome.ended, Ended::Complete, "{outcome:?}");
    let [code, wrong] = outcome.wrong.as_slice() else {
        panic!("{:?}", outcome.wrong);
    };
    assert_eq!(
        (&wrong.part, wrong.what.as_str()),
        (&Part::Device(1), "npu-smi: Health Status")
    );
    assert_eq!(code.part, Part::Device(1));
    assert!(code.got.contains("0x80E18402"), "{}", code.got);
}

#[test]
fn numbers_of_tools_are_samples_and_an_error_is_no_number() {
    let outcome = both(VendorWork::AscendComputing);
    let found: Vec<(Metric, &Part)> = outcome
        .samples
        .iter()
        .map(|sample| (sample.metric, &sample.part))
        .collect();
    assert_eq!(
        found,
        [
            (Metric::DeviceGemmF16, &Part::Device(0)),
            (Metric::Power, &Part::Device(0))
        ]
    );
    let why = could_not_run(&outcome);
    assert!(
        why.contains("-d 1 ") && why.ends_with("internal error"),
        "{why}"
    );

    let outcome = both(VendorWork::AscendLinks);
    assert_eq!(outcome.ended, Ended::Complete, "{outcome:?}");
    let pairs = outcome
        .samples
        .iter()
        .filter(|sample| sample.metric == Metric::CopyBandwidth);
    let pairs: Vec<&Part> = pairs.map(|sample| &sample.part).collect();
    assert_eq!(pairs, [&Part::DevicePair(0, 1), &Part::DevicePair(1, 0)]);
}

#[test]
fn an_unknown_word_is_no_pass_and_a_failure_counts_beside_it() {
    let outcome = both(VendorWork::AscendDiagnosis);
    assert_eq!(outcome.wrong.len(), 1, "{:?}", outcome.wrong);
    assert_eq!(
        (&outcome.wrong[0].part, outcome.wrong[0].what.as_str()),
        (&Part::Host, "ascend-dmi: hbm")
    );
    assert!(could_not_run(&outcome).contains("`MAYBE`"));
}

#[test]
fn a_tool_that_is_not_installed_could_not_run() {
    let outcome = outcome(&[], VendorWork::AscendMemory, || false);
    assert_eq!(
        could_not_run(&outcome),
        "ascend-dmi is not installed; install the vendor's toolbox"
    );
}

#[test]
fn a_tool_that_hangs_ends_with_its_kernel() {
    let begun = SystemClock.monotonic();
    let since = || SystemClock.monotonic().saturating_sub(begun);
    let told = || since() > Duration::from_millis(300);
    let outcome = outcome(
        &[("ascend-dmi", ASCEND_DMI)],
        VendorWork::AscendMemory,
        told,
    );
    assert!(
        matches!(outcome.ended, Ended::Incomplete(_)),
        "{:?}",
        outcome.ended
    );
    assert!(since() < Duration::from_secs(10));
    // Nothing of it is left: neither the tool nor what it started.
    let mine = |pid: &Path| {
        let line = std::fs::read(pid.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("--bw\0-t\0d2d")
    };
    let left = std::fs::read_dir("/proc").expect("this is Linux").flatten();
    assert!(!left.map(|entry| entry.path()).any(|pid| mine(&pid)));
}
