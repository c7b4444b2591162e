//! No note-to-self survives a change: what is left out is said in a decision or an issue, where somebody reads it.

use super::Problem;
use crate::workspace::Source;

/// Written in halves, so that this file does not find itself.
const LEFTOVERS: [&str; 4] = [
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
];

pub(super) fn check(sources: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| !source.has_extension("md")) {
        for (index, line) in source.text.lines().enumerate() {
            if let Some(leftover) = LEFTOVERS
                .iter()
                .find(|leftover| contains_word(line, leftover))
            {
                problems.push(Problem::in_line(
                    &source.path,
                    index,
                    format!("`{leftover}`: finish it, or move it to an issue or a decision"),
                ));
            }
        }
    }
    problems
}

fn contains_word(line: &str, word: &str) -> bool {
    let is_word_character = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !before.is_some_and(is_word_character)
            && (word.ends_with('(') || !after.is_some_and(is_word_character))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_and_macros_are_found() {
        for (line, expected) in [
            (concat!("// TO", "DO: later"), true),
            (concat!("TO", "DOS are a file format"), false),
            (concat!("let x = to", "do!();"), true),
            (concat!("unimple", "mented!(\"x\")"), true),
            ("autodoc", false),
        ] {
            let sources = [Source {
                path: "a.rs".to_owned(),
                text: line.to_owned(),
            }];
            assert_eq!(!check(&sources).is_empty(), expected, "{line}");
        }
    }
}
