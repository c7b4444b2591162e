//! Whole written-down machines, compared with their golden inventories.

use supernode_probe::tools::{ToolError, ToolOutput};
use supernode_probe::{NvmlReport, discover, usage};
use supernode_types::inventory::{Accelerator, AcceleratorVendor, DeviceHealth, Inventory};
use supernode_types::spec::{SpecDefinition, matches};

use crate::machine::{Answers, Machine, sample};

fn spec_fits_its_node(inventory: &Inventory) {
    let spec = SpecDefinition::learn(inventory);
    assert_eq!(spec.validate(), Ok(()));
    assert_eq!(matches(&spec, inventory), Ok(()));
}

#[test]
fn a_laptop() {
    let machine = Machine::load("laptop.txt");
    let answers = Answers::default();
    let inventory = discover(machine.root(), &answers);
    insta::assert_json_snapshot!(inventory);
    assert_eq!(
        answers.asked(),
        [""; 0],
        "no vendor tool is touched where its hardware is not"
    );
    spec_fits_its_node(&inventory);
    let usage = usage(machine.root(), &answers);
    assert_eq!(usage.load_hundredths, Some(52));
    assert_eq!(usage.memory_available_bytes, Some(20_594_508 * 1024));
    assert_eq!(
        (usage.root_size_bytes, usage.root_used_bytes),
        (Some(1 << 40), Some(1 << 39))
    );
}

fn h100(index: u32, bus_address: &str) -> Accelerator {
    Accelerator {
        physical_index: Some(index),
        model: "NVIDIA H100 80GB HBM3".into(),
        memory_bytes: Some(85_520_809_984),
        uuid: Some(format!("GPU-0000000{index}")),
        bus_address: Some(bus_address.into()),
        health: DeviceHealth::Ok,
        ..Accelerator::new(index, AcceleratorVendor::Nvidia)
    }
}

#[test]
fn a_server_with_gpus_of_which_one_fell_off_its_driver() {
    let machine = Machine::load("nvidia-dgx.txt");
    let report = NvmlReport {
        driver_version: Some("550.54.15".into()),
        cuda_driver_version: Some("12.4".into()),
        accelerators: vec![
            h100(0, "0000:1b:00.0"),
            h100(1, "0000:43:00.0"),
            h100(2, "0000:61:00.0"),
        ],
        problems: Vec::new(),
    };
    let answers = Answers {
        nvml: Some(Ok(report)),
        ..Answers::default()
    };
    let inventory = discover(machine.root(), &answers);
    insta::assert_json_snapshot!(inventory);
    assert_eq!(answers.asked(), ["nvml"]);
    assert_eq!(
        inventory.problems,
        ["the NVIDIA device at 0000:52:00.0 is on the PCI bus, but its driver does not list it"]
    );
    spec_fits_its_node(&inventory);
}

#[test]
fn gpus_without_a_driver_are_a_problem_and_no_devices() {
    let inventory = discover(
        Machine::load_devices("nvidia-dgx.txt").root(),
        &Answers::default(),
    );
    assert_eq!(inventory.accelerators, []);
    assert_eq!(inventory.pci_accelerators.len(), 4);
    assert_eq!(
        inventory.version("nvidia_driver"),
        Some("550.54.15"),
        "the kernel module tells without the library"
    );
    assert_eq!(
        inventory.problems,
        [
            "4 NVIDIA device(s) are on the PCI bus, but the driver cannot be asked: its library libnvidia-ml.so.1 is not installed; install the NVIDIA driver"
        ]
    );
}

fn ascend_answers() -> Answers {
    let mut answers = Answers::default();
    answers.npu_smi("info", sample("npu-smi-info-a3.txt"));
    answers.npu_smi("info -m", sample("npu-smi-mapping-a3.txt"));
    answers.npu_smi(
        "info -t board -i 0 -c 0",
        sample("npu-smi-board-chip-a3.txt"),
    );
    for card in 0..8u32 {
        let board = sample("npu-smi-board-a2.txt")
            .replace("1024C9048791", &format!("2102AB{card}"))
            .replace("7.5.0.1.129", "7.7.0.1.231");
        answers.npu_smi(&format!("info -t board -i {card}"), board);
        for chip in 0..2u32 {
            let number = 16_777_216 + card * 262_144 + chip * 65_536;
            let place = sample("npu-smi-spod-info-a3.txt").replace("16777216", &number.to_string());
            answers.npu_smi(&format!("info -t spod-info -i {card} -c {chip}"), place);
        }
    }
    answers
}

#[test]
fn a_server_of_an_ascend_super_pod() {
    let machine = Machine::load("ascend-a3.txt");
    let answers = ascend_answers();
    let inventory = discover(machine.root(), &answers);
    insta::assert_json_snapshot!(inventory);
    assert_eq!(inventory.device_count(), 16);
    assert_eq!(inventory.ascend_server_index, Some(4));
    assert_eq!(
        answers.asked().len(),
        2 + 8 + 1 + 16,
        "each question costs up to seconds"
    );
    spec_fits_its_node(&inventory);
}

#[test]
fn a_silent_driver_is_asked_once() {
    let machine = Machine::load_devices("ascend-a3.txt");
    let mut answers = ascend_answers();
    answers.tools.insert(
        "info".into(),
        Err(ToolError::TimeLimit {
            tool: "npu-smi".into(),
            limit_seconds: 20,
        }),
    );
    let inventory = discover(machine.root(), &answers);
    assert_eq!(answers.asked(), ["NpuSmi info"]);
    assert_eq!(inventory.accelerators, []);
    assert_eq!(
        inventory.problems,
        [
            "16 Ascend device(s) are on the PCI bus, but npu-smi lists none",
            "Ascend devices could not be asked: npu-smi did not answer within 20 s; the driver may hang, look at the kernel log",
        ]
    );
    assert_eq!(
        inventory.version("ascend_driver"),
        Some("25.2.0"),
        "the files still tell"
    );
}

#[test]
fn a_driver_that_hangs_halfway_leaves_the_rest_unknown() {
    let machine = Machine::load_devices("ascend-a3.txt");
    let mut answers = ascend_answers();
    answers.tools.insert(
        "info -t board -i 3".into(),
        Err(ToolError::TimeLimit {
            tool: "npu-smi".into(),
            limit_seconds: 20,
        }),
    );
    let inventory = discover(machine.root(), &answers);
    assert_eq!(inventory.device_count(), 16);
    assert_eq!(inventory.accelerators[5].serial.as_deref(), Some("2102AB2"));
    assert_eq!(inventory.accelerators[6].serial, None);
    assert_eq!(
        inventory.accelerators[0].super_device_id, None,
        "asked after the time limit, so not asked"
    );
    assert_eq!(inventory.accelerators[15].health, DeviceHealth::Ok);
}

#[test]
fn devices_that_another_container_holds_are_a_problem_with_the_tools_own_words() {
    let machine = Machine::load_devices("ascend-a3.txt");
    let mut answers = Answers::default();
    for arguments in ["info", "info -m"] {
        answers.tools.insert(
            arguments.into(),
            Ok(ToolOutput {
                text: sample("npu-smi-device-used.txt"),
                success: false,
            }),
        );
    }
    let inventory = discover(machine.root(), &answers);
    assert!(inventory.problems.contains(
        &"`npu-smi info -m` failed: dcmi model initialized failed, because the device is used. ret is -8020".to_owned()
    ));
    assert_eq!(inventory.accelerators, []);
}

#[test]
fn a_950_is_asked_without_a_chip_and_keeps_the_gap_in_its_numbers() {
    let machine = Machine::load_devices("ascend-a3.txt");
    machine.remove("sys/bus/pci/devices");
    machine.write("dev/davinci_manager", "");
    let mut answers = Answers::default();
    answers.npu_smi("info", sample("npu-smi-info-950.txt"));
    answers.npu_smi("info -m", sample("npu-smi-mapping-950.txt"));
    for card in [0, 1, 3] {
        answers.npu_smi(
            &format!("info -t board -i {card}"),
            sample("npu-smi-board-a2.txt"),
        );
        answers.npu_smi(
            &format!("info -t spod-info -i {card}"),
            sample("npu-smi-spod-info-950.txt"),
        );
    }
    let inventory = discover(machine.root(), &answers);
    assert_eq!(inventory.problems, [""; 0]);
    let devices: Vec<_> = inventory
        .accelerators
        .iter()
        .map(|device| (device.index, device.model.as_str(), &device.health))
        .collect();
    let warning = DeviceHealth::Bad {
        why: "npu-smi reports health Warning".into(),
    };
    let model = "Ascend950PR";
    assert_eq!(
        devices,
        [
            (0, model, &DeviceHealth::Ok),
            (1, model, &warning),
            (3, model, &DeviceHealth::Unknown)
        ]
    );
    assert_eq!(inventory.accelerators[0].super_pod_id.as_deref(), Some("7"));
    assert_eq!(inventory.accelerators[0].memory_bytes, Some(128 << 30));
    assert_eq!(inventory.ascend_server_index, Some(12));
}

#[test]
fn an_a2_is_asked_about_its_super_pod_once() {
    let machine = Machine::load_devices("ascend-a3.txt");
    machine.remove("sys/bus/pci/devices");
    machine.write("dev/davinci_manager", "");
    let mut answers = Answers::default();
    answers.npu_smi("info", sample("npu-smi-info-a2.txt"));
    answers.npu_smi("info -m", sample("npu-smi-mapping-a2.txt"));
    for card in 0..8 {
        answers.npu_smi(
            &format!("info -t board -i {card}"),
            sample("npu-smi-board-a2.txt"),
        );
    }
    let refusal = ToolOutput {
        text: sample("npu-smi-not-supported.txt"),
        success: false,
    };
    answers
        .tools
        .insert("info -t spod-info -i 0 -c 0".into(), Ok(refusal));
    let inventory = discover(machine.root(), &answers);
    assert_eq!(inventory.problems, [""; 0]);
    assert_eq!(answers.asked().len(), 2 + 8 + 1);
    assert_eq!(inventory.device_count(), 8);
    assert_eq!(inventory.accelerators[7].model, "Ascend910B3");
    assert_eq!(
        inventory.accelerators[5].health,
        DeviceHealth::Bad {
            why: "npu-smi reports health Alarm".into()
        }
    );
    let address = inventory.accelerators[2]
        .device_ip
        .map(|address| address.to_string());
    assert_eq!(address.as_deref(), Some("10.20.0.102"));
    assert_eq!(
        inventory.accelerators[3].device_ip, None,
        "0.0.0.0 is no address"
    );
}

#[test]
fn chips_that_disagree_about_their_server_are_a_problem() {
    let machine = Machine::load_devices("ascend-a3.txt");
    let mut answers = ascend_answers();
    let other = sample("npu-smi-spod-info-a3.txt").replace(
        "Server Index                   : 4",
        "Server Index                   : 5",
    );
    answers.npu_smi("info -t spod-info -i 7 -c 1", other);
    let inventory = discover(machine.root(), &answers);
    assert_eq!(inventory.ascend_server_index, None);
    assert_eq!(
        inventory.problems,
        [
            "the chips disagree about the server's index in the super pod ([4, 5]); set it in the management controller"
        ]
    );
}

#[test]
fn nothing_at_all_is_said_and_not_guessed() {
    let inventory = discover(Machine::empty().root(), &Answers::default());
    assert_eq!(
        inventory.problems,
        [
            "the host name could not be read from /proc/sys/kernel/hostname",
            "the kernel release could not be read from /proc/sys/kernel/osrelease",
            "the memory size could not be read from /proc/meminfo",
            "the processors could not be counted: neither /sys/devices/system/cpu nor /proc/cpuinfo lists them",
            "the root file system was not found in /proc/self/mountinfo",
        ]
    );
    assert_eq!(
        (
            inventory.memory_bytes,
            inventory.cpu.cores,
            inventory.device_count()
        ),
        (0, 0, 1)
    );
    let usage = usage(Machine::empty().root(), &Answers::default());
    assert_eq!(
        (usage.memory_available_bytes, usage.load_hundredths),
        (None, None)
    );
}

#[test]
fn without_sysfs_processors_are_counted_as_the_kernel_lists_them() {
    let machine = Machine::empty();
    machine.write(
        "proc/cpuinfo",
        "processor : 0\nmodel name : X\n\nprocessor : 1\nmodel name : X\n",
    );
    let cpu = discover(machine.root(), &Answers::default()).cpu;
    assert_eq!(
        (
            cpu.sockets,
            cpu.cores,
            cpu.threads,
            cpu.numa_nodes,
            cpu.model.as_str()
        ),
        (1, 2, 2, 1, "X")
    );
}
