//! How nodes look.

use supernode_api::node::{NodeDetail, NodeView};
use supernode_types::job::LeaseHolder;
use supernode_types::node::{NodeHealth, NodePolicy, Position, SpecMatch};

use crate::output::{Look, Table, bytes, cell, fields, or_dash, pairs, section, state};

/// Nodes as a table.
pub(crate) fn list(items: &[NodeView], look: &Look) -> String {
    let heads = [
        "NAME",
        "SUPER NODE",
        "POLICY",
        "CONDITION",
        "HEALTH",
        "DEVICES",
        "SPEC",
        "ADDRESS",
        "CONTACT",
        "DETAIL",
    ];
    let mut table = Table::new(&heads);
    for view in items {
        let node = &view.node;
        let super_node = match (&view.super_node_name, node.membership.word()) {
            (Some(name), "member") => name.to_string(),
            (Some(name), word) => format!("{name} ({word})"),
            (None, _) => "-".to_owned(),
        };
        table.row([
            cell(&node.name),
            cell(super_node),
            state(node.policy.word()),
            state(node.condition.word()),
            state(node.health.word()),
            cell(format!("{}/{}", view.leased_devices, node.device_count)),
            cell(or_dash(view.spec_name.as_ref())),
            cell(&node.address),
            cell(or_dash(view.last_contact_at.map(|moment| look.age(moment)))),
            cell(detail(view)),
        ]);
    }
    table.render(look)
}

/// What a person should know of a node beyond its words, in one line.
fn detail(view: &NodeView) -> String {
    let mut parts: Vec<String> = view.node.condition.detail().into_iter().collect();
    if let NodePolicy::Cordoned(cordon) = &view.node.policy {
        parts.push(format!("cordoned by {}: {}", cordon.by, cordon.reason));
    }
    if let NodeHealth::Suspect { finding } | NodeHealth::Quarantined { finding } = &view.node.health
    {
        parts.push(finding.clone());
    }
    parts.join("; ")
}

pub(crate) fn place(position: &Position) -> String {
    let part = |word: &str, value: &Option<String>| format!("{word} {}", or_dash(value.as_ref()));
    [
        part("hyperplane", &position.hyperplane),
        part("rack", &position.rack),
        part("leaf", &position.leaf),
    ]
    .join(", ")
}

pub(crate) fn show(node_detail: &NodeDetail, look: &Look) -> String {
    let view = &node_detail.view;
    let node = &view.node;
    let spec = match &node.spec {
        SpecMatch::Unknown => "not known".to_owned(),
        SpecMatch::Matches { spec } => view
            .spec_name
            .as_ref()
            .map_or_else(|| spec.to_string(), ToString::to_string),
        SpecMatch::Differs { differences } => format!("none:\n{}", differences.join("\n")),
    };
    let policy = match &node.policy {
        NodePolicy::Cordoned(cordon) => format!("cordoned by {}: {}", cordon.by, cordon.reason),
        NodePolicy::Draining { operation, .. } => format!("draining ({operation})"),
        other => other.word().to_owned(),
    };
    let with_detail = |word: &str, detail: Option<String>| {
        detail.map_or_else(|| word.to_owned(), |detail| format!("{word}: {detail}"))
    };
    let mut text = fields(&[
        ("name", node.name.to_string()),
        ("id", node.id.to_string()),
        ("super node", or_dash(view.super_node_name.as_ref())),
        ("membership", node.membership.word().to_owned()),
        ("policy", policy),
        (
            "condition",
            with_detail(node.condition.word(), node.condition.detail()),
        ),
        ("health", node.health.word().to_owned()),
        ("spec", spec),
        (
            "devices",
            format!("{} of {} leased", view.leased_devices, node.device_count),
        ),
        ("address", node.address.clone()),
        ("position", place(&node.position)),
        ("labels", pairs(&node.labels)),
        ("environment", environment(node)),
        ("agent", node.agent_version.clone()),
        (
            "last contact",
            or_dash(view.last_contact_at.map(|moment| look.moment(moment))),
        ),
        (
            "certificate ends",
            or_dash(view.certificate_ends_at.map(|moment| look.moment(moment))),
        ),
        ("enrolled", look.moment(node.enrolled_at)),
        ("generation", node.generation.to_string()),
    ]);
    if let Some(inventory) = &node_detail.inventory {
        text += &section("hardware", &hardware(inventory));
    }
    if !node_detail.leases.is_empty() {
        let mut table = Table::new(&["DEVICE", "JOB", "ATTEMPT"]);
        for lease in &node_detail.leases {
            let (holder, attempt) = match &lease.holder {
                LeaseHolder::Job { job, attempt } => (cell(job), cell(attempt)),
                LeaseHolder::Stress { operation } => (cell(operation), cell("a test")),
            };
            table.row([cell(lease.device), holder, attempt]);
        }
        text += &section("leases", &table.render(look));
    }
    text
}

fn environment(node: &supernode_types::node::Node) -> String {
    match (
        node.environment_applied,
        node.environment_problems.is_empty(),
    ) {
        (0, true) => "clean".to_owned(),
        (generation, true) => format!("generation {generation} applied"),
        (generation, false) => format!(
            "generation {generation} applied, with problems:\n{}",
            node.environment_problems.join("\n")
        ),
    }
}

fn hardware(inventory: &supernode_types::inventory::Inventory) -> String {
    let cpu = &inventory.cpu;
    let disks: Vec<String> = inventory
        .disks
        .iter()
        .map(|disk| format!("{} {} {}", disk.name, bytes(disk.size_bytes), disk.model))
        .collect();
    let nics: Vec<String> = inventory
        .nics
        .iter()
        .map(|nic| {
            let speed = nic
                .speed_mbps
                .map_or(String::new(), |speed| format!(" {speed} Mbit/s"));
            let rdma = if nic.rdma_devices.is_empty() {
                String::new()
            } else {
                format!(" rdma {}", nic.rdma_devices.join(","))
            };
            format!("{}{speed}{rdma}", nic.name)
        })
        .collect();
    let accelerators: Vec<String> = inventory
        .accelerators
        .iter()
        .map(|one| {
            format!(
                "{}: {} {} {}",
                one.index,
                one.vendor,
                one.model,
                or_dash(one.memory_bytes.map(bytes))
            )
        })
        .collect();
    let versions: Vec<String> = inventory
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    fields(&[
        ("host", inventory.host_name.clone()),
        (
            "system",
            format!("{}, kernel {}", inventory.os, inventory.kernel),
        ),
        (
            "chassis",
            format!("{} {}", inventory.chassis.vendor, inventory.chassis.product)
                .trim()
                .to_owned(),
        ),
        (
            "cpu",
            format!(
                "{} ({} sockets, {} cores, {} threads, {})",
                cpu.model, cpu.sockets, cpu.cores, cpu.threads, cpu.architecture
            ),
        ),
        ("memory", bytes(inventory.memory_bytes)),
        ("accelerators", accelerators.join("\n")),
        ("disks", disks.join("\n")),
        ("network", nics.join("\n")),
        ("versions", versions.join("\n")),
        ("problems", inventory.problems.join("\n")),
    ])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};
    use supernode_types::Timestamp;

    /// A ready member of `train` with the given fields replaced.
    pub(crate) fn sample(name: &str, changes: &Value) -> NodeView {
        let mut value = json!({
            "id": "node-01kb000000000000000000000a", "name": name,
            "membership": {"state": "member", "super_node": "sn-01kb000000000000000000000a"}, "super_node_name": "train",
            "spec": {"state": "matches", "spec": "spec-01kb000000000000000000000a"}, "spec_name": "cpu2",
            "policy": {"state": "in_service"}, "condition": {"state": "ready"}, "health": {"state": "unproven"},
            "labels": {"rack": "r1"}, "position": {"rack": "r1"}, "address": "127.0.0.1", "device_count": 1, "leased_devices": 1,
            "boot_id": "b", "agent_version": "0.1.0", "provision": null, "environment_applied": 3, "environment_problems": [],
            "desired_generation": 4, "generation": 9, "enrolled_at": "2025-11-23T12:00:00Z",
            "last_contact_at": "2025-11-23T12:13:19Z", "certificate_ends_at": null
        });
        value
            .as_object_mut()
            .expect("written above")
            .extend(changes.as_object().expect("an object").clone());
        crate::sample::answer(&value)
    }

    const LOOK: Look = Look {
        now: Timestamp(1_763_900_000_000_000),
        color: false,
    };

    #[test]
    fn the_list_says_what_is_wrong() {
        let lost = sample(
            "n2",
            &json!({
                "condition": {"state": "degraded", "why": "disk full"}, "policy": {"state": "cordoned", "by": "ada", "reason": "fan"},
                "membership": {"state": "spare"}, "super_node_name": null, "leased_devices": 0, "last_contact_at": null
            }),
        );
        assert_eq!(
            list(&[sample("n1", &json!({})), lost], &LOOK),
            "NAME  SUPER NODE  POLICY      CONDITION  HEALTH    DEVICES  SPEC  ADDRESS    CONTACT  DETAIL\n\
             n1    train       in_service  ready      unproven  1/1      cpu2  127.0.0.1  1s\n\
             n2    -           cordoned    degraded   unproven  0/1      cpu2  127.0.0.1  -        disk full; cordoned by ada: fan\n"
        );
    }

    #[test]
    fn the_detail_names_every_difference_and_lease() {
        let view = sample(
            "n1",
            &json!({
                "spec": {"state": "differs", "differences": ["cpu2: the memory must be 8 GiB, but is 4 GiB"]}, "spec_name": null,
                "environment_problems": ["sysctl a.b drifted: 1"]
            }),
        );
        let lease = json!({"node": view.node.id, "device": 0, "holder": "job", "job": "job-01kb000000000000000000000a", "attempt": "try-01kb000000000000000000000a"});
        let inventory = json!({"host_name": "h", "memory_bytes": 8_589_934_592_u64, "disks": [{"name": "sda", "size_bytes": 1024}]});
        let detail = NodeDetail {
            view,
            inventory: crate::sample::answer(&inventory),
            leases: vec![crate::sample::answer(&lease)],
        };
        let text = show(&detail, &LOOK);
        for expected in [
            "spec:              none:\n                   cpu2: the memory must be 8 GiB, but is 4 GiB\n",
            "environment:       generation 3 applied, with problems:\n                   sysctl a.b drifted: 1\n",
            "position:          hyperplane -, rack r1, leaf -\n",
            "memory:        8.0 GiB\n",
            "leases\nDEVICE  JOB                             ATTEMPT\n0       job-01kb000000000000000000000a  try-01kb000000000000000000000a\n",
        ] {
            assert!(text.contains(expected), "{expected}\nis not in\n{text}");
        }
    }
}
