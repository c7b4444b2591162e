//! Every SQL text of the crate on both engines, without running it: a statement that only one of them understands is found here.

use std::fs;
use std::path::Path;

use supernode_store::{Store, StoreError, Value};

use super::sample::Sample;
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    every_statement_is_understood,
    the_schema_is_as_the_program_says
);

/// The SQL texts in the source of the resource modules, by file.
fn statements() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("the sources are there") {
        let path = entry.expect("readable").path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let file = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&path).expect("readable");
        // No statement here contains a quotation mark.
        for literal in text.split('"').skip(1).step_by(2) {
            let verb = literal.split_whitespace().next().unwrap_or_default();
            if ["SELECT", "INSERT", "UPDATE", "DELETE"].contains(&verb) {
                found.push((file.clone(), literal.to_owned()));
            }
        }
    }
    found
}

/// The largest number behind a `$`.
fn parameters(sql: &str) -> usize {
    let digits = sql.split('$').skip(1).map(|rest| {
        rest.split(|c: char| !c.is_ascii_digit())
            .next()
            .unwrap_or_default()
    });
    digits
        .filter_map(|digits| digits.parse().ok())
        .max()
        .unwrap_or(0)
}

fn every_statement_is_understood(engine: Engine) {
    let sample = Sample::new(engine);
    let statements = statements();
    assert!(
        statements.len() > 70,
        "only {} statements were found",
        statements.len()
    );
    for (file, sql) in statements {
        let explain: &'static str = format!("EXPLAIN {sql}").leak();
        let values = vec![Value::Null; parameters(&sql)];
        let outcome = sample
            .store
            .write_inline("explain", move |tx| tx.query(explain, &values).map(drop));
        assert_eq!(outcome, Ok::<(), StoreError>(()), "{file}: {sql}");
    }
}

fn the_schema_is_as_the_program_says(engine: Engine) {
    if engine == Engine::Memory {
        return;
    }
    let sample = Sample::new(engine);
    let report = Store::check(sample.url()).expect("readable");
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.schema_version, report.program_version);
}
