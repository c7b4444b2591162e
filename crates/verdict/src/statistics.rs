//! The few robust statistics that verdicts are made of. Every function says what it gives for too little data.

use crate::number::{index, real_of};

/// Makes the median absolute deviation the standard deviation of normal values.
const NORMAL: f64 = 1.4826;

/// The values in ascending order.
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which a share (0 to 1) of sorted values lies, interpolated; nothing without values.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = share.clamp(0.0, 1.0) * real_of(last);
    let below = index(position).min(last);
    let above = (below + 1).min(last);
    let part = position - real_of(below);
    Some(sorted[below] + (sorted[above] - sorted[below]) * part)
}

/// The median; nothing without values.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// The mean; nothing without values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / real_of(values.len()))
}

/// A standard deviation that a few wild values do not move; nothing without values, zero for one.
pub fn robust_deviation(values: &[f64]) -> Option<f64> {
    let middle = median(values.iter().copied())?;
    Some(NORMAL * median(values.iter().map(|value| (value - middle).abs()))?)
}

/// The variance of a sample; nothing below two values.
pub fn variance(values: &[f64]) -> Option<f64> {
    let middle = mean(values)?;
    let sum: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (values.len() > 1).then(|| sum / real_of(values.len() - 1))
}

/// The density of a normal distribution, as a logarithm.
pub fn log_normal_density(value: f64, middle: f64, deviation: f64) -> f64 {
    let scaled = (value - middle) / deviation;
    -0.5 * scaled * scaled - deviation.ln() - 0.5 * std::f64::consts::TAU.ln()
}

/// The logarithm of a sum of exponentials, without overflow; minus infinity without terms.
pub fn log_sum_exp(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + terms.map(|term| (term - largest).exp()).sum::<f64>().ln()
}

/// The median of the slopes between all pairs of points; nothing below two points at different places.
pub fn theil_sen(points: &[(f64, f64)]) -> Option<f64> {
    let slopes = points.iter().enumerate().flat_map(|(position, (x1, y1))| {
        points[position + 1..]
            .iter()
            .filter(move |(x2, _)| (x2 - x1).abs() > f64::EPSILON)
            .map(move |(x2, y2)| (y2 - y1) / (x2 - x1))
    });
    median(slopes)
}

/// By how much the values of one sample lie below those of another: the area between their distributions where the first is the worse one,
/// as a share of the largest value. Nothing without values in both.
pub fn area_below(worse: &[f64], reference: &[f64]) -> Option<f64> {
    const STEPS: u32 = 200;
    let (worse, reference) = (
        sorted(worse.iter().copied()),
        sorted(reference.iter().copied()),
    );
    let largest = worse.last()?.max(*reference.last()?);
    let mut area = 0.0;
    for step in 0..STEPS {
        let share = (f64::from(step) + 0.5) / f64::from(STEPS);
        let gap = quantile(&reference, share)? - quantile(&worse, share)?;
        area += gap.max(0.0) / f64::from(STEPS);
    }
    Some(area / largest)
}

/// The share of a normal distribution below `z` spreads; exact to six digits (Abramowitz and Stegun 26.2.17).
pub fn normal_share(z: f64) -> f64 {
    const FACTORS: [f64; 5] = [
        0.319_381_530,
        -0.356_563_782,
        1.781_477_937,
        -1.821_255_978,
        1.330_274_429,
    ];
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let above = density
        * FACTORS
            .iter()
            .rev()
            .fold(0.0, |sum, factor| (sum + factor) * t);
    if z >= 0.0 { 1.0 - above } else { above }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(left: Option<f64>, right: f64) {
        let left = left.expect("there is a value");
        assert!((left - right).abs() < 1e-9, "{left} is not {right}");
    }

    #[test]
    fn medians_and_quantiles() {
        near(median([3.0, 1.0, 2.0]), 2.0);
        near(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        near(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.25), 2.0);
        assert_eq!(median([]), None);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn one_wild_value_does_not_move_the_deviation() {
        let calm = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0];
        let wild = [1.0, 1.1, 0.9, 1.05, 0.95, 100.0];
        let (calm, wild) = (robust_deviation(&calm), robust_deviation(&wild));
        assert!(wild.expect("values") < 2.0 * calm.expect("values"));
        near(variance(&[1.0, 2.0, 3.0]), 1.0);
        assert_eq!(variance(&[1.0]), None);
    }

    #[test]
    fn a_slope_survives_an_outlier() {
        let points: Vec<(f64, f64)> = (0..10)
            .map(|day| {
                (
                    f64::from(day),
                    if day == 5 { 90.0 } else { f64::from(day) * 2.0 },
                )
            })
            .collect();
        near(theil_sen(&points), 2.0);
        assert_eq!(theil_sen(&[(1.0, 1.0), (1.0, 2.0)]), None);
    }

    #[test]
    fn only_what_is_worse_counts_in_the_area() {
        near(area_below(&[0.9; 5], &[1.0; 5]), 0.1);
        near(area_below(&[1.1; 5], &[1.0; 5]), 0.0);
    }

    #[test]
    fn sums_of_exponentials_do_not_overflow() {
        let sum = log_sum_exp([1000.0, 1000.0].into_iter());
        assert!((sum - 1000.0 - 2.0_f64.ln()).abs() < 1e-9);
        let nothing = log_sum_exp([].into_iter());
        assert!(nothing.is_infinite() && nothing < 0.0);
    }

    #[test]
    fn shares_of_the_normal_distribution_are_those_of_the_tables() {
        for (z, share) in [
            (0.0, 0.5),
            (1.0, 0.841_345),
            (1.96, 0.975_002),
            (-3.0, 0.001_350),
        ] {
            assert!((normal_share(z) - share).abs() < 1e-5, "{z}");
        }
    }
}
