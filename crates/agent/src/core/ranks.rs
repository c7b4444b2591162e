//! From wishes and records to starts and stops.

use std::collections::BTreeMap;
use std::time::Duration;

use supernode_types::Generation;
use supernode_types::agent::{DesiredRank, ObservedRank, RankWish};
use supernode_types::job::{RankEnd, RankState};

use super::Effect;
use crate::ledger::{Ledger, RankKey, RankRecord};

/// What a rank has that the server does not list: its leases may be about to be given away.
const UNLISTED_GRACE: Duration = Duration::from_secs(1);
/// When a stop is repeated; the executor may have failed, and repeating does no harm.
const STOP_PERIOD: Duration = Duration::from_secs(5);
/// How many forgotten ranks are remembered, so that a server restored from a backup cannot start one again.
const ARCHIVE_LENGTH: usize = 500;
/// The exit code of what was stopped before it began: as if ended by SIGTERM.
const STOPPED_CODE: i32 = 143;

/// What this process knows of a rank that has not ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Live {
    pub(super) running: bool,
    launched: bool,
    /// Grace and time of the last stop.
    stopped: Option<(Duration, Duration)>,
}

/// The key of a wish.
pub(super) fn key(wish: &DesiredRank) -> RankKey {
    RankKey {
        attempt: wish.attempt.clone(),
        rank: wish.rank,
    }
}

/// Takes the wishes of a newer desired state into the records: what is new is to be started, or never will be; what has ended and is
/// not listed any more is forgotten.
pub(super) fn take_wishes(ledger: &mut Ledger, boot_id: &str) {
    let generation = ledger.generation;
    let wishes: BTreeMap<RankKey, &DesiredRank> =
        ledger.wishes.iter().map(|wish| (key(wish), wish)).collect();
    for (key, wish) in &wishes {
        let ended = |end| RankRecord::Ended {
            end,
            last_lines: Vec::new(),
            generation,
        };
        match ledger.ranks.get(key) {
            None if wish.boot_id != boot_id => {
                ledger.ranks.insert(key.clone(), ended(lost_in_restart()));
            }
            None => {
                let record = match wish.wish {
                    RankWish::Run(_) => RankRecord::Launched {
                        boot_id: boot_id.to_owned(),
                    },
                    RankWish::Stop { .. } => ended(RankEnd::Stopped { code: STOPPED_CODE }),
                };
                ledger.ranks.insert(key.clone(), record);
            }
            Some(RankRecord::Archived { end, .. }) => {
                let end = end.clone();
                ledger.ranks.insert(key.clone(), ended(end));
            }
            Some(RankRecord::Launched { .. } | RankRecord::Ended { .. }) => {}
        }
    }
    for (key, record) in &mut ledger.ranks {
        if let RankRecord::Ended {
            end,
            generation: ended_at,
            ..
        } = record
            && generation > *ended_at
            && !wishes.contains_key(key)
        {
            *record = RankRecord::Archived {
                end: end.clone(),
                removed: false,
            };
        }
    }
    forget(ledger);
}

/// Drops the oldest of those that are forgotten and have no directory either.
fn forget(ledger: &mut Ledger) {
    let archived =
        |record: &RankRecord| matches!(record, RankRecord::Archived { removed: true, .. });
    let count = ledger
        .ranks
        .values()
        .filter(|record| archived(record))
        .count();
    let mut surplus = count.saturating_sub(ARCHIVE_LENGTH);
    // Keys sort by the attempt's id, and that by the time at which it was made.
    ledger.ranks.retain(|_, record| {
        let drop = surplus > 0 && archived(record);
        surplus -= usize::from(drop);
        !drop
    });
}

/// What ended with the last boot.
pub(super) fn lost_in_restart() -> RankEnd {
    RankEnd::Lost {
        why: "the node was restarted, and nothing of it runs any more".into(),
    }
}

/// Starts and stops that are due. `granted` is the deadline of the lease under which starts are allowed, if they are.
pub(super) fn due(
    ledger: &Ledger,
    live: &mut BTreeMap<RankKey, Live>,
    granted: Option<Duration>,
    now: Duration,
    effects: &mut Vec<Effect>,
) {
    let wishes: BTreeMap<RankKey, &DesiredRank> =
        ledger.wishes.iter().map(|wish| (key(wish), wish)).collect();
    let open = ledger
        .ranks
        .iter()
        .filter(|(_, record)| matches!(record, RankRecord::Launched { .. }));
    let mut starts = Vec::new();
    for (key, _) in open {
        let state = live.entry(key.clone()).or_default();
        match wishes.get(key).map(|wish| (&wish.wish, wish)) {
            Some((RankWish::Run(launch), wish)) => {
                state.stopped = None;
                if !state.running
                    && !state.launched
                    && let Some(granted) = granted
                {
                    state.launched = true;
                    starts.push(Effect::LaunchRank {
                        key: key.clone(),
                        job: wish.job.clone(),
                        launch: launch.clone(),
                        granted,
                    });
                }
            }
            Some((
                RankWish::Stop {
                    grace_milliseconds,
                    why,
                },
                _,
            )) => {
                stop(
                    key,
                    state,
                    Duration::from_millis(*grace_milliseconds),
                    why,
                    now,
                    effects,
                );
            }
            None => stop(
                key,
                state,
                UNLISTED_GRACE,
                "the server does not list it any more",
                now,
                effects,
            ),
        }
    }
    effects.append(&mut starts);
}

fn stop(
    key: &RankKey,
    state: &mut Live,
    grace: Duration,
    why: &str,
    now: Duration,
    effects: &mut Vec<Effect>,
) {
    if state
        .stopped
        .is_some_and(|(before, at)| before == grace && now < at + STOP_PERIOD)
    {
        return;
    }
    state.stopped = Some((grace, now));
    effects.push(Effect::StopRank {
        key: key.clone(),
        grace,
        why: why.to_owned(),
    });
}

/// When a stop has to be repeated.
pub(super) fn wake(live: &BTreeMap<RankKey, Live>) -> Option<Duration> {
    live.values()
        .filter_map(|live| live.stopped)
        .map(|(_, at)| at + STOP_PERIOD)
        .min()
}

/// Whether a rank waits for its start.
pub(super) fn waiting(ledger: &Ledger, live: &BTreeMap<RankKey, Live>) -> bool {
    ledger.wishes.iter().any(|wish| {
        let key = key(wish);
        matches!(wish.wish, RankWish::Run(_))
            && matches!(ledger.ranks.get(&key), Some(RankRecord::Launched { .. }))
            && live
                .get(&key)
                .is_none_or(|live| !live.running && !live.launched)
    })
}

/// Every rank that the server has to hear of.
pub(super) fn observed(ledger: &Ledger, live: &BTreeMap<RankKey, Live>) -> Vec<ObservedRank> {
    let state = |key: &RankKey, record: &RankRecord| match record {
        RankRecord::Launched { .. } if live.get(key).is_some_and(|live| live.running) => {
            Some(RankState::Running)
        }
        RankRecord::Launched { .. } => Some(RankState::Assigned),
        RankRecord::Ended {
            end, last_lines, ..
        } => Some(RankState::Ended {
            end: end.clone(),
            last_lines: last_lines.clone(),
        }),
        RankRecord::Archived { .. } => None,
    };
    let ranks = ledger
        .ranks
        .iter()
        .filter_map(|(key, record)| Some((key, state(key, record)?)));
    ranks
        .map(|(key, state)| ObservedRank {
            attempt: key.attempt.clone(),
            rank: key.rank,
            state,
        })
        .collect()
}

/// Takes what was seen of a rank into the records; says whether that changed them.
pub(super) fn see(
    ledger: &mut Ledger,
    live: &mut BTreeMap<RankKey, Live>,
    key: &RankKey,
    state: RankState,
    boot_id: &str,
) -> bool {
    let generation: Generation = ledger.generation;
    match (state, ledger.ranks.get(key)) {
        (RankState::Running, record) => {
            // What runs has not ended, whatever was written down: it will be stopped if nobody wants it.
            let known = matches!(record, Some(RankRecord::Launched { .. }));
            live.entry(key.clone()).or_default().running = true;
            if !known {
                ledger.ranks.insert(
                    key.clone(),
                    RankRecord::Launched {
                        boot_id: boot_id.to_owned(),
                    },
                );
            }
            !known
        }
        (RankState::Ended { end, last_lines }, Some(RankRecord::Launched { .. }) | None) => {
            live.remove(key);
            let last_lines = if end.success() {
                Vec::new()
            } else {
                last_lines
            };
            ledger.ranks.insert(
                key.clone(),
                RankRecord::Ended {
                    end,
                    last_lines,
                    generation,
                },
            );
            true
        }
        (RankState::Assigned | RankState::Ended { .. }, _) => false,
    }
}
