//! Rounds in which the ranks agree what becomes of a lost stream. `recovery` decides; this carries what it needs.
//!
//! Who knows of a lost stream stops its own streams and tells everybody how far it is; who hears that does the same. The infos of the
//! last two rounds are said again on every new control connection: a rank that has all of a round may be in the next one already, but not further,
//! because that takes an info of everybody.

use std::collections::VecDeque;
use std::time::Duration;

use super::connection::{ConnectionId, Record, Side};
use super::{End, Node, frame};
use crate::engine::Restart;
use crate::failure::Failure;
use crate::handshake::Channel;
use crate::node::Carrier;
use crate::operator::Rank;
use crate::recovery::{Repeated, RetryInfo, State, Verdict, decide};

/// Data connections have the round that began their streams above this bit of their number.
const ROUND: u32 = 32;

#[derive(Debug)]
pub(super) struct Negotiation {
    /// Rounds that are over.
    over: u64,
    /// The round that began the present streams.
    streams: u64,
    /// Since when the streams stand still.
    since: Option<Duration>,
    /// What was said in the present round, by rank, and what came early for the next.
    infos: [Vec<Option<RetryInfo>>; 2],
    /// What this rank said in its last two rounds, as messages.
    said: VecDeque<Vec<u8>>,
    repeated: Repeated,
}

impl Negotiation {
    pub(super) fn new(world: usize) -> Self {
        Self {
            over: 0,
            streams: 0,
            since: None,
            infos: [vec![None; world], vec![None; world]],
            said: VecDeque::new(),
            repeated: Repeated::default(),
        }
    }

    /// For a new control connection.
    pub(super) fn said(&self) -> Vec<u8> {
        self.said.iter().flatten().copied().collect()
    }

    /// Whether a data connection with this number carries the present streams.
    pub(super) const fn is_present(&self, number: u64) -> bool {
        number >> ROUND == self.streams
    }

    /// When the others have to have answered.
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Duration> {
        self.since.map(|since| since + timeout)
    }
}

impl Node {
    /// Where this rank is.
    pub fn state(&self) -> State {
        match (self.engine.failure(), self.negotiation.since) {
            (Some(_), _) => State::RetryFail,
            (None, Some(_)) => State::WaitCheckInfo,
            (None, None) => State::Running,
        }
    }

    /// A rank said how far it is. `false`: that cannot be.
    pub(super) fn informed(&mut self, rank: Rank, round: u64, info: RetryInfo) -> bool {
        let over = self.negotiation.over;
        if round <= over {
            return true;
        }
        let Some(infos) = usize::try_from(round - over - 1)
            .ok()
            .and_then(|ahead| self.negotiation.infos.get_mut(ahead))
        else {
            return false;
        };
        infos[rank] = Some(info);
        true
    }

    /// Does whatever can be done in the present round.
    pub(super) fn negotiate(&mut self) {
        while self.engine.failure().is_none() {
            let was_asked = self.negotiation.infos[0].iter().any(Option::is_some);
            if self.negotiation.since.is_none() {
                if self.engine.lost().is_none() && !was_asked {
                    return;
                }
                self.say_how_far();
            }
            let infos: Option<Vec<RetryInfo>> = self.negotiation.infos[0].iter().cloned().collect();
            let Some(infos) = infos else {
                return;
            };
            self.negotiation.over += 1;
            self.negotiation.since = None;
            self.negotiation.infos.swap(0, 1);
            self.negotiation.infos[1].fill(None);
            match decide(&infos) {
                Verdict::Fail(failure) => self.engine.fail(failure),
                Verdict::Resume(repeated) => {
                    self.negotiation.repeated = repeated;
                    self.close_data(|side| matches!(side, Side::Dialed { .. }));
                    self.engine.thaw();
                }
                Verdict::Repeat(repeated) => self.begin_again(repeated, &infos),
            }
        }
    }

    fn say_how_far(&mut self) {
        self.engine.freeze();
        let negotiation = &mut self.negotiation;
        let info = self
            .engine
            .retry_info(self.config.max_retries, negotiation.repeated);
        let mut message = Record::Retry(negotiation.over + 1).encode().to_vec();
        let body = info.encode();
        message.extend_from_slice(&body);
        message.extend_from_slice(&frame::checksum(&body).to_le_bytes());
        negotiation.since = Some(self.now);
        negotiation.infos[0][self.config.rank] = Some(info);
        if negotiation.said.len() == 2 {
            negotiation.said.pop_front();
        }
        negotiation.said.push_back(message.clone());
        self.write_to_all(&message);
    }

    fn begin_again(&mut self, repeated: Repeated, infos: &[RetryInfo]) {
        self.close_data(|_| true);
        self.statistics.reexecutions += 1;
        self.negotiation.repeated = repeated;
        self.negotiation.streams = self.negotiation.over;
        let mut restarts = Vec::with_capacity(infos.len());
        let own = self.config.rank;
        for (rank, info) in infos.iter().enumerate() {
            let first = self.negotiation.streams << ROUND;
            let peer = &mut self.peers[rank];
            peer.data.renumber(first);
            peer.incoming.newest = first;
            (peer.told, peer.tell_at) = (0, None);
            // What is in shared memory cannot be taken back; it is read and dropped.
            let skip = match self.config.routes[rank].carrier {
                Carrier::Connections => 0,
                Carrier::Driver => info.peers[own]
                    .sent
                    .saturating_sub(self.engine.received(rank)),
            };
            let open = info.peers[own].open;
            restarts.push(Restart { open, skip });
        }
        self.engine.repeat(repeated.operator, &restarts);
    }

    fn close_data(&mut self, is_meant: impl Fn(Side) -> bool) {
        let is_data = |side: Side| {
            matches!(
                side,
                Side::Dialed {
                    channel: Channel::Data,
                    ..
                } | Side::Accepted(Some((_, Channel::Data)))
            )
        };
        let connections = self.connections.iter();
        let meant = connections.filter(|(_, one)| is_data(one.side) && is_meant(one.side));
        let meant: Vec<ConnectionId> = meant.map(|(id, _)| *id).collect();
        for id in meant {
            self.give_up(id, End::Broken);
        }
    }

    /// Names who did not answer in time.
    pub(super) fn judge_negotiation(&mut self) {
        let after = self.config.timing.silent;
        let is_late = self
            .negotiation
            .deadline(after)
            .is_some_and(|deadline| deadline <= self.now);
        let missing = self.negotiation.infos[0].iter().position(Option::is_none);
        if let Some(rank) = missing.filter(|_| is_late) {
            self.stop(Failure::RetryTimeout { rank, after });
        }
    }

    /// On every control connection that is there.
    pub(super) fn write_to_all(&mut self, message: &[u8]) {
        for connection in self.connections.values_mut() {
            if connection.is_open() && matches!(connection.purpose(), Some((_, Channel::Control))) {
                connection.outbound.extend_from_slice(message);
            }
        }
    }
}

/// Takes a message body and its checksum apart, if they belong together.
pub(super) fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (body, code) = bytes.split_last_chunk::<4>()?;
    (frame::checksum(body) == u32::from_le_bytes(*code)).then_some(body)
}
