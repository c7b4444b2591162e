//! Tools of vendors as a kernel of a test: one command after the other, for the devices that are tested.
//!
//! What a tool calls failed is a wrong result of its part. A warning is a remark. A tool that is not there, says nothing that we
//! understand, or a word that we do not know, *could not run*: neither a pass nor a failure.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ascend_dmi::{self, Way};
use super::run::{Command, Parser, run_until};
use super::{Check, CheckState, VendorResult, VendorTool, dcgm, npu_smi};
use crate::files::Files;
use crate::stress::context::Context;
use crate::stress::sample::{Part, Refusal, Wrong};

/// What is asked of which tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VendorWork {
    /// Health and memory errors of Ascend devices, as their driver counts them.
    AscendHealth,
    /// Ascend's own diagnosis of driver, devices, memory and links; up to two minutes.
    AscendDiagnosis,
    /// Computing in half precision on Ascend devices.
    AscendComputing,
    /// Bandwidth of the memory of Ascend devices.
    AscendMemory,
    /// The ways between Ascend devices and the host, and among them (HCCS).
    AscendLinks,
    /// NVIDIA's own diagnosis of level 1 (seconds) or 2 (minutes).
    NvidiaDiagnosis(u32),
}

/// A test by tools of a vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VendorTest {
    /// What is asked.
    pub work: VendorWork,
    /// Of which devices, by the numbers that the tools use.
    pub devices: Vec<u32>,
}

impl VendorTest {
    /// How long it usually takes. The tools decide; each command has a limit of its own.
    pub fn seconds(&self) -> u32 {
        let devices = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
        match self.work {
            VendorWork::AscendHealth | VendorWork::AscendMemory => devices,
            VendorWork::AscendComputing => devices.saturating_mul(2),
            VendorWork::AscendLinks => devices.saturating_mul(3),
            VendorWork::AscendDiagnosis => 120,
            VendorWork::NvidiaDiagnosis(level @ ..=2) => 20 * level,
            VendorWork::NvidiaDiagnosis(_) => 1800,
        }
    }

    /// Its commands. The vendor wants one at a time.
    fn commands(&self) -> Vec<Command> {
        let of_each = |command: &dyn Fn(u32) -> Vec<Command>| -> Vec<Command> {
            self.devices
                .iter()
                .flat_map(|device| command(*device))
                .collect()
        };
        let bandwidth = |way, device| {
            let arguments = ascend_dmi::bandwidth(way, device);
            Command::new(
                VendorTool::AscendDmi,
                arguments,
                60,
                Parser::AscendDmi(Some(way)),
            )
        };
        let diagnosis = |arguments, seconds| {
            Command::new(
                VendorTool::AscendDmi,
                arguments,
                seconds,
                Parser::AscendDmi(None),
            )
        };
        match self.work {
            VendorWork::AscendHealth => of_each(&|device| {
                ["health", "ecc"]
                    .map(|question| {
                        let arguments = npu_smi::query(device, question);
                        Command::new(VendorTool::NpuSmi, arguments, 30, Parser::NpuSmi(device))
                    })
                    .into()
            }),
            VendorWork::AscendDiagnosis => vec![diagnosis(
                ascend_dmi::diagnosis(&[
                    "driver",
                    "cann",
                    "device",
                    "network",
                    "signalQuality",
                    "hbm",
                ]),
                300,
            )],
            VendorWork::AscendComputing => {
                of_each(&|device| vec![diagnosis(ascend_dmi::computing(device), 60)])
            }
            VendorWork::AscendMemory => of_each(&|device| vec![bandwidth(Way::OnDevice, device)]),
            VendorWork::AscendLinks => {
                let mut commands = of_each(&|device| {
                    vec![
                        bandwidth(Way::HostToDevice, device),
                        bandwidth(Way::DeviceToHost, device),
                    ]
                });
                if self.devices.len() > 1 {
                    commands.push(diagnosis(ascend_dmi::between_cards(), 300));
                }
                commands
            }
            VendorWork::NvidiaDiagnosis(level) => vec![Command::new(
                VendorTool::Dcgmi,
                dcgm::arguments(level),
                60 + u64::from(level) * 240,
                Parser::Dcgm,
            )],
        }
    }
}

/// The Ascend devices of the machine whose files are below `root`, as its driver shows them.
pub fn ascend_devices(root: &Path) -> Vec<u32> {
    let names = Files::below(root).names("dev");
    let mut devices: Vec<u32> = names
        .iter()
        .filter_map(|name| name.strip_prefix("davinci")?.parse().ok())
        .collect();
    devices.sort_unstable();
    devices
}

pub(crate) fn run(context: &Context<'_>, test: &VendorTest) -> Result<(), Refusal> {
    let mut unclear = Vec::new();
    for command in test.commands() {
        context.check()?;
        let answer = run_until(&command, &|| context.stopped());
        context.check()?;
        for (metric, part, value) in answer.samples {
            context.sample(metric, part, value);
        }
        match answer.result {
            VendorResult::NotPresent => {
                unclear.push(format!(
                    "{} is not installed; install the vendor's toolbox",
                    command.tool.program()
                ));
                // Nor will it be for the next device.
                break;
            }
            VendorResult::CouldNotRun(why) => unclear.push(format!("{}: {why}", answer.command)),
            VendorResult::Checks(checks) => {
                for check in checks {
                    unclear.extend(tell(context, command.tool, &check));
                }
            }
        }
    }
    if unclear.is_empty() {
        return Ok(());
    }
    Err(Refusal::CouldNotRun(unclear.join("; ")))
}

/// Says how a check ended; gives back what is neither good nor bad.
fn tell(context: &Context<'_>, tool: VendorTool, check: &Check) -> Option<String> {
    let what = format!("{}: {}", tool.program(), check.name);
    match &check.state {
        CheckState::Pass => None,
        CheckState::Skipped => {
            context.remark(format!("{what} was skipped"));
            None
        }
        CheckState::Warning => {
            let device = check
                .device
                .map_or(String::new(), |device| format!(" of device {device}"));
            context.remark(format!("{what}{device}: a warning: {}", check.detail));
            None
        }
        CheckState::Fail => {
            context.wrong(Wrong {
                part: check.device.map_or(Part::Host, Part::Device),
                what,
                expected: "a pass".into(),
                got: format!("a failure: {}", check.detail),
            });
            None
        }
        CheckState::Unknown(word) => {
            Some(format!("{what} is `{word}`, which is no word that we know"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_asked_and_devices_among_themselves_once() {
        let test = |work| VendorTest {
            work,
            devices: vec![0, 3],
        };
        let words = |work| -> Vec<String> {
            let commands = test(work).commands();
            commands
                .iter()
                .map(|command| command.arguments.join(" "))
                .collect()
        };
        assert_eq!(
            words(VendorWork::AscendHealth),
            [
                "info -t health -i 0",
                "info -t ecc -i 0",
                "info -t health -i 3",
                "info -t ecc -i 3"
            ]
        );
        assert_eq!(words(VendorWork::AscendLinks).len(), 5);
        assert!(words(VendorWork::AscendComputing)[1].contains("-d 3"));
        assert_eq!(words(VendorWork::NvidiaDiagnosis(2)), ["diag -r 2 -j"]);
    }

    #[test]
    fn devices_are_what_the_driver_shows() {
        let machine = tempfile::tempdir().expect("a directory");
        let folder = machine.path().join("dev");
        std::fs::create_dir(&folder).expect("own directory");
        for name in ["davinci10", "davinci2", "davinci_manager", "null"] {
            std::fs::write(folder.join(name), "").expect("own directory");
        }
        assert_eq!(ascend_devices(machine.path()), [2, 10]);
    }
}
