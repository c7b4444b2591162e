//! The commands that the README promises, as they are written there.

use crate::harness::{Dev, binary, output};

const RING: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../examples/ring_allreduce.py"
);

#[test]
fn a_super_node_is_formed_grown_used_shrunk_and_deleted() {
    let dev = Dev::start(4);
    dev.ok(&["super-node", "create", "train", "--nodes", "2", "--wait"]);
    let plan = dev.json(&["super-node", "scale-up", "train", "--count", "1", "--plan"]);
    assert_eq!(
        (
            plan["members_before"].as_u64(),
            plan["members_after"].as_u64()
        ),
        (Some(2), Some(3))
    );
    assert!(
        plan["nodes"][0]["chosen_because"]
            .as_str()
            .is_some_and(|why| !why.is_empty()),
        "{plan}"
    );
    assert_eq!(
        dev.json(&["super-node", "show", "train"])["members"],
        2,
        "a plan changes nothing"
    );
    dev.ok(&["super-node", "scale-up", "train", "--count", "1", "--wait"]);
    assert_eq!(dev.json(&["sn", "show", "train"])["members"], 3);

    // The example is copied to where the unprivileged user of jobs can read it; the test's own directory may be private.
    let program = dev.path().join("ring_allreduce.py");
    std::fs::copy(RING, &program).expect("the example is there");
    let program = program.display().to_string();
    let output = dev.ok(&[
        "run",
        "--super-node",
        "train",
        "--nodes",
        "2",
        "--",
        "python3",
        &program,
    ]);
    assert!(
        output.contains("[0] ") && output.contains("[1] "),
        "both ranks are heard: {output}"
    );
    assert!(
        output.lines().filter(|line| line.ends_with("ok")).count() >= 2,
        "{output}"
    );

    let replace = ["super-node", "replace", "train", "--node", "node-1"];
    let plan = dev.json(&[&replace[..], &["--plan"]].concat());
    assert_eq!(plan["nodes"][0]["name"], "node-4", "{plan}");
    dev.ok(&[&replace[..], &["--wait"]].concat());
    let node = dev.json(&["node", "show", "node-1"]);
    assert_eq!(node["membership"]["state"], "spare", "{node}");
    assert_eq!(dev.json(&["super-node", "show", "train"])["members"], 3);
    dev.ok(&[
        "super-node",
        "scale-down",
        "train",
        "--count",
        "1",
        "--wait",
    ]);
    assert_eq!(dev.json(&["super-node", "show", "train"])["members"], 2);
    let refusal = dev.refused(3, &["super-node", "scale-down", "train", "--count", "2"]);
    assert!(refusal.contains("at least one"), "{refusal}");
    for list in ["node", "operation", "event"] {
        assert!(
            dev.json(&[list, "list"])
                .as_array()
                .is_some_and(|items| !items.is_empty()),
            "{list}"
        );
    }
    dev.ok(&["super-node", "delete", "train", "--wait"]);
    assert_eq!(dev.json(&["super-node", "list"]), serde_json::json!([]));
    dev.ok(&["doctor"]);
}

#[test]
fn a_scale_up_without_spares_makes_local_nodes() {
    let dev = Dev::start(1);
    dev.ok(&["super-node", "create", "train", "--nodes", "1", "--wait"]);
    dev.ok(&["super-node", "scale-up", "train", "--to", "3", "--wait"]);
    assert_eq!(dev.json(&["super-node", "show", "train"])["members"], 3);
    let nodes = dev.json(&["node", "list"]);
    let made: Vec<&str> = nodes
        .as_array()
        .expect("a list")
        .iter()
        .filter(|node| !node["provision"].is_null())
        .filter_map(|node| node["name"].as_str())
        .collect();
    assert_eq!(made.len(), 2, "{nodes}");

    dev.ok(&[
        "super-node",
        "scale-down",
        "train",
        "--node",
        made[0],
        "--wait",
    ]);
    dev.ok(&["node", "remove", made[0], "--wait"]);
    dev.until("the agent of the removed node to end", || {
        (!dev.path().join("data/pids").join(made[0]).exists()).then_some(())
    });
}

#[test]
fn stopping_and_starting_again_resumes() {
    let mut dev = Dev::start(2);
    dev.ok(&["super-node", "create", "train", "--nodes", "2", "--wait"]);
    let before = dev.json(&["node", "list"]);
    dev.stop();
    dev.resume();
    let after = dev.json(&["node", "list"]);
    let ids = |list: &serde_json::Value| {
        list.as_array()
            .expect("a list")
            .iter()
            .map(|node| node["id"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&before), ids(&after));
    dev.ok(&["run", "--super-node", "train", "--nodes", "2", "--", "true"]);
}

#[test]
fn the_environment_reaches_every_member_and_leaves_with_it() {
    let dev = Dev::start(3);
    dev.ok(&["super-node", "create", "train", "--nodes", "2", "--wait"]);
    let local = dev.path().join("motd");
    std::fs::write(&local, "hello\n").expect("own directory");
    let entry = format!("/etc/train.conf={}", local.display());
    dev.ok(&[
        "environment",
        "set",
        "train",
        "--variable",
        "SITE=here",
        "--file-entry",
        &entry,
        "--wait",
    ]);
    let output = dev.ok(&[
        "run",
        "--super-node",
        "train",
        "--nodes",
        "2",
        "--",
        "sh",
        "-c",
        "echo site=$SITE home=$HOME path=$PATH",
    ]);
    assert_eq!(output.matches("site=here").count(), 2, "{output}");

    dev.ok(&["super-node", "scale-up", "train", "--count", "1", "--wait"]);
    let nodes = dev.json(&["super-node", "show", "train"])["nodes"].clone();
    let names: Vec<String> = nodes
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|node| node["name"].as_str())
        .map(str::to_owned)
        .collect();
    for name in &names {
        let root = dev.path().join("data/nodes").join(name).join("root");
        assert_eq!(
            std::fs::read_to_string(root.join("etc/train.conf")).expect("the file arrived"),
            "hello\n"
        );
        let hosts =
            std::fs::read_to_string(root.join("etc/hosts")).expect("the hosts file was written");
        for other in &names {
            assert!(
                hosts.contains(other.as_str()),
                "{name} does not know {other}: {hosts}"
            );
        }
    }
    dev.ok(&[
        "super-node",
        "scale-down",
        "train",
        "--node",
        &names[0],
        "--wait",
    ]);
    let root = dev.path().join("data/nodes").join(&names[0]).join("root");
    assert!(
        !root.join("etc/train.conf").exists(),
        "a removed member is cleaned"
    );
    for other in &names[1..] {
        let hosts = dev
            .path()
            .join("data/nodes")
            .join(other)
            .join("root/etc/hosts");
        dev.until("the others to forget it", || {
            (!std::fs::read_to_string(&hosts)
                .ok()?
                .contains(names[0].as_str()))
            .then_some(())
        });
    }
}

#[test]
fn a_command_without_a_server_says_so() {
    let mut command = std::process::Command::new(binary());
    command
        .args(["node", "list"])
        .env("SUPERNODE_SERVER", "https://127.0.0.1:1")
        .env("SUPERNODE_TOKEN", "snp_x")
        .env(
            "SUPERNODE_CA_FILE",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        );
    let output = output(&mut command);
    assert_ne!(output.status.code(), Some(0));
    assert!(
        String::from_utf8_lossy(&output.stderr).starts_with("error: "),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
