//! Checks that the compiler cannot make: who may import whom, what every file must say, how long it may get, whether links and
//! licences hold. Each check is a pure function from texts to problems, so that it is tested on small inputs.
//! Direct clock and randomness calls are not checked here: `clippy.toml` forbids them with real name resolution.

mod examples;
mod headers;
mod imports;
mod leftovers;
mod licences;
mod links;
mod sizes;
mod sql;
mod untested;

use anyhow::{Context, Result};

use crate::metadata;
use crate::workspace;

/// Something to mend, with the place where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// `path` or `path:line`, as terminals and editors link it.
    pub(crate) place: String,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

impl Problem {
    fn in_file(path: &str, message: impl Into<String>) -> Self {
        Self {
            place: path.to_owned(),
            message: message.into(),
        }
    }

    fn in_line(path: &str, line_index: usize, message: impl Into<String>) -> Self {
        Self {
            place: format!("{path}:{}", line_index + 1),
            message: message.into(),
        }
    }
}

/// Runs every check on the repository.
pub(crate) fn check_repository() -> Result<Vec<Problem>> {
    let root = workspace::root();
    let sources = workspace::sources(&root, &["rs", "py", "sh", "toml", "md", "c"])?;
    let exceptions_path = root.join(sizes::EXCEPTIONS);
    let exceptions = std::fs::read_to_string(&exceptions_path)
        .with_context(|| format!("cannot read {}", exceptions_path.display()))?;

    let mut problems = Vec::new();
    problems.extend(imports::check(&metadata::workspace_only()?));
    problems.extend(examples::check(&sources));
    problems.extend(headers::check(&sources));
    problems.extend(sql::check(&sources));
    problems.extend(sizes::check(&sources, &exceptions));
    problems.extend(untested::check(&sources));
    problems.extend(leftovers::check(&sources));
    problems.extend(licences::check(&metadata::with_dependencies()?));
    problems.extend(links::check(&sources, |path| root.join(path).exists()));
    Ok(problems)
}

/// The lines of a Rust file before its unit tests, comments blanked, with their indices. Unit tests stand last in a file, after
/// `#[cfg(test)]` at the margin.
fn product_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| *line != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}
