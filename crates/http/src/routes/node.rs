//! Nodes.

use std::collections::BTreeMap;

use supernode_api::Page;
use supernode_api::node::{
    NodeCordon, NodeDetail, NodeList, NodeListQuery, NodePatch, NodeRemove, NodeShow, NodeUncordon,
    NodeView,
};
use supernode_control::hub::Hub;
use supernode_control::query::Names;
use supernode_control::{Refusal, Tx, node, query};
use supernode_types::node::{Membership, Node};
use supernode_types::{NodeId, Timestamp};

use super::Context;
use super::context::{page, page_limit};
use super::operation;
use crate::{Edge, Failure, Request};

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (list, show, patch, cordon, uncordon, remove) = (
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
    );
    edge.operation::<NodeList, _, _>(move |request: Request<NodeList>| {
        let context = list.clone();
        async move { list_nodes(&context, request.query).await }
    })
    .operation::<NodeShow, _, _>(move |request: Request<NodeShow>| {
        let context = show.clone();
        async move {
            let name = request.path.get("node").to_owned();
            context
                .watch(
                    request.query,
                    |detail: &NodeDetail| detail.view.node.generation,
                    || detail(&context, name.clone()),
                )
                .await
        }
    })
    .operation::<NodePatch, _, _>(move |request: Request<NodePatch>| {
        let context = patch.clone();
        async move {
            let (name, body, hub) = (
                request.path.get("node").to_owned(),
                request.body.clone(),
                context.control.hub().clone(),
            );
            context
                .change(&request, name.clone(), move |tx, intent| {
                    let node = node::update(
                        tx,
                        intent,
                        &name,
                        body.labels.as_ref(),
                        body.position.as_ref(),
                    )?;
                    view(tx, &hub, node)
                })
                .await
        }
    })
    .operation::<NodeCordon, _, _>(move |request: Request<NodeCordon>| {
        let context = cordon.clone();
        async move {
            let (name, reason, hub) = (
                request.path.get("node").to_owned(),
                request.body.reason.clone(),
                context.control.hub().clone(),
            );
            context
                .change(&request, name.clone(), move |tx, intent| {
                    let node = node::cordon(tx, intent, &name, &reason)?;
                    view(tx, &hub, node)
                })
                .await
        }
    })
    .operation::<NodeUncordon, _, _>(move |request: Request<NodeUncordon>| {
        let context = uncordon.clone();
        async move {
            let (name, hub) = (
                request.path.get("node").to_owned(),
                context.control.hub().clone(),
            );
            context
                .change(&request, name.clone(), move |tx, intent| {
                    let node = node::uncordon(tx, intent, &name)?;
                    view(tx, &hub, node)
                })
                .await
        }
    })
    .operation::<NodeRemove, _, _>(move |request: Request<NodeRemove>| {
        let context = remove.clone();
        async move {
            let name = request.path.get("node").to_owned();
            context
                .change(&request, name.clone(), move |tx, intent| {
                    let operation = node::remove(tx, intent, &name)?;
                    operation::view(tx, &operation)
                })
                .await
        }
    })
}

async fn list_nodes(context: &Context, wanted: NodeListQuery) -> Result<Page<NodeView>, Failure> {
    let limit = page_limit(wanted.limit)?;
    let hub = context.control.hub().clone();
    let views = context
        .read("node_list", move |tx| {
            let mut shared = Shared::load(tx)?;
            let nodes = query::nodes(tx, wanted.policy.as_deref() == Some("removed"))?;
            let keep = |node: &Node| matches(&wanted, node, &shared.names);
            let kept: Vec<Node> = nodes
                .into_iter()
                .filter(keep)
                .take(usize::try_from(limit).unwrap_or(usize::MAX) + 1)
                .collect();
            Ok(kept
                .into_iter()
                .map(|node| shared.view(&hub, node))
                .collect())
        })
        .await?;
    Ok(page(views, limit, |view: &NodeView| {
        view.node.name.to_string()
    }))
}

fn matches(wanted: &NodeListQuery, node: &Node, names: &Names) -> bool {
    let of_super_node = |wanted: &str| match node.membership.super_node() {
        None => wanted == "-",
        Some(id) => {
            id.as_str() == wanted
                || names
                    .super_nodes
                    .get(id)
                    .is_some_and(|name| name.as_str() == wanted)
        }
    };
    let labelled = |label: &str| match label.split_once('=') {
        Some((key, value)) => node.labels.get(key).is_some_and(|found| found == value),
        None => node.labels.contains_key(label),
    };
    wanted.super_node.as_deref().is_none_or(of_super_node)
        && wanted
            .policy
            .as_deref()
            .is_none_or(|policy| policy == node.policy.word())
        && wanted
            .condition
            .as_deref()
            .is_none_or(|condition| condition == node.condition.word())
        && wanted.label.as_deref().is_none_or(labelled)
        && wanted
            .cursor
            .as_deref()
            .is_none_or(|cursor| node.name.as_str() > cursor)
}

async fn detail(context: &Context, name: String) -> Result<NodeDetail, Failure> {
    let hub = context.control.hub().clone();
    context
        .read("node_show", move |tx| {
            let node = node::find(tx, &name)?;
            let (inventory, leases) = query::node_detail(tx, &node.id)?;
            Ok(NodeDetail {
                view: view(tx, &hub, node)?,
                inventory,
                leases,
            })
        })
        .await
}

/// What the views of several nodes share.
struct Shared {
    names: Names,
    leased: BTreeMap<NodeId, u32>,
    certificates: BTreeMap<NodeId, Timestamp>,
}

impl Shared {
    fn load(tx: &mut Tx<'_>) -> Result<Self, Refusal> {
        Ok(Self {
            names: query::names(tx)?,
            leased: query::leased_devices(tx)?,
            certificates: query::certificate_ends(tx)?,
        })
    }

    fn view(&mut self, hub: &Hub, node: Node) -> NodeView {
        let super_node = match &node.membership {
            Membership::Spare => None,
            other => other.super_node(),
        };
        NodeView {
            super_node_name: super_node
                .and_then(|id| self.names.super_nodes.get(id))
                .cloned(),
            spec_name: node
                .spec
                .spec()
                .and_then(|id| self.names.specs.get(id))
                .cloned(),
            leased_devices: self.leased.get(&node.id).copied().unwrap_or(0),
            last_contact_at: hub.last_heard(&node.id),
            certificate_ends_at: self.certificates.get(&node.id).copied(),
            node,
        }
    }
}

pub(super) fn view(tx: &mut Tx<'_>, hub: &Hub, node: Node) -> Result<NodeView, Refusal> {
    Ok(Shared::load(tx)?.view(hub, node))
}
