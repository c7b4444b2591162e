//! Environments.

use std::time::Duration;

use supernode_api::environment::{
    EnvironmentDetail, EnvironmentHistory, EnvironmentMember, EnvironmentRevision, EnvironmentSet,
    EnvironmentShow,
};
use supernode_api::super_node::DEFAULT_DEADLINE_SECONDS;
use supernode_control::query::EnvironmentRecord;
use supernode_control::{environment, query};

use super::Context;
use super::context::whole;
use super::operation;
use crate::{Edge, Request};

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (show, history, set) = (context.clone(), context.clone(), context.clone());
    edge.operation::<EnvironmentShow, _, _>(move |request: Request<EnvironmentShow>| {
        let context = show.clone();
        async move {
            let (name, wanted) = (
                request.path.get("super_node").to_owned(),
                request.query.revision,
            );
            context
                .read("environment_show", move |tx| {
                    let (super_node, record) = environment::show(tx, &name, wanted)?;
                    let nodes = query::nodes_of(tx, &super_node.id)?;
                    let listed = nodes
                        .into_iter()
                        .filter(|node| node.membership.listed_in(&super_node.id));
                    Ok(EnvironmentDetail {
                        revision: view(record),
                        generation: super_node.environment_generation,
                        members: listed
                            .map(|node| EnvironmentMember {
                                node: node.name,
                                applied_generation: node.environment_applied,
                                problems: node.environment_problems,
                            })
                            .collect(),
                    })
                })
                .await
        }
    })
    .operation::<EnvironmentHistory, _, _>(move |request: Request<EnvironmentHistory>| {
        let context = history.clone();
        async move {
            let name = request.path.get("super_node").to_owned();
            let records = context
                .read("environment_history", move |tx| {
                    environment::history(tx, &name)
                })
                .await?;
            Ok(whole(records.into_iter().map(view).collect()))
        }
    })
    .operation::<EnvironmentSet, _, _>(move |request: Request<EnvironmentSet>| {
        let context = set.clone();
        async move {
            let (name, document) = (
                request.path.get("super_node").to_owned(),
                request.body.clone(),
            );
            // Values can be credentials; the revision itself says who wrote what.
            let audited = serde_json::json!({
                "variables": document.variables.keys().collect::<Vec<_>>(),
                "files": document.files.iter().map(|file| &file.path).collect::<Vec<_>>(),
                "sysctls": document.sysctls,
                "required_versions": document.required_versions,
            });
            context
                .change_audited(&request, name.clone(), audited, true, move |tx, intent| {
                    let operation = environment::set(
                        tx,
                        intent,
                        &name,
                        &document,
                        Duration::from_secs(DEFAULT_DEADLINE_SECONDS),
                    )?;
                    operation::view(tx, &operation)
                })
                .await
        }
    })
}

fn view(record: EnvironmentRecord) -> EnvironmentRevision {
    EnvironmentRevision {
        revision: record.revision,
        document: record.document,
        actor: record.actor,
        created_at: record.created_at,
    }
}
