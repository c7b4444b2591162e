//! Operations.

use supernode_api::Page;
use supernode_api::operation::{
    OperationCancel, OperationList, OperationListQuery, OperationShow, OperationView,
};
use supernode_control::query::{self, OperationRecord};
use supernode_control::{Refusal, Tx, operation};
use supernode_types::operation::{Operation, Target, TargetState};

use super::Context;
use super::context::{page, page_limit};
use crate::{Edge, Failure, Request};

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (list, show, cancel) = (context.clone(), context.clone(), context.clone());
    edge.operation::<OperationList, _, _>(move |request: Request<OperationList>| {
        let context = list.clone();
        async move { list_operations(&context, request.query).await }
    })
    .operation::<OperationShow, _, _>(move |request: Request<OperationShow>| {
        let context = show.clone();
        async move {
            let id = request.path.get("operation").to_owned();
            let generation = |view: &OperationView| view.operation.generation;
            context
                .watch(request.query, generation, || find(&context, id.clone()))
                .await
        }
    })
    .operation::<OperationCancel, _, _>(move |request: Request<OperationCancel>| {
        let context = cancel.clone();
        async move {
            let id = request.path.get("operation").to_owned();
            context
                .change(&request, id.clone(), move |tx, intent| {
                    let record = operation::cancel(tx, intent, &id)?;
                    view_of(tx, record)
                })
                .await
        }
    })
}

async fn list_operations(
    context: &Context,
    wanted: OperationListQuery,
) -> Result<Page<OperationView>, Failure> {
    let limit = page_limit(wanted.limit)?;
    let views = context
        .read("operation_list", move |tx| {
            let super_node = match &wanted.super_node {
                Some(name) => Some(supernode_control::super_node::find(tx, name)?.id),
                None => None,
            };
            let records = query::operations(
                tx,
                super_node.as_ref(),
                wanted.state.as_deref(),
                wanted.cursor.as_deref(),
                limit + 1,
            )?;
            records
                .into_iter()
                .map(|record| view_of(tx, record))
                .collect::<Result<Vec<_>, _>>()
        })
        .await?;
    Ok(page(views, limit, |view: &OperationView| {
        view.operation.id.to_string()
    }))
}

async fn find(context: &Context, id: String) -> Result<OperationView, Failure> {
    context
        .read("operation_show", move |tx| {
            let record = operation::find(tx, &id)?;
            view_of(tx, record)
        })
        .await
}

/// The view of an operation that was written in this transaction.
pub(super) fn view(tx: &mut Tx<'_>, operation: &Operation) -> Result<OperationView, Refusal> {
    let record = operation::find(tx, operation.id.as_str())?;
    view_of(tx, record)
}

pub(super) fn view_of(tx: &mut Tx<'_>, record: OperationRecord) -> Result<OperationView, Refusal> {
    let names = record
        .operation
        .targets
        .iter()
        .map(|target| target_name(tx, target))
        .collect::<Result<Vec<_>, _>>()?;
    let done = record
        .operation
        .targets
        .iter()
        .filter(|target| target.state == TargetState::Done)
        .count();
    Ok(OperationView {
        super_node_name: record.super_node_name,
        target_names: names,
        targets_done: u32::try_from(done).unwrap_or(u32::MAX),
        operation: record.operation,
    })
}

fn target_name(tx: &mut Tx<'_>, target: &Target) -> Result<Option<String>, Refusal> {
    match (&target.node, &target.provision) {
        (Some(node), _) => Ok(Some(
            supernode_control::node::find(tx, node.as_str())?
                .name
                .to_string(),
        )),
        (None, Some(provision)) => query::provision_node_name(tx, provision),
        (None, None) => Ok(None),
    }
}
