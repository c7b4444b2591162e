//! A file near 800 lines has a second subject: find it. Exceptions stand in a list that only shrinks.

use std::collections::BTreeMap;

use super::Problem;
use crate::workspace::Source;

pub(super) const EXCEPTIONS: &str = "xtask/exceptions/file-sizes.txt";
const MAXIMUM_LINES: usize = 800;

pub(super) fn check(sources: &[Source], exceptions_text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut exceptions = BTreeMap::new();
    for (index, line) in exceptions_text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_exception(line) {
            Some((path, maximum)) => {
                exceptions.insert(path, (index, maximum));
            }
            None => problems.push(Problem::in_line(
                EXCEPTIONS,
                index,
                "expected `path maximum-lines reason`",
            )),
        }
    }
    for source in sources
        .iter()
        .filter(|source| source.has_extension("rs") || source.has_extension("py"))
    {
        let lines = source.text.lines().count();
        let exception = exceptions.remove(source.path.as_str());
        let maximum = exception.map_or(MAXIMUM_LINES, |(_, maximum)| maximum);
        if lines > maximum {
            problems.push(Problem::in_file(
                &source.path,
                format!(
                    "{lines} lines, over {maximum}: move its second subject to a file of its own"
                ),
            ));
        } else if let Some((index, _)) = exception
            && lines <= MAXIMUM_LINES
        {
            problems.push(Problem::in_line(
                EXCEPTIONS,
                index,
                format!(
                    "{} has {lines} lines now: remove its exception",
                    source.path
                ),
            ));
        }
    }
    for (path, (index, _)) in exceptions {
        problems.push(Problem::in_line(
            EXCEPTIONS,
            index,
            format!("{path} does not exist: remove its exception"),
        ));
    }
    problems
}

/// `path maximum reason`: an exception without a reason is none.
fn parse_exception(line: &str) -> Option<(&str, usize)> {
    let mut words = line.split_whitespace();
    let path = words.next()?;
    let maximum = words.next()?.parse().ok()?;
    words.next()?;
    Some((path, maximum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, lines: usize) -> Source {
        Source {
            path: path.to_owned(),
            text: "x\n".repeat(lines),
        }
    }

    #[test]
    fn long_file_needs_an_exception_with_a_reason() {
        let sources = [file("a.rs", 801), file("b.rs", 800)];
        assert_eq!(check(&sources, "").len(), 1);
        assert_eq!(check(&sources, "a.rs 900 one generated table\n"), []);
        assert_eq!(check(&sources, "a.rs 900\n").len(), 2);
    }

    #[test]
    fn exceptions_only_shrink() {
        assert_eq!(check(&[file("a.rs", 901)], "a.rs 900 table\n").len(), 1);
        assert_eq!(check(&[file("a.rs", 10)], "a.rs 900 table\n").len(), 1);
        assert_eq!(check(&[], "a.rs 900 table\n").len(), 1);
    }
}
