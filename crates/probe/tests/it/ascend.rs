//! Every sample of Ascend's tools, and every parser with broken ones.

use std::net::IpAddr;

use proptest::prelude::*;
use supernode_probe::ascend::{
    ChipStatus, SuperPodAnswer, SuperPodPlace, model, normalise_bus_address,
    parse_device_addresses, parse_fields, parse_health, parse_info, parse_mapping,
    parse_package_version, parse_super_pod,
};
use supernode_types::inventory::DeviceHealth;

use crate::machine::sample;

const GIBIBYTE: u64 = 1 << 30;

#[test]
fn the_table_of_an_a2_without_its_processes() {
    let table = parse_info(&sample("npu-smi-info-a2.txt"));
    assert_eq!(table.driver_version.as_deref(), Some("24.1.rc3"));
    assert_eq!(table.chips.len(), 8);
    let expected = ChipStatus {
        npu_id: 0,
        chip_id: 0,
        physical_id: None,
        name: "910B3".into(),
        health: DeviceHealth::Ok,
        bus_address: Some("0000:c1:00.0".into()),
        memory_bytes: Some(64 * GIBIBYTE),
    };
    assert_eq!(table.chips[0], expected);
    assert_eq!(
        table.chips[5].health,
        DeviceHealth::Bad {
            why: "npu-smi reports health Alarm".into()
        }
    );
    assert_eq!(table.chips[7].bus_address.as_deref(), Some("0000:42:00.0"));
}

#[test]
fn the_table_of_an_a3_has_two_chips_per_card() {
    let table = parse_info(&sample("npu-smi-info-a3.txt"));
    let numbers: Vec<_> = table
        .chips
        .iter()
        .map(|chip| (chip.npu_id, chip.chip_id, chip.physical_id))
        .collect();
    let expected: Vec<_> = (0..16)
        .map(|number| (number / 2, number % 2, Some(number)))
        .collect();
    assert_eq!(numbers, expected);
    assert!(table.chips.iter().all(|chip| chip.memory_bytes == Some(64 * GIBIBYTE) && chip.health == DeviceHealth::Ok));
    assert_eq!(table.chips[1].bus_address.as_deref(), Some("0000:9f:00.0"));
}

#[test]
fn the_table_of_a_950_has_four_cells_and_gaps() {
    let table = parse_info(&sample("npu-smi-info-950.txt"));
    let numbers: Vec<_> = table
        .chips
        .iter()
        .map(|chip| (chip.npu_id, chip.chip_id, chip.name.as_str()))
        .collect();
    assert_eq!(
        numbers,
        [
            (0, 0, "Ascend950PR"),
            (1, 0, "Ascend950PR"),
            (3, 0, "Ascend950PR")
        ]
    );
    assert_eq!(table.chips[2].bus_address, None);
    assert_eq!(table.chips[2].health, DeviceHealth::Unknown);
    assert_eq!(table.chips[0].memory_bytes, Some(128 * GIBIBYTE));
}

#[test]
fn the_table_of_a_310p_has_ordinary_memory_only() {
    let chips = parse_info(&sample("npu-smi-info-310p.txt")).chips;
    let facts: Vec<_> = chips
        .iter()
        .map(|chip| {
            (
                chip.npu_id,
                chip.chip_id,
                chip.physical_id,
                chip.memory_bytes,
            )
        })
        .collect();
    assert_eq!(
        facts,
        [
            (32768, 0, Some(0), Some(44278 << 20)),
            (32768, 1, Some(1), Some(43693 << 20))
        ]
    );
}

#[test]
fn text_that_is_no_table_has_no_chips() {
    for name in [
        "npu-smi-device-used.txt",
        "npu-smi-no-card.txt",
        "npu-smi-board-a2.txt",
        "npu-smi-not-supported.txt",
    ] {
        assert_eq!(parse_info(&sample(name)).chips, [], "{name}");
        assert_eq!(parse_mapping(&sample(name)).chips, [], "{name}");
    }
}

#[test]
fn mappings_leave_out_controllers_and_read_their_columns_by_name() {
    let numbers = |name: &str| {
        let table = parse_mapping(&sample(name));
        let rows = table
            .chips
            .iter()
            .map(|chip| (chip.npu_id, chip.chip_id, chip.logic_id, chip.physical_id));
        (
            rows.collect::<Vec<_>>(),
            table.chips[0].name.clone(),
            table.one_chip_per_card,
        )
    };
    let (a2, name, one_chip) = numbers("npu-smi-mapping-a2.txt");
    assert_eq!(
        a2,
        (0..8)
            .map(|number| (number, 0, Some(number), None))
            .collect::<Vec<_>>()
    );
    assert_eq!((name.as_str(), one_chip), ("Ascend 910B3", false));
    let (a3, name, one_chip) = numbers("npu-smi-mapping-a3.txt");
    assert_eq!(
        a3,
        (0..16)
            .map(|number| (number / 2, number % 2, Some(number), Some(number)))
            .collect::<Vec<_>>()
    );
    assert_eq!((name.as_str(), one_chip), ("Ascend910", false));
    let (a5, name, one_chip) = numbers("npu-smi-mapping-950.txt");
    assert_eq!(
        a5,
        [
            (0, 0, None, Some(0)),
            (1, 0, None, Some(1)),
            (3, 0, None, Some(3))
        ]
    );
    assert_eq!((name.as_str(), one_chip), ("Ascend950PR", true));
}

#[test]
fn boards_have_colons_in_values_and_unknown_values_are_absent() {
    let board = parse_fields(&sample("npu-smi-board-a2.txt"));
    assert_eq!(board["PCIe Bus Info"], "0000:C1:00.0");
    assert_eq!(board["Serial Number"], "1024C9048791");
    assert_eq!(board["Firmware Version"], "7.5.0.1.129");
    assert!(!board.contains_key("Model"), "NA is not a model");
    assert_eq!(
        parse_fields(&sample("npu-smi-board-chip-a3.txt"))["NPU Name"],
        "9392"
    );
}

#[test]
fn super_pod_zero_is_a_super_pod_and_all_ones_are_none() {
    let place = |name: &str| parse_super_pod(&sample(name));
    let a3 = SuperPodPlace {
        device_id: Some(16_777_216),
        super_pod_id: Some(0),
        server_index: Some(4),
    };
    assert_eq!(place("npu-smi-spod-info-a3.txt"), SuperPodAnswer::Place(a3));
    let a5 = SuperPodPlace {
        device_id: None,
        super_pod_id: Some(7),
        server_index: Some(12),
    };
    assert_eq!(
        place("npu-smi-spod-info-950.txt"),
        SuperPodAnswer::Place(a5)
    );
    let unset = SuperPodPlace {
        device_id: None,
        super_pod_id: Some(0),
        server_index: None,
    };
    assert_eq!(
        place("npu-smi-spod-info-not-configured.txt"),
        SuperPodAnswer::Place(unset)
    );
    assert_eq!(
        place("npu-smi-not-supported.txt"),
        SuperPodAnswer::NotSupported
    );
    assert_eq!(
        place("npu-smi-device-used.txt"),
        SuperPodAnswer::NotUnderstood
    );
}

#[test]
fn models_are_named_as_ascends_own_software_does() {
    assert_eq!(model("Ascend 910B3", None), "Ascend910B3");
    assert_eq!(model("910B3", Some("9392")), "Ascend910B3");
    assert_eq!(model("Ascend910", Some("9392")), "Ascend910_9392");
    assert_eq!(model("", None), "");
}

#[test]
fn words_for_health() {
    assert_eq!(parse_health("OK"), DeviceHealth::Ok);
    assert_eq!(
        parse_health("Critical"),
        DeviceHealth::Bad {
            why: "npu-smi reports health Critical".into()
        }
    );
    for word in ["", "NA", "UNKNOWN", "ok"] {
        assert_eq!(parse_health(word), DeviceHealth::Unknown, "{word}");
    }
}

#[test]
fn addresses_of_devices() {
    let addresses: Vec<_> = parse_device_addresses(&sample("hccn.conf"))
        .into_iter()
        .collect();
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let expected = [
        (0, address("10.20.0.100")),
        (1, address("10.20.0.101")),
        (2, address("10.20.0.102")),
        (15, address("fd00:20::15")),
    ];
    assert_eq!(addresses, expected);
}

#[test]
fn versions_are_the_ones_that_users_know() {
    for (file, version) in [
        ("ascend_toolkit_install.info", "8.3.RC2"),
        ("version.cfg", "8.1.RC1"),
        ("opp-version.info", "8.5.0"),
        ("driver-version.info", "25.2.0"),
        ("firmware-version.info", "7.7.0.1.231"),
    ] {
        assert_eq!(
            parse_package_version(&sample(file)).as_deref(),
            Some(version),
            "{file}"
        );
    }
    assert_eq!(parse_package_version("version=\n# version=1\n"), None);
}

#[test]
fn bus_addresses_are_written_as_the_kernel_does() {
    for (text, address) in [
        ("00000000:4F:00.0", Some("0000:4f:00.0")),
        ("0000:9D:00.0 ", Some("0000:9d:00.0")),
        ("00010000:01:1F.7", Some("10000:01:1f.7")),
        ("NA", None),
        ("0000:9D:00", None),
        ("0000:9D:00.0.1", None),
        ("000000000:9D:00.0", None),
        ("0000:+D:00.0", None),
        ("", None),
    ] {
        assert_eq!(normalise_bus_address(text).as_deref(), address, "{text}");
    }
}

const SAMPLES: [&str; 17] = [
    "npu-smi-info-a2.txt",
    "npu-smi-info-a3.txt",
    "npu-smi-info-950.txt",
    "npu-smi-info-310p.txt",
    "npu-smi-mapping-a2.txt",
    "npu-smi-mapping-a3.txt",
    "npu-smi-mapping-950.txt",
    "npu-smi-board-a2.txt",
    "npu-smi-board-chip-a3.txt",
    "npu-smi-spod-info-a3.txt",
    "npu-smi-spod-info-950.txt",
    "npu-smi-device-used.txt",
    "hccn.conf",
    "ascend_toolkit_install.info",
    "version.cfg",
    "driver-version.info",
    "firmware-version.info",
];

/// Runs everything, so that no parser is left out; what comes back must be bounded by what went in.
fn all_parsers(text: &str) {
    let lines = text.lines().count();
    assert!(parse_info(text).chips.len() <= lines / 2);
    assert!(parse_mapping(text).chips.len() <= lines);
    assert!(parse_fields(text).len() <= lines);
    assert!(parse_device_addresses(text).len() <= lines);
    let _ = (
        parse_super_pod(text),
        parse_package_version(text),
        normalise_bus_address(text),
        parse_health(text),
        model(text, Some(text)),
    );
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        all_parsers(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn broken_samples_never_panic(which in 0..SAMPLES.len(), from in 0usize..6000, to in 0usize..6000, at in 0usize..6000, byte in any::<u8>()) {
        let mut bytes = sample(SAMPLES[which]).into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let (from, to) = (from.min(bytes.len()), to.min(bytes.len()));
        all_parsers(&String::from_utf8_lossy(&bytes[from.min(to)..from.max(to)]));
        all_parsers(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_table_cut_anywhere_gives_the_first_chips_unchanged(cut in 0usize..8000) {
        let text = sample("npu-smi-info-a3.txt");
        let whole = parse_info(&text).chips;
        let part = parse_info(&text[..cut.min(text.len())]).chips;
        // The last row may be cut inside; those before it are whole.
        let certain = part.len().saturating_sub(1);
        prop_assert_eq!(&part[..certain], &whole[..certain]);
    }
}
