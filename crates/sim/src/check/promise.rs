//! What clients were promised stays so until somebody asks for something else: a cordon, a name, a cancel. And who changed something
//! stands in the audit log, once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use supernode_store::audit::audit_list;
use supernode_types::job::{Job, JobState};
use supernode_types::node::{Cordon, Node, NodePolicy};
use supernode_types::{JobId, NodeId, OperationId, SuperNodeId};

use super::view::View;
use crate::request::Request;
use crate::world::World;

/// More records than any run makes.
const ALL: u32 = 1_000_000;

/// What was promised, by the last accepted request about each thing.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// Who keeps work away from a node, if somebody does.
    cordons: BTreeMap<NodeId, Option<Cordon>>,
    names: BTreeMap<SuperNodeId, String>,
    /// With the number of attempts that they had had.
    cancelled_jobs: BTreeMap<JobId, u32>,
    cancelled_operations: BTreeSet<OperationId>,
}

impl Promises {
    /// Takes an accepted request with its answer.
    pub(crate) fn take(&mut self, request: &Request, answer: &Value) {
        match request {
            Request::Cordon { .. } | Request::Uncordon { .. } => {
                if let Ok(node) = serde_json::from_str::<Node>(&answer.to_string()) {
                    self.cordons.insert(node.id.clone(), cordon(&node.policy));
                }
            }
            Request::Rename { name, .. } => {
                let id = answer["id"].as_str().unwrap_or_default();
                self.names
                    .extend(id.parse().ok().map(|id| (id, name.clone())));
            }
            Request::CancelJob { .. } => {
                if let Ok(job) = serde_json::from_str::<Job>(&answer.to_string()) {
                    self.cancelled_jobs.insert(job.id, job.attempts);
                }
            }
            Request::CancelOperation { operation } => {
                self.cancelled_operations.extend(operation.parse());
            }
            Request::Create { .. }
            | Request::ScaleUp { .. }
            | Request::ScaleDown { .. }
            | Request::Replace { .. }
            | Request::Delete { .. }
            | Request::SetEnvironment { .. }
            | Request::Submit { .. }
            | Request::Remove { .. } => {}
        }
    }

    /// The first promise that is not kept.
    pub(super) fn broken(&self, view: &View) -> Option<String> {
        self.cordons
            .iter()
            .find_map(|(id, promised)| {
                let node = view.nodes.get(id)?;
                let found = cordon(&node.policy);
                (found != *promised && !found.as_ref().is_some_and(by_the_loop)).then(|| {
                    format!(
                        "the last request about {} left it with {promised:?}, and now it has {found:?}",
                        node.name
                    )
                })
            })
            .or_else(|| {
                self.names.iter().find_map(|(id, promised)| {
                    let name = &view.super_nodes.get(id)?.name;
                    (name.as_str() != promised)
                        .then(|| format!("{id} was renamed {promised} and is called {name}"))
                })
            })
            .or_else(|| {
                self.cancelled_jobs.iter().find_map(|(id, attempts)| {
                    let job = view.jobs.get(id)?;
                    let forgotten = job.cancel_requested_by.is_none()
                        || job.attempts > *attempts
                        || matches!(job.state, JobState::Queued { .. });
                    forgotten.then(|| format!("{id} was cancelled and goes on: {job:?}"))
                })
            })
            .or_else(|| {
                self.cancelled_operations.iter().find_map(|id| {
                    let operation = view.operations.get(id)?;
                    (!operation.cancel_requested)
                        .then(|| format!("{id} was cancelled and forgot it: {operation:?}"))
                })
            })
    }
}

/// The cordon of a node, also of one that is drained and returns to it.
fn cordon(policy: &NodePolicy) -> Option<Cordon> {
    match policy {
        NodePolicy::Cordoned(cordon) => Some(cordon.clone()),
        NodePolicy::Draining { cordon, .. } => cordon.clone(),
        NodePolicy::InService | NodePolicy::Removed => None,
    }
}

/// A node that its provisioner still deletes is kept out of work although nobody asked for that.
fn by_the_loop(cordon: &Cordon) -> bool {
    cordon.reason.starts_with("its provisioner deletes it")
}

impl World {
    /// Each accepted request stands in the audit log once, and no refused one does.
    pub(super) fn audited(&self) -> Option<String> {
        let found = self
            .store
            .read_inline("audit", |tx| audit_list(tx, None, None, ALL));
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for entry in found.expect("the store is in memory") {
            *counts.entry(entry.request_id).or_default() += 1;
        }
        self.client.iter().enumerate().find_map(|(number, asked)| {
            let wanted = usize::from(asked.effect.is_some());
            let found = counts.get(&asked.key).copied().unwrap_or(0);
            (found != wanted).then(|| {
                format!("request {number} stands {found} times in the audit log instead of {wanted}: {:?}", asked.request)
            })
        })
    }
}
