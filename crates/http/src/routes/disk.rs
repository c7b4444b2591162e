//! System disks.

use supernode_api::Page;
use supernode_api::disk::{
    DiskExpand, DiskExpandPlan, DiskExpandRequest, DiskList, DiskListQuery, DiskPlan, DiskView,
    PlannedDisk,
};
use supernode_control::disk_expand::{self, PlannedNode, Selection, Wish};
use supernode_control::query;
use supernode_types::operation::RestartConsent;
use supernode_types::super_node::DrainMode;

use super::context::{page, page_limit};
use super::super_node::{deadline, planned};
use super::{Context, operation};
use crate::{Edge, Failure, Request};

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (list, expand, plan) = (context.clone(), context.clone(), context.clone());
    edge.operation::<DiskList, _, _>(move |request: Request<DiskList>| {
        let context = list.clone();
        async move { list_disks(&context, request.query).await }
    })
    .operation::<DiskExpand, _, _>(move |request: Request<DiskExpand>| {
        let context = expand.clone();
        async move {
            let (wish, subject) = (wish(&request.body)?, subject(&request.body));
            context
                .change(&request, subject, move |tx, intent| {
                    let operation = disk_expand::disk_expand(tx, intent, &wish)?;
                    operation::view(tx, &operation)
                })
                .await
        }
    })
    .operation::<DiskPlan, _, _>(move |request: Request<DiskPlan>| {
        let context = plan.clone();
        async move {
            let wish = wish(&request.body)?;
            planned(&context, &request, move |tx, intent| {
                let nodes = disk_expand::plan(tx, intent, &wish)?;
                Ok(DiskExpandPlan {
                    size_bytes: wish.size_bytes,
                    nodes: nodes.into_iter().map(planned_disk).collect(),
                })
            })
            .await
        }
    })
}

async fn list_disks(context: &Context, wanted: DiskListQuery) -> Result<Page<DiskView>, Failure> {
    let limit = page_limit(wanted.limit)?;
    let views = context
        .read("disk_list", move |tx| {
            let names = query::names(tx)?;
            let disks =
                disk_expand::list(tx, wanted.node.as_deref(), wanted.super_node.as_deref())?;
            let most = usize::try_from(limit)
                .unwrap_or(usize::MAX)
                .saturating_add(1);
            let after = |name: &str| wanted.cursor.as_deref().is_none_or(|after| name > after);
            Ok(disks
                .into_iter()
                .filter(|(node, _)| after(node.name.as_str()))
                .take(most)
                .map(|(node, system_disk)| DiskView {
                    super_node_name: node.membership.super_node().map(|id| names.super_node(id)),
                    system_disk,
                    usage: node.disk.usage,
                    pressure: node.disk.pressure,
                    operation: node.disk.work.map(|work| work.operation),
                    node: node.id,
                    node_name: node.name,
                })
                .collect::<Vec<_>>())
        })
        .await?;
    Ok(page(views, limit, |view: &DiskView| {
        view.node_name.to_string()
    }))
}

fn wish(body: &DiskExpandRequest) -> Result<Wish, Failure> {
    let selection = match (&body.super_node, body.nodes.is_empty()) {
        (Some(name), true) => Selection::SuperNode(name.clone()),
        (None, false) => Selection::Named(body.nodes.clone()),
        _ => {
            return Err(Failure::invalid_request(
                "give exactly one of `nodes` and `super_node`",
            ));
        }
    };
    let restart = match (body.allow_restart, body.drain) {
        (true, drain) => RestartConsent::Allowed {
            drain: drain.unwrap_or(DrainMode::Refuse),
        },
        (false, None) => RestartConsent::Refused,
        (false, Some(_)) => {
            return Err(Failure::invalid_request(
                "`drain` goes with `allow_restart`: only a node that restarts is drained",
            ));
        }
    };
    Ok(Wish {
        selection,
        size_bytes: body.size_bytes,
        restart,
        parallel: body.parallel.unwrap_or(1),
        fail_fast: body.fail_fast,
        deadline: deadline(body.deadline_seconds)?,
    })
}

/// What the audit log says that it was done to.
fn subject(body: &DiskExpandRequest) -> String {
    body.super_node
        .clone()
        .unwrap_or_else(|| body.nodes.join(","))
}

fn planned_disk(planned: PlannedNode) -> PlannedDisk {
    PlannedDisk {
        node_name: planned.node.name,
        disk: planned.disk.disk.unwrap_or_default(),
        present_bytes: planned.disk.size_bytes,
        steps: planned.steps,
        at_size: planned.at_size,
        jobs: planned.jobs,
    }
}
