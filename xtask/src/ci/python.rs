//! The unit tests of the Python examples, by a Python that has PyTorch for the one that trains.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::processes::output_within;
use crate::workspace;

/// A command for each directory of tests.
pub(super) fn suites() -> Result<Vec<(String, Command)>> {
    let sources = workspace::sources(&workspace::root(), &["py"])?;
    let directories = test_directories(sources.iter().map(|source| source.path.as_str()));
    let python = with("torch").context("no Python here has PyTorch: run the step `setup`")?;
    let suite = |directory: String| {
        let mut command = Command::new(python);
        command
            .args(["-m", "unittest", "discover", "--start-directory"])
            .arg(&directory)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(workspace::root());
        (directory, command)
    };
    Ok(directories.into_iter().map(suite).collect())
}

/// A Python that can import this module: the one of PATH, or Debian's, whose packages another one does not see.
pub(crate) fn with(module: &str) -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let found = &format!(
            "import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"
        );
        output_within(
            Command::new(python).args(["-c", found]),
            Duration::from_mins(1),
        )
        .is_ok_and(|output| output.status.success())
    })
}

/// The directories under `examples/` that hold a `test_*.py`, each once.
fn test_directories<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut directories: Vec<String> = paths
        .filter_map(|path| path.rsplit_once('/'))
        .filter(|(directory, name)| {
            (*directory == "examples" || directory.starts_with("examples/"))
                && name.starts_with("test_")
        })
        .map(|(directory, _)| directory.to_owned())
        .collect();
    directories.sort();
    directories.dedup();
    directories
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_with_tests_under_examples_each_once() {
        let paths = [
            "examples/ring.py",
            "examples/test_a.py",
            "examples/torch/test_c.py",
            "examples/zero/test_e.py",
            "examples/torch_test.py",
            "examples/test_b.py",
            "tools/test_d.py",
        ];
        assert_eq!(
            test_directories(paths.into_iter()),
            ["examples", "examples/torch", "examples/zero"]
        );
    }
}
