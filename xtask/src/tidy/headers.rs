//! Every Rust file opens with a `//!` header: what it is for, why it is this way, what it refuses.

use super::Problem;
use crate::workspace::Source;

pub(super) fn check(sources: &[Source]) -> Vec<Problem> {
    sources
        .iter()
        .filter(|source| source.has_extension("rs"))
        .filter(|source| !opens_with_header(&source.text))
        .map(|source| {
            Problem::in_line(
                &source.path,
                0,
                "the first line is no `//!` header: say what the file is for, why, and what it refuses",
            )
        })
        .collect()
}

fn opens_with_header(text: &str) -> bool {
    text.lines()
        .next()
        .and_then(|line| line.strip_prefix("//!"))
        .is_some_and(|rest| rest.trim().len() > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_must_be_first_and_say_something() {
        assert!(opens_with_header("//! Leases.\n"));
        assert!(!opens_with_header("//!\n"));
        assert!(!opens_with_header("use std::fs;\n//! Leases.\n"));
        assert!(!opens_with_header(""));
    }
}
