//! The variables that tell a rank its place: the names that launchers and frameworks agreed on.
//!
//! Two ways to launch: one rank per device (the default), where `RANK` counts devices, and one process per node for programs that
//! bring their own launcher (`torchrun`), where `RANK` counts nodes. In both, every rank sees all devices that the job holds on its
//! node and picks its own by `LOCAL_RANK`, as PyTorch, MindSpore and `torchrun` do.
//!
//! It refuses nothing and knows no job: values in, variables out.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use supernode_types::job::GroupKey;

/// Where a rank stands in its gang.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankPlace {
    /// 0 … world size - 1.
    pub rank: u32,
    /// Ranks in the gang.
    pub world_size: u32,
    /// 0 … ranks on this node - 1.
    pub local_rank: u32,
    /// Ranks on this node.
    pub local_world_size: u32,
    /// 0 … nodes - 1.
    pub node_rank: u32,
    /// The address of the node with rank 0.
    pub master_address: String,
    /// A port on that node for the gang to meet.
    pub master_port: u16,
}

/// The devices that a job holds on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VisibleDevices {
    /// The host itself; there is no accelerator.
    Host,
    /// NVIDIA GPUs, by index.
    Nvidia(Vec<u32>),
    /// Ascend NPUs, by index; with the path of the rank table, if the job has one.
    Ascend {
        /// The indices.
        devices: Vec<u32>,
        /// Absolute path of the rank table.
        rank_table_file: Option<String>,
    },
}

/// The variables for one rank.
pub fn rank_environment(place: &RankPlace, devices: &VisibleDevices) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        variables.insert(name.to_owned(), value);
    };
    set("RANK", place.rank.to_string());
    set("WORLD_SIZE", place.world_size.to_string());
    set("LOCAL_RANK", place.local_rank.to_string());
    set("LOCAL_WORLD_SIZE", place.local_world_size.to_string());
    set("NODE_RANK", place.node_rank.to_string());
    set("GROUP_RANK", place.node_rank.to_string());
    set("MASTER_ADDR", place.master_address.clone());
    set("MASTER_PORT", place.master_port.to_string());
    match devices {
        VisibleDevices::Host => {}
        VisibleDevices::Nvidia(devices) => set("CUDA_VISIBLE_DEVICES", comma_separated(devices)),
        VisibleDevices::Ascend {
            devices,
            rank_table_file,
        } => {
            set("ASCEND_RT_VISIBLE_DEVICES", comma_separated(devices));
            set("ASCEND_VISIBLE_DEVICES", comma_separated(devices));
            if let Some(path) = rank_table_file {
                set("RANK_TABLE_FILE", path.clone());
            }
        }
    }
    variables
}

/// The variables with which the ranks of an attempt find and know each other for `supernode-collectives`. Rank 0 listens for the others
/// where a launcher of `torch.distributed` would: a program uses the one or the other.
pub fn group_environment(
    place: &RankPlace,
    attempt: &str,
    number: u32,
    key: &GroupKey,
) -> BTreeMap<String, String> {
    let address = match place.master_address.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => place.master_address.clone(),
    };
    let root = format!("{address}:{}", place.master_port);
    BTreeMap::from([
        ("SUPERNODE_COLLECTIVE_ROOT".to_owned(), root),
        (
            "SUPERNODE_COLLECTIVE_KEY".to_owned(),
            key.expose().to_owned(),
        ),
        ("SUPERNODE_COLLECTIVE_GROUP".to_owned(), attempt.to_owned()),
        ("SUPERNODE_COLLECTIVE_EPOCH".to_owned(), number.to_string()),
    ])
}

fn comma_separated(devices: &[u32]) -> String {
    devices
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use supernode_types::entropy::SeededEntropy;

    use super::*;

    fn check(devices: &VisibleDevices, expected: &[&str]) {
        let place = RankPlace {
            rank: 11,
            world_size: 16,
            local_rank: 3,
            local_world_size: 8,
            node_rank: 1,
            master_address: "10.0.0.1".into(),
            master_port: 29500,
        };
        let common = [
            "GROUP_RANK=1",
            "LOCAL_RANK=3",
            "LOCAL_WORLD_SIZE=8",
            "MASTER_ADDR=10.0.0.1",
            "MASTER_PORT=29500",
            "NODE_RANK=1",
            "RANK=11",
            "WORLD_SIZE=16",
        ];
        let mut expected: Vec<&str> = expected.iter().chain(&common).copied().collect();
        expected.sort_unstable();
        let mut lines: Vec<String> = rank_environment(&place, devices)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        lines.sort_unstable();
        assert_eq!(lines, expected);
    }

    #[test]
    fn ranks_are_told_how_to_find_each_other() {
        let key = GroupKey::new(&SeededEntropy::new(1));
        for (address, root) in [
            ("10.0.0.1", "10.0.0.1:29500"),
            ("fd00::1", "[fd00::1]:29500"),
        ] {
            let place = RankPlace {
                rank: 0,
                world_size: 1,
                local_rank: 0,
                local_world_size: 1,
                node_rank: 0,
                master_address: address.into(),
                master_port: 29500,
            };
            let variables = group_environment(&place, "att-1", 2, &key);
            assert_eq!(variables["SUPERNODE_COLLECTIVE_ROOT"], root);
            assert_eq!(variables["SUPERNODE_COLLECTIVE_GROUP"], "att-1");
            assert_eq!(variables["SUPERNODE_COLLECTIVE_EPOCH"], "2");
            assert_eq!(variables["SUPERNODE_COLLECTIVE_KEY"].len(), 64);
        }
        assert_eq!(format!("{key:?}"), "GroupKey(…)");
    }

    #[test]
    fn each_kind_of_device_has_its_own_variables() {
        check(&VisibleDevices::Host, &[]);
        check(
            &VisibleDevices::Nvidia(vec![0, 2, 5]),
            &["CUDA_VISIBLE_DEVICES=0,2,5"],
        );
        let with_table = VisibleDevices::Ascend {
            devices: vec![0, 1],
            rank_table_file: Some("/w/rank_table.json".into()),
        };
        check(
            &with_table,
            &[
                "ASCEND_RT_VISIBLE_DEVICES=0,1",
                "ASCEND_VISIBLE_DEVICES=0,1",
                "RANK_TABLE_FILE=/w/rank_table.json",
            ],
        );
        let without = VisibleDevices::Ascend {
            devices: vec![7],
            rank_table_file: None,
        };
        check(
            &without,
            &["ASCEND_RT_VISIBLE_DEVICES=7", "ASCEND_VISIBLE_DEVICES=7"],
        );
    }
}
