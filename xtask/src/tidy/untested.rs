//! A crate whose library or program is not built for tests has none in it: nobody would run them, and the compiler does not say so.

use super::Problem;
use crate::workspace::Source;

const SWITCH: &str = "test = false";

pub(super) fn check(sources: &[Source]) -> Vec<Problem> {
    let manifests = sources
        .iter()
        .filter(|source| source.path.ends_with("Cargo.toml") && has_line(source, SWITCH));
    let untested = manifests.filter_map(|manifest| manifest.path.strip_suffix("Cargo.toml"));
    let untested: Vec<String> = untested.map(|folder| format!("{folder}src/")).collect();
    let is_untested = |source: &&Source| {
        untested
            .iter()
            .any(|folder| source.path.starts_with(folder))
    };
    sources
        .iter()
        .filter(is_untested)
        .filter(|source| has_line(source, "#[cfg(test)]"))
        .map(|source| {
            let what =
                "nobody runs the tests in here: the crate says `test = false`; move them to tests/";
            Problem::in_file(&source.path, what)
        })
        .collect()
}

fn has_line(source: &Source, wanted: &str) -> bool {
    source.text.lines().any(|line| line == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_nobody_runs_are_found() {
        let source = |path: &str, text: &str| Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let found = check(&[
            source("crates/a/Cargo.toml", "[lib]\ntest = false\n"),
            source("crates/a/src/one.rs", "#[cfg(test)]\nmod tests;\n"),
            source("crates/a/tests/it/one.rs", "#[cfg(test)]\n"),
            source("crates/b/Cargo.toml", "[lib]\ndoctest = false\n"),
            source("crates/b/src/one.rs", "#[cfg(test)]\n"),
        ]);
        let places: Vec<&str> = found.iter().map(|problem| &*problem.place).collect();
        assert_eq!(places, ["crates/a/src/one.rs"]);
    }
}
