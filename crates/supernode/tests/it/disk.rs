//! System disks, from the command line to the kernel: nodes of `dev` with disks of their own grow while jobs run and while everything
//! that takes part is killed. What needs root says so where it is not.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::Dev;
use crate::jobs::submit;

/// Whether nodes can have disks of their own here that grow while they are mounted.
fn able() -> bool {
    let missing = ["mkfs.xfs", "xfs_growfs", "losetup"].iter().find(|tool| {
        !["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|directory| PathBuf::from(directory).join(tool).exists())
    });
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: disks of nodes need root");
        return false;
    }
    if let Some(tool) = missing {
        eprintln!("SKIPPED: {tool} is not installed; `cargo xtask ci --only setup` installs it");
        return false;
    }
    true
}

fn with_disks(nodes: u32) -> Dev {
    let dev = Dev::start_with(nodes, &["--node-disk", "1GiB"]);
    let count = nodes.to_string();
    dev.ok(&["super-node", "create", "train", "--nodes", &count, "--wait"]);
    // The layout is part of the inventory.
    dev.until("the layouts to be known", || {
        let disks = dev.json(&["disk", "show"]);
        let known = |disk: &Value| disk["system_disk"]["growth"]["can_grow"] == "yes";
        disks.as_array()?.iter().all(known).then_some(())
    });
    dev
}

fn events(dev: &Dev, kind: &str) -> usize {
    let events = dev.json(&["event", "list"]);
    let all = events.as_array().expect("a list");
    all.iter().filter(|event| event["kind"] == kind).count()
}

/// A refusal without the number of the request that was refused.
fn without_request(text: &str) -> String {
    let words = text.split_inclusive([' ', '\n']);
    words.filter(|word| !word.starts_with("req-")).collect()
}

#[test]
fn a_node_without_a_disk_of_its_own_says_so_and_is_refused() {
    let dev = Dev::start(1);
    let shown = dev.ok(&["disk", "show"]);
    assert!(
        shown.contains("node node-1") && shown.contains("can grow   no:"),
        "{shown}"
    );
    let expand = ["disk", "expand", "--node", "node-1", "--size"];
    for size in ["1024GiB", "1023GiB"] {
        let planned = dev.refused(3, &[&expand[..], &[size, "--plan"]].concat());
        let real = dev.refused(3, &[&expand[..], &[size]].concat());
        assert_eq!(without_request(&planned), without_request(&real));
    }
    let over = dev.refused(3, &[&expand[..], &["1025GiB"]].concat());
    assert!(over.contains("1024 GiB is the most"), "{over}");
    let odd = dev.refused(2, &[&expand[..], &["1073741825"]].concat());
    assert!(odd.contains("whole number of GiB"), "{odd}");
    dev.refused(2, &[&expand[..], &["50GB"]].concat());
    assert_eq!(events(&dev, "operation.accepted"), 0);
}

#[test]
fn disks_grow_under_a_job_and_the_evidence_is_shown() {
    if !able() {
        return;
    }
    let mut dev = with_disks(2);
    let root = dev.path().join("data/nodes/node-1/root");
    let before = std::fs::metadata(&root).expect("it is mounted");
    let job = submit(&dev, &["--nodes", "2"], &["sleep", "300"]);
    dev.until("the job to run", || {
        (dev.json(&["job", "show", &job])["state"]["state"] == "running").then_some(())
    });
    let plan = dev.ok(&[
        "disk",
        "expand",
        "--super-node",
        "train",
        "--size",
        "2GiB",
        "--plan",
    ]);
    assert!(
        plan.contains("1 GiB") && plan.contains("file system xfs on"),
        "{plan}"
    );
    let done = dev.ok(&[
        "disk",
        "expand",
        "--super-node",
        "train",
        "--size",
        "2GiB",
        "--wait",
    ]);
    assert!(done.contains("disk_expand of train succeeded"), "{done}");

    let operation = done.split_whitespace().next().expect("its id");
    let shown = dev.json(&["operation", "show", operation]);
    for target in shown["targets"].as_array().expect("targets") {
        let steps = target["steps"].as_array().expect("steps");
        assert_eq!(steps.len(), 3, "{target}");
        for step in &steps[..2] {
            assert_eq!(step["state"], "done", "{step}");
            let (before, after) = (step["before_bytes"].as_u64(), step["after_bytes"].as_u64());
            assert_eq!((before, after), (Some(1 << 30), Some(2 << 30)), "{step}");
        }
    }
    let job = dev.json(&["job", "show", &job]);
    assert_eq!(
        (&job["attempts"], &job["state"]["state"]),
        (&1.into(), &"running".into())
    );
    assert_eq!(events(&dev, "node.disk_expanded"), 2);
    dev.until("the new layout to be known", || {
        let disks = dev.json(&["disk", "show", "--node", "node-1"]);
        (disks[0]["system_disk"]["size_bytes"] == 2_u64 << 30).then_some(())
    });
    // The same once more is refused: there is nothing left to do. Less is refused, too.
    for size in ["2GiB", "1GiB"] {
        dev.refused(
            3,
            &["disk", "expand", "--super-node", "train", "--size", size],
        );
    }
    // What is stopped lets go of everything, and what is started again has the larger disk.
    dev.stop();
    let left = std::fs::metadata(&root).expect("the directory stays");
    assert_ne!(
        std::os::unix::fs::MetadataExt::dev(&left),
        std::os::unix::fs::MetadataExt::dev(&before),
        "the disk is still mounted"
    );
    dev.resume();
    dev.until("the disk to be back", || {
        let disks = dev.json(&["disk", "show", "--node", "node-1"]);
        (disks[0]["system_disk"]["size_bytes"] == 2_u64 << 30).then_some(())
    });
}

#[test]
fn a_full_disk_is_told_of_and_grows() {
    if !able() {
        return;
    }
    let dev = with_disks(1);
    let path = dev.path().join("data/nodes/node-1/root/checkpoint");
    let checkpoint = std::fs::File::create(&path).expect("it is mounted");
    let fill = |percent: u64| {
        let space = nix::sys::statvfs::fstatvfs(&checkpoint).expect("it is mounted");
        let used = space.blocks() - space.blocks_free();
        let more = (space.blocks() * percent / 100 - used) * space.fragment_size();
        let end = checkpoint.metadata().expect("it is open").len();
        let [end, more] = [end, more].map(|bytes| i64::try_from(bytes).expect("it fits"));
        nix::fcntl::posix_fallocate(&checkpoint, end, more).expect("there is room");
    };
    fill(85);
    dev.until("the warning", || {
        (events(&dev, "node.disk_filling") == 1).then_some(())
    });
    fill(96);
    dev.until("the alarm", || {
        (events(&dev, "node.disk_full") == 1).then_some(())
    });
    dev.ok(&[
        "disk", "expand", "--node", "node-1", "--size", "2GiB", "--wait",
    ]);
    dev.until("relief", || {
        (events(&dev, "node.disk_relieved") == 1).then_some(())
    });
    let shown = dev.ok(&["disk", "show"]);
    assert!(shown.contains("used       4"), "{shown}");
}

#[test]
fn kill_9_of_server_and_agent_inside_a_step_loses_nothing() {
    if !able() {
        return;
    }
    let gate = tempfile::tempdir().expect("a temporary directory");
    let tool = gate.path().join("xfs_growfs");
    // The tool waits for the test, however often its agent is killed.
    let script = format!(
        "#!/bin/sh\ntouch {0}/begun\nwhile [ ! -e {0}/go ]; do sleep 0.05; done\nexec /usr/sbin/xfs_growfs \"$@\"\n",
        gate.path().display()
    );
    std::fs::write(&tool, script).expect("it is ours");
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("it is ours");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", gate.path().display());
    let dev = Dev::start_in(1, &["--node-disk", "1GiB"], &[("PATH", &path)]);
    dev.ok(&["super-node", "create", "train", "--nodes", "1", "--wait"]);
    let started = dev.json(&["disk", "expand", "--node", "node-1", "--size", "2GiB"]);
    let operation = started["id"].as_str().expect("an id").to_owned();
    dev.until("the tool to begin", || {
        gate.path().join("begun").exists().then_some(())
    });
    for name in ["node-1", "server", "node-1"] {
        let pid = dev.pid(name);
        dev.signal(name, "KILL");
        dev.until("another process", || (dev.pid(name) != pid).then_some(()));
    }
    dev.until("the server to answer", || {
        let shown = dev.run(&["operation", "show", &operation]);
        shown.status.success().then_some(())
    });
    assert_eq!(
        dev.json(&["operation", "show", &operation])["state"],
        "running"
    );
    std::fs::write(gate.path().join("go"), "").expect("it is ours");
    dev.ok(&["operation", "wait", &operation]);
    let shown = dev.json(&["operation", "show", &operation]);
    let step = &shown["targets"][0]["steps"][1];
    let (before, after) = (step["before_bytes"].as_u64(), step["after_bytes"].as_u64());
    assert_eq!((before, after), (Some(1 << 30), Some(2 << 30)), "{shown}");
}
