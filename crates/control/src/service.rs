//! The tasks of a running server: the loop, telling agents, provisioner calls, and forgetting what is old.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use supernode_plan::Snapshot;
use supernode_store::certificate::certificate_prune;
use supernode_store::event::event_prune;
use supernode_store::idempotency::idempotency_prune;
use supernode_store::message::message_prune;
use supernode_store::stress::stress_round_prune;
use supernode_store::token::join_token_prune;
use supernode_store::told::told_prune;
use supernode_store::{StoreError, Tx};
use supernode_types::{NodeId, Timestamp};

use crate::channel::LONGEST_REPEAT;
use crate::provisioner::{JoinParameters, Runner, SecretHash};
use crate::round::connected_within;
use crate::{Changed, Control, desired, reconcile};

/// How often the loop looks although nobody woke it: time itself changes what is true (silence, deadlines, time limits).
const PERIOD: Duration = Duration::from_millis(500);
/// A pass holds the writer, so after each one requests and reports have it for twice as long as the pass took, and up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

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

impl LoopMetrics {
    /// `changed` is absent when the pass failed.
    fn note(&self, took: Duration, changed: Option<&Changed>) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.passes.fetch_add(1, Ordering::Relaxed);
        self.busy_microseconds.fetch_add(took, Ordering::Relaxed);
        self.longest_microseconds.fetch_max(took, Ordering::Relaxed);
        let (counter, count) = match changed {
            Some(changed) => (
                &self.actions,
                u64::try_from(changed.actions).unwrap_or(u64::MAX),
            ),
            None => (&self.failures, 1),
        };
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// One pass: plan, apply, commit; then tell the agents what they were not told yet.
pub async fn pass(control: &Control, metrics: &LoopMetrics) -> Result<Changed, StoreError> {
    let begun = control.clock().monotonic();
    let outcome = plan_and_apply(control).await;
    let took = control.clock().monotonic().saturating_sub(begun);
    metrics.note(took, outcome.as_ref().ok().map(|(changed, _)| changed));
    let (changed, behind) = outcome?;
    tell_agents(control, &changed, behind).await?;
    if changed.actions > 0 {
        control.hub().announce_change();
    }
    Ok(changed)
}

/// Answers also which nodes had something to do that they were not told yet, because a request or another node's report changed it.
async fn plan_and_apply(control: &Control) -> Result<(Changed, BTreeSet<NodeId>), StoreError> {
    // Not the store: the last handle of it must not be dropped on its own thread.
    let (hub, clock) = (control.hub().clone(), control.shared_clock());
    let entropy = Arc::clone(control.entropy());
    let limits = control.settings().limits();
    let within = connected_within(control.settings().sync_interval);
    let write = move |tx: &mut Tx<'_>| {
        let mut behind = BTreeSet::new();
        let contacts = |snapshot: &Snapshot| {
            let all = snapshot.nodes.values();
            let late = all.filter(|node| hub.behind(&node.id, node.desired_generation));
            behind.extend(late.map(|node| node.id.clone()));
            hub.contacts(snapshot.nodes.keys(), within)
        };
        let changed = reconcile(tx, &limits, clock.now(), &entropy, contacts)?;
        Ok((changed, behind))
    };
    control.store().write("reconcile", write).await
}

/// A node that is not connected is told when it is.
async fn tell_agents(
    control: &Control,
    changed: &Changed,
    mut late: BTreeSet<NodeId>,
) -> Result<(), StoreError> {
    for node in &changed.removed_nodes {
        if let Some(link) = control.hub().link(node) {
            link.close("the node was removed");
        }
    }
    late.extend(changed.nodes.iter().cloned());
    late.retain(|node| control.hub().link(node).is_some());
    if late.is_empty() {
        return Ok(());
    }
    let read = move |tx: &mut Tx<'_>| desired(tx, late.clone());
    let all = control.store().read("desired", read).await?;
    for (node, desired) in all {
        control.hub().tell(&node, desired);
    }
    Ok(())
}

/// Runs the loop until the task is dropped. A pass that fails is logged once and tried again with back-off.
pub async fn run_loop(control: Control, metrics: Arc<LoopMetrics>) {
    let mut failures: u32 = 0;
    loop {
        let begun = control.clock().monotonic();
        let outcome = pass(&control, &metrics).await;
        let took = control.clock().monotonic().saturating_sub(begun);
        match outcome {
            Ok(changed) => {
                failures = 0;
                if changed.unfinished {
                    tracing::error!(
                        actions = changed.actions,
                        "the planner did not come to an end in one pass; going on in the next"
                    );
                }
            }
            Err(error) => {
                failures += 1;
                tracing::error!(%error, failures, "a pass of the loop failed; nothing of it was stored");
                tokio::time::sleep(Duration::from_millis(100) * 2_u32.pow(failures.min(6))).await;
            }
        }
        tokio::time::sleep((took * 2).min(LONGEST_PAUSE)).await;
        let _ = tokio::time::timeout(PERIOD, control.hub().woken()).await;
    }
}

/// Calls provisioners until the task is dropped.
pub async fn run_provisioner(control: Control, join: JoinParameters, make_secret: SecretHash) {
    let mut changes = control.hub().changes();
    let runner = Runner::new(control, join, make_secret);
    loop {
        if let Err(error) = runner.run_due().await {
            tracing::error!(%error, "the provisioner's wishes could not be read or written");
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
        // Not more often than this, whatever happens.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Forgets old events, measurements, keys, certificates and join tokens once a minute.
pub async fn run_housekeeping(control: Control) {
    loop {
        tokio::time::sleep(Duration::from_mins(1)).await;
        if let Err(error) = housekeep(&control).await {
            tracing::error!(%error, "old events and keys could not be removed");
        }
    }
}

/// Forgets what is older than the settings say.
pub async fn housekeep(control: &Control) -> Result<(), StoreError> {
    let now = control.clock().now();
    let ago = |duration: Duration| {
        let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Timestamp(now.0.saturating_sub(microseconds))
    };
    let events = ago(control.settings().event_retention);
    // Nothing is remembered for longer than a channel may ask for.
    let told = ago(LONGEST_REPEAT);
    let evidence = ago(control.settings().evidence_retention);
    let keys = ago(control.settings().idempotency_retention);
    let prune = move |tx: &mut Tx<'_>| {
        event_prune(tx, events)?;
        message_prune(tx, events)?;
        told_prune(tx, told)?;
        stress_round_prune(tx, evidence)?;
        certificate_prune(tx, events)?;
        join_token_prune(tx, events)?;
        idempotency_prune(tx, keys)
    };
    control.store().write("housekeeping", prune).await
}
