//! Properties and examples of spec matching.

use proptest::prelude::*;

use super::*;
use crate::inventory::{Accelerator, Cpu};

const GIBIBYTE: u64 = 1 << 30;

fn accelerator_node() -> Inventory {
    let accelerators = (0..8)
        .map(|index| Accelerator {
            model: "NVIDIA H100 80GB HBM3".into(),
            memory_bytes: Some(80 * GIBIBYTE),
            serial: Some(format!("16500{index}")),
            ..Accelerator::new(index, AcceleratorVendor::Nvidia)
        })
        .collect();
    let nic = |name: &str, speed_mbps, rdma: &[&str]| Nic {
        name: name.into(),
        speed_mbps,
        rdma_devices: rdma.iter().map(|name| (*name).to_owned()).collect(),
        ..Nic::default()
    };
    Inventory {
        host_name: "n1".into(),
        cpu: Cpu {
            model: "Intel(R) Xeon(R) Platinum 8480C".into(),
            architecture: "x86_64".into(),
            cores: 112,
            ..Cpu::default()
        },
        memory_bytes: 2_113_500_000_000,
        nics: vec![
            nic("eno1", Some(1000), &[]),
            nic("ib0", Some(400_000), &["mlx5_0"]),
            nic("ib1", Some(400_000), &["mlx5_1"]),
            nic("storage", Some(200_000), &["mlx5_2"]),
        ],
        accelerators,
        ..Inventory::default()
    }
}

fn differing_facts(spec: &SpecDefinition, inventory: &Inventory) -> Vec<String> {
    matches(spec, inventory)
        .err()
        .into_iter()
        .flatten()
        .map(|difference| difference.fact)
        .collect()
}

/// What a node may look like: known and unknown facts, equal and mixed devices.
fn any_inventory() -> impl Strategy<Value = Inventory> {
    let text = || {
        prop_oneof![
            Just(String::new()),
            "[ -~]{1,24}",
            Just("NVIDIA  H100 80GB HBM3".to_owned())
        ]
    };
    let vendor = prop_oneof![
        Just(AcceleratorVendor::Nvidia),
        Just(AcceleratorVendor::Ascend)
    ];
    let device = (
        vendor,
        text(),
        proptest::option::of(0u64..1 << 38),
        any::<u32>(),
    )
        .prop_map(|(vendor, model, memory_bytes, index)| Accelerator {
            model,
            memory_bytes,
            ..Accelerator::new(index, vendor)
        });
    let nic = (
        proptest::option::of(0u32..800_000),
        proptest::collection::vec("mlx5_[0-9]", 0..2),
    )
        .prop_map(|(speed_mbps, rdma_devices)| Nic {
            speed_mbps,
            rdma_devices,
            ..Nic::default()
        });
    let devices = prop_oneof![
        proptest::collection::vec(device.clone(), 0..5),
        (device, 1usize..9).prop_map(|(device, count)| vec![device; count]),
    ];
    (
        text(),
        text(),
        0u32..300,
        0u64..1 << 45,
        devices,
        proptest::collection::vec(nic, 0..6),
    )
        .prop_map(
            |(architecture, model, cores, memory_bytes, accelerators, nics)| Inventory {
                cpu: Cpu {
                    model,
                    architecture,
                    cores,
                    ..Cpu::default()
                },
                memory_bytes,
                accelerators,
                nics,
                ..Inventory::default()
            },
        )
}

proptest! {
    #[test]
    fn what_is_learned_from_a_node_matches_that_node(inventory in any_inventory()) {
        prop_assert_eq!(matches(&SpecDefinition::learn(&inventory), &inventory), Ok(()));
    }

    #[test]
    fn what_is_learned_survives_its_text(inventory in any_inventory()) {
        let spec = SpecDefinition::learn(&inventory);
        let text = serde_json::to_string(&spec).expect("plain data");
        prop_assert_eq!(serde_json::from_str::<SpecDefinition>(&text).expect("what was written can be read"), spec);
    }

    #[test]
    fn each_single_changed_fact_is_named(which in 0usize..9, by in 1u32..50, device in 0usize..8) {
        let mut node = accelerator_node();
        let spec = SpecDefinition::learn(&node);
        prop_assert_eq!(spec.validate(), Ok(()));
        let fact = match which {
            0 => { node.accelerators.truncate(device); "number of accelerators" }
            1 => { node.accelerators[device].vendor = AcceleratorVendor::Ascend; "accelerator vendor" }
            2 => { node.accelerators[device].model = format!("H{by}"); "accelerator model" }
            3 => { node.accelerators[device].memory_bytes = Some((80 - u64::from(by.clamp(4, 40))) * GIBIBYTE); "accelerator memory" }
            4 => { node.cpu.cores -= by; "number of CPU cores" }
            5 => { node.cpu.model = "other".into(); "CPU model" }
            6 => { node.cpu.architecture = "aarch64".into(); "CPU architecture" }
            7 => { node.memory_bytes = node.memory_bytes / 100 * u64::from(96 - by); "memory" }
            _ => { node.nics[1].speed_mbps = Some(100_000 + by); "number of network interfaces with RDMA with 400000 Mbit/s" }
        };
        prop_assert_eq!(differing_facts(&spec, &node), vec![fact.to_owned()]);
    }

    #[test]
    fn what_is_no_part_of_a_spec_never_matters(host in "[a-z]{1,9}", serial in "[0-9]{1,9}", missing in 0u64..3) {
        let mut node = accelerator_node();
        let spec = SpecDefinition::learn(&node);
        node.host_name.clone_from(&host);
        node.accelerators[0].serial = Some(serial.clone());
        node.nics[1].mac = serial;
        node.versions.insert("cuda".into(), host);
        node.file_systems.push(crate::inventory::FileSystem::default());
        node.memory_bytes = node.memory_bytes / 100 * (100 - missing);
        prop_assert_eq!(matches(&spec, &node), Ok(()));
    }

    #[test]
    fn a_best_match_matches_and_no_other_match_asks_more(inventories in proptest::collection::vec(any_inventory(), 1..5)) {
        let specs: Vec<_> = inventories.iter().map(SpecDefinition::learn).collect();
        match best_match(specs.iter().enumerate(), &inventories[0]) {
            Ok(best) => {
                let best = &specs[best.expect("its own spec matches")];
                prop_assert_eq!(matches(best, &inventories[0]), Ok(()));
                prop_assert!(best.constraints() >= specs[0].constraints());
            }
            Err(ambiguous) => prop_assert!(ambiguous.specs.len() >= 2),
        }
    }
}

#[test]
fn a_difference_is_one_clear_sentence() {
    let mut node = accelerator_node();
    let spec = SpecDefinition::learn(&node);
    node.accelerators.pop();
    node.accelerators[5].memory_bytes = Some(40 * GIBIBYTE);
    node.memory_bytes = 0;
    let sentences: Vec<_> = matches(&spec, &node)
        .expect_err("it differs")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        sentences,
        [
            "the number of accelerators must be 8, but is 7",
            "the accelerator memory must be 80.0 GiB within 3 %, but is 40.0 GiB on device 5",
            "the memory must be 1968.3 GiB within 3 %, but is not known",
        ]
    );
}

#[test]
fn a_node_that_lost_all_its_accelerators_is_not_a_plain_host() {
    let mut node = accelerator_node();
    let plain = Inventory {
        accelerators: Vec::new(),
        ..node.clone()
    };
    node.memory_bytes = 1;
    let spec = SpecDefinition::learn(&plain);
    assert_eq!(spec.validate(), Ok(()));
    assert!(
        differing_facts(&spec, &accelerator_node()).contains(&"number of accelerators".to_owned())
    );
    let described = SpecDefinition {
        accelerator: AcceleratorSpec {
            vendor: Some(AcceleratorVendor::Nvidia),
            ..AcceleratorSpec::default()
        },
        ..SpecDefinition::default()
    };
    assert_eq!(
        differing_facts(&described, &plain),
        ["number of accelerators"]
    );
}

#[test]
fn an_unplugged_cable_does_not_change_the_spec_but_a_missing_adapter_does() {
    let mut node = accelerator_node();
    let spec = SpecDefinition::learn(&node);
    assert_eq!(
        spec.nics,
        NicSpec {
            count: Some(2),
            speed_mbps: Some(400_000),
            rdma: Some(true)
        }
    );
    node.nics[1].speed_mbps = None;
    assert_eq!(differing_facts(&spec, &node), Vec::<String>::new());
    node.nics.drain(1..3);
    assert_eq!(
        differing_facts(&spec, &node),
        ["number of network interfaces with RDMA"]
    );
    let without = SpecDefinition {
        nics: NicSpec {
            rdma: Some(false),
            ..NicSpec::default()
        },
        ..SpecDefinition::default()
    };
    assert_eq!(
        differing_facts(&without, &node),
        ["number of network interfaces with RDMA"]
    );
}

#[test]
fn the_most_constrained_spec_wins_and_a_tie_names_both() {
    let node = accelerator_node();
    let narrow = SpecDefinition::learn(&node);
    let wide = SpecDefinition {
        cpu: CpuSpec {
            cores: Some(112),
            ..CpuSpec::default()
        },
        ..SpecDefinition::default()
    };
    let other = SpecDefinition {
        cpu: CpuSpec {
            cores: Some(8),
            ..CpuSpec::default()
        },
        ..SpecDefinition::default()
    };
    assert_eq!(
        best_match(
            [("wide", &wide), ("narrow", &narrow), ("other", &other)],
            &node
        ),
        Ok(Some("narrow"))
    );
    assert_eq!(best_match([("other", &other)], &node), Ok(None));
    let tie = best_match([("a", &narrow), ("wide", &wide), ("b", &narrow)], &node)
        .expect_err("two fit equally");
    assert_eq!(
        tie.to_string(),
        "the specs a and b fit equally well; make one of them ask for more, or delete one"
    );
}

#[test]
fn architectures_have_two_names() {
    let spec = SpecDefinition {
        cpu: CpuSpec {
            architecture: Some("amd64".into()),
            ..CpuSpec::default()
        },
        ..SpecDefinition::default()
    };
    assert_eq!(matches(&spec, &accelerator_node()), Ok(()));
}

#[test]
fn a_bad_declaration_says_which_field_and_what_to_do() {
    let check = |text: &str| {
        serde_json::from_str::<SpecDefinition>(text)
            .expect("well formed")
            .validate()
            .expect_err("it must be refused")
            .to_string()
    };
    assert!(check("{}").starts_with("the spec constrains nothing"));
    assert!(
        check(r#"{"memory":{"tolerance_percent":5}}"#).starts_with("the spec constrains nothing")
    );
    assert_eq!(
        check(r#"{"cpu":{"cores":0}}"#),
        "cpu.cores is 0; leave the field out if it does not matter"
    );
    assert!(
        check(r#"{"cpu":{"model":"  "}}"#)
            .starts_with("cpu.model must be 1 to 128 printable characters")
    );
    assert_eq!(
        check(r#"{"accelerator":{"count":0,"model":"x"}}"#),
        "accelerator.count is 0, so accelerator.model describes nothing; remove one of the two"
    );
    assert_eq!(
        check(r#"{"memory":{"size_bytes":2048}}"#),
        "memory.size_bytes is 2048, which no machine has (allowed: 64 MiB to 1 PiB); check the unit"
    );
    assert!(
        check(r#"{"cpu":{"cores":8},"memory":{"tolerance_percent":51}}"#)
            .contains("allowed: 0 to 50")
    );
    let typing_error = serde_json::from_str::<SpecDefinition>(r#"{"acelerator":{"count":8}}"#)
        .expect_err("an unknown field");
    assert!(
        typing_error.to_string().contains("acelerator"),
        "a misspelt field must not silently constrain nothing"
    );
}
