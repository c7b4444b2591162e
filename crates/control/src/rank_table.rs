//! The rank table of a gang on Ascend nodes, from the inventories of its nodes.

use supernode_plan::rank_table::{
    RankTableDevice, RankTableServer, RankTableVersion, rank_table as write,
};
use supernode_store::attempt::rank_list;
use supernode_store::node::{inventory_get, node_get};
use supernode_store::{StoreError, Tx};
use supernode_types::inventory::{AcceleratorVendor, Inventory};
use supernode_types::job::Rank;

/// The rank table of the gang that `own` belongs to, or nothing where the gang has no Ascend devices: its nodes are all of one kind, so
/// that of `own` tells. With super pod ids it is version 1.2, otherwise 1.0. Where the inventories lack what HCCL needs there is none: a
/// job that needs it then fails in HCCL's own words, and the log says why.
pub(crate) fn rank_table(
    tx: &mut Tx<'_>,
    own: &Rank,
) -> Result<Option<serde_json::Value>, StoreError> {
    let inventory = inventory_get(tx, &own.node)?;
    if !inventory.is_some_and(|inventory| is_ascend(&inventory)) {
        return Ok(None);
    }
    let attempt = &own.attempt;
    let ranks = rank_list(tx, attempt)?;
    let mut servers: Vec<RankTableServer> = Vec::new();
    let mut present: Option<(Rank, Inventory)> = None;
    for rank in ranks {
        let same = present
            .as_ref()
            .is_some_and(|(last, _)| last.node == rank.node);
        let inventory = match present.take() {
            Some((_, inventory)) if same => inventory,
            _ => match inventory_get(tx, &rank.node)?.filter(is_ascend) {
                Some(inventory) => inventory,
                None => return Ok(None),
            },
        };
        if !same {
            let node = node_get(tx, &rank.node)?;
            let name = node
                .as_ref()
                .map_or_else(|| rank.node.to_string(), |node| node.name.to_string());
            servers.push(RankTableServer {
                server_id: name,
                host_ip: node.map(|node| node.address),
                ..RankTableServer::default()
            });
        }
        let server = servers
            .last_mut()
            .expect("one was pushed for the first rank of each node");
        add_device(server, &rank, &inventory);
        present = Some((rank, inventory));
    }
    if servers.is_empty() {
        return Ok(None);
    }
    let super_pods = servers.iter().all(|server| server.super_pod_id.is_some());
    let version = if super_pods {
        RankTableVersion::V1_2
    } else {
        RankTableVersion::V1_0
    };
    match write(version, &servers) {
        Ok(table) => Ok(Some(table)),
        Err(error) => {
            tracing::warn!(%attempt, %error, "no rank table can be written; the job starts without one");
            Ok(None)
        }
    }
}

fn is_ascend(inventory: &Inventory) -> bool {
    inventory
        .accelerators
        .first()
        .is_some_and(|accelerator| accelerator.vendor == AcceleratorVendor::Ascend)
}

fn add_device(server: &mut RankTableServer, rank: &Rank, inventory: &Inventory) {
    let accelerator = inventory
        .accelerators
        .iter()
        .find(|accelerator| accelerator.index == rank.device);
    server.super_pod_id = accelerator
        .and_then(|found| found.super_pod_id.clone())
        .or_else(|| server.super_pod_id.take());
    server.devices.push(RankTableDevice {
        device_id: accelerator
            .and_then(|found| found.physical_index)
            .unwrap_or(rank.device),
        rank_id: rank.rank,
        device_ip: accelerator
            .and_then(|found| found.device_ip)
            .map(|address| address.to_string()),
        super_device_id: accelerator
            .and_then(|found| found.super_device_id)
            .map(|id| id.to_string()),
        ..RankTableDevice::default()
    });
}
