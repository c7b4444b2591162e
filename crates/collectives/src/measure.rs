//! `supernode collective bench`: how long operators take on a real group.
//!
//! The time of one run is that of the slowest rank. Bus bandwidth is what the busiest link would have carried with the best possible
//! schedule: it can be compared between numbers of ranks, and with the figures of NCCL's tests, which define it the same way.

use std::time::Duration;

use crate::element::{DataType, Reduction};
use crate::group::{CollectiveError, Group};
use crate::operator::{Algorithm, Kind, Operator};
use crate::system;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The operator.
    pub kind: Kind,
    /// How; the usual one for the size if not given.
    pub algorithm: Option<Algorithm>,
    /// Bytes of the larger buffer.
    pub bytes: usize,
    /// Runs that count; a tenth as many before them do not.
    pub iterations: usize,
}

/// What came out, the same on every rank.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// How it was done.
    pub algorithm: Algorithm,
    /// Bytes of the larger buffer, as far as they are divisible.
    pub bytes: usize,
    /// Half of the runs were faster.
    pub median: Duration,
    /// Nine of ten were faster.
    pub p90: Duration,
    /// 99 of 100 were faster.
    pub p99: Duration,
    /// By the median.
    pub bus_bytes_per_second: f64,
    /// Streams that went on over a new connection meanwhile, on this rank.
    pub resumed: u64,
}

/// Measures. All ranks call it with the same plan.
pub fn run(group: &Group, plan: &Plan) -> Result<Measurement, CollectiveError> {
    let world = group.world();
    let whole = plan.bytes / DataType::F32.size();
    let count = match plan.kind {
        Kind::ReduceScatter { .. } | Kind::AllGather | Kind::AllToAll { .. } => whole / world,
        _ => whole,
    };
    let kind = match &plan.kind {
        Kind::AllToAll { .. } => Kind::AllToAll {
            send: vec![count; world],
            receive: vec![count; world],
        },
        kind => kind.clone(),
    };
    let mut operator = Operator::new(kind, DataType::F32, count);
    if let Some(algorithm) = plan.algorithm {
        operator = operator.by(algorithm);
    }
    let size = DataType::F32.size();
    let (inputs, outputs) = (
        operator.input_count(group.rank(), world) * size,
        operator.output_count(group.rank(), world) * size,
    );
    let is_in_place = inputs == outputs && !matches!(operator.kind, Kind::AllToAll { .. });
    let (input, mut output) = (vec![0; inputs], vec![0; outputs]);
    let before = group.statistics().resumed;
    let mut times = Vec::with_capacity(plan.iterations);
    let warm_up = plan.iterations.div_ceil(10);
    for iteration in 0..warm_up + plan.iterations {
        barrier(group)?;
        let begun = system::monotonic();
        if is_in_place {
            group.run_in_place(operator.clone(), &mut output)?;
        } else {
            group.run_apart(operator.clone(), &input, &mut output)?;
        }
        if iteration >= warm_up {
            times.push(system::monotonic().saturating_sub(begun));
        }
    }
    let mut times = slowest(group, &times)?;
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    let bytes = match operator.kind {
        Kind::ReduceScatter { .. } | Kind::AllGather | Kind::AllToAll { .. } => {
            count * world * size
        }
        _ => count * size,
    };
    Ok(Measurement {
        algorithm: operator.algorithm,
        bytes,
        median: at(50),
        p90: at(90),
        p99: at(99),
        bus_bytes_per_second: bus_factor(&operator.kind, world) * to_float(bytes)
            / at(50).as_secs_f64().max(1e-9),
        resumed: group.statistics().resumed - before,
    })
}

fn barrier(group: &Group) -> Result<(), CollectiveError> {
    group.run_in_place(Operator::new(Kind::Barrier, DataType::U8, 0), &mut [])
}

/// For every run, the time of the slowest rank.
fn slowest(group: &Group, times: &[Duration]) -> Result<Vec<Duration>, CollectiveError> {
    let nanos = times
        .iter()
        .map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX >> 1));
    let mut bytes: Vec<u8> = nanos.flat_map(u64::to_ne_bytes).collect();
    let kind = Kind::AllReduce {
        reduction: Reduction::Max,
    };
    group.run_in_place(Operator::new(kind, DataType::I64, times.len()), &mut bytes)?;
    let times = bytes.as_chunks::<8>().0.iter();
    Ok(times
        .map(|nanos| Duration::from_nanos(u64::from_ne_bytes(*nanos)))
        .collect())
}

/// Bytes on the busiest link for each byte of the larger buffer.
fn bus_factor(kind: &Kind, world: usize) -> f64 {
    let ranks = to_float(world);
    match kind {
        Kind::AllReduce { .. } => 2.0 * (ranks - 1.0) / ranks,
        Kind::ReduceScatter { .. } | Kind::AllGather | Kind::AllToAll { .. } => {
            (ranks - 1.0) / ranks
        }
        _ => 1.0,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "bandwidths are shown with three digits"
)]
const fn to_float(number: usize) -> f64 {
    number as f64
}
