//! NVIDIA devices: matrix products that must be right, memory that must keep what was written, and the links to the host and between
//! devices. All through the driver and cuBLAS, loaded when a test wants them; nothing of the vendor is needed to build.
//!
//! All devices work at the same time where they do not share what is measured, each on a thread of its own, so that power and heat are
//! those of real work. Meanwhile [`watch`] reads what the driver says of them. A device that is on the bus and that the driver does not
//! list, or that breaks while it works, is wrong; a driver or library that is not there *could not run*.

mod compute;
mod cublas;
mod driver;
mod library;
mod link;
mod memory;
mod watch;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

pub use self::cublas::Precision;
use self::driver::{Driver, Failure, Gpu};
use super::context::Context;
use super::sample::{Part, Refusal, Wrong};
use crate::files::Files;
use crate::nvidia::parse_driver_version;
use crate::pci;

/// What is tested of the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Matrix products: speed, and whether every one of them is right.
    Compute(Precision),
    /// Bandwidth of a device's own memory.
    Copy,
    /// Whether a device's memory keeps what was written.
    Pattern,
    /// The way to the host and back.
    HostLinks,
    /// The ways between devices.
    PeerLinks,
}

/// A test of devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// What is tested.
    pub work: Work,
    /// For how long, all devices together.
    pub seconds: u32,
    /// The devices that should be there.
    #[serde(flatten)]
    pub fitted: Fitted,
}

/// The NVIDIA devices of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fitted {
    /// The version of their driver: with another one, samples are another history.
    pub driver: String,
    /// Their bus addresses, in order; samples name a device by its place here.
    pub addresses: Vec<String>,
}

impl Fitted {
    /// Those on the PCI bus of the machine whose files are below `root`; none where their driver is not loaded.
    pub fn of(root: &Path) -> Self {
        let files = Files::below(root);
        let text = files.text("proc/driver/nvidia/version").unwrap_or_default();
        let Some(driver) = parse_driver_version(&text) else {
            return Self::default();
        };
        let devices = pci::discover(files).into_iter();
        let mut addresses: Vec<String> = devices
            .filter(|device| device.vendor_id == pci::NVIDIA)
            .map(|device| device.address)
            .collect();
        addresses.sort();
        Self { driver, addresses }
    }
}

/// A device that works.
struct Present<'a> {
    index: u32,
    gpu: &'a Gpu,
}

impl Present<'_> {
    fn part(&self) -> Part {
        Part::Device(self.index)
    }
}

pub(crate) fn run(context: &Context<'_>, settings: &Devices) -> Result<(), Refusal> {
    let driver = Driver::get().map_err(Refusal::CouldNotRun)?;
    let listed = driver
        .devices()
        .map_err(|failure| Refusal::CouldNotRun(failure.to_string()))?;
    let mut present = Vec::new();
    for (index, address) in (0..).zip(&settings.fitted.addresses) {
        match listed.iter().find(|(listed, _)| listed == address) {
            Some((_, device)) => present.push((index, address.as_str(), *device)),
            None => context.wrong(Wrong {
                part: Part::Device(index),
                what: format!("the device at {address}"),
                expected: "listed by its driver, as it is on the bus".into(),
                got: "not listed".into(),
            }),
        }
    }
    if present.is_empty() {
        return context.check();
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch::run(context, &settings.fitted.addresses, &over));
        let done = test(context, settings, driver, &present);
        over.store(true, Ordering::Relaxed);
        watch.join().expect("a kernel's thread does not panic");
        done
    })
}

fn test(
    context: &Context<'_>,
    settings: &Devices,
    driver: &'static Driver,
    present: &[(u32, &str, i32)],
) -> Result<(), Refusal> {
    match settings.work {
        Work::HostLinks => link::host(context, settings, driver, present),
        Work::PeerLinks => link::peers(context, settings, driver, present),
        Work::Compute(precision) => {
            let task = compute::Task::new(precision, settings.seconds);
            on_each(context, driver, present, |present| {
                task.run(context, present)
            })
        }
        Work::Copy => on_each(context, driver, present, |present| {
            memory::copy(context, settings.seconds, present)
        }),
        Work::Pattern => on_each(context, driver, present, |present| {
            memory::pattern(context, settings.seconds, present)
        }),
    }
}

/// Why a device did not come to its end.
enum Halt {
    /// Told to stop, or nothing could be begun.
    Refused(Refusal),
    /// It broke.
    Broke(Failure),
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        if failure.broke {
            Self::Broke(failure)
        } else {
            Self::Refused(Refusal::CouldNotRun(failure.to_string()))
        }
    }
}

impl Halt {
    /// A device that broke is evidence, and the others still count.
    fn settle(self, context: &Context<'_>, part: Part) -> Result<(), Refusal> {
        match self {
            Self::Refused(Refusal::CouldNotRun(why)) => {
                Err(Refusal::CouldNotRun(format!("{part}: {why}")))
            }
            Self::Refused(refusal) => Err(refusal),
            Self::Broke(failure) => {
                context.wrong(Wrong {
                    part,
                    what: failure.what.to_owned(),
                    expected: "no error".into(),
                    got: failure.answer,
                });
                Ok(())
            }
        }
    }
}

/// Does something on each device at the same time, each on a thread near it.
fn on_each(
    context: &Context<'_>,
    driver: &'static Driver,
    present: &[(u32, &str, i32)],
    work: impl Fn(&Present<'_>) -> Result<(), Halt> + Sync,
) -> Result<(), Refusal> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = present
            .iter()
            .map(|device| scope.spawn(move || one(context, driver, *device, work)))
            .collect();
        let ends: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().expect("a kernel's thread does not panic"))
            .collect();
        ends.into_iter().collect()
    })
}

fn one(
    context: &Context<'_>,
    driver: &'static Driver,
    (index, address, device): (u32, &str, i32),
    work: impl Fn(&Present<'_>) -> Result<(), Halt>,
) -> Result<(), Refusal> {
    link::stay_near(address);
    let done = Gpu::open(driver, device)
        .map_err(Halt::from)
        .and_then(|gpu| work(&Present { index, gpu: &gpu }));
    done.or_else(|halt| halt.settle(context, Part::Device(index)))
}

/// The sum over all words of 32 bits of their number and value, mixed. The order does not matter, so a device does it with all threads at
/// once; one bit, or two words that changed places, make another sum.
fn digest(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(4).enumerate();
    words.fold(0_u64, |sum, (number, word)| {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        sum.wrapping_add(mix((number as u64) << 32 | u64::from(word)))
    })
}

fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// Bytes without a pattern, the same every time.
fn noise(bytes: &mut [u8]) {
    for (number, chunk) in (0..).zip(bytes.chunks_mut(8)) {
        chunk.copy_from_slice(&mix(number).to_le_bytes()[..chunk.len()]);
    }
}
