//! Files that a program writes and that are checked in, so that a reader sees them and a change shows up in review. The list stands
//! here and nowhere else; `cargo xtask generate` writes them, `cargo xtask ci` compares.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Outcome, build};
use crate::processes::text_within;
use crate::workspace;

struct Generated {
    /// Relative to the repository root.
    path: &'static str,
    /// The program below `target/debug` whose standard output is the file.
    program: &'static str,
    arguments: &'static [&'static str],
}

const GENERATED: &[Generated] = &[
    Generated {
        path: "docs/openapi.json",
        program: "supernode",
        arguments: &["openapi"],
    },
    Generated {
        path: "crates/collectives/include/supernode_collectives.h",
        program: "examples/header",
        arguments: &[],
    },
];

/// Compares every file that is checked in.
pub(super) fn check_all() -> Result<Outcome> {
    build()?;
    let mut notes = Vec::new();
    let mut differences = Vec::new();
    for generated in GENERATED {
        let path = workspace::root().join(generated.path);
        if !path.exists() {
            notes.push(format!(
                "{} is not checked in: not compared",
                generated.path
            ));
            continue;
        }
        let found =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", generated.path))?;
        let wanted = produce(generated)?;
        if let Some(difference) = first_difference(&found, &wanted) {
            differences.push(format!("{}:{difference}", generated.path));
        }
    }
    if !differences.is_empty() {
        bail!(
            "{}\nwrite them anew with: cargo xtask generate",
            differences.join("\n")
        );
    }
    Ok(if notes.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Note(notes.join("\n"))
    })
}

/// `cargo xtask generate`: writes every file.
pub(crate) fn write_all() -> Result<ExitCode> {
    build()?;
    for generated in GENERATED {
        let text = produce(generated)?;
        fs::write(workspace::root().join(generated.path), text)
            .with_context(|| format!("cannot write {}", generated.path))?;
        println!("wrote {}", generated.path);
    }
    Ok(ExitCode::SUCCESS)
}

fn produce(generated: &Generated) -> Result<String> {
    let program = workspace::target_directory()
        .join("debug")
        .join(generated.program);
    text_within(
        Command::new(program).args(generated.arguments),
        Duration::from_mins(1),
    )
    .with_context(|| format!("cannot generate {}", generated.path))
}

/// Where two texts part, as `line: found X, generated Y`; `None` when they are the same.
fn first_difference(found: &str, wanted: &str) -> Option<String> {
    if found == wanted {
        return None;
    }
    let equal = found
        .lines()
        .zip(wanted.lines())
        .take_while(|(left, right)| left == right)
        .count();
    let line = |text: &str| {
        text.lines()
            .nth(equal)
            .unwrap_or("the end")
            .trim()
            .to_owned()
    };
    Some(format!(
        "{}: found `{}`, generated `{}`",
        equal + 1,
        line(found),
        line(wanted)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_names_the_line() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(
            first_difference("a\nb\n", "a\nc\n"),
            Some("2: found `b`, generated `c`".to_owned())
        );
        assert_eq!(
            first_difference("a\n", "a\nc\n"),
            Some("2: found `the end`, generated `c`".to_owned())
        );
    }
}
