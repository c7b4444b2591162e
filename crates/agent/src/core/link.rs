//! What was sent on the present connection and what of it was acknowledged.
//!
//! A change is sent after a moment ([`GATHERING`]), and only when the last one was acknowledged: what happens meanwhile is sent
//! together, as the state that it led to. Without a change, a bare sync each interval says that the agent is there. An acknowledgement counts from the moment
//! that its sync was *sent*, so a slow network makes the lease shorter and never longer.

use std::collections::VecDeque;
use std::time::Duration;

use supernode_api::agent::Sync;
use supernode_types::Generation;
use supernode_types::agent::Observed;
use supernode_types::environment::ItemState;
use supernode_types::inventory::Inventory;

/// Before the server said how often it wants to hear.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// How long a change waits for the next one. A rank that starts, or ends as soon as it has started, is one message instead of three.
pub(super) const GATHERING: Duration = Duration::from_millis(10);
/// Without an acknowledgement for this many intervals, and the slack, the connection is given up.
const SILENT_INTERVALS: u32 = 3;
const SILENT_SLACK: Duration = Duration::from_secs(2);
/// The most syncs without an acknowledgement; a server that is this far behind needs no more of them.
const IN_FLIGHT: usize = 16;

#[derive(Debug)]
struct Flying {
    sequence: u64,
    sent_at: Duration,
    observed: Option<Observed>,
    stored_generation: Generation,
    inventory: Option<u64>,
}

/// The present connection, if there is one.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connected: bool,
    /// A desired state as new as the stored one was received on this connection.
    pub(super) confirmed: bool,
    /// The server knows less than was stored; it has to be told the truth instead of being asked for everything.
    pub(super) behind: bool,
    sequence: u64,
    interval: Duration,
    last_sent: Option<Duration>,
    /// Since when there is something to say that was not said.
    news_since: Option<Duration>,
    flying: VecDeque<Flying>,
    /// What was said last, and which desired state was stored then: the server believes what is said of an environment only from an
    /// agent that knows the newest wish, so the same has to be said again when that changes.
    acknowledged: Option<(Generation, Observed)>,
    acknowledged_inventory: Option<u64>,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            connected: false,
            confirmed: false,
            behind: false,
            sequence: 0,
            interval: FIRST_INTERVAL,
            last_sent: None,
            news_since: None,
            flying: VecDeque::new(),
            acknowledged: None,
            acknowledged_inventory: None,
        }
    }

    /// A new connection, on which nothing was said yet.
    pub(super) fn open(&mut self) {
        *self = Self {
            connected: true,
            interval: self.interval,
            ..Self::new()
        };
    }

    pub(super) fn close(&mut self) {
        *self = Self {
            interval: self.interval,
            ..Self::new()
        };
    }

    /// Takes an acknowledgement; answers when the acknowledged sync was sent, or nothing if it is none of this connection.
    pub(super) fn acknowledge(&mut self, sequence: u64, interval: Duration) -> Option<Duration> {
        let position = self
            .flying
            .iter()
            .position(|flying| flying.sequence == sequence)?;
        self.interval = interval.max(Duration::from_millis(10));
        // The server takes syncs in order, so an earlier one without an answer gets none any more; what it said was taken all the same.
        let mut sent_at = None;
        for flying in self.flying.drain(..=position) {
            if let Some(observed) = flying.observed {
                self.acknowledged = Some((flying.stored_generation, observed));
                self.acknowledged_inventory = flying.inventory.or(self.acknowledged_inventory);
            }
            sent_at = Some(flying.sent_at);
        }
        sent_at
    }

    /// Whether the server has heard this of the environment.
    pub(super) fn heard(&self, items: &[ItemState]) -> bool {
        self.acknowledged
            .as_ref()
            .is_some_and(|(_, observed)| observed.environment_items == items)
    }

    /// Whether the server has been silent for too long.
    pub(super) fn dead(&self, now: Duration) -> bool {
        self.patience().is_some_and(|until| now >= until)
    }

    fn patience(&self) -> Option<Duration> {
        Some(self.flying.front()?.sent_at + self.interval * SILENT_INTERVALS + SILENT_SLACK)
    }

    /// The next sync, if one is due. `observed` is what there is to say (nothing while it is not settled), `inventory` with its version.
    pub(super) fn next(
        &mut self,
        now: Duration,
        stored_generation: Generation,
        observed: Option<Observed>,
        inventory: Option<(u64, &Inventory)>,
    ) -> Option<Sync> {
        if !self.connected || self.flying.len() >= IN_FLIGHT {
            return None;
        }
        let waits = self.flying.iter().any(|flying| flying.observed.is_some());
        let inventory =
            inventory.filter(|(version, _)| self.acknowledged_inventory != Some(*version));
        let said = |observed: &Observed| {
            self.acknowledged
                .as_ref()
                .is_some_and(|(stored, said)| *stored == stored_generation && said == observed)
        };
        let news = observed.filter(|observed| !waits && (inventory.is_some() || !said(observed)));
        self.news_since = news.as_ref().and(self.news_since.or(Some(now)));
        let gathered = self.gathered().is_some_and(|at| now >= at);
        let news = news.filter(|_| gathered);
        if news.is_none()
            && self
                .last_sent
                .is_some_and(|last| now < last + self.interval)
        {
            return None;
        }
        self.sequence += 1;
        self.last_sent = Some(now);
        self.news_since = self.news_since.filter(|_| news.is_none());
        self.flying.push_back(Flying {
            sequence: self.sequence,
            sent_at: now,
            observed: news.clone(),
            stored_generation,
            inventory: inventory.map(|(version, _)| version),
        });
        let observed = news.map(|news| Observed {
            inventory: inventory.map(|(_, inventory)| inventory.clone()),
            ..news
        });
        Some(Sync {
            sequence: self.sequence,
            stored_generation,
            observed,
        })
    }

    /// When time alone makes something due.
    pub(super) fn wake(&self) -> Option<Duration> {
        if !self.connected {
            return None;
        }
        let heartbeat = self
            .last_sent
            .map_or(Duration::ZERO, |last| last + self.interval);
        let due = self.gathered().into_iter().chain([heartbeat]).min();
        let due = due.filter(|_| self.flying.len() < IN_FLIGHT);
        due.into_iter().chain(self.patience()).min()
    }

    /// When what there is to say is said. The first words on a connection do not wait.
    fn gathered(&self) -> Option<Duration> {
        let waits = self.last_sent.is_some();
        let since = self.news_since?;
        Some(if waits { since + GATHERING } else { since })
    }
}
