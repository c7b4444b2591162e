//! Rank tables: the file that tells HCCL which NPU of which server is which rank.
//!
//! Version 1.0 is for servers, 1.2 for super pods (Atlas A3), as in "rank table configuration" of the HCCL documentation. Every
//! value is a string there, also numbers. HCCL reads the file once, so it is written when it is complete and says so.
//!
//! It refuses what HCCL would misread without a word: servers of one super pod that are not next to each other (ranks would be
//! interleaved between pods), rank numbers that are not 0 … n-1 in the order of the list, servers named twice, and addresses missing
//! where they are mandatory.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Which format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankTableVersion {
    /// Servers without super pods.
    V1_0,
    /// Super pods.
    V1_2,
}

/// One NPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RankTableDevice {
    /// Its index on the server.
    pub device_id: u32,
    /// Its rank.
    pub rank_id: u32,
    /// Address of its network card.
    pub device_ip: Option<String>,
    /// Its id in the super pod (SDID); mandatory in version 1.2.
    pub super_device_id: Option<String>,
    /// Port of its network card.
    pub device_port: Option<u16>,
    /// Port on the host, different for every device of a server.
    pub host_port: Option<u16>,
}

/// One server with the NPUs that take part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RankTableServer {
    /// Unique, at most 64 characters.
    pub server_id: String,
    /// Address of the host; needed for operator re-execution.
    pub host_ip: Option<String>,
    /// The super pod it is in; mandatory in version 1.2.
    pub super_pod_id: Option<String>,
    /// Its NPUs, by rank.
    pub devices: Vec<RankTableDevice>,
}

/// Why no valid rank table can be made of the input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RankTableError {
    /// Nothing to write.
    #[error("a rank table needs at least one server, and each server at least one device")]
    Empty,
    /// A server id is not usable.
    #[error("server {server:?}: its id must be unique and have 1 to 64 characters")]
    ServerId {
        /// The id.
        server: String,
    },
    /// Ranks are not 0 … n-1 in the order of the list.
    #[error(
        "server {server}: device {device} has rank {found}, and {expected} must come next; give ranks to servers one after the other"
    )]
    RankOrder {
        /// The server.
        server: String,
        /// The device.
        device: u32,
        /// Its rank.
        found: u32,
        /// The rank that must come here.
        expected: u32,
    },
    /// A mandatory value is missing.
    #[error("server {server}: {field} is missing, and this rank table needs it")]
    Missing {
        /// The server.
        server: String,
        /// The name in the file.
        field: &'static str,
    },
    /// A super pod comes twice.
    #[error("super pod {super_pod}: its servers must follow each other, and {server} does not")]
    SuperPodSplit {
        /// The super pod.
        super_pod: String,
        /// The server out of place.
        server: String,
    },
    /// Two devices of a server share a port, or a port is 0.
    #[error(
        "server {server}: {field} {port} is 0 or used twice; every device of a server needs its own"
    )]
    Port {
        /// The server.
        server: String,
        /// The name in the file.
        field: &'static str,
        /// The port.
        port: u16,
    },
}

/// The rank table of `servers`, in the order given.
pub fn rank_table(
    version: RankTableVersion,
    servers: &[RankTableServer],
) -> Result<Value, RankTableError> {
    check_servers(servers)?;
    let mut table = Map::new();
    let version_text = match version {
        RankTableVersion::V1_0 => "1.0",
        RankTableVersion::V1_2 => "1.2",
    };
    table.insert("status".into(), json!("completed"));
    table.insert("version".into(), json!(version_text));
    table.insert("server_count".into(), json!(servers.len().to_string()));
    let address_needed = match version {
        RankTableVersion::V1_0 => servers.len() > 1,
        RankTableVersion::V1_2 => {
            let pods = super_pods(servers)?;
            let several = pods.len() > 1;
            table.insert("super_pod_list".into(), Value::Array(pods));
            several
        }
    };
    let list: Result<Vec<Value>, RankTableError> = servers
        .iter()
        .map(|server| server_entry(version, server, address_needed))
        .collect();
    table.insert("server_list".into(), Value::Array(list?));
    Ok(Value::Object(table))
}

fn check_servers(servers: &[RankTableServer]) -> Result<(), RankTableError> {
    if servers.is_empty() || servers.iter().any(|server| server.devices.is_empty()) {
        return Err(RankTableError::Empty);
    }
    let mut seen = BTreeSet::new();
    let mut expected = 0;
    for server in servers {
        let name = &server.server_id;
        if name.is_empty() || name.chars().count() > 64 || !seen.insert(name) {
            return Err(RankTableError::ServerId {
                server: name.clone(),
            });
        }
        let mut host_ports = BTreeSet::new();
        for device in &server.devices {
            if device.rank_id != expected {
                let (server, device, found) = (name.clone(), device.device_id, device.rank_id);
                return Err(RankTableError::RankOrder {
                    server,
                    device,
                    found,
                    expected,
                });
            }
            expected += 1;
            if let Some(port) = device.host_port
                && (port == 0 || !host_ports.insert(port))
            {
                return Err(RankTableError::Port {
                    server: name.clone(),
                    field: "host_port",
                    port,
                });
            }
        }
    }
    Ok(())
}

fn super_pods(servers: &[RankTableServer]) -> Result<Vec<Value>, RankTableError> {
    let mut pods: Vec<(&str, Vec<Value>)> = Vec::new();
    for server in servers {
        let entry = json!({ "server_id": server.server_id });
        let Some(pod) = server.super_pod_id.as_deref() else {
            return Err(RankTableError::Missing {
                server: server.server_id.clone(),
                field: "super_pod_id",
            });
        };
        if pods.last().is_some_and(|(last, _)| *last == pod) {
            pods.last_mut().expect("it was just seen").1.push(entry);
        } else if pods.iter().any(|(known, _)| *known == pod) {
            return Err(RankTableError::SuperPodSplit {
                super_pod: pod.to_owned(),
                server: server.server_id.clone(),
            });
        } else {
            pods.push((pod, vec![entry]));
        }
    }
    Ok(pods
        .into_iter()
        .map(|(pod, members)| json!({ "super_pod_id": pod, "server_list": members }))
        .collect())
}

fn server_entry(
    version: RankTableVersion,
    server: &RankTableServer,
    address_needed: bool,
) -> Result<Value, RankTableError> {
    let missing = |field| RankTableError::Missing {
        server: server.server_id.clone(),
        field,
    };
    let mut devices = Vec::new();
    for device in &server.devices {
        if address_needed && device.device_ip.is_none() {
            return Err(missing("device_ip"));
        }
        let mut entry = Map::new();
        let mut set = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                entry.insert(name.to_owned(), Value::String(value));
            }
        };
        set("device_id", Some(device.device_id.to_string()));
        set("device_ip", device.device_ip.clone());
        set(
            "device_port",
            device.device_port.map(|port| port.to_string()),
        );
        set("host_port", device.host_port.map(|port| port.to_string()));
        set("rank_id", Some(device.rank_id.to_string()));
        if version == RankTableVersion::V1_2 {
            let super_device_id = device
                .super_device_id
                .clone()
                .ok_or_else(|| missing("super_device_id"))?;
            set("super_device_id", Some(super_device_id));
            set("backup_device_ip", sibling_address(server, device));
        }
        devices.push(Value::Object(entry));
    }
    let mut entry = Map::new();
    entry.insert("server_id".into(), json!(server.server_id));
    if let Some(host_ip) = &server.host_ip {
        entry.insert("host_ip".into(), json!(host_ip));
    }
    entry.insert("device".into(), Value::Array(devices));
    Ok(Value::Object(entry))
}

/// Of an NPU's two dies, the other one.
pub(crate) fn sibling(device_id: u32) -> u32 {
    device_id ^ 1
}

/// The card of the sibling die, whose lane is borrowed when the own one fails. Only where both dies take part: a process has to see both.
fn sibling_address(server: &RankTableServer, device: &RankTableDevice) -> Option<String> {
    let wanted = sibling(device.device_id);
    let found = server
        .devices
        .iter()
        .find(|other| other.device_id == wanted)?;
    found.device_ip.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(
        name: &str,
        pod: Option<&str>,
        first_rank: u32,
        first_address: u32,
    ) -> RankTableServer {
        RankTableServer {
            server_id: name.into(),
            host_ip: Some(format!("172.16.0.{}", 100 + first_rank)),
            super_pod_id: pod.map(str::to_owned),
            devices: (0..2)
                .map(|index| RankTableDevice {
                    device_id: index,
                    rank_id: first_rank + index,
                    device_ip: Some(format!("192.168.1.{}", first_address + index)),
                    super_device_id: pod.map(|_| (first_rank + index).to_string()),
                    host_port: Some(16_665 + u16::try_from(index).expect("small")),
                    ..RankTableDevice::default()
                })
                .collect(),
        }
    }

    #[test]
    fn version_1_0_as_documented() {
        let table = rank_table(
            RankTableVersion::V1_0,
            &[server("node_0", None, 0, 6), server("node_1", None, 2, 8)],
        );
        assert_eq!(
            table.expect("it is valid"),
            json!({
                "status": "completed", "version": "1.0", "server_count": "2",
                "server_list": [
                    {"server_id": "node_0", "host_ip": "172.16.0.100", "device": [
                        {"device_id": "0", "device_ip": "192.168.1.6", "host_port": "16665", "rank_id": "0"},
                        {"device_id": "1", "device_ip": "192.168.1.7", "host_port": "16666", "rank_id": "1"}]},
                    {"server_id": "node_1", "host_ip": "172.16.0.102", "device": [
                        {"device_id": "0", "device_ip": "192.168.1.8", "host_port": "16665", "rank_id": "2"},
                        {"device_id": "1", "device_ip": "192.168.1.9", "host_port": "16666", "rank_id": "3"}]}]
            })
        );
    }

    #[test]
    fn version_1_2_as_documented() {
        let servers = [
            server("node_0", Some("0"), 0, 6),
            server("node_1", Some("1"), 2, 8),
        ];
        assert_eq!(
            rank_table(RankTableVersion::V1_2, &servers).expect("it is valid"),
            json!({
                "status": "completed", "version": "1.2", "server_count": "2",
                "server_list": [
                    {"server_id": "node_0", "host_ip": "172.16.0.100", "device": [
                        {"device_id": "0", "super_device_id": "0", "device_ip": "192.168.1.6", "backup_device_ip": "192.168.1.7",
                         "host_port": "16665", "rank_id": "0"},
                        {"device_id": "1", "super_device_id": "1", "device_ip": "192.168.1.7", "backup_device_ip": "192.168.1.6",
                         "host_port": "16666", "rank_id": "1"}]},
                    {"server_id": "node_1", "host_ip": "172.16.0.102", "device": [
                        {"device_id": "0", "super_device_id": "2", "device_ip": "192.168.1.8", "backup_device_ip": "192.168.1.9",
                         "host_port": "16665", "rank_id": "2"},
                        {"device_id": "1", "super_device_id": "3", "device_ip": "192.168.1.9", "backup_device_ip": "192.168.1.8",
                         "host_port": "16666", "rank_id": "3"}]}],
                "super_pod_list": [
                    {"super_pod_id": "0", "server_list": [{"server_id": "node_0"}]},
                    {"super_pod_id": "1", "server_list": [{"server_id": "node_1"}]}]
            })
        );
    }

    #[test]
    fn a_die_without_its_sibling_borrows_no_lane() {
        let mut servers = [server("node_0", Some("0"), 0, 6)];
        servers[0].devices[1].device_id = 2;
        let table = rank_table(RankTableVersion::V1_2, &servers).expect("it is valid");
        let devices = &table["server_list"][0]["device"];
        for device in devices.as_array().expect("a list") {
            assert_eq!(device.get("backup_device_ip"), None, "{device}");
        }
    }

    #[test]
    fn what_hccl_would_misread_is_refused() {
        let refused = |version, servers: &[RankTableServer]| {
            rank_table(version, servers).expect_err("it is not valid")
        };
        let split = [
            server("a", Some("0"), 0, 0),
            server("b", Some("1"), 2, 2),
            server("c", Some("0"), 4, 4),
        ];
        assert!(
            matches!(refused(RankTableVersion::V1_2, &split), RankTableError::SuperPodSplit { server, .. } if server == "c")
        );
        let gap = [server("a", None, 0, 0), server("b", None, 3, 2)];
        assert!(matches!(
            refused(RankTableVersion::V1_0, &gap),
            RankTableError::RankOrder {
                expected: 2,
                found: 3,
                ..
            }
        ));
        let twice = [server("a", None, 0, 0), server("a", None, 2, 2)];
        assert!(matches!(
            refused(RankTableVersion::V1_0, &twice),
            RankTableError::ServerId { .. }
        ));
        let mut without = [server("a", None, 0, 0), server("b", None, 2, 2)];
        without[1].devices[0].device_ip = None;
        assert!(matches!(
            refused(RankTableVersion::V1_0, &without),
            RankTableError::Missing {
                field: "device_ip",
                ..
            }
        ));
        let podless = [server("a", None, 0, 0)];
        assert!(matches!(
            refused(RankTableVersion::V1_2, &podless),
            RankTableError::Missing {
                field: "super_pod_id",
                ..
            }
        ));
        let mut ports = [server("a", None, 0, 0)];
        ports[0].devices[1].host_port = Some(16_665);
        assert!(matches!(
            refused(RankTableVersion::V1_0, &ports),
            RankTableError::Port { port: 16_665, .. }
        ));
        assert_eq!(refused(RankTableVersion::V1_0, &[]), RankTableError::Empty);
    }

    #[test]
    fn one_server_needs_no_device_address() {
        let mut alone = [server("a", None, 0, 0)];
        alone[0]
            .devices
            .iter_mut()
            .for_each(|device| device.device_ip = None);
        assert!(rank_table(RankTableVersion::V1_0, &alone).is_ok());
    }
}
