//! A report of a test for people: one line for each part and metric, and the whole of it as one HTML page.

mod html;

pub use html::html;

use serde::{Deserialize, Serialize};
use supernode_types::Timestamp;

use super::number::real_of;
use super::sample::{Better, Metric, Part};
use super::series::series;
use super::suite::{Record, Tier};
use super::vendor::VendorAnswer;
use super::verdict::hard::HardFailure;
use super::verdict::statistics::{mean, variance};

/// A test of one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub host: String,
    /// When it began.
    pub begun: Timestamp,
    /// How much was tested.
    pub tier: Tier,
    /// What was run, in this order.
    pub records: Vec<Record>,
    /// What the tools of vendors said, or why they said nothing.
    pub vendor: Vec<VendorAnswer>,
}

/// All samples of one metric and part, in a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// What.
    pub metric: Metric,
    /// Where.
    pub part: Part,
    /// How many.
    pub count: u64,
    /// The median.
    pub median: f64,
    /// The value that nineteen of twenty samples are better than.
    pub worse: f64,
    /// The standard deviation as a share of the mean; nothing for one sample, or a distribution.
    pub variation: Option<f64>,
    /// The values for a drawing: samples in order, or none for a distribution.
    pub values: Vec<f64>,
    /// The bars of a distribution: upper bound and count.
    pub bars: Vec<(f64, u64)>,
}

/// The lines of one record, in the order of metric and part.
pub fn summaries(record: &Record) -> Vec<Summary> {
    let mut lines = Vec::new();
    for one in series(&record.outcome.samples) {
        let (Some(median), Some(worse), Some(middle)) =
            (one.median(), one.worse(), mean(&one.values))
        else {
            continue;
        };
        lines.push(Summary {
            metric: one.metric,
            part: one.part.clone(),
            count: one.values.len() as u64,
            median,
            worse,
            variation: variance(&one.values)
                .filter(|_| middle > 0.0)
                .map(|variance| variance.sqrt() / middle),
            bars: bars(&one.ascending),
            values: one.values,
        });
    }
    for (metric, part, histogram) in &record.outcome.distributions {
        let (Some(median), Some(worse)) = (histogram.quantile(0.5), histogram.quantile(0.95))
        else {
            continue;
        };
        lines.push(Summary {
            metric: *metric,
            part: part.clone(),
            count: histogram.count(),
            median,
            worse,
            variation: None,
            values: Vec::new(),
            bars: histogram.bars().collect(),
        });
    }
    lines
}

/// Sorted values in at most thirty bars of one width.
fn bars(ascending: &[f64]) -> Vec<(f64, u64)> {
    const BARS: u32 = 30;
    let (Some(first), Some(last)) = (ascending.first(), ascending.last()) else {
        return Vec::new();
    };
    let width = ((last - first) / f64::from(BARS)).max(f64::MIN_POSITIVE);
    (1..=BARS)
        .map(|bar| {
            let upper = first + width * f64::from(bar);
            let below = |limit: f64| ascending.partition_point(|value| *value <= limit);
            let end = if bar == BARS {
                ascending.len()
            } else {
                below(upper)
            };
            let begin = if bar == 1 { 0 } else { below(upper - width) };
            (upper, end.saturating_sub(begin) as u64)
        })
        .collect()
}

/// A failure in words.
pub fn in_words(failure: &HardFailure) -> String {
    match failure {
        HardFailure::Corruption { part, evidence } => format!("{part}: {evidence}"),
        HardFailure::BelowFloor {
            part,
            floor,
            median,
        } => format!(
            "{part}: {} {} is worse than {}",
            figure(*median),
            floor.metric.unit(),
            figure(floor.worst)
        ),
        HardFailure::ErrorCounter { name, grown } => format!("{name} grew by {grown}"),
        HardFailure::Missing { part } => format!("{part} is missing"),
    }
}

/// A number with as many digits as say something.
pub fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        small if small < 0.001 => format!("{value:.1e}"),
        _ => format!("{value:.3}"),
    }
}

/// A square of values by two numbers, for a drawing: the medians of a metric between numbered parts.
struct Matrix {
    metric: Metric,
    places: Vec<u32>,
    cells: Vec<Vec<Option<f64>>>,
}

fn matrices(lines: &[Summary]) -> Vec<Matrix> {
    let pair = |part: &Part| match part {
        Part::CorePair(from, to) | Part::MemoryPair(from, to) | Part::DevicePair(from, to) => {
            Some((*from, *to))
        }
        _ => None,
    };
    let kind = |part: &Part| std::mem::discriminant(part);
    let mut matrices = Vec::new();
    for chunk in lines
        .chunk_by(|one, other| one.metric == other.metric && kind(&one.part) == kind(&other.part))
    {
        let cells: Vec<((u32, u32), f64)> = chunk
            .iter()
            .filter_map(|line| Some((pair(&line.part)?, line.median)))
            .collect();
        if cells.is_empty() {
            continue;
        }
        let mut places: Vec<u32> = cells
            .iter()
            .flat_map(|((from, to), _)| [*from, *to])
            .collect();
        places.sort_unstable();
        places.dedup();
        let find = |wanted: (u32, u32)| {
            let found = cells.iter().find(|(pair, _)| *pair == wanted);
            found.map(|(_, value)| *value)
        };
        matrices.push(Matrix {
            metric: chunk[0].metric,
            cells: places
                .iter()
                .map(|from| places.iter().map(|to| find((*from, *to))).collect())
                .collect(),
            places,
        });
    }
    matrices
}

/// Where a value lies between the worst and the best of some, 0 to 1; one half where all are the same.
fn goodness(metric: Metric, value: f64, all: &[f64]) -> f64 {
    let (least, most) = all.iter().fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), value| (least.min(*value), most.max(*value)),
    );
    if most - least <= most.abs() * 1e-9 || real_of(all.len()) < 2.0 {
        return 0.5;
    }
    let share = (value - least) / (most - least);
    if metric.better() == Better::Less {
        1.0 - share
    } else {
        share
    }
}
