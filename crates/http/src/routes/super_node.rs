//! Super nodes.

use std::time::Duration;

use supernode_api::super_node::{
    DEFAULT_DEADLINE_SECONDS, MAXIMUM_DEADLINE_SECONDS, NodeReplace, NodeReplacePlan,
    NodeReplaceRequest, PlannedNode, ScaleDown, ScaleDownPlan, ScaleDownRequest, ScalePlan,
    ScaleUp, ScaleUpPlan, ScaleUpRequest, SuperNodeCreate, SuperNodeCreatePlan,
    SuperNodeCreateRequest, SuperNodeDelete, SuperNodeDetail, SuperNodeList, SuperNodePatch,
    SuperNodeShow, SuperNodeView,
};
use supernode_control::scale_up::{Selection, Test};
use supernode_control::super_node::{Create, Update};
use supernode_control::{
    Intent, Refusal, Tx, node_replace, query, scale_down, scale_up, super_node,
};
use supernode_types::job::JobState;
use supernode_types::node::{Membership, NodeCondition};
use supernode_types::super_node::SuperNode;
use supernode_types::{Name, NodeId};

use super::Context;
use super::context::whole;
use super::operation;
use crate::{Edge, Failure, Request};

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let edge = mount_scale(mount_records(edge, context), context);
    mount_replace(edge, context)
}

fn mount_records(edge: Edge, context: &Context) -> Edge {
    let (list, show, create, plan, patch, delete) = (
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
    );
    edge.operation::<SuperNodeList, _, _>(move |_: Request<SuperNodeList>| {
        let context = list.clone();
        async move {
            context
                .read("super_node_list", |tx| {
                    let all = query::super_nodes(tx)?;
                    all.into_iter()
                        .map(|super_node| view(tx, super_node))
                        .collect::<Result<Vec<_>, _>>()
                })
                .await
                .map(whole)
        }
    })
    .operation::<SuperNodeShow, _, _>(move |request: Request<SuperNodeShow>| {
        let context = show.clone();
        async move {
            let name = request.path.get("super_node").to_owned();
            let generation = |detail: &SuperNodeDetail| detail.view.super_node.generation;
            context
                .watch(request.query, generation, || detail(&context, name.clone()))
                .await
        }
    })
    .operation::<SuperNodeCreate, _, _>(move |request: Request<SuperNodeCreate>| {
        let context = create.clone();
        async move {
            let wish = creation(&request.body)?;
            context
                .change(&request, wish.name.to_string(), move |tx, intent| {
                    let operation = super_node::create(tx, intent, &wish)?;
                    operation::view(tx, &operation)
                })
                .await
        }
    })
    .operation::<SuperNodeCreatePlan, _, _>(move |request: Request<SuperNodeCreatePlan>| {
        let context = plan.clone();
        async move {
            let wish = creation(&request.body)?;
            planned(&context, &request, move |tx, intent| {
                let plan = super_node::create_plan(tx, intent, &wish)?;
                up_view(tx, &plan)
            })
            .await
        }
    })
    .operation::<SuperNodePatch, _, _>(move |request: Request<SuperNodePatch>| {
        let context = patch.clone();
        async move {
            let id = request.path.get("super_node").to_owned();
            let wish = Update {
                name: request.body.name.as_deref().map(parse_name).transpose()?,
                labels: request.body.labels.clone(),
                replacement: request.body.replacement,
            };
            context
                .change(&request, id.clone(), move |tx, intent| {
                    let super_node = super_node::update(tx, intent, &id, &wish)?;
                    view(tx, super_node)
                })
                .await
        }
    })
    .operation::<SuperNodeDelete, _, _>(move |request: Request<SuperNodeDelete>| {
        let context = delete.clone();
        async move {
            let id = request.path.get("super_node").to_owned();
            context
                .change(&request, id.clone(), move |tx, intent| {
                    let operation = super_node::delete(
                        tx,
                        intent,
                        &id,
                        Duration::from_secs(DEFAULT_DEADLINE_SECONDS),
                    )?;
                    operation::view(tx, &operation)
                })
                .await
        }
    })
}

fn mount_scale(edge: Edge, context: &Context) -> Edge {
    let (up, up_plan, down, down_plan) = (
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
    );
    edge.operation::<ScaleUp, _, _>(move |request: Request<ScaleUp>| {
        let context = up.clone();
        async move {
            let id = request.path.get("super_node").to_owned();
            let (selection, deadline) = (
                up_selection(&request.body)?,
                deadline(request.body.deadline_seconds)?,
            );
            let test = test(request.body.skip_admission);
            context
                .change(&request, id.clone(), move |tx, intent| {
                    let operation =
                        scale_up::scale_up(tx, intent, &id, &selection, test, deadline)?;
                    operation::view(tx, &operation)
                })
                .await
        }
    })
    .operation::<ScaleUpPlan, _, _>(move |request: Request<ScaleUpPlan>| {
        let context = up_plan.clone();
        async move {
            let id = request.path.get("super_node").to_owned();
            let selection = up_selection(&request.body)?;
            planned(&context, &request, move |tx, intent| {
                let plan = scale_up::plan(tx, intent, &id, &selection)?;
                up_view(tx, &plan)
            })
            .await
        }
    })
    .operation::<ScaleDown, _, _>(move |request: Request<ScaleDown>| {
        let context = down.clone();
        async move {
            let id = request.path.get("super_node").to_owned();
            let (selection, deadline) = (
                down_selection(&request.body)?,
                deadline(request.body.deadline_seconds)?,
            );
            let mode = request.body.drain;
            context
                .change(&request, id.clone(), move |tx, intent| {
                    let operation =
                        scale_down::scale_down(tx, intent, &id, &selection, mode, deadline)?;
                    operation::view(tx, &operation)
                })
                .await
        }
    })
    .operation::<ScaleDownPlan, _, _>(move |request: Request<ScaleDownPlan>| {
        let context = down_plan.clone();
        async move {
            let id = request.path.get("super_node").to_owned();
            let (selection, mode) = (down_selection(&request.body)?, request.body.drain);
            planned(&context, &request, move |tx, intent| {
                let plan = scale_down::plan(tx, intent, &id, &selection, mode)?;
                let leaving = u32::try_from(plan.nodes.len()).unwrap_or(u32::MAX);
                Ok(ScalePlan {
                    nodes: planned_nodes(
                        tx,
                        plan.nodes
                            .iter()
                            .map(|choice| (&choice.node, &choice.because)),
                    )?,
                    provisioned: 0,
                    members_before: plan.members_before,
                    members_after: plan.members_before.saturating_sub(leaving),
                    affected_jobs: plan.affected_jobs,
                })
            })
            .await
        }
    })
}

fn mount_replace(edge: Edge, context: &Context) -> Edge {
    let (replace, plan) = (context.clone(), context.clone());
    edge.operation::<NodeReplace, _, _>(move |request: Request<NodeReplace>| {
        let context = replace.clone();
        async move {
            let id = request.path.get("super_node").to_owned();
            let wish = replacement(&request.body)?;
            context
                .change(&request, id.clone(), move |tx, intent| {
                    let operation = node_replace::replace(tx, intent, &id, &wish)?;
                    operation::view(tx, &operation)
                })
                .await
        }
    })
    .operation::<NodeReplacePlan, _, _>(move |request: Request<NodeReplacePlan>| {
        let context = plan.clone();
        async move {
            let id = request.path.get("super_node").to_owned();
            let wish = replacement(&request.body)?;
            planned(&context, &request, move |tx, intent| {
                let plan = node_replace::plan(tx, intent, &id, &wish)?;
                let joins = [(&plan.joins.node, &plan.joins.because)];
                Ok(ScalePlan {
                    nodes: planned_nodes(tx, joins.into_iter())?,
                    provisioned: 0,
                    members_before: plan.members,
                    members_after: plan.members,
                    affected_jobs: plan.affected_jobs,
                })
            })
            .await
        }
    })
}

fn replacement(body: &NodeReplaceRequest) -> Result<node_replace::Wish, Failure> {
    Ok(node_replace::Wish {
        node: body.node.clone(),
        with: body.with.clone(),
        mode: body.drain,
        test: test(body.skip_admission),
        deadline: deadline(body.deadline_seconds)?,
    })
}

fn test(skipped: bool) -> Test {
    if skipped { Test::Skipped } else { Test::AsSet }
}

/// What a plan sees: the same checks as the real thing, on a snapshot, without a transaction to write in.
pub(super) async fn planned<O, P, F>(
    context: &Context,
    request: &Request<O>,
    mut plan: F,
) -> Result<P, Failure>
where
    O: supernode_api::Operation,
    P: Send + 'static,
    F: FnMut(&mut Tx<'_>, &Intent) -> Result<P, Refusal> + Send + 'static,
{
    let control = context.control.clone();
    let (actor, if_match) = (request.caller.name.to_string(), request.if_match);
    context
        .read(O::NAME, move |tx| {
            let intent = Intent {
                actor: actor.clone(),
                operator: false,
                admin: false,
                now: control.clock().now(),
                if_match,
                entropy: std::sync::Arc::clone(control.entropy()),
                settings: std::sync::Arc::clone(control.settings()),
            };
            plan(tx, &intent)
        })
        .await
}

pub(super) fn parse_name(text: &str) -> Result<Name, Failure> {
    text.parse()
        .map_err(|error: supernode_types::name::InvalidName| {
            Failure::invalid_request(error.to_string())
        })
}

fn creation(body: &SuperNodeCreateRequest) -> Result<Create, Failure> {
    let selection = match (body.count, body.nodes.is_empty()) {
        (Some(count), true) => Selection::Count(count),
        (None, false) => Selection::Named(body.nodes.clone()),
        _ => {
            return Err(Failure::invalid_request(
                "give exactly one of `count` and `nodes`",
            ));
        }
    };
    Ok(Create {
        name: parse_name(&body.name)?,
        spec: body.spec.clone(),
        selection,
        labels: body.labels.clone(),
        deadline: deadline(body.deadline_seconds)?,
    })
}

fn up_selection(body: &ScaleUpRequest) -> Result<Selection, Failure> {
    match (body.count, body.to, body.nodes.is_empty()) {
        (Some(count), None, true) => Ok(Selection::Count(count)),
        (None, Some(to), true) => Ok(Selection::To(to)),
        (None, None, false) => Ok(Selection::Named(body.nodes.clone())),
        _ => Err(Failure::invalid_request(
            "give exactly one of `count`, `to` and `nodes`",
        )),
    }
}

fn down_selection(body: &ScaleDownRequest) -> Result<Selection, Failure> {
    match (body.count, body.nodes.is_empty()) {
        (Some(count), true) => Ok(Selection::Count(count)),
        (None, false) => Ok(Selection::Named(body.nodes.clone())),
        _ => Err(Failure::invalid_request(
            "give exactly one of `count` and `nodes`",
        )),
    }
}

pub(super) fn deadline(seconds: Option<u64>) -> Result<Duration, Failure> {
    match seconds.unwrap_or(DEFAULT_DEADLINE_SECONDS) {
        seconds @ 1..=MAXIMUM_DEADLINE_SECONDS => Ok(Duration::from_secs(seconds)),
        _ => Err(Failure::invalid_request(format!(
            "deadline_seconds must be between 1 and {MAXIMUM_DEADLINE_SECONDS}"
        ))),
    }
}

fn up_view(tx: &mut Tx<'_>, plan: &scale_up::Plan) -> Result<ScalePlan, Refusal> {
    Ok(ScalePlan {
        nodes: planned_nodes(
            tx,
            plan.nodes
                .iter()
                .map(|choice| (&choice.node, &choice.because)),
        )?,
        provisioned: plan.provisioned,
        members_before: plan.members_before,
        members_after: plan.members_after(),
        affected_jobs: Vec::new(),
    })
}

fn planned_nodes<'a>(
    tx: &mut Tx<'_>,
    choices: impl Iterator<Item = (&'a NodeId, &'a String)>,
) -> Result<Vec<PlannedNode>, Refusal> {
    choices
        .map(|(node, because)| {
            Ok(PlannedNode {
                name: supernode_control::node::find(tx, node.as_str())?.name,
                chosen_because: because.clone(),
            })
        })
        .collect()
}

fn view(tx: &mut Tx<'_>, super_node: SuperNode) -> Result<SuperNodeView, Refusal> {
    let nodes = query::nodes_of(tx, &super_node.id)?;
    let jobs = query::active_jobs_of(tx, &super_node.id)?;
    let spec_name = supernode_control::spec::find(tx, super_node.spec.as_str())?.name;
    let count = |wanted: fn(&Membership) -> bool| {
        u32::try_from(nodes.iter().filter(|node| wanted(&node.membership)).count())
            .unwrap_or(u32::MAX)
    };
    let ready = nodes
        .iter()
        .filter(|node| {
            node.membership.member_of(&super_node.id) && node.condition == NodeCondition::Ready
        })
        .count();
    let queued = jobs
        .iter()
        .filter(|job| matches!(job.state, JobState::Queued { .. }))
        .count();
    Ok(SuperNodeView {
        spec_name,
        members: count(|membership| matches!(membership, Membership::Member { .. })),
        ready: u32::try_from(ready).unwrap_or(u32::MAX),
        joining: count(|membership| matches!(membership, Membership::Joining { .. })),
        leaving: count(|membership| matches!(membership, Membership::Leaving { .. })),
        running_jobs: u32::try_from(jobs.len() - queued).unwrap_or(u32::MAX),
        queued_jobs: u32::try_from(queued).unwrap_or(u32::MAX),
        super_node,
    })
}

async fn detail(context: &Context, name: String) -> Result<SuperNodeDetail, Failure> {
    context
        .read("super_node_show", move |tx| {
            let super_node = super_node::find(tx, &name)?;
            let nodes = query::nodes_of(tx, &super_node.id)?;
            let open = query::open_operations_of(tx, &super_node.id)?;
            let operations = open
                .into_iter()
                .map(|record| operation::view_of(tx, record))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(SuperNodeDetail {
                view: view(tx, super_node)?,
                nodes,
                operations,
            })
        })
        .await
}
