//! The report as one HTML page: no script, no picture, no address but its own. What came from elsewhere is escaped.

use std::fmt::Write as _;

use super::{Matrix, Report, Summary, figure, goodness, in_words, matrices, summaries};
use crate::stress::number::{real, real_of};
use crate::stress::suite::Record;
use crate::stress::vendor::VendorResult;
use crate::stress::verdict::validity::Validity;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--dim:#777;--bar:#3b7dd8;--bad:#c0392b;--odd:#b7791f;--good:#2e7d32}\
body{font:15px/1.45 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}\
h1{font-size:1.5em;margin-bottom:0}h2{font-size:1.15em;margin:2em 0 .3em;border-bottom:1px solid var(--line)}\
.dim{color:var(--dim)}table{border-collapse:collapse;margin:.6em 0}\
td,th{padding:.15em .9em .15em 0;text-align:left;vertical-align:middle}th{font-weight:600;color:var(--dim)}\
td.n{text-align:right;font-variant-numeric:tabular-nums}\
.badge{font-size:.8em;padding:.1em .5em;border-radius:.7em;color:#fff;vertical-align:middle}\
.good{background:var(--good)}.odd{background:var(--odd)}.bad{background:var(--bad)}\
svg{vertical-align:middle}.heat td{width:3.4em;text-align:center;border:1px solid var(--line);padding:.3em;font-size:.85em}\
ul{margin:.3em 0;padding-left:1.2em}";

/// The whole page.
pub fn html(report: &Report) -> String {
    let mut page = String::new();
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Stress test of {host}</title>\
         <style>{STYLE}</style></head><body>\n<h1>Stress test of {host}</h1>\
         <p class=\"dim\">{begun}, {tier} tier, {count} tests</p>\n",
        host = escaped(&report.host),
        begun = escaped(&report.begun.to_string()),
        tier = format!("{:?}", report.tier).to_lowercase(),
        count = report.records.len(),
    );
    for record in &report.records {
        section(&mut page, record);
    }
    vendor(&mut page, report);
    page.push_str("</body></html>\n");
    page
}

fn section(page: &mut String, record: &Record) {
    let (class, word, why) = badge(record);
    let _ = writeln!(
        page,
        "<h2>{}: {} <span class=\"badge {class}\">{word}</span></h2>",
        record.step.item.name(),
        escaped(&record.step.name)
    );
    if let Some(why) = why {
        let _ = writeln!(page, "<p>{}</p>", escaped(&why));
    }
    list(page, record.failures.iter().map(in_words));
    let lines = summaries(record);
    if !lines.is_empty() {
        page.push_str(
            "<table><tr><th>metric</th><th>part</th><th>samples</th><th>median</th><th>95 % better than</th>\
             <th>variation</th><th>distribution</th><th>over time</th></tr>\n",
        );
        for line in &lines {
            row(page, line);
        }
        page.push_str("</table>\n");
    }
    for matrix in matrices(&lines) {
        heat(page, &matrix);
    }
    list(page, record.outcome.remarks.iter().cloned());
    passive(page, record);
}

fn badge(record: &Record) -> (&'static str, &'static str, Option<String>) {
    if !record.failures.is_empty() {
        return ("bad", "failed", None);
    }
    match &record.validity {
        Validity::Valid => ("good", "measured", None),
        Validity::Contended(why) => ("odd", "contended", Some(why.clone())),
        Validity::Throttled(why) => ("odd", "throttled", Some(why.clone())),
        Validity::Incomplete(why) => ("odd", "incomplete", Some(why.clone())),
        Validity::CouldNotRun(why) => ("odd", "could not run", Some(why.clone())),
    }
}

fn list(page: &mut String, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return;
    }
    page.push_str("<ul>");
    for line in lines {
        let _ = write!(page, "<li>{}</li>", escaped(&line));
    }
    page.push_str("</ul>\n");
}

fn row(page: &mut String, line: &Summary) {
    let variation = line
        .variation
        .map_or(String::new(), |share| format!("{:.1} %", share * 100.0));
    let unit = line.metric.unit();
    let _ = write!(
        page,
        "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{} {unit}</td>\
         <td class=\"n\">{} {unit}</td><td class=\"n\">{variation}</td><td>",
        line.metric.name().replace('_', " "),
        escaped(&line.part.to_string()),
        line.count,
        figure(line.median),
        figure(line.worse),
    );
    bars(page, &line.bars);
    page.push_str("</td><td>");
    over_time(page, &line.values);
    page.push_str("</td></tr>\n");
}

/// Bars beside each other; a tail of few stays visible.
fn bars(page: &mut String, bars: &[(f64, u64)]) {
    const HEIGHT: f64 = 28.0;
    let Some(most) = bars
        .iter()
        .map(|(_, count)| *count)
        .max()
        .filter(|most| *most > 0)
    else {
        return;
    };
    let width = 160.0 / real_of(bars.len());
    page.push_str("<svg width=\"160\" height=\"28\" role=\"img\">");
    for (position, (upper, count)) in bars.iter().enumerate().filter(|(_, (_, count))| *count > 0) {
        let height = (real(*count) / real(most) * HEIGHT).max(1.0);
        let _ = write!(
            page,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"var(--bar)\"><title>up to {}: {count}</title></rect>",
            real_of(position) * width,
            HEIGHT - height,
            (width - 0.5).max(0.5),
            figure(*upper),
        );
    }
    page.push_str("</svg>");
}

/// Samples in their order, as a line between the least and the most.
fn over_time(page: &mut String, values: &[f64]) {
    /// More points than this cannot be told apart.
    const POINTS: usize = 160;
    if values.len() < 3 {
        return;
    }
    let (least, most) = values.iter().fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), value| (least.min(*value), most.max(*value)),
    );
    let range = (most - least).max(f64::MIN_POSITIVE);
    let step = values.len().div_ceil(POINTS);
    let shown = values.chunks(step);
    let width = 160.0 / real_of(shown.len().max(2) - 1);
    page.push_str("<svg width=\"160\" height=\"28\" role=\"img\"><polyline fill=\"none\" stroke=\"var(--bar)\" points=\"");
    for (position, chunk) in shown.enumerate() {
        // Of the values that share a point the one farthest down shows: dips must not vanish.
        let value = chunk.iter().copied().fold(f64::INFINITY, f64::min);
        let _ = write!(
            page,
            "{:.1},{:.1} ",
            real_of(position) * width,
            27.0 - (value - least) / range * 26.0
        );
    }
    page.push_str("\"/></svg>");
}

fn heat(page: &mut String, matrix: &Matrix) {
    let all: Vec<f64> = matrix.cells.iter().flatten().flatten().copied().collect();
    let _ = write!(
        page,
        "<table class=\"heat\"><tr><th>{} ({}), from down, to across</th>",
        matrix.metric.name().replace('_', " "),
        matrix.metric.unit()
    );
    for place in &matrix.places {
        let _ = write!(page, "<th>{place}</th>");
    }
    page.push_str("</tr>\n");
    for (place, cells) in matrix.places.iter().zip(&matrix.cells) {
        let _ = write!(page, "<tr><th>{place}</th>");
        for cell in cells {
            let _ = match cell {
                // From red over yellow to green.
                Some(value) => write!(
                    page,
                    "<td style=\"background:hsl({:.0} 60% 50% / .5)\">{}</td>",
                    goodness(matrix.metric, *value, &all) * 120.0,
                    figure(*value)
                ),
                None => write!(page, "<td></td>"),
            };
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

fn passive(page: &mut String, record: &Record) {
    let telling: Vec<(&String, &u64)> = record
        .change
        .grown
        .iter()
        .filter(|(name, _)| !name.starts_with("cpu/"))
        .collect();
    if telling.is_empty() {
        return;
    }
    page.push_str("<details><summary class=\"dim\">counters that grew meanwhile</summary><table>");
    for (name, grown) in telling {
        let _ = write!(
            page,
            "<tr><td>{}</td><td class=\"n\">{grown}</td></tr>",
            escaped(name)
        );
    }
    page.push_str("</table></details>\n");
}

fn vendor(page: &mut String, report: &Report) {
    if report.vendor.is_empty() {
        return;
    }
    page.push_str("<h2>Tools of vendors</h2><table>\n");
    for answer in &report.vendor {
        let said = match &answer.result {
            VendorResult::NotPresent => "not present".to_owned(),
            VendorResult::CouldNotRun(why) => format!("could not run: {why}"),
            VendorResult::Checks(checks) => checks
                .iter()
                .map(|check| format!("{}: {}", check.name, check.state.word()))
                .collect::<Vec<_>>()
                .join("; "),
        };
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td></tr>",
            escaped(&answer.command),
            escaped(&said)
        );
    }
    page.push_str("</table>\n");
}

/// Text that cannot be taken for markup.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            letter if letter.is_control() => safe.push(' '),
            letter => safe.push(letter),
        }
    }
    safe
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
