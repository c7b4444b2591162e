//! What the driver says of the devices while they are tested: heat, power and clocks as samples, errors as counters, and the lines of the
//! kernel log that begin with `NVRM: Xid`.
//!
//! NVML is loaded here, in the process of the kernel, so that a driver that hangs takes nothing else with it. Without it a test runs all the
//! same, and says so.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enum_wrappers::nv_link::ErrorCounter;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{
    NVML_FI_DEV_REMAPPED_COR, NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_UNC,
};
use nvml_wrapper::{Device, Nvml};

use crate::ascend::normalise_bus_address;
use crate::stress::context::Context;
use crate::stress::fault::{Catalogue, Severity, Xid, meaning, xid};
use crate::stress::passive::Counters;
use crate::stress::sample::{Event, Metric, Part, Wrong};

/// How often the driver is asked.
const PERIOD: Duration = Duration::from_secs(1);
/// How often the end of the test is looked for.
const TICK: Duration = Duration::from_millis(50);
/// Links that a device may have.
const MOST_LINKS: u32 = 18;
/// Lines of the kernel log that are looked at.
const MOST_LINES: usize = 10_000;

/// Watches these devices until it is over.
pub(super) fn run(context: &Context<'_>, addresses: &[String], over: &AtomicBool) {
    let log = KernelLog::from_now();
    match crate::nvidia::open_nvml() {
        Ok(nvml) => watch(context, &nvml, addresses, over),
        Err(why) => context.remark(format!("the devices were not watched: {why}")),
    }
    for line in log.map(KernelLog::lines).unwrap_or_default() {
        if let Some(found) = xid(&line) {
            tell(context, addresses, &found);
        }
    }
}

fn watch(context: &Context<'_>, nvml: &Nvml, addresses: &[String], over: &AtomicBool) {
    let mut slowed = BTreeMap::new();
    let mut asked = context.moment();
    loop {
        let ends = over.load(Ordering::Relaxed);
        let mut counters = Counters::default();
        for (index, address) in (0..).zip(addresses) {
            if let Ok(device) = nvml.device_by_pci_bus_id(address.as_str()) {
                let part = Part::Device(index);
                for (metric, value) in readings(&device) {
                    context.sample(metric, part.clone(), value);
                }
                errors(&device, index, &mut counters);
                slow(&device, index, &mut slowed);
            }
        }
        counters.counters.extend(slowed.clone());
        context.say(Event::Counters(counters));
        if ends {
            return;
        }
        while context.moment().saturating_sub(asked) < PERIOD && !over.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
        }
        asked = context.moment();
    }
}

fn readings(device: &Device<'_>) -> Vec<(Metric, f64)> {
    let all = [
        (
            Metric::Power,
            device
                .power_usage()
                .ok()
                .map(|milliwatts| f64::from(milliwatts) / 1e3),
        ),
        (
            Metric::Temperature,
            device
                .temperature(TemperatureSensor::Gpu)
                .ok()
                .map(f64::from),
        ),
        (
            Metric::DeviceClock,
            device.clock_info(Clock::SM).ok().map(f64::from),
        ),
    ];
    all.into_iter()
        .filter_map(|(metric, value)| Some((metric, value?)))
        .collect()
}

fn errors(device: &Device<'_>, index: u32, counters: &mut Counters) {
    let mut count = |name: String, value: Option<u64>| {
        if let Some(value) = value {
            counters
                .counters
                .insert(format!("device/{index}/{name}"), value);
        }
    };
    for (name, kind) in [
        ("ecc_corrected", MemoryError::Corrected),
        ("ecc_uncorrected", MemoryError::Uncorrected),
    ] {
        count(
            name.into(),
            device.total_ecc_errors(kind, EccCounter::Volatile).ok(),
        );
    }
    let fields = [
        ("rows_remapped_corrected", NVML_FI_DEV_REMAPPED_COR),
        ("rows_remapped_uncorrected", NVML_FI_DEV_REMAPPED_UNC),
        ("rows_not_remapped", NVML_FI_DEV_REMAPPED_FAILURE),
    ];
    let values = device
        .field_values_for(&fields.map(|(_, id)| FieldId(id)))
        .unwrap_or_default();
    for ((name, _), value) in fields.iter().zip(values) {
        let value = value.and_then(|field| field.value).ok();
        count((*name).into(), value.as_ref().and_then(whole));
    }
    count(
        "pcie_replays".into(),
        device.pcie_replay_counter().ok().map(u64::from),
    );
    for number in 0..MOST_LINKS {
        let link = device.link_wrapper_for(number);
        if !link.is_active().unwrap_or(false) {
            continue;
        }
        for (name, kind) in [
            ("replays", ErrorCounter::DlReplay),
            ("recoveries", ErrorCounter::DlRecovery),
            ("crc_errors", ErrorCounter::DlCrcFlit),
        ] {
            count(
                format!("nvlink/{number}/{name}"),
                link.error_counter(kind).ok(),
            );
        }
    }
    if let Ok(processes) = device.running_compute_processes_count() {
        counters
            .readings
            .insert(format!("device/{index}/processes"), f64::from(processes));
    }
}

fn whole(value: &SampleValue) -> Option<u64> {
    match *value {
        SampleValue::U32(value) => Some(u64::from(value)),
        SampleValue::U64(value) => Some(value),
        SampleValue::I64(value) => u64::try_from(value).ok(),
        SampleValue::F64(_) => None,
    }
}

/// Counts how often a device was seen held back, by what. Its power limit is no such thing: it is what it was bought with.
fn slow(device: &Device<'_>, index: u32, seen: &mut BTreeMap<String, u64>) {
    let heat = ThrottleReasons::HW_THERMAL_SLOWDOWN | ThrottleReasons::SW_THERMAL_SLOWDOWN;
    let reasons = device
        .current_throttle_reasons()
        .unwrap_or(ThrottleReasons::empty());
    for (name, which) in [
        ("heat", heat),
        ("power_brake", ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN),
    ] {
        let count = seen
            .entry(format!("device/{index}/slowed_by_{name}"))
            .or_default();
        *count += u64::from(reasons.intersects(which));
    }
}

/// Says what a line of the kernel log says: a fault of the device, or a program's own affair.
fn tell(context: &Context<'_>, addresses: &[String], found: &Xid) {
    let address = normalise_bus_address(&found.address);
    let index = addresses
        .iter()
        .position(|known| Some(known) == address.as_ref());
    let Some(index) = index.and_then(|index| u32::try_from(index).ok()) else {
        return;
    };
    let meaning = meaning(Catalogue::Xid, &found.code.to_string());
    if meaning.severity < Severity::Subhealth {
        context.remark(format!(
            "device {index}: XID {}: {}",
            found.code, meaning.text
        ));
        return;
    }
    context.wrong(Wrong {
        part: Part::Device(index),
        what: "the kernel log".into(),
        expected: "nothing".into(),
        got: format!("XID {} ({}): {}", found.code, meaning.text, found.text),
    });
}

/// The kernel's log, from when it was opened.
struct KernelLog(std::fs::File);

impl KernelLog {
    /// Nothing where it must not be read.
    fn from_now() -> Option<Self> {
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open("/dev/kmsg")
            .ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(Self(file))
    }

    /// Each read gives one record.
    fn lines(mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        while lines.len() < MOST_LINES {
            match self.0.read(&mut record) {
                Ok(0) => break,
                Ok(bytes) => lines.push(String::from_utf8_lossy(&record[..bytes]).into_owned()),
                // Lines were overwritten before they were read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(_) => break,
            }
        }
        lines
    }
}
