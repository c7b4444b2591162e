//! How system disks look: one tree for each node.

use supernode_api::disk::{DiskExpandPlan, DiskView};
use supernode_types::disk::{Growth, size_words};

use crate::output::{Look, Table, add, cell, clean, section};

/// Each node with its tree.
pub(super) fn list(items: &[DiskView], look: &Look) -> String {
    let mut text = String::new();
    for (position, view) in items.iter().enumerate() {
        if position > 0 {
            text.push('\n');
        }
        one(view, look, &mut text);
    }
    text
}

fn one(view: &DiskView, look: &Look, text: &mut String) {
    let owner = view
        .super_node_name
        .as_ref()
        .map_or(String::new(), |name| format!(" of {name}"));
    add(text, format_args!("node {}{owner}\n", view.node_name));
    let Some(disk) = &view.system_disk else {
        text.push_str("  its agent has not said what its system disk is made of\n");
        return;
    };
    if let Some(usage) = view.usage {
        let used = size_words(usage.used_bytes);
        let size = size_words(usage.size_bytes);
        let percent = usage.percent();
        add(
            text,
            format_args!("  used       {percent} % ({used} of {size})\n"),
        );
    }
    let verdict = match &disk.growth {
        Growth::Unknown { why } => format!("not known: {}", clean(why)),
        Growth::Yes { at_size: true, .. } => "yes; every layer fills the one below it".to_owned(),
        Growth::Yes { at_size: false, .. } => {
            "yes; a layer does not fill the one below it yet".to_owned()
        }
        Growth::No { why } => format!("no: {}", clean(why)),
    };
    add(text, format_args!("  can grow   {verdict}\n"));
    if let Some(operation) = &view.operation {
        add(text, format_args!("  operation  {operation}\n"));
    }
    if disk.tree.is_empty() {
        return;
    }
    let mut table = Table::new(&["NAME", "KIND", "SIZE", "CONTENT", "MOUNT", "SYSTEM"]);
    for item in &disk.tree {
        let depth = usize::try_from(item.depth).unwrap_or(0).min(16);
        let branch = match depth {
            0 => String::new(),
            depth => format!("{}└─", "  ".repeat(depth - 1)),
        };
        table.row([
            cell(format!("{branch}{}", item.name)),
            cell(&item.kind),
            cell(size_words(item.size_bytes)),
            cell(&item.content),
            cell(&item.mount_point),
            cell(if item.carries_system { "yes" } else { "" }),
        ]);
    }
    text.push_str(&table.render(look));
}

/// What would be done to each node.
pub(super) fn plan(plan: &DiskExpandPlan, look: &Look) -> String {
    let mut table = Table::new(&["NODE", "DISK", "NOW", "THEN", "STEPS"]);
    let mut jobs = Vec::new();
    for node in &plan.nodes {
        let steps: Vec<String> = node
            .steps
            .iter()
            .map(|step| format!("{} {}", step.word(), step.subject()))
            .collect();
        table.row([
            cell(&node.node_name),
            cell(&node.disk),
            cell(size_words(node.present_bytes)),
            cell(size_words(plan.size_bytes)),
            cell(if node.at_size {
                "nothing: it has the size".to_owned()
            } else {
                steps.join(", ")
            }),
        ]);
        jobs.extend(node.jobs.iter().map(ToString::to_string));
    }
    let mut text = table.render(look);
    if !jobs.is_empty() {
        jobs.sort();
        jobs.dedup();
        let head = "jobs that go on, unless a node has to restart";
        text += &section(head, &(jobs.join("\n") + "\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use supernode_types::Timestamp;

    const LOOK: Look = Look {
        now: Timestamp(1_763_900_000_000_000),
        color: false,
    };

    #[test]
    fn a_disk_is_a_tree_with_a_verdict() {
        let view: DiskView = crate::sample::answer(&json!({
            "node": "node-01kb000000000000000000000a", "node_name": "n1", "super_node_name": "train", "pressure": "filling",
            "usage": {"size_bytes": 40_u64 << 30, "used_bytes": 33_u64 << 30}, "operation": null,
            "system_disk": {"mount_point": "/", "disk": "vda", "size_bytes": 40_u64 << 30,
                "growth": {"can_grow": "no", "why": "vda1 is not the last partition on vda"},
                "tree": [
                    {"depth": 0, "name": "vda", "kind": "disk", "size_bytes": 40_u64 << 30, "carries_system": true},
                    {"depth": 1, "name": "vda1", "kind": "partition", "size_bytes": 39_u64 << 30, "content": "ext4", "mount_point": "/", "carries_system": true}
                ]}
        }));
        assert_eq!(
            list(&[view], &LOOK),
            "node n1 of train\n  used       82 % (33 GiB of 40 GiB)\n  can grow   no: vda1 is not the last partition on vda\n\
             NAME    KIND       SIZE    CONTENT  MOUNT  SYSTEM\n\
             vda     disk       40 GiB                  yes\n\
             └─vda1  partition  39 GiB  ext4     /      yes\n"
        );
    }

    #[test]
    fn a_plan_lists_the_steps_of_each_node() {
        let planned: DiskExpandPlan = crate::sample::answer(&json!({
            "size_bytes": 500_u64 << 30,
            "nodes": [{"node_name": "n1", "disk": "vda", "present_bytes": 40_u64 << 30, "at_size": false, "jobs": ["job-01kb000000000000000000000a"],
                "steps": [{"layer": "device", "disk": "vda", "bus": "virtio"}, {"layer": "file_system", "kind": "xfs", "name": "vda", "mount_point": "/"}, {"layer": "verify"}]}]
        }));
        assert_eq!(
            plan(&planned, &LOOK),
            "NODE  DISK  NOW     THEN     STEPS\n\
             n1    vda   40 GiB  500 GiB  device vda, file system xfs on /, verify all layers\n\n\
             jobs that go on, unless a node has to restart\njob-01kb000000000000000000000a\n"
        );
    }
}
