//! Only `crates/store` knows SQL: any other crate with a statement in a string has bypassed the one place where transactions,
//! retries and the two engines are taken care of. Tests may look into a database.

use super::{Problem, product_lines};
use crate::workspace::Source;

const STATEMENTS: [&str; 8] = [
    "SELECT ",
    "INSERT INTO",
    "DELETE FROM",
    "CREATE TABLE",
    "ALTER TABLE",
    "DROP TABLE",
    "ON CONFLICT",
    "UPDATE ",
];

pub(super) fn check(sources: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in sources {
        let checked = source.path.starts_with("crates/")
            && !source.path.starts_with("crates/store/")
            && source.path.contains("/src/")
            && source.has_extension("rs");
        if !checked {
            continue;
        }
        for (index, line) in product_lines(&source.text) {
            if let Some(statement) = STATEMENTS
                .iter()
                .find(|statement| line.contains(**statement))
            {
                problems.push(Problem::in_line(
                    &source.path,
                    index,
                    format!(
                        "SQL (`{}`) outside crates/store: add a store function",
                        statement.trim()
                    ),
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(path: &str, text: &str) -> Vec<String> {
        let sources = [Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }];
        check(&sources)
            .into_iter()
            .map(|problem| problem.place)
            .collect()
    }

    #[test]
    fn statement_outside_store_is_found_with_its_line() {
        let text = "//! X.\nfn f() { query(\"SELECT 1\"); }\n";
        assert_eq!(
            places("crates/control/src/a.rs", text),
            ["crates/control/src/a.rs:2"]
        );
        assert_eq!(places("crates/store/src/a.rs", text), Vec::<String>::new());
        assert_eq!(
            places("crates/control/tests/it/a.rs", text),
            Vec::<String>::new()
        );
    }

    #[test]
    fn comments_and_unit_tests_are_left_alone() {
        let text =
            "// a SELECT statement\n#[cfg(test)]\nmod tests { const X: &str = \"SELECT 1\"; }\n";
        assert_eq!(
            places("crates/control/src/a.rs", text),
            Vec::<String>::new()
        );
    }
}
