//! Slow decay, which no single run shows: a sum of small departures, and where the slope leads.

use serde::{Deserialize, Serialize};

use super::statistics::{mean, theil_sen};

/// A run as far as a trend is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When, in days since any fixed moment.
    pub day: f64,
    /// The level with the fleet's change removed, as a logarithm; worse is less.
    pub level: f64,
}

/// What a series says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    /// The sum of departures, in spreads of a run; an alarm above [`ALARM`].
    pub sum: f64,
    /// Whether the series decays.
    pub decays: bool,
    /// Change of the level in a day; negative is worse.
    pub slope_per_day: f64,
    /// Days until the level has lost `limit` against its beginning; nothing when it does not decay.
    pub days_left: Option<f64>,
}

/// Departures below half a spread do not add up.
const SLACK: f64 = 0.5;
/// From here on the series decays. Five is once in about nine hundred runs of a sound device, so `decays` asks for a slope too.
pub const ALARM: f64 = 5.0;
/// Runs at the beginning of a series that say where it began.
const BEGINNING: usize = 4;

/// Judges a series, the oldest first. `spread` is that of one run of a sound device. Nothing below eight runs.
pub fn trend(points: &[Point], spread: f64, limit: f64) -> Option<Trend> {
    if points.len() < 2 * BEGINNING || spread <= 0.0 {
        return None;
    }
    let levels: Vec<f64> = points.iter().map(|point| point.level).collect();
    let begin = mean(&levels[..BEGINNING])?;
    let mut sum: f64 = 0.0;
    for level in &levels[BEGINNING..] {
        sum = (sum + (begin - level) / spread - SLACK).max(0.0);
    }
    let slope = theil_sen(
        &points
            .iter()
            .map(|point| (point.day, point.level))
            .collect::<Vec<_>>(),
    )?;
    let (first, last) = (points.first()?, points.last()?);
    let drop = -slope * (last.day - first.day);
    let decays = sum >= ALARM && drop > 2.0 * spread;
    let gone = begin - mean(&levels[levels.len() - BEGINNING..])?;
    Some(Trend {
        sum,
        decays,
        slope_per_day: slope,
        days_left: decays.then(|| ((limit - gone).max(0.0) / -slope).max(0.0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(slope_per_week: f64) -> Vec<Point> {
        let noise = [0.4, -0.7, 0.1, 0.8, -0.5, -0.2, 0.6, -0.5];
        (0..24)
            .map(|week: u32| Point {
                day: f64::from(week) * 7.0,
                level: f64::from(week) * slope_per_week + noise[week as usize % 8] * 0.002,
            })
            .collect()
    }

    #[test]
    fn a_slow_decay_is_seen_long_before_any_run_is_bad() {
        let trend = trend(&series(-0.0006), 0.002, 0.05).expect("enough runs");
        assert!(trend.decays, "{trend:?}");
        assert!((trend.slope_per_day * 7.0 + 0.0006).abs() < 0.0002);
        let left = trend.days_left.expect("it decays");
        assert!((300.0..700.0).contains(&left), "{left}");
    }

    #[test]
    fn a_steady_or_growing_series_does_not_decay() {
        for slope in [0.0, 0.0006] {
            let trend = trend(&series(slope), 0.002, 0.05).expect("enough runs");
            assert!(!trend.decays && trend.days_left.is_none(), "{trend:?}");
        }
        assert_eq!(trend(&series(0.0)[..7], 0.002, 0.05), None);
    }
}
