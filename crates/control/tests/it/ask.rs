//! What people ask of the server, and what they see of it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use supernode_control::scale_up::Selection;
use supernode_control::spec::Source;
use supernode_control::super_node::Create;
use supernode_control::{
    ChangeRequest, IdempotencyKey, Intent, Refusal, StoreError, Tx, job, node, operation, query,
    scale_down, scale_up, spec, super_node,
};
use supernode_types::event::{Event, Severity};
use supernode_types::job::{Job, JobSpec, JobState, Rank};
use supernode_types::node::{Membership, Node};
use supernode_types::operation::Operation;
use supernode_types::super_node::{DrainMode, SuperNode};
use supernode_types::{JobId, OperationId};

use crate::world::{DEADLINE, World, name};

pub(crate) fn request(action: &'static str) -> ChangeRequest {
    ChangeRequest {
        action,
        subject: "subject".into(),
        audited: serde_json::json!({ "asked": action }),
        request_id: "request-1".into(),
        actor: "ada".into(),
        operator: true,
        admin: true,
        if_match: None,
        idempotency: None,
    }
}

/// With an idempotency key and the digest of the request.
pub(crate) fn keyed(action: &'static str, key: &str, digest: &str) -> ChangeRequest {
    ChangeRequest {
        idempotency: Some(IdempotencyKey {
            key: key.into(),
            digest: digest.into(),
        }),
        ..request(action)
    }
}

pub(crate) fn job_spec(nodes: u32) -> JobSpec {
    JobSpec {
        nodes,
        devices: None,
        arguments: vec!["/bin/train".into()],
        environment: BTreeMap::new(),
        workdir: None,
        priority: 0,
        time_limit_seconds: None,
        requeue_limit: 0,
        grace_seconds: 10,
        run_as_root: false,
    }
}

impl World {
    /// A change as the admin `ada`.
    pub(crate) fn change<T, F>(&self, action: &'static str, change: F) -> Result<T, Refusal>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut Tx<'_>, &Intent) -> Result<T, Refusal> + Send + 'static,
    {
        self.change_as(request(action), change)
    }

    pub(crate) fn change_as<T, F>(&self, request: ChangeRequest, change: F) -> Result<T, Refusal>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut Tx<'_>, &Intent) -> Result<T, Refusal> + Send + 'static,
    {
        self.control.change_inline(request, change)
    }

    pub(crate) fn read<T, F>(&self, read: F) -> T
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        let answer = self.control.store().read_inline("test", read);
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn write<T, F>(&self, write: F) -> T
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let answer = self.control.store().write_inline("test", write);
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Declares what a node has as a spec of at most 48 nodes.
    pub(crate) fn declare(&self, spec_name: &str, node: &str) {
        let (spec_name, source) = (name(spec_name), Source::Node(node.into()));
        self.change("spec_create", move |tx, intent| {
            spec::declare(tx, intent, &spec_name, &source, 48).map(drop)
        })
        .expect("declared");
    }

    pub(crate) fn create(
        &self,
        super_node: &str,
        selection: Selection,
    ) -> Result<Operation, Refusal> {
        let wish = Create {
            name: name(super_node),
            spec: None,
            selection,
            labels: BTreeMap::new(),
            deadline: DEADLINE,
        };
        self.change("super_node_create", move |tx, intent| {
            super_node::create(tx, intent, &wish)
        })
    }

    /// A ready super node of `count` nodes.
    pub(crate) fn created(&mut self, super_node: &str, count: u32) {
        let operation = self
            .create(super_node, Selection::Count(count))
            .expect("accepted");
        self.settle();
        assert_eq!(self.operation(&operation.id).state.word(), "succeeded");
    }

    pub(crate) fn scale_up(
        &self,
        super_node: &str,
        selection: Selection,
    ) -> Result<Operation, Refusal> {
        self.scale_up_as(request("super_node_scale_up"), super_node, selection)
    }

    pub(crate) fn scale_up_as(
        &self,
        request: ChangeRequest,
        super_node: &str,
        selection: Selection,
    ) -> Result<Operation, Refusal> {
        let super_node = super_node.to_owned();
        self.change_as(request, move |tx, intent| {
            scale_up::scale_up(tx, intent, &super_node, &selection, DEADLINE)
        })
    }

    pub(crate) fn scale_down(
        &self,
        super_node: &str,
        selection: Selection,
        mode: DrainMode,
    ) -> Result<Operation, Refusal> {
        let super_node = super_node.to_owned();
        self.change("super_node_scale_down", move |tx, intent| {
            scale_down::scale_down(tx, intent, &super_node, &selection, mode, DEADLINE)
        })
    }

    pub(crate) fn delete(&self, super_node: &str) -> Result<Operation, Refusal> {
        let super_node = super_node.to_owned();
        self.change("super_node_delete", move |tx, intent| {
            super_node::delete(tx, intent, &super_node, DEADLINE)
        })
    }

    pub(crate) fn cancel(&self, operation: &OperationId) -> Result<(), Refusal> {
        let id = operation.to_string();
        self.change("operation_cancel", move |tx, intent| {
            operation::cancel(tx, intent, &id).map(drop)
        })
    }

    pub(crate) fn cordon(&self, node: &str, reason: &str) -> Result<Node, Refusal> {
        let (node, reason) = (node.to_owned(), reason.to_owned());
        self.change("node_cordon", move |tx, intent| {
            node::cordon(tx, intent, &node, &reason)
        })
    }

    pub(crate) fn remove(&self, node: &str) -> Result<Operation, Refusal> {
        let node = node.to_owned();
        self.change("node_remove", move |tx, intent| {
            node::remove(tx, intent, &node)
        })
    }

    pub(crate) fn submit(&self, super_node: &str, spec: JobSpec) -> Result<Job, Refusal> {
        self.submit_as(request("job_submit"), super_node, spec)
    }

    pub(crate) fn submit_as(
        &self,
        request: ChangeRequest,
        super_node: &str,
        spec: JobSpec,
    ) -> Result<Job, Refusal> {
        let super_node = super_node.to_owned();
        self.change_as(request, move |tx, intent| {
            job::submit(tx, intent, &super_node, None, &spec).map(|(job, _)| job)
        })
    }

    /// A job whose ranks all run.
    pub(crate) fn running(&mut self, super_node: &str, spec: JobSpec) -> JobId {
        let job = self.submit(super_node, spec).expect("accepted").id;
        self.settle();
        assert_eq!(self.job(&job).state.word(), "running");
        job
    }

    pub(crate) fn cancel_job(&self, job: &JobId) -> Result<Job, Refusal> {
        let id = job.to_string();
        self.change("job_cancel", move |tx, intent| job::cancel(tx, intent, &id))
    }

    pub(crate) fn node(&self, name: &str) -> Node {
        let name = name.to_owned();
        self.read(move |tx| node::find(tx, &name))
    }

    pub(crate) fn nodes(&self) -> Vec<Node> {
        self.read(|tx| query::nodes(tx, false))
    }

    pub(crate) fn super_node(&self, name: &str) -> SuperNode {
        let name = name.to_owned();
        self.read(move |tx| super_node::find(tx, &name))
    }

    /// The names of its full members.
    pub(crate) fn members(&self, super_node: &str) -> Vec<String> {
        let id = self.super_node(super_node).id;
        let nodes = self.read(move |tx| query::nodes_of(tx, &id));
        let full = nodes
            .iter()
            .filter(|node| matches!(node.membership, Membership::Member { .. }));
        full.map(|node| node.name.to_string()).collect()
    }

    pub(crate) fn spares(&self) -> Vec<String> {
        let nodes = self.nodes();
        let spares = nodes
            .iter()
            .filter(|node| node.membership == Membership::Spare);
        spares.map(|node| node.name.to_string()).collect()
    }

    pub(crate) fn operation(&self, id: &OperationId) -> Operation {
        let id = id.to_string();
        self.read(move |tx| operation::find(tx, &id)).operation
    }

    pub(crate) fn job(&self, id: &JobId) -> Job {
        let id = id.to_string();
        self.read(move |tx| job::find(tx, &id))
    }

    pub(crate) fn ranks(&self, job: &JobId) -> Vec<Rank> {
        let job = self.job(job);
        self.read(move |tx| query::ranks_of(tx, &job))
    }

    /// How many devices jobs hold.
    pub(crate) fn leased(&self) -> u32 {
        self.read(query::leased_devices).values().sum()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.read(|tx| query::events(tx, Some(0), None, Severity::Info, 1000))
    }

    /// How often something happened.
    pub(crate) fn event_count(&self, kind: &str) -> usize {
        self.events()
            .iter()
            .filter(|event| event.kind == kind)
            .count()
    }

    /// Whether a job is queued, and what for.
    pub(crate) fn queue_reason(&self, job: &JobId) -> String {
        match self.job(job).state {
            JobState::Queued { reason } => reason,
            other => panic!("{job} is {}", other.word()),
        }
    }
}
