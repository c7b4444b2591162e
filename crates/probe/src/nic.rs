//! Physical network interfaces, from `/sys/class/net` and `/sys/class/infiniband`.
//!
//! Left out: everything virtual (bridges, container ends, tunnels), which comes and goes, and virtual functions, which their
//! physical function already stands for. An InfiniBand adapter port without an interface is listed under its RDMA name.

use supernode_types::inventory::{LinkState, Nic};

use crate::files::Files;

pub(crate) fn discover(files: Files<'_>) -> Vec<Nic> {
    let mut nics: Vec<Nic> = files
        .names("sys/class/net")
        .into_iter()
        .filter_map(|name| interface(files, name))
        .collect();
    for device in files.names("sys/class/infiniband") {
        let listed = nics.iter().any(|nic| nic.rdma_devices.contains(&device));
        if !listed && !files.exists(&format!("sys/class/infiniband/{device}/device/physfn")) {
            nics.extend(adapter(files, device));
        }
    }
    nics.sort_by(|one, other| one.name.cmp(&other.name));
    nics
}

fn interface(files: Files<'_>, name: String) -> Option<Nic> {
    let at = |file: &str| format!("sys/class/net/{name}/{file}");
    if !files.exists(&at("device")) || files.exists(&at("device/physfn")) {
        return None;
    }
    let rdma_devices = files.names(&at("device/infiniband"));
    // -1 and 4294967295 are the kernel's ways to say "not known".
    let speed = files
        .number::<i64>(&at("speed"))
        .and_then(|speed| u32::try_from(speed).ok());
    let speed_mbps = speed.filter(|speed| (1..u32::MAX).contains(speed));
    Some(Nic {
        mac: files.word(&at("address")).unwrap_or_default(),
        speed_mbps: speed_mbps.or_else(|| {
            rdma_devices
                .first()
                .and_then(|device| port_speed_mbps(files, device))
        }),
        state: match files.word(&at("operstate")).as_deref() {
            Some("up") => LinkState::Up,
            Some("down" | "lowerlayerdown" | "notpresent" | "dormant") => LinkState::Down,
            _ => LinkState::Unknown,
        },
        driver: files.link_name(&at("device/driver")).unwrap_or_default(),
        pci_address: files.pci_address(&at("device")),
        rdma_devices,
        name,
    })
}

/// Only real hardware: software RDMA (rxe, siw) has no device behind it.
fn adapter(files: Files<'_>, device: String) -> Option<Nic> {
    let at = |file: &str| format!("sys/class/infiniband/{device}/{file}");
    let pci_address = files.pci_address(&at("device"))?;
    let state = files.word(&at("ports/1/state")).unwrap_or_default();
    Some(Nic {
        name: device.clone(),
        mac: String::new(),
        speed_mbps: port_speed_mbps(files, &device),
        state: if state.contains("ACTIVE") {
            LinkState::Up
        } else if state.contains("DOWN") || state.contains("INIT") {
            LinkState::Down
        } else {
            LinkState::Unknown
        },
        driver: files.link_name(&at("device/driver")).unwrap_or_default(),
        pci_address: Some(pci_address),
        rdma_devices: vec![device],
    })
}

/// The rate of an adapter's first port while it has a link: a port that is down still prints a rate.
fn port_speed_mbps(files: Files<'_>, device: &str) -> Option<u32> {
    let at = |file: &str| format!("sys/class/infiniband/{device}/ports/1/{file}");
    files
        .word(&at("state"))
        .filter(|state| state.contains("ACTIVE"))?;
    parse_rate_mbps(&files.word(&at("rate"))?)
}

/// Reads `400 Gb/sec (4X NDR)` and `2.5 Gb/sec (1X SDR)`.
fn parse_rate_mbps(text: &str) -> Option<u32> {
    let (number, rest) = text.trim().split_once(' ')?;
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    if !rest.starts_with("Gb/sec") {
        return None;
    }
    let tenths: u32 = tenths.get(..1)?.parse().ok()?;
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(1000)?
        .checked_add(tenths * 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_ports() {
        assert_eq!(parse_rate_mbps("400 Gb/sec (4X NDR)\n"), Some(400_000));
        assert_eq!(parse_rate_mbps("2.5 Gb/sec (1X SDR)"), Some(2_500));
        assert_eq!(parse_rate_mbps("fast"), None);
        assert_eq!(parse_rate_mbps("4294967295 Gb/sec"), None);
        assert_eq!(parse_rate_mbps("1. Gb/sec"), None);
    }
}
