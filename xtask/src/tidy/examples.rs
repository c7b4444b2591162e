//! What stands between fences in a documentation comment is text. An example that compiles would be one that nothing runs: a run of
//! the documentation's tests starts the compiler once more for each crate, to find none. Examples are programs in `examples/`.

use super::Problem;
use crate::workspace::Source;

const FENCE: &str = "```";

pub(super) fn check(sources: &[Source]) -> Vec<Problem> {
    let sources = sources.iter().filter(|source| source.has_extension("rs"));
    sources.flat_map(code).collect()
}

fn code(source: &Source) -> Vec<Problem> {
    let lines = source.text.lines().enumerate();
    let fences = lines.filter_map(|(index, line)| Some((index, fence(line)?)));
    // The first opens, the second closes, and so on.
    let opening = fences
        .step_by(2)
        .filter(|(_, language)| *language != "text");
    opening
        .map(|(index, _)| {
            let what =
                "no test runs this example: call it `text`, or make a program in `examples/` of it";
            Problem::in_line(&source.path, index, what)
        })
        .collect()
}

/// What follows the fence on a line of documentation.
fn fence(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let text = line
        .strip_prefix("///")
        .or_else(|| line.strip_prefix("//!"))?;
    Some(text.trim().strip_prefix(FENCE)?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_stands_between_fences() {
        let lines = |text: &str| {
            let path = "a.rs".to_owned();
            let text = text.replace('~', FENCE);
            let problems = check(&[Source { path, text }]);
            let places = problems.into_iter().map(|problem| problem.place);
            places.collect::<Vec<_>>()
        };
        assert_eq!(lines("/// ~text\n/// a -> b\n/// ~\n"), [""; 0]);
        assert_eq!(lines("//! ~\n//! f();\n//! ~\n"), ["a.rs:1"]);
        let second = "/// ~text\n/// ~\nfn a() {}\n    /// ~rust\n    /// ~\n";
        assert_eq!(lines(second), ["a.rs:4"]);
    }
}
