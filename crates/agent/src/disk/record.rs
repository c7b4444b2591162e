//! What was there before an expansion began, and how far it is: the evidence, kept in one file of the data directory.

use serde::{Deserialize, Serialize};
use supernode_types::OperationId;
use supernode_types::disk::StepReport;

use crate::files::{Directory, Durability, FileError, Permissions};

const FILE: &str = "disk-expand.json";
/// A few steps are a few hundred bytes each.
const LIMIT_BYTES: u64 = 256 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    operation: OperationId,
    pub(super) steps: Vec<StepReport>,
}

impl Record {
    /// What is known of `operation`; of another one, or of none, nothing.
    pub(super) fn load(directory: &Directory, operation: &OperationId) -> Self {
        let bytes = directory.read(FILE, LIMIT_BYTES).ok().flatten();
        bytes
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok())
            .filter(|record| record.operation == *operation)
            .unwrap_or_else(|| Self {
                operation: operation.clone(),
                steps: Vec::new(),
            })
    }

    /// Survives a loss of power: an expansion goes over restarts.
    pub(super) fn store(&self, directory: &Directory) -> Result<(), FileError> {
        let text = serde_json::to_vec(self).expect("a record is plain data");
        directory.write_atomic(FILE, &text, Permissions::mode(0o600), Durability::Power)
    }
}
