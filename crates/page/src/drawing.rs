//! Small drawings that stand in a line of text or in a table.

use std::fmt::Write as _;

use crate::{Mood, escaped};

const WIDTH: f64 = 160.0;
const HEIGHT: f64 = 28.0;

/// A drawing, ready for a page.
#[derive(Debug, Clone, Default)]
pub struct Drawing(String);

impl Drawing {
    pub(crate) fn markup(&self) -> &str {
        &self.0
    }

    fn of(inside: &str, width: f64) -> Self {
        Self(format!(
            "<svg width=\"{width}\" height=\"{HEIGHT}\" role=\"img\">{inside}</svg>"
        ))
    }
}

/// Counts as bars beside each other, each with its upper bound; a tail of few stays visible.
pub fn bars(bars: &[(f64, u64)]) -> Drawing {
    let most = bars.iter().map(|(_, count)| *count).max().unwrap_or(0);
    if most == 0 {
        return Drawing::default();
    }
    let width = WIDTH / real(bars.len());
    let mut inside = String::new();
    for (position, (upper, count)) in bars.iter().enumerate().filter(|(_, (_, count))| *count > 0) {
        let height = (share(*count, most) * HEIGHT).max(1.0);
        let _ = write!(
            inside,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"var(--bar)\"><title>up to {upper:.4}: {count}</title></rect>",
            real(position) * width,
            HEIGHT - height,
            (width - 0.5).max(0.5),
        );
    }
    Drawing::of(&inside, WIDTH)
}

/// Values in their order, as a line between the least and the most.
pub fn over_time(values: &[f64]) -> Drawing {
    /// More points than this cannot be told apart.
    const POINTS: usize = 160;
    if values.len() < 3 {
        return Drawing::default();
    }
    let (least, range) = range(values.iter().copied());
    let shown = values.chunks(values.len().div_ceil(POINTS));
    let width = WIDTH / real(shown.len().max(2) - 1);
    let mut points = String::new();
    for (position, chunk) in shown.enumerate() {
        // Of the values that share a point the one farthest down shows: dips must not vanish.
        let value = chunk.iter().copied().fold(f64::INFINITY, f64::min);
        let height = HEIGHT - 1.0 - (value - least) / range * (HEIGHT - 2.0);
        let _ = write!(points, "{:.1},{height:.1} ", real(position) * width);
    }
    Drawing::of(
        &format!("<polyline fill=\"none\" stroke=\"var(--bar)\" points=\"{points}\"/>"),
        WIDTH,
    )
}

/// Named values along one line, from the least to the most: who is far from the others is seen at once.
pub fn strip(values: &[(String, f64, Mood)]) -> Drawing {
    const RADIUS: f64 = 4.0;
    if values.is_empty() {
        return Drawing::default();
    }
    let width = 2.0 * WIDTH;
    let (least, range) = range(values.iter().map(|(_, value, _)| *value));
    let mut inside = String::new();
    for (name, value, mood) in values {
        let colour = match mood {
            Mood::Good => "--bar",
            Mood::Odd => "--odd",
            Mood::Bad => "--bad",
        };
        let _ = write!(
            inside,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{RADIUS}\" fill=\"var({colour})\" fill-opacity=\".6\"><title>{}: {value:.4}</title></circle>",
            RADIUS + (value - least) / range * (width - 2.0 * RADIUS),
            HEIGHT / 2.0,
            escaped(name),
        );
    }
    Drawing::of(&inside, width)
}

/// The least value, and how far the others reach beyond it; never zero.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) = values.fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), value| (least.min(value), most.max(value)),
    );
    (least, (most - least).max(f64::MIN_POSITIVE))
}

#[expect(clippy::cast_precision_loss, reason = "a drawing is coarser than that")]
fn real(number: usize) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "a drawing is coarser than that")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}
