//! A message as people read it. Its words come from machines that may be broken, or worse: no control character gets through.

use std::fmt::Write;

use supernode_types::event::Severity;
use supernode_types::message::{Message, Notice, NoticeStatus};

/// The longest title, in characters.
const LONGEST_TITLE: usize = 120;

/// One line: the first thing that is told, and how many more there are.
pub(crate) fn title(message: &Message) -> String {
    let Some(first) = worst(message) else {
        return "supernode".into();
    };
    let words: String = clean(&first.message).chars().take(LONGEST_TITLE).collect();
    let more = count(message).saturating_sub(1);
    let tail = match more {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    format!("[{}] {words}{tail}", word(first))
}

/// A line for each notice, at most `limit` bytes.
pub(crate) fn lines(message: &Message, limit: usize) -> String {
    // Room for the line that says how many are left out.
    let room = limit.saturating_sub(40);
    let mut text = String::new();
    let mut told = 0;
    for notice in &message.notices {
        let line = line(notice);
        if text.len() + line.len() + 1 > room {
            break;
        }
        text.push_str(&line);
        text.push('\n');
        told += 1;
    }
    let left = count(message) - told;
    if left > 0 {
        let _ = writeln!(text, "… and {left} more");
    }
    text
}

fn line(notice: &Notice) -> String {
    let super_node = match &notice.super_node {
        Some(name) => format!("{name}: "),
        None => String::new(),
    };
    let run = match &notice.run {
        Some(run) => format!(" ({run})"),
        None => String::new(),
    };
    let at = notice.at.to_string();
    let moment = at.split('.').next().unwrap_or_default();
    format!(
        "{moment}Z [{}] {super_node}{}{run}",
        word(notice),
        clean(&notice.message)
    )
}

fn word(notice: &Notice) -> &'static str {
    match (notice.status, notice.severity) {
        (NoticeStatus::Resolved { .. }, _) => "over",
        (NoticeStatus::Firing, severity) => severity.word(),
    }
}

fn worst(message: &Message) -> Option<&Notice> {
    let rank = |notice: &&Notice| match notice.status {
        NoticeStatus::Firing => Some(notice.severity),
        NoticeStatus::Resolved { .. } => None::<Severity>,
    };
    // The first of the worst, not the last.
    message.notices.iter().rev().max_by_key(rank)
}

fn count(message: &Message) -> usize {
    let omitted = usize::try_from(message.omitted).unwrap_or(usize::MAX);
    message.notices.len().saturating_add(omitted)
}

/// Without control characters, and on one line.
pub(crate) fn clean(text: &str) -> String {
    let bidirectional = |character: char| matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
    text.chars()
        .map(|character| {
            if character.is_control() || bidirectional(character) {
                ' '
            } else {
                character
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::sample::message;

    #[test]
    fn the_title_is_the_worst_and_counts_the_others() {
        let mut message = message();
        assert_eq!(
            title(&message),
            "[error] node n1 is quarantined and takes no new work: memory (and 2 more)"
        );
        message.notices.truncate(1);
        assert!(title(&message).starts_with("[warning] node n1: memory was slow once"));
        message.notices.clear();
        assert_eq!(title(&message), "supernode");
    }

    #[test]
    fn lines_fit_and_say_what_they_leave_out() {
        let mut message = message();
        message.omitted = 7;
        let all = lines(&message, 10_000);
        assert_eq!(all.lines().count(), 4);
        assert!(all.ends_with("… and 7 more\n"), "{all}");
        assert!(
            all.contains("2025-11-23T12:13:20Z [error] train: node n1 is quarantined"),
            "{all}"
        );
        assert!(all.contains("[over] train: the system disk of n1"), "{all}");
        let first = all.lines().next().expect("a line").len();
        let short = lines(&message, first + 41);
        assert!(
            short.len() <= first + 41 && short.ends_with("… and 9 more\n"),
            "{short}"
        );
        assert!(lines(&message, 50).starts_with("… and 10 more"));
    }

    #[test]
    fn no_control_character_gets_through() {
        assert_eq!(clean("a\u{1b}[31m\r\nb\u{202e}c\u{2028}é"), "a [31m  b c é");
    }
}
