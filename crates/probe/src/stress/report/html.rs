//! The report as one HTML page.

use supernode_page::{Cell, Heat, Mood, Page, bars, over_time};

use super::{Matrix, Report, Summary, figure, goodness, in_words, matrices, summaries};
use crate::stress::suite::Record;
use crate::stress::vendor::VendorResult;
use crate::stress::verdict::validity::Validity;

/// The whole page.
pub fn html(report: &Report) -> String {
    let below = format!(
        "{}, {} tier, {} tests",
        report.begun,
        report.tier.name(),
        report.records.len()
    );
    let mut page = Page::new(&format!("Stress test of {}", report.host), &below);
    for record in &report.records {
        section(&mut page, record);
    }
    vendor(&mut page, report);
    page.finish()
}

fn section(page: &mut Page, record: &Record) {
    let (mood, word, why) = badge(record);
    let title = format!("{}: {}", record.step.item.name(), record.step.name);
    page.section(&title, Some((mood, word)));
    if let Some(why) = why {
        page.paragraph(why);
    }
    page.list(record.failures.iter().map(in_words));
    let lines = summaries(record);
    page.table(
        &[
            "metric",
            "part",
            "samples",
            "median",
            "95 % better than",
            "variation",
            "distribution",
            "over time",
        ],
        lines.iter().map(row),
    );
    for matrix in matrices(&lines) {
        page.heat(&heat(&matrix));
    }
    page.list(record.outcome.remarks.iter().cloned());
    passive(page, record);
}

fn badge(record: &Record) -> (Mood, &'static str, Option<&str>) {
    if !record.failures.is_empty() {
        return (Mood::Bad, "failed", None);
    }
    match &record.validity {
        Validity::Valid => (Mood::Good, "measured", None),
        Validity::Contended(why) => (Mood::Odd, "contended", Some(why)),
        Validity::Throttled(why) => (Mood::Odd, "throttled", Some(why)),
        Validity::Incomplete(why) => (Mood::Odd, "incomplete", Some(why)),
        Validity::CouldNotRun(why) => (Mood::Odd, "could not run", Some(why)),
    }
}

fn row(line: &Summary) -> Vec<Cell> {
    let variation = line
        .variation
        .map_or(String::new(), |share| format!("{:.1} %", share * 100.0));
    let number = |value| Cell::Number(format!("{} {}", figure(value), line.metric.unit()));
    vec![
        Cell::Text(line.metric.name().replace('_', " ")),
        Cell::Text(line.part.to_string()),
        Cell::Number(line.count.to_string()),
        number(line.median),
        number(line.worse),
        Cell::Number(variation),
        Cell::Drawing(bars(&line.bars)),
        Cell::Drawing(over_time(&line.values)),
    ]
}

fn heat(matrix: &Matrix) -> Heat {
    let all: Vec<f64> = matrix.cells.iter().flatten().flatten().copied().collect();
    let cell = |value: &Option<f64>| {
        value.map(|value| (goodness(matrix.metric, value, &all), figure(value)))
    };
    Heat {
        title: format!(
            "{} ({})",
            matrix.metric.name().replace('_', " "),
            matrix.metric.unit()
        ),
        places: matrix.places.iter().map(u32::to_string).collect(),
        cells: matrix
            .cells
            .iter()
            .map(|row| row.iter().map(cell).collect())
            .collect(),
    }
}

fn passive(page: &mut Page, record: &Record) {
    let telling: Vec<Vec<Cell>> = record
        .change
        .grown
        .iter()
        .filter(|(name, _)| !name.starts_with("cpu/"))
        .map(|(name, grown)| vec![Cell::Text(name.clone()), Cell::Number(grown.to_string())])
        .collect();
    if !telling.is_empty() {
        page.details("counters that grew meanwhile", |page| {
            page.table(&[], telling);
        });
    }
}

fn vendor(page: &mut Page, report: &Report) {
    if report.vendor.is_empty() {
        return;
    }
    page.section("Tools of vendors", None);
    let rows = report.vendor.iter().map(|answer| {
        let said = match &answer.result {
            VendorResult::NotPresent => "not present".to_owned(),
            VendorResult::CouldNotRun(why) => format!("could not run: {why}"),
            VendorResult::Checks(checks) => checks
                .iter()
                .map(|check| format!("{}: {}", check.name, check.state.word()))
                .collect::<Vec<_>>()
                .join("; "),
        };
        vec![Cell::Text(answer.command.clone()), Cell::Text(said)]
    });
    page.table(&[], rows);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stress::child::Outcome;
    use crate::stress::passive::Change;
    use crate::stress::sample::{Ended, Metric, Part, Sample, Wrong};
    use crate::stress::suite::{Item, Parts, Tier, steps};
    use crate::stress::verdict::hard;
    use supernode_types::Timestamp;

    fn report(host: &str) -> Report {
        let pairs = [(0, 1, 10.0), (1, 0, 20.0)];
        let outcome = Outcome {
            samples: pairs
                .into_iter()
                .flat_map(|(from, to, value)| {
                    (0..5).map(move |number| Sample {
                        metric: Metric::CopyBandwidth,
                        part: Part::CorePair(from, to),
                        value: value + f64::from(number),
                        at_seconds: 0.0,
                    })
                })
                .collect(),
            wrong: vec![Wrong {
                part: Part::Host,
                what: "<script>".into(),
                expected: "1".into(),
                got: "2".into(),
            }],
            ended: Ended::Complete,
            ..Outcome::default()
        };
        let change = Change::default();
        Report {
            host: host.into(),
            begun: Timestamp(0),
            tier: Tier::Quick,
            records: vec![Record {
                step: steps(&[Item::Links], Tier::Quick, &Parts::default()).remove(0),
                validity: Validity::Valid,
                failures: hard::failures(&outcome, &change, &[]),
                outcome,
                change,
            }],
            vendor: vec![],
        }
    }

    #[test]
    fn the_page_needs_nothing_else_and_trusts_nobody() {
        let page = html(&report("<b>host</b>"));
        for forbidden in [
            "http:", "https:", "<script", "src=", "<b>", "@import", "url(",
        ] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert!(page.contains("&lt;b&gt;host") && page.contains("&lt;script&gt;"));
        for tag in ["table", "svg", "ul", "h2", "body", "html"] {
            let (opened, closed) = (format!("<{tag}"), format!("</{tag}>"));
            assert_eq!(
                page.matches(&opened).count(),
                page.matches(&closed).count(),
                "{tag}"
            );
        }
    }

    #[test]
    fn it_shows_numbers_distributions_and_the_matrix() {
        let page = html(&report("node"));
        assert!(page.contains("12.0 GB/s") && page.contains("22.0 GB/s"));
        assert!(page.contains("<rect") && page.contains("<polyline"));
        assert!(page.contains("hsl(0 ") && page.contains("hsl(120 "));
        assert!(page.contains("failed"));
    }
}
