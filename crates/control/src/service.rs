//! The tasks of a running server: the loop, telling agents, provisioner calls, and forgetting what is old.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use supernode_plan::Snapshot;
use supernode_store::certificate::certificate_prune;
use supernode_store::event::event_prune;
use supernode_store::idempotency::idempotency_prune;
use supernode_store::StoreError;

use crate::provisioner::{JoinParameters, SecretHash, run_due};
use crate::round::connected_within;
use crate::{Changed, Control, desired, reconcile};

/// How often the loop looks although nobody woke it: time itself changes what is true (silence, deadlines, time limits).
const PERIOD: Duration = Duration::from_millis(500);

/// Numbers about the loop.
#[derive(Debug, Default)]
pub struct LoopMetrics {
    /// Passes.
    pub passes: AtomicU64,
    /// Passes that failed.
    pub failures: AtomicU64,
    /// Actions that were applied.
    pub actions: AtomicU64,
    /// Microseconds that passes took, in all.
    pub busy_microseconds: AtomicU64,
    /// Microseconds that the longest pass took.
    pub longest_microseconds: AtomicU64,
}

/// One pass: plan, apply, commit; then tell the agents whose desired state changed.
pub async fn pass(control: &Control, metrics: &LoopMetrics) -> Result<Changed, StoreError> {
    let begun = control.clock().monotonic();
    let worker = control.clone();
    let limits = control.settings().limits();
    let within = connected_within(control.settings().sync_interval);
    let changed = control
        .store()
        .write("reconcile", move |tx| {
            let contacts = |snapshot: &Snapshot| worker.hub().contacts(snapshot.nodes.keys(), within);
            reconcile(tx, &limits, worker.clock().now(), worker.entropy(), contacts)
        })
        .await;
    let took = u64::try_from(control.clock().monotonic().saturating_sub(begun).as_micros()).unwrap_or(u64::MAX);
    metrics.passes.fetch_add(1, Ordering::Relaxed);
    metrics.busy_microseconds.fetch_add(took, Ordering::Relaxed);
    metrics.longest_microseconds.fetch_max(took, Ordering::Relaxed);
    let changed = changed.inspect_err(|_| {
        metrics.failures.fetch_add(1, Ordering::Relaxed);
    })?;
    metrics.actions.fetch_add(u64::try_from(changed.actions).unwrap_or(u64::MAX), Ordering::Relaxed);
    tell_agents(control, &changed).await?;
    if changed.actions > 0 {
        control.hub().announce_change();
    }
    Ok(changed)
}

/// A node that is not connected is told when it is.
async fn tell_agents(control: &Control, changed: &Changed) -> Result<(), StoreError> {
    for node in &changed.removed_nodes {
        if let Some(link) = control.hub().link(node) {
            link.close("the node was removed");
        }
    }
    let linked: Vec<_> = changed.nodes.iter().filter(|node| control.hub().link(node).is_some()).cloned().collect();
    if linked.is_empty() {
        return Ok(());
    }
    let all = control.store().read("desired", move |tx| desired(tx, linked.clone())).await?;
    for (node, desired) in all {
        if let Some(link) = control.hub().link(&node) {
            link.desired(Box::new(desired));
        }
    }
    Ok(())
}

/// Runs the loop until the task is dropped. A pass that fails is logged once and tried again with back-off.
pub async fn run_loop(control: Control, metrics: Arc<LoopMetrics>) {
    let mut failures: u32 = 0;
    loop {
        match pass(&control, &metrics).await {
            Ok(changed) => {
                failures = 0;
                if changed.unfinished {
                    tracing::error!(actions = changed.actions, "the planner did not come to an end in one pass; going on in the next");
                }
            }
            Err(error) => {
                failures += 1;
                tracing::error!(%error, failures, "a pass of the loop failed; nothing of it was stored");
                tokio::time::sleep(Duration::from_millis(100) * 2_u32.pow(failures.min(6))).await;
            }
        }
        let _ = tokio::time::timeout(PERIOD, control.hub().woken()).await;
    }
}

/// Calls provisioners until the task is dropped.
pub async fn run_provisioner(control: Control, join: JoinParameters, make_secret: SecretHash) {
    let mut changes = control.hub().changes();
    loop {
        if let Err(error) = run_due(&control, &join, make_secret).await {
            tracing::error!(%error, "the provisioner's wishes could not be read or written");
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
        // Not more often than this, whatever happens.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Forgets old events, keys and certificates once a minute.
pub async fn run_housekeeping(control: Control) {
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let now = control.clock().now();
        let ago = |duration: Duration| supernode_types::Timestamp(now.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)));
        let events = ago(control.settings().event_retention);
        let keys = ago(control.settings().idempotency_retention);
        let done = control
            .store()
            .write("housekeeping", move |tx| {
                event_prune(tx, events)?;
                certificate_prune(tx, events)?;
                idempotency_prune(tx, keys)
            })
            .await;
        if let Err(error) = done {
            tracing::error!(%error, "old events and keys could not be removed");
        }
    }
}
