//! The files that are made from an environment's maps.

use std::collections::BTreeMap;
use std::fmt::Write;

use supernode_types::environment::is_variable_name;

const HEADER: &str = "# Written by the supernode agent; changes are undone.\n";

/// Variables as a file that both a shell and systemd (`EnvironmentFile=`) read the same way.
pub(super) fn variables(variables: &BTreeMap<String, String>) -> Result<String, String> {
    let mut text = HEADER.to_owned();
    for (name, value) in variables {
        if !is_variable_name(name) {
            return Err(format!("`{name}` is no name for a variable"));
        }
        if value.contains(['\0', '\n']) {
            return Err(format!(
                "the value of {name} has a line break or a zero byte"
            ));
        }
        text.push_str(name);
        text.push_str("=\"");
        for letter in value.chars() {
            if matches!(letter, '"' | '\\' | '$' | '`') {
                text.push('\\');
            }
            text.push(letter);
        }
        text.push_str("\"\n");
    }
    Ok(text)
}

/// Kernel parameters as `sysctl.d` reads them.
pub(super) fn sysctls(values: &BTreeMap<String, String>) -> String {
    let mut text = HEADER.to_owned();
    for (key, value) in values {
        // A value with a line break is refused item by item; it must not become a line here.
        let value: String = value
            .chars()
            .map(|letter| if letter.is_control() { ' ' } else { letter })
            .collect();
        writeln!(text, "{key} = {value}").expect("writing to a string succeeds");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_variables_back() {
        let values = BTreeMap::from([
            ("A".to_owned(), "it's $HOME \"`x`\" \\ done".to_owned()),
            ("B".to_owned(), String::new()),
        ]);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("env");
        std::fs::write(&file, variables(&values).expect("they are plain")).expect("it is written");
        let script = format!(". {}; printf '%s|%s' \"$A\" \"$B\"", file.display());
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("sh runs");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "it's $HOME \"`x`\" \\ done|"
        );
        assert!(variables(&BTreeMap::from([("A B".to_owned(), String::new())])).is_err());
        assert!(variables(&BTreeMap::from([("A".to_owned(), "x\ny".to_owned())])).is_err());
    }
}
