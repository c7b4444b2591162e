//! The environment of a super node: the network and software configuration that every member must have.
//!
//! [`EnvironmentDocument`] is what an operator writes, kept in numbered revisions. [`EnvironmentDesired`] is what one node is told:
//! the document plus the member list. [`ItemState`] is what the node says about one item of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Generation;

/// A file that every member has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentFile {
    /// Absolute path, without `..`.
    pub path: String,
    /// Permission bits as octal text, for example `0644`.
    #[serde(default = "default_mode")]
    pub mode: String,
    /// UTF-8 content.
    pub content: String,
}

fn default_mode() -> String {
    "0644".into()
}

/// What an operator declares, one revision of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentDocument {
    /// Environment variables of every job.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// Files.
    #[serde(default)]
    pub files: Vec<EnvironmentFile>,
    /// Kernel parameters, for example `net.core.somaxconn`.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Required versions by component name as the inventory says it, for example `kernel` or `nvidia_driver`.
    #[serde(default)]
    pub required_versions: BTreeMap<String, String>,
}

/// The most bytes that one document may have as JSON.
pub const MAXIMUM_DOCUMENT_BYTES: usize = 1024 * 1024;

impl EnvironmentDocument {
    /// Checks what can be checked without a node; the error says which item is wrong.
    pub fn validate(&self) -> Result<(), String> {
        for name in self.variables.keys() {
            if !is_variable_name(name) {
                return Err(format!(
                    "variable `{name}`: a name has letters, digits and `_` and does not begin with a digit"
                ));
            }
        }
        for (name, value) in &self.variables {
            if value.contains('\0') || value.contains('\n') {
                return Err(format!(
                    "variable `{name}`: a value must not contain a line break or a zero byte"
                ));
            }
        }
        let mut paths = std::collections::BTreeSet::new();
        for file in &self.files {
            let clean = file.path.starts_with('/')
                && file
                    .path
                    .split('/')
                    .skip(1)
                    .all(|part| !part.is_empty() && part != "." && part != "..");
            if !clean || file.path.contains('\0') {
                return Err(format!(
                    "file `{}`: the path must be absolute and without `..`",
                    file.path
                ));
            }
            if !paths.insert(&file.path) {
                return Err(format!("file `{}`: listed twice", file.path));
            }
            if u32::from_str_radix(&file.mode, 8).map_or(true, |mode| mode > 0o777) {
                return Err(format!(
                    "file `{}`: mode `{}` is not an octal mode between 0000 and 0777",
                    file.path, file.mode
                ));
            }
        }
        for name in self.sysctls.keys() {
            let clean = !name.is_empty()
                && name.split('.').all(|part| !part.is_empty())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            if !clean {
                return Err(format!(
                    "sysctl `{name}`: write it with dots, for example net.core.somaxconn"
                ));
            }
        }
        for (name, value) in &self.sysctls {
            if value.contains('\0') || value.contains('\n') {
                return Err(format!(
                    "sysctl `{name}`: a value must not contain a line break or a zero byte"
                ));
            }
        }
        Ok(())
    }
}

/// Whether `name` can be an environment variable.
pub fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.as_bytes()[0].is_ascii_digit()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A member as the other members see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// The node's name.
    pub name: String,
    /// The address that it is reached at.
    pub address: String,
}

/// What one node is told to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentDesired {
    /// The super node's name.
    pub super_node_name: String,
    /// Reported back as applied.
    pub generation: Generation,
    /// All members, sorted by name.
    pub members: Vec<Member>,
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// Files.
    pub files: Vec<EnvironmentFile>,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Required versions.
    pub required_versions: BTreeMap<String, String>,
}

/// How one item of the environment stands on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ItemState {
    /// What it is, for example `file /etc/x` or `sysctl net.core.somaxconn`.
    pub item: String,
    /// How it stands.
    #[serde(flatten)]
    pub state: ItemCondition,
}

/// How one item stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ItemCondition {
    /// As wanted.
    Applied,
    /// Changed by somebody else since.
    Drifted {
        /// What was found.
        why: String,
    },
    /// Could not be made so.
    Failed {
        /// The error.
        why: String,
    },
    /// Cannot be done on this node by design, and does no harm.
    Unsupported {
        /// Why not.
        why: String,
    },
}

impl ItemState {
    /// A line for people if the item is not as wanted and that matters.
    pub fn problem(&self) -> Option<String> {
        match &self.state {
            ItemCondition::Applied | ItemCondition::Unsupported { .. } => None,
            ItemCondition::Drifted { why } => Some(format!("{} drifted: {why}", self.item)),
            ItemCondition::Failed { why } => Some(format!("{} failed: {why}", self.item)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_could_escape_or_inject_is_refused() {
        let file = |path: &str| EnvironmentDocument {
            files: vec![EnvironmentFile {
                path: path.into(),
                mode: "0644".into(),
                content: String::new(),
            }],
            ..Default::default()
        };
        assert!(file("/etc/app.conf").validate().is_ok());
        for bad in ["etc/app", "/etc/../root/x", "/etc//x", "/", "/etc/"] {
            assert!(file(bad).validate().is_err(), "{bad}");
        }
        let variables = EnvironmentDocument {
            variables: [("A\nB".into(), "1".into())].into(),
            ..Default::default()
        };
        assert!(variables.validate().is_err());
    }
}
