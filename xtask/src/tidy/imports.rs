//! The import table of `ARCHITECTURE.md`, checked against what the crates really import. A layer stays a layer only while nothing
//! else may reach through it; a new line here needs a decision under `docs/decisions/`.

use super::Problem;
use crate::metadata::{Metadata, Package};

const PREFIX: &str = "supernode-";
const EVERYTHING: &[&str] = &["*"];

/// Crate (without prefix; `supernode` is the binary) -> the crates of this workspace that it may import, in any dependency table.
const TABLE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("api", &["types"]),
    ("plan", &["types"]),
    ("store", &["types"]),
    ("verdict", &["types"]),
    ("page", &[]),
    ("probe", &["types", "verdict", "page"]),
    ("client", &["api", "types"]),
    ("notify", &["types"]),
    ("control", &["types", "plan", "store", "verdict"]),
    ("agent", &["types", "api", "client", "probe"]),
    ("http", &["api", "control", "types"]),
    ("cli", &["api", "client", "types", "page"]),
    (
        "sim",
        &["types", "api", "plan", "store", "control", "agent"],
    ),
    ("collectives", &[]),
    ("supernode", EVERYTHING),
    ("xtask", &[]),
    ("xtask-load", &["api", "client", "types"]),
];

/// Libraries that one crate owns: the rest of the workspace must not know them.
const OWNED: &[(&str, &str)] = &[
    ("axum", "http"),
    ("axum-server", "http"),
    ("rusqlite", "store"),
    ("postgres", "store"),
    ("lettre", "notify"),
];

pub(super) fn check(metadata: &Metadata) -> Vec<Problem> {
    let mut problems = Vec::new();
    let members: Vec<&Package> = metadata
        .packages
        .iter()
        .filter(|package| package.source.is_none())
        .collect();
    for package in &members {
        problems.extend(check_package(package));
    }
    for (name, _) in TABLE {
        if !members
            .iter()
            .any(|package| short_name(&package.name) == *name)
        {
            problems.push(problem(format!(
                "the import table names `{name}`, which is no crate of the workspace: remove its line"
            )));
        }
    }
    problems
}

fn check_package(package: &Package) -> Vec<Problem> {
    let mut problems = Vec::new();
    let name = short_name(&package.name);
    let Some((_, allowed)) = TABLE.iter().find(|(listed, _)| *listed == name) else {
        return vec![problem(format!(
            "crate `{}` is not in the import table: a new crate needs a decision in docs/decisions/",
            package.name
        ))];
    };
    for dependency in &package.dependencies {
        let imported = short_name(&dependency.name);
        let ours = dependency.name.starts_with(PREFIX) || dependency.name == "supernode";
        if ours && *allowed != EVERYTHING && !allowed.contains(&imported) {
            problems.push(problem(format!(
                "crate `{}` imports `{}`, which the import table does not allow: needs a decision in docs/decisions/",
                package.name, dependency.name
            )));
        }
        if let Some((_, owner)) = OWNED
            .iter()
            .find(|(library, _)| *library == dependency.name)
            && *owner != name
        {
            problems.push(problem(format!(
                "crate `{}` imports `{}`, which only `{PREFIX}{owner}` may: needs a decision in docs/decisions/",
                package.name, dependency.name
            )));
        }
    }
    problems
}

fn short_name(package: &str) -> &str {
    package.strip_prefix(PREFIX).unwrap_or(package)
}

fn problem(message: String) -> Problem {
    Problem::in_file("xtask/src/tidy/imports.rs", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            license: None,
            source: None,
            dependencies: dependencies
                .iter()
                .map(|name| Dependency {
                    name: (*name).to_owned(),
                })
                .collect(),
        }
    }

    #[test]
    fn allowed_imports_and_foreign_libraries_pass() {
        assert_eq!(
            check_package(&package("supernode-control", &["supernode-store", "serde"])),
            []
        );
        assert_eq!(
            check_package(&package("supernode", &["supernode-cli", "supernode-http"])),
            []
        );
        assert_eq!(check_package(&package("supernode-http", &["axum"])), []);
    }

    #[test]
    fn forbidden_import_names_crate_and_import() {
        let problems = check_package(&package("supernode-plan", &["supernode-store"]));
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0]
                .message
                .starts_with("crate `supernode-plan` imports `supernode-store`")
        );
        assert!(problems[0].message.contains("docs/decisions/"));
    }

    #[test]
    fn owned_library_elsewhere_is_refused() {
        let problems = check_package(&package("supernode-control", &["rusqlite", "axum"]));
        assert_eq!(problems.len(), 2);
    }

    #[test]
    fn unknown_crate_and_stale_line_are_refused() {
        let metadata = Metadata {
            packages: vec![package("supernode-magic", &[])],
        };
        let problems = check(&metadata);
        assert_eq!(problems.len(), 1 + TABLE.len());
        assert!(
            problems[0]
                .message
                .contains("`supernode-magic` is not in the import table")
        );
    }
}
