//! Computing: speed and correctness of every core at the same time.
//!
//! Each core multiplies matrices of its own, all cores together, so that power and heat are those of real work and a sample names
//! a core. The matrices are the same everywhere, and so is the one right digest of their product: a core that computes wrong now
//! and then is caught by its own speed test.

pub(crate) mod gemm;

use serde::{Deserialize, Serialize};

use self::gemm::{Element, Instructions, Work};
use super::context::{Context, Stop};
use super::number::real;
use super::processor;
use super::sample::{Metric, Part, Refusal, Wrong};

/// The matrices of the test belong to this seed; the golden digests do too.
pub(crate) const SEED: u64 = 0x5eed_0000_c0de_2026;
/// A core that is wrong this often has been heard.
const MOST_WRONG: u32 = 8;

/// Which numbers are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 64 bits.
    F64,
}

/// What to compute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compute {
    /// Which numbers.
    pub precision: Precision,
    /// For how long, after one multiplication to warm up.
    pub seconds: u32,
    /// On which processors; all that are allowed when empty.
    #[serde(default)]
    pub cores: Vec<u32>,
}

pub(crate) fn run(context: &Context<'_>, stop: &Stop, settings: &Compute) -> Result<(), Refusal> {
    let cores = if settings.cores.is_empty() {
        processor::allowed()?
    } else {
        settings.cores.clone()
    };
    let instructions = Instructions::best();
    context.remark(format!(
        "computed with {} instructions",
        instructions.name()
    ));
    let one = |core| match settings.precision {
        Precision::F32 => core_loop::<f32>(context, stop, settings, core, Metric::GemmF32),
        Precision::F64 => core_loop::<f64>(context, stop, settings, core, Metric::GemmF64),
    };
    processor::on_each(&cores, one)
}

fn core_loop<T: Element>(
    context: &Context<'_>,
    stop: &Stop,
    settings: &Compute,
    core: u32,
    metric: Metric,
) -> Result<(), Refusal> {
    let instructions = Instructions::best();
    let mut work = Work::<T>::new(T::SIZE, SEED, instructions);
    let operations = real(work.operations());
    let mut wrong = 0;
    let mut check = |work: &Work<T>, round: u64| {
        let digest = work.digest();
        if digest != T::GOLDEN && wrong < MOST_WRONG {
            wrong += 1;
            context.wrong(Wrong {
                part: Part::Core(core),
                what: format!("digest of multiplication {round}"),
                expected: format!("{:#018x}", T::GOLDEN),
                got: format!("{digest:#018x}"),
            });
        }
    };
    // The first one pays for fresh pages; its result counts, its time does not.
    if !work.multiply(stop) {
        return Err(Refusal::Stopped);
    }
    check(&work, 0);
    let start = context.moment();
    for round in 1.. {
        let (moment, before) = (context.moment(), processor::thread_time());
        if !work.multiply(stop) {
            return Err(Refusal::Stopped);
        }
        let seconds = context.seconds_since(moment).max(1e-9);
        let used = processor::thread_time()
            .saturating_sub(before)
            .as_secs_f64();
        context.sample(metric, Part::Core(core), operations / seconds / 1e9);
        context.sample(
            Metric::CpuShare,
            Part::Core(core),
            (used / seconds).min(1.0),
        );
        check(&work, round);
        if context.seconds_since(start) >= f64::from(settings.seconds) {
            break;
        }
    }
    Ok(())
}
