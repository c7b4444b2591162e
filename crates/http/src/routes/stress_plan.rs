//! Schedules of stress tests.

use supernode_api::stress_plan::{
    StressPlanCreate, StressPlanDelete, StressPlanList, StressPlanPatch, StressPlanShow,
    StressPlanUpdate, StressPlanView,
};
use supernode_control::{Refusal, Tx, query, stress_plan};
use supernode_types::Timestamp;
use supernode_types::stress::StressPlan;

use super::Context;
use super::context::{DONE, whole};
use crate::{Edge, Request};

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (create, list, show, patch, delete) = (
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
    );
    edge.operation::<StressPlanCreate, _, _>(move |request: Request<StressPlanCreate>| {
        let context = create.clone();
        async move {
            let body = request.body.clone();
            context
                .change(&request, body.super_node.clone(), move |tx, intent| {
                    let plan = stress_plan::create(tx, intent, &body.super_node, &body.terms)?;
                    view(tx, plan, intent.now)
                })
                .await
        }
    })
    .operation::<StressPlanList, _, _>(move |request: Request<StressPlanList>| {
        let context = list.clone();
        async move {
            let (wanted, now) = (request.query.super_node, context.control.clock().now());
            let views = context.read("stress_plan_list", move |tx| {
                let super_node = match &wanted {
                    Some(name) => Some(supernode_control::super_node::find(tx, name)?.id),
                    None => None,
                };
                let plans = stress_plan::list(tx, super_node.as_ref())?;
                plans
                    .into_iter()
                    .map(|plan| view(tx, plan, now))
                    .collect::<Result<Vec<_>, _>>()
            });
            views.await.map(whole)
        }
    })
    .operation::<StressPlanShow, _, _>(move |request: Request<StressPlanShow>| {
        let context = show.clone();
        async move {
            let (id, now) = (
                request.path.get("plan").to_owned(),
                context.control.clock().now(),
            );
            context
                .read("stress_plan_show", move |tx| {
                    let plan = stress_plan::find(tx, &id)?;
                    view(tx, plan, now)
                })
                .await
        }
    })
    .operation::<StressPlanPatch, _, _>(move |request: Request<StressPlanPatch>| {
        let context = patch.clone();
        async move {
            let (id, body) = (request.path.get("plan").to_owned(), request.body.clone());
            context
                .change(&request, id.clone(), move |tx, intent| {
                    let StressPlanUpdate { terms, paused } = &body;
                    let plan = stress_plan::update(tx, intent, &id, terms.as_ref(), *paused)?;
                    view(tx, plan, intent.now)
                })
                .await
        }
    })
    .operation::<StressPlanDelete, _, _>(move |request: Request<StressPlanDelete>| {
        let context = delete.clone();
        async move {
            let id = request.path.get("plan").to_owned();
            context
                .change(&request, id.clone(), move |tx, intent| {
                    stress_plan::delete(tx, intent, &id)?;
                    Ok(DONE)
                })
                .await
        }
    })
}

fn view(tx: &mut Tx<'_>, plan: StressPlan, now: Timestamp) -> Result<StressPlanView, Refusal> {
    Ok(StressPlanView {
        super_node_name: query::names(tx)?.super_node(&plan.super_node),
        upcoming: stress_plan::upcoming(&plan, now),
        plan,
    })
}
