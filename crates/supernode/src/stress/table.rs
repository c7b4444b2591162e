//! The result as plain lines.

use std::fmt::Write as _;

use supernode_probe::stress::report::{Report, figure, in_words, summaries};
use supernode_probe::stress::suite::Record;
use supernode_probe::stress::vendor::VendorResult;
use supernode_probe::stress::verdict::validity::Validity;

/// Parts of one metric that are shown one by one; of more only the worst and the best.
const MOST_PARTS: usize = 16;

pub(super) fn table(report: &Report) -> String {
    let mut text = String::new();
    for record in &report.records {
        section(&mut text, record);
    }
    if !report.vendor.is_empty() {
        text.push_str("tools of vendors\n");
    }
    for answer in &report.vendor {
        let said = match &answer.result {
            VendorResult::NotPresent => "not present".to_owned(),
            VendorResult::CouldNotRun(why) => format!("could not run: {why}"),
            VendorResult::Checks(checks) => checks
                .iter()
                .map(|check| {
                    let device = check
                        .device
                        .map_or(String::new(), |device| format!(" (device {device})"));
                    format!("{}{device} {}", check.name, check.state.word())
                })
                .collect::<Vec<_>>()
                .join(", "),
        };
        let _ = writeln!(text, "  {}: {}", answer.command, clean(&said));
    }
    text
}

fn section(text: &mut String, record: &Record) {
    let (word, why) = match &record.validity {
        Validity::Valid => ("", ""),
        Validity::Contended(why) => ("CONTENDED: ", why.as_str()),
        Validity::Throttled(why) => ("THROTTLED: ", why.as_str()),
        Validity::Incomplete(why) => ("INCOMPLETE: ", why.as_str()),
        Validity::CouldNotRun(why) => ("COULD NOT RUN: ", why.as_str()),
    };
    let _ = writeln!(
        text,
        "{}: {}",
        record.step.item.name(),
        clean(&record.step.name)
    );
    if !word.is_empty() {
        let _ = writeln!(text, "  {word}{}", clean(why));
    }
    for failure in &record.failures {
        let _ = writeln!(text, "  FAILED: {}", clean(&in_words(failure)));
    }
    let lines = summaries(record);
    if !lines.is_empty() {
        let _ = writeln!(
            text,
            "  {:<22} {:<18} {:>8} {:>14} {:>16} {:>10}",
            "metric", "part", "samples", "median", "95 % better than", "variation"
        );
    }
    for parts in lines.chunk_by(|one, other| one.metric == other.metric) {
        for line in parts.iter().take(MOST_PARTS) {
            let unit = line.metric.unit();
            let _ = writeln!(
                text,
                "  {:<22} {:<18} {:>8} {:>14} {:>16} {:>10}",
                line.metric.name(),
                clean(&line.part.to_string()),
                line.count,
                format!("{} {unit}", figure(line.median)),
                format!("{} {unit}", figure(line.worse)),
                line.variation
                    .map_or(String::new(), |share| format!("{:.1} %", share * 100.0)),
            );
        }
        if parts.len() > MOST_PARTS {
            let _ = writeln!(
                text,
                "  … {} more parts; see --output json or html",
                parts.len() - MOST_PARTS
            );
        }
    }
    for remark in &record.outcome.remarks {
        let _ = writeln!(text, "  {}", clean(remark));
    }
    let grown: Vec<String> = record
        .change
        .grown
        .iter()
        .filter(|(name, _)| !name.starts_with("cpu/"))
        .map(|(name, grown)| format!("{} +{grown}", clean(name)))
        .collect();
    if !grown.is_empty() {
        let _ = writeln!(text, "  meanwhile: {}", grown.join(", "));
    }
    text.push('\n');
}

/// Without control characters, which could act on the terminal.
fn clean(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}
