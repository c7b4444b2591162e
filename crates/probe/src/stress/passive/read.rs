//! Where the kernel keeps its counters.

use super::Counters;
use crate::control_group;
use crate::files::Files;

/// Counters of a network interface that are zero on a sound one.
const NIC: [&str; 9] = [
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_carrier_errors",
];
/// Counters of an RDMA port that are zero on a sound one, or say that the fabric is busy.
const RDMA: [(&str, &[&str]); 2] = [
    (
        "counters",
        &[
            "symbol_error",
            "link_error_recovery",
            "link_downed",
            "port_rcv_errors",
            "port_rcv_remote_physical_errors",
            "port_xmit_discards",
            "port_xmit_wait",
            "local_link_integrity_errors",
            "excessive_buffer_overrun_errors",
        ],
    ),
    (
        "hw_counters",
        &[
            "out_of_sequence",
            "packet_seq_err",
            "local_ack_timeout_err",
            "implied_nak_seq_err",
            "rnr_nak_retry_err",
            "out_of_buffer",
            "rx_icrc_encapsulated",
            "np_cnp_sent",
            "rp_cnp_handled",
        ],
    ),
];

pub(super) fn everything(files: Files<'_>) -> Counters {
    let mut found = Counters::default();
    processor(files, &mut found);
    pressure(files, &mut found);
    network(files, &mut found);
    storage(files, &mut found);
    memory_errors(files, &mut found);
    heat(files, &mut found);
    found
}

fn processor(files: Files<'_>, found: &mut Counters) {
    let text = files.text("proc/stat").unwrap_or_default();
    for (name, ticks) in times(&text) {
        found.counters.insert(format!("cpu/{name}"), ticks);
    }
    let load = files.word("proc/loadavg");
    let load = load.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    if let Some(load) = load {
        found.readings.insert("load".into(), load);
    }
    let base = "sys/devices/system/cpu";
    for cpu in files.names(base) {
        for what in ["core", "package"] {
            let path = format!("{base}/{cpu}/thermal_throttle/{what}_throttle_count");
            if let Some(count) = files.number(&path) {
                found
                    .counters
                    .insert(format!("throttle/{cpu}/{what}"), count);
            }
        }
        let path = format!("{base}/{cpu}/cpufreq/scaling_cur_freq");
        if let Some(kilohertz) = files.number::<f64>(&path) {
            found
                .readings
                .insert(format!("frequency_mhz/{cpu}"), kilohertz / 1000.0);
        }
    }
    control_group(files, found);
}

/// How often and for how long a limit held back the control group that we are in, of version 2 or 1.
fn control_group(files: Files<'_>, found: &mut Counters) {
    for directory in control_group::directories(files, "cpu") {
        let path = format!("{directory}/cpu.stat");
        for (name, value) in pairs(&files.text(&path).unwrap_or_default()) {
            let (name, value) = match name {
                // Version 1 counts nanoseconds.
                "throttled_time" => ("throttled_usec", value / 1000),
                "nr_throttled" | "throttled_usec" => (name, value),
                _ => continue,
            };
            found.counters.insert(format!("cgroup/{name}"), value);
        }
    }
}

/// Reads the first line of `/proc/stat`: ticks of a hundredth of a second, over all processors.
fn times(text: &str) -> Vec<(&'static str, u64)> {
    let names = [
        "user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal",
    ];
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "));
    let ticks = line
        .unwrap_or_default()
        .split_whitespace()
        .map_while(|word| word.parse().ok());
    names.into_iter().zip(ticks).collect()
}

/// Reads lines of a name and a number.
fn pairs(text: &str) -> Vec<(&str, u64)> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.trim().split_once(' ')?;
            Some((name, value.trim().parse().ok()?))
        })
        .collect()
}

/// Microseconds in which somebody (`some`) or everybody (`full`) waited for something.
fn pressure(files: Files<'_>, found: &mut Counters) {
    for what in ["cpu", "memory", "io"] {
        let text = files
            .text(&format!("proc/pressure/{what}"))
            .unwrap_or_default();
        for line in text.lines() {
            let name = line.split(' ').next().unwrap_or_default();
            let total = line
                .split(' ')
                .find_map(|word| word.strip_prefix("total=")?.parse().ok());
            if let Some(total) = total {
                found
                    .counters
                    .insert(format!("pressure/{what}/{name}"), total);
            }
        }
    }
}

fn network(files: Files<'_>, found: &mut Counters) {
    let base = "sys/class/net";
    for nic in files.names(base) {
        // Only what has hardware behind it: bridges and tunnels repeat what the hardware says.
        if !files.exists(&format!("{base}/{nic}/device")) {
            continue;
        }
        for counter in NIC {
            if let Some(value) = files.number(&format!("{base}/{nic}/statistics/{counter}")) {
                found.counters.insert(format!("nic/{nic}/{counter}"), value);
            }
        }
        if let Some(value) = files.number(&format!("{base}/{nic}/carrier_down_count")) {
            found
                .counters
                .insert(format!("nic/{nic}/carrier_down"), value);
        }
    }
    let base = "sys/class/infiniband";
    for device in files.names(base) {
        for port in files.names(&format!("{base}/{device}/ports")) {
            for (group, counters) in RDMA {
                for counter in counters {
                    let path = format!("{base}/{device}/ports/{port}/{group}/{counter}");
                    if let Some(value) = files.number(&path) {
                        let name = format!("rdma/{device}/{port}/{counter}");
                        found.counters.insert(name, value);
                    }
                }
            }
        }
    }
    if let Some(value) = retransmissions(&files.text("proc/net/snmp").unwrap_or_default()) {
        found.counters.insert("tcp/retransmissions".into(), value);
    }
}

/// Reads the column `RetransSegs` of the two lines of `Tcp:`, names and values.
fn retransmissions(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let column = names
        .split_whitespace()
        .position(|name| name == "RetransSegs")?;
    values.split_whitespace().nth(column)?.parse().ok()
}

fn storage(files: Files<'_>, found: &mut Counters) {
    for disk in files.names("sys/block") {
        // In hexadecimal, other than all others.
        if let Some(value) = files.hexadecimal(&format!("sys/block/{disk}/device/ioerr_cnt")) {
            found
                .counters
                .insert(format!("disk/{disk}/errors"), value.into());
        }
    }
    for disk in files.names("sys/fs/ext4") {
        if let Some(value) = files.number(&format!("sys/fs/ext4/{disk}/errors_count")) {
            found
                .counters
                .insert(format!("file_system/{disk}/errors"), value);
        }
    }
}

fn memory_errors(files: Files<'_>, found: &mut Counters) {
    let base = "sys/devices/system/edac/mc";
    for controller in files.names(base) {
        for counter in ["ce_count", "ue_count"] {
            if let Some(value) = files.number(&format!("{base}/{controller}/{counter}")) {
                found
                    .counters
                    .insert(format!("edac/{controller}/{counter}"), value);
            }
        }
    }
}

fn heat(files: Files<'_>, found: &mut Counters) {
    let base = "sys/class/thermal";
    for zone in files.names(base) {
        if let Some(millidegrees) = files.number::<f64>(&format!("{base}/{zone}/temp")) {
            found
                .readings
                .insert(format!("celsius/{zone}"), millidegrees / 1000.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::files::write;
    use crate::stress::passive::counters;

    #[test]
    fn a_limit_of_a_control_group_of_version_1_is_read() {
        let machine = tempfile::tempdir().expect("a directory");
        let groups = "5:memory:/jobs\n4:cpu,cpuacct:/jobs/a\n0::/\n";
        for (path, text) in [
            ("proc/self/cgroup", groups),
            (
                "sys/fs/cgroup/cpu,cpuacct/jobs/a/cpu.stat",
                "nr_periods 9\nnr_throttled 4\nthrottled_time 2500000\n",
            ),
        ] {
            write(machine.path(), path, text);
        }
        let found = counters(machine.path());
        assert_eq!(found.counters.get("cgroup/nr_throttled"), Some(&4));
        assert_eq!(found.counters.get("cgroup/throttled_usec"), Some(&2500));
    }

    #[test]
    fn a_written_down_machine_is_read() {
        let machine = tempfile::tempdir().expect("a directory");
        for (path, text) in [
            ("proc/stat", "cpu  10 0 5 100 2 0 1 7 0 0\ncpu0 1 2 3\n"),
            ("proc/loadavg", "1.25 0.58 0.59 1/389 4242\n"),
            (
                "proc/pressure/cpu",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=4711\n",
            ),
            (
                "proc/net/snmp",
                "Ip: a\nIp: 1\nTcp: InSegs RetransSegs\nTcp: 9 44\n",
            ),
            ("proc/self/cgroup", "0::/system.slice/a.service\n"),
            (
                "sys/fs/cgroup/system.slice/a.service/cpu.stat",
                "usage_usec 5\nnr_throttled 3\nthrottled_usec 900\n",
            ),
            ("sys/class/net/eth0/device/vendor", "0x15b3"),
            ("sys/class/net/eth0/statistics/rx_crc_errors", "2\n"),
            ("sys/class/net/br0/statistics/rx_errors", "9\n"),
            ("sys/block/sda/device/ioerr_cnt", "0x1f\n"),
            ("sys/devices/system/edac/mc/mc0/ue_count", "1\n"),
            (
                "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
                "6\n",
            ),
            (
                "sys/class/infiniband/mlx5_0/ports/1/counters/symbol_error",
                "8\n",
            ),
            ("sys/class/thermal/thermal_zone0/temp", "45500\n"),
        ] {
            write(machine.path(), path, text);
        }
        let found = counters(machine.path());
        for (name, value) in [
            ("cpu/steal", 7),
            ("cpu/idle", 100),
            ("pressure/cpu/some", 4711),
            ("tcp/retransmissions", 44),
            ("cgroup/nr_throttled", 3),
            ("nic/eth0/rx_crc_errors", 2),
            ("disk/sda/errors", 31),
            ("edac/mc0/ue_count", 1),
            ("throttle/cpu0/core", 6),
            ("rdma/mlx5_0/1/symbol_error", 8),
        ] {
            assert_eq!(found.counters.get(name), Some(&value), "{name}");
        }
        assert_eq!(found.counters.get("cgroup/throttled_usec"), Some(&900));
        assert!(!found.counters.contains_key("nic/br0/rx_errors"));
        assert_eq!(found.readings.get("load"), Some(&1.25));
        assert_eq!(found.readings.get("celsius/thermal_zone0"), Some(&45.5));
    }

    #[test]
    fn this_machine_has_some() {
        let found = counters(std::path::Path::new("/"));
        assert!(found.counters.contains_key("cpu/idle"), "{found:?}");
    }
}
