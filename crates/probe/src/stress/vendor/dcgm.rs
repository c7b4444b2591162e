//! `dcgmi diag -j`: NVIDIA's own diagnosis.
//!
//! Traps: the root key was renamed; a result can be per GPU, per CPU or for all; Skip is not Pass; warnings carry the error id.

use serde_json::Value;

use super::{Check, CheckState, NotUnderstood, Parsed};

/// A diagnosis of level 1 (seconds), 2 (minutes), 3 or 4 (hours).
pub fn arguments(level: u32) -> Vec<String> {
    ["diag", "-r", &level.to_string(), "-j"]
        .map(str::to_owned)
        .into()
}

/// Understands both forms.
pub fn parse(text: &str) -> Result<Parsed, NotUnderstood> {
    let start = text.find('{').ok_or_else(|| NotUnderstood::form(text))?;
    let value: Value =
        serde_json::from_str(text[start..].trim()).map_err(|_| NotUnderstood::form(text))?;
    let root = value
        .get("DCGM Diagnostic")
        .or_else(|| value.get("DCGM GPU Diagnostic"))
        .ok_or_else(
            || match value.get("runtime_error").and_then(Value::as_str) {
                Some(error) => NotUnderstood::Refused(error.to_owned()),
                None => NotUnderstood::form(text),
            },
        )?;
    if let Some(error) = root.get("runtime_error").and_then(Value::as_str) {
        return Err(NotUnderstood::Refused(error.to_owned()));
    }
    let mut parsed = Parsed::default();
    let list = |value: &Value, name: &str| -> Vec<Value> {
        let list = value.get(name).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    for category in list(root, "test_categories") {
        for test in list(&category, "tests") {
            let name = test.get("name").and_then(Value::as_str).unwrap_or("a test");
            for result in list(&test, "results") {
                let device = result
                    .get("entity_id")
                    .or_else(|| result.get("gpu_id"))
                    .or_else(|| result.get("gpu_ids"))
                    .and_then(|id| id.as_u64().or_else(|| id.as_str()?.parse().ok()));
                let status = result.get("status").and_then(Value::as_str).unwrap_or("");
                let mut details = Vec::new();
                for warning in list(&result, "warnings") {
                    let words = warning.get("warning").and_then(Value::as_str);
                    let id = warning.get("error_id").and_then(Value::as_u64);
                    let words = words.or_else(|| warning.as_str()).unwrap_or_default();
                    details.push(match id {
                        Some(id) => format!("error {id}: {words}"),
                        None => words.to_owned(),
                    });
                }
                parsed.checks.push(
                    Check::new(name, state(status))
                        .of_device(device.and_then(|id| u32::try_from(id).ok()))
                        .with(details.join("; ")),
                );
            }
        }
    }
    if parsed.checks.is_empty() {
        return Err(NotUnderstood::form(text));
    }
    Ok(parsed)
}

fn state(word: &str) -> CheckState {
    match word.to_ascii_lowercase().as_str() {
        "pass" => CheckState::Pass,
        "fail" => CheckState::Fail,
        "warn" => CheckState::Warning,
        "skip" | "notrun" | "not run" => CheckState::Skipped,
        _ => CheckState::Unknown(word.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        let new = r#"{"DCGM Diagnostic":{"test_categories":[{"category":"Hardware","tests":[{"name":"memory","results":[{"entity_group":"GPU","entity_group_id":1,"entity_id":3,"status":"Fail","warnings":[{"error_id":92,"error_category":7,"error_severity":2,"warning":"Found 2 double bit errors"}]},{"entity_id":4,"status":"Skip"}],"test_summary":{"status":"Fail"}}]}]}}"#;
        let parsed = parse(new).expect("known");
        assert_eq!(parsed.checks[0].state, CheckState::Fail);
        assert_eq!(parsed.checks[0].device, Some(3));
        assert_eq!(
            parsed.checks[0].detail,
            "error 92: Found 2 double bit errors"
        );
        assert_eq!(parsed.checks[1].state, CheckState::Skipped);
        let old = r#"{"DCGM GPU Diagnostic":{"test_categories":[{"category":"Deployment","tests":[{"name":"Denylist","results":[{"gpu_ids":"0","status":"PASS"}]}]}]}}"#;
        let parsed = parse(old).expect("known");
        assert_eq!(
            (parsed.checks[0].device, &parsed.checks[0].state),
            (Some(0), &CheckState::Pass)
        );
    }

    #[test]
    fn what_is_no_diagnosis_is_no_pass() {
        for text in [
            "",
            "Error: unable to establish a connection",
            "{}",
            r#"{"DCGM Diagnostic":{"test_categories":[]}}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let error = parse(r#"{"DCGM Diagnostic":{"runtime_error":"GPU in use"}}"#);
        assert_eq!(error, Err(NotUnderstood::Refused("GPU in use".into())));
    }
}
