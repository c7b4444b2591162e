//! When to dial whom on which lane, and what follows from a connection that is over.
//!
//! A data channel dials at once when its connection breaks, prefers a lane whose control channel is open, and leaves the lane that just
//! failed if there is another. After that it pauses a little longer each time, but never longer than a small fraction of a second: a path
//! that returns is found at once, unlike with the growing timeouts of TCP.

use std::time::Duration;

use super::connection::{Connection, ConnectionId, Phase, Side};
use super::{Action, End, Node};
use crate::failure::Failure;
use crate::handshake::{Call, Channel, Dialer};
use crate::operator::Rank;

/// One channel that this rank dials.
#[derive(Debug)]
pub(super) struct Dialing {
    connection: Option<ConnectionId>,
    number: u64,
    dial_at: Duration,
    failures: u32,
    last: Option<Attempt>,
    /// Since when it is broken, after it was open.
    broken_since: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    lane: usize,
    was_refused: bool,
}

impl Dialing {
    pub(super) const fn new(now: Duration) -> Self {
        Self {
            connection: None,
            number: 0,
            dial_at: now,
            failures: 0,
            last: None,
            broken_since: None,
        }
    }

    /// Its next connections have higher numbers than this.
    pub(super) const fn renumber(&mut self, number: u64) {
        self.number = number;
    }

    pub(super) const fn connection(&self) -> Option<ConnectionId> {
        self.connection
    }

    /// When to dial, if there is no connection.
    pub(super) const fn due(&self) -> Option<Duration> {
        match self.connection {
            None => Some(self.dial_at),
            Some(_) => None,
        }
    }

    pub(super) fn was_refused(&self) -> bool {
        self.last.is_some_and(|last| last.was_refused)
    }
}

impl Node {
    pub(super) fn dial_where_needed(&mut self) {
        // A process of an older attempt has nobody to talk to.
        if matches!(self.engine.failure(), Some(Failure::Stale { .. })) {
            return;
        }
        for peer in 0..self.world() {
            if peer == self.config.rank || self.peers[peer].has_left {
                continue;
            }
            let now = self.now;
            let is_due = |dialing: &Dialing| dialing.due().is_some_and(|moment| moment <= now);
            for lane in 0..self.config.routes[peer].lanes {
                if is_due(&self.peers[peer].control[lane]) {
                    self.dial(peer, Channel::Control, lane);
                }
            }
            if self.wants_data_to(peer) && is_due(&self.peers[peer].data) {
                let lane = self.choose_lane(peer);
                self.dial(peer, Channel::Data, lane);
            }
        }
    }

    /// A lane with an open control channel rather than another, and another than the one that failed last.
    fn choose_lane(&self, peer: Rank) -> usize {
        let failed = self.peers[peer].data.last.map(|last| last.lane);
        let lanes = self.config.routes[peer].lanes;
        let is_open = |lane: &usize| {
            let control = self.peers[peer].control[*lane].connection;
            control.is_some_and(|id| self.connections.get(&id).is_some_and(Connection::is_open))
        };
        // After a failure the search begins behind the lane that failed, so that all of them get their turn.
        let first = failed.map_or(0, |lane| lane + 1);
        let mut order = (0..lanes).map(|offset| (first + offset) % lanes);
        order
            .clone()
            .find(is_open)
            .or_else(|| order.next())
            .unwrap_or(0)
    }

    fn dial(&mut self, peer: Rank, channel: Channel, lane: usize) {
        let id = self.connection_id();
        let dialing = self.dialing(peer, channel, lane);
        dialing.connection = Some(id);
        dialing.number += 1;
        let patience =
            self.config.timing.handshake * (1 << self.dialing(peer, channel, lane).failures.min(3));
        let side = Side::Dialed { peer, channel };
        let connection = Connection::new(side, lane, Phase::Connecting, self.now + patience);
        self.connections.insert(id, connection);
        self.actions.push_back(Action::Dial {
            connection: id,
            peer,
            lane,
        });
    }

    fn dialing(&mut self, peer: Rank, channel: Channel, lane: usize) -> &mut Dialing {
        match channel {
            Channel::Data => &mut self.peers[peer].data,
            Channel::Control => &mut self.peers[peer].control[lane],
        }
    }

    /// A connection that was dialed is there; the handshake begins.
    pub fn connected(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (Side::Dialed { peer, channel }, lane) = (connection.side, connection.lane) else {
            return;
        };
        let call = Call {
            channel,
            lane: u8::try_from(lane).expect("there are few lanes"),
            from: self.config.rank,
            to: peer,
            number: self.dialing(peer, channel, lane).number,
        };
        let nonce = (self.nonces)();
        let (dialer, hello) = Dialer::new(&self.config.secret, call, &nonce);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.outbound.extend_from_slice(&hello);
            connection.phase = Phase::Greeted(dialer);
        }
    }

    /// A connection that was dialed is open: its stream goes on at `offset`.
    pub(super) fn opened(&mut self, id: ConnectionId, peer: Rank, channel: Channel, offset: u64) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.phase = Phase::Open;
        connection.ping_at = now;
        if channel == Channel::Control {
            connection.outbound.extend(self.negotiation.said());
            connection.outbound.extend_from_slice(&self.last_words);
        }
        let lane = connection.lane;
        let dialing = self.dialing(peer, channel, lane);
        dialing.failures = 0;
        let before = dialing.last.replace(Attempt {
            lane,
            was_refused: false,
        });
        let broken_since = dialing.broken_since.take();
        if channel == Channel::Data {
            if let Some(since) = broken_since {
                let statistics = &mut self.statistics;
                statistics.resumed += 1;
                statistics.lane_switches += u64::from(before.is_some_and(|last| last.lane != lane));
                statistics.longest_recovery =
                    statistics.longest_recovery.max(now.saturating_sub(since));
            }
            self.statistics.resent_bytes += self.engine.resume(peer, offset);
            self.settle();
        }
    }

    /// Forgets a connection. What it had to carry goes over another one.
    pub(super) fn give_up(&mut self, id: ConnectionId, end: End) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        self.actions.push_back(Action::Close { connection: id });
        let lane = connection.lane;
        match connection.side {
            Side::Dialed { peer, channel } => {
                let (now, timing) = (self.now, self.config.timing);
                let dialing = self.dialing(peer, channel, lane);
                if dialing.connection != Some(id) {
                    return;
                }
                dialing.connection = None;
                dialing.last = Some(Attempt {
                    lane,
                    was_refused: end == End::Refused,
                });
                let pause = match dialing.failures {
                    0 => Duration::ZERO,
                    failures => (timing.shortest_pause * (1 << (failures - 1).min(8)))
                        .min(timing.longest_pause),
                };
                dialing.failures = dialing.failures.saturating_add(1);
                dialing.dial_at = now + pause;
                if connection.is_open() {
                    dialing.broken_since = Some(now);
                    self.statistics.broken += u64::from(channel == Channel::Data);
                }
            }
            Side::Accepted(Some((rank, channel))) => {
                let peer = &mut self.peers[rank];
                let accepting = match channel {
                    Channel::Data => &mut peer.incoming,
                    Channel::Control => &mut peer.incoming_control[lane],
                };
                if accepting.connection == Some(id) {
                    accepting.connection = None;
                    if channel == Channel::Data {
                        peer.tell_at = None;
                    }
                }
            }
            Side::Accepted(None) => {}
        }
    }
}
