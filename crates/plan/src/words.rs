//! How lists are put into one line. A line is stable: it has no times and no counts that change while nothing happens.

use std::fmt::Display;

/// The first line, and how many more there are.
pub(crate) fn first_and_more(lines: &[String]) -> Option<String> {
    let first = lines.first()?;
    Some(if lines.len() == 1 {
        first.clone()
    } else {
        format!("{first} (+{} more)", lines.len() - 1)
    })
}

/// `a, b, c and 4 more`: at most `most` of them.
pub(crate) fn list<T: Display>(items: impl ExactSizeIterator<Item = T>, most: usize) -> String {
    let count = items.len();
    let shown: Vec<String> = items.take(most).map(|item| item.to_string()).collect();
    let more = count - shown.len();
    if more == 0 {
        shown.join(", ")
    } else {
        format!("{} and {more} more", shown.join(", "))
    }
}

/// `1 node`, `3 nodes`.
pub(crate) fn count(number: usize, word: &str) -> String {
    if number == 1 {
        format!("1 {word}")
    } else {
        format!("{number} {word}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_stay_one_line_long() {
        assert_eq!(list(["a", "b"].iter(), 3), "a, b");
        assert_eq!(
            list(["a", "b", "c", "d", "e"].iter(), 3),
            "a, b, c and 2 more"
        );
        assert_eq!(
            first_and_more(&["x".into(), "y".into()]).as_deref(),
            Some("x (+1 more)")
        );
        assert_eq!(first_and_more(&[]), None);
        assert_eq!(
            (count(1, "node"), count(0, "node")),
            ("1 node".into(), "0 nodes".into())
        );
    }
}
