//! Numbers for Prometheus, in its text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;

use supernode_store::attempt::lease_list;
use supernode_store::job::job_count;
use supernode_store::message::{MessageCount, message_count};
use supernode_store::node::node_list;
use supernode_store::operation::operation_list_running;
use supernode_store::retry_evidence::{retry_evidence_count, retry_evidence_count_links};
use supernode_types::disk::DiskUsage;
use supernode_types::node::Node;
use supernode_types::retry_policy::RetryOutcome;
use supernode_types::{NodeId, Timestamp};

use crate::service::LoopMetrics;
use crate::{Control, Refusal};

/// The most links that are shown: their names come from programs.
const MAXIMUM_LINKS: u32 = 1000;

/// What a gauge shows of a disk.
type Figure = fn(DiskUsage) -> u64;

/// All metrics of this server.
pub async fn render(control: &Control, loop_metrics: &LoopMetrics) -> Result<String, Refusal> {
    let now = control.clock().now();
    let (nodes, jobs, operations, leases, retries, links, messages) = control
        .read("metrics", |tx| {
            Ok((
                node_list(tx)?,
                job_count(tx)?,
                operation_list_running(tx)?,
                lease_list(tx)?.len(),
                retry_evidence_count(tx)?,
                retry_evidence_count_links(tx, MAXIMUM_LINKS)?,
                message_count(tx)?,
            ))
        })
        .await?;
    let mut text = Text::default();

    let mut by_state: BTreeMap<String, usize> = BTreeMap::new();
    for node in &nodes {
        let labels = format!(
            "policy=\"{}\",condition=\"{}\",health=\"{}\",membership=\"{}\"",
            node.policy.word(),
            node.condition.word(),
            node.health.word(),
            node.membership.word()
        );
        *by_state.entry(labels).or_default() += 1;
    }
    text.family(
        "supernode_nodes",
        "gauge",
        "Nodes by policy, condition, health and membership.",
    );
    for (labels, count) in by_state {
        text.sample("supernode_nodes", &labels, count);
    }
    let disk_families: [(&str, &str, Figure); 2] = [
        (
            "supernode_node_disk_size_bytes",
            "Size of a node's system disk as programs can use it.",
            |usage| usage.size_bytes,
        ),
        (
            "supernode_node_disk_used_bytes",
            "Used bytes of a node's system disk.",
            |usage| usage.used_bytes,
        ),
    ];
    for (family, help, value) in disk_families {
        text.family(family, "gauge", help);
        for node in &nodes {
            if let Some(usage) = node.disk.usage {
                text.sample(family, &format!("node=\"{}\"", node.name), value(usage));
            }
        }
    }
    text.family(
        "supernode_jobs",
        "gauge",
        "Jobs that have not ended, by super node and state.",
    );
    for (super_node, state, count) in jobs {
        text.sample(
            "supernode_jobs",
            &format!("super_node=\"{super_node}\",state=\"{state}\""),
            count,
        );
    }
    text.family("supernode_leases", "gauge", "Devices that jobs hold.");
    text.sample("supernode_leases", "", leases);
    text.family(
        "supernode_operations_running",
        "gauge",
        "Operations that have not ended, by kind.",
    );
    let mut kinds: BTreeMap<&'static str, (usize, u64, usize)> = BTreeMap::new();
    for record in &operations {
        let operation = &record.operation;
        let age = now.since(operation.created_at).as_secs();
        let entry = kinds.entry(operation.kind.word()).or_default();
        entry.0 += 1;
        entry.1 = entry.1.max(age);
        entry.2 += usize::from(now > operation.deadline);
    }
    for (kind, (count, ..)) in &kinds {
        text.sample(
            "supernode_operations_running",
            &format!("kind=\"{kind}\""),
            count,
        );
    }
    text.family(
        "supernode_operation_age_seconds",
        "gauge",
        "Age of the oldest running operation, by kind.",
    );
    for (kind, (_, age, _)) in &kinds {
        text.sample(
            "supernode_operation_age_seconds",
            &format!("kind=\"{kind}\""),
            age,
        );
    }
    text.family(
        "supernode_operations_overdue",
        "gauge",
        "Running operations past their deadline, by kind.",
    );
    for (kind, (.., overdue)) in &kinds {
        text.sample(
            "supernode_operations_overdue",
            &format!("kind=\"{kind}\""),
            overdue,
        );
    }
    text.retries(&nodes, &retries, &links);
    text.messages(&messages, now);
    text.family(
        "supernode_agents_connected",
        "gauge",
        "Agents with an open connection.",
    );
    text.sample("supernode_agents_connected", "", control.hub().link_count());
    text.family(
        "supernode_loop_passes_total",
        "counter",
        "Passes of the loop.",
    );
    text.sample(
        "supernode_loop_passes_total",
        "",
        loop_metrics.passes.load(Ordering::Relaxed),
    );
    text.family(
        "supernode_loop_failures_total",
        "counter",
        "Passes of the loop that failed.",
    );
    text.sample(
        "supernode_loop_failures_total",
        "",
        loop_metrics.failures.load(Ordering::Relaxed),
    );
    text.family(
        "supernode_loop_actions_total",
        "counter",
        "Actions that the loop applied.",
    );
    text.sample(
        "supernode_loop_actions_total",
        "",
        loop_metrics.actions.load(Ordering::Relaxed),
    );
    text.family(
        "supernode_loop_busy_microseconds_total",
        "counter",
        "Time that passes of the loop took, commit included.",
    );
    text.sample(
        "supernode_loop_busy_microseconds_total",
        "",
        loop_metrics.busy_microseconds.load(Ordering::Relaxed),
    );
    text.family(
        "supernode_loop_longest_microseconds",
        "gauge",
        "Time that the longest pass of the loop took.",
    );
    text.sample(
        "supernode_loop_longest_microseconds",
        "",
        loop_metrics.longest_microseconds.load(Ordering::Relaxed),
    );
    let sync = control.hub().sync_latency();
    text.family(
        "supernode_sync_microseconds",
        "summary",
        "Time from receiving an agent's sync to acknowledging it.",
    );
    text.sample("supernode_sync_microseconds_sum", "", sync.sum_microseconds);
    text.sample("supernode_sync_microseconds_count", "", sync.count);
    text.family(
        "supernode_sync_longest_microseconds",
        "gauge",
        "The longest time from receiving a sync to acknowledging it.",
    );
    text.sample(
        "supernode_sync_longest_microseconds",
        "",
        sync.longest_microseconds,
    );
    Ok(text.0)
}

#[derive(Default)]
struct Text(String);

impl Text {
    /// What ranks wrote of repeated operators. Nodes that were removed count no more.
    fn retries(
        &mut self,
        nodes: &[Node],
        retries: &[(NodeId, RetryOutcome, u64)],
        links: &[(NodeId, String, RetryOutcome, u64)],
    ) {
        let names: BTreeMap<&NodeId, &str> = nodes
            .iter()
            .map(|node| (&node.id, node.name.as_str()))
            .collect();
        let total = "supernode_retries_total";
        self.family(
            total,
            "counter",
            "What ranks wrote of broken paths and repeated operators, by node and outcome.",
        );
        for (node, outcome, count) in retries {
            if let Some(name) = names.get(node) {
                let labels = format!("node=\"{name}\",outcome=\"{outcome}\"");
                self.sample(total, &labels, count);
            }
        }
        let by_link = "supernode_link_retries";
        self.family(
            by_link,
            "gauge",
            "The same of running jobs, by link as the library names it.",
        );
        for (node, link, outcome, count) in links {
            if let Some(name) = names.get(node) {
                let link = link.replace(['\\', '"', '\n'], "");
                let labels = format!("node=\"{name}\",link=\"{link}\",outcome=\"{outcome}\"");
                self.sample(by_link, &labels, count);
            }
        }
    }

    /// What channels were told and were not.
    fn messages(&mut self, messages: &[MessageCount], now: Timestamp) {
        let total = "supernode_messages";
        self.family(
            total,
            "gauge",
            "Messages that are kept, by channel and state.",
        );
        for one in messages {
            let labels = format!("channel=\"{}\",state=\"{}\"", one.channel, one.state);
            self.sample(total, &labels, one.count);
        }
        let age = "supernode_message_age_seconds";
        self.family(
            age,
            "gauge",
            "Age of the oldest message that a channel still has to be told.",
        );
        for one in messages.iter().filter(|one| one.state == "pending") {
            let labels = format!("channel=\"{}\"", one.channel);
            self.sample(age, &labels, now.since(one.oldest).as_secs());
        }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }
}
