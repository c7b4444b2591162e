//! What the core asks to be done.

use std::sync::Arc;
use std::time::Duration;

use supernode_api::agent::Sync;
use supernode_types::agent::RankLaunch;
use supernode_types::disk::DiskWish;
use supernode_types::environment::EnvironmentDesired;
use supernode_types::stress::StressWish;
use supernode_types::{JobId, OperationId};

use crate::ledger::{Ledger, RankKey};

/// One thing to do. Effects may be done at the same time: whatever has to wait for another is not asked for before the core was told
/// that the other is done. Two things keep their order: effects on the same rank, and what is sent.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "an effect lives for a moment, and there are a few at a time"
)]
pub enum Effect {
    /// Store the ledger so that it survives a loss of power; answer with `on_ledger_stored` or `on_ledger_failed`. There is at most
    /// one under way.
    StoreLedger {
        /// To be named in the answer.
        version: u64,
        /// What to store.
        ledger: Box<Ledger>,
    },
    /// Ranks may run until the monotonic clock shows this; answer with `on_lease_written` when every supervisor can see it. A later
    /// one replaces an earlier one that was not written yet.
    ExtendLease {
        /// The moment.
        deadline: Duration,
    },
    /// Start a rank; answer with `on_rank_observed`. Repeated only by an agent that was started anew and did not find it running.
    LaunchRank {
        /// Which one.
        key: RankKey,
        /// Of which job.
        job: JobId,
        /// What to start.
        launch: Box<RankLaunch>,
        /// The deadline of the lease under which this was decided, on the monotonic clock. What has not started by then must not, even if
        /// there is another lease: the device may have been given away in between.
        granted: Duration,
    },
    /// Signal a rank, and kill it after the grace. May be repeated. Answer with `on_rank_observed` when it has ended; a rank that was
    /// never started must never start from now on, and has ended as stopped.
    StopRank {
        /// Which one.
        key: RankKey,
        /// Between the signal and the kill.
        grace: Duration,
        /// One line for the record.
        why: String,
    },
    /// Make the node so; answer with `on_environment_done`. Of the three environment effects one is under way at a time.
    ApplyEnvironment {
        /// What to have.
        desired: Arc<EnvironmentDesired>,
    },
    /// Look how each item stands and change nothing; answer with `on_environment_done`.
    VerifyEnvironment {
        /// What should be there.
        desired: Arc<EnvironmentDesired>,
    },
    /// Take back all that was put on the node; answer with `on_environment_done`.
    CleanEnvironment,
    /// Grow the system disk; answer with `on_disk_reported` as often as something changes, then with `on_disk_ended`. There is at most
    /// one under way. Repeated by an agent that was started anew.
    ExpandDisk {
        /// What to have.
        wish: Box<DiskWish>,
    },
    /// Restart the machine; answer with `on_not_restarted` if it goes on.
    RestartMachine {
        /// On whose behalf.
        operation: OperationId,
    },
    /// Test the node; answer with `on_stress_reported` as often as something changes. There is at most one under way.
    RunStress {
        /// What to test.
        wish: Box<StressWish>,
    },
    /// End the test that is under way before its end; its last report says so.
    StopStress {
        /// Why.
        why: String,
    },
    /// Send this on the present connection.
    Send(Sync),
    /// Drop the connection, which no longer works, and open another. The core counts as disconnected already.
    Reconnect,
    /// Remove the directories of some of these ranks, oldest first, as far as the retention asks for it; answer with
    /// `on_ranks_removed`.
    Prune {
        /// Those that may go.
        archived: Vec<RankKey>,
    },
}
