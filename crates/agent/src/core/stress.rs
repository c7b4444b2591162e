//! When to test the node, and when to stop.
//!
//! ```text
//!  wish of a new round --stored with it: begun--> due --granted, no rank here--> RunStress --reports--> Ended | Incomplete
//!  wish of a round that was begun by an agent that is no more ---------- quiet for a while ------------> Incomplete
//! ```
//! That a round was begun is stored with the wish, so no round is begun twice: an agent that was killed in the middle says that the
//! round is incomplete. Kernels end with the agent that started them, in a few seconds; until then its successor starts nothing.
//! A test runs under a lease like a rank, and ends when the lease does. Ranks and tests never run at the same time. A try of a pair is a
//! round like any other.

use std::time::Duration;

use supernode_types::stress::{StressKey, StressReport, StressReportState, StressWish};

use super::Effect;
use crate::ledger::Ledger;

/// A kernel without a parent is gone after so long.
const QUIET: Duration = Duration::from_secs(10);

/// The test's part of the core; what must survive is in the ledger.
#[derive(Debug, Clone, Default)]
pub(super) struct StressCore {
    /// Stored as begun by this process, and not started yet.
    due: Option<StressKey>,
    /// The executor tests.
    running: Option<StressKey>,
    stopping: bool,
    /// Kernels of an earlier agent may be ending until then.
    quiet_at: Option<Duration>,
    pub(super) report: Option<StressReport>,
}

/// What a test may do now.
#[derive(Debug, Clone, Copy)]
pub(super) struct May {
    /// There is a lease: what runs may run on, also while the server is away.
    pub(super) go_on: bool,
    /// There is a lease, the wish is as new as can be, and no rank runs here.
    pub(super) begin: bool,
}

impl StressCore {
    /// A wish came, or went. What it begins is noted in the ledger, which is stored before anything is done.
    pub(super) fn wish(&mut self, ledger: &mut Ledger) {
        let key = ledger.stress.as_ref().map(StressWish::key);
        if self.report.as_ref().map(|report| &report.key) != key.as_ref() {
            self.report = None;
        }
        if self.due != key {
            self.due = None;
        }
        if key.is_some() && ledger.stress_begun != key {
            self.due.clone_from(&key);
            ledger.stress_begun = key;
        }
    }

    /// Whether something of a test may be running, so that nothing else may start.
    pub(super) fn busy(&self, ledger: &Ledger, now: Duration) -> bool {
        let earlier = self.earlier(ledger) && self.quiet_at.is_none_or(|quiet| now < quiet);
        self.running.is_some() || earlier
    }

    /// Whether the round in the ledger was begun by an agent that is no more.
    fn earlier(&self, ledger: &Ledger) -> bool {
        let key = ledger.stress.as_ref().map(StressWish::key);
        key.is_some()
            && ledger.stress_begun == key
            && self.due != key
            && self.running != key
            && self.report.is_none()
    }

    /// What is due.
    pub(super) fn next(
        &mut self,
        ledger: &Ledger,
        boot_id: &str,
        may: May,
        now: Duration,
    ) -> Option<Effect> {
        let wish = ledger.stress.as_ref();
        if let Some(running) = &self.running {
            let why = match wish {
                Some(wish) if wish.key() == *running && wish.stop.is_some() => wish.stop.clone(),
                Some(wish) if wish.key() == *running && may.go_on => None,
                Some(wish) if wish.key() == *running => Some("the lease ended".into()),
                _ => Some("the server does not want it any more".into()),
            };
            let why = why.filter(|_| !self.stopping)?;
            self.stopping = true;
            return Some(Effect::StopStress { why });
        }
        let wish = wish?;
        let key = wish.key();
        if self.due.as_ref() == Some(&key) {
            if let Some(why) = &wish.stop {
                self.due = None;
                self.incomplete(key, why.clone());
                return None;
            }
            if wish.boot_id != boot_id || !may.begin {
                return None;
            }
            self.due = None;
            self.running = Some(key);
            self.stopping = false;
            return Some(Effect::RunStress {
                wish: Box::new(wish.clone()),
            });
        }
        if self.earlier(ledger) {
            let quiet = *self.quiet_at.get_or_insert(now + QUIET);
            if now >= quiet {
                self.incomplete(key, "the agent was started anew during the test".into());
            }
        }
        None
    }

    fn incomplete(&mut self, key: StressKey, why: String) {
        let evidence = Vec::new();
        self.report = Some(StressReport {
            key,
            state: StressReportState::Incomplete { why, evidence },
        });
    }

    /// The executor says how it stands; it is no news for a wish that has gone.
    pub(super) fn reported(&mut self, report: StressReport, wish: Option<&StressWish>) {
        let goes_on = matches!(
            report.state,
            StressReportState::Running { .. } | StressReportState::Listening { .. }
        );
        if !goes_on {
            self.running.take_if(|running| *running == report.key);
        }
        if wish.is_some_and(|wish| wish.key() == report.key) {
            self.report = Some(report);
        }
    }

    /// Whether kernels of this process run and were not told to stop.
    pub(super) fn running(&self) -> bool {
        self.running.is_some() && !self.stopping
    }

    /// When to look again although nothing happened.
    pub(super) fn wake(&self) -> Option<Duration> {
        self.quiet_at.filter(|_| self.report.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernode_types::entropy::SeededEntropy;
    use supernode_types::job::GroupKey;
    use supernode_types::stress::{Item, PairSide, PairWish, Tier};
    use supernode_types::{OperationId, Timestamp};

    const NOW: Duration = Duration::from_secs(100);

    fn wish(round: u32) -> StressWish {
        StressWish {
            operation: OperationId::new(Timestamp(0), &SeededEntropy::new(1)),
            boot_id: "boot".into(),
            round,
            pair: None,
            tier: Tier::Quick,
            items: vec![Item::Compute],
            kernel_seconds: None,
            stop: None,
        }
    }

    fn told(core: &mut StressCore, ledger: &mut Ledger, wish: Option<StressWish>) {
        ledger.stress = wish;
        core.wish(ledger);
    }

    const ALL: May = May {
        go_on: true,
        begin: true,
    };
    const GO_ON: May = May {
        begin: false,
        ..ALL
    };
    const NOTHING: May = May {
        go_on: false,
        begin: false,
    };

    fn next(core: &mut StressCore, ledger: &Ledger, may: May) -> &'static str {
        match core.next(ledger, "boot", may, NOW) {
            Some(Effect::RunStress { .. }) => "run",
            Some(Effect::StopStress { .. }) => "stop",
            Some(_) => "something else",
            None => "nothing",
        }
    }

    fn ended(key: StressKey) -> StressReport {
        let evidence = Vec::new();
        StressReport {
            key,
            state: StressReportState::Ended { evidence },
        }
    }

    #[test]
    fn each_round_is_begun_once_under_a_lease_and_beside_no_rank() {
        let (mut core, mut ledger) = (StressCore::default(), Ledger::default());
        told(&mut core, &mut ledger, Some(wish(1)));
        assert_eq!(next(&mut core, &ledger, NOTHING), "nothing");
        assert_eq!(next(&mut core, &ledger, GO_ON), "nothing");
        assert_eq!(next(&mut core, &ledger, ALL), "run");
        assert!(core.busy(&ledger, NOW));
        assert_eq!(
            next(&mut core, &ledger, GO_ON),
            "nothing",
            "the server is away"
        );
        core.reported(ended(wish(1).key()), ledger.stress.as_ref());
        assert!(!core.busy(&ledger, NOW));
        told(&mut core, &mut ledger, Some(wish(1)));
        assert_eq!(next(&mut core, &ledger, ALL), "nothing");
        told(&mut core, &mut ledger, Some(wish(2)));
        assert_eq!(core.report, None, "of the first round");
        assert_eq!(next(&mut core, &ledger, ALL), "run");
    }

    #[test]
    fn it_stops_when_told_when_the_lease_ends_and_when_nobody_wants_it() {
        let stopped = StressWish {
            stop: Some("cancelled".into()),
            ..wish(1)
        };
        for (then, may) in [(Some(stopped), ALL), (Some(wish(1)), NOTHING), (None, ALL)] {
            let (mut core, mut ledger) = (StressCore::default(), Ledger::default());
            told(&mut core, &mut ledger, Some(wish(1)));
            assert_eq!(next(&mut core, &ledger, ALL), "run");
            told(&mut core, &mut ledger, then);
            assert_eq!(next(&mut core, &ledger, may), "stop");
            assert_eq!(next(&mut core, &ledger, may), "nothing", "once");
            assert!(core.busy(&ledger, NOW), "until the executor says so");
        }
    }

    #[test]
    fn an_agent_that_was_killed_says_incomplete_when_its_kernels_are_gone() {
        let (mut core, mut ledger) = (StressCore::default(), Ledger::default());
        told(&mut core, &mut ledger, Some(wish(1)));
        let mut core = StressCore::default();
        assert!(core.busy(&ledger, NOW), "a kernel may be ending");
        told(&mut core, &mut ledger, Some(wish(1)));
        assert_eq!(next(&mut core, &ledger, ALL), "nothing");
        assert_eq!(
            (core.report.clone(), core.wake()),
            (None, Some(NOW + QUIET))
        );
        assert_eq!(core.next(&ledger, "boot", ALL, NOW + QUIET), None);
        let report = core.report.clone().expect("a report");
        assert!(matches!(report.state, StressReportState::Incomplete { .. }));
        assert!(!core.busy(&ledger, NOW + QUIET));
    }

    #[test]
    fn a_pair_is_a_round_of_its_own_and_goes_on_while_it_listens() {
        let entropy = SeededEntropy::new(2);
        let pair = |number| StressWish {
            pair: Some(PairWish {
                number,
                key: GroupKey::new(&entropy),
                side: PairSide::Listen {
                    address: "10.0.0.1".into(),
                },
            }),
            ..wish(1)
        };
        let (mut core, mut ledger) = (StressCore::default(), Ledger::default());
        told(&mut core, &mut ledger, Some(wish(1)));
        assert_eq!(next(&mut core, &ledger, ALL), "run");
        core.reported(ended(wish(1).key()), ledger.stress.as_ref());
        let first = pair(1);
        told(&mut core, &mut ledger, Some(first.clone()));
        assert_eq!(next(&mut core, &ledger, ALL), "run", "another round 1");
        let state = StressReportState::Listening { port: 7 };
        let key = first.key();
        core.reported(StressReport { key, state }, ledger.stress.as_ref());
        assert!(core.busy(&ledger, NOW) && core.report.is_some());
        told(&mut core, &mut ledger, Some(pair(2)));
        assert_eq!(next(&mut core, &ledger, ALL), "stop", "the partner is done");
        assert_eq!(next(&mut core, &ledger, ALL), "nothing", "until it is over");
        core.reported(ended(first.key()), ledger.stress.as_ref());
        assert_eq!(core.report, None, "what nobody asks for is no news");
        assert_eq!(next(&mut core, &ledger, ALL), "run");
    }

    #[test]
    fn another_boot_begins_nothing_and_a_stop_before_the_begin_is_incomplete() {
        let (mut core, mut ledger) = (StressCore::default(), Ledger::default());
        let other = StressWish {
            boot_id: "another".into(),
            ..wish(1)
        };
        told(&mut core, &mut ledger, Some(other));
        assert_eq!(next(&mut core, &ledger, ALL), "nothing");
        let stopped = StressWish {
            stop: Some("cancelled".into()),
            ..wish(2)
        };
        told(&mut core, &mut ledger, Some(stopped));
        assert_eq!(next(&mut core, &ledger, ALL), "nothing");
        assert!(core.report.is_some());
    }
}
