//! How results look: tables without borders, aligned fields, short ages, colours only where a person sees them.

use std::io::Write;

use comfy_table::{Cell, Color};
use supernode_types::Timestamp;

use crate::failure::Failure;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// Exactly the API's JSON; lists are arrays
    Json,
    /// One page without anything outside; for reports of `stress` only
    Html,
    /// A line for each node, as `SuperBench` reads it; for `stress report` only
    SuperbenchJsonl,
}

impl Format {
    /// Refuses a format that only reports have.
    pub fn of_everything(self) -> Result<(), &'static str> {
        match self {
            Self::Table | Self::Json => Ok(()),
            Self::Html | Self::SuperbenchJsonl => {
                Err("only reports of `stress` have this format; use --output table or json")
            }
        }
    }
}

/// What rendering depends on besides the thing itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Ages count from here.
    pub(crate) now: Timestamp,
    /// Whether states are coloured.
    pub(crate) color: bool,
}

impl Look {
    /// How long ago `moment` was, in one or two units.
    pub(crate) fn age(&self, moment: Timestamp) -> String {
        seconds(self.now.since(moment).as_secs())
    }

    /// A moment with its age.
    pub(crate) fn moment(&self, moment: Timestamp) -> String {
        let text = moment.to_string();
        let short = text
            .split_once('.')
            .map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"));
        // Clocks of two machines differ a little: what is done is never said to be in the future.
        if moment.since(self.now).as_secs() >= 2 {
            format!("{short} (in {})", seconds(moment.since(self.now).as_secs()))
        } else {
            format!("{short} ({} ago)", self.age(moment))
        }
    }
}

/// A duration as people say it: `7s`, `3m20s`, `5h`, `2d4h`.
pub(crate) fn seconds(seconds: u64) -> String {
    let (large, small) = match seconds {
        0..60 => ((seconds, "s"), (0, "")),
        60..3600 => (
            (seconds / 60, "m"),
            (if seconds < 600 { seconds % 60 } else { 0 }, "s"),
        ),
        3600..86_400 => (
            (seconds / 3600, "h"),
            (
                if seconds < 36_000 {
                    seconds % 3600 / 60
                } else {
                    0
                },
                "m",
            ),
        ),
        _ => (
            (seconds / 86_400, "d"),
            (
                if seconds < 864_000 {
                    seconds % 86_400 / 3600
                } else {
                    0
                },
                "h",
            ),
        ),
    };
    if small.0 == 0 {
        format!("{}{}", large.0, large.1)
    } else {
        format!("{}{}{}{}", large.0, large.1, small.0, small.1)
    }
}

/// Bytes as people say them.
pub(crate) fn bytes(count: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| count >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = (u128::from(count) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{count} B"),
    }
}

/// The text without control characters, which could act on the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

/// What stands in a cell that has nothing to say.
pub(crate) const NOTHING: &str = "-";

/// A value, or a dash.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| value.to_string())
}

/// `key=value,…`, or a dash.
pub(crate) fn pairs(pairs: &std::collections::BTreeMap<String, String>) -> String {
    if pairs.is_empty() {
        return NOTHING.to_owned();
    }
    pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

/// A table without borders.
#[derive(Debug)]
pub(crate) struct Table {
    inner: comfy_table::Table,
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new(heads: &[&str]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner
            .load_style(comfy_table::presets::NOTHING)
            .set_header(heads.iter().copied());
        Self { inner }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Text>) {
        self.inner.add_row(cells.into_iter().map(|cell| match cell {
            Text::Plain(text) => Cell::new_owned(text),
            Text::State(word, color) => Cell::new_owned(word).fg(color),
        }));
    }

    /// The lines of the table, each with its line end.
    pub(crate) fn render(mut self, look: &Look) -> String {
        if look.color {
            self.inner.enforce_styling();
        } else {
            self.inner.force_no_tty();
        }
        let last = self.inner.column_count().saturating_sub(1);
        for (index, column) in self.inner.column_iter_mut().enumerate() {
            column.set_padding((0, if index == last { 0 } else { 2 }));
        }
        self.inner
            .lines()
            .map(|line| line.trim_end().to_owned() + "\n")
            .collect()
    }
}

/// The content of a cell.
#[derive(Debug, Clone)]
pub(crate) enum Text {
    /// As it is.
    Plain(String),
    /// A state word in its colour.
    State(String, Color),
}

/// A plain cell.
#[expect(
    clippy::needless_pass_by_value,
    reason = "callers have values and references alike"
)]
pub(crate) fn cell(text: impl ToString) -> Text {
    Text::Plain(clean(&text.to_string()))
}

/// A state word: green is well, red is broken, yellow is on its way or held.
pub(crate) fn state(word: &str) -> Text {
    let color = match word {
        "ready" | "running" | "succeeded" | "in_service" | "proven" | "done" | "member"
        | "applied" | "active" | "OK" => Color::Green,
        "lost" | "failed" | "error" | "quarantined" | "node_lost" | "timed_out" | "removed"
        | "revoked" | "FAIL" => Color::Red,
        "unknown" | "unproven" | "spare" | "ended" | "info" | "expired" => return cell(word),
        _ => Color::Yellow,
    };
    Text::State(clean(word), color)
}

/// Named values, one per line, aligned. Values of several lines are indented below their name.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in fields {
        let mut lines = value.lines();
        let first = clean(lines.next().unwrap_or(NOTHING));
        text.push_str(
            format!("{:width$}  {first}", format!("{name}:"), width = width + 1).trim_end(),
        );
        text.push('\n');
        for line in lines {
            add(
                &mut text,
                format_args!("{:width$}  {}\n", "", clean(line), width = width + 1),
            );
        }
    }
    text
}

/// A head and what stands below it, nothing if that is empty.
pub(crate) fn section(head: &str, body: &str) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!("\n{head}\n{body}")
    }
}

/// Appends formatted text.
pub(crate) fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    std::fmt::Write::write_fmt(text, arguments).expect("a string takes everything");
}

/// Writes to standard output at once.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    write_bytes(text.as_bytes())
}

/// Writes to standard output at once.
pub(crate) fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Output(error),
        })
}

/// A line on standard error. What cannot be said is not worth failing for.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look {
        now: Timestamp(1_763_900_000_000_000),
        color: false,
    };

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_spaces() {
        let mut table = Table::new(&["NAME", "STATE", "DETAIL"]);
        table.row([cell("n1"), state("ready"), cell("")]);
        table.row([cell("node-number-2"), state("lost"), cell("since\nnoon")]);
        assert_eq!(
            table.render(&PLAIN),
            "NAME           STATE  DETAIL\nn1             ready\nnode-number-2  lost   since noon\n"
        );
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::new(&["STATE", "NAME"]);
        table.row([state("ready"), cell("n1")]);
        let text = table.render(&Look {
            color: true,
            ..PLAIN
        });
        assert!(text.contains('\u{1b}'), "{text:?}");
        let plain: String = text
            .split('\u{1b}')
            .map(|part| part.split_once('m').map_or(part, |(_, rest)| rest))
            .collect();
        assert_eq!(plain, "STATE  NAME\nready  n1\n");
    }

    #[test]
    fn ages_are_short() {
        let text: Vec<String> = [0, 59, 60, 200, 601, 3600, 5400, 86_400, 100_000]
            .into_iter()
            .map(seconds)
            .collect();
        assert_eq!(
            text,
            [
                "0s", "59s", "1m", "3m20s", "10m", "1h", "1h30m", "1d", "1d3h"
            ]
        );
        assert_eq!(PLAIN.age(Timestamp(PLAIN.now.0 + 5)), "0s");
        assert_eq!(
            PLAIN.moment(Timestamp(PLAIN.now.0 - 7_000_000)),
            "2025-11-23T12:13:13Z (7s ago)"
        );
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            [bytes(5), bytes(1536), bytes(64 << 30), bytes(u64::MAX)],
            ["5 B", "1.5 KiB", "64.0 GiB", "16777215.9 TiB"]
        );
    }

    #[test]
    fn fields_are_aligned() {
        assert_eq!(
            fields(&[
                ("name", "a".into()),
                ("long name", "b\nc".into()),
                ("x", String::new())
            ]),
            "name:       a\nlong name:  b\n            c\nx:          -\n"
        );
    }
}
