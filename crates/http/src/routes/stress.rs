//! Stress tests.

use std::collections::BTreeMap;
use std::time::Duration;

use supernode_api::Page;
use supernode_api::stress::{
    DEFAULT_WINDOW_SECONDS, NodeHealthShow, NodeHealthView, NodeRelease, NodeReleaseRequest,
    StressEvidence, StressEvidenceList, StressEvidenceQuery, StressNetworkView, StressPairView,
    StressResultView, StressRunLine, StressRunList, StressRunListQuery, StressRunRequest,
    StressRunShow, StressRunStart, StressRunView,
};
use supernode_control::stress_network;
use supernode_control::stress_run::{self, NamedResult, Wish};
use supernode_control::{Refusal, Tx, node};
use supernode_types::stress::{Share, StressPair};
use supernode_types::{Name, NodeId, Timestamp};

use super::Context;
use super::context::{page, page_limit};
use super::operation;
use crate::{Edge, Failure, Request};

/// How many tests of a node are shown with its health.
const SHOWN_RESULTS: u32 = 20;

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (start, list, show, evidence, health, release) = (
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
    );
    edge.operation::<StressRunStart, _, _>(move |request: Request<StressRunStart>| {
        let context = start.clone();
        async move {
            let (wish, subject) = (wish(&request.body), subject(&request.body));
            context
                .change(&request, subject, move |tx, intent| {
                    let operation = stress_run::stress_run(tx, intent, &wish)?;
                    operation::view(tx, &operation)
                })
                .await
        }
    })
    .operation::<StressRunList, _, _>(move |request: Request<StressRunList>| {
        let context = list.clone();
        async move { list_runs(&context, request.query).await }
    })
    .operation::<StressRunShow, _, _>(move |request: Request<StressRunShow>| {
        let context = show.clone();
        async move {
            let id = request.path.get("run").to_owned();
            context
                .read("stress_run_show", move |tx| run_view(tx, &id))
                .await
        }
    })
    .operation::<StressEvidenceList, _, _>(move |request: Request<StressEvidenceList>| {
        let context = evidence.clone();
        async move {
            let run = request.path.get("run").to_owned();
            list_evidence(&context, run, request.query).await
        }
    })
    .operation::<NodeHealthShow, _, _>(move |request: Request<NodeHealthShow>| {
        let context = health.clone();
        async move {
            let (name, now) = (
                request.path.get("node").to_owned(),
                context.control.clock().now(),
            );
            context
                .read("node_health_show", move |tx| health_view(tx, &name, now))
                .await
        }
    })
    .operation::<NodeRelease, _, _>(move |request: Request<NodeRelease>| {
        let context = release.clone();
        async move {
            let (name, body, hub) = (
                request.path.get("node").to_owned(),
                request.body.clone(),
                context.control.hub().clone(),
            );
            context
                .change(&request, name.clone(), move |tx, intent| {
                    let NodeReleaseRequest { reason, repaired } = &body;
                    let node = stress_run::release(tx, intent, &name, reason, *repaired)?;
                    super::node::view(tx, &hub, node)
                })
                .await
        }
    })
}

fn health_view(tx: &mut Tx<'_>, name: &str, now: Timestamp) -> Result<NodeHealthView, Refusal> {
    let node = node::find(tx, name)?;
    let results = stress_run::results_of(tx, &node, SHOWN_RESULTS)?;
    Ok(NodeHealthView {
        explanation: stress_run::explain(&node, &results, now),
        results,
        last_passed: node.stress.last_passed,
        health: node.health,
        node: node.id,
        node_name: node.name,
    })
}

fn wish(body: &StressRunRequest) -> Wish {
    Wish {
        super_node: body.super_node.clone(),
        nodes: body.nodes.clone(),
        items: body.items.clone(),
        tier: body.tier,
        kernel_seconds: body.kernel_seconds,
        max_nodes: body.max_nodes.unwrap_or(Share::ALL),
        window: Duration::from_secs(body.window_seconds.unwrap_or(DEFAULT_WINDOW_SECONDS)),
        notify: body.notify.clone(),
    }
}

/// What the audit log says that it was done to.
fn subject(body: &StressRunRequest) -> String {
    match (&body.super_node, body.nodes.is_empty()) {
        (Some(super_node), true) => super_node.clone(),
        _ => body.nodes.join(","),
    }
}

async fn list_runs(
    context: &Context,
    wanted: StressRunListQuery,
) -> Result<Page<StressRunLine>, Failure> {
    let limit = page_limit(wanted.limit)?;
    let lines = context
        .read("stress_run_list", move |tx| {
            let super_node = match &wanted.super_node {
                Some(name) => Some(supernode_control::super_node::find(tx, name)?.id),
                None => None,
            };
            let cursor = wanted.cursor.as_deref();
            let records = stress_run::list(tx, super_node.as_ref(), cursor, limit + 1)?;
            let mut lines = Vec::with_capacity(records.len());
            for record in records {
                let mut outcomes = BTreeMap::new();
                for named in stress_run::results(tx, &record.operation.id)? {
                    let word = named.result.outcome.word().to_owned();
                    *outcomes.entry(word).or_default() += 1;
                }
                lines.push(StressRunLine {
                    operation: operation::view_of(tx, record)?,
                    outcomes,
                });
            }
            Ok(lines)
        })
        .await?;
    Ok(page(lines, limit, |line: &StressRunLine| {
        line.operation.operation.id.to_string()
    }))
}

fn run_view(tx: &mut Tx<'_>, id: &str) -> Result<StressRunView, Refusal> {
    let record = stress_run::find(tx, id)?;
    let results = stress_run::results(tx, &record.operation.id)?;
    let view = |NamedResult { node_name, result }| StressResultView { node_name, result };
    let network = match stress_network::network(tx, &record.operation.id)? {
        Some((network, pairs)) => Some(StressNetworkView {
            network,
            pairs: pair_views(tx, pairs)?,
        }),
        None => None,
    };
    Ok(StressRunView {
        operation: operation::view_of(tx, record)?,
        results: results.into_iter().map(view).collect(),
        network,
    })
}

/// Pairs with the names of their nodes; each node is looked up once.
fn pair_views(tx: &mut Tx<'_>, pairs: Vec<StressPair>) -> Result<Vec<StressPairView>, Refusal> {
    let mut names: BTreeMap<NodeId, Name> = BTreeMap::new();
    for id in pairs.iter().flat_map(|pair| [&pair.asker, &pair.listener]) {
        if !names.contains_key(id) {
            names.insert(id.clone(), node::find(tx, id.as_str())?.name);
        }
    }
    let view = |pair: StressPair| StressPairView {
        asker_name: names[&pair.asker].clone(),
        listener_name: names[&pair.listener].clone(),
        pair,
    };
    Ok(pairs.into_iter().map(view).collect())
}

/// Page by page of nodes in the order of the run: the measurements of many large nodes are long.
async fn list_evidence(
    context: &Context,
    run: String,
    wanted: StressEvidenceQuery,
) -> Result<Page<StressEvidence>, Failure> {
    let limit = page_limit(wanted.limit)?;
    let items = context
        .read("stress_evidence_list", move |tx| {
            let record = stress_run::find(tx, &run)?;
            let mut results: BTreeMap<_, _> = stress_run::results(tx, &record.operation.id)?
                .into_iter()
                .map(|named| (named.result.node.clone(), named.result))
                .collect();
            let only = match &wanted.node {
                Some(name) => Some(node::find(tx, name)?.id),
                None => None,
            };
            let after: Option<u32> = wanted.cursor.as_deref().and_then(|text| text.parse().ok());
            let targets = record.operation.targets.iter().filter(|target| {
                after.is_none_or(|after| target.slot > after)
                    && only
                        .as_ref()
                        .is_none_or(|only| target.node.as_ref() == Some(only))
            });
            let most = usize::try_from(limit).unwrap_or(usize::MAX);
            let mut items = Vec::new();
            for target in targets.take(most.saturating_add(1)) {
                let Some(id) = &target.node else {
                    continue;
                };
                let node = node::find(tx, id.as_str())?;
                let rounds = stress_run::evidence(tx, &record.operation.id, &node)?;
                let pairs = stress_network::pairs_of(tx, &record.operation.id, &node.id)?;
                let evidence = StressEvidence {
                    result: results.remove(id),
                    node: node.id,
                    node_name: node.name,
                    rounds,
                    pairs: pair_views(tx, pairs)?,
                };
                items.push((target.slot, evidence));
            }
            Ok(items)
        })
        .await?;
    let page = page(items, limit, |(slot, _): &(u32, StressEvidence)| {
        slot.to_string()
    });
    Ok(Page {
        items: page
            .items
            .into_iter()
            .map(|(_, evidence)| evidence)
            .collect(),
        next_cursor: page.next_cursor,
    })
}
