//! Where the repository is and which files it has. Reads the directory tree and not git, so that an unpacked archive works too.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Directories that hold nothing written by a person.
const SKIPPED_DIRECTORIES: [&str; 4] = ["target", "node_modules", "__pycache__", "mutants.out"];

/// One text file of the repository.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Relative to the repository root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path)
            .extension()
            .is_some_and(|found| found == extension)
    }
}

/// The repository root: the parent of this crate. `cargo run` tells where the crate is now, which matters when the tree was moved
/// after it was built.
pub(crate) fn root() -> PathBuf {
    let crate_directory = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    crate_directory
        .parent()
        .expect("xtask lies in a directory of the repository")
        .to_path_buf()
}

/// `target/`, wherever cargo was told to put it.
pub(crate) fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Every UTF-8 file with one of `extensions`, sorted by path. Hidden directories are left out, except `.ci` and `.github`.
pub(crate) fn sources(root: &Path, extensions: &[&str]) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                let hidden = name.starts_with('.') && name != ".ci" && name != ".github";
                if !hidden && !SKIPPED_DIRECTORIES.contains(&name.as_str()) {
                    open.push(entry.path());
                }
            } else if kind.is_file()
                && let Some((_, extension)) = name.rsplit_once('.')
                && extensions.contains(&extension)
            {
                let path = entry.path();
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {} as UTF-8", path.display()))?;
                let relative = path
                    .strip_prefix(root)
                    .expect("the walk starts at the root");
                found.push(Source {
                    path: relative.to_string_lossy().into_owned(),
                    text,
                });
            }
        }
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wanted_extensions_outside_hidden_and_built_directories() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for path in [
            "a/one.rs",
            "a/two.txt",
            "target/three.rs",
            ".hidden/four.rs",
            ".ci/five.rs",
        ] {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("create");
            fs::write(path, "x").expect("write");
        }
        let found = sources(directory.path(), &["rs"]).expect("walk");
        let paths: Vec<&str> = found.iter().map(|source| source.path.as_str()).collect();
        assert_eq!(paths, [".ci/five.rs", "a/one.rs"]);
    }
}
