//! What one node tests by itself: items and tiers become kernels, and each kernel becomes a record with everything that belongs to it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use supernode_types::Clock;
pub use supernode_types::stress::{Item, Tier};

use super::child::{Launcher, Outcome};
use super::compute::{Compute, Precision};
use super::kernel::{Kernel, Order};
use super::link::Links;
use super::memory::{Pattern, Stream};
use super::nvidia::{self, Devices, Fitted};
use super::passive::{Change, counters};
use super::storage::Storage;
use super::vendor::{self, VendorTest, VendorTool, VendorWork};
use super::verdict::hard::{self, HardFailure};
use super::verdict::validity::{Validity, flow_validity, validity};

/// One kernel of a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The component that it tests.
    pub item: Item,
    /// What it does, in a few words.
    pub name: String,
    /// The kernel.
    pub kernel: Kernel,
}

/// A kernel may take so much longer than its settings say: to warm up, to verify, on a slow machine.
const SLACK_SECONDS: u32 = 120;

impl Step {
    fn new(item: Item, name: &str, kernel: Kernel) -> Self {
        Self {
            item,
            name: name.to_owned(),
            kernel,
        }
    }

    /// For how long its settings say that it runs.
    pub fn seconds(&self) -> u32 {
        match &self.kernel {
            Kernel::Compute(settings) => settings.seconds,
            Kernel::Stream(settings) => settings.seconds,
            Kernel::Pattern(settings) => settings.seconds,
            Kernel::Links(settings) => settings.seconds,
            Kernel::Nvidia(settings) => settings.seconds,
            Kernel::Vendor(test) => test.seconds(),
            Kernel::Listen(settings) => settings.seconds,
            Kernel::Ask(settings) => 2 * settings.stream_seconds + settings.datagram_seconds,
            Kernel::Storage(settings) => 4 * settings.seconds,
        }
    }
}

impl Step {
    /// The same with kernels that run for so long, for a try.
    #[must_use]
    pub fn lasting(mut self, wanted: u32) -> Self {
        match &mut self.kernel {
            Kernel::Compute(settings) => settings.seconds = wanted,
            Kernel::Stream(settings) => settings.seconds = wanted,
            Kernel::Pattern(settings) => settings.seconds = wanted,
            Kernel::Links(settings) => settings.seconds = wanted,
            Kernel::Nvidia(settings) => settings.seconds = wanted,
            // Its tools decide.
            Kernel::Vendor(_) => {}
            Kernel::Listen(settings) => settings.seconds = wanted,
            Kernel::Ask(settings) => {
                settings.stream_seconds = wanted;
                settings.datagram_seconds = wanted;
            }
            Kernel::Storage(settings) => settings.seconds = wanted,
        }
        self
    }
}

/// What of a machine is tested besides its processors and memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// Each disk, by a directory on it.
    pub directories: Vec<PathBuf>,
    /// NVIDIA devices.
    pub nvidia: Fitted,
    /// Whether NVIDIA's own diagnosis is installed.
    pub nvidia_diagnosis: bool,
    /// Ascend devices.
    pub ascend: Vec<u32>,
}

impl Parts {
    /// Those of this machine, with a directory on each disk.
    pub fn of_this_machine(directories: Vec<PathBuf>) -> Self {
        let root = Path::new("/");
        let nvidia = Fitted::of(root);
        Self {
            directories,
            nvidia_diagnosis: !nvidia.addresses.is_empty() && vendor::installed(VendorTool::Dcgmi),
            nvidia,
            ascend: vendor::ascend_devices(root),
        }
    }
}

/// The kernels of these items.
pub fn steps(items: &[Item], tier: Tier, parts: &Parts) -> Vec<Step> {
    // Quick: 76 s with one disk, half a minute more with devices. Standard: twelve times as long, for devices about nine times. Deep: two hours
    // and a bit, and as much again with devices; a disk is not worn out for it.
    let longer = match tier {
        Tier::Quick => 1,
        Tier::Standard => 12,
        Tier::Deep => 180,
    };
    let longer_on_disks = longer.min(12);
    let mut steps = Vec::new();
    for item in Item::ALL.into_iter().filter(|item| items.contains(item)) {
        match item {
            Item::Compute => {
                for (name, precision) in [
                    ("matrices of f32", Precision::F32),
                    ("matrices of f64", Precision::F64),
                ] {
                    let kernel = Kernel::Compute(Compute {
                        precision,
                        seconds: 10 * longer,
                        cores: Vec::new(),
                    });
                    steps.push(Step::new(item, name, kernel));
                }
            }
            Item::Memory => {
                let stream = Kernel::Stream(Stream {
                    seconds: 8 * longer,
                    array_bytes: None,
                });
                steps.push(Step::new(item, "STREAM triad", stream));
                let pattern = Kernel::Pattern(Pattern {
                    seconds: 8 * longer,
                    bytes: u64::from(longer) << 30,
                });
                steps.push(Step::new(item, "moving patterns", pattern));
            }
            Item::Links => {
                let links = Kernel::Links(Links {
                    seconds: 8 * longer,
                });
                steps.push(Step::new(item, "cores and NUMA nodes", links));
            }
            // Takes a partner: see `network::pair`.
            Item::Network => {}
            Item::Storage => {
                for directory in &parts.directories {
                    let kernel = Kernel::Storage(Storage {
                        directory: directory.clone(),
                        bytes: 1 << 30,
                        seconds: 8 * longer_on_disks,
                        sequential_depth: 4,
                        random_depth: 16,
                        engine: None,
                    });
                    steps.push(Step::new(
                        item,
                        &format!("disk of {}", directory.display()),
                        kernel,
                    ));
                }
            }
        }
        steps.extend(nvidia_steps(item, tier, parts));
        steps.extend(ascend_steps(item, tier, &parts.ascend));
    }
    steps
}

/// What of an item is tested on NVIDIA devices.
fn nvidia_steps(item: Item, tier: Tier, parts: &Parts) -> Vec<Step> {
    use nvidia::{Precision, Work};
    let fitted = &parts.nvidia;
    let works: &[(&str, Work, u32)] = match item {
        _ if fitted.addresses.is_empty() => &[],
        Item::Compute => &[
            ("device matrices of fp32", Work::Compute(Precision::F32), 3),
            ("device matrices of tf32", Work::Compute(Precision::Tf32), 3),
            ("device matrices of bf16", Work::Compute(Precision::Bf16), 3),
            ("device matrices of fp16", Work::Compute(Precision::F16), 3),
        ],
        Item::Memory => &[
            ("device copies", Work::Copy, 3),
            ("device moving patterns", Work::Pattern, 5),
        ],
        Item::Links if fitted.addresses.len() > 1 => &[
            ("devices and host", Work::HostLinks, 3),
            ("devices among themselves", Work::PeerLinks, 3),
        ],
        Item::Links => &[("devices and host", Work::HostLinks, 3)],
        Item::Network | Item::Storage => &[],
    };
    let longer = match tier {
        Tier::Quick => 1,
        Tier::Standard => 9,
        Tier::Deep => 180,
    };
    let step = |(name, work, seconds): &(&str, Work, u32)| {
        let devices = Devices {
            work: *work,
            seconds: seconds * longer,
            fitted: fitted.clone(),
        };
        Step::new(item, name, Kernel::Nvidia(devices))
    };
    let diagnosis = (parts.nvidia_diagnosis && item == Item::Compute).then(|| {
        let level = match tier {
            Tier::Quick => 1,
            Tier::Standard => 2,
            Tier::Deep => 3,
        };
        let devices = Vec::new();
        let work = VendorWork::NvidiaDiagnosis(level);
        Step::new(
            item,
            "diagnosis of NVIDIA",
            Kernel::Vendor(VendorTest { work, devices }),
        )
    });
    diagnosis
        .into_iter()
        .chain(works.iter().map(step))
        .collect()
}

/// What of an item is tested on Ascend devices, by the vendor's tools. A quick test leaves out what takes minutes.
fn ascend_steps(item: Item, tier: Tier, devices: &[u32]) -> Vec<Step> {
    let works: &[(&str, VendorWork, Tier)] = match item {
        _ if devices.is_empty() => &[],
        Item::Compute => &[
            (
                "health of Ascend devices",
                VendorWork::AscendHealth,
                Tier::Quick,
            ),
            (
                "diagnosis of Ascend",
                VendorWork::AscendDiagnosis,
                Tier::Standard,
            ),
            (
                "device matrices of fp16",
                VendorWork::AscendComputing,
                Tier::Quick,
            ),
        ],
        Item::Memory => &[("device copies", VendorWork::AscendMemory, Tier::Quick)],
        Item::Links => &[(
            "devices, host and HCCS",
            VendorWork::AscendLinks,
            Tier::Standard,
        )],
        Item::Network | Item::Storage => &[],
    };
    let wanted = works
        .iter()
        .filter(|(_, _, least)| tier != Tier::Quick || *least == Tier::Quick);
    wanted
        .map(|(name, work, _)| {
            let devices = devices.to_vec();
            Step::new(
                item,
                name,
                Kernel::Vendor(VendorTest {
                    work: *work,
                    devices,
                }),
            )
        })
        .collect()
}

/// Everything that belongs to one kernel's run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was run.
    pub step: Step,
    /// What it said.
    pub outcome: Outcome,
    /// What the machine said meanwhile.
    pub change: Change,
    /// Whether the samples may be judged.
    pub validity: Validity,
    /// What is plainly wrong, whatever the samples are worth.
    pub failures: Vec<HardFailure>,
}

/// Runs one kernel as a child, and reads the machine's counters before, every second during, and after it. `root` is where the
/// machine's files are; `told` (to stop) is asked several times a second.
pub fn run(
    launcher: &Launcher,
    step: Step,
    root: &Path,
    clock: &dyn Clock,
    mut told: impl FnMut() -> bool,
) -> Record {
    let order = Order {
        limit_seconds: step.seconds().saturating_add(SLACK_SECONDS),
        kernel: step.kernel.clone(),
    };
    let mut moments = vec![counters(root)];
    let mut outcome = Outcome::default();
    match launcher.start(&order) {
        Ok(running) => {
            // Asked ten times a second, so every tenth time is about a second.
            let mut asked = 0_u32;
            running.finish(clock, &mut outcome, || {
                asked += 1;
                if asked.is_multiple_of(10) {
                    moments.push(counters(root));
                }
                told()
            });
        }
        Err(error) => {
            outcome = Outcome::could_not_run(format!(
                "{} cannot be started: {error}",
                launcher.program.display()
            ));
        }
    }
    moments.push(counters(root));
    let change = Change::over(&moments).and(Change::over(&outcome.moments));
    Record {
        validity: match step.item {
            Item::Network | Item::Storage => flow_validity(&outcome, &change),
            _ => validity(&outcome, &change),
        },
        failures: hard::failures(&outcome, &change, &[]),
        step,
        outcome,
        change,
    }
}

#[cfg(test)]
mod tests {
    use supernode_types::time::SystemClock;

    use super::*;

    #[test]
    fn a_quick_test_is_quick_a_standard_one_takes_less_than_twenty_minutes_and_a_deep_one_hours() {
        let limits = [
            (Tier::Quick, 60..120),
            (Tier::Standard, 600..1200),
            (Tier::Deep, 2 * 3600..5 * 3600),
        ];
        for (tier, limits) in limits {
            for devices in [0, 8] {
                let addresses = (0..devices).map(|bus| format!("0000:{bus:02x}:00.0"));
                let parts = Parts {
                    directories: vec!["/var/tmp".into()],
                    nvidia: Fitted {
                        driver: "580.1".into(),
                        addresses: addresses.collect(),
                    },
                    ..Parts::default()
                };
                let steps = steps(&Item::ALL, tier, &parts);
                let seconds: u32 = steps.iter().map(Step::seconds).sum();
                assert!(limits.contains(&seconds), "{tier:?}: {seconds}");
                assert_eq!(steps.len(), if devices == 0 { 6 } else { 14 });
            }
            let parts = Parts {
                directories: vec!["/var/tmp".into()],
                ascend: (0..8).collect(),
                ..Parts::default()
            };
            let seconds: u32 = steps(&Item::ALL, tier, &parts)
                .iter()
                .map(Step::seconds)
                .sum();
            assert!(limits.contains(&seconds), "{tier:?}: {seconds}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_tested() {
        let steps = steps(
            &[Item::Storage, Item::Compute],
            Tier::Quick,
            &Parts {
                directories: vec!["/a".into(), "/b".into()],
                ..Parts::default()
            },
        );
        let items: Vec<Item> = steps.iter().map(|step| step.item).collect();
        assert_eq!(
            items,
            [Item::Compute, Item::Compute, Item::Storage, Item::Storage]
        );
        assert!("storage".parse::<Item>().is_ok());
        assert!(
            "disk"
                .parse::<Item>()
                .is_err_and(|why| why.contains("storage"))
        );
    }

    #[test]
    fn a_program_that_is_not_there_could_not_run() {
        let launcher = Launcher {
            program: "/nowhere/kernel".into(),
            arguments: Vec::new(),
        };
        let step = steps(&[Item::Links], Tier::Quick, &Parts::default()).remove(0);
        let record = run(&launcher, step, Path::new("/"), &SystemClock, || false);
        assert!(matches!(record.validity, Validity::CouldNotRun(_)));
        assert_eq!(record.failures, []);
    }
}
