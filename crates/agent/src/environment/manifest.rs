//! What the executor put on this node, and what was there before: one file, written before anything is touched.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::EnvironmentError;
use crate::files::{Directory, Durability, FileError, Permissions};

const MANIFEST: &str = "manifest.json";
/// The directory of originals.
pub(super) const BACKUPS: &str = "backups";
const LIMIT_BYTES: u64 = 16 * 1024 * 1024;

/// Everything of ours on this node. Paths are relative to the system root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Of the environment that was applied last.
    pub generation: i64,
    /// Counts backups; a number is used once as long as the manifest lives.
    pub backups: u64,
    /// Files that we wrote.
    pub files: BTreeMap<String, FileEntry>,
    /// Present once a block was put into the hosts file.
    pub hosts: Option<HostsEntry>,
    /// Kernel parameters that we set, with the value before.
    pub sysctls: BTreeMap<String, String>,
    /// Directories that did not exist before us.
    pub directories: BTreeSet<String>,
}

/// A file of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    /// What was there before; `None` if nothing.
    pub original: Option<Original>,
}

/// A file that was there before us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Original {
    /// The name of its copy among the backups.
    pub backup: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its user and group.
    pub owner: (u32, u32),
}

/// The hosts file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostsEntry {
    /// Whether there was one before us.
    pub existed: bool,
}

impl Manifest {
    /// The manifest on disk, or an empty one.
    pub(super) fn load(state: &Directory) -> Result<Self, EnvironmentError> {
        match state.read(MANIFEST, LIMIT_BYTES)? {
            None => Ok(Self::default()),
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| EnvironmentError::Manifest {
                    path: state.path().join(MANIFEST),
                    why: error.to_string(),
                })
            }
        }
    }

    /// Writes it so that it survives a loss of power.
    pub(super) fn save(&self, state: &Directory) -> Result<(), FileError> {
        let text = serde_json::to_vec_pretty(self).expect("a manifest is JSON");
        state.write_atomic(MANIFEST, &text, Permissions::mode(0o600), Durability::Power)
    }

    /// Removes it and every backup.
    pub(super) fn remove(state: &Directory) -> Result<(), FileError> {
        state.remove_file(MANIFEST)?;
        if let Some(backups) = state.subdirectory(BACKUPS)? {
            for name in backups.names()? {
                backups.remove_file(&name)?;
            }
        }
        Ok(())
    }

    /// A name for one more backup. After a crash before the manifest was written the same name is given again, and the copy that
    /// nobody knows is overwritten.
    pub(super) fn next_backup_name(&mut self) -> String {
        self.backups += 1;
        format!("original-{}", self.backups)
    }
}

/// Where a backup is, below the state directory.
pub(super) fn backup_path(name: &str) -> String {
    format!("{BACKUPS}/{name}")
}
