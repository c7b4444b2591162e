//! Retry policies.

use supernode_api::retry_policy::{RetryPolicyDetail, RetryPolicySet, RetryPolicyShow};
use supernode_control::retry_policy::{self, Shown};

use super::Context;
use crate::{Edge, Request};

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (show, set) = (context.clone(), context.clone());
    edge.operation::<RetryPolicyShow, _, _>(move |request: Request<RetryPolicyShow>| {
        let context = show.clone();
        async move {
            let name = request.path.get("super_node").to_owned();
            context
                .read("retry_policy_show", move |tx| {
                    Ok(view(retry_policy::show(tx, &name)?))
                })
                .await
        }
    })
    .operation::<RetryPolicySet, _, _>(move |request: Request<RetryPolicySet>| {
        let context = set.clone();
        async move {
            let (name, policy) = (
                request.path.get("super_node").to_owned(),
                request.body.clone(),
            );
            context
                .change(&request, name.clone(), move |tx, intent| {
                    Ok(view(retry_policy::set(tx, intent, &name, policy.clone())?))
                })
                .await
        }
    })
}

fn view(shown: Shown) -> RetryPolicyDetail {
    let Shown {
        super_node,
        rendering,
        findings,
    } = shown;
    let mut detail = RetryPolicyDetail {
        super_node_name: super_node.name,
        generation: super_node.generation,
        policy: super_node.retry_policy,
        library: None,
        variables: std::collections::BTreeMap::new(),
        times: Vec::new(),
        limits: Vec::new(),
        findings,
    };
    if let Some(rendering) = rendering {
        detail.library = Some(rendering.library);
        detail.variables = rendering.variables;
        detail.times = rendering.times;
        detail.limits = rendering.limits;
    }
    detail
}
