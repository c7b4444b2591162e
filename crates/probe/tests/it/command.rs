//! The real way to a tool: a program named `npu-smi` in a directory that is searched first.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use supernode_probe::tools::{SystemTools, Tool, ToolError, Tools as _};
use supernode_probe::{discover, nvidia};

use crate::machine::{Machine, sample};

fn install(machine: &Machine, script: &str) -> SystemTools {
    machine.write("tools/npu-smi", script);
    let path = machine.root().join("tools/npu-smi");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    SystemTools::with_directories(vec![machine.root().join("tools")])
}

#[test]
fn arguments_arrive_as_a_vector_and_never_through_a_shell() {
    let machine = Machine::empty();
    let tools = install(
        &machine,
        "#!/bin/sh\nfor argument; do echo \"<$argument>\"; done\n",
    );
    let output = tools
        .run(Tool::NpuSmi, &["info", "-i", "0; echo no", "$HOME"])
        .expect("it runs");
    assert_eq!(output.text, "<info>\n<-i>\n<0; echo no>\n<$HOME>\n");
}

#[test]
fn a_whole_discovery_through_a_program() {
    let machine = Machine::load_devices("ascend-a3.txt");
    for (file, name) in [
        ("info", "npu-smi-info-a3.txt"),
        ("mapping", "npu-smi-mapping-a3.txt"),
        ("board", "npu-smi-board-a2.txt"),
        ("place", "npu-smi-spod-info-a3.txt"),
    ] {
        machine.write(&format!("tools/{file}"), &sample(name));
    }
    let tools = install(
        &machine,
        "#!/bin/sh\ncd \"${0%/*}\"\ncase \"$*\" in\ninfo) cat info;;\n'info -m') cat mapping;;\n*board*) cat board;;\n*spod-info*) cat place;;\n*) exit 9;;\nesac\n",
    );
    let inventory = discover(machine.root(), &tools);
    assert_eq!(inventory.problems, [""; 0]);
    assert_eq!(inventory.device_count(), 16);
    assert_eq!(
        inventory.accelerators[9].bus_address.as_deref(),
        Some("0000:5f:00.0")
    );
}

#[test]
fn a_directory_with_the_name_of_a_tool_is_not_the_tool() {
    let machine = Machine::empty();
    machine.write("tools/npu-smi/file", "");
    let tools = SystemTools::with_directories(vec![machine.root().join("tools")]);
    match tools.run(Tool::NpuSmi, &["info"]) {
        Err(ToolError::NotFound { tool }) => assert_eq!(tool, "npu-smi"),
        // A machine that has the real one found that, and never the directory.
        other => assert!(!matches!(other, Err(ToolError::Start { .. })), "{other:?}"),
    }
}

#[test]
fn nvml_says_what_to_install_or_answers() {
    match SystemTools::default().nvml() {
        Err(why) => assert!(!why.is_empty()),
        Ok(nvidia::NvmlReport { driver_version, .. }) => assert!(driver_version.is_some()),
    }
}
