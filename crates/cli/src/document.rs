//! Reading a document that a person wrote, as TOML or JSON, from a file or standard input.

use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// Reads `path` (`-` is standard input): JSON when it begins with `{`, else TOML.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let failed = |why: String| Failure::File {
        path: path.to_owned(),
        why,
    };
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    }
    .map_err(|error| failed(error.to_string()))?;
    parse(&text).map_err(failed)
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(String::new(), |span| {
                let before = text.get(..span.start).unwrap_or_default();
                format!("line {}: ", before.lines().count().max(1))
            });
            format!("{line}{}", error.message())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernode_types::environment::EnvironmentDocument;

    #[test]
    fn both_languages_say_the_same() {
        let toml = "[variables]\nA = \"1\"\n[[files]]\npath = \"/etc/x\"\ncontent = \"y\"\n";
        let json = r#" {"variables": {"A": "1"}, "files": [{"path": "/etc/x", "content": "y"}]}"#;
        let document = parse::<EnvironmentDocument>(toml).expect("valid");
        assert_eq!(parse::<EnvironmentDocument>(json), Ok(document.clone()));
        assert_eq!(
            (
                document.variables["A"].as_str(),
                document.files[0].mode.as_str()
            ),
            ("1", "0644")
        );
    }

    #[test]
    fn a_misspelt_field_is_named() {
        let error = parse::<EnvironmentDocument>("[variables]\nA = \"1\"\n[varables]\n")
            .expect_err("unknown field");
        assert!(
            error.contains("line 3") && error.contains("varables"),
            "{error}"
        );
        let error = parse::<EnvironmentDocument>("{\"varables\": {}}").expect_err("unknown field");
        assert!(error.contains("varables"), "{error}");
    }
}
