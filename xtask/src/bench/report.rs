//! What was measured, as a table for people and as JSON for comparing runs. Only measured figures appear; a suite that no contender
//! answered is named below the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::ENTRANTS;
use super::machine::Machine;
use super::suites::{Suite, Unit};

/// What one contender said to one suite.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// One figure per run, in base units.
    Figures(Vec<f64>),
    Failed(String),
    /// The contender has no such thing.
    Nothing,
}

impl Answer {
    fn median(&self) -> Option<f64> {
        match self {
            Self::Figures(figures) => Some(median(figures)),
            Self::Failed(_) | Self::Nothing => None,
        }
    }

    /// Median and spread in one line.
    pub(crate) fn describe(&self, unit: Unit) -> String {
        match self {
            Self::Figures(figures) => {
                let runs: Vec<String> = figures.iter().map(|figure| unit.show(*figure)).collect();
                format!(
                    "{} {} (runs: {})",
                    unit.show(median(figures)),
                    unit.label(),
                    runs.join(" ")
                )
            }
            Self::Failed(reason) => format!("failed: {reason}"),
            Self::Nothing => "nothing to measure".to_owned(),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    nodes: u32,
    configurations: BTreeMap<&'static str, String>,
    suites: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    about: &'static str,
    unit: Unit,
    goal: Option<f64>,
    answers: BTreeMap<&'static str, Answer>,
    medians: BTreeMap<&'static str, f64>,
}

impl Report {
    pub(crate) fn new(machine: Machine, nodes: u32, suites: &[&Suite]) -> Self {
        let rows = suites
            .iter()
            .map(|suite| Row {
                name: suite.name,
                about: suite.about,
                unit: suite.unit,
                goal: suite.goal,
                answers: BTreeMap::new(),
                medians: BTreeMap::new(),
            })
            .collect();
        Self {
            machine,
            nodes,
            configurations: BTreeMap::new(),
            suites: rows,
        }
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Prints a contender's configuration when it is started for the first time.
    pub(crate) fn configured(&mut self, contender: &'static str, configuration: &str) {
        if self
            .configurations
            .insert(contender, configuration.to_owned())
            .is_none()
        {
            println!(
                "\n--- {contender}, configuration\n{}\n---\n",
                configuration.trim_end()
            );
        }
    }

    pub(crate) fn record(&mut self, contender: &'static str, suite: &Suite, answer: Answer) {
        let row = self
            .suites
            .iter_mut()
            .find(|row| row.name == suite.name)
            .expect("the report was made for these suites");
        if let Some(median) = answer.median() {
            row.medians.insert(contender, median);
        }
        row.answers.insert(contender, answer);
    }

    pub(crate) fn finish(&mut self) -> Result<()> {
        self.machine.measured()
    }

    pub(crate) fn has_failures(&self) -> bool {
        self.suites
            .iter()
            .flat_map(|row| row.answers.values())
            .any(|answer| matches!(answer, Answer::Failed(_)))
    }

    /// Side by side: the project, its peer, how many times better the project is, and its goal.
    pub(crate) fn table(&self) -> String {
        let [ours, theirs] = ENTRANTS.map(|entrant| entrant.name);
        let mut lines =
            vec![["suite", "unit", ours, theirs, "ratio", "goal", "what"].map(str::to_owned)];
        let mut unanswered = Vec::new();
        for row in &self.suites {
            let cell = |name: &str| match row.answers.get(name) {
                Some(Answer::Failed(_)) => "failed".to_owned(),
                _ => row
                    .medians
                    .get(name)
                    .map_or("-".to_owned(), |figure| row.unit.show(*figure)),
            };
            let (our_figure, their_figure) = (row.medians.get(ours), row.medians.get(theirs));
            if row
                .answers
                .values()
                .all(|answer| matches!(answer, Answer::Nothing))
            {
                unanswered.push(row.name);
                continue;
            }
            let ratio = match (our_figure, their_figure) {
                (Some(ours), Some(theirs)) => format!("{:.1}x", row.unit.advantage(*ours, *theirs)),
                _ => "-".to_owned(),
            };
            let goal = match (row.goal, our_figure) {
                (None, _) => "-".to_owned(),
                (Some(goal), None) => row.unit.show(goal),
                (Some(goal), Some(figure)) => {
                    let verdict = if row.unit.reaches(*figure, goal) {
                        "met"
                    } else {
                        "MISSED"
                    };
                    format!("{} {verdict}", row.unit.show(goal))
                }
            };
            lines.push([
                row.name.to_owned(),
                row.unit.label().to_owned(),
                cell(ours),
                cell(theirs),
                ratio,
                goal,
                row.about.to_owned(),
            ]);
        }
        let mut text = align(&lines);
        let _ = writeln!(
            text,
            "\n{} nodes (goals are for 32); medians; ratio: how many times better {ours} is",
            self.nodes
        );
        let _ = write!(text, "{}", self.machine);
        if !unanswered.is_empty() {
            let _ = write!(text, "\nnot measured: {}", unanswered.join(", "));
        }
        text
    }
}

/// Columns as wide as their widest cell: text to the left, figures to the right.
fn align<const COLUMNS: usize>(lines: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = width(column);
            let left = column < 2 || column == COLUMNS - 1;
            let _ = if left {
                write!(row, "{cell:<width$}  ")
            } else {
                write!(row, "{cell:>width$}  ")
            };
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// The middle figure, or the mean of the two middle ones. Takes at least one.
fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::suites::SUITES;

    #[test]
    fn medians() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!((median(&[7.0]) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn table_shows_only_what_was_measured() {
        let suites: Vec<&Suite> = SUITES.iter().collect();
        let find = |name: &str| {
            *suites
                .iter()
                .find(|suite| suite.name == name)
                .expect("is there")
        };
        let mut report = Report::new(Machine::here().expect("Linux"), 32, &suites);
        report.record(
            "slurm",
            find("gang-run"),
            Answer::Figures(vec![0.36, 0.32, 0.40]),
        );
        report.record("supernode", find("gang-run"), Answer::Figures(vec![0.09]));
        report.record("slurm", find("jobs"), Answer::Figures(vec![36.0]));
        report.record(
            "slurm",
            find("command"),
            Answer::Failed("no munge".to_owned()),
        );
        let table = report.table();
        let row = |name: &str| {
            let line = table
                .lines()
                .find(|line| line.starts_with(name))
                .expect("has a row");
            line.split_whitespace()
                .take(6)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(row("gang-run "), "gang-run ms 90 360 4.0x 120");
        assert!(table.contains("120 met"));
        assert_eq!(row("jobs "), "jobs /s - 36 - 150");
        assert_eq!(row("command "), "command ms - failed - 150");
        assert!(table.contains("not measured: gang-run-4, gang-run-1"));
        assert!(report.has_failures());
    }
}
