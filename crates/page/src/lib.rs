//! Pages for people: one HTML file with its style and its drawings inside. No script, no picture, no address of anything else, so it can
//! be mailed, archived and opened anywhere.
//!
//! Text is escaped here and nowhere else: whoever makes a page cannot put markup into it, and neither can what a node or a tool said.

mod drawing;

use std::fmt::Write as _;

pub use drawing::{Drawing, bars, over_time, strip};

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--dim:#777;--bar:#3b7dd8;--bad:#c0392b;--odd:#b7791f;--good:#2e7d32}\
body{font:15px/1.45 system-ui,sans-serif;max-width:75em;margin:2em auto;padding:0 1em}\
h1{font-size:1.5em;margin-bottom:0}h2{font-size:1.15em;margin:2em 0 .3em;border-bottom:1px solid var(--line)}\
.dim,summary{color:var(--dim)}table{border-collapse:collapse;margin:.6em 0}\
td,th{padding:.15em .9em .15em 0;text-align:left;vertical-align:middle}th{font-weight:600;color:var(--dim)}\
td.n{text-align:right;font-variant-numeric:tabular-nums}\
.badge{font-size:.8em;padding:.1em .5em;border-radius:.7em;color:#fff;vertical-align:middle}\
.good{background:var(--good)}.odd{background:var(--odd)}.bad{background:var(--bad)}\
svg{vertical-align:middle}.wide{overflow-x:auto}\
.heat td{min-width:2.6em;text-align:center;border:1px solid var(--line);padding:.3em;font-size:.85em}\
ul{margin:.3em 0;padding-left:1.2em}";

/// What a word stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// All is well.
    Good,
    /// Neither good nor bad.
    Odd,
    /// Something is wrong.
    Bad,
}

impl Mood {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Odd => "odd",
            Self::Bad => "bad",
        }
    }
}

/// What stands in a table.
#[derive(Debug, Clone)]
pub enum Cell {
    /// Text.
    Text(String),
    /// A number with its unit: it stands to the right.
    Number(String),
    /// A word with its mood.
    Badge(Mood, String),
    /// A drawing.
    Drawing(Drawing),
}

/// A square of values: from down, to across.
#[derive(Debug, Clone)]
pub struct Heat {
    /// What the values are.
    pub title: String,
    /// The names of the rows, and of the columns.
    pub places: Vec<String>,
    /// Row by row: how good the value is among the others, 0 to 1, and the value as text.
    pub cells: Vec<Vec<Option<(f64, String)>>>,
}

/// A page that is being made.
#[derive(Debug, Clone)]
pub struct Page {
    text: String,
}

impl Page {
    /// A page with a title, and a line below it.
    pub fn new(title: &str, below: &str) -> Self {
        let (title, below) = (escaped(title), escaped(below));
        let text = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
             <style>{STYLE}</style></head><body>\n<h1>{title}</h1><p class=\"dim\">{below}</p>\n"
        );
        Self { text }
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str, badge: Option<(Mood, &str)>) {
        let badge = badge.map_or_else(String::new, |(mood, word)| {
            format!(" {}", marked(mood, word))
        });
        self.put(format_args!("<h2>{}{badge}</h2>\n", escaped(title)));
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.put(format_args!("<p>{}</p>\n", escaped(text)));
    }

    /// A list; nothing when there is nothing in it.
    pub fn list(&mut self, lines: impl IntoIterator<Item = String>) {
        let items = each("li", lines);
        if !items.is_empty() {
            self.put(format_args!("<ul>{items}</ul>\n"));
        }
    }

    /// A table; nothing when it has no rows.
    pub fn table(&mut self, heads: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) {
        let mut body = String::new();
        for row in rows {
            body.push_str("<tr>");
            for cell in row {
                let _ = match cell {
                    Cell::Text(text) => write!(body, "<td>{}</td>", escaped(&text)),
                    Cell::Number(text) => write!(body, "<td class=\"n\">{}</td>", escaped(&text)),
                    Cell::Badge(mood, word) => write!(body, "<td>{}</td>", marked(mood, &word)),
                    Cell::Drawing(drawing) => write!(body, "<td>{}</td>", drawing.markup()),
                };
            }
            body.push_str("</tr>\n");
        }
        if body.is_empty() {
            return;
        }
        let heads = each("th", heads);
        let heads = if heads.is_empty() {
            heads
        } else {
            format!("<tr>{heads}</tr>\n")
        };
        self.put(format_args!(
            "<div class=\"wide\"><table>{heads}{body}</table></div>\n"
        ));
    }

    /// A square of values, from red over yellow to green.
    pub fn heat(&mut self, heat: &Heat) {
        let heads = each("th", &heat.places);
        let mut body = format!(
            "<tr><th>{}, from down, to across</th>{heads}</tr>\n",
            escaped(&heat.title)
        );
        for (place, cells) in heat.places.iter().zip(&heat.cells) {
            let _ = write!(body, "<tr><th>{}</th>", escaped(place));
            for cell in cells {
                let _ = match cell {
                    Some((goodness, text)) => write!(
                        body,
                        "<td style=\"background:hsl({:.0} 60% 50% / .5)\">{}</td>",
                        goodness.clamp(0.0, 1.0) * 120.0,
                        escaped(text)
                    ),
                    None => write!(body, "<td></td>"),
                };
            }
            body.push_str("</tr>\n");
        }
        self.put(format_args!(
            "<div class=\"wide\"><table class=\"heat\">{body}</table></div>\n"
        ));
    }

    /// What is shown when it is asked for.
    pub fn details(&mut self, summary: &str, inside: impl FnOnce(&mut Self)) {
        self.put(format_args!(
            "<details><summary>{}</summary>\n",
            escaped(summary)
        ));
        inside(self);
        self.put(format_args!("</details>\n"));
    }

    /// The whole page.
    pub fn finish(mut self) -> String {
        self.text.push_str("</body></html>\n");
        self.text
    }

    fn put(&mut self, markup: std::fmt::Arguments<'_>) {
        // A String takes everything.
        let _ = self.text.write_fmt(markup);
    }
}

fn marked(mood: Mood, word: &str) -> String {
    format!(
        "<span class=\"badge {}\">{}</span>",
        mood.class(),
        escaped(word)
    )
}

/// Each text in an element of its own.
fn each(tag: &str, texts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut markup = String::new();
    for text in texts {
        let _ = write!(markup, "<{tag}>{}</{tag}>", escaped(text.as_ref()));
    }
    markup
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

    fn page() -> String {
        let evil = "<script src=http://x>\"&";
        let mut page = Page::new(evil, evil);
        page.section(evil, Some((Mood::Bad, evil)));
        page.paragraph(evil);
        page.list([evil.to_owned()]);
        page.list([]);
        page.table(
            &[evil, "drawing"],
            [vec![
                Cell::Text(evil.into()),
                Cell::Number(evil.into()),
                Cell::Badge(Mood::Good, evil.into()),
                Cell::Drawing(bars(&[(1.0, 3), (2.0, 0), (3.0, 1)])),
                Cell::Drawing(over_time(&[1.0, 2.0, 1.0, 3.0])),
                Cell::Drawing(strip(&[
                    (evil.into(), 1.0, Mood::Good),
                    ("b".into(), 2.0, Mood::Bad),
                ])),
            ]],
        );
        page.table(&["nothing"], []);
        page.heat(&Heat {
            title: evil.into(),
            places: vec![evil.into(), "b".into()],
            cells: vec![
                vec![None, Some((0.0, "10".into()))],
                vec![Some((7.0, evil.into())), None],
            ],
        });
        page.details(evil, |page| page.paragraph("inside"));
        page.finish()
    }

    #[test]
    fn a_page_needs_nothing_else_and_trusts_nobody() {
        let page = page();
        for forbidden in ["<script", "src=http", "@import", "url(", "href"] {
            assert!(
                !page.replace("&lt;script src=http", "").contains(forbidden),
                "{forbidden}"
            );
        }
        assert_eq!(
            page.matches("&lt;script src=http://x&gt;&quot;&amp;")
                .count(),
            17
        );
        for tag in [
            "table", "tr", "td", "svg", "ul", "h2", "details", "body", "html",
        ] {
            let (opened, closed) = (format!("<{tag}"), format!("</{tag}>"));
            let opened = page
                .split(&opened)
                .skip(1)
                .filter(|rest| rest.starts_with(['>', ' ']))
                .count();
            assert_eq!(opened, page.matches(&closed).count(), "{tag}");
        }
        assert!(!page.contains("nothing"), "an empty table is none");
    }

    #[test]
    fn colours_say_how_good_a_value_is() {
        let page = page();
        assert!(page.contains("hsl(0 60%") && page.contains("hsl(120 60%"));
        assert!(page.contains("var(--bad)") && page.contains("class=\"badge good\""));
    }
}
