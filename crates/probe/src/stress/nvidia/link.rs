//! The ways of a device: to the host and back, and to every other device. One copy at a time, so that none is in another's way.

use super::driver::{Driver, Gpu};
use super::{Devices, Halt, Present};
use crate::files::Files;
use crate::stress::context::Context;
use crate::stress::number::real_of;
use crate::stress::processor;
use crate::stress::sample::{Metric, Part, Refusal, Wrong};

/// Bytes of one copy: its start does not count against it.
const BYTES: usize = 256 << 20;
/// Bytes of a message whose time is measured.
const MESSAGE_BYTES: usize = 8;
/// Messages for each way.
const MESSAGES: u32 = 50;

/// Keeps the calling thread on a processor next to a device, where the machine says which those are. Copies from the other side of the
/// machine would measure the machine.
pub(super) fn stay_near(address: &str) {
    let files = Files::below(std::path::Path::new("/"));
    let list = files.word(&format!("sys/bus/pci/devices/{address}/local_cpulist"));
    let near = list
        .as_deref()
        .map(crate::cpu::parse_list)
        .unwrap_or_default();
    let allowed = processor::allowed().unwrap_or_default();
    // Half way in: the first ones serve interrupts.
    let usable: Vec<u32> = near
        .into_iter()
        .filter(|core| allowed.contains(core))
        .collect();
    if usable.len() < allowed.len()
        && let Some(core) = usable.get(usable.len() / 2)
    {
        let _ = processor::bind(*core);
    }
}

/// Measures each device's way to the host and back, and compares what arrived.
pub(super) fn host(
    context: &Context<'_>,
    settings: &Devices,
    driver: &'static Driver,
    present: &[(u32, &str, i32)],
) -> Result<(), Refusal> {
    // Two ways for each device.
    let seconds = f64::from(settings.seconds) / (2.0 * real_of(present.len()));
    for device in present {
        // A thread of its own, that stays near it.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                super::one(context, driver, *device, |present| {
                    to_host(context, seconds, present)
                })
            });
            thread.join().expect("a kernel's thread does not panic")
        })?;
    }
    Ok(())
}

fn to_host(context: &Context<'_>, seconds: f64, present: &Present<'_>) -> Result<(), Halt> {
    let gpu = present.gpu;
    let bytes = BYTES.min(gpu.free_bytes()? / 4);
    let (device, sum) = (gpu.allocate(bytes)?, gpu.allocate(8)?);
    let mut pinned = gpu.pinned(bytes)?;
    super::noise(pinned.bytes_mut());
    let expected = super::digest(pinned.bytes_mut());
    for (out, metric) in [
        (true, Metric::HostToDeviceBandwidth),
        (false, Metric::DeviceToHostBandwidth),
    ] {
        if !out {
            // What comes back has to come from the device.
            pinned.bytes_mut().fill(0);
        }
        gpu.timed(|| gpu.exchange(&device, &pinned, out))?;
        let start = context.moment();
        while context.seconds_since(start) < seconds {
            context.check()?;
            let time = gpu.timed(|| gpu.exchange(&device, &pinned, out))?;
            context.sample(metric, present.part(), real_of(bytes) / time / 1e9);
        }
        let got = if out {
            gpu.digest(&device, &sum)?
        } else {
            super::digest(pinned.bytes_mut())
        };
        if got != expected {
            let way = if out {
                "to the device"
            } else {
                "from the device"
            };
            context.wrong(Wrong {
                part: present.part(),
                what: format!("digest of {bytes} bytes copied {way}"),
                expected: format!("{expected:#018x}"),
                got: format!("{got:#018x}"),
            });
        }
    }
    Ok(())
}

/// Measures the way from each device to each other one, and compares what arrived.
pub(super) fn peers(
    context: &Context<'_>,
    settings: &Devices,
    driver: &'static Driver,
    present: &[(u32, &str, i32)],
) -> Result<(), Refusal> {
    let mut gpus: Vec<(u32, Gpu)> = Vec::new();
    for (index, _, device) in present {
        match Gpu::open(driver, *device) {
            Ok(gpu) => gpus.push((*index, gpu)),
            Err(failure) => Halt::from(failure).settle(context, Part::Device(*index))?,
        }
    }
    let pairs = gpus.len() * gpus.len().saturating_sub(1);
    let seconds = f64::from(settings.seconds) / real_of(pairs.max(1));
    for (from, sender) in &gpus {
        for (to, receiver) in &gpus {
            if from != to {
                let part = Part::DevicePair(*from, *to);
                pair(context, seconds, &part, sender, receiver)
                    .or_else(|halt| halt.settle(context, part))?;
            }
        }
    }
    Ok(())
}

fn pair(
    context: &Context<'_>,
    seconds: f64,
    part: &Part,
    sender: &Gpu,
    receiver: &Gpu,
) -> Result<(), Halt> {
    receiver.enter()?;
    let free = receiver.free_bytes()?;
    sender.enter()?;
    let bytes = BYTES.min(free.min(sender.free_bytes()?) / 4);
    receiver.enter()?;
    let (to, sum) = (receiver.allocate(bytes)?, receiver.allocate(8)?);
    sender.enter()?;
    let from = sender.allocate(bytes)?;
    let mut bytes_sent = vec![0; bytes];
    super::noise(&mut bytes_sent);
    sender.write(&from, &bytes_sent)?;
    if !sender.reach(receiver)? {
        context.remark(format!("{part}: copies go through the host"));
    }
    let send = |bytes: usize| sender.timed(|| sender.send(&from, receiver, &to, bytes));
    send(bytes)?;
    let start = context.moment();
    while context.seconds_since(start) < seconds {
        context.check()?;
        context.sample(
            Metric::CopyBandwidth,
            part.clone(),
            real_of(bytes) / send(bytes)? / 1e9,
        );
    }
    for _ in 0..MESSAGES {
        context.sample(
            Metric::CopyLatency,
            part.clone(),
            1e9 * send(MESSAGE_BYTES)?,
        );
    }
    receiver.enter()?;
    let got = receiver.digest(&to, &sum)?;
    let expected = super::digest(&bytes_sent);
    if got != expected {
        context.wrong(Wrong {
            part: part.clone(),
            what: format!("digest of {bytes} bytes copied between devices"),
            expected: format!("{expected:#018x}"),
            got: format!("{got:#018x}"),
        });
    }
    Ok(())
}
