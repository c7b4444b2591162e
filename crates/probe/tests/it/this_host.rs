//! The machine that runs the tests.

use std::path::Path;

use supernode_probe::{SystemTools, discover, usage};

#[test]
fn this_machine_has_processors_memory_and_a_root() {
    let inventory = discover(Path::new("/"), &SystemTools::default());
    assert!(
        inventory.cpu.cores >= 1 && inventory.cpu.threads >= inventory.cpu.cores,
        "{:?}",
        inventory.cpu
    );
    assert!(
        inventory.cpu.sockets >= 1 && inventory.cpu.numa_nodes >= 1,
        "{:?}",
        inventory.cpu
    );
    assert!(inventory.memory_bytes > 64 << 20);
    assert!(inventory.kernel.contains('.'), "{}", inventory.kernel);
    assert!(!inventory.host_name.is_empty() && !inventory.boot_id.is_empty());
    let root = inventory
        .file_systems
        .iter()
        .find(|file_system| file_system.mount_point == "/")
        .expect("a root file system");
    assert!(
        root.size_bytes.is_some_and(|size| size > 1 << 20),
        "{root:?}"
    );
}

#[test]
fn an_inventory_does_not_change_when_the_machine_does_not() {
    let tools = SystemTools::default();
    assert_eq!(
        discover(Path::new("/"), &tools),
        discover(Path::new("/"), &tools)
    );
}

#[test]
fn usage_is_within_what_there_is() {
    let tools = SystemTools::default();
    let usage = usage(Path::new("/"), &tools);
    let total = discover(Path::new("/"), &tools).memory_bytes;
    assert!(
        usage
            .memory_available_bytes
            .is_some_and(|bytes| bytes > 0 && bytes <= total),
        "{usage:?} of {total}"
    );
    assert!(usage.load_hundredths.is_some());
    assert!(
        usage.root_used_bytes <= usage.root_size_bytes && usage.root_used_bytes > Some(0),
        "{usage:?}"
    );
}
