//! When to grow the system disk, and when to restart for it.
//!
//! ```text
//!  wish --ExpandDisk--> reports --> Done | Failed | needs a restart --wish with this boot's id, no rank runs--> RestartMachine
//! ```
//! The wish is in the stored ledger before anything is done about it. A new agent does the steps again: they change nothing where
//! they are done. A restart happens only in the boot that the wish names, so never twice, and only on news of this connection.

use supernode_types::OperationId;
use supernode_types::disk::{DiskReport, DiskReportState, DiskUsage, DiskWish};

use super::Effect;

/// The disk's part of the core; what must survive is in the ledger, or on the disk itself.
#[derive(Debug, Clone, Default)]
pub(super) struct DiskCore {
    /// The executor works for this operation.
    running: Option<OperationId>,
    /// The executor has done what it can for this one in this process.
    ended: Option<OperationId>,
    /// A restart was asked for, for this one.
    restarting: Option<OperationId>,
    pub(super) report: Option<DiskReport>,
    /// How full the disk was when it was said last.
    pub(super) usage: Option<DiskUsage>,
}

impl DiskCore {
    /// A wish came, or went.
    pub(super) fn wish(&mut self, wish: Option<&DiskWish>) {
        let operation = wish.map(|wish| &wish.operation);
        if self.report.as_ref().map(|report| &report.operation) != operation {
            self.report = None;
        }
    }

    /// What is due. `may_restart` says that nothing runs here and that the wish is as new as can be.
    pub(super) fn next(
        &mut self,
        wish: Option<&DiskWish>,
        boot_id: &str,
        may_restart: bool,
    ) -> Option<Effect> {
        let wish = wish.filter(|_| self.running.is_none())?;
        if wish.restart.as_deref() == Some(boot_id) {
            let asked = self.restarting.as_ref() == Some(&wish.operation);
            if asked || !may_restart {
                return None;
            }
            self.restarting = Some(wish.operation.clone());
            return Some(Effect::RestartMachine {
                operation: wish.operation.clone(),
            });
        }
        if self.ended.as_ref() == Some(&wish.operation) {
            return None;
        }
        self.running = Some(wish.operation.clone());
        Some(Effect::ExpandDisk {
            wish: Box::new(wish.clone()),
        })
    }

    /// The executor says how it stands; it is no news for a wish that has gone.
    pub(super) fn reported(&mut self, report: DiskReport, wish: Option<&DiskWish>) {
        if wish.is_some_and(|wish| wish.operation == report.operation) {
            self.report = Some(report);
        }
    }

    /// The executor has ended.
    pub(super) fn ended(&mut self, operation: &OperationId) {
        self.running.take_if(|running| running == operation);
        self.ended = Some(operation.clone());
    }

    /// The machine was not restarted.
    pub(super) fn not_restarted(&mut self, operation: &OperationId, why: String) {
        let steps = self
            .report
            .take()
            .map_or_else(Vec::new, |report| report.steps);
        self.report = Some(DiskReport {
            operation: operation.clone(),
            state: DiskReportState::Failed {
                layer: "restart".into(),
                why,
            },
            steps,
        });
    }

    /// How full the disk is now; said again only when it changed by a percent, or when its size did.
    pub(super) fn used(&mut self, usage: DiskUsage) {
        let said = |said: DiskUsage| {
            said.size_bytes == usage.size_bytes && said.percent() == usage.percent()
        };
        if !self.usage.is_some_and(said) {
            self.usage = Some(usage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernode_types::Timestamp;
    use supernode_types::entropy::SeededEntropy;

    fn wish(seed: u64, restart: Option<&str>) -> DiskWish {
        DiskWish {
            operation: OperationId::new(Timestamp(0), &SeededEntropy::new(seed)),
            size_bytes: 1 << 30,
            device_seconds: 1,
            restart: restart.map(str::to_owned),
        }
    }

    fn next(core: &mut DiskCore, wish: &DiskWish, may_restart: bool) -> &'static str {
        match core.next(Some(wish), "boot-1", may_restart) {
            Some(Effect::ExpandDisk { .. }) => "expand",
            Some(Effect::RestartMachine { .. }) => "restart",
            Some(_) => "something else",
            None => "nothing",
        }
    }

    #[test]
    fn each_wish_is_done_once_and_one_at_a_time() {
        let (first, second) = (wish(1, None), wish(2, None));
        let mut core = DiskCore::default();
        assert_eq!(core.next(None, "boot-1", true), None);
        assert_eq!(next(&mut core, &first, true), "expand");
        assert_eq!(next(&mut core, &second, true), "nothing", "the first runs");
        core.ended(&first.operation);
        assert_eq!(next(&mut core, &first, true), "nothing");
        assert_eq!(next(&mut core, &second, true), "expand");
    }

    #[test]
    fn a_restart_ends_the_boot_that_is_named_and_no_other() {
        let mut core = DiskCore::default();
        let this = wish(1, Some("boot-1"));
        assert_eq!(next(&mut core, &this, false), "nothing", "ranks run");
        assert_eq!(next(&mut core, &this, true), "restart");
        assert_eq!(next(&mut core, &this, true), "nothing", "asked for already");
        let mut after = DiskCore::default();
        assert_eq!(next(&mut after, &wish(1, Some("boot-0")), true), "expand");
        core.not_restarted(&this.operation, "no".into());
        let report = core.report.clone().expect("a report");
        assert!(
            matches!(report.state, DiskReportState::Failed { layer, .. } if layer == "restart")
        );
        core.wish(None);
        assert_eq!(core.report, None, "nobody wants to know any more");
    }

    #[test]
    fn fullness_is_said_by_the_percent() {
        let mut core = DiskCore::default();
        let usage = |used_bytes| DiskUsage {
            size_bytes: 1000,
            used_bytes,
        };
        core.used(usage(500));
        core.used(usage(509));
        assert_eq!(core.usage, Some(usage(500)));
        core.used(usage(510));
        assert_eq!(core.usage, Some(usage(510)));
    }
}
