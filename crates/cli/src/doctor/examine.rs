//! What the facts say. Pure: each verdict is tested without a server.

use supernode_api::Nothing;
use supernode_api::job::{JobList, JobListQuery, JobView};
use supernode_api::node::{NodeList, NodeListQuery, NodeView};
use supernode_api::operation::{OperationList, OperationListQuery, OperationView};
use supernode_api::super_node::{SuperNodeList, SuperNodeView};
use supernode_client::{Client, ClientError};
use supernode_types::Timestamp;
use supernode_types::job::JobState;
use supernode_types::node::{Membership, NodeCondition, NodeHealth, SpecMatch};
use supernode_types::operation::OperationState;

use super::{Check, fail, ok, warn};
use crate::operation::title;
use crate::output::seconds;

/// What the server said.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    nodes: Vec<NodeView>,
    super_nodes: Vec<SuperNodeView>,
    operations: Vec<OperationView>,
    jobs: Vec<JobView>,
}

pub(crate) async fn facts(client: &Client) -> Result<Facts, ClientError> {
    let nodes_query = NodeListQuery::default();
    let operations_query = OperationListQuery {
        state: Some("running".into()),
        ..OperationListQuery::default()
    };
    let jobs_query = JobListQuery {
        state: Some("queued".into()),
        ..JobListQuery::default()
    };
    let (nodes, super_nodes, operations, jobs) = tokio::try_join!(
        client.list::<NodeList, _>(&[], &nodes_query),
        client.list::<SuperNodeList, _>(&[], &Nothing {}),
        client.list::<OperationList, _>(&[], &operations_query),
        client.list::<JobList, _>(&[], &jobs_query),
    )?;
    Ok(Facts {
        nodes,
        super_nodes,
        operations,
        jobs,
    })
}

pub(crate) fn examine(facts: &Facts, now: Timestamp) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(or_ok("nodes", node_checks(facts, now), || {
        format!("{} nodes, none lost or degraded", facts.nodes.len())
    }));
    checks.extend(or_ok("operations", operation_checks(facts, now), || {
        format!("{} running, none late", facts.operations.len())
    }));
    checks.extend(or_ok("jobs", job_checks(facts, now), || {
        "none is queued".to_owned()
    }));
    checks.extend(or_ok("environment", environment_checks(facts), || {
        "every member has what its super node asks".to_owned()
    }));
    checks
}

fn or_ok(check: &'static str, found: Vec<Check>, well: impl FnOnce() -> String) -> Vec<Check> {
    if found.is_empty() {
        vec![ok(check, well())]
    } else {
        found
    }
}

fn node_checks(facts: &Facts, now: Timestamp) -> Vec<Check> {
    let mut checks = Vec::new();
    if facts.nodes.is_empty() {
        checks.push(warn(
            "nodes",
            "there are none",
            "enrol one: `supernode join-token create` prints the command to run on it",
        ));
    }
    for view in &facts.nodes {
        let node = &view.node;
        let name = &node.name;
        match &node.condition {
            NodeCondition::Lost { since } => checks.push(fail(
                "nodes",
                format!(
                    "{name} is lost for {}",
                    seconds(now.since(*since).as_secs())
                ),
                format!(
                    "look whether {} is up, reaches the server, and its agent runs",
                    node.address
                ),
            )),
            NodeCondition::Degraded { why } => {
                checks.push(warn(
                    "nodes",
                    format!("{name} is degraded: {why}"),
                    format!("see `supernode node show {name}`"),
                ));
            }
            NodeCondition::Unknown => checks.push(warn(
                "nodes",
                format!("{name} has enrolled but was never heard of"),
                format!("start the agent on {}", node.address),
            )),
            NodeCondition::Joining { .. } | NodeCondition::Ready => {}
        }
        if let NodeHealth::Quarantined { finding } | NodeHealth::Suspect { finding } = &node.health
        {
            checks.push(warn(
                "nodes",
                format!("{name} is {}: {finding}", node.health.word()),
                "have it repaired, then test it again",
            ));
        }
        if let SpecMatch::Differs { differences } = &node.spec {
            let what = format!(
                "correct the hardware or the spec, or `supernode spec declare NAME --from-node {name}`"
            );
            checks.push(warn(
                "nodes",
                format!("{name} matches no spec: {}", differences.join("; ")),
                what,
            ));
        }
        if view.certificate_ends_at.is_some_and(|end| end <= now) {
            checks.push(fail(
                "nodes",
                format!("the certificate of {name} has ended"),
                "enrol it again with a new join token",
            ));
        }
    }
    checks
}

fn operation_checks(facts: &Facts, now: Timestamp) -> Vec<Check> {
    let late = |view: &&OperationView| {
        let operation = &view.operation;
        now.since(operation.created_at) > operation.deadline.since(operation.created_at) / 2
    };
    facts
        .operations
        .iter()
        .filter(late)
        .map(|view| {
            let operation = &view.operation;
            let waits_for = match &operation.state {
                OperationState::Running { waits_for } => waits_for.as_str(),
                other => other.word(),
            };
            let age = seconds(now.since(operation.created_at).as_secs());
            let left = seconds(operation.deadline.since(now).as_secs());
            warn(
                "operations",
                format!("{} runs for {age}, {left} before its deadline, and waits for: {waits_for}", title(view)),
                format!("see `supernode operation show {id}`, or take it back: `supernode operation cancel {id}`", id = operation.id),
            )
        })
        .collect()
}

fn job_checks(facts: &Facts, now: Timestamp) -> Vec<Check> {
    facts
        .jobs
        .iter()
        .filter_map(|view| match &view.job.state {
            JobState::Queued { reason } => {
                let age = seconds(now.since(view.job.submitted_at).as_secs());
                let found = format!(
                    "{} ({}) on {} is queued for {age}: {reason}",
                    view.job.name, view.job.id, view.super_node_name
                );
                Some(warn(
                    "jobs",
                    found,
                    "wait, add nodes (`supernode super-node scale-up`), or cancel other jobs",
                ))
            }
            _ => None,
        })
        .collect()
}

fn environment_checks(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    for view in &facts.nodes {
        let node = &view.node;
        let super_node = match &node.membership {
            Membership::Member { super_node } => facts
                .super_nodes
                .iter()
                .find(|one| one.super_node.id == *super_node),
            _ => None,
        };
        let Some(super_node) = super_node.map(|view| &view.super_node) else {
            continue;
        };
        let see = format!("see `supernode environment show {}`", super_node.name);
        if !node.environment_problems.is_empty() {
            let found = format!(
                "{} of {}: {}",
                node.name,
                super_node.name,
                node.environment_problems.join("; ")
            );
            checks.push(warn("environment", found, see));
        } else if node.environment_applied < super_node.environment_generation
            && !matches!(node.condition, NodeCondition::Lost { .. })
        {
            let (has, wants) = (node.environment_applied, super_node.environment_generation);
            let found = format!(
                "{} of {} is at generation {has} of {wants}",
                node.name, super_node.name
            );
            checks.push(warn(
                "environment",
                found,
                format!("{see}; it should follow within seconds"),
            ));
        }
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::node::view::tests::sample as node;
    use crate::operation::tests::sample as operation;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_763_900_000_000_000);

    fn verdicts(checks: &[Check]) -> Vec<(&str, Verdict)> {
        checks
            .iter()
            .map(|check| (check.subject, check.verdict))
            .collect()
    }

    fn super_node(generation: i64) -> SuperNodeView {
        crate::sample::answer(&json!({
            "id": "sn-01kb000000000000000000000a", "name": "train", "spec": "spec-01kb000000000000000000000a", "spec_name": "cpu2",
            "hyperplane": null, "labels": {}, "environment_revision": 1, "environment_generation": generation, "deleting": null,
            "generation": 2, "created_at": "2025-11-23T12:12:00Z", "members": 1, "ready": 1, "joining": 0, "leaving": 0,
            "running_jobs": 0, "queued_jobs": 0
        }))
    }

    #[test]
    fn a_well_system_is_four_times_ok() {
        let facts = Facts {
            nodes: vec![node("n1", &json!({}))],
            super_nodes: vec![super_node(3)],
            ..Facts::default()
        };
        let expected =
            ["nodes", "operations", "jobs", "environment"].map(|check| (check, Verdict::Ok));
        assert_eq!(verdicts(&examine(&facts, NOW)), expected);
    }

    #[test]
    fn each_trouble_is_named_with_its_reason() {
        let lost = node(
            "n2",
            &json!({"condition": {"state": "lost", "since": "2025-11-23T12:12:20Z"}}),
        );
        let differs = node(
            "n3",
            &json!({
                "condition": {"state": "degraded", "why": "disk full"}, "spec": {"state": "differs", "differences": ["less memory"]},
                "environment_problems": ["sysctl a.b drifted: 1"]
            }),
        );
        let mut late = operation(
            &json!({"state": "running", "waits_for": "n3"}),
            &json!({"state": "active", "step": "x"}),
        );
        late.operation.created_at = Timestamp(NOW.0 - 500_000_000);
        late.operation.deadline = Timestamp(NOW.0 + 400_000_000);
        let facts = Facts {
            nodes: vec![node("n1", &json!({})), lost, differs],
            super_nodes: vec![super_node(4)],
            operations: vec![late],
            jobs: vec![],
        };
        let checks = examine(&facts, NOW);
        let found: Vec<String> = checks
            .iter()
            .map(|check| {
                format!(
                    "{} {}: {}",
                    check.verdict.word(),
                    check.subject,
                    check.found
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                "FAIL nodes: n2 is lost for 1m",
                "WARN nodes: n3 is degraded: disk full",
                "WARN nodes: n3 matches no spec: less memory",
                "WARN operations: scale_up train runs for 8m20s, 6m40s before its deadline, and waits for: n3",
                "OK jobs: none is queued",
                "WARN environment: n1 of train is at generation 3 of 4",
                "WARN environment: n3 of train: sysctl a.b drifted: 1",
            ]
        );
        assert!(
            checks
                .iter()
                .all(|check| (check.verdict == Verdict::Ok) == check.what_to_do.is_empty())
        );
    }
}
