//! What one run says about one part of a node in one metric: three numbers that a sick part changes in different ways.
//!
//! A part that is slower all the time moves the *level*. One that stutters leaves the median where it is and moves the *tail*. One that
//! is fine until it is hot moves the *ramp*. All are logarithms with "worse" downwards, so a slow-down of two percent is -0.02
//! whatever the unit and whichever direction is good.

use serde::{Deserialize, Serialize};
use supernode_types::stress::{Measurement, Shape};

use super::statistics::{mean, median, quantile, sorted};
use crate::sample::{Better, Metric};

/// Fewer samples say nothing about a shape.
pub const FEWEST_FOR_SHAPE: usize = 12;

/// A way in which a part can be worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Slower all the time.
    Level,
    /// Slower now and then.
    Tail,
    /// Slower towards the end of a run.
    Ramp,
}

/// All ways.
pub const FEATURES: [Feature; 3] = [Feature::Level, Feature::Tail, Feature::Ramp];

/// What one run says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The logarithm of the median.
    pub level: f64,
    /// The mean of the worst tenth against the median; zero where there are too few samples.
    pub tail: f64,
    /// The last third against the first; zero where there are too few samples.
    pub ramp: f64,
    /// How many samples it stands for.
    pub samples: usize,
}

impl Observation {
    /// Sums up samples in the order in which they were made. Nothing for a metric without a good direction, or without positive
    /// values.
    pub fn of(metric: Metric, values: &[f64]) -> Option<Self> {
        let sign = match metric.better() {
            Better::More => 1.0,
            Better::Less => -1.0,
            Better::Neither => return None,
        };
        let logarithms: Vec<f64> = values
            .iter()
            .filter(|value| **value > 0.0 && value.is_finite())
            .map(|value| sign * value.ln())
            .collect();
        let ascending = sorted(logarithms.iter().copied());
        let level = quantile(&ascending, 0.5)?;
        let samples = logarithms.len();
        let (mut tail, mut ramp) = (0.0, 0.0);
        if samples >= FEWEST_FOR_SHAPE {
            let tenth = samples.div_ceil(10);
            tail = mean(&ascending[..tenth])? - level;
            let third = samples / 3;
            let first = median(logarithms[..third].iter().copied())?;
            ramp = median(logarithms[samples - third..].iter().copied())? - first;
        }
        Some(Self {
            level,
            tail,
            ramp,
            samples,
        })
    }

    /// What a stored measurement says; nothing for a metric without a good direction.
    pub fn from_measurement(measurement: &Measurement) -> Option<Self> {
        let shape = measurement.shape?;
        let sane = [shape.level, shape.tail, shape.ramp]
            .iter()
            .all(|number| number.is_finite());
        sane.then(|| Self {
            level: shape.level,
            tail: shape.tail,
            ramp: shape.ramp,
            samples: usize::try_from(measurement.samples).unwrap_or(usize::MAX),
        })
    }

    /// What is stored of it.
    pub fn shape(&self) -> Shape {
        Shape {
            level: self.level,
            tail: self.tail,
            ramp: self.ramp,
        }
    }

    /// One of its numbers.
    pub fn feature(&self, feature: Feature) -> f64 {
        match feature {
            Feature::Level => self.level,
            Feature::Tail => self.tail,
            Feature::Ramp => self.ramp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(value: impl Fn(u32) -> f64) -> Vec<f64> {
        (0..60).map(value).collect()
    }

    fn of(value: impl Fn(u32) -> f64) -> Observation {
        Observation::of(Metric::GemmF32, &samples(value)).expect("has samples")
    }

    #[test]
    fn each_kind_of_sickness_moves_its_own_number() {
        let sound = of(|_| 100.0);
        let slow = of(|_| 98.0);
        assert!((slow.level - sound.level - 0.98_f64.ln()).abs() < 1e-9);
        assert!(slow.tail.abs() < 1e-9 && slow.ramp.abs() < 1e-9);
        let stuttering = of(|round| if round % 10 == 0 { 70.0 } else { 100.0 });
        assert!((stuttering.level - sound.level).abs() < 1e-9);
        assert!(stuttering.tail < -0.3);
        let heating = of(|round| 100.0 - f64::from(round) * 0.1);
        assert!(heating.ramp < -0.03);
    }

    #[test]
    fn worse_is_downwards_for_latencies_too() {
        let fast = Observation::of(Metric::RoundTrip, &[10.0]).expect("a value");
        let slow = Observation::of(Metric::RoundTrip, &[11.0]).expect("a value");
        assert!(slow.level < fast.level);
        assert_eq!(Observation::of(Metric::Power, &[10.0]), None);
        assert_eq!(Observation::of(Metric::GemmF32, &[0.0, -1.0]), None);
    }
}
