//! Asks the provisioner to grow the device below a node's system disk, and writes down what it said.
//!
//! As with nodes, the call is made outside any transaction and may be lost, repeated or late; what is wanted stands in the node's
//! record, and the operation with the node is the key that makes a repeated call harmless. With `pool` there is nobody to ask: the
//! operator grew the volume, and the agent sees whether it did.

use std::sync::Arc;
use std::time::Duration;

use supernode_store::node::{node_get, node_update};
use supernode_store::operation::operation_list_running;
use supernode_store::spec::spec_find;
use supernode_store::super_node::super_node_get;
use supernode_store::{StoreError, Tx};
use supernode_types::disk::{DeviceGrowth, DiskWork};
use supernode_types::node::Node;
use supernode_types::operation::OperationKind;
use supernode_types::{NodeId, Timestamp};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::runner::CONCURRENT_CALLS;
use super::wish::{MAXIMUM_CALLS, PENDING_PERIOD, back_off};
use super::{
    DiskAnswer, ProvisionAction, ProvisionAnswer, ProvisionRequest, Provisioner, exec, local,
};
use crate::Control;

/// Calls the provisioner for every device that is due, a few at a time, and waits for the answers.
pub(super) async fn run_due(control: &Control) -> Result<(), StoreError> {
    let now = control.clock().now();
    let due = control
        .store()
        .read("grow_disk_due", move |tx| due(tx, now))
        .await?;
    let slots = Arc::new(Semaphore::new(CONCURRENT_CALLS));
    let mut calls = JoinSet::new();
    for (node, request) in due {
        let (control, slots) = (control.clone(), Arc::clone(&slots));
        calls.spawn(async move {
            let _slot = slots.acquire_owned().await;
            run_one(&control, node, request).await
        });
    }
    let mut outcome = Ok(());
    while let Some(done) = calls.join_next().await {
        outcome = outcome.and(done.unwrap_or_else(|error| {
            tracing::error!(%error, "a call to the provisioner for a disk ended in a bug");
            Ok(())
        }));
    }
    outcome
}

/// The nodes whose device is to grow and whose next call is due, with what to ask.
fn due(tx: &mut Tx<'_>, now: Timestamp) -> Result<Vec<(Node, ProvisionRequest)>, StoreError> {
    let mut due = Vec::new();
    for record in operation_list_running(tx)? {
        if !matches!(record.operation.kind, OperationKind::DiskExpand(_)) {
            continue;
        }
        for target in &record.operation.targets {
            let found = match &target.node {
                Some(id) => node_get(tx, id)?,
                None => None,
            };
            let Some(node) = found else {
                continue;
            };
            let request = match &node.disk.work {
                Some(work) if work.operation == record.operation.id && is_due(work, now) => {
                    Some(request(tx, &node, work)?)
                }
                _ => None,
            };
            due.extend(request.map(|request| (node, request)));
        }
    }
    Ok(due)
}

fn is_due(work: &DiskWork, now: Timestamp) -> bool {
    matches!(work.device, DeviceGrowth::Growing { next_call_at, .. } if next_call_at <= now)
}

fn request(tx: &mut Tx<'_>, node: &Node, work: &DiskWork) -> Result<ProvisionRequest, StoreError> {
    let super_node = match node.membership.super_node() {
        Some(id) => super_node_get(tx, id)?,
        None => None,
    };
    let spec = match node.spec.spec() {
        Some(id) => spec_find(tx, id.as_str())?,
        None => None,
    };
    Ok(ProvisionRequest {
        version: 1,
        action: ProvisionAction::GrowDisk,
        request_id: format!("{}-{}", work.operation, node.id),
        node_name: node.name.to_string(),
        super_node: super_node
            .as_ref()
            .map_or_else(String::new, |super_node| super_node.name.to_string()),
        hyperplane: node.position.hyperplane.clone(),
        spec: spec.map_or(
            serde_json::Value::Null,
            |spec| serde_json::json!({ "name": spec.name, "definition": spec.definition }),
        ),
        join: None,
        size_bytes: Some(work.size_bytes),
    })
}

async fn run_one(
    control: &Control,
    node: Node,
    request: ProvisionRequest,
) -> Result<(), StoreError> {
    let answer = call(&control.settings().provisioner, &request).await;
    let now = control.clock().now();
    let (id, asked) = (node.id, node.disk.work);
    control
        .store()
        .write("grow_disk_answer", move |tx| {
            record(tx, &id, asked.as_ref(), &answer, now)
        })
        .await?;
    control.hub().announce_change();
    control.hub().wake_loop();
    Ok(())
}

async fn call(provisioner: &Provisioner, request: &ProvisionRequest) -> DiskAnswer {
    match provisioner {
        Provisioner::Pool => DiskAnswer::Plain(ProvisionAnswer::Done),
        Provisioner::Local { directory } => DiskAnswer::Plain(local::grow_disk(
            directory,
            &request.node_name,
            request.size_bytes.unwrap_or(0),
        )),
        Provisioner::Exec {
            command,
            time_limit,
        } => exec::grow_disk(command, *time_limit, request).await,
    }
}

/// Writes an answer down, unless the wish that it answers is another by now.
fn record(
    tx: &mut Tx<'_>,
    id: &NodeId,
    asked: Option<&DiskWork>,
    answer: &DiskAnswer,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(mut node) = node_get(tx, id)? else {
        return Ok(());
    };
    let Some(work) = node.disk.work.as_mut() else {
        return Ok(());
    };
    let DeviceGrowth::Growing { calls, .. } = work.device else {
        return Ok(());
    };
    if asked.is_none_or(|asked| asked.operation != work.operation) {
        return Ok(());
    }
    let before = work.wish();
    work.device = judge(calls, answer, now);
    if work.wish() != before {
        node.desired_generation += 1;
    }
    node_update(tx, &mut node)
}

fn judge(calls: u32, answer: &DiskAnswer, now: Timestamp) -> DeviceGrowth {
    let again = |calls: u32, message: String, after: Duration| DeviceGrowth::Growing {
        calls,
        next_call_at: now.plus(after),
        message,
    };
    let plain = match answer {
        DiskAnswer::GrownAfterRestart => return DeviceGrowth::Grown { restart: true },
        DiskAnswer::Plain(plain) => plain,
    };
    match plain {
        ProvisionAnswer::Done => DeviceGrowth::Grown { restart: false },
        ProvisionAnswer::Pending(message) => again(
            calls,
            format!("the provisioner is at work: {message}"),
            PENDING_PERIOD,
        ),
        ProvisionAnswer::Retry(reason) if calls + 1 >= MAXIMUM_CALLS => DeviceGrowth::Failed {
            reason: format!("{reason} ({} calls)", calls + 1),
        },
        ProvisionAnswer::Retry(reason) => again(
            calls + 1,
            format!("call {} failed: {reason}", calls + 1),
            back_off(calls + 1),
        ),
        ProvisionAnswer::Refused(reason) => DeviceGrowth::Failed {
            reason: reason.clone(),
        },
    }
}
