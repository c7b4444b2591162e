//! Specs.

use supernode_api::spec::{
    DEFAULT_MAXIMUM_NODES, SpecDeclare, SpecDelete, SpecList, SpecShow, SpecView,
};
use supernode_control::query::{self, SpecRecord};
use supernode_control::spec::{self, Maximums, Source};
use supernode_control::{Refusal, Tx};
use supernode_types::disk::DEFAULT_MAXIMUM_SYSTEM_DISK_GIB;

use super::Context;
use super::context::{DONE, whole};
use crate::{Edge, Failure, Request};

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (list, show, declare, delete) = (
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
    );
    edge.operation::<SpecList, _, _>(move |_: Request<SpecList>| {
        let context = list.clone();
        async move {
            context
                .read("spec_list", |tx| {
                    let specs = query::specs(tx)?;
                    specs
                        .into_iter()
                        .map(|spec| view(tx, spec))
                        .collect::<Result<Vec<_>, _>>()
                })
                .await
                .map(whole)
        }
    })
    .operation::<SpecShow, _, _>(move |request: Request<SpecShow>| {
        let context = show.clone();
        async move {
            let name = request.path.get("spec").to_owned();
            context
                .read("spec_show", move |tx| {
                    let spec = spec::find(tx, &name)?;
                    view(tx, spec)
                })
                .await
        }
    })
    .operation::<SpecDeclare, _, _>(move |request: Request<SpecDeclare>| {
        let context = declare.clone();
        async move {
            let body = request.body.clone();
            let source = match (body.definition, body.learn_from) {
                (Some(definition), None) => Source::Definition(Box::new(definition)),
                (None, Some(node)) => Source::Node(node),
                _ => {
                    return Err(Failure::invalid_request(
                        "give exactly one of `definition` and `learn_from`",
                    ));
                }
            };
            let name = body.name;
            let maximums = Maximums {
                nodes: body.maximum_nodes.unwrap_or(DEFAULT_MAXIMUM_NODES),
                disk_gib: body
                    .maximum_disk_gib
                    .unwrap_or(DEFAULT_MAXIMUM_SYSTEM_DISK_GIB),
            };
            context
                .change(&request, name.to_string(), move |tx, intent| {
                    let spec = spec::declare(tx, intent, &name, &source, maximums)?;
                    view(tx, spec)
                })
                .await
        }
    })
    .operation::<SpecDelete, _, _>(move |request: Request<SpecDelete>| {
        let context = delete.clone();
        async move {
            let name = request.path.get("spec").to_owned();
            context
                .change(&request, name.clone(), move |tx, intent| {
                    spec::delete(tx, intent, &name).map(|_| DONE)
                })
                .await
        }
    })
}

fn view(tx: &mut Tx<'_>, spec: SpecRecord) -> Result<SpecView, Refusal> {
    let nodes = query::nodes(tx, false)?;
    let matching = nodes
        .iter()
        .filter(|node| node.spec.spec() == Some(&spec.id))
        .count();
    Ok(SpecView {
        id: spec.id,
        name: spec.name,
        definition: spec.definition,
        maximum_nodes: spec.maximum_nodes,
        maximum_disk_gib: spec.maximum_disk_gib,
        matching_nodes: u32::try_from(matching).unwrap_or(u32::MAX),
        generation: spec.generation,
        created_at: spec.created_at,
    })
}
