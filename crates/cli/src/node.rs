//! `supernode node …`: servers that run an agent.

use supernode_api::node::{
    NodeCordon, NodeCordonRequest, NodeDetail, NodeList, NodeListQuery, NodePatch, NodeRemove, NodeShow, NodeUncordon, NodeUpdate,
    NodeView,
};
use supernode_api::{Nothing, Watch};
use supernode_client::{CallOptions, Client};
use supernode_types::node::{NodeHealth, NodePolicy, Position, SpecMatch};

use crate::change::{KeyOption, LabelChange, Precondition, WaitOption, apply_labels, label_change, lost_race};
use crate::failure::Failure;
use crate::operation;
use crate::output::{Look, Table, bytes, cell, fields, or_dash, pairs, section, state};
use crate::session::Session;

/// Servers that run an agent.
#[derive(Debug, clap::Subcommand)]
pub enum NodeCommand {
    /// List nodes
    #[command(visible_alias = "ls")]
    List {
        /// Only of this super node; `-` for spares
        #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
        super_node: Option<String>,
        /// Only with this policy: `in_service`, cordoned, draining or removed
        #[arg(long)]
        policy: Option<String>,
        /// Only in this condition: unknown, joining, ready, degraded or lost
        #[arg(long)]
        condition: Option<String>,
        /// Only with this label
        #[arg(long, value_name = "KEY=VALUE")]
        label: Option<String>,
    },
    /// Show a node with its hardware, its leases and what is wrong with it
    Show {
        /// Its name or id
        node: String,
    },
    /// Keep new jobs away from a node; running ones go on
    Cordon {
        /// Its name or id
        node: String,
        /// Shown to everybody who wonders
        #[arg(long, default_value = "cordoned from the command line")]
        reason: String,
        #[command(flatten)]
        key: KeyOption,
    },
    /// Let jobs be placed on a node again
    Uncordon {
        /// Its name or id
        node: String,
        #[command(flatten)]
        key: KeyOption,
    },
    /// Set or remove labels
    Label {
        /// The node's name or id
        node: String,
        /// `KEY=VALUE` sets, `KEY-` removes
        #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = label_change)]
        labels: Vec<LabelChange>,
        #[command(flatten)]
        precondition: Precondition,
    },
    /// Say where a node sits in the fabric; an empty value means not known
    Move {
        /// The node's name or id
        node: String,
        #[command(flatten)]
        position: PositionOptions,
        #[command(flatten)]
        precondition: Precondition,
    },
    /// Take a spare out for good: its certificate is revoked, its provisioner gets it back
    Remove {
        /// Its name or id
        node: String,
        #[command(flatten)]
        precondition: Precondition,
        #[command(flatten)]
        wait: WaitOption,
    },
}

/// Where a node sits.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PositionOptions {
    /// The HCCS or NVLink domain
    #[arg(long, value_name = "NAME")]
    hyperplane: Option<String>,
    /// The rack
    #[arg(long, value_name = "NAME")]
    rack: Option<String>,
    /// The leaf switch
    #[arg(long, value_name = "NAME")]
    leaf: Option<String>,
}

impl PositionOptions {
    fn is_empty(&self) -> bool {
        self.hyperplane.is_none() && self.rack.is_none() && self.leaf.is_none()
    }

    /// What is said replaces, the rest stays.
    pub(crate) fn onto(&self, position: &Position) -> Position {
        let part = |said: &Option<String>, present: &Option<String>| match said {
            Some(text) if text.is_empty() => None,
            Some(text) => Some(text.clone()),
            None => present.clone(),
        };
        Position {
            hyperplane: part(&self.hyperplane, &position.hyperplane),
            rack: part(&self.rack, &position.rack),
            leaf: part(&self.leaf, &position.leaf),
        }
    }
}

pub(crate) async fn run(session: &Session<'_>, command: NodeCommand) -> Result<(), Failure> {
    if let NodeCommand::Move { position, .. } = &command
        && position.is_empty()
    {
        return Err(Failure::Usage("say at least one of --hyperplane, --rack and --leaf".into()));
    }
    let client = session.client()?;
    match command {
        NodeCommand::List { super_node, policy, condition, label } => {
            let query = NodeListQuery { super_node, policy, condition, label, cursor: None, limit: None };
            let items = client.list::<NodeList, _>(&[], &query).await?;
            session.print_list(&items, "no nodes; enrol one with `supernode join-token create`", list)
        }
        NodeCommand::Show { node } => {
            let detail = client.get::<NodeShow>(&[&node], &Watch::default()).await?;
            session.print(&detail, |look| show(&detail, look))
        }
        NodeCommand::Cordon { node, reason, key } => {
            let view = client.call::<NodeCordon>(&[&node], &Nothing {}, &NodeCordonRequest { reason }, &key.call()).await?;
            session.print(&view, |_| format!("{} is {}\n", view.node.name, view.node.policy.word()))
        }
        NodeCommand::Uncordon { node, key } => {
            let view = client.call::<NodeUncordon>(&[&node], &Nothing {}, &Nothing {}, &key.call()).await?;
            session.print(&view, |_| format!("{} is {}\n", view.node.name, view.node.policy.word()))
        }
        NodeCommand::Label { node, labels, precondition } => {
            let change = |view: &NodeView| NodeUpdate {
                labels: Some(apply_labels(view.node.labels.clone(), &labels)),
                position: None,
            };
            let view = update(&client, &node, &precondition, change).await?;
            session.print(&view, |_| format!("{} has labels {}\n", view.node.name, pairs(&view.node.labels)))
        }
        NodeCommand::Move { node, position, precondition } => {
            let change = |view: &NodeView| NodeUpdate { labels: None, position: Some(position.onto(&view.node.position)) };
            let view = update(&client, &node, &precondition, change).await?;
            session.print(&view, |_| format!("{} is at {}\n", view.node.name, place(&view.node.position)))
        }
        NodeCommand::Remove { node, precondition, wait } => {
            let started = client.call::<NodeRemove>(&[&node], &Nothing {}, &Nothing {}, &precondition.call()).await?;
            operation::finish(session, &client, started, wait.wait).await
        }
    }
}

/// Reads, changes and writes back what nobody else changed meanwhile.
async fn update(
    client: &Client,
    node: &str,
    precondition: &Precondition,
    change: impl Fn(&NodeView) -> NodeUpdate,
) -> Result<NodeView, Failure> {
    let mut tries = 0;
    loop {
        let present = client.get::<NodeShow>(&[node], &Watch::default()).await?.view;
        let generation = precondition.if_generation.unwrap_or(present.node.generation);
        let options = CallOptions { if_match: Some(generation), ..precondition.call() };
        match client.call::<NodePatch>(&[node], &Nothing {}, &change(&present), &options).await {
            Err(error) if lost_race(&error, precondition, tries) => tries += 1,
            result => return Ok(result?),
        }
    }
}

/// Nodes as a table.
pub(crate) fn list(items: &[NodeView], look: &Look) -> String {
    let heads = ["NAME", "SUPER NODE", "POLICY", "CONDITION", "HEALTH", "DEVICES", "SPEC", "ADDRESS", "CONTACT", "DETAIL"];
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
    if let NodeHealth::Suspect { finding } | NodeHealth::Quarantined { finding } = &view.node.health {
        parts.push(finding.clone());
    }
    parts.join("; ")
}

fn place(position: &Position) -> String {
    let part = |word: &str, value: &Option<String>| format!("{word} {}", or_dash(value.as_ref()));
    [part("hyperplane", &position.hyperplane), part("rack", &position.rack), part("leaf", &position.leaf)].join(", ")
}

fn show(node_detail: &NodeDetail, look: &Look) -> String {
    let view = &node_detail.view;
    let node = &view.node;
    let spec = match &node.spec {
        SpecMatch::Unknown => "not known".to_owned(),
        SpecMatch::Matches { spec } => view.spec_name.as_ref().map_or_else(|| spec.to_string(), ToString::to_string),
        SpecMatch::Differs { differences } => format!("none:\n{}", differences.join("\n")),
    };
    let policy = match &node.policy {
        NodePolicy::Cordoned(cordon) => format!("cordoned by {}: {}", cordon.by, cordon.reason),
        NodePolicy::Draining { operation, .. } => format!("draining ({operation})"),
        other => other.word().to_owned(),
    };
    let with_detail = |word: &str, detail: Option<String>| detail.map_or_else(|| word.to_owned(), |detail| format!("{word}: {detail}"));
    let mut text = fields(&[
        ("name", node.name.to_string()),
        ("id", node.id.to_string()),
        ("super node", or_dash(view.super_node_name.as_ref())),
        ("membership", node.membership.word().to_owned()),
        ("policy", policy),
        ("condition", with_detail(node.condition.word(), node.condition.detail())),
        ("health", node.health.word().to_owned()),
        ("spec", spec),
        ("devices", format!("{} of {} leased", view.leased_devices, node.device_count)),
        ("address", node.address.clone()),
        ("position", place(&node.position)),
        ("labels", pairs(&node.labels)),
        ("environment", environment(node)),
        ("agent", node.agent_version.clone()),
        ("last contact", or_dash(view.last_contact_at.map(|moment| look.moment(moment)))),
        ("certificate ends", or_dash(view.certificate_ends_at.map(|moment| look.moment(moment)))),
        ("enrolled", look.moment(node.enrolled_at)),
        ("generation", node.generation.to_string()),
    ]);
    if let Some(inventory) = &node_detail.inventory {
        text += &section("hardware", &hardware(inventory));
    }
    if !node_detail.leases.is_empty() {
        let mut table = Table::new(&["DEVICE", "JOB", "ATTEMPT"]);
        for lease in &node_detail.leases {
            table.row([cell(lease.device), cell(&lease.job), cell(&lease.attempt)]);
        }
        text += &section("leases", &table.render(look));
    }
    text
}

fn environment(node: &supernode_types::node::Node) -> String {
    match (node.environment_applied, node.environment_problems.is_empty()) {
        (0, true) => "clean".to_owned(),
        (generation, true) => format!("generation {generation} applied"),
        (generation, false) => format!("generation {generation} applied, with problems:\n{}", node.environment_problems.join("\n")),
    }
}

fn hardware(inventory: &supernode_types::inventory::Inventory) -> String {
    let cpu = &inventory.cpu;
    let disks: Vec<String> =
        inventory.disks.iter().map(|disk| format!("{} {} {}", disk.name, bytes(disk.size_bytes), disk.model)).collect();
    let nics: Vec<String> = inventory
        .nics
        .iter()
        .map(|nic| {
            let speed = nic.speed_mbps.map_or(String::new(), |speed| format!(" {speed} Mbit/s"));
            let rdma = if nic.rdma_devices.is_empty() { String::new() } else { format!(" rdma {}", nic.rdma_devices.join(",")) };
            format!("{}{speed}{rdma}", nic.name)
        })
        .collect();
    let accelerators: Vec<String> = inventory
        .accelerators
        .iter()
        .map(|one| format!("{}: {} {} {}", one.index, one.vendor, one.model, or_dash(one.memory_bytes.map(bytes))))
        .collect();
    let versions: Vec<String> = inventory.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    fields(&[
        ("host", inventory.host_name.clone()),
        ("system", format!("{}, kernel {}", inventory.os, inventory.kernel)),
        ("chassis", format!("{} {}", inventory.chassis.vendor, inventory.chassis.product).trim().to_owned()),
        ("cpu", format!("{} ({} sockets, {} cores, {} threads, {})", cpu.model, cpu.sockets, cpu.cores, cpu.threads, cpu.architecture)),
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
        value.as_object_mut().expect("written above").extend(changes.as_object().expect("an object").clone());
        serde_json::from_value(value).expect("the sample is a node")
    }

    const LOOK: Look = Look { now: Timestamp(1_763_900_000_000_000), color: false };

    #[test]
    fn the_list_says_what_is_wrong() {
        let lost = sample("n2", &json!({
            "condition": {"state": "degraded", "why": "disk full"}, "policy": {"state": "cordoned", "by": "ada", "reason": "fan"},
            "membership": {"state": "spare"}, "super_node_name": null, "leased_devices": 0, "last_contact_at": null
        }));
        assert_eq!(
            list(&[sample("n1", &json!({})), lost], &LOOK),
            "NAME  SUPER NODE  POLICY      CONDITION  HEALTH    DEVICES  SPEC  ADDRESS    CONTACT  DETAIL\n\
             n1    train       in_service  ready      unproven  1/1      cpu2  127.0.0.1  1s\n\
             n2    -           cordoned    degraded   unproven  0/1      cpu2  127.0.0.1  -        disk full; cordoned by ada: fan\n"
        );
    }

    #[test]
    fn the_detail_names_every_difference_and_lease() {
        let view = sample("n1", &json!({
            "spec": {"state": "differs", "differences": ["cpu2: the memory must be 8 GiB, but is 4 GiB"]}, "spec_name": null,
            "environment_problems": ["sysctl a.b drifted: 1"]
        }));
        let lease = json!({"node": view.node.id, "device": 0, "job": "job-01kb000000000000000000000a", "attempt": "try-01kb000000000000000000000a"});
        let inventory = json!({"host_name": "h", "memory_bytes": 8_589_934_592_u64, "disks": [{"name": "sda", "size_bytes": 1024}]});
        let detail = NodeDetail {
            view,
            inventory: serde_json::from_value(inventory).expect("an inventory"),
            leases: vec![serde_json::from_value(lease).expect("a lease")],
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

    #[test]
    fn a_move_changes_only_what_is_said() {
        let options = PositionOptions { hyperplane: Some("h1".into()), rack: Some(String::new()), leaf: None };
        let present = Position { hyperplane: None, rack: Some("r1".into()), leaf: Some("l1".into()) };
        let expected = Position { hyperplane: Some("h1".into()), rack: None, leaf: Some("l1".into()) };
        assert_eq!(options.onto(&present), expected);
    }
}
