//! `supernode stress local`: a host tests itself without a server.

use std::process::Command;

use serde_json::Value;

use crate::harness::{binary, output};

fn local(arguments: &[&str]) -> (Option<i32>, String, String) {
    let words = ["stress", "local"].iter().chain(arguments);
    let output = output(Command::new(binary()).args(words));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn links_are_measured_and_what_cannot_run_is_no_failure() {
    let (code, out, err) = local(&[
        "--items",
        "links,storage",
        "--directory",
        "/nowhere",
        "--output",
        "json",
    ]);
    assert_eq!(code, Some(0), "{err}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    let records = report["records"].as_array().expect("a list");
    assert_eq!(records.len(), 2);
    let disk = records
        .iter()
        .find(|record| record["step"]["item"] == "storage")
        .expect("it was asked for");
    assert!(disk["validity"]["could_not_run"].is_string(), "{disk}");
    assert_eq!(disk["failures"], serde_json::json!([]));
    assert!(err.contains("testing links"), "{err}");
    assert_eq!(report["vendor"].as_array().map(Vec::len), Some(3));
}

#[test]
fn the_page_of_a_test_stands_alone() {
    let (code, out, err) = local(&["--items", "links", "-o", "html"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("<!doctype html>") && out.ends_with("</html>\n"));
    assert!(!out.contains("http:") && !out.contains("https:"));
}

#[test]
fn an_item_that_is_none_is_refused_with_the_known_ones() {
    let (code, _, err) = local(&["--items", "disk"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("compute, memory, links, storage"), "{err}");
}

#[test]
fn only_reports_can_be_pages() {
    let words = ["node", "list", "--output", "html"];
    let output = output(Command::new(binary()).args(words));
    assert_eq!(output.status.code(), Some(2));
}
