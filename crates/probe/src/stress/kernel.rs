//! The child's side: one process for each kernel, so that a kernel that hangs, leaks or dies takes nothing with it.
//!
//! It reads one order from its standard input, says events on its standard output, one line each, and ends. The end of its input is
//! the order to stop, so it also stops when whoever started it is gone. It never outlives that order by more than a few seconds:
//! a kernel that does not hear is ended from within.
//!
//! ```text
//!  parent                         child
//!    |-- one line: the order ------>|  runs
//!    |<------------- events --------|
//!    |-- end of input: stop ------->|  stops by itself, or is ended after HARD_STOP
//!    |<------------- end -----------|
//! ```

use std::io::{BufRead, Read, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use supernode_types::entropy::SystemEntropy;
use supernode_types::time::SystemClock;

use super::compute::{self, Compute};
use super::context::{Context, Pauses, Stop};
use super::link::{self, Links};
use super::memory::{self, Pattern, Stream};
use super::network::{self, Ask, Listen};
use super::nvidia::{self, Devices};
use super::sample::{Ended, Event, Part, Pause, Refusal};
use super::storage::{self, Storage};
use super::vendor::{self, VendorTest};

/// A kernel and its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// Speed and correctness of computing.
    Compute(Compute),
    /// Bandwidth of memory.
    Stream(Stream),
    /// Whether memory keeps what was written.
    Pattern(Pattern),
    /// Links between processors and NUMA nodes.
    Links(Links),
    /// NVIDIA devices and their links.
    Nvidia(Devices),
    /// Tools of a vendor.
    Vendor(VendorTest),
    /// Waits for a peer of the network test.
    Listen(Listen),
    /// Measures the network to a peer.
    Ask(Ask),
    /// Speed and correctness of a disk.
    Storage(Storage),
}

/// What a child is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What to run.
    pub kernel: Kernel,
    /// After so long it is stopped, whatever its settings say.
    pub limit_seconds: u32,
}

/// After the order to stop a kernel has so long to end by itself.
const HARD_STOP: Duration = Duration::from_secs(8);
/// Bytes of an order at most.
const MOST_ORDER: u64 = 64 * 1024;
/// Files that a kernel may have open: sockets of the network test, and what a driver opens for each of many devices.
const MOST_FILES: u64 = 1024;

/// Runs the kernel of the order on standard input. For the hidden sub-command alone.
pub fn main() -> ExitCode {
    limit();
    let mut input = std::io::BufReader::new(std::io::stdin());
    let mut line = String::new();
    if let Err(error) = (&mut input).take(MOST_ORDER).read_line(&mut line) {
        eprintln!("error: the order cannot be read: {error}");
        return ExitCode::from(2);
    }
    let order: Order = match serde_json::from_str(&line) {
        Ok(order) => order,
        Err(error) => {
            eprintln!("error: this is no order of a stress kernel: {error}");
            return ExitCode::from(2);
        }
    };
    let stop = Stop::default();
    let stop_at_end = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut input, &mut std::io::sink());
        end_soon(&stop_at_end);
    });
    let pauses = Pauses::default();
    let (watched, stop_at_limit) = (pauses.clone(), stop.clone());
    let limit = Duration::from_secs(u64::from(order.limit_seconds));
    std::thread::spawn(move || {
        watched.watch(&SystemClock, limit);
        end_soon(&stop_at_limit);
    });
    let output = Mutex::new(std::io::stdout());
    let unheard = stop.clone();
    let say = move |event: Event| {
        let line = serde_json::to_string(&event).expect("events are plain data") + "\n";
        let mut output = output.lock().expect("nobody panics with it");
        // Nobody listens any more: then there is nothing to do any more.
        if output.write_all(line.as_bytes()).is_err() || output.flush().is_err() {
            unheard.stop();
        }
    };
    let clock = SystemClock;
    let context = Context::new(&clock, &stop, &pauses, &say);
    let ended = match run(&context, &stop, &order.kernel) {
        Ok(()) => Ended::Complete,
        Err(refusal) => refusal.into(),
    };
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(used.tv_nsec).unwrap_or(0);
    say(Event::Used {
        cpu_seconds: Duration::new(seconds, nanoseconds).as_secs_f64(),
        seconds: context.elapsed().as_secs_f64(),
    });
    say(Event::Paused(Pause {
        part: Part::Host,
        seconds: context.longest_pause_seconds(),
    }));
    say(Event::End(ended));
    ExitCode::SUCCESS
}

/// Runs a kernel on the threads of this process.
pub(crate) fn run(context: &Context<'_>, stop: &Stop, kernel: &Kernel) -> Result<(), Refusal> {
    match kernel {
        Kernel::Compute(settings) => compute::run(context, stop, settings),
        Kernel::Stream(settings) => memory::run_stream(context, settings),
        Kernel::Pattern(settings) => memory::run_pattern(context, settings),
        Kernel::Links(settings) => link::run(context, settings),
        Kernel::Nvidia(settings) => nvidia::run(context, settings),
        Kernel::Vendor(test) => vendor::kernel::run(context, test),
        Kernel::Listen(settings) => network::run_listener(context, &SystemEntropy, settings),
        Kernel::Ask(settings) => network::run(context, &SystemEntropy, settings),
        Kernel::Storage(settings) => storage::run(context, settings),
    }
}

/// Tells the kernel to stop, and ends the process if it does not.
fn end_soon(stop: &Stop) -> ! {
    stop.stop();
    std::thread::sleep(HARD_STOP);
    // The parent sees no event of the end, and calls it incomplete.
    std::process::exit(1)
}

/// What the kernel of the machine holds us to. None of these can fail for a process that lowers its own limits.
fn limit() {
    for (resource, most) in [(Resource::Core, 0), (Resource::Nofile, MOST_FILES)] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        let _ = setrlimit(resource, limit);
    }
    // Where memory runs out, a test dies before anything else.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}
