//! How super nodes and plans look.

use supernode_api::super_node::{ScalePlan, SuperNodeDetail, SuperNodeView};
use supernode_types::stress::ReplacementTry;

use crate::operation;
use crate::output::{Look, Table, add, cell, fields, or_dash, pairs, section, state};

pub(crate) fn list(items: &[SuperNodeView], look: &Look) -> String {
    let heads = [
        "NAME",
        "SPEC",
        "HYPERPLANE",
        "NODES",
        "READY",
        "JOINING",
        "LEAVING",
        "RUNNING",
        "QUEUED",
        "AGE",
    ];
    let mut table = Table::new(&heads);
    for view in items {
        table.row([
            cell(&view.super_node.name),
            cell(&view.spec_name),
            cell(or_dash(view.super_node.hyperplane.as_ref())),
            cell(view.members),
            cell(view.ready),
            cell(view.joining),
            cell(view.leaving),
            cell(view.running_jobs),
            cell(view.queued_jobs),
            cell(look.age(view.super_node.created_at)),
        ]);
    }
    table.render(look)
}

pub(crate) fn show(detail: &SuperNodeDetail, look: &Look) -> String {
    let view = &detail.view;
    let super_node = &view.super_node;
    let mut text = fields(&[
        ("name", super_node.name.to_string()),
        ("id", super_node.id.to_string()),
        ("spec", view.spec_name.to_string()),
        ("hyperplane", or_dash(super_node.hyperplane.as_ref())),
        (
            "nodes",
            format!(
                "{} ({} ready, {} joining, {} leaving)",
                view.members, view.ready, view.joining, view.leaving
            ),
        ),
        (
            "jobs",
            format!("{} running, {} queued", view.running_jobs, view.queued_jobs),
        ),
        ("labels", pairs(&super_node.labels)),
        (
            "environment",
            format!(
                "revision {}, generation {}",
                super_node.environment_revision, super_node.environment_generation
            ),
        ),
        ("replacement", super_node.replacement.word().to_owned()),
        ("deleting", or_dash(super_node.deleting.as_ref())),
        ("created", look.moment(super_node.created_at)),
        ("generation", super_node.generation.to_string()),
    ]);
    let mut table = Table::new(&[
        "NODE",
        "MEMBERSHIP",
        "POLICY",
        "CONDITION",
        "ADDRESS",
        "ENVIRONMENT",
        "DETAIL",
    ]);
    for node in &detail.nodes {
        let drift = match (
            node.environment_problems.len(),
            node.environment_applied < super_node.environment_generation,
        ) {
            (0, false) => "applied".to_owned(),
            (0, true) => format!(
                "at {} of {}",
                node.environment_applied, super_node.environment_generation
            ),
            (problems, _) => format!("{problems} problems"),
        };
        let mut notes: Vec<String> = node.condition.detail().into_iter().collect();
        notes.extend(node.environment_problems.iter().cloned());
        let tried = node.stress.replacement.as_ref();
        notes.extend(tried.map(ReplacementTry::words));
        table.row([
            cell(&node.name),
            state(node.membership.word()),
            state(node.policy.word()),
            state(node.condition.word()),
            cell(&node.address),
            state(&drift),
            cell(notes.join("; ")),
        ]);
    }
    text += &section("nodes", &table.render(look));
    if !detail.operations.is_empty() {
        text += &section(
            "open operations",
            &operation::list(&detail.operations, look),
        );
    }
    text
}

pub(crate) fn show_plan(plan: &ScalePlan, verb: &str, look: &Look) -> String {
    let mut text = format!(
        "members: {} -> {}\n",
        plan.members_before, plan.members_after
    );
    if plan.provisioned > 0 {
        add(
            &mut text,
            format_args!("new nodes from the provisioner: {}\n", plan.provisioned),
        );
    }
    let mut table = Table::new(&["NODE", "", "BECAUSE"]);
    for node in &plan.nodes {
        table.row([cell(&node.name), cell(verb), cell(&node.chosen_because)]);
    }
    if !plan.nodes.is_empty() {
        add(&mut text, format_args!("\n{}", table.render(look)));
    }
    if !plan.affected_jobs.is_empty() {
        let jobs: Vec<String> = plan.affected_jobs.iter().map(ToString::to_string).collect();
        text += &section("jobs that run on these nodes", &(jobs.join("\n") + "\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::view::tests::sample as node;
    use serde_json::json;
    use supernode_types::Timestamp;

    const LOOK: Look = Look {
        now: Timestamp(1_763_900_000_000_000),
        color: false,
    };

    fn sample() -> SuperNodeView {
        crate::sample::answer(&json!({
            "id": "sn-01kb000000000000000000000a", "name": "train", "spec": "spec-01kb000000000000000000000a", "spec_name": "cpu2",
            "hyperplane": null, "labels": {}, "environment_revision": 1, "environment_generation": 4, "deleting": null, "generation": 2,
            "created_at": "2025-11-23T12:12:00Z", "members": 2, "ready": 1, "joining": 1, "leaving": 0, "running_jobs": 1, "queued_jobs": 0
        }))
    }

    #[test]
    fn the_list_counts_nodes_and_jobs() {
        assert_eq!(
            list(&[sample()], &LOOK),
            "NAME   SPEC  HYPERPLANE  NODES  READY  JOINING  LEAVING  RUNNING  QUEUED  AGE\n\
             train  cpu2  -           2      1      1        0        1        0       1m20s\n"
        );
    }

    #[test]
    fn the_detail_shows_each_members_drift() {
        let drifted = node("n2", &json!({"environment_applied": 4, "environment_problems": ["file /etc/x drifted: gone"]})).node;
        let detail = SuperNodeDetail {
            view: sample(),
            nodes: vec![node("n1", &json!({})).node, drifted],
            operations: vec![],
        };
        let text = show(&detail, &LOOK);
        assert!(
            text.ends_with(
                "nodes\n\
                 NODE  MEMBERSHIP  POLICY      CONDITION  ADDRESS    ENVIRONMENT  DETAIL\n\
                 n1    member      in_service  ready      127.0.0.1  at 3 of 4\n\
                 n2    member      in_service  ready      127.0.0.1  1 problems   file /etc/x drifted: gone\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_plan_says_why_and_whom_it_disturbs() {
        let plan: ScalePlan = crate::sample::answer(&json!({
            "nodes": [{"name": "n2", "chosen_because": "no job runs on it"}], "provisioned": 0, "members_before": 3, "members_after": 2,
            "affected_jobs": ["job-01kb000000000000000000000a"]
        }));
        assert_eq!(
            show_plan(&plan, "leaves", &LOOK),
            "members: 3 -> 2\n\nNODE          BECAUSE\nn2    leaves  no job runs on it\n\njobs that run on these nodes\njob-01kb000000000000000000000a\n"
        );
    }
}
