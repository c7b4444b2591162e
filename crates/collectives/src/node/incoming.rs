//! What arrives: handshakes, streams, acknowledgements, heartbeats and last words.

use std::mem;

use super::connection::{Connection, ConnectionId, LONGEST_TEXT, Phase, RECORD, Record, Side};
use super::frame::{self, AT_ONCE, Front, HEADER};
use super::negotiation::checked;
use super::{ACKNOWLEDGE_BYTES, Accepting, End, Node};
use crate::failure::Failure;
use crate::handshake::{
    Acceptor, Answer, CHALLENGE, Call, Channel, HELLO, PROOF, Refusal, WELCOME,
};
use crate::operator::Rank;
use crate::recovery::RetryInfo;

/// Acknowledgements that may wait to be written, in bytes.
const UNWRITTEN: usize = 8 * RECORD;

/// Damaged frames without a good one between them, on whatever lane, until nobody believes in chance any more.
const DAMAGED_IN_A_ROW: u64 = 10;

/// Bytes of the checksum behind a body.
const CHECKSUM: usize = 4;

/// What becomes of a connection after a message.
enum Next {
    /// Perhaps there is another message.
    More,
    /// Not before more bytes have arrived.
    Wait,
    /// It is of no use.
    Close,
}

impl Node {
    /// Bytes were read.
    pub fn bytes(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if let (true, Side::Accepted(Some((peer, Channel::Data)))) =
            (connection.is_open(), connection.side)
        {
            self.peers[peer].heard = self.now;
            self.stream_bytes(id, peer, bytes);
            self.settle();
            return;
        }
        connection.inbound.extend_from_slice(bytes);
        loop {
            match self.message(id) {
                Next::More => {}
                Next::Wait => break,
                Next::Close => {
                    self.give_up(id, End::Broken);
                    break;
                }
            }
        }
        self.settle();
    }

    /// How many bytes to read at once: up to the end of a frame, and at least half of [`AT_ONCE`].
    pub fn readable(&self, id: ConnectionId) -> usize {
        let begun = self.connections.get(&id).map_or(0, |connection| {
            connection.inbound.len().saturating_sub(connection.verified)
        });
        AT_ONCE - begun.min(AT_ONCE / 2)
    }

    /// Gives frames to the engine, the usual way straight from the driver's buffer. What it does not take yet, or is no whole frame, stays.
    fn stream_bytes(&mut self, id: ConnectionId, peer: Rank, mut bytes: &[u8]) {
        while let Some(connection) = self.connections.get_mut(&id) {
            let Connection {
                inbound, verified, ..
            } = connection;
            if *verified > 0 {
                let taken = self.engine.receive(peer, &inbound[..*verified]);
                inbound.drain(..taken);
                *verified -= taken;
                if *verified > 0 {
                    inbound.extend_from_slice(bytes);
                    break;
                }
            }
            let is_new = inbound.is_empty();
            match frame::front(if is_new { bytes } else { &inbound[..] }) {
                Front::Whole(len) => {
                    self.peers[peer].damaged = 0;
                    let whole = HEADER + len;
                    if is_new {
                        let taken = self.engine.receive(peer, &bytes[HEADER..whole]);
                        inbound.extend_from_slice(&bytes[HEADER + taken..whole]);
                        *verified = len - taken;
                        bytes = &bytes[whole..];
                    } else {
                        let taken = self.engine.receive(peer, &inbound[HEADER..whole]);
                        inbound.drain(..HEADER + taken);
                        *verified = len - taken;
                    }
                }
                Front::Missing(_) if bytes.is_empty() => break,
                Front::Missing(missing) => {
                    let missing = if is_new { bytes.len() } else { missing };
                    let (more, rest) = bytes.split_at(missing.min(bytes.len()));
                    inbound.extend_from_slice(more);
                    bytes = rest;
                }
                Front::Damaged => {
                    self.damaged(id, peer);
                    break;
                }
            }
        }
        self.consider_telling(peer);
    }

    /// The next connection goes on behind the last good frame. Where every path damages the same bytes again and again, the group ends.
    fn damaged(&mut self, id: ConnectionId, from: Rank) {
        self.statistics.damaged += 1;
        self.peers[from].damaged += 1;
        self.give_up(id, End::Broken);
        let times = self.peers[from].damaged;
        if times >= DAMAGED_IN_A_ROW {
            let to = self.config.rank;
            self.engine.fail(Failure::Damaged { from, to, times });
        }
    }

    /// Streams that waited for an operator may go on now.
    pub(super) fn offer_again(&mut self) {
        for peer in 0..self.world() {
            let Some(id) = self.peers[peer].incoming.connection else {
                continue;
            };
            if self
                .connections
                .get(&id)
                .is_some_and(|one| one.verified > 0)
            {
                self.stream_bytes(id, peer, &[]);
            }
        }
    }

    /// Acknowledges at once if there is much, a little later otherwise.
    fn consider_telling(&mut self, rank: Rank) {
        let missing = self
            .engine
            .received(rank)
            .saturating_sub(self.peers[rank].told);
        if missing >= ACKNOWLEDGE_BYTES {
            self.tell(rank);
        } else if missing > 0 && self.peers[rank].tell_at.is_none() {
            self.peers[rank].tell_at = Some(self.now + self.config.timing.acknowledge);
        }
    }

    pub(super) fn tell(&mut self, rank: Rank) {
        let received = self.engine.received(rank);
        let peer = &mut self.peers[rank];
        peer.tell_at = None;
        if received == peer.told {
            return;
        }
        let connection = peer
            .incoming
            .connection
            .and_then(|id| self.connections.get_mut(&id));
        if let Some(connection) = connection {
            if connection.outbound.len() > UNWRITTEN {
                // The dialer reads slowly. Counts add up, so a later one says it all.
                peer.tell_at = Some(self.now + self.config.timing.acknowledge);
                return;
            }
            connection
                .outbound
                .extend_from_slice(&Record::Acknowledge(received).encode());
            peer.told = received;
        }
    }

    fn message(&mut self, id: ConnectionId) -> Next {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Next::Wait;
        };
        match &mut connection.phase {
            Phase::Connecting | Phase::Refused => Next::Close,
            Phase::Expecting => match connection.take::<HELLO>() {
                Some(hello) => self.hello(id, &hello),
                None => Next::Wait,
            },
            Phase::Greeted(_) => match connection.take::<CHALLENGE>() {
                Some(challenge) => self.challenge(id, &challenge),
                None => Next::Wait,
            },
            Phase::Challenged(_) => match connection.take::<PROOF>() {
                Some(proof) => self.proof(id, &proof),
                None => Next::Wait,
            },
            Phase::Proven(_) => match connection.take::<WELCOME>() {
                Some(welcome) => self.welcome(id, &welcome),
                None => Next::Wait,
            },
            Phase::Open => self.record(id),
        }
    }

    fn hello(&mut self, id: ConnectionId, hello: &[u8; HELLO]) -> Next {
        let nonce = (self.nonces)();
        let rank = self.config.rank;
        let Some((result, answer)) = Acceptor::greeted(&self.config.secret, rank, hello, &nonce)
        else {
            self.statistics.strangers += 1;
            return Next::Close;
        };
        let phase = match result {
            Ok(acceptor) if !self.is_wanted(acceptor.call()) => {
                self.statistics.superseded += 1;
                return Next::Close;
            }
            Ok(acceptor) => Phase::Challenged(acceptor),
            Err(refusal) => {
                let is_other = matches!(refusal, Refusal::StaleEpoch | Refusal::NewerEpoch);
                self.statistics.other_epochs += u64::from(is_other);
                Phase::Refused
            }
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.outbound.extend_from_slice(&answer);
            connection.phase = phase;
        }
        Next::More
    }

    /// The channel that a call is for, if there is such a channel.
    fn accepting(&mut self, call: Call) -> Option<&mut Accepting> {
        let peer = self.peers.get_mut(call.from)?;
        match call.channel {
            Channel::Data => Some(&mut peer.incoming),
            Channel::Control => peer.incoming_control.get_mut(usize::from(call.lane)),
        }
    }

    /// It is newer than the one that is there, and carries the present streams.
    fn is_wanted(&mut self, call: Call) -> bool {
        let is_present =
            call.channel == Channel::Control || self.negotiation.is_present(call.number);
        self.accepting(call)
            .is_some_and(|accepting| is_present && call.number > accepting.newest)
    }

    fn challenge(&mut self, id: ConnectionId, challenge: &[u8; CHALLENGE]) -> Next {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Next::Wait;
        };
        let Phase::Greeted(mut dialer) = mem::replace(&mut connection.phase, Phase::Connecting)
        else {
            return Next::Close;
        };
        let purpose = connection.purpose();
        match dialer.challenged(&self.config.secret, challenge) {
            Answer::Proof(proof) => {
                connection.outbound.extend_from_slice(&proof);
                connection.phase = Phase::Proven(dialer);
                Next::More
            }
            Answer::Refused(Refusal::StaleEpoch) => {
                if let Some((peer, _)) = purpose {
                    self.engine.fail(Failure::Stale { peer });
                }
                Next::Close
            }
            Answer::Refused(_) | Answer::Forged => Next::Close,
        }
    }

    fn proof(&mut self, id: ConnectionId, proof: &[u8; PROOF]) -> Next {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Next::Wait;
        };
        let Phase::Challenged(acceptor) = mem::replace(&mut connection.phase, Phase::Open) else {
            return Next::Close;
        };
        let call = acceptor.call();
        if !acceptor.is_proof(&self.config.secret, proof) {
            self.statistics.strangers += 1;
            return Next::Close;
        }
        // Another connection may have proven itself since the hello, or new streams have begun.
        let is_wanted = self.is_wanted(call);
        let Some(accepting) = self.accepting(call).filter(|_| is_wanted) else {
            self.statistics.superseded += 1;
            return Next::Close;
        };
        accepting.newest = call.number;
        // The older connection goes first: whatever it still brings does not count any more.
        if let Some(older) = accepting.connection.replace(id) {
            self.give_up(older, End::Broken);
        }
        let received = self.engine.received(call.from);
        let peer = &mut self.peers[call.from];
        peer.heard = self.now;
        let offset = match call.channel {
            Channel::Data => {
                peer.tell_at = None;
                peer.told = received;
                received
            }
            Channel::Control => 0,
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.side = Side::Accepted(Some((call.from, call.channel)));
            connection.lane = usize::from(call.lane);
            let welcome = acceptor.welcome(&self.config.secret, offset);
            connection.outbound.extend_from_slice(&welcome);
            if call.channel == Channel::Control {
                connection.outbound.extend(self.negotiation.said());
                connection.outbound.extend_from_slice(&self.last_words);
            }
        }
        Next::More
    }

    fn welcome(&mut self, id: ConnectionId, welcome: &[u8; WELCOME]) -> Next {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Next::Wait;
        };
        let Side::Dialed { peer, channel } = connection.side else {
            return Next::Close;
        };
        let Phase::Proven(dialer) = &connection.phase else {
            return Next::Close;
        };
        let Some(offset) = dialer.welcomed(&self.config.secret, welcome) else {
            return Next::Close;
        };
        self.peers[peer].heard = self.now;
        self.opened(id, peer, channel, offset);
        Next::More
    }

    fn record(&mut self, id: ConnectionId) -> Next {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Next::Wait;
        };
        let Some((peer, channel)) = connection.purpose() else {
            return Next::Close;
        };
        let Some(bytes) = connection.inbound.first_chunk::<RECORD>() else {
            return Next::Wait;
        };
        let mut used = RECORD;
        let record = Record::decode(bytes);
        match (channel, record) {
            (Channel::Data, Some(Record::Acknowledge(offset))) => {
                self.engine.acknowledged(peer, offset);
            }
            (Channel::Control, Some(Record::Ping)) => {
                connection
                    .outbound
                    .extend_from_slice(&Record::Pong.encode());
            }
            (Channel::Control, Some(Record::Pong)) => connection.ping = None,
            (Channel::Control, Some(Record::Leave)) => self.left(peer),
            (Channel::Control, Some(Record::Stop(len))) => {
                let Some(len) = usize::try_from(len).ok().filter(|len| *len <= LONGEST_TEXT) else {
                    return Next::Close;
                };
                used += len + CHECKSUM;
                let Some(text) = connection.inbound.get(RECORD..used) else {
                    return Next::Wait;
                };
                let Some(text) = checked(text) else {
                    self.statistics.damaged += 1;
                    return Next::Close;
                };
                let why = String::from_utf8_lossy(text).into_owned();
                self.engine.fail(Failure::Told { by: peer, why });
            }
            (Channel::Control, Some(Record::Retry(round))) => {
                used += RetryInfo::len(self.peers.len()) + CHECKSUM;
                let Some(body) = connection.inbound.get(RECORD..used) else {
                    return Next::Wait;
                };
                let Some(body) = checked(body) else {
                    self.statistics.damaged += 1;
                    return Next::Close;
                };
                let info = RetryInfo::decode(body, self.peers.len());
                if !info.is_some_and(|info| self.informed(peer, round, info)) {
                    return Next::Close;
                }
            }
            (_, None) => {
                self.statistics.damaged += 1;
                return Next::Close;
            }
            _ => return Next::Close,
        }
        self.peers[peer].heard = self.now;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.inbound.drain(..used);
        }
        Next::More
    }

    /// It has all that it needs; what it did not acknowledge, it has nevertheless.
    fn left(&mut self, rank: Rank) {
        self.peers[rank].has_left = true;
        self.engine.forget(rank);
        if self.engine.needs(rank) && !self.has_stopped {
            self.engine.fail(Failure::RankLeft { rank });
        }
    }
}
