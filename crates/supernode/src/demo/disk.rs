//! A step of the story: the disk of a busy member grows. Where this machine lets nodes have no disk of their own (no root, no loop
//! devices), the step shows what is true then: the plan is refused, and says why.

use anyhow::{bail, ensure};
use supernode_api::disk::{DiskExpand, DiskExpandRequest, DiskPlan};
use supernode_api::{ErrorCode, Nothing};
use supernode_client::{CallOptions, ClientError};
use supernode_types::disk::{GIB, size_words};
use supernode_types::operation::OperationState;
use tokio::time::Instant;

use super::stage::{Stage, saw};
use crate::dev::call;

/// What every node begins with where it has a disk of its own.
pub(crate) const NODE_DISK_GIB: u64 = 1;

/// Grows the disk of `node`; says whether that was possible here.
pub(crate) async fn expand(stage: &mut Stage, node: &str) -> anyhow::Result<()> {
    stage.step(&format!(
        "grow the disk of {node} while the program runs on it: disk expand --node {node} --size 2GiB --wait"
    ));
    let begun = Instant::now();
    let request = DiskExpandRequest {
        nodes: vec![node.to_owned()],
        size_bytes: 2 * NODE_DISK_GIB * GIB,
        ..DiskExpandRequest::default()
    };
    let planned = stage
        .client()?
        .call::<DiskPlan>(&[], &Nothing {}, &request, &CallOptions::default())
        .await;
    match planned {
        Ok(_) => {}
        Err(ClientError::Api(error)) if error.code == ErrorCode::DiskLayout => {
            if let Some(why) = stage.no_node_disks() {
                saw(
                    begun,
                    &format!("this machine gives nodes no disk of their own: {why}"),
                );
            }
            saw(begun, &format!("so the plan is refused: {}", error.message));
            return Ok(());
        }
        Err(error) => bail!("another error than expected: {error}"),
    }
    let view = call::<DiskExpand>(stage.client()?, &[], &request).await?;
    let ended = stage.ended(view).await?;
    ensure!(
        ended.operation.state == OperationState::Succeeded,
        "the expansion ended as {:?}",
        ended.operation.state
    );
    for step in &ended.operation.targets[0].steps {
        if let (Some(before), Some(after)) = (step.before_bytes, step.after_bytes) {
            ensure!(after > before, "the {} did not grow", step.layer);
            let (before, after) = (size_words(before), size_words(after));
            saw(
                begun,
                &format!("{}: {before} -> {after} ({})", step.layer, step.subject),
            );
        }
    }
    Ok(())
}
