//! The contract as a whole.

use std::collections::BTreeSet;

use serde_json::Value;
use supernode_api::openapi::document;

#[test]
fn names_and_routes_are_unique() {
    let all = supernode_api::all();
    assert_eq!(
        all.iter()
            .map(|one| one.name)
            .collect::<BTreeSet<_>>()
            .len(),
        all.len()
    );
    assert_eq!(
        all.iter()
            .map(|one| (one.method.as_str(), one.path))
            .collect::<BTreeSet<_>>()
            .len(),
        all.len()
    );
}

#[test]
fn every_reference_resolves() {
    let document = document();
    let mut stack = vec![&document];
    while let Some(value) = stack.pop() {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(reference)) = object.get("$ref") {
                    let pointer = reference.strip_prefix('#').expect("references are local");
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                stack.extend(object.values());
            }
            Value::Array(items) => stack.extend(items),
            _ => {}
        }
    }
}
